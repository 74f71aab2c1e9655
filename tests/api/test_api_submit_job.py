"""The submit_job endpoint: each job is submitted only once, and the keys of the source are never shown."""

from __future__ import annotations

import json
import socket
import struct
from collections import OrderedDict
from enum import IntEnum, StrEnum

import pytest
from loopback import Loopback, cut, hang, json_response, reset, response, status_response
from rich.pretty import pretty_repr

from airflow_wasabi_jobs.api import endpoints, exceptions
from airflow_wasabi_jobs.api.models import Destination, Job, JobStatus, Source

STATUS = endpoints.get_job_status("12345")
SUBMITTED_RESPONSE = json_response({"Job": {"Id": "12345", "Status": "submitted"}})
JOB = Job(job_id="12345", status=JobStatus.SUBMITTED)
BODY_START = SUBMITTED_RESPONSE.index(b"{")


class StrSubclass(str):
    __slots__ = ()


class WordEnum(StrEnum):
    WORD = "word"


class NumberEnum(IntEnum):
    THREE = 3


# Request body


def test_all_fields(send_to, submission, keys, source_keys):
    api_request = endpoints.submit_job(
        submission(
            name='Größe "1"\\2',
            source=Source(bucket="media", object_key="a b/ü.mp4", region="eu-1", endpoint="https://s3.example.com"),
            destination=Destination(bucket="results", region="us-east-1"),
            services={"ocr": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
            priority=10,
            batch="a batch",
        )
    )
    with Loopback(SUBMITTED_RESPONSE) as server:
        assert send_to(server, api_request) == JOB

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/jobs")
    assert (request.headers["x-amz-access-key"], request.headers["x-amz-secret-key"]) == keys
    assert json.loads(request.body) == {
        "Name": 'Größe "1"\\2',
        "Services": {"ocr": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
        "Source": {
            "Bucket": "media",
            "ObjectKey": "a b/ü.mp4",
            "Region": "eu-1",
            "Endpoint": "https://s3.example.com",
            "AccessKey": source_keys[0],
            "SecretKey": source_keys[1],
        },
        "Destination": {"Bucket": "results", "Region": "us-east-1"},
        "Priority": 10,
        "Batch": "a batch",
    }


def test_omitted_fields_are_not_sent(send_to, submission):
    with Loopback(SUBMITTED_RESPONSE) as server:
        send_to(server, endpoints.submit_job(submission(source_access_key=None, source_secret_key=None)))

    assert json.loads(server.requests[0].body) == {
        "Name": "a job",
        "Services": {"ocr": ""},
        "Source": {"Bucket": "media", "ObjectKey": "a.mp4"},
        "Destination": {"Bucket": "results", "Region": "us-east-1"},
        "Priority": 5,
    }


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"name": StrSubclass("text")}, {"Name": "text"}),
        ({"name": WordEnum.WORD}, {"Name": "word"}),
        ({"batch": StrSubclass("text")}, {"Batch": "text"}),
        ({"priority": NumberEnum.THREE}, {"Priority": 3}),
        ({"source": Source(bucket=StrSubclass("b"), object_key="o")}, {"Source": {"Bucket": "b", "ObjectKey": "o"}}),
    ],
    ids=["str subclass", "str enum", "batch", "int enum", "bucket"],
)
def test_subclasses_of_str_and_int_are_accepted(send_to, submission, fields, sent):
    api_request = endpoints.submit_job(submission(**fields, source_access_key=None, source_secret_key=None))
    with Loopback(SUBMITTED_RESPONSE) as server:
        assert send_to(server, api_request) == JOB

    body = json.loads(server.requests[0].body)
    assert {name: body[name] for name in sent} == sent


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({}, {}),
        ({"unset": None, "on": True, "few": 0.5}, {"unset": None, "on": True, "few": 0.5}),
        ({1: "a", None: "b", False: "c", 0.5: "d"}, {"1": "a", "null": "b", "false": "c", "0.5": "d"}),
        ({"most": 10**30}, {"most": 10**30}),
        ({"pair": (1, [2, (3,)])}, {"pair": [1, [2, [3]]]}),
        (OrderedDict(first=StrSubclass("1"), then=WordEnum.WORD), {"first": "1", "then": "word"}),
        ({"ü": "日本\N{EM DASH}😀"}, {"ü": "日本\N{EM DASH}😀"}),
        ({"half": "\ud83d"}, {"half": "\ud83d"}),
    ],
    ids=["empty", "scalars", "keys", "large number", "tuples", "subclasses", "unicode", "lone surrogate"],
)
def test_service_config_may_be_any_json(send_to, submission, config, sent):
    with Loopback(SUBMITTED_RESPONSE) as server:
        assert send_to(server, endpoints.submit_job(submission(services={"logo": {"config": config}}))) == JOB

    assert json.loads(server.requests[0].body)["Services"] == {"logo": {"config": sent}}


