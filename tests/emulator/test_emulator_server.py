"""The emulated API, with real HTTP requests and a clock that the test controls."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec
import pytest
import requests
from aiohttp.test_utils import TestServer
from airflow.providers.common.compat.sdk import BaseHook

from airflow_wasabi_jobs.api import endpoints, exceptions
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
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
from airflow_wasabi_jobs.api.settings import build_settings
from airflow_wasabi_jobs.demo.standalone import free_port
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY, Behaviour, create_application
from airflow_wasabi_jobs.hooks import WasabiJobsHook

BODY = {
    "Name": "talk",
    "Services": {"s2t": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
    "Source": {"Bucket": "media", "ObjectKey": "talks/talk.mp4"},
    "Destination": {"Bucket": "results", "Region": "us-east-1"},
}
UNAUTHORIZED = {"Error": "Unauthorized", "ErrorCode": "UNAUTHORIZED"}
NOT_FOUND = {"ErrorCode": "NOT_FOUND"}
INTERNAL_ERROR = {
    "Error": "An unexpected error occurred while processing the job.",
    "ErrorCode": "INTERNAL_ERROR",
}
ENDPOINTS = [
    ("GET", "/jobs"),
    ("POST", "/jobs"),
    ("GET", "/jobs/completes"),
    ("GET", "/jobs/completes/status"),
    ("GET", "/jobs/completes/errors"),
    ("GET", "/jobs/completes/metadata"),
]


class Clock:
    def __init__(self) -> None:
        self.now = 1_763_683_200.0  # 2025-11-21, midnight

    def __call__(self) -> float:
        return self.now


class Client(requests.Session):
    """An API client with valid keys."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.trust_env = False
        self.url = url
        self.headers.update({"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY})

    def request(self, method, path, **kwargs):
        return super().request(method, self.url + path, timeout=10, **kwargs)

    def status(self, job_id: str) -> str:
        return self.get(f"/jobs/{quote(job_id, safe='')}/status").json()["Status"]

    def submit(self, **fields) -> str:
        response = self.post("/jobs", json=BODY | fields)
        assert response.status_code == 200, response.text
        return response.json()["Job"]["Id"]

    def list_ids(self, **query) -> list[str]:
        response = self.get("/jobs", params=query)
        assert response.status_code == 200, response.text
        return [job["Id"] for job in response.json()["Records"]]


@contextmanager
def serve_app(app):
    """Serve the application in a thread, like the emulator, but with the clock of the test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run_in_loop(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)

    server = TestServer(app)
    try:
        run_in_loop(server.start_server())
        with Client(str(server.make_url("")).rstrip("/")) as client:
            yield client
        run_in_loop(server.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def serve(clock):
    with ExitStack() as stack:
        yield lambda **behaviour: stack.enter_context(
            serve_app(create_application(Behaviour(**behaviour), clock=clock))
        )


@pytest.fixture
def client(serve):
    return serve()


class TestStatus:
    def test_body(self, client):
        response = client.get("/jobs/completes/status")
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == {"Id": "completes", "Status": "submitted", "ErrorCount": 0}

    @pytest.mark.parametrize(
        ("job_id", "final_status", "error_count"),
        [
            ("completes", "completed", 0),
            ("completes-with-3-errors", "completed", 3),
            ("fails", "failed", 1),
            ("cancels", "cancelled", 0),
        ],
    )
    def test_status_changes_with_time(self, client, clock, job_id, final_status, error_count):
        responses = []
        for _ in range(7):
            responses.append(client.get(f"/jobs/{job_id}/status").json())
            clock.now += 1
        assert [report["Status"] for report in responses] == [
            "submitted",
            "preflight",
            "in_progress",
            "in_progress",
            "in_progress",
            final_status,
            final_status,
        ]
        assert [report["ErrorCount"] for report in responses] == [0, 0, 0, 0, 0, error_count, error_count]

    def test_speed(self, serve, clock):
        client = serve(speed=20)
        assert client.status("completes") == "submitted"
        clock.now += 0.25
        assert client.status("completes") == "completed"

    @pytest.mark.parametrize("job_id", ["12345", "it-completes", "Completes", "67345137bcb6dce44b35a6a6281711e7"])
    def test_unknown_id(self, client, job_id):
        response = client.get(f"/jobs/{job_id}/status")
        assert (response.status_code, response.json()) == (404, NOT_FOUND)

    @pytest.mark.parametrize(
        "job_id",
        [
            "completes a b",
            "completes/a?b#c",
            "completes/../12345",
            "completes%2Fa%",
            "completes+x;y=1&z",
            "completes-ü-漢",
            "completes\\\n",
            'completes"x"',
            "completes-{x}",
        ],
    )
    def test_percent_encoded_id_is_returned_unchanged(self, client, job_id):
        response = client.get(f"/jobs/{quote(job_id, safe='')}/status")
        assert response.status_code == 200
        assert response.json()["Id"] == job_id
        assert client.list_ids() == [job_id]


@pytest.mark.parametrize("path", ["/jobs/completes", "/jobs/completes/errors", "/jobs/completes/metadata"])
def test_only_the_status_endpoint_creates_a_job(client, clock, path):
    response = client.get(path)
    assert (response.status_code, response.json()) == (404, NOT_FOUND)
    assert client.list_ids() == []
    client.status("completes")
    clock.now += 5
    assert client.get(path).status_code == 200


class TestErrors:
    def test_of_a_running_job(self, client):
        client.status("fails")
        assert client.get("/jobs/fails/errors").json() == {
            "Id": "fails",
            "Status": "submitted",
            "ErrorCode": "",
            "ErrorCount": 0,
        }

    def test_of_a_failed_job(self, client, clock):
        client.status("fails")
        clock.now += 5
        assert client.get("/jobs/fails/errors").json() == {
            "Id": "fails",
            "Status": "failed",
            "ErrorCode": "INTERNAL_ERROR",
            "ErrorCount": 1,
        }

    @pytest.mark.parametrize(
        ("job_id", "status", "error_code", "error_count"),
        [
            ("completes", "completed", "", 0),
            ("completes-with-2-errors", "completed", "INTERNAL_ERROR", 2),
            ("cancels", "cancelled", "", 0),
            ("cancels-with-1-error", "cancelled", "INTERNAL_ERROR", 1),
            ("fails-with-0-errors", "failed", "INTERNAL_ERROR", 0),
        ],
    )
    def test_of_other_finished_jobs(self, client, clock, job_id, status, error_code, error_count):
        client.status(job_id)
        clock.now += 5
        assert client.get(f"/jobs/{job_id}/errors").json() == {
            "Id": job_id,
            "Status": status,
            "ErrorCode": error_code,
            "ErrorCount": error_count,
        }


class TestMetadata:
    def test_of_a_completed_job(self, client, clock):
        job_id = client.submit()
        clock.now += 5
        response = client.get(f"/jobs/{job_id}/metadata")
        assert response.status_code == 200
        assert response.json() == {
            "Id": job_id,
            "UserId": "arn:aws:iam::000000000000:user/emulator",
            "Destination": {"Bucket": "results", "Region": "us-east-1"},
            "DestinationPath": f"s3://results/jobs/2025_11_21/{job_id}/talk_metadata.json",
        }

    @pytest.mark.parametrize(("job_id", "age"), [("completes", 4.9), ("fails", 5), ("cancels", 5)])
    def test_of_a_job_without_a_result(self, client, clock, job_id, age):
        client.status(job_id)
        clock.now += age
        response = client.get(f"/jobs/{job_id}/metadata")
        assert (response.status_code, response.json()) == (404, NOT_FOUND)

    @pytest.mark.parametrize(("speed", "seconds"), [(1, 8), (4, 2)])
    def test_metadata_may_be_delayed(self, serve, clock, speed, seconds):
        client = serve(result_after_seconds=8, speed=speed)
        client.status("completes")
        clock.now += 5 / speed
        assert client.status("completes") == "completed"
        responses = []
        for delay in (0, seconds - 0.125, 0.125):
            clock.now += delay
            responses.append(client.get("/jobs/completes/metadata"))
        assert [response.status_code for response in responses] == [404, 404, 200]
        assert responses[1].json() == NOT_FOUND


class TestSubmit:
    def test_file_that_fails_once(self, client, clock):
        source = BODY["Source"] | {"ObjectKey": "talks/fails-once.mp4"}
        first = client.submit(Name="run-1", Source=source)
        second = client.submit(Name="run-1", Source=source | {"Region": "us-east-1"})
        clock.now += 5
        assert [client.status(job_id) for job_id in (first, second)] == ["failed", "completed"]

    def test_submitted_job_is_returned_and_can_be_requested(self, client):
        body = BODY | {"Priority": 10, "Batch": "night"}
        body["Source"] = body["Source"] | {"Endpoint": "s3.wasabisys.com", "Region": "us-east-1", "Provider": "wasabi"}
        response = client.post("/jobs", json=body)
        assert response.status_code == 200
        job = response.json()["Job"]
        assert job == body | {
            "Id": job["Id"],
            "UserId": "arn:aws:iam::000000000000:user/emulator",
            "Created": "2025-11-21T00:00:00.000Z",
            "Status": "submitted",
        }
        assert client.get(f"/jobs/{job['Id']}").json() == job
        assert client.status(job["Id"]) == "submitted"

    def test_omitted_fields_are_absent(self, client):
        assert not {"Priority", "Batch", "Completed"} & client.get(f"/jobs/{client.submit()}").json().keys()

    def test_finished_job_has_a_completion_time(self, client, clock):
        job_id = client.submit()
        clock.now += 60
        assert client.get(f"/jobs/{job_id}").json()["Completed"] == "2025-11-21T00:00:05.000Z"

    def test_same_body_twice_creates_two_jobs(self, client):
        assert client.submit() != client.submit()

    @pytest.mark.parametrize(
        ("name", "final_status"),
        [("talk", "completed"), ("fails at night", "failed"), ("cancels", "cancelled"), ("completes", "completed")],
    )
    def test_name_determines_the_outcome(self, client, clock, name, final_status):
        job_id = client.submit(Name=name)
        clock.now += 5
        assert client.status(job_id) == final_status

    def test_source_keys_are_never_returned(self, client, clock):
        keys = {"AccessKey": "the-source-access-key", "SecretKey": "the-source-secret-key"}
        submitted = client.post("/jobs", json=BODY | {"Source": BODY["Source"] | keys})
        job_id = submitted.json()["Job"]["Id"]
        clock.now += 5
        paths = ["/jobs", *(f"/jobs/{job_id}{suffix}" for suffix in ("", "/status", "/errors", "/metadata"))]
        responses = [submitted, *map(client.get, paths)]
        assert {response.status_code for response in responses} == {200}
        assert not [response.text for response in responses if "the-source-" in response.text]

    @pytest.mark.parametrize(
        "fields",
        [
            {"Name": "x" * 256},
            {"Name": "."},
            *({"Services": {service: ""}} for service in ("ocr", "s2t", "nld", "audiotag", "face", "logo")),
            {"Priority": 1},
            {"Priority": 10},
            {"Priority": None},
            {"Batch": ""},
            {"Batch": "x" * 256},
            {"SomethingNew": True},
        ],
    )
    def test_valid_fields(self, client, fields):
        client.submit(**fields)

    @pytest.mark.parametrize("settings", ["", {"config": {"level": 1}}], ids=["without settings", "with settings"])
    def test_unknown_service_is_accepted(self, client, settings):
        services = {"ocr": "", "a-new-service": settings}
        assert client.get(f"/jobs/{client.submit(Services=services)}").json()["Services"] == services

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"Name": None}, "$.Name"),
            ({"Name": ""}, "$.Name"),
            ({"Name": " \t\n"}, "$.Name"),
            ({"Name": "x" * 257}, "$.Name"),
            ({"Name": 7}, "$.Name"),
            ({"Services": {}}, "$.Services"),
            ({"Services": ["ocr"]}, "$.Services"),
            ({"Services": {"ocr": "", "": ""}}, "$.Services"),
            ({"Services": {"a-new-service": "fast"}}, "$.Services"),
            ({"Services": {"ocr": "fast"}}, "$.Services"),
            ({"Services": {"ocr": None}}, "$.Services"),
            ({"Services": {"ocr": {}}}, "`config`"),
            ({"Services": {"ocr": {"config": 1}}}, "config"),
            ({"Source": {"Bucket": "media"}}, "`ObjectKey`"),
            ({"Source": {"ObjectKey": "talk.mp4"}}, "`Bucket`"),
            ({"Source": {"Bucket": "", "ObjectKey": "talk.mp4"}}, "$.Source.Bucket"),
            ({"Source": {"Bucket": "media", "ObjectKey": ""}}, "$.Source.ObjectKey"),
            ({"Source": {"Bucket": "media", "ObjectKey": "talk.mp4", "Region": 1}}, "$.Source.Region"),
            ({"Source": "s3://media/talk.mp4"}, "$.Source"),
            ({"Destination": {"Bucket": "results"}}, "`Region`"),
            ({"Destination": {"Region": "us-east-1"}}, "`Bucket`"),
            ({"Destination": {"Bucket": "results", "Region": ""}}, "$.Destination.Region"),
            ({"Priority": 0}, "$.Priority"),
            ({"Priority": 11}, "$.Priority"),
            ({"Priority": 1.5}, "$.Priority"),
            ({"Priority": "5"}, "$.Priority"),
            ({"Priority": True}, "$.Priority"),
            ({"Batch": "x" * 257}, "$.Batch"),
            ({"Batch": 1}, "$.Batch"),
        ],
    )
    def test_invalid_field_is_named(self, client, fields, expected):
        response = client.post("/jobs", json=BODY | fields)
        assert response.status_code == 400
        assert response.json()["ErrorCode"] == "BAD_REQUEST"
        assert expected in response.json()["Error"]
        assert client.list_ids() == []

    @pytest.mark.parametrize("field", ["Name", "Services", "Source", "Destination"])
    def test_missing_field_is_named(self, client, field):
        response = client.post("/jobs", json={key: value for key, value in BODY.items() if key != field})
        assert response.status_code == 400
        assert f"`{field}`" in response.json()["Error"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"Name=talk",
            b"null",
            b"[]",
            b'{"Name": "cut sho',
            b'{"Name": "\xff"}',
            pytest.param(b'{"Services": {"ocr": {"config": {"x": ' + b"[" * 100_000, id="deeply nested"),
        ],
    )
    def test_body_that_is_not_a_json_object(self, client, body):
        response = client.post("/jobs", data=body)
        assert response.status_code == 400
        assert response.json()["ErrorCode"] == "BAD_REQUEST"


class TestList:
    def test_empty_account(self, client):
        response = client.get("/jobs")
        assert (response.status_code, response.json()) == (200, {"Records": []})

    def test_jobs_have_no_services(self, client):
        job = client.get(f"/jobs/{client.submit()}").json()
        del job["Services"]
        assert client.get("/jobs").json() == {"Records": [job]}

    def test_default_page_size_is_25(self, client):
        for number in range(26):
            client.status(f"completes-{number}")
        assert len(client.list_ids()) == 25
        assert len(client.list_ids(pageSize=100)) == 26

    @pytest.mark.parametrize(
        ("query", "numbers"),
        [
            ({}, [0, 1, 2, 3, 4]),
            ({"sortOrder": "Asc"}, [0, 1, 2, 3, 4]),
            ({"sortBy": "Created", "sortOrder": "Desc"}, [4, 3, 2, 1, 0]),
            ({"pageSize": 2}, [0, 1]),
            ({"pageSize": 2, "pageNumber": 1}, [0, 1]),
            ({"pageSize": 2, "pageNumber": 2}, [2, 3]),
            ({"pageSize": 2, "pageNumber": 3}, [4]),
            ({"pageSize": 2, "pageNumber": 4}, []),
            ({"pageSize": 2, "pageNumber": 1_000_000}, []),
            ({"pageSize": 2, "pageNumber": 10**20}, []),
            ({"pageSize": 2, "pageNumber": 3, "sortOrder": "Desc"}, [0]),
            ({"pageSize": 1}, [0]),
            ({"pageSize": 100}, [0, 1, 2, 3, 4]),
            ({"somethingNew": "1"}, [0, 1, 2, 3, 4]),
        ],
    )
    def test_order_and_pages(self, client, query, numbers):
        for number in range(5):
            client.status(f"completes-{number}")
        assert client.list_ids(**query) == [f"completes-{number}" for number in numbers]

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ({"batch": "night"}, ["one", "two"]),
            ({"batch": "nigh"}, []),
            ({"batch": ""}, ["three"]),
            ({"name": "one"}, ["one"]),
            ({"name": "o"}, []),
            ({"batch": "night", "name": "two"}, ["two"]),
            ({"batch": "day", "name": "two"}, []),
            ({"batch": "night", "pageSize": 1, "pageNumber": 2}, ["two"]),
            ({"batch": "night", "sortOrder": "Desc"}, ["two", "one"]),
        ],
    )
    def test_filters(self, client, query, names):
        for name, batch in [("one", "night"), ("two", "night"), ("three", ""), ("four", None)]:
            client.submit(Name=name, Batch=batch)
        records = client.get("/jobs", params=query).json()["Records"]
        assert [record["Name"] for record in records] == names

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ({"batch": "night"}, ["One", "two"]),
            ({"batch": "NIGH"}, ["One", "two"]),
            ({"batch": "nights"}, ["two"]),
            ({"batch": ""}, ["One", "two", "three"]),
            ({"name": "o"}, ["One", "two", "four"]),
            ({"name": "ONE"}, ["One"]),
            ({"batch": "night", "name": "TW"}, ["two"]),
            ({"batch": "day"}, []),
            ({"batch": "night", "pageSize": 1, "sortOrder": "Desc"}, ["two"]),
        ],
    )
    def test_loose_filters(self, serve, query, names):
        client = serve(loose_filters=True)
        for name, batch in [("One", "night"), ("two", "Nights"), ("three", ""), ("four", None)]:
            client.submit(Name=name, Batch=batch)
        records = client.get("/jobs", params=query).json()["Records"]
        assert [record["Name"] for record in records] == names

    def test_filter_by_status(self, client, clock):
        for job_id in ("completes", "fails", "cancels"):
            client.status(job_id)
        for job_id, delay in [("completes-in-progress", 3), ("completes-preflight", 1), ("completes-submitted", 1)]:
            clock.now += delay
            client.status(job_id)
        assert {status.value: client.list_ids(status=status.value) for status in JobStatus} == {
            "submitted": ["completes-submitted"],
            "preflight": ["completes-preflight"],
            "in_progress": ["completes-in-progress"],
            "completed": ["completes"],
            "failed": ["fails"],
            "cancelled": ["cancels"],
        }

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("pageNumber", "0"),
            ("pageNumber", "-1"),
            ("pageNumber", "first"),
            ("pageNumber", ""),
            ("pageNumber", "1.5"),
            ("pageSize", "0"),
            ("pageSize", "101"),
            ("status", "running"),
            ("status", "Completed"),
            ("status", ""),
            ("sortBy", "Name"),
            ("sortOrder", "asc"),
        ],
    )
    def test_invalid_parameter_is_named(self, client, parameter, value):
        response = client.get("/jobs", params={parameter: value})
        assert response.status_code == 400
        assert response.json()["ErrorCode"] == "BAD_REQUEST"
        assert f"$.{parameter}" in response.json()["Error"]


def test_every_route_is_tested():
    routes = {
        (route.method, route.resource.canonical.replace("{job_id}", "completes"))
        for route in create_application(Behaviour()).router.routes()
        if route.method != "HEAD"  # aiohttp adds it to each GET
    }
    assert routes == set(ENDPOINTS)


@pytest.mark.parametrize(("method", "path"), [*ENDPOINTS, ("GET", "/no/such/path")])
@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"x-amz-access-key": None}, id="no access key"),
        pytest.param({"x-amz-secret-key": None}, id="no secret key"),
        pytest.param({"x-amz-access-key": "wrong"}, id="wrong access key"),
        pytest.param({"x-amz-secret-key": SECRET_KEY[:-1]}, id="wrong secret key"),
        pytest.param({"x-amz-access-key": SECRET_KEY, "x-amz-secret-key": ACCESS_KEY}, id="swapped"),
        pytest.param({"x-amz-secret-key": "clé"}, id="not ASCII"),
    ],
)
def test_wrong_keys(client, method, path, keys):
    response = client.request(method, path, headers=keys, json=BODY)
    assert (response.status_code, response.json()) == (401, UNAUTHORIZED)


def test_keys_in_the_query_are_ignored(client):
    query = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
    response = client.get("/jobs", params=query, headers=dict.fromkeys(query))
    assert response.status_code == 401


def test_own_keys(serve):
    client = serve(access_key="mine", secret_key="mine too")
    assert client.get("/jobs").status_code == 401
    own_keys = {"x-amz-access-key": "mine", "x-amz-secret-key": "mine too"}
    assert client.get("/jobs", headers=own_keys).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/", 404, NOT_FOUND),
        ("GET", "/jobs/completes/status/", 404, NOT_FOUND),
        ("GET", "/jobs//status", 404, NOT_FOUND),
        ("DELETE", "/jobs/completes", 405, {"Error": "Method Not Allowed", "ErrorCode": "METHOD_NOT_ALLOWED"}),
        ("POST", "/jobs/completes/status", 405, {"Error": "Method Not Allowed", "ErrorCode": "METHOD_NOT_ALLOWED"}),
    ],
)
def test_unknown_endpoint(client, method, path, status, body):
    response = client.request(method, path)
    assert (response.status_code, response.json()) == (status, body)


class TestRateLimit:
    def test_429_with_retry_after(self, serve, clock):
        client = serve(rate_limit_per_minute=2)
        assert [client.get("/jobs").status_code for _ in range(2)] == [200, 200]
        clock.now += 17.5
        response = client.get("/jobs")
        assert (response.status_code, response.headers["Retry-After"]) == (429, "43")
        assert response.json() == {"Error": "Too many requests", "ErrorCode": "TOO_MANY_REQUESTS"}

    def test_limit_is_reset_after_a_minute(self, serve, clock):
        client = serve(rate_limit_per_minute=1)
        responses = []
        for delay in (0, 0, 59, 1, 0):
            clock.now += delay
            responses.append(client.get("/jobs").status_code)
        assert responses == [200, 429, 429, 200, 429]

    def test_request_after_retry_after_is_accepted(self, serve, clock):
        client = serve(rate_limit_per_minute=1)
        client.get("/jobs")
        clock.now += 0.25
        clock.now += int(client.get("/jobs").headers["Retry-After"])
        assert client.get("/jobs").status_code == 200

    def test_no_rate_limit_by_default(self, client):
        assert {client.get("/jobs").status_code for _ in range(200)} == {200}

    def test_requests_with_wrong_keys_do_not_count(self, serve):
        client = serve(rate_limit_per_minute=1)
        assert client.get("/jobs", headers={"x-amz-access-key": "wrong"}).status_code == 401
        assert client.get("/jobs").status_code == 200


class TestErrorRate:
    def test_seed_makes_errors_repeatable(self, serve):
        def status_codes(seed):
            client = serve(error_rate=0.5, seed=seed)
            return [client.get("/jobs").status_code for _ in range(50)]

        assert status_codes(1) == status_codes(1)
        assert status_codes(1) != status_codes(2)

    def test_share_of_errors(self, serve):
        client = serve(error_rate=0.2)
        status_codes = [client.get("/jobs").status_code for _ in range(500)]
        assert 0.15 < status_codes.count(500) / len(status_codes) < 0.25
        assert set(status_codes) == {200, 500}

    @pytest.mark.parametrize(("error_rate", "status_codes"), [(0, {200}), (1, {500})])
    def test_none_and_all(self, serve, error_rate, status_codes):
        client = serve(error_rate=error_rate)
        assert {client.get("/jobs").status_code for _ in range(20)} == status_codes

    def test_body(self, serve):
        assert serve(error_rate=1).get("/jobs").json() == INTERNAL_ERROR

    def test_wrong_keys_are_still_401(self, serve):
        assert serve(error_rate=1).get("/jobs", headers={"x-amz-access-key": "wrong"}).status_code == 401


class TestLostResponses:
    def test_first_submissions_create_a_job_without_a_response(self, serve, caplog):
        client = serve(lost_answers=2)
        for name in ("one", "two"):
            with pytest.raises(requests.ConnectionError):
                client.submit(Name=name)
        client.submit(Name="three")
        assert [job["Name"] for job in client.get("/jobs").json()["Records"]] == ["one", "two", "three"]
        assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]

    def test_other_requests_get_a_response(self, serve):
        client = serve(lost_answers=1)
        assert client.get("/jobs").status_code == 200
        assert client.status("completes") == "submitted"
        assert client.post("/jobs", json=BODY | {"Name": ""}).status_code == 400
        assert client.post("/jobs", json=BODY, headers={"x-amz-access-key": "wrong"}).status_code == 401
        with pytest.raises(requests.ConnectionError):
            client.submit()

    def test_lost_responses_are_logged(self, clock):
        lines = []
        with serve_app(create_application(Behaviour(lost_answers=1), clock=clock, log_request=lines.append)) as client:
            with pytest.raises(requests.ConnectionError):
                client.submit()
            client.submit()
        assert lines == ["POST /jobs lost", "POST /jobs 200"]


def test_latency_delays_each_response(serve):
    client = serve(latency_ms=50)
    for keys in ({}, {"x-amz-access-key": "wrong"}):
        started_at = time.monotonic()
        client.get("/jobs", headers=keys)
        assert time.monotonic() - started_at >= 0.05


def test_latency_does_not_delay_other_requests(serve):
    client = serve(latency_ms=1000)
    started_at = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda _: requests.get(client.url, headers=client.headers, timeout=10), range(20)))
    assert {response.status_code for response in responses} == {404}
    assert time.monotonic() - started_at < 10  # sequential requests would take 20


def test_each_request_is_logged(clock):
    lines = []
    with serve_app(create_application(Behaviour(), clock=clock, log_request=lines.append)) as client:
        client.get("/jobs?pageSize=1")
        client.post("/jobs", data=b"no")
        client.get("/jobs/a%2Fb/status")
        client.get("/jobs/completes/status", headers={"x-amz-secret-key": "wrong-secret"})
        client.delete("/jobs")
    assert lines == [
        "GET /jobs?pageSize=1 200",
        "POST /jobs 400",
        "GET /jobs/a%2Fb/status 404",
        "GET /jobs/completes/status 401",
        "DELETE /jobs 405",
    ]


class TestClientsOfThisPackage:
    """The clients of this package accept the responses of the emulator."""

    SUBMISSION = Submission(
        name="talk with errors",
        source=Source(bucket="media", object_key="talks/talk.mp4", region="us-east-1"),
        destination=Destination(bucket="results", region="us-east-1"),
        services={"s2t": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
        priority=10,
        batch="night",
    )

    @staticmethod
    def settings_of(client):
        return build_settings(name="the emulator", host=client.url, access_key=ACCESS_KEY, secret_key=SECRET_KEY)

    @pytest.fixture
    def settings(self, client):
        return self.settings_of(client)

    def test_status(self, settings):
        report = JobReport("completes/a b", JobStatus.SUBMITTED)
        assert JobsClient(settings).send(endpoints.get_job_status("completes/a b")) == report

        async def send_async():
            async with AsyncJobsClient(settings) as client:
                return await client.send(endpoints.get_job_status("completes/a b"))

        assert asyncio.run(send_async()) == report

    def test_list(self, settings, client):
        client.status("fails")
        jobs_client = JobsClient(settings)
        assert jobs_client.send(endpoints.list_job_summaries()) == [JobSummary("fails", JobStatus.SUBMITTED, "fails")]
        job = jobs_client.send(endpoints.get_job("fails"))
        assert jobs_client.send(endpoints.list_jobs()) == [msgspec.structs.replace(job, services=None)]

    def test_submit_and_get_the_job(self, settings, clock):
        jobs_client, submission = JobsClient(settings), self.SUBMISSION
        submitted = jobs_client.send(endpoints.submit_job(submission))
        assert submitted == Job(
            job_id=submitted.job_id,
            status=JobStatus.SUBMITTED,
            name=submission.name,
            source=submission.source,
            services=submission.services,
            destination=submission.destination,
            priority=10,
            batch="night",
            user_id="arn:aws:iam::000000000000:user/emulator",
            created=datetime(2025, 11, 21, tzinfo=UTC),
        )
        assert jobs_client.send(endpoints.get_job(submitted.job_id)) == submitted
        clock.now += 5
        assert jobs_client.send(endpoints.get_job(submitted.job_id)) == msgspec.structs.replace(
            submitted, status=JobStatus.COMPLETED, completed=datetime(2025, 11, 21, 0, 0, 5, tzinfo=UTC)
        )
        assert jobs_client.send(endpoints.get_job_metadata(submitted.job_id)) == JobMetadata(
            job_id=submitted.job_id,
            path=f"s3://results/jobs/2025_11_21/{submitted.job_id}/talk_metadata.json",
            destination=submission.destination,
            user_id="arn:aws:iam::000000000000:user/emulator",
        )

    def test_errors(self, settings, client, clock):
        jobs_client = JobsClient(settings)
        client.status("completes-with-2-errors")
        errors_request = endpoints.get_job_errors("completes-with-2-errors")
        assert jobs_client.send(errors_request) == JobErrors("completes-with-2-errors", JobStatus.SUBMITTED)
        clock.now += 5
        assert jobs_client.send(errors_request) == JobErrors(
            "completes-with-2-errors", JobStatus.COMPLETED, 2, "INTERNAL_ERROR"
        )

    def test_metadata_that_is_not_available_yet(self, serve, clock):
        client = serve(result_after_seconds=8)
        client.status("completes")
        clock.now += 5
        with pytest.raises(exceptions.NotFoundError, match="A job has a result location only after it has completed"):
            JobsClient(self.settings_of(client)).send(endpoints.get_job_metadata("completes"))

    def test_lost_response_is_a_connection_error(self, serve):
        client = serve(lost_answers=2)
        settings = self.settings_of(client)
        with pytest.raises(exceptions.ApiConnectionError, match="Connection closed before the response was complete"):
            JobsClient(settings).send(endpoints.submit_job(self.SUBMISSION))

        async def submit():
            async with AsyncJobsClient(settings) as client:
                await client.send(endpoints.submit_job(self.SUBMISSION))

        with pytest.raises(exceptions.ApiConnectionError, match="Connection closed before the response was complete"):
            asyncio.run(submit())
        assert len(client.list_ids()) == 2


class TestAirEmulator:
    def test_listens_on_a_free_loopback_port(self):
        with AirEmulator() as first, AirEmulator() as second:
            assert first.url.startswith("http://127.0.0.1:")
            assert first.url != second.url
            assert [Client(emulator.url).status("completes") for emulator in (first, second)] == [
                "submitted",
                "submitted",
            ]

    def test_behaviour_options(self):
        with AirEmulator(speed=1e6) as emulator:
            client = Client(emulator.url)
            client.status("cancels")
            assert client.status("cancels") == "cancelled"

    def test_job_names(self):
        with AirEmulator(lost_answers=1) as emulator:
            assert emulator.job_names == []
            client = Client(emulator.url)
            with pytest.raises(requests.ConnectionError):
                client.submit()
            client.status("completes")
            client.submit(Name="night")
            assert emulator.job_names == ["talk", "completes", "night"]
        assert emulator.job_names == ["talk", "completes", "night"]
        with pytest.raises(AttributeError):
            emulator.job_names = []

    @pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
    def test_connection_uri_is_usable_if_it_listens_on_all_addresses(self, monkeypatch, host, expected):
        with AirEmulator(host=host) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
            hook = WasabiJobsHook()
            assert hook.get_job_status("completes").status == "submitted"
            assert f"//{expected}:" in hook.get_conn().settings.base_url

    def test_error_before_the_event_loop_starts_is_raised(self, monkeypatch):
        def fail(*_):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(asyncio.events, "new_event_loop", fail)
        with pytest.raises(OSError, match="Too many open files"), AirEmulator():
            pass

    def test_stops_and_releases_its_port(self):
        threads = set(threading.enumerate())
        port = free_port()
        with AirEmulator(port=port) as emulator:
            assert Client(emulator.url).get("/jobs").status_code == 200
        assert set(threading.enumerate()) <= threads
        with pytest.raises(requests.ConnectionError):
            Client(emulator.url).get("/jobs")
        with AirEmulator(port=port) as restarted:
            assert restarted.url == emulator.url

    def test_stops_with_open_connections(self):
        with AirEmulator() as emulator:
            client = Client(emulator.url)
            client.get("/jobs")
            started_at = time.monotonic()
        assert time.monotonic() - started_at < 5
        client.close()

    def test_stops_after_an_exception(self):
        with pytest.raises(ZeroDivisionError), AirEmulator() as emulator:
            _ = 1 / 0
        with pytest.raises(requests.ConnectionError):
            Client(emulator.url).get("/jobs")

    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"{port}.*address already in use"), AirEmulator(port=port):
                pass

    def test_host_that_does_not_exist(self):
        errors_raised = []

        def enter_emulator():
            try:
                with AirEmulator(host="a..b"):
                    pass
            except Exception as error:  # noqa: BLE001 - any exception is accepted
                errors_raised.append(error)

        # In a thread, because without an error it would block.
        thread = threading.Thread(target=enter_emulator, daemon=True)
        thread.start()
        thread.join(timeout=10)
        assert errors_raised

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("sped", 2),
            ("speed", 0),
            ("speed", "fast"),
            ("speed", math.inf),
            ("latency_ms", math.inf),
            ("result_after_seconds", math.inf),
            ("access_key", ""),
            ("access_key", "two words"),
            ("secret_key", "line\n"),
            ("host", ""),
            ("host", None),
            ("port", 70_000),
            ("port", -1),
            ("port", "8077"),
            ("latency_ms", -1),
            ("error_rate", 1.1),
            ("rate_limit_per_minute", -1),
            ("lost_answers", -1),
            ("lost_answers", 0.5),
            ("result_after_seconds", -1),
            ("loose_filters", "no"),
            ("seed", None),
        ],
    )
    def test_invalid_parameter_is_named(self, parameter, value):
        with pytest.raises(ValueError, match=f"^{parameter}: "):
            AirEmulator(**{parameter: value})

    @pytest.mark.parametrize("key", ["access_key", "secret_key"])
    def test_invalid_key_is_not_shown(self, key):
        with pytest.raises(ValueError, match=key) as error_info:
            AirEmulator(**{key: "two words"})
        assert "two words" not in str(error_info.value)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"seed": 1}, "seed has no effect without error_rate"),
            ({"lost_answers": 1, "error_rate": 1}, "lost_answers has no effect with error_rate 1"),
            ({"result_after_seconds": 1, "error_rate": 1}, "result_after_seconds has no effect with error_rate 1"),
            ({"loose_filters": True, "error_rate": 1}, "loose_filters has no effect with error_rate 1"),
        ],
    )
    def test_parameter_without_effect_is_refused(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            AirEmulator(**parameters)

    @pytest.mark.parametrize(
        ("host", "is_open"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)], ids=str
    )
    def test_warns_if_other_machines_can_connect(self, caplog, host, is_open):
        with AirEmulator(host=host) as emulator:
            assert emulator.url

        assert ("reachable from other machines" in caplog.text) is is_open

    @pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
    def test_listens_on_ipv6(self):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("needs a loopback of IPv6")
        with AirEmulator(host="::1") as emulator:
            assert emulator.url.startswith("http://[::1]:")
            assert Client(emulator.url).status("completes") == "submitted"

    @pytest.mark.parametrize(
        "keys", [{}, {"access_key": "a/b:c@d", "secret_key": "50%+&?#"}], ids=["default keys", "special characters"]
    )
    def test_connection_uri_is_an_airflow_connection(self, monkeypatch, keys):
        with AirEmulator(**keys) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_EMULATOR", emulator.connection_uri)
            connection = BaseHook.get_connection("emulator")
            assert connection.conn_type == "wasabi"
            assert (connection.login, connection.password) == (
                keys.get("access_key", ACCESS_KEY),
                keys.get("secret_key", SECRET_KEY),
            )
            settings = build_settings(
                name="the emulator",
                host=connection.host,
                access_key=connection.login,
                secret_key=connection.password,
                port=connection.port,
                path=connection.schema,
                extra=connection.extra,
            )
            assert settings.base_url == emulator.url
            assert JobsClient(settings).send(endpoints.list_jobs()) == []
