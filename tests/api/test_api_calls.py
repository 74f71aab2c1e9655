"""What is sent, and how an answer is read: through both clients, for they must not drift apart."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import unquote

import pytest
from loopback import Loopback, answer, cut, json_answer, report

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.models import Job, JobReport, JobStatus

LISTED = json_answer({"Records": []})
HIDDEN = "***"


# What is sent


@pytest.mark.parametrize(
    ("job_id", "segment"),
    [
        ("67345137bcb6dce44b35a6a6281711e7", "67345137bcb6dce44b35a6a6281711e7"),
        ("0b5cd8e6-7f0c-4c6b-9a77-1f6f0e6a3a52", "0b5cd8e6-7f0c-4c6b-9a77-1f6f0e6a3a52"),
        ("../x", "..%2Fx"),
        ("../../admin", "..%2F..%2Fadmin"),
        ("a/b?c", "a%2Fb%3Fc"),
        ("a#b", "a%23b"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("a;b=c,d", "a%3Bb%3Dc%2Cd"),
        ("a:b@c&d", "a%3Ab%40c%26d"),
        ("%2F", "%252F"),
        ("%2e%2e", "%252e%252e"),
        ("a\\b", "a%5Cb"),
        ("arn:aws:job/1", "arn%3Aaws%3Ajob%2F1"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("a\r\nX-More: 1", "a%0D%0AX-More%3A%201"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/a/b"])
def test_an_id_is_one_segment_of_the_path(ask, prefix, job_id, segment):
    with Loopback(json_answer({"Status": "submitted"})) as server:
        assert ask(server.url + prefix, calls.job_status(job_id)).job_id == job_id

    assert [request.target for request in server.requests] == [f"{prefix}/jobs/{segment}/status"]
    assert unquote(segment) == job_id


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ({}, "pageNumber=1&pageSize=100&sortBy=Created&sortOrder=Desc"),
        ({"page_number": 3, "page_size": 25}, "pageNumber=3&pageSize=25&sortBy=Created&sortOrder=Desc"),
        (
            {"status": JobStatus.IN_PROGRESS},
            "pageNumber=1&pageSize=100&sortBy=Created&sortOrder=Desc&status=in_progress",
        ),
    ],
)
def test_a_list_asks_for_one_page(ask, page, query):
    with Loopback(LISTED) as server:
        ask(server, calls.list_jobs(**page))

    assert [request.target for request in server.requests] == [f"/jobs?{query}"]


# How a report is read


@pytest.mark.parametrize("status", ["submitted", "preflight", "in_progress", "completed", "failed", "cancelled"])
def test_a_report(ask, status):
    with Loopback(json_answer({"Id": "12345", "Status": status, "ErrorCount": 7})) as server:
        assert ask(server) == JobReport(job_id="12345", status=JobStatus(status), error_count=7)


@pytest.mark.parametrize("given", [{}, {"Id": None}, {"Id": "12345"}, {"Id": 12345}])
def test_a_report_may_leave_the_id_out_or_write_it_as_a_number(ask, given):
    with Loopback(json_answer({**given, "Status": "completed"})) as server:
        assert ask(server) == JobReport(job_id="12345", status=JobStatus.COMPLETED)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 0), ({"ErrorCount": None}, 0), ({"ErrorCount": 0}, 0), ({"ErrorCount": 10**30}, 10**30)],
)
def test_a_report_counts_errors(ask, given, expected):
    with Loopback(json_answer({"Status": "completed", **given})) as server:
        assert ask(server).error_count == expected


def test_a_report_may_say_more_than_is_read(ask):
    with Loopback(json_answer({"Status": "completed", "Services": {"ocr": ""}, "status": "failed"})) as server:
        assert ask(server).status == JobStatus.COMPLETED


@pytest.mark.parametrize(
    "body",
    [
        *(
            {"Id": job_id, "Status": "completed"}
            for job_id in ("", "54321", "012345", " 12345", 54321, 12345.5, True, [])
        ),
        *({"Status": "completed", "ErrorCount": count} for count in (-1, 0.5, True, "1", "", [], -(10**30))),
        *({"Status": status} for status in ("Completed", "COMPLETED", "canceled", " completed", "done", "", None, 1)),
        {},
        {"Id": "12345", "ErrorCount": 0},
        {"status": "completed"},
        [],
        [{"Status": "completed"}],
        None,
        "completed",
        '{"Status": "completed"',
        '{"Status": "completed"} {}',
        "{'Status': 'completed'}",
        '{"Status": "completed", "ErrorCount": 1e400}',
        '{"Status": "completed", "Id": "\\ud800"}',
        b'{"Status": "completed", "Id": "\xff"}',
        10**5 * "[",
        '{"Status": "completed", "More": ' + 10**5 * "[",
        '{"Status": "completed", "Id": ' + 5000 * "1" + "}",
        "<html><body>completed</body></html>",
        "",
        " \n",
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_report_that_was_not_promised(refused, body):
    as_sent = answer(200, body) if isinstance(body, str | bytes) else json_answer(body)
    with Loopback(as_sent) as server:
        error = refused(errors.UnexpectedAnswer, server)

    assert not error.is_passing
    assert error.status_code == 200
    assert "the status of job '12345'" in str(error)
    assert "connection 'wasabi_default'" in str(error)


def test_an_answer_that_was_not_promised_shows_how_it_begins(refused):
    with Loopback(answer(200, "<html>\n  <body>\n" + 300 * "x")) as server:
        error = refused(errors.UnexpectedAnswer, server)

    assert error.text == "<html> <body> " + 186 * "x"
    assert error.text in str(error)
    assert 187 * "x" not in str(error)


def test_a_list(ask):
    jobs = [{"Id": "1", "Status": "in_progress", "Name": "one"}, {"Id": 2, "Status": "Archived"}]
    with Loopback(json_answer({"Records": jobs, "Total": 2})) as server:
        assert ask(server, calls.list_jobs()) == [
            Job(job_id="1", status=JobStatus.IN_PROGRESS),
            Job(job_id="2", status=None),
        ]


@pytest.mark.parametrize(
    "body", [{}, [], {"Records": None}, {"Records": [{"Id": "1"}]}, {"Records": [{"Status": "a"}]}]
)
def test_a_list_that_was_not_promised(refused, body):
    with Loopback(json_answer(body)) as server:
        assert "a list of jobs" in str(refused(errors.UnexpectedAnswer, server, calls.list_jobs()))


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
    ("call", "advice"), [(calls.job_status("12345"), "Check the job id"), (calls.list_jobs(), "check the host")]
)
def test_what_is_missing_depends_on_what_was_asked(refused, call, advice):
    with Loopback(answer(404)) as server:
        assert advice in str(refused(errors.NotFound, server, call))


@pytest.mark.parametrize(
    ("status_code", "kind", "advice"),
    [
        (401, errors.Unauthorized, "access key (login) and the secret key (password)"),
        (403, errors.Forbidden, "WasabiViewAiR"),
        (407, errors.Refusal, "'proxy' in the connection's extra"),
        (429, errors.TooManyRequests, "poke_interval"),
        (301, errors.Redirected, "not followed"),
    ],
)
def test_a_refusal_says_what_to_do(refused, status_code, kind, advice):
    with Loopback(answer(status_code)) as server:
        assert advice in str(refused(kind, server))


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
def test_a_key_that_the_server_sends_back_is_not_shown(ask, all_said, keys, echo, spelling):
    for key in keys:
        with Loopback(echo(spellings(key)[spelling])) as server, pytest.raises(errors.AirError) as caught:
            ask(server)

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
    assert calls.clean(settings("https://air.example.com"), cause) is cause
    assert cause.__cause__.args == ("inner",)


def test_there_may_be_no_cause(settings):
    assert calls.clean(settings("https://air.example.com"), None) is None


@pytest.mark.parametrize("of", ["str", "repr"])
def test_a_cause_that_quotes_a_key_is_left_out(settings, keys, of):
    class Quotes(ValueError):
        def __str__(self):
            return keys[1] if of == "str" else "…"

        def __repr__(self):
            return keys[1] if of == "repr" else "…"

    some, inner = settings("https://air.example.com"), ValueError("inner")

    assert calls.clean(some, Quotes()) is None
    assert calls.clean(some, chain(Quotes(), inner)) is inner
    assert calls.clean(some, chain(ValueError("outer"), Quotes(), inner)) is inner
    assert calls.clean(some, chain(ValueError("outer"), ValueError("middle"), Quotes())) is None


def test_a_context_that_quotes_a_key_is_left_out(settings, keys):
    outer = ValueError("outer")
    outer.__context__ = ValueError(keys[0])
    assert calls.clean(settings("https://air.example.com"), outer) is None


def test_the_cause_is_there_to_look_at(refused):
    with Loopback(report("unheard-of")) as server:
        assert isinstance(refused(errors.UnexpectedAnswer, server).__cause__, ValueError)
