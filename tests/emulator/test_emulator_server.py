"""The emulated API as its clients see it: real HTTP, and a clock that stands still until it is told otherwise."""

from __future__ import annotations

import asyncio
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

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
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
from airflow_wasabi_jobs.api.settings import check
from airflow_wasabi_jobs.demo.standalone import free_port
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY, Behaviour, application

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
CALLS = [
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
    """A user of the API at this address, with the right keys."""

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

    def listed(self, **query) -> list[str]:
        response = self.get("/jobs", params=query)
        assert response.status_code == 200, response.text
        return [job["Id"] for job in response.json()["Records"]]


@contextmanager
def served(app):
    """Serve in a thread of its own, as the emulator does, but with the clock of the test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait_for(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)

    server = TestServer(app)
    try:
        wait_for(server.start_server())
        with Client(str(server.make_url("")).rstrip("/")) as client:
            yield client
        wait_for(server.close())
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
        yield lambda **behaviour: stack.enter_context(served(application(Behaviour(**behaviour), clock=clock)))


@pytest.fixture
def air(serve):
    return serve()


class TestStatus:
    def test_body(self, air):
        response = air.get("/jobs/completes/status")
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == {"Id": "completes", "Status": "submitted", "ErrorCount": 0}

    @pytest.mark.parametrize(
        ("job_id", "final", "error_count"),
        [
            ("completes", "completed", 0),
            ("completes-with-3-errors", "completed", 3),
            ("fails", "failed", 1),
            ("cancels", "cancelled", 0),
        ],
    )
    def test_over_time(self, air, clock, job_id, final, error_count):
        seen = []
        for _ in range(7):
            seen.append(air.get(f"/jobs/{job_id}/status").json())
            clock.now += 1
        assert [report["Status"] for report in seen] == [
            "submitted",
            "preflight",
            "in_progress",
            "in_progress",
            "in_progress",
            final,
            final,
        ]
        assert [report["ErrorCount"] for report in seen] == [0, 0, 0, 0, 0, error_count, error_count]

    def test_speed(self, serve, clock):
        fast = serve(speed=20)
        assert fast.status("completes") == "submitted"
        clock.now += 0.25
        assert fast.status("completes") == "completed"

    @pytest.mark.parametrize("job_id", ["12345", "it-completes", "Completes", "67345137bcb6dce44b35a6a6281711e7"])
    def test_unknown_id(self, air, job_id):
        response = air.get(f"/jobs/{job_id}/status")
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
    def test_an_id_in_need_of_encoding_comes_back_as_it_is(self, air, job_id):
        response = air.get(f"/jobs/{quote(job_id, safe='')}/status")
        assert response.status_code == 200
        assert response.json()["Id"] == job_id
        assert air.listed() == [job_id]


@pytest.mark.parametrize("path", ["/jobs/completes", "/jobs/completes/errors", "/jobs/completes/metadata"])
def test_only_the_status_call_brings_a_job_to_life(air, clock, path):
    response = air.get(path)
    assert (response.status_code, response.json()) == (404, NOT_FOUND)
    assert air.listed() == []
    air.status("completes")
    clock.now += 5
    assert air.get(path).status_code == 200


class TestErrors:
    def test_of_a_running_job(self, air):
        air.status("fails")
        assert air.get("/jobs/fails/errors").json() == {
            "Id": "fails",
            "Status": "submitted",
            "ErrorCode": "",
            "ErrorCount": 0,
        }

    def test_of_a_failed_job(self, air, clock):
        air.status("fails")
        clock.now += 5
        assert air.get("/jobs/fails/errors").json() == {
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
    def test_of_another_job_that_is_over(self, air, clock, job_id, status, error_code, error_count):
        air.status(job_id)
        clock.now += 5
        assert air.get(f"/jobs/{job_id}/errors").json() == {
            "Id": job_id,
            "Status": status,
            "ErrorCode": error_code,
            "ErrorCount": error_count,
        }


class TestMetadata:
    def test_of_a_completed_job(self, air, clock):
        job_id = air.submit()
        clock.now += 5
        response = air.get(f"/jobs/{job_id}/metadata")
        assert response.status_code == 200
        assert response.json() == {
            "Id": job_id,
            "UserId": "arn:aws:iam::000000000000:user/emulator",
            "Destination": {"Bucket": "results", "Region": "us-east-1"},
            "DestinationPath": f"s3://results/jobs/2025_11_21/{job_id}/talk.mp4_metadata.json",
        }

    @pytest.mark.parametrize(("job_id", "age"), [("completes", 4.9), ("fails", 5), ("cancels", 5)])
    def test_of_a_job_without_a_result(self, air, clock, job_id, age):
        air.status(job_id)
        clock.now += age
        response = air.get(f"/jobs/{job_id}/metadata")
        assert (response.status_code, response.json()) == (404, NOT_FOUND)

    @pytest.mark.parametrize(("speed", "seconds"), [(1, 8), (4, 2)])
    def test_the_place_may_be_known_only_later(self, serve, clock, speed, seconds):
        air = serve(result_after_seconds=8, speed=speed)
        air.status("completes")
        clock.now += 5 / speed
        assert air.status("completes") == "completed"
        seen = []
        for pause in (0, seconds - 0.125, 0.125):
            clock.now += pause
            seen.append(air.get("/jobs/completes/metadata"))
        assert [response.status_code for response in seen] == [404, 404, 200]
        assert seen[1].json() == NOT_FOUND


class TestSubmit:
    def test_the_job_comes_back_and_can_be_asked_for(self, air):
        body = BODY | {"Priority": 10, "Batch": "night"}
        body["Source"] = body["Source"] | {"Endpoint": "s3.wasabisys.com", "Region": "us-east-1", "Provider": "wasabi"}
        response = air.post("/jobs", json=body)
        assert response.status_code == 200
        job = response.json()["Job"]
        assert job == body | {
            "Id": job["Id"],
            "UserId": "arn:aws:iam::000000000000:user/emulator",
            "Created": "2025-11-21T00:00:00.000Z",
            "Status": "submitted",
        }
        assert air.get(f"/jobs/{job['Id']}").json() == job
        assert air.status(job["Id"]) == "submitted"

    def test_what_was_not_given_is_absent(self, air):
        assert not {"Priority", "Batch", "Completed"} & air.get(f"/jobs/{air.submit()}").json().keys()

    def test_a_job_that_is_over_says_since_when(self, air, clock):
        job_id = air.submit()
        clock.now += 60
        assert air.get(f"/jobs/{job_id}").json()["Completed"] == "2025-11-21T00:00:05.000Z"

    def test_the_same_body_twice_makes_two_jobs(self, air):
        assert air.submit() != air.submit()

    @pytest.mark.parametrize(
        ("name", "final"),
        [("talk", "completed"), ("fails at night", "failed"), ("cancels", "cancelled"), ("completes", "completed")],
    )
    def test_the_name_steers_the_job(self, air, clock, name, final):
        job_id = air.submit(Name=name)
        clock.now += 5
        assert air.status(job_id) == final

    def test_the_keys_of_the_source_are_never_given_back(self, air, clock):
        keys = {"AccessKey": "the-source-access-key", "SecretKey": "the-source-secret-key"}
        submitted = air.post("/jobs", json=BODY | {"Source": BODY["Source"] | keys})
        job_id = submitted.json()["Job"]["Id"]
        clock.now += 5
        paths = ["/jobs", *(f"/jobs/{job_id}{call}" for call in ("", "/status", "/errors", "/metadata"))]
        answers = [submitted, *map(air.get, paths)]
        assert {answer.status_code for answer in answers} == {200}
        assert not [answer.text for answer in answers if "the-source-" in answer.text]

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
    def test_what_is_allowed(self, air, fields):
        air.submit(**fields)

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"Name": None}, "$.Name"),
            ({"Name": ""}, "$.Name"),
            ({"Name": " \t\n"}, "$.Name"),
            ({"Name": "x" * 257}, "$.Name"),
            ({"Name": 7}, "$.Name"),
            ({"Services": {}}, "$.Services"),
            ({"Services": ["ocr"]}, "$.Services"),
            ({"Services": {"ocr": "", "cooking": ""}}, "$.Services"),
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
    def test_a_field_that_breaks_a_rule_is_named(self, air, fields, named):
        response = air.post("/jobs", json=BODY | fields)
        assert response.status_code == 400
        assert response.json()["ErrorCode"] == "BAD_REQUEST"
        assert named in response.json()["Error"]
        assert air.listed() == []

    @pytest.mark.parametrize("field", ["Name", "Services", "Source", "Destination"])
    def test_a_field_that_is_missing_is_named(self, air, field):
        response = air.post("/jobs", json={key: value for key, value in BODY.items() if key != field})
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
            pytest.param(b'{"Services": {"ocr": {"config": {"x": ' + b"[" * 100_000, id="nested without end"),
        ],
    )
    def test_a_body_that_is_not_a_json_object(self, air, body):
        response = air.post("/jobs", data=body)
        assert response.status_code == 400
        assert response.json()["ErrorCode"] == "BAD_REQUEST"


class TestList:
    def test_of_an_account_without_jobs(self, air):
        response = air.get("/jobs")
        assert (response.status_code, response.json()) == (200, {"Records": []})

    def test_shows_jobs_without_their_services(self, air):
        job = air.get(f"/jobs/{air.submit()}").json()
        del job["Services"]
        assert air.get("/jobs").json() == {"Records": [job]}

    def test_has_25_to_a_page_unless_told_otherwise(self, air):
        for number in range(26):
            air.status(f"completes-{number}")
        assert len(air.listed()) == 25
        assert len(air.listed(pageSize=100)) == 26

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
    def test_order_and_pages(self, air, query, numbers):
        for number in range(5):
            air.status(f"completes-{number}")
        assert air.listed(**query) == [f"completes-{number}" for number in numbers]

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
    def test_filters(self, air, query, names):
        for name, batch in [("one", "night"), ("two", "night"), ("three", ""), ("four", None)]:
            air.submit(Name=name, Batch=batch)
        records = air.get("/jobs", params=query).json()["Records"]
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
        air = serve(loose_filters=True)
        for name, batch in [("One", "night"), ("two", "Nights"), ("three", ""), ("four", None)]:
            air.submit(Name=name, Batch=batch)
        records = air.get("/jobs", params=query).json()["Records"]
        assert [record["Name"] for record in records] == names

    def test_filter_by_status(self, air, clock):
        for job_id in ("completes", "fails", "cancels"):
            air.status(job_id)
        for job_id, pause in [("completes-in-progress", 3), ("completes-preflight", 1), ("completes-submitted", 1)]:
            clock.now += pause
            air.status(job_id)
        assert {status.value: air.listed(status=status.value) for status in JobStatus} == {
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
    def test_a_parameter_that_breaks_a_rule_is_named(self, air, parameter, value):
        response = air.get("/jobs", params={parameter: value})
        assert response.status_code == 400
        assert response.json()["ErrorCode"] == "BAD_REQUEST"
        assert f"$.{parameter}" in response.json()["Error"]


@pytest.mark.parametrize(("method", "path"), [*CALLS, ("GET", "/no/such/path")])
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
def test_wrong_keys(air, method, path, keys):
    response = air.request(method, path, headers=keys, json=BODY)
    assert (response.status_code, response.json()) == (401, UNAUTHORIZED)


def test_keys_in_the_query_do_not_count(air):
    query = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
    response = air.get("/jobs", params=query, headers=dict.fromkeys(query))
    assert response.status_code == 401


def test_keys_of_ones_own(serve):
    air = serve(access_key="mine", secret_key="mine too")
    assert air.get("/jobs").status_code == 401
    own = {"x-amz-access-key": "mine", "x-amz-secret-key": "mine too"}
    assert air.get("/jobs", headers=own).status_code == 200


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
def test_what_is_no_call(air, method, path, status, body):
    response = air.request(method, path)
    assert (response.status_code, response.json()) == (status, body)


class TestRateLimit:
    def test_the_request_past_it_is_told_when_to_come_again(self, serve, clock):
        air = serve(rate_limit_per_minute=2)
        assert [air.get("/jobs").status_code for _ in range(2)] == [200, 200]
        clock.now += 17.5
        response = air.get("/jobs")
        assert (response.status_code, response.headers["Retry-After"]) == (429, "43")
        assert response.json() == {"Error": "Too many requests", "ErrorCode": "TOO_MANY_REQUESTS"}

    def test_it_is_over_with_the_minute(self, serve, clock):
        air = serve(rate_limit_per_minute=1)
        seen = []
        for pause in (0, 0, 59, 1, 0):
            clock.now += pause
            seen.append(air.get("/jobs").status_code)
        assert seen == [200, 429, 429, 200, 429]

    def test_who_waits_as_told_is_answered(self, serve, clock):
        air = serve(rate_limit_per_minute=1)
        air.get("/jobs")
        clock.now += 0.25
        clock.now += int(air.get("/jobs").headers["Retry-After"])
        assert air.get("/jobs").status_code == 200

    def test_there_is_none_unless_asked_for(self, air):
        assert {air.get("/jobs").status_code for _ in range(200)} == {200}

    def test_wrong_keys_do_not_use_it_up(self, serve):
        air = serve(rate_limit_per_minute=1)
        assert air.get("/jobs", headers={"x-amz-access-key": "wrong"}).status_code == 401
        assert air.get("/jobs").status_code == 200


class TestErrorRate:
    def test_a_seed_makes_it_repeatable(self, serve):
        def codes(seed):
            air = serve(error_rate=0.5, seed=seed)
            return [air.get("/jobs").status_code for _ in range(50)]

        assert codes(1) == codes(1)
        assert codes(1) != codes(2)

    def test_it_is_about_the_share_asked_for(self, serve):
        air = serve(error_rate=0.2)
        codes = [air.get("/jobs").status_code for _ in range(500)]
        assert 0.15 < codes.count(500) / len(codes) < 0.25
        assert set(codes) == {200, 500}

    @pytest.mark.parametrize(("error_rate", "codes"), [(0, {200}), (1, {500})])
    def test_none_and_all(self, serve, error_rate, codes):
        air = serve(error_rate=error_rate)
        assert {air.get("/jobs").status_code for _ in range(20)} == codes

    def test_body(self, serve):
        assert serve(error_rate=1).get("/jobs").json() == INTERNAL_ERROR

    def test_wrong_keys_are_told_all_the_same(self, serve):
        assert serve(error_rate=1).get("/jobs", headers={"x-amz-access-key": "wrong"}).status_code == 401


class TestLostAnswers:
    def test_the_first_submissions_make_their_job_and_get_no_answer(self, serve, caplog):
        air = serve(lost_answers=2)
        for name in ("one", "two"):
            with pytest.raises(requests.ConnectionError):
                air.submit(Name=name)
        air.submit(Name="three")
        assert [job["Name"] for job in air.get("/jobs").json()["Records"]] == ["one", "two", "three"]
        assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]

    def test_what_makes_no_job_is_answered(self, serve):
        air = serve(lost_answers=1)
        assert air.get("/jobs").status_code == 200
        assert air.status("completes") == "submitted"
        assert air.post("/jobs", json=BODY | {"Name": ""}).status_code == 400
        assert air.post("/jobs", json=BODY, headers={"x-amz-access-key": "wrong"}).status_code == 401
        with pytest.raises(requests.ConnectionError):
            air.submit()

    def test_they_are_told(self, clock):
        lines = []
        with served(application(Behaviour(lost_answers=1), clock=clock, tell=lines.append)) as air:
            with pytest.raises(requests.ConnectionError):
                air.submit()
            air.submit()
        assert lines == ["POST /jobs lost", "POST /jobs 200"]


def test_latency_holds_each_answer_back(serve):
    air = serve(latency_ms=50)
    for keys in ({}, {"x-amz-access-key": "wrong"}):
        begin = time.monotonic()
        air.get("/jobs", headers=keys)
        assert time.monotonic() - begin >= 0.05


def test_latency_holds_no_other_request_up(serve):
    air = serve(latency_ms=1000)
    begin = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: requests.get(air.url, headers=air.headers, timeout=10), range(20)))
    assert {answer.status_code for answer in answers} == {404}
    assert time.monotonic() - begin < 10  # one after the other it would be 20


def test_each_request_is_told(clock):
    lines = []
    with served(application(Behaviour(), clock=clock, tell=lines.append)) as air:
        air.get("/jobs?pageSize=1")
        air.post("/jobs", data=b"no")
        air.get("/jobs/a%2Fb/status")
        air.get("/jobs/completes/status", headers={"x-amz-secret-key": "wrong-secret"})
        air.delete("/jobs")
    assert lines == [
        "GET /jobs?pageSize=1 200",
        "POST /jobs 400",
        "GET /jobs/a%2Fb/status 404",
        "GET /jobs/completes/status 401",
        "DELETE /jobs 405",
    ]


class TestTheClientsOfThisPackage:
    """What the emulator says is what this package's own clients take for the API."""

    SUBMISSION = Submission(
        name="talk with errors",
        source=Source(bucket="media", object_key="talks/talk.mp4", region="us-east-1"),
        destination=Destination(bucket="results", region="us-east-1"),
        services={"s2t": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
        priority=10,
        batch="night",
    )

    @staticmethod
    def settings_of(air):
        return check(name="the emulator", host=air.url, access_key=ACCESS_KEY, secret_key=SECRET_KEY)

    @pytest.fixture
    def settings(self, air):
        return self.settings_of(air)

    def test_status(self, settings):
        report = JobReport("completes/a b", JobStatus.SUBMITTED)
        assert JobsClient(settings).send(calls.job_status("completes/a b")) == report

        async def ask():
            async with AsyncJobsClient(settings) as client:
                return await client.send(calls.job_status("completes/a b"))

        assert asyncio.run(ask()) == report

    def test_list(self, settings, air):
        air.status("fails")
        client = JobsClient(settings)
        assert client.send(calls.list_states()) == [JobState("fails", JobStatus.SUBMITTED, "fails")]
        job = client.send(calls.job("fails"))
        assert client.send(calls.list_jobs()) == [msgspec.structs.replace(job, services=None)]

    def test_submit_and_ask_for_the_job(self, settings, clock):
        client, given = JobsClient(settings), self.SUBMISSION
        submitted = client.send(calls.submit_job(given))
        assert submitted == Job(
            job_id=submitted.job_id,
            status=JobStatus.SUBMITTED,
            name=given.name,
            source=given.source,
            services=given.services,
            destination=given.destination,
            priority=10,
            batch="night",
            user_id="arn:aws:iam::000000000000:user/emulator",
            created=datetime(2025, 11, 21, tzinfo=UTC),
        )
        assert client.send(calls.job(submitted.job_id)) == submitted
        clock.now += 5
        assert client.send(calls.job(submitted.job_id)) == msgspec.structs.replace(
            submitted, status=JobStatus.COMPLETED, completed=datetime(2025, 11, 21, 0, 0, 5, tzinfo=UTC)
        )
        assert client.send(calls.job_metadata(submitted.job_id)) == JobMetadata(
            job_id=submitted.job_id,
            path=f"s3://results/jobs/2025_11_21/{submitted.job_id}/talk.mp4_metadata.json",
            destination=given.destination,
            user_id="arn:aws:iam::000000000000:user/emulator",
        )

    def test_errors(self, settings, air, clock):
        client = JobsClient(settings)
        air.status("completes-with-2-errors")
        ask = calls.job_errors("completes-with-2-errors")
        assert client.send(ask) == JobErrors("completes-with-2-errors", JobStatus.SUBMITTED)
        clock.now += 5
        assert client.send(ask) == JobErrors("completes-with-2-errors", JobStatus.COMPLETED, 2, "INTERNAL_ERROR")

    def test_a_result_that_is_not_known_yet(self, serve, clock):
        air = serve(result_after_seconds=8)
        air.status("completes")
        clock.now += 5
        with pytest.raises(errors.NotFound, match="It is known once the job is completed"):
            JobsClient(self.settings_of(air)).send(calls.job_metadata("completes"))

    def test_a_lost_answer_is_no_answer(self, serve):
        air = serve(lost_answers=2)
        settings = self.settings_of(air)
        with pytest.raises(errors.NoAnswer, match="the connection was cut"):
            JobsClient(settings).send(calls.submit_job(self.SUBMISSION))

        async def submit():
            async with AsyncJobsClient(settings) as client:
                await client.send(calls.submit_job(self.SUBMISSION))

        with pytest.raises(errors.NoAnswer, match="the connection was cut"):
            asyncio.run(submit())
        assert len(air.listed()) == 2


class TestAirEmulator:
    def test_it_listens_on_a_free_port_of_this_machine(self):
        with AirEmulator() as one, AirEmulator() as other:
            assert one.url.startswith("http://127.0.0.1:")
            assert one.url != other.url
            assert [Client(each.url).status("completes") for each in (one, other)] == ["submitted", "submitted"]

    def test_it_behaves_as_asked(self):
        with AirEmulator(speed=1e6) as emulator:
            client = Client(emulator.url)
            client.status("cancels")
            assert client.status("cancels") == "cancelled"

    def test_it_tells_the_names_of_its_jobs(self):
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

    def test_it_stops_and_gives_its_port_back(self):
        threads = set(threading.enumerate())
        port = free_port()
        with AirEmulator(port=port) as emulator:
            assert Client(emulator.url).get("/jobs").status_code == 200
        assert set(threading.enumerate()) <= threads
        with pytest.raises(requests.ConnectionError):
            Client(emulator.url).get("/jobs")
        with AirEmulator(port=port) as again:
            assert again.url == emulator.url

    def test_it_stops_in_spite_of_open_connections(self):
        with AirEmulator() as emulator:
            client = Client(emulator.url)
            client.get("/jobs")
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
        client.close()

    def test_it_stops_when_the_block_fails(self):
        with pytest.raises(ZeroDivisionError), AirEmulator() as emulator:
            _ = 1 / 0
        with pytest.raises(requests.ConnectionError):
            Client(emulator.url).get("/jobs")

    def test_a_port_in_use_is_reported(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"{port}.*address already in use"), AirEmulator(port=port):
                pass

    @pytest.mark.parametrize("where", [{"port": 70_000}, {"port": -1}, {"host": "a..b"}])
    def test_a_place_that_cannot_be_is_reported(self, where):
        failure = []

        def enter():
            try:
                with AirEmulator(**where):
                    pass
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not silence
                failure.append(error)

        # In a thread, for what does not report hangs.
        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        thread.join(timeout=10)
        assert failure

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("sped", 2),
            ("speed", 0),
            ("speed", "fast"),
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
    def test_a_parameter_that_cannot_be_is_named(self, parameter, value):
        with pytest.raises(msgspec.ValidationError, match=parameter):
            AirEmulator(**{parameter: value})

    @pytest.mark.parametrize(
        ("host", "is_open"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)], ids=str
    )
    def test_it_warns_if_other_machines_can_ask_it(self, caplog, host, is_open):
        with AirEmulator(host=host) as emulator:
            assert emulator.url

        assert ("open to other machines" in caplog.text) is is_open

    @pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
    def test_it_listens_on_ipv6_too(self):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("needs a loopback of IPv6")
        with AirEmulator(host="::1") as emulator:
            assert emulator.url.startswith("http://[::1]:")
            assert Client(emulator.url).status("completes") == "submitted"

    @pytest.mark.parametrize(
        "keys", [{}, {"access_key": "a/b:c@d", "secret_key": "50%+&?#"}], ids=["its own keys", "odd keys"]
    )
    def test_its_uri_is_an_airflow_connection(self, monkeypatch, keys):
        with AirEmulator(**keys) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_EMULATOR", emulator.connection_uri)
            connection = BaseHook.get_connection("emulator")
            assert connection.conn_type == "wasabi"
            assert (connection.login, connection.password) == (
                keys.get("access_key", ACCESS_KEY),
                keys.get("secret_key", SECRET_KEY),
            )
            settings = check(
                name="the emulator",
                host=connection.host,
                access_key=connection.login,
                secret_key=connection.password,
                port=connection.port,
                path=connection.schema,
                extra=connection.extra,
            )
            assert settings.base_url == emulator.url
            assert JobsClient(settings).send(calls.list_jobs()) == []
