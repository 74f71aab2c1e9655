"""A job is submitted once, whatever happens, and what is secret in it is shown to nobody but the API."""

from __future__ import annotations

import json
import socket
import struct
from collections import OrderedDict
from enum import IntEnum, StrEnum

import pytest
from loopback import Loopback, answer, cut, hang, json_answer, report, reset
from rich.pretty import pretty_repr

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.models import Destination, Job, JobStatus, Source

STATUS = calls.job_status("12345")
SUBMITTED = json_answer({"Job": {"Id": "12345", "Status": "submitted"}})
JOB = Job(job_id="12345", status=JobStatus.SUBMITTED)
BODY = SUBMITTED.index(b"{")  # where the body of the answer begins


class Text(str):
    __slots__ = ()


class Words(StrEnum):
    WORD = "word"


class Numbers(IntEnum):
    THREE = 3


# What is sent


def test_all_that_can_be_sent(ask, submission, keys, source_keys):
    call = calls.submit_job(
        submission(
            name='Größe "1"\\2',
            source=Source(bucket="media", object_key="a b/ü.mp4", region="eu-1", endpoint="https://s3.example.com"),
            destination=Destination(bucket="results", region="us-east-1"),
            services={"ocr": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
            priority=10,
            batch="a batch",
        )
    )
    with Loopback(SUBMITTED) as server:
        assert ask(server, call) == JOB

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


def test_what_was_not_given_is_not_sent(ask, submission):
    with Loopback(SUBMITTED) as server:
        ask(server, calls.submit_job(submission(source_access_key=None, source_secret_key=None)))

    assert json.loads(server.requests[0].body) == {
        "Name": "a job",
        "Services": {"ocr": ""},
        "Source": {"Bucket": "media", "ObjectKey": "a.mp4"},
        "Destination": {"Bucket": "results", "Region": "us-east-1"},
    }


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"name": Text("text")}, {"Name": "text"}),
        ({"name": Words.WORD}, {"Name": "word"}),
        ({"batch": Text("text")}, {"Batch": "text"}),
        ({"priority": Numbers.THREE}, {"Priority": 3}),
        ({"source": Source(bucket=Text("b"), object_key="o")}, {"Source": {"Bucket": "b", "ObjectKey": "o"}}),
    ],
    ids=["text", "word", "batch", "number", "bucket"],
)
def test_a_value_may_be_of_a_class_of_ones_own(ask, submission, fields, sent):
    call = calls.submit_job(submission(**fields, source_access_key=None, source_secret_key=None))
    with Loopback(SUBMITTED) as server:
        assert ask(server, call) == JOB

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
        (OrderedDict(first=Text("1"), then=Words.WORD), {"first": "1", "then": "word"}),
        ({"ü": "日本\N{EM DASH}😀"}, {"ü": "日本\N{EM DASH}😀"}),
        ({"half": "\ud83d"}, {"half": "\ud83d"}),
    ],
    ids=["nothing", "scalars", "keys", "a long number", "tuples", "classes", "letters", "half a letter"],
)
def test_the_settings_of_a_service_may_be_all_that_is_json(ask, submission, config, sent):
    with Loopback(SUBMITTED) as server:
        assert ask(server, calls.submit_job(submission(services={"logo": {"config": config}}))) == JOB

    assert json.loads(server.requests[0].body)["Services"] == {"logo": {"config": sent}}


# Once and not twice


def linger_not(wire):
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_in_the_body(wire):
    while b"\r\n\r\n" not in wire.sock.recv(65536):
        pass
    linger_not(wire)


PASSING = {
    "408": answer(408),
    "425": answer(425),
    "429": answer(429),
    "429 that says when": answer(429, Retry_After="0"),
    "500": json_answer({"Error": "An unexpected error.", "ErrorCode": "INTERNAL_ERROR"}, 500),
    "502": answer(502, "<html>"),
    "503": answer(503),
    "503 that says when": answer(503, Retry_After="0"),
    "ended": cut(),
    "reset": reset(),
    "ended in the headers": cut(SUBMITTED[: BODY - 6]),
    "ended before the body": cut(SUBMITTED[:BODY]),
    "ended in the body": cut(SUBMITTED[:-1]),
    "reset in the body": reset(SUBMITTED[:-1]),
    "silent": hang(),
    "silent in the body": hang(SUBMITTED[:-1]),
}


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
def test_a_job_is_not_submitted_again_in_passing_trouble(ask, submit, script):
    with Loopback(script, SUBMITTED) as server, pytest.raises(errors.AirError) as caught:
        ask(server, submit, retries=3, read_timeout=0.5)

    assert caught.value.is_passing
    assert "Asked for a new job 'a job' on connection 'wasabi_default'" in str(caught.value)
    assert len(server.requests) == 1
    assert server.connections == 1


