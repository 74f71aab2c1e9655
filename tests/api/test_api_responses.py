"""Error responses through both clients: error classes, messages, Retry-After and redaction of keys."""

from __future__ import annotations

import http.client
import itertools
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from loopback import Loopback, cut, json_response, response, status_response

from airflow_wasabi_jobs.api import endpoints, exceptions, responses
from airflow_wasabi_jobs.api.models import Destination, Source, Submission

STATUS = endpoints.get_job_status("12345")
SUBMIT = endpoints.submit_job(
    Submission(
        name="a job",
        source=Source(bucket="media", object_key="a.mp4"),
        destination=Destination(bucket="results", region="us-east-1"),
        services={"ocr": ""},
    )
)
REDACTED = "***"


# Status codes and error bodies


@pytest.mark.parametrize(
    ("status_code", "error_class"),
    [
        (201, exceptions.InvalidResponseError),
        (202, exceptions.InvalidResponseError),
        (204, exceptions.InvalidResponseError),
        (206, exceptions.InvalidResponseError),
        (299, exceptions.InvalidResponseError),
        (300, exceptions.RedirectError),
        (301, exceptions.RedirectError),
        (304, exceptions.RedirectError),
        (308, exceptions.RedirectError),
        (399, exceptions.RedirectError),
        (400, exceptions.BadRequestError),
        (401, exceptions.AuthenticationError),
        (402, exceptions.ApiStatusError),
        (403, exceptions.PermissionDeniedError),
        (404, exceptions.NotFoundError),
        (405, exceptions.ApiStatusError),
        (407, exceptions.ApiStatusError),
        (408, exceptions.ServerError),
        (410, exceptions.ApiStatusError),
        (418, exceptions.ApiStatusError),
        (425, exceptions.ServerError),
        (429, exceptions.RateLimitError),
        (499, exceptions.ApiStatusError),
        (500, exceptions.ServerError),
        (501, exceptions.ServerError),
        (502, exceptions.ServerError),
        (503, exceptions.ServerError),
        (504, exceptions.ServerError),
        (599, exceptions.ServerError),
    ],
)
def test_status_code_maps_to_an_error_class(expect_error, status_code, error_class):
    with Loopback(response(status_code, Content_Length="" if status_code in {204, 304} else "0")) as server:
        error = expect_error(error_class, server)

    assert error.status_code == status_code
    assert error.is_transient is (status_code in {408, 425, 429} or status_code >= 500)
    assert (error.error_code, error.text, error.retry_after) == (None, None, None)
    phrase = http.client.responses.get(status_code, "")
    assert f" (connection 'wasabi_default'): {f'HTTP {status_code} {phrase}'.rstrip()}. " in str(error)


@pytest.mark.parametrize(
    ("body", "error_code", "text"),
    [
        ('{"Error": "Unauthorized", "ErrorCode": "UNAUTHORIZED"}', "UNAUTHORIZED", "Unauthorized"),
        ('{"ErrorCode": "NOT_FOUND"}', "NOT_FOUND", None),
        ('{"Error": "An unexpected error."}', None, "An unexpected error."),
        ('{"Error": null, "ErrorCode": ""}', None, None),
        ("{}", None, None),
        ("", None, None),
        (" \r\n", None, None),
        ("<html>\n  <h1>Bad Gateway</h1>\n</html>", None, "<html> <h1>Bad Gateway</h1> </html>"),
        ('{"Error": {"Message": "nested"}}', None, '{"Error": {"Message": "nested"}}'),
        ("[1, 2]", None, "[1, 2]"),
        (b"\xff\xfe", None, "\ufffd\ufffd"),
        (b'{"Error": "\xff"}', None, '{"Error": "\ufffd"}'),
        (10**5 * "[", None, 200 * "["),
        (json.dumps({"Error": 300 * "e", "ErrorCode": 300 * "C"}), 200 * "C", 200 * "e"),
        (300 * "x", None, 200 * "x"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize(
    ("status_code", "error_class"),
    [(401, exceptions.AuthenticationError), (500, exceptions.ServerError), (302, exceptions.RedirectError)],
)
def test_error_code_and_text_of_the_response(expect_error, status_code, error_class, body, error_code, text):
    with Loopback(response(status_code, body)) as server:
        error = expect_error(error_class, server)

    assert (error.status_code, error.error_code, error.text) == (status_code, error_code, text)
    assert f"HTTP {status_code} " in str(error)
    assert (error_code or "") in str(error) or (status_code, error_code) == (401, "UNAUTHORIZED")
    assert (repr(text) if text else "") in str(error) or (status_code, text) == (401, "Unauthorized")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"Error": "Unauthorized", "ErrorCode": "UNAUTHORIZED"}', "HTTP 401 Unauthorized. "),
        ('{"ErrorCode": "UNAUTHORIZED"}', "HTTP 401 Unauthorized. "),
        ('{"ErrorCode": "KEY_EXPIRED"}', "HTTP 401 Unauthorized (KEY_EXPIRED). "),
        ('{"Error": "The key has expired", "ErrorCode": "KEY_EXPIRED"}', "(KEY_EXPIRED: 'The key has expired'). "),
        ('{"Error": "The key has expired", "ErrorCode": "UNAUTHORIZED"}', "('The key has expired'). "),
        ("<html>", "HTTP 401 Unauthorized ('<html>'). "),
    ],
)
def test_message_shows_what_the_status_does_not_say(expect_error, body, expected):
    with Loopback(response(401, body)) as server:
        assert expected in str(expect_error(exceptions.AuthenticationError, server))


