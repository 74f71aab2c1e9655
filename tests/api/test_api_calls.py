"""What is sent, and how an answer is read: through both clients, for they must not drift apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from operator import itemgetter
from urllib.parse import unquote

import pytest
from loopback import Loopback, answer, json_answer

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.models import (
    Destination,
    Job,
    JobErrors,
    JobMetadata,
    JobReport,
    JobState,
    JobStatus,
    Source,
    Submission,
)

SUBMIT = calls.submit_job(
    Submission(
        name="a job",
        source=Source(bucket="media", object_key="a.mp4"),
        destination=Destination(bucket="results", region="us-east-1"),
        services={"ocr": ""},
    )
)
LEAST = {"Id": "12345", "Status": "failed"}
# Each call, what it is called in a message, and an answer to it.
EVERY = {
    "job_status": (calls.job_status("12345"), "the status of job '12345'", {"Status": "failed"}),
    "job": (calls.job("12345"), "job '12345'", LEAST),
    "job_errors": (calls.job_errors("12345"), "the errors of job '12345'", {"Status": "failed"}),
    "job_metadata": (
        calls.job_metadata("12345"),
        "the place of the result of job '12345'",
        {"DestinationPath": "s3://results/1_metadata.json"},
    ),
    "list_jobs": (calls.list_jobs(), "a list of jobs", {"Records": [LEAST]}),
    "list_states": (calls.list_states(), "a list of jobs", {"Records": [LEAST]}),
    "list_batch": (calls.list_batch("a batch"), "a list of jobs", {"Records": [LEAST]}),
    "submit_job": (SUBMIT, "a new job 'a job'", {"Job": LEAST}),
}
OF_A_JOB = [name for name, (_, about, _) in EVERY.items() if about.endswith("job '12345'")]
LISTS = [name for name in EVERY if name.startswith("list_")]

every_call = pytest.mark.parametrize(("call", "about", "fine"), EVERY.values(), ids=EVERY)


# What is sent


@every_call
def test_a_body_is_sent_only_to_submit(ask, call, about, fine):
    with Loopback(json_answer(fine)) as server:
        ask(server, call)

    (request,) = server.requests
    if call is SUBMIT:
        assert (request.method, request.target) == ("POST", "/jobs")
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["Content-Length"] == str(len(request.body))
    else:
        assert (request.method, request.body) == ("GET", b"")
        assert "Content-Type" not in request.headers
        assert "Content-Length" not in request.headers
        assert "Transfer-Encoding" not in request.headers


@pytest.mark.parametrize(
    ("call", "behind"),
    [
        (calls.job_status, "/status"),
        (calls.job, ""),
        (calls.job_errors, "/errors"),
        (calls.job_metadata, "/metadata"),
    ],
)
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
def test_an_id_is_one_segment_of_the_path(ask, prefix, job_id, segment, call, behind):
    with Loopback(json_answer({"Id": job_id, "Status": "submitted", "DestinationPath": "s3://results/1"})) as server:
        assert ask(server.url + prefix, call(job_id)).job_id == job_id

    assert [request.target for request in server.requests] == [f"{prefix}/jobs/{segment}{behind}"]
    assert unquote(segment) == job_id


@pytest.mark.parametrize("call", [calls.list_jobs, calls.list_states])
@pytest.mark.parametrize(
    ("page", "query"),
    [
        ({}, "pageNumber=1&pageSize=100&sortBy=Created&sortOrder=Desc"),
        ({"page_number": 3, "page_size": 25}, "pageNumber=3&pageSize=25&sortBy=Created&sortOrder=Desc"),
        ({"newest_first": False}, "pageNumber=1&pageSize=100&sortBy=Created&sortOrder=Asc"),
        (
            {"status": JobStatus.IN_PROGRESS},
            "pageNumber=1&pageSize=100&sortBy=Created&sortOrder=Desc&status=in_progress",
        ),
        (
            {"batch": "b", "name": "n", "status": JobStatus.FAILED},
            "pageNumber=1&pageSize=100&sortBy=Created&sortOrder=Desc&status=failed&batch=b&name=n",
        ),
    ],
)
def test_a_list_asks_for_one_page(ask, call, page, query):
    with Loopback(json_answer({"Records": []})) as server:
        assert ask(server, call(**page)) == []

    assert [request.target for request in server.requests] == [f"/jobs?{query}"]


def test_a_list_of_a_batch_begins_with_the_oldest(ask):
    with Loopback(json_answer({"Records": []})) as server:
        ask(server, calls.list_batch("b", status=JobStatus.FAILED, page_number=2))

    (request,) = server.requests
    assert request.target == "/jobs?pageNumber=2&pageSize=100&sortBy=Created&sortOrder=Asc&status=failed&batch=b"


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("two words", "two%20words"),
        ("a+b", "a%2Bb"),
        ("a&status=failed", "a%26status%3Dfailed"),
        ("100%", "100%25"),
        ("%20", "%2520"),
        ("a/b?c#d", "a%2Fb%3Fc%23d"),
        ("a;b,c:d", "a%3Bb%2Cc%3Ad"),
        ("[a]", "%5Ba%5D"),
        ("Größe", "Gr%C3%B6%C3%9Fe"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("a\r\nX-More: 1", "a%0D%0AX-More%3A%201"),
    ],
)
@pytest.mark.parametrize("field", ["batch", "name"])
def test_what_is_looked_for_is_one_value_of_the_query(ask, field, text, encoded):
    with Loopback(json_answer({"Records": []})) as server:
        ask(server, calls.list_jobs(**{field: text}))

    (request,) = server.requests
    assert request.target.partition("&sortOrder=Desc")[2] == f"&{field}={encoded}"


# How any answer is read


@every_call
def test_an_answer_may_say_more_than_is_read(ask, call, about, fine):
    def and_more(content):
        match content:
            case dict():
                return {**{name: and_more(inner) for name, inner in content.items()}, "More": {"a": [1]}, "id": 0}
            case list():
                return [and_more(inner) for inner in content]
            case _:
                return content

    with Loopback(json_answer(fine), json_answer(and_more(fine))) as server:
        assert ask(server, call) == ask(server, call)


@every_call
@pytest.mark.parametrize(
    "body",
    ["", " \n", "null", "[]", "{}", '"text"', "{'Id': '12345'}", "<html>", "{", "{} {}", b"{\xff}", 10**5 * "["],
    ids=lambda body: str(body)[:10],
)
def test_an_answer_that_was_not_promised(refused, call, about, fine, body):
    with Loopback(answer(200, body)) as server:
        error = refused(errors.UnexpectedAnswer, server, call)

    assert (error.is_passing, error.status_code) == (False, 200)
    assert f"Asked for {about} on connection 'wasabi_default' at {server.url}: " in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", OF_A_JOB)
def test_an_id_may_be_a_number(ask, name):
    call, _, fine = EVERY[name]
    with Loopback(json_answer({**fine, "Id": 12345})) as server:
        assert ask(server, call).job_id == "12345"


@pytest.mark.parametrize("name", OF_A_JOB)
@pytest.mark.parametrize("told", ["", "54321", "012345", " 12345", 54321, 12345.5, True, []])
def test_another_job_than_was_asked_for(refused, name, told):
    call, about, fine = EVERY[name]
    with Loopback(json_answer({**fine, "Id": told})) as server:
        assert f"Asked for {about} on" in str(refused(errors.UnexpectedAnswer, server, call))


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


def test_a_report_is_read_as_it_is_spelled(ask):
    with Loopback(json_answer({"Status": "completed", "Services": {"ocr": ""}, "status": "failed"})) as server:
        assert ask(server).status == JobStatus.COMPLETED


@pytest.mark.parametrize(
    "body",
    [
        *({"Status": "completed", "ErrorCount": count} for count in (-1, 0.5, True, "1", "", [], -(10**30))),
        *({"Status": status} for status in ("Completed", "COMPLETED", "canceled", " completed", "done", "", None, 1)),
        {"Id": "12345", "ErrorCount": 0},
        {"status": "completed"},
        [{"Status": "completed"}],
        "completed",
        '{"Status": "completed"',
        '{"Status": "completed"} {}',
        "{'Status': 'completed'}",
        '{"Status": "completed", "ErrorCount": 1e400}',
        '{"Status": "completed", "Id": "\\ud800"}',
        b'{"Status": "completed", "Id": "\xff"}',
        '{"Status": "completed", "More": ' + 10**5 * "[",
        '{"Status": "completed", "Id": ' + 5000 * "1" + "}",
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_report_that_was_not_promised(refused, body):
    with Loopback(answer(200, body) if isinstance(body, str | bytes) else json_answer(body)) as server:
        refused(errors.UnexpectedAnswer, server)


# How the errors of a job are read


def test_the_errors_of_a_job(ask):
    told = {"Id": "12345", "Status": "failed", "ErrorCode": "INTERNAL_ERROR", "ErrorCount": 7}
    with Loopback(json_answer(told)) as server:
        assert ask(server, calls.job_errors("12345")) == JobErrors(
            job_id="12345", status=JobStatus.FAILED, error_count=7, error_code="INTERNAL_ERROR"
        )


@pytest.mark.parametrize("given", [{}, {"Id": None, "ErrorCode": None, "ErrorCount": None}, {"ErrorCode": ""}])
def test_the_errors_of_a_job_may_say_nothing_but_its_status(ask, given):
    with Loopback(json_answer({"Status": "completed", **given})) as server:
        assert ask(server, calls.job_errors("12345")) == JobErrors(
            job_id="12345", status=JobStatus.COMPLETED, error_count=0, error_code=None
        )


@pytest.mark.parametrize(
    "given",
    [
        {"Status": None},
        {"Status": "unheard-of"},
        {"ErrorCount": -1},
        {"ErrorCount": "1"},
        {"ErrorCode": 500},
        {"ErrorCode": ["INTERNAL_ERROR"]},
    ],
)
def test_the_errors_of_a_job_that_were_not_promised(refused, given):
    with Loopback(json_answer({"Status": "failed", **given})) as server:
        refused(errors.UnexpectedAnswer, server, calls.job_errors("12345"))


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (300 * "E", 200 * "E"),
        ("TWO  WORDS\n", "TWO WORDS"),
        ("NUL\0", "NUL\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_an_error_code_can_be_shown_and_stored(ask, told, shown):
    with Loopback(json_answer({"Status": "failed", "ErrorCode": told})) as server:
        assert ask(server, calls.job_errors("12345")).error_code == shown


def test_a_key_is_taken_out_of_an_error_code(ask, keys):
    for key in keys:
        with Loopback(json_answer({"Status": "failed", "ErrorCode": f"NO_{key}_HERE"})) as server:
            assert ask(server, calls.job_errors("12345")).error_code == "NO_***_HERE"


# How the place of a result is read

PATH = "s3://results/jobs/2025_04_29/12345/a.mp4_metadata.json"


def test_the_place_of_a_result(ask):
    place = {"Bucket": "results", "Region": "us-east-1"}
    told = {"Id": "12345", "UserId": "arn:aws:iam::1:user/a", "Destination": place, "DestinationPath": PATH}
    with Loopback(json_answer(told)) as server:
        assert ask(server, calls.job_metadata("12345")) == JobMetadata(
            job_id="12345",
            path=PATH,
            destination=Destination(bucket="results", region="us-east-1"),
            user_id="arn:aws:iam::1:user/a",
        )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Id": None, "UserId": None, "Destination": None},
        {"Destination": {}},
        {"Destination": {"Bucket": None, "Region": None}},
    ],
)
def test_the_place_of_a_result_may_be_nothing_but_its_path(ask, given):
    with Loopback(json_answer({"DestinationPath": PATH, **given})) as server:
        assert ask(server, calls.job_metadata("12345")) == JobMetadata(
            job_id="12345", path=PATH, destination=Destination(bucket=None, region=None), user_id=None
        )


@pytest.mark.parametrize(
    "path",
    [
        f"s3://results/jobs/2025_04_29/12345/{256 * 'n'}_metadata.json",
        "s3://results/two  spaces _metadata.json",
        "s3://results/9.41.12\N{NARROW NO-BREAK SPACE}AM.png_metadata.json",
        "s3://results/全角\N{IDEOGRAPHIC SPACE}空白_metadata.json",
        "s3://results/%41%2F_metadata.json",
    ],
    ids=["long", "two spaces", "no-break space", "ideographic space", "percent"],
)
def test_the_path_of_a_result_is_taken_as_it_is(ask, path):
    with Loopback(json_answer({"DestinationPath": path})) as server:
        assert ask(server, calls.job_metadata("12345")).path == path


@pytest.mark.parametrize(
    "given",
    [
        {"DestinationPath": None},
        {"DestinationPath": 5},
        {"DestinationPath": ""},
        {"DestinationPath": " "},
        {"DestinationPath": "s3://results/nul\0"},
        {"DestinationPath": "s3://results/two\nlines"},
        {"Destination": "results"},
        {"Destination": {"Bucket": 5}},
        {"UserId": 5},
    ],
    ids=str,
)
def test_the_place_of_a_result_that_was_not_promised(refused, given):
    with Loopback(json_answer({"DestinationPath": PATH, **given})) as server:
        refused(errors.UnexpectedAnswer, server, calls.job_metadata("12345"))


@pytest.mark.parametrize("spelled", [str, lambda key: key.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")])
def test_a_path_that_holds_a_key_is_refused(refused, all_said, keys, spelled):
    for key in keys:
        with Loopback(json_answer({"DestinationPath": f"s3://results/?key={spelled(key)}"})) as server:
            error = refused(errors.UnexpectedAnswer, server, calls.job_metadata("12345"))

        assert "DestinationPath" in str(error)
        assert spelled(key) not in all_said(error)


# How a job is read: by itself, in a list, and when it was submitted

RECORD = {
    "Id": "12345",
    "Name": "a job",
    "Source": {
        "Endpoint": "https://s3.us-east-1.wasabisys.com",
        "Bucket": "media",
        "Region": "us-east-1",
        "ObjectKey": "a.mp4",
        "Provider": "wasabi",
    },
    "Services": {"ocr": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
    "UserId": "arn:aws:iam::1:user/a",
    "Created": "2024-11-13T07:11:51.658Z",
    "Completed": "2024-11-13T07:12:00Z",
    "Priority": 5,
    "Batch": "a batch",
    "Status": "completed",
    "Destination": {"Bucket": "results", "Region": "us-west-1"},
}
JOB = {
    "job_id": "12345",
    "status": JobStatus.COMPLETED,
    "name": "a job",
    "source": Source(
        bucket="media",
        object_key="a.mp4",
        region="us-east-1",
        endpoint="https://s3.us-east-1.wasabisys.com",
        provider="wasabi",
    ),
    "services": {"ocr": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
    "destination": Destination(bucket="results", region="us-west-1"),
    "priority": 5,
    "batch": "a batch",
    "user_id": "arn:aws:iam::1:user/a",
    "created": datetime(2024, 11, 13, 7, 11, 51, 658000, tzinfo=UTC),
    "completed": datetime(2024, 11, 13, 7, 12, tzinfo=UTC),
}
WAYS = {
    "by itself": (calls.job("12345"), lambda record: record, lambda job: job),
    "in a list": (calls.list_jobs(), lambda record: {"Records": [record]}, itemgetter(0)),
    "submitted": (SUBMIT, lambda record: {"Job": record}, lambda job: job),
}

in_each_way = pytest.mark.parametrize(("call", "wrap", "unwrap"), WAYS.values(), ids=WAYS)


@in_each_way
def test_a_job(ask, call, wrap, unwrap):
    with Loopback(json_answer(wrap(RECORD))) as server:
        assert unwrap(ask(server, call)) == Job(**JOB)


@in_each_way
@pytest.mark.parametrize(
    ("field", "attribute", "nothing"),
    [
        ("Name", "name", None),
        ("Source", "source", Source(bucket=None, object_key=None, region=None, endpoint=None, provider=None)),
        ("Services", "services", None),
        ("UserId", "user_id", None),
        ("Created", "created", None),
        ("Completed", "completed", None),
        ("Priority", "priority", None),
        ("Batch", "batch", None),
        ("Destination", "destination", Destination(bucket=None, region=None)),
    ],
)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_job_may_leave_out(ask, call, wrap, unwrap, field, attribute, nothing, how):
    given = {name: value for name, value in RECORD.items() if name != field}
    if how == "null":
        given[field] = None
    with Loopback(json_answer(wrap(given))) as server:
        assert unwrap(ask(server, call)) == Job(**{**JOB, attribute: nothing})


@in_each_way
@pytest.mark.parametrize(
    ("field", "inner", "attribute"),
    [
        ("Source", "Endpoint", "endpoint"),
        ("Source", "Bucket", "bucket"),
        ("Source", "Region", "region"),
        ("Source", "ObjectKey", "object_key"),
        ("Source", "Provider", "provider"),
        ("Destination", "Bucket", "bucket"),
        ("Destination", "Region", "region"),
    ],
)
def test_a_place_may_leave_out(ask, call, wrap, unwrap, field, inner, attribute):
    given = {name: value for name, value in RECORD[field].items() if name != inner}
    for place in (given, {**given, inner: None}):
        with Loopback(json_answer(wrap({**RECORD, field: place}))) as server:
            read = getattr(unwrap(ask(server, call)), field.lower())

        whole = JOB[field.lower()]
        assert getattr(read, attribute) is None
        others = set(read.__struct_fields__) - {attribute}
        assert {name: getattr(read, name) for name in others} == {name: getattr(whole, name) for name in others}


@in_each_way
def test_a_job_may_be_nothing_but_an_id_and_a_status(ask, call, wrap, unwrap):
    with Loopback(json_answer(wrap({"Id": 12345, "Status": "submitted"}))) as server:
        assert unwrap(ask(server, call)) == Job(job_id="12345", status=JobStatus.SUBMITTED)


@in_each_way
@pytest.mark.parametrize("status", ["submitted", "preflight", "in_progress", "completed", "failed", "cancelled"])
def test_the_status_of_a_job(ask, call, wrap, unwrap, status):
    with Loopback(json_answer(wrap({**RECORD, "Status": status}))) as server:
        assert unwrap(ask(server, call)).status is JobStatus(status)


@pytest.mark.parametrize("status", ["Archived", "Completed", "canceled", " failed", ""])
def test_a_status_that_nobody_knows_is_an_error_where_that_job_was_asked_for(refused, ask, status):
    with Loopback(json_answer({**RECORD, "Status": status})) as server:
        assert "its Status is none that is known" in str(refused(errors.UnexpectedAnswer, server, calls.job("12345")))

    for way in ("in a list", "submitted"):
        call, wrap, unwrap = WAYS[way]
        with Loopback(json_answer(wrap({**RECORD, "Status": status}))) as server:
            assert unwrap(ask(server, call)) == Job(**{**JOB, "status": None})


@in_each_way
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-11-13T07:11:51Z", datetime(2024, 11, 13, 7, 11, 51, tzinfo=UTC)),
        ("2024-11-13t07:11:51.123456789z", datetime(2024, 11, 13, 7, 11, 51, 123457, tzinfo=UTC)),
        ("2024-11-13T07:11:51+05:30", datetime(2024, 11, 13, 7, 11, 51, tzinfo=timezone(timedelta(hours=5.5)))),
    ],
)
def test_when_a_job_was_made(ask, call, wrap, unwrap, text, expected):
    with Loopback(json_answer(wrap({**RECORD, "Created": text}))) as server:
        assert unwrap(ask(server, call)).created == expected


@in_each_way
@pytest.mark.parametrize(
    "given",
    [
        *({"Id": job_id} for job_id in (None, "", " ", ".", "..", 12345.5, True, ["12345"])),
        *({"Status": status} for status in (None, 1, ["failed"])),
        *(
            {field: date}
            for field in ("Created", "Completed")
            for date in ("", "yesterday", "2024-13-13T07:11:51Z", "2024-11-13T25:11:51Z", "13.11.2024", 1731481911, {})
        ),
        *({"Priority": priority} for priority in ("5", 1.5, True)),
        *({"Services": services} for services in ("ocr", ["ocr"])),
        *({"Source": source} for source in ("s3://media/a.mp4", [], {"Bucket": 1}, {"ObjectKey": ["a.mp4"]})),
        *({"Destination": destination} for destination in ("s3://results", {"Region": 1})),
        {"Name": 5},
        {"Batch": 5},
        {"UserId": 5},
    ],
    ids=str,
)
def test_a_job_that_was_not_promised(refused, call, wrap, unwrap, given):
    with Loopback(json_answer(wrap({**RECORD, **given}))) as server:
        refused(errors.UnexpectedAnswer, server, call)


@pytest.mark.parametrize("body", [{"Job": None}, {"Job": []}, {"Job": "12345"}, {"Id": "12345", "Status": "submitted"}])
def test_a_submitted_job_that_was_not_promised(refused, body):
    with Loopback(json_answer(body)) as server:
        refused(errors.UnexpectedAnswer, server, SUBMIT)


# How a list is read


@pytest.mark.parametrize("name", ["list_states", "list_batch"])
def test_a_list_of_states_says_where_jobs_stand_and_no_more(ask, name):
    records = [{**RECORD, "Created": "yesterday"}, {"Id": 2, "Status": "in_progress", "Name": None, "Batch": None}]
    with Loopback(json_answer({"Records": records, "Total": 2})) as server:
        assert ask(server, EVERY[name][0]) == [
            JobState(job_id="12345", status=JobStatus.COMPLETED, name="a job", batch="a batch"),
            JobState(job_id="2", status=JobStatus.IN_PROGRESS, name=None, batch=None),
        ]


def test_a_list_of_states_may_hold_a_status_that_nobody_knows(ask):
    records = [{"Id": "1", "Status": "Archived"}, {"Id": "2", "Status": "failed"}]
    with Loopback(json_answer({"Records": records})) as server:
        assert [job.status for job in ask(server, calls.list_states())] == [None, JobStatus.FAILED]


def test_a_list_of_a_batch_may_not_unless_it_is_that_of_a_job_of_another(ask, refused):
    def listed(batch):
        return json_answer({"Records": [{"Id": "1", "Status": "Archived", "Batch": batch}]})

    with Loopback(listed("another batch"), listed("a batch")) as server:
        assert ask(server, calls.list_batch("a batch")) == [
            JobState(job_id="1", status=None, name=None, batch="another batch")
        ]
        refused(errors.UnexpectedAnswer, server, calls.list_batch("a batch"))


def test_a_list_of_jobs_is_in_the_order_of_the_answer(ask):
    records = [{**RECORD, "Id": str(number)} for number in (3, 1, 2)]
    with Loopback(json_answer({"Records": records})) as server:
        assert [job.job_id for job in ask(server, calls.list_jobs())] == ["3", "1", "2"]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "body",
    [
        {"Records": None},
        {"Records": {}},
        {"Records": [None]},
        {"Records": ["12345"]},
        {"Records": [{"Id": "1"}]},
        {"Records": [{"Status": "failed"}]},
        {"Records": [{"Id": "1", "Status": "failed"}, {"Id": "2", "Status": None}]},
        {"Records": [{"Id": None, "Status": "failed"}]},
        {"records": []},
        [{"Id": "1", "Status": "failed"}],
    ],
    ids=str,
)
def test_a_list_that_was_not_promised(refused, name, body):
    with Loopback(json_answer(body)) as server:
        refused(errors.UnexpectedAnswer, server, EVERY[name][0])
