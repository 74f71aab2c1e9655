"""What an answer means beyond what was asked, through both clients: a refusal, and what is shown of an answer."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from loopback import Loopback, answer, cut, json_answer, report

from airflow_wasabi_jobs.api import answers, calls, errors
from airflow_wasabi_jobs.api.models import Destination, Source, Submission

STATUS = calls.job_status("12345")
SUBMIT = calls.submit_job(
    Submission(
        name="a job",
        source=Source(bucket="media", object_key="a.mp4"),
        destination=Destination(bucket="results", region="us-east-1"),
        services={"ocr": ""},
    )
)
HIDDEN = "***"


# How a refusal is read


@pytest.mark.parametrize(
    ("status_code", "kind"),
    [
        (201, errors.UnexpectedAnswer),
        (202, errors.UnexpectedAnswer),
        (204, errors.UnexpectedAnswer),
        (206, errors.UnexpectedAnswer),
        (299, errors.UnexpectedAnswer),
        (300, errors.Redirected),
        (301, errors.Redirected),
        (304, errors.Redirected),
        (308, errors.Redirected),
        (399, errors.Redirected),
        (400, errors.Refusal),
        (401, errors.Unauthorized),
        (402, errors.Refusal),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (405, errors.Refusal),
        (407, errors.Refusal),
        (408, errors.ServerTrouble),
        (410, errors.Refusal),
        (418, errors.Refusal),
        (425, errors.ServerTrouble),
        (429, errors.TooManyRequests),
        (499, errors.Refusal),
        (500, errors.ServerTrouble),
        (501, errors.ServerTrouble),
        (502, errors.ServerTrouble),
        (503, errors.ServerTrouble),
        (504, errors.ServerTrouble),
        (599, errors.ServerTrouble),
    ],
)
def test_a_status_code_has_a_meaning(refused, status_code, kind):
    with Loopback(answer(status_code, Content_Length="" if status_code in {204, 304} else "0")) as server:
        error = refused(kind, server)

    assert error.status_code == status_code
    assert error.is_passing is (status_code in {408, 425, 429} or status_code >= 500)
    assert (error.error_code, error.text, error.retry_after) == (None, None, None)
    assert f"the answer is {status_code}. " in str(error)
    assert server.url in str(error)


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
    ("status_code", "kind"), [(401, errors.Unauthorized), (500, errors.ServerTrouble), (302, errors.Redirected)]
)
def test_a_refusal_says_why(refused, status_code, kind, body, error_code, text):
    with Loopback(answer(status_code, body)) as server:
        error = refused(kind, server)

    assert (error.status_code, error.error_code, error.text) == (status_code, error_code, text)
    said = [str(status_code), error_code, text and repr(text)]
    assert "the answer is " + " ".join(filter(None, said)) + ". " in str(error)


@pytest.mark.parametrize(
    ("call", "advice", "other_advice"),
    [
        (STATUS, "Check the job id", "completed"),
        (calls.job("12345"), "Check the job id", "completed"),
        (calls.job_errors("12345"), "Check the job id", "completed"),
        (
            calls.job_metadata("12345"),
            "It is known once the job is completed; a job that failed has none. Check the job id",
            "the host",
        ),
        (calls.list_jobs(), "check the host", "the job id"),
        (calls.list_states(), "check the host", "the job id"),
        (SUBMIT, "check the host", "the job id"),
    ],
)
def test_what_is_missing_depends_on_what_was_asked(refused, call, advice, other_advice):
    with Loopback(json_answer({"ErrorCode": "NOT_FOUND"}, 404)) as server:
        error = refused(errors.NotFound, server, call)

    assert advice in str(error)
    assert other_advice not in str(error)


@pytest.mark.parametrize(
    ("call", "policy", "other_policy"),
    [
        (STATUS, "WasabiViewAiR", "WasabiManageAiR"),
        (calls.job("12345"), "WasabiViewAiR", "WasabiManageAiR"),
        (calls.job_errors("12345"), "WasabiViewAiR", "WasabiManageAiR"),
        (calls.job_metadata("12345"), "WasabiViewAiR", "WasabiManageAiR"),
        (calls.list_jobs(), "WasabiViewAiR", "WasabiManageAiR"),
        (SUBMIT, "WasabiManageAiR", "WasabiViewAiR"),
    ],
)
def test_what_the_keys_are_not_allowed_to_do_names_the_policy_for_it(refused, call, policy, other_policy):
    with Loopback(answer(403)) as server:
        error = refused(errors.Forbidden, server, call)

    assert policy in str(error)
    assert other_policy not in str(error)


@pytest.mark.parametrize(
    ("status_code", "kind", "advice"),
    [
        (401, errors.Unauthorized, "access key (login) and the secret key (password)"),
        (407, errors.Refusal, "'proxy' in the connection's extra"),
        (429, errors.TooManyRequests, "poke_interval"),
        (301, errors.Redirected, "not followed"),
    ],
)
def test_a_refusal_says_what_to_do(refused, status_code, kind, advice):
    with Loopback(answer(status_code)) as server:
        assert advice in str(refused(kind, server))


# What is shown of an answer that was not promised


def test_an_answer_that_was_not_promised_shows_how_it_begins(refused):
    with Loopback(answer(200, "<html>\n  <body>\n" + 300 * "x")) as server:
        error = refused(errors.UnexpectedAnswer, server)

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
@pytest.mark.parametrize(("status_code", "kind"), [(429, errors.TooManyRequests), (503, errors.ServerTrouble)])
def test_when_to_come_back(refused, status_code, kind, value, expected):
    with Loopback(answer(status_code, Retry_After=value)) as server:
        error = refused(kind, server)

    assert error.retry_after == expected
    assert json.dumps(errors.to_event(error), allow_nan=False)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_when_to_come_back_as_a_date(refused, zone):
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True).replace("GMT", zone)
    with Loopback(answer(503, Retry_After=date)) as server:
        assert refused(errors.ServerTrouble, server).retry_after == pytest.approx(600, abs=30)


# Keys that come back


def spellings(key):
    return [key, key.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D"), key.replace("/", "\\/")]


ECHOES = {
    "Error": lambda key: json_answer({"Error": f"No such key: {key}", "ErrorCode": "UNAUTHORIZED"}, 401),
    "ErrorCode": lambda key: json_answer({"ErrorCode": f"NO_{key}"}, 401),
    "a key that is cut": lambda key: json_answer({"Error": 190 * "x" + key, "ErrorCode": 190 * "x" + key}, 401),
    "HTML": lambda key: answer(401, f"<html>No such key: {key}</html>"),
    "HTML that is cut": lambda key: answer(401, 190 * "x" + key),
    "another status": lambda key: json_answer({"Status": f"{key}"}),
    "another id": lambda key: json_answer({"Status": "completed", "Id": key}),
    "another shape": lambda key: json_answer({"Status": [key], key: key}),
    "no JSON": lambda key: answer(200, f"{key}: 1"),
    "no JSON that is cut": lambda key: answer(200, 190 * "x" + key),
    "a redirect": lambda key: answer(302, key, Location=f"http://127.0.0.1/{key}"),
    "no HTTP": lambda key: cut(f"{key} {key}\r\n\r\n".encode()),
    "no HTTP version": lambda key: cut(f"HTTP/1.1 2x0 {key}\r\n\r\n".encode()),
    "no header": lambda key: cut(f"HTTP/1.1 200 OK\r\n{key}\r\n\r\n".encode()),
    "no length": lambda key: cut(f"HTTP/1.1 200 OK\r\nContent-Length: {key}\r\n\r\n".encode()),
    "no chunk": lambda key: cut(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n".encode()),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("spelling", range(3), ids=["plain", "percent-encoded", "slash escaped"])
@pytest.mark.parametrize("asked", ["status", "submit"])
def test_a_key_that_the_server_sends_back_is_not_shown(ask, all_said, keys, source_keys, submit, echo, spelling, asked):
    call, secrets = (submit, (*keys, *source_keys)) if asked == "submit" else (STATUS, keys)
    for key in secrets:
        with Loopback(echo(spellings(key)[spelling])) as server, pytest.raises(errors.AirError) as caught:
            ask(server, call)

        said = all_said(caught.value)
        for spelled in spellings(key):
            assert spelled[:9] not in said


def test_the_rest_of_what_the_server_said_is_shown(refused, keys):
    with Loopback(json_answer({"Error": f"No such key: {keys[0]}!"}, 401)) as server:
        assert refused(errors.Unauthorized, server).text == f"No such key: {HIDDEN}!"


def chain(*links):
    for outer, inner in itertools.pairwise(links):
        outer.__cause__ = inner
    return links[0]


def test_a_cause_that_quotes_no_key_is_kept(settings):
    cause = chain(ValueError("outer"), ValueError("inner"))
    assert answers.clean(settings("https://air.example.com"), STATUS, cause) is cause
    assert cause.__cause__.args == ("inner",)


def test_there_may_be_no_cause(settings):
    assert answers.clean(settings("https://air.example.com"), STATUS, None) is None


@pytest.mark.parametrize("of", ["str", "repr"])
def test_a_cause_that_quotes_a_key_is_left_out(settings, keys, of):
    class Quotes(ValueError):
        def __str__(self):
            return keys[1] if of == "str" else "…"

        def __repr__(self):
            return keys[1] if of == "repr" else "…"

    some, inner = settings("https://air.example.com"), ValueError("inner")

    assert answers.clean(some, STATUS, Quotes()) is None
    assert answers.clean(some, STATUS, chain(Quotes(), inner)) is inner
    assert answers.clean(some, STATUS, chain(ValueError("outer"), Quotes(), inner)) is inner
    assert answers.clean(some, STATUS, chain(ValueError("outer"), ValueError("middle"), Quotes())) is None


def test_a_context_that_quotes_a_key_is_left_out(settings, keys):
    outer = ValueError("outer")
    outer.__context__ = ValueError(keys[0])
    assert answers.clean(settings("https://air.example.com"), STATUS, outer) is None


def test_the_cause_is_there_to_look_at(refused):
    with Loopback(report("unheard-of")) as server:
        assert isinstance(refused(errors.UnexpectedAnswer, server).__cause__, ValueError)