@pytest.mark.parametrize(
    "body",
    [
        '{"ErrorCode": "RequestRateLimitExceeded"}',
        '{"ErrorCode": "ThrottlingException", "Error": "Rate exceeded"}',
        '{"ErrorCode": "BAD_REQUEST", "Error": "Too many requests, please slow down."}',
        '{"Error": "rate limit reached"}',
        "<Error><Code>RequestRateLimitExceeded</Code></Error>",
        "<Error><Code>SlowDown</Code></Error>",
    ],
)
def test_400_that_reports_a_rate_limit_is_transient(expect_error, body):
    with Loopback(response(400, body, Retry_After="7")) as server:
        error = expect_error(exceptions.RateLimitError, server)

    assert error.is_transient
    assert (error.status_code, error.retry_after) == (400, 7.0)


@pytest.mark.parametrize("body", ['{"Error": "The rate is invalid"}', '{"ErrorCode": "LIMIT"}', "", "<html>"])
def test_other_400_is_permanent(expect_error, body):
    with Loopback(response(400, body)) as server:
        assert not expect_error(exceptions.BadRequestError, server).is_transient


@pytest.mark.parametrize(
    ("api_request", "expected_advice", "other_advice"),
    [
        (STATUS, "Check the job id", "completed"),
        (endpoints.get_job("12345"), "Check the job id", "completed"),
        (endpoints.get_job_errors("12345"), "Check the job id", "completed"),
        (
            endpoints.get_job_metadata("12345"),
            "A job has a result location only after it has completed. Check the job id",
            "the host",
        ),
        (endpoints.list_jobs(), "Check the host", "the job id"),
        (endpoints.list_job_summaries(), "Check the host", "the job id"),
        (SUBMIT, "Check the host", "the job id"),
    ],
)
def test_404_message_depends_on_the_endpoint(expect_error, api_request, expected_advice, other_advice):
    with Loopback(json_response({"ErrorCode": "NOT_FOUND"}, 404)) as server:
        error = expect_error(exceptions.NotFoundError, server, api_request)

    assert expected_advice in str(error)
    assert other_advice not in str(error)


@pytest.mark.parametrize(
    ("api_request", "expected_policy", "other_policy"),
    [
        (STATUS, "WasabiViewAiR", "WasabiManageAiR"),
        (endpoints.get_job("12345"), "WasabiViewAiR", "WasabiManageAiR"),
        (endpoints.get_job_errors("12345"), "WasabiViewAiR", "WasabiManageAiR"),
        (endpoints.get_job_metadata("12345"), "WasabiViewAiR", "WasabiManageAiR"),
        (endpoints.list_jobs(), "WasabiViewAiR", "WasabiManageAiR"),
        (SUBMIT, "WasabiManageAiR", "WasabiViewAiR"),
    ],
)
def test_403_message_names_the_required_policy(expect_error, api_request, expected_policy, other_policy):
    with Loopback(response(403)) as server:
        error = expect_error(exceptions.PermissionDeniedError, server, api_request)

    assert expected_policy in str(error)
    assert other_policy not in str(error)


@pytest.mark.parametrize(
    ("status_code", "error_class", "expected_advice"),
    [
        (
            401,
            exceptions.AuthenticationError,
            "Check the access key (login) and secret key (password) of the connection.",
        ),
        (407, exceptions.ApiStatusError, "'proxy' in the connection's extra"),
        (429, exceptions.RateLimitError, "poke_interval"),
        (301, exceptions.RedirectError, "not followed"),
    ],
)
def test_message_says_what_to_do(expect_error, status_code, error_class, expected_advice):
    with Loopback(response(status_code)) as server:
        assert expected_advice in str(expect_error(error_class, server))


# Invalid responses


def test_invalid_response_shows_the_first_200_characters(expect_error):
    with Loopback(response(200, "<html>\n  <body>\n" + 300 * "x")) as server:
        error = expect_error(exceptions.InvalidResponseError, server)

    assert error.text == "<html> <body> " + 186 * "x"
    assert error.text in str(error)
    assert 187 * "x" not in str(error)


# Retry-After


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("-1e999", 0.0),
        ("999999999999999", 1e9),
        ("1e999", 1e9),
        ("inf", 1e9),
        ("Infinity", 1e9),
        ("nan", None),
        ("soon", None),
        ("12 seconds", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +9999", None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", None),
    ],
)
@pytest.mark.parametrize(
    ("status_code", "error_class"), [(429, exceptions.RateLimitError), (503, exceptions.ServerError)]
)
def test_retry_after(expect_error, status_code, error_class, value, expected):
    with Loopback(response(status_code, Retry_After=value)) as server:
        error = expect_error(error_class, server)

    assert error.retry_after == expected
    assert json.dumps(exceptions.serialize_error(error), allow_nan=False)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_retry_after_as_a_date(expect_error, zone):
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True).replace("GMT", zone)
    with Loopback(response(503, Retry_After=date)) as server:
        assert expect_error(exceptions.ServerError, server).retry_after == pytest.approx(600, abs=30)


