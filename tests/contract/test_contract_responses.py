"""The client against the OpenAPI description: valid responses are parsed, invalid responses are rejected."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import api_description
import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from airflow_wasabi_jobs.api import endpoints, exceptions, responses
from airflow_wasabi_jobs.api.models import Destination, JobStatus, Source, Submission
from airflow_wasabi_jobs.api.redaction import excerpt
from airflow_wasabi_jobs.api.settings import build_settings

ACCESS_KEY, SECRET_KEY = "AKIA-of-the-contract", "secret/of+the=contract"
SETTINGS = build_settings(
    name="connection 'w'", host="https://air.example.com", access_key=ACCESS_KEY, secret_key=SECRET_KEY
)
SUBMISSION = Submission(
    name="a job",
    source=Source(bucket="media", object_key="a.mp4"),
    destination=Destination(bucket="results", region="us-east-1"),
    services={"ocr": ""},
)
RATE_LIMIT = {"Error": "Rate limit exceeded", "ErrorCode": "BAD_REQUEST"}


def source_url(source: Any) -> str | None:
    """Return the URL of a media file, as the list of a batch has it."""
    bucket, key = ((source or {}).get(name) for name in ("Bucket", "ObjectKey"))
    return f"s3://{bucket}/{key}" if bucket and key else None


class EndpointCase(NamedTuple):
    """
    One endpoint with its response schema.

    :param schema: name of the response schema in the description.
    :param make_request: builds the request for a job id.
    :param payload_of: returns the relevant part of the response body.
    :param read: the fields that the client reads. Default: all.
    """

    schema: str
    make_request: Callable[[str], endpoints.Request[Any]]
    payload_of: Callable[[Any], Any] = lambda body: body
    read: frozenset[str] | None = None


SUMMARY = frozenset({"Records", "Id", "Status", "Name", "Batch"})
SOURCE = frozenset({"Source", "Bucket", "ObjectKey", "Region", "Endpoint", "Provider"})
ENDPOINT_CASES = {
    "status": EndpointCase("Report", endpoints.get_job_status),
    "errors": EndpointCase("Errors", endpoints.get_job_errors),
    "metadata": EndpointCase("Metadata", endpoints.get_job_metadata),
    "job": EndpointCase("Job", endpoints.get_job),
    "list": EndpointCase("Page", lambda _: endpoints.list_jobs(), lambda body: body["Records"]),
    "list of summaries": EndpointCase(
        "Page",
        lambda _: endpoints.list_job_summaries(),
        lambda body: [{**record, "Source": None} for record in body["Records"]],
        SUMMARY,
    ),
    "batch": EndpointCase(
        "Page",
        endpoints.list_batch,
        lambda body: [{**record, "Source": source_url(record.get("Source"))} for record in body["Records"]],
        SUMMARY | SOURCE,
    ),
    "submission": EndpointCase("Submitted", lambda _: endpoints.submit_job(SUBMISSION), lambda body: body["Job"]),
}
ABOUT_ONE_JOB = [case for case in ENDPOINT_CASES.values() if case.make_request("12345").path.startswith("/jobs/12345")]
NAMES = {"job_id": "Id", "path": "DestinationPath"}
every_endpoint = pytest.mark.parametrize("case", ENDPOINT_CASES.values(), ids=ENDPOINT_CASES)


def test_every_operation_has_a_case() -> None:
    requests = [case.make_request("{Id}") for case in ENDPOINT_CASES.values()]
    described = {
        (method.upper(), path)
        for path, operations in api_description.DESCRIPTION["paths"].items()
        for method in operations.keys() & {"get", "post", "put", "patch", "delete"}
    }

    assert {(request.method, unquote(request.path.partition("?")[0])) for request in requests} == described
    assert ENDPOINT_CASES["status"] in ABOUT_ONE_JOB


def parse(case: EndpointCase, body: bytes, *, job_id: str = "12345", status_code: int = 200, **headers: str) -> Any:
    return responses.parse_response(SETTINGS, case.make_request(job_id), responses.Response(status_code, headers, body))


def matches(parsed: Any, payload: Any, requested_id: str) -> bool:
    """Return whether the parsed value is equal to the payload, with no field missing."""
    match parsed:
        case list():
            return len(parsed) == len(payload) and all(map(matches, parsed, payload, [requested_id] * len(payload)))
        case msgspec.Struct():
            return all(
                field_matches(name, getattr(parsed, name), (payload or {}).get(field), requested_id)
                for name in parsed.__struct_fields__
                for field in [NAMES.get(name) or name.title().replace("_", "")]
            )
        case datetime():
            return parsed == datetime.fromisoformat(payload)
    return json.dumps(parsed) == json.dumps(payload)


def field_matches(name: str, parsed: Any, payload: Any, requested_id: str) -> bool:
    match name:
        case "job_id":
            return parsed in ({requested_id} if payload is None else {str(payload), str(payload).strip()})
        case "status" if parsed is None:  # in a list
            return payload not in set(JobStatus)
        case "error_count":
            return matches(parsed, payload or 0, requested_id)
        case "error_code":
            return matches(parsed, excerpt(payload or "") or None, requested_id)
    return matches(parsed, payload, requested_id)


def to_json(body: Any, *, ascii_only: bool = False, indent: int | None = None) -> bytes:
    return json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode()


@every_endpoint
def test_every_valid_response_is_parsed(case: EndpointCase) -> None:
    @given(api_description.payloads(case.schema), st.booleans(), st.sampled_from([None, 2]))
    def check(body: Any, ascii_only: bool, indent: int | None) -> None:
        assert api_description.validator(case.schema).is_valid(body)
        job_id = body.get("Id", "12345")

        parsed = parse(case, to_json(body, ascii_only=ascii_only, indent=indent), job_id=job_id)

        assert matches(parsed, case.payload_of(body), job_id)

    check()


@st.composite
def corrupted(draw: Any, payloads: st.SearchStrategy[Any]) -> bytes:
    """A valid body with some bytes replaced."""
    body = bytearray(to_json(draw(payloads)))
    start = draw(st.integers(0, len(body) - 1))
    body[start : draw(st.integers(start, len(body)))] = draw(st.binary(max_size=8))
    return bytes(body)


def any_body(schema: str) -> st.SearchStrategy[bytes]:
    payloads = api_description.payloads(schema)
    return st.one_of(st.binary(), api_description.JSON.map(to_json), payloads.map(to_json), corrupted(payloads))


def is_json(body: bytes) -> bool:
    try:
        json.loads(body.decode(errors="surrogateescape"))
    except ValueError:
        return False
    return True


@every_endpoint
def test_parsed_values_are_those_of_the_body(case: EndpointCase) -> None:
    @settings(max_examples=100)
    @given(any_body(case.schema), api_description.IDS, st.booleans())
    @example(b"[" * 10**5, "12345", True)
    @example(b'{"Records":' * 10**5, "12345", True)
    @example(b'{"Id": "12345", "Status": "in_progress", "Status": "completed"}', "12345", True)
    @example('{"Status": "completed"}'.encode("utf-16"), "12345", True)
    @example(b"", "12345", True)
    @example(b"", "12345", False)
    @example(b'{"Id": "12345", "Status": "comp', "12345", True)
    @example(b'{"Id": "12345", "Status": "comp', "12345", False)
    def check(body: bytes, job_id: str, has_length: bool) -> None:
        assert is_rejected_or_matches(case, body, job_id, has_length=has_length)

    check()


def is_rejected_or_matches(case: EndpointCase, body: bytes, job_id: str = "12345", *, has_length: bool = True) -> bool:
    """
    Return whether a body is rejected or parsed as its payload.

    The error is InvalidResponseError, or ApiConnectionError if the response has no Content-Length and its JSON is
    incomplete.
    """
    headers = {"Content-Length": str(len(body))} if has_length else {}
    try:
        parsed = parse(case, body, job_id=job_id, **headers)
    except exceptions.InvalidResponseError:
        return True
    except exceptions.ApiConnectionError:
        return not has_length and not is_json(body)
    payload = json.loads(body.decode(errors="surrogateescape"))
    return api_description.lenient_validator(case.schema, case.read).is_valid(payload) and matches(
        parsed, case.payload_of(payload), job_id
    )


JOB = {
    "Id": "12345",
    "Name": "talk",
    "Source": {"Endpoint": "https://s3.example.com", "Bucket": "media", "Region": "us-east-1", "ObjectKey": "talk.mp4"},
    "Services": {"ocr": ""},
    "UserId": "arn:aws:iam::100000000000:user/somebody",
    "Created": "2024-11-13T07:11:51.658Z",
    "Completed": "2024-11-13T07:12:51.658Z",
    "Priority": 5,
    "Batch": "12345",
    "Status": "completed",
    "Destination": {"Bucket": "results", "Region": "us-east-1"},
}
FULL = {
    "Report": {"Id": "12345", "Status": "completed", "ErrorCount": 3},
    "Errors": {"Id": "12345", "Status": "failed", "ErrorCount": 3, "ErrorCode": "INTERNAL_ERROR"},
    "Metadata": {
        "Id": "12345",
        "UserId": "somebody",
        "Destination": {"Bucket": "results", "Region": "us-east-1"},
        "DestinationPath": "s3://results/jobs/2025_04_29/12345/talk_metadata.json",
    },
    "Job": JOB,
    "Page": {"Records": [{**JOB, "Id": "1"}, JOB]},
    "Submitted": {"Job": JOB},
}
WRONG = [None, True, -1, 0, 2.0, 2.5, 10**30, "", " ", "3", "None", "null", "paused", "COMPLETED", "completed ", [], {}]


def locations(body: Any) -> list[tuple[Any, Any]]:
    """Return all locations in a JSON value, each as its parent and the key or index."""
    keys = body.keys() if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ()
    return [location for key in keys for location in [(body, key), *locations(body[key])]]


@every_endpoint
def test_one_wrong_value_is_rejected_or_ignored(case: EndpointCase) -> None:
    payload = copy.deepcopy(FULL[case.schema])
    assert api_description.validator(case.schema).is_valid(payload)
    for parent, key in locations(payload):
        original = parent[key]
        for wrong_value in WRONG:
            parent[key] = wrong_value
            assert is_rejected_or_matches(case, to_json(payload)), (key, wrong_value)
        del parent[key]
        assert is_rejected_or_matches(case, to_json(payload)), key
        parent.insert(key, original) if isinstance(parent, list) else parent.update({key: original})


@given(st.sampled_from(ABOUT_ONE_JOB), api_description.IDS, api_description.IDS, st.data())
def test_response_about_another_job_is_an_error(case: EndpointCase, job_id: str, other_id: str, data: Any) -> None:
    assume(other_id != job_id)
    body = data.draw(api_description.payloads(case.schema))

    with pytest.raises(exceptions.InvalidResponseError, match="another job"):
        parse(case, to_json({**body, "Id": other_id}), job_id=job_id)


@settings(max_examples=150)
@given(
    st.sampled_from(list(ENDPOINT_CASES.values())),
    st.integers(100, 999).filter(lambda code: code != 200) | st.just(400),
    st.none() | st.text() | st.floats().map(str) | st.sampled_from(["nan", "inf", "-inf", "-1", "1e999", "soon"]),
    st.data(),
)
def test_any_other_status_code_is_an_error(
    case: EndpointCase, status_code: int, retry_after: str | None, data: Any
) -> None:
    errors = api_description.payloads("Error") | st.just(RATE_LIMIT)
    body = data.draw(any_body(case.schema) | errors.map(to_json))

    with pytest.raises(exceptions.WasabiApiError) as caught:
        parse(case, body, status_code=status_code, **({} if retry_after is None else {"Retry-After": retry_after}))

    error = caught.value
    assert error.status_code == status_code
    is_rate_limit = status_code == 400 and body == to_json(RATE_LIMIT)
    assert error.is_transient == (status_code in {408, 425, 429} or status_code >= 500 or is_rate_limit)
    assert error.retry_after is None or (error.retry_after >= 0 and math.isfinite(error.retry_after))


@settings(max_examples=150)
@given(
    st.sampled_from(list(ENDPOINT_CASES.values())),
    st.integers(200, 599),
    st.lists(st.sampled_from([ACCESS_KEY, SECRET_KEY, "\0", "\ud800"]) | st.text(), max_size=8).map("".join),
    st.booleans(),
)
def test_error_event_round_trip_shows_no_key(
    case: EndpointCase, status_code: int, error_text: str, is_json: bool
) -> None:
    body = (
        to_json({"Error": error_text, "ErrorCode": error_text}, ascii_only=True)
        if is_json
        else error_text.encode(errors="replace")
    )

    with pytest.raises(exceptions.WasabiApiError) as caught:
        parse(case, body, status_code=status_code)

    event = exceptions.serialize_error(caught.value)
    shown = "".join(value for value in event.values() if isinstance(value, str)).encode()
    assert not any(secret in shown for secret in (ACCESS_KEY.encode(), SECRET_KEY.encode(), b"\0"))
    received = exceptions.deserialize_error(json.loads(json.dumps(event)))
    assert (type(received), str(received), vars(received)) == (
        type(caught.value),
        str(caught.value),
        vars(caught.value),
    )