@pytest.mark.parametrize("script", [reset(), cut(), reset_in_the_body], ids=["reset", "ended", "reset in the body"])
def test_a_job_is_not_submitted_again_if_its_submission_was_not_read(ask, submission, script):
    call = calls.submit_job(submission(services={"logo": {"config": {"much": 8_000_000 * "x"}}}))
    with Loopback(script, SUBMITTED, at_once=True) as server, pytest.raises(errors.PassingNoAnswer):
        ask(server, call, retries=3)

    assert server.connections == 1


@pytest.mark.parametrize("script", [reset(), cut()], ids=["reset", "ended"])
def test_a_job_is_not_submitted_again_on_a_connection_that_was_used_before(send, settings, submit, script):
    with Loopback(report("completed"), script, SUBMITTED) as server, pytest.raises(errors.PassingNoAnswer):
        send(settings(server, retries=3), STATUS, submit)

    assert [request.method for request in server.requests] == ["GET", "POST"]


@pytest.mark.parametrize("status_code", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["other", "same"])
def test_a_submission_does_not_follow_a_redirect(refused, submit, status_code, location):
    with Loopback(SUBMITTED) as other:
        where = f"{other.url}/jobs" if location == "other" else "/elsewhere"
        with Loopback(answer(status_code, Location=where), SUBMITTED) as server:
            assert not refused(errors.Redirected, server, submit, retries=3).is_passing

    assert len(server.requests) == 1
    assert other.connections == 0


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (answer(400), errors.Refusal),
        (answer(401), errors.Unauthorized),
        (answer(403), errors.Forbidden),
        (answer(201, "{}"), errors.UnexpectedAnswer),
        (answer(200, "<html>"), errors.UnexpectedAnswer),
        (json_answer({"Job": {"Id": "12345"}}), errors.UnexpectedAnswer),
    ],
)
def test_a_submission_that_is_refused_or_not_understood_is_not_sent_again(refused, submit, script, kind):
    with Loopback(script, SUBMITTED) as server:
        assert not refused(kind, server, submit, retries=3).is_passing

    assert len(server.requests) == 1


def test_what_only_asks_is_still_tried_again_by_the_same_client(send, settings, submit):
    with Loopback(SUBMITTED, answer(503, Retry_After="0"), report("completed")) as server:
        send(settings(server, retries=1), submit, STATUS)

    assert [request.method for request in server.requests] == ["POST", "GET", "GET"]


# What is secret


@pytest.mark.parametrize("show", [repr, str, pretty_repr, "{}".format, "{!r}".format])
def test_the_keys_of_a_source_are_not_shown(submission, submit, source_keys, show):
    for thing in (submission(), submit):
        shown = show(thing), show([thing])
        assert "a job" in shown[0]
        assert not any(key in text for key in source_keys for text in shown)


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
def test_the_keys_of_a_source_are_in_no_error(ask, submit, all_said, source_keys, script):
    with Loopback(script) as server, pytest.raises(errors.AirError) as caught:
        ask(server, submit, read_timeout=0.3)

    said = all_said(caught.value)
    assert not any(key in said for key in source_keys)


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
def test_the_keys_of_a_source_are_not_shown_when_the_server_sends_them_back(
    ask, submission, all_said, spell, status_code
):
    secrets = ("ACCESS&KEY/'0123'+", 'secret"key\\with<all>/of=them+')
    call = calls.submit_job(submission(source_access_key=secrets[0], source_secret_key=secrets[1]))
    for key in secrets:
        echo = f"{180 * 'x'} {spell(key)} and {spell(key)}"
        with Loopback(answer(status_code, echo)) as server, pytest.raises(errors.AirError) as caught:
            ask(server, call)

        assert caught.value.text == f"{180 * 'x'} *** and ***"
        said = all_said(caught.value)
        assert key not in said
        assert spell(key)[:8] not in said


def test_the_whole_request_sent_back_shows_no_key(ask, submit, all_said, keys, source_keys):
    def echo(wire):
        return answer(400, wire.request.body + b"\n" + wire.request.raw.partition(b"\r\n\r\n")[0])

    with Loopback(echo) as server, pytest.raises(errors.Refusal) as caught:
        ask(server, submit)

    said = all_said(caught.value)
    assert "***" in said
    assert not any(key in said for key in (*keys, *source_keys))