# Redaction of keys


def spellings(key):
    return [key, key.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D"), key.replace("/", "\\/")]


ECHOES = {
    "Error": lambda key: json_response({"Error": f"No such key: {key}", "ErrorCode": "UNAUTHORIZED"}, 401),
    "ErrorCode": lambda key: json_response({"ErrorCode": f"NO_{key}"}, 401),
    "truncated key": lambda key: json_response({"Error": 190 * "x" + key, "ErrorCode": 190 * "x" + key}, 401),
    "HTML": lambda key: response(401, f"<html>No such key: {key}</html>"),
    "truncated HTML": lambda key: response(401, 190 * "x" + key),
    "invalid status": lambda key: json_response({"Status": f"{key}"}),
    "other id": lambda key: json_response({"Status": "completed", "Id": key}),
    "other structure": lambda key: json_response({"Status": [key], key: key}),
    "not JSON": lambda key: response(200, f"{key}: 1"),
    "truncated text": lambda key: response(200, 190 * "x" + key),
    "redirect": lambda key: response(302, key, Location=f"http://127.0.0.1/{key}"),
    "not HTTP": lambda key: cut(f"{key} {key}\r\n\r\n".encode()),
    "invalid status line": lambda key: cut(f"HTTP/1.1 2x0 {key}\r\n\r\n".encode()),
    "invalid header": lambda key: cut(f"HTTP/1.1 200 OK\r\n{key}\r\n\r\n".encode()),
    "invalid content length": lambda key: cut(f"HTTP/1.1 200 OK\r\nContent-Length: {key}\r\n\r\n".encode()),
    "invalid chunk": lambda key: cut(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n".encode()),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("spelling", range(3), ids=["plain", "percent-encoded", "slash escaped"])
@pytest.mark.parametrize("endpoint", ["status", "submit"])
def test_echoed_key_is_redacted(send_to, everything_shown, keys, source_keys, submit_request, echo, spelling, endpoint):
    api_request, secrets = (submit_request, (*keys, *source_keys)) if endpoint == "submit" else (STATUS, keys)
    for key in secrets:
        with Loopback(echo(spellings(key)[spelling])) as server, pytest.raises(exceptions.WasabiApiError) as caught:
            send_to(server, api_request)

        shown = everything_shown(caught.value)
        for spelled_key in spellings(key):
            assert spelled_key[:9] not in shown


def test_text_around_a_redacted_key_is_kept(expect_error, keys):
    with Loopback(json_response({"Error": f"No such key: {keys[0]}!"}, 401)) as server:
        assert expect_error(exceptions.AuthenticationError, server).text == f"No such key: {REDACTED}!"


def chain_causes(*links):
    for outer, inner in itertools.pairwise(links):
        outer.__cause__ = inner
    return links[0]


def test_cause_without_a_key_is_kept(settings):
    cause = chain_causes(ValueError("outer"), ValueError("inner"))
    assert responses.redact_cause(settings("https://air.example.com"), STATUS, cause) is cause
    assert cause.__cause__.args == ("inner",)


def test_cause_may_be_none(settings):
    assert responses.redact_cause(settings("https://air.example.com"), STATUS, None) is None


@pytest.mark.parametrize("quoted_in", ["str", "repr"])
def test_cause_with_a_key_is_dropped(settings, keys, quoted_in):
    class ErrorWithKey(ValueError):
        def __str__(self):
            return keys[1] if quoted_in == "str" else "…"

        def __repr__(self):
            return keys[1] if quoted_in == "repr" else "…"

    client_settings, inner = settings("https://air.example.com"), ValueError("inner")

    assert responses.redact_cause(client_settings, STATUS, ErrorWithKey()) is None
    assert responses.redact_cause(client_settings, STATUS, chain_causes(ErrorWithKey(), inner)) is inner
    assert (
        responses.redact_cause(client_settings, STATUS, chain_causes(ValueError("outer"), ErrorWithKey(), inner))
        is inner
    )
    assert (
        responses.redact_cause(
            client_settings, STATUS, chain_causes(ValueError("outer"), ValueError("middle"), ErrorWithKey())
        )
        is None
    )


def test_context_with_a_key_is_dropped(settings, keys):
    outer = ValueError("outer")
    outer.__context__ = ValueError(keys[0])
    assert responses.redact_cause(settings("https://air.example.com"), STATUS, outer) is None


def test_cause_of_an_invalid_response_is_kept(expect_error):
    with Loopback(status_response("unheard-of")) as server:
        assert isinstance(expect_error(exceptions.InvalidResponseError, server).__cause__, ValueError)
