"""Requests and responses of each endpoint, through both clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from operator import itemgetter
from urllib.parse import unquote

import pytest
from loopback import Loopback, json_response, response

from airflow_wasabi_jobs.api import endpoints, exceptions
from airflow_wasabi_jobs.api.models import (
    Destination,
    Job,
    JobErrors,
    JobMetadata,
    JobReport,
    JobStatus,
    JobSummary,
    Source,
    Submission,
)

SUBMIT = endpoints.submit_job(
    Submission(
        name="a job",
        source=Source(bucket="media", object_key="a.mp4"),
        destination=Destination(bucket="results", region="us-east-1"),
        services={"ocr": ""},
    )
)
MINIMAL_JOB = {"Id": "12345", "Status": "failed"}
# Each endpoint: the request, how an error message begins, and a valid response body.
ENDPOINTS = {
    "job_status": (endpoints.get_job_status("12345"), "Job '12345'", {"Status": "failed"}),
    "job": (endpoints.get_job("12345"), "Job '12345'", MINIMAL_JOB),
    "job_errors": (
        endpoints.get_job_errors("12345"),
        "Reading the error code of job '12345' failed",
        {"Status": "failed"},
    ),
    "job_metadata": (
        endpoints.get_job_metadata("12345"),
        "Reading the result location of job '12345' failed",
        {"DestinationPath": "s3://results/1_metadata.json"},
    ),
    "list_jobs": (endpoints.list_jobs(), "Listing jobs failed", {"Records": [MINIMAL_JOB]}),
    "list_states": (endpoints.list_job_summaries(), "Listing jobs failed", {"Records": [MINIMAL_JOB]}),
    "list_batch": (endpoints.list_batch("a batch"), "Listing jobs failed", {"Records": [MINIMAL_JOB]}),
    "submit_job": (SUBMIT, "Submitting job 'a job' failed", {"Job": MINIMAL_JOB}),
}
JOB_ENDPOINTS = [name for name, (_, error_prefix, _) in ENDPOINTS.items() if "'12345'" in error_prefix]
LIST_ENDPOINTS = [name for name in ENDPOINTS if name.startswith("list_")]

every_endpoint = pytest.mark.parametrize(
    ("api_request", "error_prefix", "valid_body"), ENDPOINTS.values(), ids=ENDPOINTS
)


# Requests


@every_endpoint
def test_only_submit_job_sends_a_body(send_to, api_request, error_prefix, valid_body):
    with Loopback(json_response(valid_body)) as server:
        send_to(server, api_request)

    (request,) = server.requests
    if api_request is SUBMIT:
        assert (request.method, request.target) == ("POST", "/jobs")
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["Content-Length"] == str(len(request.body))
    else:
        assert (request.method, request.body) == ("GET", b"")
        assert "Content-Type" not in request.headers
        assert "Content-Length" not in request.headers
        assert "Transfer-Encoding" not in request.headers


@pytest.mark.parametrize(
    ("api_request", "suffix"),
    [
        (endpoints.get_job_status, "/status"),
        (endpoints.get_job, ""),
        (endpoints.get_job_errors, "/errors"),
        (endpoints.get_job_metadata, "/metadata"),
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
def test_job_id_is_one_path_segment(send_to, prefix, job_id, segment, api_request, suffix):
    with Loopback(json_response({"Id": job_id, "Status": "submitted", "DestinationPath": "s3://results/1"})) as server:
        assert send_to(server.url + prefix, api_request(job_id)).job_id == job_id

    assert [request.target for request in server.requests] == [f"{prefix}/jobs/{segment}{suffix}"]
    assert unquote(segment) == job_id


@pytest.mark.parametrize("api_request", [endpoints.list_jobs, endpoints.list_job_summaries])
@pytest.mark.parametrize(
    ("arguments", "query"),
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
def test_list_requests_one_page(send_to, api_request, arguments, query):
    with Loopback(json_response({"Records": []})) as server:
        assert send_to(server, api_request(**arguments)) == []

    assert [request.target for request in server.requests] == [f"/jobs?{query}"]


def test_list_batch_is_sorted_oldest_first(send_to):
    with Loopback(json_response({"Records": []})) as server:
        send_to(server, endpoints.list_batch("b", status=JobStatus.FAILED, page_number=2))

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
def test_filter_is_one_query_value(send_to, field, text, encoded):
    with Loopback(json_response({"Records": []})) as server:
        send_to(server, endpoints.list_jobs(**{field: text}))

    (request,) = server.requests
    assert request.target.partition("&sortOrder=Desc")[2] == f"&{field}={encoded}"


# Responses of any endpoint


@every_endpoint
def test_unknown_fields_are_ignored(send_to, api_request, error_prefix, valid_body):
    def with_unknown_fields(content):
        match content:
            case dict():
                return {
                    **{name: with_unknown_fields(inner) for name, inner in content.items()},
                    "More": {"a": [1]},
                    "id": 0,
                }
            case list():
                return [with_unknown_fields(inner) for inner in content]
            case _:
                return content

    with Loopback(json_response(valid_body), json_response(with_unknown_fields(valid_body))) as server:
        assert send_to(server, api_request) == send_to(server, api_request)


@every_endpoint
@pytest.mark.parametrize(
    "body",
    ["", " \n", "null", "[]", "{}", '"text"', "{'Id': '12345'}", "<html>", "{", "{} {}", b"{\xff}", 10**5 * "["],
    ids=lambda body: str(body)[:10],
)
def test_invalid_response(expect_error, api_request, error_prefix, valid_body, body):
    with Loopback(response(200, body)) as server:
        error = expect_error(exceptions.InvalidResponseError, server, api_request)

    assert (error.is_transient, error.status_code) == (False, 200)
    assert str(error).startswith(f"{error_prefix} (connection 'wasabi_default'): ")
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", JOB_ENDPOINTS)
def test_job_id_may_be_a_number(send_to, name):
    api_request, _, valid_body = ENDPOINTS[name]
    with Loopback(json_response({**valid_body, "Id": 12345})) as server:
        assert send_to(server, api_request).job_id == "12345"


@pytest.mark.parametrize("name", JOB_ENDPOINTS)
@pytest.mark.parametrize("value", ["", "54321", "012345", " 12345", 54321, 12345.5, True, []])
def test_response_about_another_job_is_an_error(expect_error, name, value):
    api_request, error_prefix, valid_body = ENDPOINTS[name]
    with Loopback(json_response({**valid_body, "Id": value})) as server:
        error = expect_error(exceptions.InvalidResponseError, server, api_request)

    assert str(error).startswith(f"{error_prefix} (connection 'wasabi_default'): ")


# Status


@pytest.mark.parametrize("status", ["submitted", "preflight", "in_progress", "completed", "failed", "cancelled"])
def test_status(send_to, status):
    with Loopback(json_response({"Id": "12345", "Status": status, "ErrorCount": 7})) as server:
        assert send_to(server) == JobReport(job_id="12345", status=JobStatus(status), error_count=7)


@pytest.mark.parametrize("fields", [{}, {"Id": None}, {"Id": "12345"}, {"Id": 12345}])
def test_status_without_id_or_with_a_numeric_id(send_to, fields):
    with Loopback(json_response({**fields, "Status": "completed"})) as server:
        assert send_to(server) == JobReport(job_id="12345", status=JobStatus.COMPLETED)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, 0), ({"ErrorCount": None}, 0), ({"ErrorCount": 0}, 0), ({"ErrorCount": 10**30}, 10**30)],
)
def test_status_error_count(send_to, fields, expected):
    with Loopback(json_response({"Status": "completed", **fields})) as server:
        assert send_to(server).error_count == expected


def test_status_field_names_are_case_sensitive(send_to):
    with Loopback(json_response({"Status": "completed", "Services": {"ocr": ""}, "status": "failed"})) as server:
        assert send_to(server).status == JobStatus.COMPLETED


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
def test_invalid_status_response(expect_error, body):
    with Loopback(response(200, body) if isinstance(body, str | bytes) else json_response(body)) as server:
        expect_error(exceptions.InvalidResponseError, server)


# Errors of a job


def test_job_errors(send_to):
    value = {"Id": "12345", "Status": "failed", "ErrorCode": "INTERNAL_ERROR", "ErrorCount": 7}
    with Loopback(json_response(value)) as server:
        assert send_to(server, endpoints.get_job_errors("12345")) == JobErrors(
            job_id="12345", status=JobStatus.FAILED, error_count=7, error_code="INTERNAL_ERROR"
        )


@pytest.mark.parametrize("fields", [{}, {"Id": None, "ErrorCode": None, "ErrorCount": None}, {"ErrorCode": ""}])
def test_job_errors_with_status_only(send_to, fields):
    with Loopback(json_response({"Status": "completed", **fields})) as server:
        assert send_to(server, endpoints.get_job_errors("12345")) == JobErrors(
            job_id="12345", status=JobStatus.COMPLETED, error_count=0, error_code=None
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"Status": None},
        {"Status": "unheard-of"},
        {"ErrorCount": -1},
        {"ErrorCount": "1"},
        {"ErrorCode": 500},
        {"ErrorCode": ["INTERNAL_ERROR"]},
    ],
)
def test_invalid_job_errors_response(expect_error, fields):
    with Loopback(json_response({"Status": "failed", **fields})) as server:
        expect_error(exceptions.InvalidResponseError, server, endpoints.get_job_errors("12345"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (300 * "E", 200 * "E"),
        ("TWO  WORDS\n", "TWO WORDS"),
        ("NUL\0", "NUL\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_error_code_is_sanitized_and_truncated(send_to, value, shown):
    with Loopback(json_response({"Status": "failed", "ErrorCode": value})) as server:
        assert send_to(server, endpoints.get_job_errors("12345")).error_code == shown


def test_keys_are_redacted_in_the_error_code(send_to, keys):
    for key in keys:
        with Loopback(json_response({"Status": "failed", "ErrorCode": f"NO_{key}_HERE"})) as server:
            assert send_to(server, endpoints.get_job_errors("12345")).error_code == "NO_***_HERE"


# Result metadata

PATH = "s3://results/jobs/2025_04_29/12345/a.mp4_metadata.json"


def test_job_metadata(send_to):
    location = {"Bucket": "results", "Region": "us-east-1"}
    value = {"Id": "12345", "UserId": "arn:aws:iam::1:user/a", "Destination": location, "DestinationPath": PATH}
    with Loopback(json_response(value)) as server:
        assert send_to(server, endpoints.get_job_metadata("12345")) == JobMetadata(
            job_id="12345",
            path=PATH,
            destination=Destination(bucket="results", region="us-east-1"),
            user_id="arn:aws:iam::1:user/a",
        )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Id": None, "UserId": None, "Destination": None},
        {"Destination": {}},
        {"Destination": {"Bucket": None, "Region": None}},
    ],
)
def test_job_metadata_with_path_only(send_to, fields):
    with Loopback(json_response({"DestinationPath": PATH, **fields})) as server:
        assert send_to(server, endpoints.get_job_metadata("12345")) == JobMetadata(
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
def test_result_path_is_not_changed(send_to, path):
    with Loopback(json_response({"DestinationPath": path})) as server:
        assert send_to(server, endpoints.get_job_metadata("12345")).path == path


@pytest.mark.parametrize(
    "fields",
    [
        {"DestinationPath": None},
        {"DestinationPath": 5},
        {"DestinationPath": ""},
        {"DestinationPath": " "},
        {"DestinationPath": "results/jobs/1"},
        {"DestinationPath": "/results/jobs/1"},
        {"DestinationPath": "s3:results"},
        {"DestinationPath": "s3:// "},
        {"DestinationPath": "s3://results/nul\0"},
        {"DestinationPath": "s3://results/two\nlines"},
        {"Destination": "results"},
        {"Destination": {"Bucket": 5}},
        {"UserId": 5},
    ],
    ids=str,
)
def test_invalid_job_metadata_response(expect_error, fields):
    with Loopback(json_response({"DestinationPath": PATH, **fields})) as server:
        expect_error(exceptions.InvalidResponseError, server, endpoints.get_job_metadata("12345"))


@pytest.mark.parametrize(
    "url",
    [
        "s3://results/jobs/2025_04_29/1/a b_metadata.json",
        "https://s3.us-east-1.wasabisys.com/results/jobs/1/a_metadata.json",
        "file:///tmp/results/a_metadata.json",
    ],
)
def test_result_location_may_be_any_absolute_url(send_to, url):
    with Loopback(json_response({"DestinationPath": url})) as server:
        assert send_to(server, endpoints.get_job_metadata("12345")).path == url


@pytest.mark.parametrize("spell", [str, lambda key: key.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")])
def test_result_path_with_a_key_is_an_error(expect_error, everything_shown, keys, spell):
    for key in keys:
        with Loopback(json_response({"DestinationPath": f"s3://results/?key={spell(key)}"})) as server:
            error = expect_error(exceptions.InvalidResponseError, server, endpoints.get_job_metadata("12345"))

        assert "DestinationPath" in str(error)
        assert spell(key) not in everything_shown(error)


# Jobs: in the responses of job, list_jobs and submit_job

SOURCE_URL = "s3://media/a.mp4"
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
JOB_RESPONSES = {
    "job": (endpoints.get_job("12345"), lambda record: record, lambda job: job),
    "list_jobs": (endpoints.list_jobs(), lambda record: {"Records": [record]}, itemgetter(0)),
    "submit_job": (SUBMIT, lambda record: {"Job": record}, lambda job: job),
}

every_job_response = pytest.mark.parametrize(
    ("api_request", "wrap", "unwrap"), JOB_RESPONSES.values(), ids=JOB_RESPONSES
)


@every_job_response
def test_job(send_to, api_request, wrap, unwrap):
    with Loopback(json_response(wrap(RECORD))) as server:
        assert unwrap(send_to(server, api_request)) == Job(**JOB)


@every_job_response
@pytest.mark.parametrize(
    ("field", "attribute", "default"),
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
@pytest.mark.parametrize("left_out_as", ["absent", "null"])
def test_missing_job_field_is_none(send_to, api_request, wrap, unwrap, field, attribute, default, left_out_as):
    fields = {name: value for name, value in RECORD.items() if name != field}
    if left_out_as == "null":
        fields[field] = None
    with Loopback(json_response(wrap(fields))) as server:
        assert unwrap(send_to(server, api_request)) == Job(**{**JOB, attribute: default})


@every_job_response
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
def test_missing_source_or_destination_field_is_none(send_to, api_request, wrap, unwrap, field, inner, attribute):
    fields = {name: value for name, value in RECORD[field].items() if name != inner}
    for location in (fields, {**fields, inner: None}):
        with Loopback(json_response(wrap({**RECORD, field: location}))) as server:
            parsed = getattr(unwrap(send_to(server, api_request)), field.lower())

        expected = JOB[field.lower()]
        assert getattr(parsed, attribute) is None
        other_attributes = set(parsed.__struct_fields__) - {attribute}
        assert {name: getattr(parsed, name) for name in other_attributes} == {
            name: getattr(expected, name) for name in other_attributes
        }


@every_job_response
def test_job_with_id_and_status_only(send_to, api_request, wrap, unwrap):
    with Loopback(json_response(wrap({"Id": 12345, "Status": "submitted"}))) as server:
        assert unwrap(send_to(server, api_request)) == Job(job_id="12345", status=JobStatus.SUBMITTED)


@every_job_response
@pytest.mark.parametrize("status", ["submitted", "preflight", "in_progress", "completed", "failed", "cancelled"])
def test_job_status(send_to, api_request, wrap, unwrap, status):
    with Loopback(json_response(wrap({**RECORD, "Status": status}))) as server:
        assert unwrap(send_to(server, api_request)).status is JobStatus(status)


@pytest.mark.parametrize("status", ["Archived", "Completed", "canceled", " failed", ""])
def test_unknown_status_is_an_error_for_a_single_job_and_none_elsewhere(expect_error, send_to, status):
    with Loopback(json_response({**RECORD, "Status": status})) as server:
        assert "its Status is unknown" in str(
            expect_error(exceptions.InvalidResponseError, server, endpoints.get_job("12345"))
        )

    for response_name in ("list_jobs", "submit_job"):
        api_request, wrap, unwrap = JOB_RESPONSES[response_name]
        with Loopback(json_response(wrap({**RECORD, "Status": status}))) as server:
            assert unwrap(send_to(server, api_request)) == Job(**{**JOB, "status": None})


@every_job_response
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-11-13T07:11:51Z", datetime(2024, 11, 13, 7, 11, 51, tzinfo=UTC)),
        ("2024-11-13T07:11:51", datetime(2024, 11, 13, 7, 11, 51, tzinfo=UTC)),
        ("2024-11-13t07:11:51.123456789z", datetime(2024, 11, 13, 7, 11, 51, 123457, tzinfo=UTC)),
        ("2024-11-13T07:11:51+05:30", datetime(2024, 11, 13, 7, 11, 51, tzinfo=timezone(timedelta(hours=5.5)))),
    ],
)
def test_job_created_time(send_to, api_request, wrap, unwrap, text, expected):
    with Loopback(json_response(wrap({**RECORD, "Created": text}))) as server:
        assert unwrap(send_to(server, api_request)).created == expected


@every_job_response
@pytest.mark.parametrize(
    "fields",
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
def test_invalid_job(expect_error, api_request, wrap, unwrap, fields):
    with Loopback(json_response(wrap({**RECORD, **fields}))) as server:
        expect_error(exceptions.InvalidResponseError, server, api_request)


@pytest.mark.parametrize("body", [{"Job": None}, {"Job": []}, {"Job": "12345"}, {"Id": "12345", "Status": "submitted"}])
def test_invalid_submit_job_response(expect_error, body):
    with Loopback(json_response(body)) as server:
        expect_error(exceptions.InvalidResponseError, server, SUBMIT)


# Lists


@pytest.mark.parametrize("name", ["list_states", "list_batch"])
def test_list_states_contains_id_status_name_and_batch(send_to, name):
    records = [{**RECORD, "Created": "yesterday"}, {"Id": 2, "Status": "in_progress", "Name": None, "Batch": None}]
    with Loopback(json_response({"Records": records, "Total": 2})) as server:
        assert send_to(server, ENDPOINTS[name][0]) == [
            JobSummary(
                job_id="12345",
                status=JobStatus.COMPLETED,
                name="a job",
                batch="a batch",
                source=SOURCE_URL if name == "list_batch" else None,
            ),
            JobSummary(job_id="2", status=JobStatus.IN_PROGRESS, name=None, batch=None),
        ]


@pytest.mark.parametrize("source", [None, {}, {"Bucket": "media"}, {"ObjectKey": "a.mp4"}, {"Bucket": None}])
def test_list_batch_without_source_url(send_to, source):
    with Loopback(json_response({"Records": [{**RECORD, "Source": source}]})) as server:
        (job,) = send_to(server, endpoints.list_batch("a batch"))

    assert job.source is None


def test_unknown_status_in_list_states_is_none(send_to):
    records = [{"Id": "1", "Status": "Archived"}, {"Id": "2", "Status": "failed"}]
    with Loopback(json_response({"Records": records})) as server:
        assert [job.status for job in send_to(server, endpoints.list_job_summaries())] == [None, JobStatus.FAILED]


def test_unknown_status_in_list_batch_is_an_error_for_a_job_of_the_batch(send_to, expect_error):
    def page_with(batch):
        return json_response({"Records": [{"Id": "1", "Status": "Archived", "Batch": batch}]})

    with Loopback(page_with("another batch"), page_with("a batch")) as server:
        assert send_to(server, endpoints.list_batch("a batch")) == [
            JobSummary(job_id="1", status=None, name=None, batch="another batch")
        ]
        expect_error(exceptions.InvalidResponseError, server, endpoints.list_batch("a batch"))


def test_list_jobs_keeps_the_order_of_the_response(send_to):
    records = [{**RECORD, "Id": str(number)} for number in (3, 1, 2)]
    with Loopback(json_response({"Records": records})) as server:
        assert [job.job_id for job in send_to(server, endpoints.list_jobs())] == ["3", "1", "2"]


@pytest.mark.parametrize("name", LIST_ENDPOINTS)
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
def test_invalid_list(expect_error, name, body):
    with Loopback(json_response(body)) as server:
        expect_error(exceptions.InvalidResponseError, server, ENDPOINTS[name][0])