# Submitted only once


def reset_connection(connection):
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_in_the_body(connection):
    while b"\r\n\r\n" not in connection.sock.recv(65536):
        pass
    reset_connection(connection)


TRANSIENT_FAULTS = {
    "408": response(408),
    "425": response(425),
    "429": response(429),
    "429 with Retry-After": response(429, Retry_After="0"),
    "500": json_response({"Error": "An unexpected error.", "ErrorCode": "INTERNAL_ERROR"}, 500),
    "502": response(502, "<html>"),
    "503": response(503),
    "503 with Retry-After": response(503, Retry_After="0"),
    "closed": cut(),
    "reset": reset(),
    "closed in the headers": cut(SUBMITTED_RESPONSE[: BODY_START - 6]),
    "closed before the body": cut(SUBMITTED_RESPONSE[:BODY_START]),
    "closed in the body": cut(SUBMITTED_RESPONSE[:-1]),
    "reset in the body": reset(SUBMITTED_RESPONSE[:-1]),
    "silent": hang(),
    "silent in the body": hang(SUBMITTED_RESPONSE[:-1]),
}


@pytest.mark.parametrize("script", TRANSIENT_FAULTS.values(), ids=TRANSIENT_FAULTS)
def test_submit_is_not_retried_after_a_transient_error(send_to, submit_request, script):
    with Loopback(script, SUBMITTED_RESPONSE) as server, pytest.raises(exceptions.WasabiApiError) as caught:
        send_to(server, submit_request, retries=3, read_timeout=0.5)

    assert caught.value.is_transient
    assert str(caught.value).startswith("Submitting job 'a job' failed (connection 'wasabi_default'): ")
    assert len(server.requests) == 1
    assert server.connections == 1


@pytest.mark.parametrize("script", [reset(), cut(), reset_in_the_body], ids=["reset", "closed", "reset in the body"])
def test_submit_is_not_retried_if_the_server_did_not_read_the_body(send_to, submission, script):
    api_request = endpoints.submit_job(submission(services={"logo": {"config": {"much": 8_000_000 * "x"}}}))
    with (
        Loopback(script, SUBMITTED_RESPONSE, respond_on_connect=True) as server,
        pytest.raises(exceptions.ApiConnectionError),
    ):
        send_to(server, api_request, retries=3)

    assert server.connections == 1


@pytest.mark.parametrize("script", [reset(), cut()], ids=["reset", "closed"])
def test_submit_is_not_retried_on_a_reused_connection(send, settings, submit_request, script):
    with (
        Loopback(status_response("completed"), script, SUBMITTED_RESPONSE) as server,
        pytest.raises(exceptions.ApiConnectionError),
    ):
        send(settings(server, retries=3), STATUS, submit_request)

    assert [request.method for request in server.requests] == ["GET", "POST"]


@pytest.mark.parametrize("status_code", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["other", "same"])
def test_submit_does_not_follow_redirects(expect_error, submit_request, status_code, location):
    with Loopback(SUBMITTED_RESPONSE) as other_server:
        redirect_url = f"{other_server.url}/jobs" if location == "other" else "/elsewhere"
        with Loopback(response(status_code, Location=redirect_url), SUBMITTED_RESPONSE) as server:
            assert not expect_error(exceptions.RedirectError, server, submit_request, retries=3).is_transient

    assert len(server.requests) == 1
    assert other_server.connections == 0


@pytest.mark.parametrize(
    ("script", "error_class"),
    [
        (response(400), exceptions.BadRequestError),
        (response(401), exceptions.AuthenticationError),
        (response(403), exceptions.PermissionDeniedError),
        (response(201, "{}"), exceptions.InvalidResponseError),
        (response(200, "<html>"), exceptions.InvalidResponseError),
        (json_response({"Job": {"Id": "12345"}}), exceptions.InvalidResponseError),
    ],
)
def test_submit_is_not_retried_after_a_permanent_error(expect_error, submit_request, script, error_class):
    with Loopback(script, SUBMITTED_RESPONSE) as server:
        assert not expect_error(error_class, server, submit_request, retries=3).is_transient

    assert len(server.requests) == 1


def test_get_is_still_retried_by_the_same_client(send, settings, submit_request):
    with Loopback(SUBMITTED_RESPONSE, response(503, Retry_After="0"), status_response("completed")) as server:
        send(settings(server, retries=1), submit_request, STATUS)

    assert [request.method for request in server.requests] == ["POST", "GET", "GET"]


# Redaction of keys


@pytest.mark.parametrize("show", [repr, str, pretty_repr, "{}".format, "{!r}".format])
def test_repr_does_not_show_source_keys(submission, submit_request, source_keys, show):
    for value, shown in ((submission(), "a job"), (submit_request, "POST")):
        texts = show(value), show([value])
        assert shown in texts[0]
        assert not any(key in text for key in source_keys for text in texts)


@pytest.mark.parametrize("script", TRANSIENT_FAULTS.values(), ids=TRANSIENT_FAULTS)
def test_errors_do_not_show_source_keys(send_to, submit_request, everything_shown, source_keys, script):
    with Loopback(script) as server, pytest.raises(exceptions.WasabiApiError) as caught:
        send_to(server, submit_request, read_timeout=0.3)

    shown = everything_shown(caught.value)
    assert not any(key in shown for key in source_keys)


SPELLINGS = {
    "plain": str,
    "as JSON": lambda key: json.dumps(key)[1:-1],
    "as JSON with slashes escaped": lambda key: key.replace("/", "\\/"),
    "as JSON in ASCII letters": lambda key: "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in key),
    "in a URL": lambda key: "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in key),
    "in a URL in lower case": lambda key: "".join(c if c.isalnum() else f"%{ord(c):02x}" for c in key),
    "in HTML": lambda key: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in key),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("status_code", [200, 302, 400, 401, 500])
def test_echoed_source_keys_are_redacted(send_to, submission, everything_shown, spell, status_code):
    secrets = ("ACCESS&KEY/'0123'+", 'secret"key\\with<all>/of=them+')
    api_request = endpoints.submit_job(submission(source_access_key=secrets[0], source_secret_key=secrets[1]))
    for key in secrets:
        echo = f"{180 * 'x'} {spell(key)} and {spell(key)}"
        with Loopback(response(status_code, echo)) as server, pytest.raises(exceptions.WasabiApiError) as caught:
            send_to(server, api_request)

        assert caught.value.text == f"{180 * 'x'} *** and ***"
        shown = everything_shown(caught.value)
        assert key not in shown
        assert spell(key)[:8] not in shown


def test_echoed_request_is_redacted(send_to, submit_request, everything_shown, keys, source_keys):
    def echo(connection):
        return response(400, connection.request.body + b"\n" + connection.request.raw.partition(b"\r\n\r\n")[0])

    with Loopback(echo) as server, pytest.raises(exceptions.ApiStatusError) as caught:
        send_to(server, submit_request)

    shown = everything_shown(caught.value)
    assert "***" in shown
    assert not any(key in shown for key in (*keys, *source_keys))
