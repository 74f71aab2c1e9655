"""WasabiSubmitJobOperator: one job for each task run, even if workers are killed or responses are lost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import runpy
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowSensorTimeout,
    BaseOperator,
    TaskDeferred,
    XComArg,
)
from connections import ACCESS_KEY, SECRET_KEY
from loopback import Loopback, cut, hang, json_response, refused_url, reset, response
from task_runs import FILE, KILL_POINTS, RESULTS, AccountResponses, TaskRun, execute, make_job, run_worker, submit_task
from wait_runner import first_event, serialized_and_loaded

from airflow_wasabi_jobs.api import exceptions
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator, submit_job
from airflow_wasabi_jobs.operators.default_name import default_name
from airflow_wasabi_jobs.sensors import WasabiJobSensor

LOOKUP, SUBMIT = "GET /jobs", "POST /jobs"
HANG = hang()
UNFINISHED = ["submitted", "preflight", "in_progress"]

every_transient_fault = pytest.mark.parametrize(
    "fault",
    [
        pytest.param(response(429), id="429"),
        pytest.param(json_response({"ErrorCode": "INTERNAL_ERROR"}, 500), id="500"),
        pytest.param(response(503, "<html>Gateway</html>"), id="503"),
        pytest.param(response(408), id="408"),
        pytest.param(reset(), id="reset"),
        pytest.param(cut(response(200, '{"Job": {"Id"')[:-3]), id="truncated"),
        pytest.param(cut(b"This is not HTTP.\r\n\r\n"), id="not-http"),
        pytest.param(HANG, id="timeout"),
    ],
)
every_invalid_response = pytest.mark.parametrize(
    "invalid_response",
    [
        pytest.param(response(200, "<html>Welcome</html>"), id="html"),
        pytest.param(response(200), id="empty"),
        pytest.param(json_response({"Job": {"Status": "submitted"}}), id="no-id"),
        pytest.param(json_response({"Job": {"Id": "", "Status": "submitted"}}), id="empty-id"),
        pytest.param(json_response({"Job": {"Id": "12345", "Status": "submitted"}}, 201), id="201"),
    ],
)
every_permanent_error = pytest.mark.parametrize(
    ("error_response", "error"),
    [
        pytest.param(
            json_response({"Error": "Name is wrong", "ErrorCode": "BAD"}, 400), exceptions.BadRequestError, id="400"
        ),
        pytest.param(json_response({"ErrorCode": "UNAUTHORIZED"}, 401), exceptions.AuthenticationError, id="401"),
        pytest.param(response(403), exceptions.PermissionDeniedError, id="403"),
        pytest.param(response(404), exceptions.NotFoundError, id="404"),
        pytest.param(response(409), exceptions.ApiStatusError, id="409"),
        pytest.param(response(302, Location="http://127.0.0.2/"), exceptions.RedirectError, id="302"),
    ],
)


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_job, "SUBMIT_RETRY_SECONDS", 10.0)
    monkeypatch.setattr(submit_job, "LOOKUP_SECONDS", 0.1)
    monkeypatch.setattr(submit_job, "LOOKUP_INTERVAL_SECONDS", 0.01)


class Clock:
    """A monotonic clock that advances only when the operator sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    time = staticmethod(time.time)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def run(tmp_path: Path) -> TaskRun:
    return TaskRun(tmp_path / "xcoms.json")


@pytest.fixture
def serve_account(set_connection: Any) -> Any:
    """Serve scripted responses at the default connection."""

    @contextmanager
    def serve_responses(account: AccountResponses, **extra: Any) -> Iterator[AccountResponses]:
        with Loopback(account) as server:
            set_connection(server.url, **extra)
            yield account

    return serve_responses


@pytest.fixture
def serve_emulator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve the emulator at the default connection."""

    @contextmanager
    def start_emulator(**behaviour: Any) -> Iterator[AirEmulator]:
        with AirEmulator(**behaviour) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
            yield emulator

    return start_emulator


def timeout_for(fault: Any) -> dict[str, Any]:
    """Shorten the read timeout for a response that never arrives."""
    return {"read_timeout": 0.5} if fault is HANG else {}


def completed(job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "status": "completed", "error_count": 0}


def defer(run: TaskRun, **arguments: Any) -> TaskDeferred:
    """Start a try that is expected to defer, and return the deferral."""
    with pytest.raises(TaskDeferred) as caught:
        run.start_try(deferrable=True, **arguments)
    return caught.value


def resume_kwargs(task: TaskDeferred) -> dict[str, Any]:
    """Run the trigger, and return the arguments that resume the task."""
    event = asyncio.run(asyncio.wait_for(first_event(serialized_and_loaded(task.trigger)), 20))
    return {**(task.kwargs or {}), "event": event.payload}


class TestSubmit:
    def test_xcoms_are_the_report_and_the_job_id(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try()

        (job,) = account.jobs
        assert run.xcoms == {"job_id": job["Id"], "return_value": completed(job["Id"])}
        assert account.requests == [LOOKUP, SUBMIT, *[f"GET /jobs/{job['Id']}/status"] * 2]

    def test_without_wait_for_completion_the_xcom_is_the_job_id(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(wait_for_completion=False)

        (job,) = account.jobs
        assert run.xcoms == {"job_id": job["Id"], "return_value": job["Id"]}
        assert account.requests == [LOOKUP, SUBMIT]

    def test_job_id_is_pushed_before_the_wait_ends(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses(initial_status="failed")) as account, pytest.raises(WasabiJobFailed):
            run.start_try()

        assert run.xcoms == {"job_id": account.jobs[0]["Id"]}

    def test_required_fields(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try()

        assert account.posted_bodies == [
            {
                "Name": "media/submit/manual__2026-01-01T00:00:00+00:00",
                "Source": {"Bucket": "media", "ObjectKey": "monday.mp4"},
                "Destination": {"Bucket": "results", "Region": "us-east-1"},
                "Services": {"ocr": ""},
                "Priority": 5,
            }
        ]

    def test_all_fields(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(
                name="n" * 256,
                source={**FILE, "region": "eu-central-1", "endpoint": "https://s3.example.com"},
                services={"s2t": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
                priority=10,
                batch="b" * 256,
            )

        assert account.posted_bodies == [
            {
                "Name": "n" * 256,
                "Source": {
                    "Bucket": "media",
                    "ObjectKey": "monday.mp4",
                    "Region": "eu-central-1",
                    "Endpoint": "https://s3.example.com",
                },
                "Destination": {"Bucket": "results", "Region": "us-east-1"},
                "Services": {"s2t": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
                "Priority": 10,
                "Batch": "b" * 256,
            }
        ]

    def test_wait_arguments_are_those_of_the_sensor(self, serve_emulator: Any, run: TaskRun) -> None:
        with serve_emulator(speed=1e6) as emulator:
            report = run.start_try(name="completes-with-3-errors", max_error_count=3, fetch_metadata=True)
            with pytest.raises(WasabiJobFailed, match="more than max_error_count=2"):
                run.start_try(name="completes-with-3-errors", max_error_count=2)

        assert report["error_count"] == 3
        assert report["destination"] == RESULTS
        assert report["metadata_path"].endswith(f"/{report['job_id']}/monday_metadata.json")
        assert len(emulator.job_names) == 1

    @pytest.mark.parametrize("timeout", [0, timedelta(0)])
    def test_timeout_is_that_of_the_sensor(self, serve_account: Any, run: TaskRun, timeout: Any) -> None:
        with (
            serve_account(AccountResponses()) as account,
            pytest.raises(AirflowSensorTimeout, match=r"did not finish within timeout=0 s \(last status: submitted\)"),
        ):
            run.start_try(timeout=timeout)

        assert len(account.jobs) == 1

    def test_default_timeout_is_that_of_the_sensor(self, serve_account: Any, run: TaskRun) -> None:
        default = WasabiJobSensor(task_id="wait", job_id="12345").timeout
        with serve_account(AccountResponses()):
            task = defer(run, timeout=None)

        assert default - 60 < task.timeout.total_seconds() <= default


def test_execute_in_an_open_dag_context(serve_account: Any, run: TaskRun) -> None:
    with serve_account(AccountResponses()) as account, DAG("media", schedule=None):
        report = execute(submit_task(), run.context)

    assert report == completed(account.jobs[0]["Id"])


class TestOtherJobOfTheName:
    @pytest.mark.parametrize(
        ("field", "value", "expected"),
        [
            (
                "Destination",
                {"Bucket": "staging", "Region": "us-east-1"},
                "destination staging/us-east-1, not results/",
            ),
            ("Destination", {"Bucket": "results", "Region": "eu-1"}, "destination results/eu-1, not results/us-east-1"),
            ("Batch", "another", "batch another, not none"),
            ("Services", {"logo": ""}, "services logo, not ocr"),
        ],
    )
    @pytest.mark.parametrize("status", ["in_progress", "completed"])
    def test_job_for_something_else_is_an_error(
        self, serve_account: Any, run: TaskRun, field: str, value: Any, expected: str, status: str
    ) -> None:
        job = {**make_job("monday", status), field: value}
        with serve_account(AccountResponses(job)) as account, pytest.raises(ValueError, match=expected):
            run.start_try(name="monday")

        assert account.requests == [LOOKUP]

    @pytest.mark.parametrize("missing", ["Destination", "Services", "Source", "Batch"])
    def test_what_the_api_does_not_return_is_not_compared(self, serve_account: Any, run: TaskRun, missing: str) -> None:
        job = {**make_job("monday", "completed"), "Services": {"ocr": {"config": {"added": True}}}}
        job.pop(missing, None)
        with serve_account(AccountResponses(job)) as account:
            assert run.start_try(name="monday") == completed(job["Id"])

        assert account.count(SUBMIT) == 0


class TestNameTemplate:
    def test_name_can_use_the_rendered_source(self, serve_account: Any, run: TaskRun) -> None:
        with DAG("media", schedule=None):
            task = submit_task(
                source={"bucket": "media", "object_key": "{{ key }}"}, name="{{ run }}/{{ task.source.object_key }}"
            )
        task.render_template_fields({"key": "tuesday.mp4", "run": "r1", "task": task})
        with serve_account(AccountResponses()) as account:
            execute(task, run.context)

        assert account.posted_bodies[0]["Name"] == "r1/tuesday.mp4"

    @pytest.mark.parametrize("name", ["r1/{{ params.key }}", "{% if a %}", "r1/MappedArgument(_input=…)"])
    def test_name_that_still_contains_a_template_is_an_error(self, serve_account: Any, run: TaskRun, name: str) -> None:
        task = submit_task(name="{{ later }}")
        task.name = name
        with serve_account(AccountResponses()) as account, pytest.raises(ValueError, match="still contains a template"):
            execute(task, run.context)

        assert account.requests == []


class TestChangedName:
    def test_name_that_the_api_changes_is_logged_at_once(
        self, serve_account: Any, monkeypatch: Any, caplog: Any, run: TaskRun
    ) -> None:
        monkeypatch.setattr(WasabiSubmitJobOperator, "log", logging.getLogger("operator"))
        submitted = json_response({"Job": {"Id": "12345", "Status": "submitted", "Name": "monday"}})
        with serve_account(AccountResponses(make_job("12345", "completed"), post_responses=((True, submitted),))):
            run.start_try(name=" Monday ", wait_for_completion=False)

        assert "submitted with name ' Monday ', but the API stores it as 'monday'" in caplog.text

    def test_listed_job_without_a_name_is_matched_by_source_and_batch(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            job_id = run.start_try(wait_for_completion=False, batch="a")
            del account.jobs[0]["Name"]
            report = run.start_try(batch="a")

        assert report == completed(job_id)
        assert account.count(SUBMIT) == 1


class TestKilledWorker:
    # The retry finds the job running, or already completed.
    @pytest.mark.parametrize("speed", [25, 1e6], ids=["running", "completed"])
    @pytest.mark.parametrize("killed_at", KILL_POINTS)
    def test_retry_succeeds_with_one_job(self, run: TaskRun, killed_at: str, speed: float) -> None:
        with AirEmulator(speed=speed) as emulator:
            assert run_worker(run, emulator.connection_uri, killed_at=killed_at) == -signal.SIGKILL
            submitted, xcoms = len(emulator.job_names), run.xcoms
            assert run_worker(run, emulator.connection_uri) == 0

            assert emulator.job_names == [default_name(run)]
        is_submitted = killed_at not in {"before the lookup", "before the POST"}
        is_pushed = killed_at in {"after the XCom", "before the first poll", "after the first poll"}
        assert (submitted, list(xcoms)) == (int(is_submitted), ["job_id"] if is_pushed else [])
        assert run.xcoms["return_value"] == completed(run.xcoms["job_id"])
        assert xcoms.get("job_id", run.xcoms["job_id"]) == run.xcoms["job_id"]

    def test_worker_killed_at_a_different_point_in_each_try(self, run: TaskRun) -> None:
        with AirEmulator(speed=25) as emulator:
            exit_codes = [
                run_worker(run, emulator.connection_uri, killed_at=killed_at) for killed_at in (*KILL_POINTS, None)
            ]

            assert emulator.job_names == [default_name(run)]
        assert exit_codes == [*[-signal.SIGKILL] * len(KILL_POINTS), 0]
        assert run.xcoms["return_value"] == completed(run.xcoms["job_id"])

    @pytest.mark.parametrize("killed_at", [killed_at for killed_at in KILL_POINTS if "poll" not in killed_at])
    def test_retry_without_wait_for_completion(self, run: TaskRun, killed_at: str) -> None:
        with AirEmulator() as emulator:
            assert (
                run_worker(run, emulator.connection_uri, killed_at=killed_at, wait_for_completion=False)
                == -signal.SIGKILL
            )
            assert run_worker(run, emulator.connection_uri, wait_for_completion=False) == 0

            assert emulator.job_names == [default_name(run)]
        assert run.xcoms["return_value"] == run.xcoms["job_id"]


class TestLostResponse:
    def test_emulator_closes_the_connection(self, serve_emulator: Any, run: TaskRun) -> None:
        with serve_emulator(speed=25, lost_answers=1) as emulator:
            report = run.start_try()

            assert emulator.job_names == [default_name(run)]
        assert report == completed(run.xcoms["job_id"])

    @every_transient_fault
    def test_created_job_is_found_after_a_transient_error(self, serve_account: Any, run: TaskRun, fault: Any) -> None:
        with serve_account(AccountResponses(post_responses=((True, fault),)), **timeout_for(fault)) as account:
            report = run.start_try()

        assert report == completed(account.jobs[0]["Id"])
        assert account.requests[:3] == [LOOKUP, SUBMIT, LOOKUP]
        assert account.count(SUBMIT) == 1

    @every_transient_fault
    def test_job_that_was_not_created_is_submitted_again(
        self, serve_account: Any, run: TaskRun, monkeypatch: Any, fault: Any
    ) -> None:
        monkeypatch.setattr(submit_job, "time", Clock())
        with serve_account(AccountResponses(post_responses=((False, fault),) * 2), **timeout_for(fault)) as account:
            report = run.start_try()

        assert report == completed(account.jobs[0]["Id"])
        assert account.count(SUBMIT) == 3
        assert len(account.jobs) == 1
        submitted_at = [number for number, request in enumerate(account.requests) if request == SUBMIT]
        assert all(later - earlier > 2 for earlier, later in pairwise(submitted_at))

    @every_invalid_response
    def test_created_job_is_found_after_an_invalid_response(
        self, serve_account: Any, run: TaskRun, invalid_response: Any
    ) -> None:
        with serve_account(AccountResponses(post_responses=((True, invalid_response),))) as account:
            report = run.start_try()

        assert report == completed(account.jobs[0]["Id"])
        assert account.count(SUBMIT) == 1

    @every_invalid_response
    def test_invalid_response_without_a_job_is_an_error(
        self, serve_account: Any, run: TaskRun, monkeypatch: Any, invalid_response: Any
    ) -> None:
        monkeypatch.setattr(submit_job, "time", Clock())
        monkeypatch.setattr(submit_job, "LOOKUP_SECONDS", 10)
        monkeypatch.setattr(submit_job, "LOOKUP_INTERVAL_SECONDS", 2)
        with (
            serve_account(AccountResponses(post_responses=((False, invalid_response),))) as account,
            pytest.raises(exceptions.InvalidResponseError),
        ):
            run.start_try()

        assert account.count(SUBMIT) == 1
        assert account.count(LOOKUP) == 1 + 6  # once before the POST, then every 2 seconds for 10 seconds

    def test_job_that_is_listed_late(self, serve_account: Any, run: TaskRun, monkeypatch: Any) -> None:
        monkeypatch.setattr(submit_job, "LOOKUP_SECONDS", 10)
        with serve_account(AccountResponses(post_responses=((True, reset()),), hidden_for=4)) as account:
            report = run.start_try()

        assert report == completed(account.jobs[0]["Id"])
        assert (account.count(SUBMIT), account.count(LOOKUP)) == (1, 6)

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("before", [[], ["failed"], ["completed", "cancelled"]], ids=", ".join)
    @pytest.mark.parametrize(
        ("initial_status", "expected_error"),
        [("completed", None), ("failed", WasabiJobFailed), ("cancelled", WasabiJobCancelled)],
    )
    def test_job_that_has_finished_before_the_lookup(
        self,
        serve_account: Any,
        run: TaskRun,
        before: list[str],
        initial_status: str,
        expected_error: Any,
        if_exists: str,
    ) -> None:
        if if_exists == "reuse":
            before = [status for status in before if status != "completed"]
        existing_jobs = [make_job("monday", status) for status in before]
        with serve_account(
            AccountResponses(*existing_jobs, post_responses=((True, reset()),), initial_status=initial_status)
        ) as account:
            if expected_error is None:
                run.start_try(name="monday", if_exists=if_exists)
            else:
                with pytest.raises(expected_error):
                    run.start_try(name="monday", if_exists=if_exists)

        assert run.xcoms["job_id"] == account.jobs[-1]["Id"]
        assert account.count(SUBMIT) == 1

    def test_transient_error_of_the_lookup_is_retried(self, serve_account: Any, run: TaskRun) -> None:
        lookup_responses = (json_response({"Records": []}), response(503), reset(), response(429))
        with serve_account(
            AccountResponses(post_responses=((True, reset()),), lookup_responses=lookup_responses)
        ) as account:
            report = run.start_try()

        assert report == completed(account.jobs[0]["Id"])
        assert (account.count(SUBMIT), account.count(LOOKUP)) == (1, 5)

    def test_task_retry_finds_the_job_after_a_long_outage_of_the_lookup(
        self, serve_account: Any, run: TaskRun, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(submit_job, "SUBMIT_RETRY_SECONDS", 0.2)
        lookup_responses = (json_response({"Records": []}), *[response(503)] * 1000)
        with serve_account(
            AccountResponses(post_responses=((True, reset()),), lookup_responses=lookup_responses)
        ) as account:
            with pytest.raises(exceptions.ServerError):
                run.start_try()
            assert account.count(SUBMIT) == 1

            account.lookup_responses.clear()
            assert run.start_try() == completed(account.jobs[0]["Id"])
            assert account.count(SUBMIT) == 1

    def test_submit_fails_after_a_long_outage(self, serve_account: Any, run: TaskRun, monkeypatch: Any) -> None:
        monkeypatch.setattr(submit_job, "SUBMIT_RETRY_SECONDS", 0.3)
        with (
            serve_account(AccountResponses(post_responses=((False, response(503)),) * 1000)) as account,
            pytest.raises(exceptions.ServerError),
        ):
            run.start_try()

        assert account.requests[-1] == LOOKUP
        assert account.jobs == []

    def test_submit_waits_for_retry_after(self, serve_account: Any, run: TaskRun, monkeypatch: Any) -> None:
        times = []
        submit_job = WasabiJobsHook.submit_job

        def submit_and_record_time(*arguments: Any, **options: Any) -> Any:
            times.append(time.monotonic())
            return submit_job(*arguments, **options)

        monkeypatch.setattr(WasabiJobsHook, "submit_job", submit_and_record_time)
        with serve_account(AccountResponses(post_responses=((False, response(429, Retry_After="1")),))) as account:
            run.start_try()

        assert len(account.jobs) == 1
        assert times[1] - times[0] >= 1

    @every_permanent_error
    def test_permanent_error_is_raised_immediately(
        self, serve_account: Any, run: TaskRun, error_response: bytes, error: Any
    ) -> None:
        with (
            serve_account(AccountResponses(post_responses=((False, error_response),))) as account,
            pytest.raises(exceptions.WasabiApiError) as caught,
        ):
            run.start_try()

        assert type(caught.value) is error
        assert "'wasabi_default'" in str(caught.value)
        assert account.requests == [LOOKUP, SUBMIT]
        assert run.xcoms == {}


class TestTimeout:
    """``timeout`` bounds the submission, too."""

    @pytest.mark.parametrize(
        "responses",
        [
            {"post_responses": ((False, response(503)),) * 1000},
            {"lookup_responses": (response(503),) * 1000},
            {
                "lookup_responses": (json_response({"Records": []}), *[response(503)] * 1000),
                "post_responses": ((True, reset()),),
            },
        ],
        ids=["submission", "lookup", "lookup-of-a-lost-response"],
    )
    def test_submission_times_out(self, serve_account: Any, run: TaskRun, responses: Any) -> None:
        with (
            serve_account(AccountResponses(**responses)) as account,
            pytest.raises(
                AirflowSensorTimeout,
                match=r"'monday' \(media/monday\.mp4, connection 'wasabi_default'\) could not be submitted within "
                r"timeout=0 s\. The last request failed: .*503.* Clear this task",
            ) as caught,
        ):
            run.start_try(name="monday", timeout=0.2)

        assert isinstance(caught.value.__cause__, exceptions.ServerError)
        assert account.jobs == [] or account.count(SUBMIT) == 1


class TestLog:
    @pytest.fixture
    def lines(self, caplog: Any) -> Any:
        caplog.set_level(logging.INFO)
        return lambda level="INFO": [r.getMessage() for r in caplog.records if r.levelname == level]

    def test_submission(self, serve_account: Any, run: TaskRun, lines: Any) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(name="monday")

        job_id = account.jobs[0]["Id"]
        assert (
            f"Submitted job {job_id} (media/monday.mp4), name 'monday', services ocr, destination results (us-east-1)."
        ) in lines()
        start = next(line for line in lines() if "waiting in" in line)
        assert start.startswith(f"Job '{job_id}' (media/monday.mp4): waiting in a worker; polling every 0.02 s; times")

    def test_cleared_task_names_the_earlier_job(self, serve_account: Any, run: TaskRun, lines: Any) -> None:
        failed = make_job("monday", "failed")
        with serve_account(AccountResponses(failed)):
            run.start_try(name="monday")

        assert f"Earlier job {failed['Id']} (failed), name 'monday', is not reused; submitting a new job." in lines()

    def test_location_of_the_result(self, serve_emulator: Any, run: TaskRun, lines: Any) -> None:
        with serve_emulator(speed=1e6):
            report = run.start_try(name="completes", fetch_metadata=True)

        assert lines()[-1].endswith(f"(media/monday.mp4): the result is {report['metadata_path']}.")

    def test_refused_connection_is_logged_once_a_minute(
        self, set_connection: Any, run: TaskRun, monkeypatch: Any, lines: Any
    ) -> None:
        monkeypatch.setattr(submit_job, "SUBMIT_RETRY_SECONDS", 0.3)
        with refused_url() as url:
            set_connection(url)
            with pytest.raises(exceptions.ApiConnectionError) as caught:
                run.start_try()

        (line,) = lines("WARNING")
        assert re.fullmatch(r".*Connection refused.* Retrying for up to 0 more seconds\.", line)
        assert lines("ERROR") == [str(caught.value)]


class TestLookup:
    @every_transient_fault
    def test_transient_error_is_retried(self, serve_account: Any, run: TaskRun, fault: Any) -> None:
        with serve_account(AccountResponses(lookup_responses=(fault, fault)), **timeout_for(fault)) as account:
            report = run.start_try()

        assert report == completed(account.jobs[0]["Id"])
        assert account.requests[:4] == [LOOKUP, LOOKUP, LOOKUP, SUBMIT]
        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize(
        ("fault", "error"), [(response(503), exceptions.ServerError), (reset(), exceptions.ApiConnectionError)]
    )
    def test_long_outage_is_an_error(
        self, serve_account: Any, run: TaskRun, monkeypatch: Any, fault: Any, error: Any
    ) -> None:
        monkeypatch.setattr(submit_job, "SUBMIT_RETRY_SECONDS", 0.2)
        with serve_account(AccountResponses(lookup_responses=(fault,) * 1000)) as account, pytest.raises(error):
            run.start_try()

        assert set(account.requests) == {LOOKUP}

    def test_connection_refused_is_an_error(self, set_connection: Any, run: TaskRun, monkeypatch: Any) -> None:
        monkeypatch.setattr(submit_job, "SUBMIT_RETRY_SECONDS", 0.2)
        with refused_url() as url:
            set_connection(url)
            with pytest.raises(exceptions.ApiConnectionError, match="Connection refused"):
                run.start_try()

    @every_permanent_error
    def test_permanent_error_is_raised_immediately(
        self, serve_account: Any, run: TaskRun, error_response: bytes, error: Any
    ) -> None:
        with (
            serve_account(AccountResponses(lookup_responses=(error_response,))) as account,
            pytest.raises(exceptions.WasabiApiError) as caught,
        ):
            run.start_try()

        assert type(caught.value) is error
        assert account.requests == [LOOKUP]

    def test_invalid_response_is_raised_immediately(self, serve_account: Any, run: TaskRun) -> None:
        with (
            serve_account(AccountResponses(lookup_responses=(response(200, "Welcome"),))) as account,
            pytest.raises(exceptions.InvalidResponseError),
        ):
            run.start_try()

        assert account.requests == [LOOKUP]

    # Each name is a part of another name, or differs only in case, except the last.
    @pytest.mark.parametrize("order", [1, -1], ids=["short-first", "long-first"])
    def test_names_that_contain_each_other(self, serve_emulator: Any, run: TaskRun, order: int) -> None:
        names = ["mon", "monday", "Monday", "monday.mp4", "on monday.mp4", "100% monday.mp4"][::order]
        with serve_emulator(speed=1e-6, loose_filters=True) as emulator:
            first_ids = [run.start_try(name=name, wait_for_completion=False) for name in names]
            second_ids = [run.start_try(name=name, wait_for_completion=False) for name in reversed(names)]

            assert emulator.job_names == names
        assert second_ids == first_ids[::-1]
        assert len(set(first_ids)) == len(names)

    def test_loose_filter_after_a_lost_response(self, serve_emulator: Any, run: TaskRun) -> None:
        with serve_emulator(speed=1e-6, loose_filters=True, lost_answers=2) as emulator:
            long_name_id = run.start_try(name="monday.mp4", wait_for_completion=False)
            short_name_id = run.start_try(name="monday", wait_for_completion=False)

            assert emulator.job_names == ["monday.mp4", "monday"]
        assert long_name_id != short_name_id

    @pytest.mark.parametrize("status", [*UNFINISHED, "completed"])
    @pytest.mark.parametrize("other_file", [{**FILE, "object_key": "tuesday.mp4"}, {**FILE, "bucket": "archive"}])
    def test_job_of_that_name_for_another_file(
        self, serve_account: Any, run: TaskRun, other_file: Any, status: str
    ) -> None:
        with (
            serve_account(AccountResponses(make_job("monday", status, other_file))) as account,
            pytest.raises(ValueError) as caught,
        ):
            run.start_try(name="monday")

        assert str(caught.value) == (
            f"Job name 'monday' of task 'submit' (connection 'wasabi_default') already belongs to job "
            f"{account.jobs[0]['Id']} for file "
            f"{other_file['bucket']}/{other_file['object_key']}, not media/monday.mp4. "
            "Use a unique name for each file, or omit name."
        )
        assert account.requests == [LOOKUP]

    def test_mapped_task_with_another_file(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(wait_for_completion=False)
            with pytest.raises(ValueError, match="start a new run, or set name, for example to"):
                run.start_try(source={**FILE, "object_key": "tuesday.mp4"})

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("source", [{}, {"bucket": "media"}, {"object_key": "monday.mp4"}], ids=", ".join)
    def test_job_without_source(self, serve_account: Any, run: TaskRun, source: Any) -> None:
        with serve_account(AccountResponses(make_job("monday", "completed", source))) as account:
            report = run.start_try(name="monday")

        assert report == completed(account.jobs[0]["Id"])
        assert account.count(SUBMIT) == 0

    def test_job_on_the_second_page(self, serve_account: Any, run: TaskRun) -> None:
        existing_jobs = [make_job("monday", "in_progress"), *[make_job("monday", "failed") for _ in range(120)]]
        with serve_account(AccountResponses(*existing_jobs)) as account:
            report = run.start_try(name="monday")

        assert report == completed(existing_jobs[0]["Id"])
        assert account.count(SUBMIT) == 0


class TestConcurrentRuns:
    @pytest.mark.parametrize("lost_answers", [0, 10])
    def test_each_run_has_its_own_job(self, serve_emulator: Any, tmp_path: Path, lost_answers: int) -> None:
        # Run ids that contain each other, with filters that match substrings.
        runs = [TaskRun(tmp_path / str(number), run_id=f"run{'1' * number}") for number in range(10)]
        all_started = threading.Barrier(len(runs))

        def start(run: TaskRun) -> Any:
            all_started.wait()
            return run.start_try()

        with (
            serve_emulator(speed=5, loose_filters=True, lost_answers=lost_answers) as emulator,
            ThreadPoolExecutor(len(runs)) as pool,
        ):
            reports = list(pool.map(start, runs))
            second_reports = [run.start_try() for run in runs]

            assert sorted(emulator.job_names) == sorted(map(default_name, runs))
        assert [report["status"] for report in reports] == ["completed"] * 10
        assert len({report["job_id"] for report in reports}) == 10
        assert second_reports == reports


class TestIfExists:
    @pytest.mark.parametrize(
        ("existing_jobs", "reuse", "submit"),
        [
            # The existing jobs of that name, oldest first, and the index of the job to wait for; None: a new job.
            ([], None, None),
            (["submitted"], 0, 0),
            (["preflight"], 0, 0),
            (["in_progress"], 0, 0),
            (["completed"], 0, None),
            (["failed"], None, None),
            (["cancelled"], None, None),
            (["failed", "in_progress"], 1, 1),
            (["in_progress", "failed"], 0, 0),
            (["completed", "submitted"], 1, 1),
            (["preflight", "completed"], 0, 0),
            (["submitted", "in_progress"], 1, 1),
            (["completed", "completed"], 1, None),
            (["failed", "completed"], 1, None),
            (["completed", "cancelled"], 0, None),
            (["completed", "in_progress", "failed"], 1, 1),
            (["failed", "cancelled", "failed"], None, None),
        ],
        ids=lambda existing_jobs: ", ".join(existing_jobs) or "none" if isinstance(existing_jobs, list) else "",
    )
    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    def test_job_to_wait_for(
        self, serve_account: Any, run: TaskRun, existing_jobs: list[str], reuse: Any, submit: Any, if_exists: str
    ) -> None:
        expected = {"reuse": reuse, "submit": submit}[if_exists]
        with serve_account(AccountResponses(*[make_job("monday", status) for status in existing_jobs])) as account:
            report = run.start_try(name="monday", if_exists=if_exists)

        assert len(account.jobs) == len(existing_jobs) + (expected is None)
        job = account.jobs[-1 if expected is None else expected]
        assert report == completed(job["Id"])
        assert set(account.polled_jobs) == {job["Id"]}

    def test_reuse_is_the_default(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses(make_job("monday", "completed"))) as account:
            run.start_try(name="monday")

        assert account.count(SUBMIT) == 0

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    def test_unknown_status_is_not_finished(self, serve_account: Any, run: TaskRun, if_exists: str) -> None:
        with (
            serve_account(AccountResponses(make_job("monday", "paused"))) as account,
            pytest.raises(exceptions.InvalidResponseError, match="Status"),
        ):
            run.start_try(name="monday", if_exists=if_exists)

        assert account.count(SUBMIT) == 0

    def test_cleared_task_submits_a_failed_job_again(self, serve_emulator: Any, run: TaskRun) -> None:
        with serve_emulator(speed=1e6) as emulator:
            for _ in range(3):
                with pytest.raises(WasabiJobFailed):
                    run.start_try(name="fails")

            assert emulator.job_names == ["fails"] * 3

    def test_cleared_task_reuses_a_completed_job(self, serve_emulator: Any, run: TaskRun) -> None:
        with serve_emulator(speed=1e6) as emulator:
            reports = [run.start_try() for _ in range(3)]

            assert len(emulator.job_names) == 1
        assert reports == [reports[0]] * 3


class TestDefaultName:
    def test_installations_on_one_account_are_separate(
        self, serve_emulator: Any, run: TaskRun, monkeypatch: Any
    ) -> None:
        with serve_emulator(speed=1e6) as emulator:
            run.start_try()
            monkeypatch.setenv("AIRFLOW__WASABI__JOB_NAME_PREFIX", "staging/")
            run.start_try(destination={"bucket": "staging-results", "region": "us-east-1"})

        assert emulator.job_names == [
            "media/submit/manual__2026-01-01T00:00:00+00:00",
            "staging/media/submit/manual__2026-01-01T00:00:00+00:00",
        ]

    def test_contains_dag_task_map_index_and_run(self) -> None:
        name = default_name(TaskRun(Path(), run_id="scheduled__2026-01-01T00:00:00+00:00", map_index=3))

        assert name == "media/submit[3]/scheduled__2026-01-01T00:00:00+00:00"

    @pytest.mark.parametrize("map_index", [None, -1])
    def test_unmapped_task(self, map_index: Any) -> None:
        assert default_name(TaskRun(Path(), run_id="r", map_index=map_index)) == "media/submit/r"

    def test_is_unique_for_each_task_run(self) -> None:
        runs = [
            ("a", "b", "r", -1),
            ("a.b", "c", "r", -1),
            ("a", "b.c", "r", -1),
            ("a.b.c", "d", "r", -1),
            ("a", "b", "r", 0),
            ("a", "b", "r", 1),
            ("a", "b", "r", 11),
            ("a", "b0", "r", -1),
            ("a", "b", "0", -1),
            ("a", "b", "c/r", -1),
            ("a", "b", "[0]/r", -1),
            ("a-b", "c", "r", -1),
            ("a", "b-c", "r", -1),
            ("a__b", "c", "r", -1),
            ("a", "b__c", "r", -1),
            *[("d" * 250, "t" * 250, f"{'r' * 240}{number}", -1) for number in range(3)],
            ("d" * 250, "t" * 250, "r", 0),
            ("d" * 250, "t" * 250, "r", 1),
            ("d" * 249, "t" * 250, "r", 1),
            ("d" * 249, "t" * 249, "r", 1),
        ]
        names = [
            default_name(SimpleNamespace(dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index))
            for dag_id, task_id, run_id, map_index in runs
        ]

        assert [
            (first_name, second_name) for first_name, second_name in combinations(names, 2) if first_name == second_name
        ] == []
        assert all(len(name) <= 256 for name in names)

    def test_long_name_is_deterministic(self) -> None:
        name = default_name(TaskRun(Path(), dag_id="d" * 250, run_id="r"))
        second_name = default_name(TaskRun(Path(), dag_id="d" * 250, run_id="s"))

        assert name == f"{'d' * 239}-6a5e222d78fd813b"
        assert name[:239] == second_name[:239]
        assert name != second_name

    @pytest.mark.parametrize("length", [255, 256])
    def test_name_within_the_limit_is_not_truncated(self, length: int) -> None:
        run_id = "r" * (length - len("media/submit/"))

        assert default_name(TaskRun(Path(), run_id=run_id)) == f"media/submit/{run_id}"

    @pytest.mark.parametrize("delimiters", [{}, {"variable_start_string": "[[", "block_start_string": "[%"}])
    def test_name_does_not_depend_on_the_delimiters_of_templates(
        self, serve_account: Any, run: TaskRun, delimiters: dict[str, str]
    ) -> None:
        with DAG("media", schedule=None, jinja_environment_kwargs=delimiters):
            task = submit_task()
        task.render_template_fields({"ti": run})
        with serve_account(AccountResponses()) as account:
            execute(task, run.context)

        assert account.posted_bodies[0]["Name"] == default_name(run)
        assert delimiters or task.name == default_name(run)

    def test_name_of_256_characters_is_accepted(self, serve_emulator: Any, tmp_path: Path) -> None:
        run = TaskRun(tmp_path / "xcoms.json", dag_id="d" * 250, run_id="r" * 250)
        with serve_emulator(speed=1e6) as emulator:
            run.start_try()
            run.start_try()

            assert emulator.job_names == [default_name(run)]


class FakeStateStore:
    """The task state store of Airflow 3.3: JSON values that survive a retry."""

    def __init__(self, fixed_value: Any = None) -> None:
        self.values: dict[str, str] = {}
        self.fixed_value = fixed_value

    def get(self, key: str, default: Any = None) -> Any:
        if isinstance(self.fixed_value, Exception):
            raise self.fixed_value
        if self.fixed_value is not None:
            return self.fixed_value
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        if isinstance(self.fixed_value, Exception):
            raise self.fixed_value
        self.values[key] = json.dumps(value)


class TestStateStore:
    @pytest.fixture
    def run(self, run: TaskRun) -> TaskRun:
        return TaskRun(run.xcom_file, task_state_store=FakeStateStore())

    @pytest.mark.parametrize("status", [*UNFINISHED, "completed"])
    def test_retry_uses_the_stored_job(self, serve_account: Any, run: TaskRun, status: str) -> None:
        with serve_account(AccountResponses()) as account:
            job_id = run.start_try(wait_for_completion=False)
            account.jobs[0]["Status"] = status
            account.requests.clear()
            report = run.start_try()

        assert report == completed(job_id)
        assert account.requests[0] == f"GET /jobs/{job_id}"
        assert not {LOOKUP, SUBMIT} & set(account.requests)

    def test_retry_finds_a_job_that_is_not_listed(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses(hidden_for=100)) as account:
            reports = [run.start_try(), run.start_try()]

        assert reports == [completed(account.jobs[0]["Id"])] * 2
        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_stored_job_failed(self, serve_account: Any, run: TaskRun, status: str, if_exists: str) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(wait_for_completion=False)
            account.jobs[0]["Status"] = status
            account.requests.clear()
            report = run.start_try(if_exists=if_exists)

        assert report == completed(account.jobs[1]["Id"])
        assert (account.count(LOOKUP), account.count(SUBMIT)) == (1, 1)

    def test_stored_job_failed_and_another_job_is_running(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(wait_for_completion=False)
            account.jobs[0]["Status"] = "failed"
            account.jobs.append(make_job(default_name(run), "in_progress"))
            report = run.start_try()

        assert report == completed(account.jobs[1]["Id"])
        assert account.count(SUBMIT) == 1

    def test_stored_completed_job_is_not_reused_with_submit(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            reports = [run.start_try(), run.start_try(if_exists="submit")]

        assert reports == [completed(job["Id"]) for job in account.jobs]
        assert account.count(SUBMIT) == 2

    def test_stored_job_does_not_exist_any_more(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try()
            account.jobs.clear()
            report = run.start_try()

        assert report == completed(account.jobs[0]["Id"])

    def test_stored_job_of_another_name(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(name="monday", wait_for_completion=False)
            account.requests.clear()
            report = run.start_try(name="tuesday")

        assert [job["Name"] for job in account.jobs] == ["monday", "tuesday"]
        assert report == completed(account.jobs[1]["Id"])
        assert account.requests[:2] == [LOOKUP, SUBMIT]

    def test_stored_job_with_a_different_name_in_the_api(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(name="monday")
            account.jobs[0]["Name"] = "tuesday"
            run.start_try(name="monday")

        assert account.count(SUBMIT) == 2

    def test_stored_job_without_a_name_in_the_api(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            job_id = run.start_try(wait_for_completion=False)
            del account.jobs[0]["Name"]
            report = run.start_try()

        assert report == completed(job_id)
        assert account.count(SUBMIT) == 1

    def test_stored_job_for_another_file(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            run.start_try(name="monday")
            with pytest.raises(
                ValueError, match=r"already belongs to job .* for file media/monday\.mp4, not media/tuesday\.mp4"
            ):
                run.start_try(name="monday", source={**FILE, "object_key": "tuesday.mp4"})

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize(
        "stored_value",
        [
            RuntimeError("no database"),
            "12345",
            12345,
            ["12345"],
            {},
            {"name": "monday"},
            {"name": "monday", "job_id": None},
            {"name": "monday", "job_id": ".."},
            {"name": "monday", "job_id": ["12345"]},
            {"name": "monday", "job_id": "unknown-job"},
        ],
        ids=repr,
    )
    def test_unusable_state_store_is_ignored(self, serve_account: Any, tmp_path: Path, stored_value: Any) -> None:
        run = TaskRun(tmp_path / "xcoms.json", task_state_store=FakeStateStore(stored_value))
        with serve_account(AccountResponses()) as account:
            reports = [run.start_try(name="monday"), run.start_try(name="monday")]

        assert reports == [completed(account.jobs[0]["Id"])] * 2
        assert account.count(SUBMIT) == 1

    @every_transient_fault
    def test_transient_error_for_the_stored_job_is_retried(self, serve_account: Any, run: TaskRun, fault: Any) -> None:
        with serve_account(AccountResponses(), **timeout_for(fault)) as account:
            job_id = run.start_try(wait_for_completion=False)
            account.faults[f"GET /jobs/{job_id}"] = fault
            report = run.start_try()

        assert report == completed(job_id)
        assert account.count(SUBMIT) == 1


class TestDeferrable:
    def test_defers_like_the_sensor(self, serve_account: Any, run: TaskRun) -> None:
        options = {"poke_interval": 7, "timeout": 3600}
        with serve_account(AccountResponses()) as account:
            task = defer(run, **options)
            account.jobs[0]["Status"] = "in_progress"
            sensor = WasabiJobSensor(task_id="wait", job_id=account.jobs[0]["Id"], deferrable=True, **options)
            with pytest.raises(TaskDeferred) as caught:
                sensor.execute({})

        assert task.trigger.serialize() == caught.value.trigger.serialize()
        assert task.method_name == caught.value.method_name
        assert 3590 < task.timeout.total_seconds() <= 3600
        assert run.xcoms == {"job_id": account.jobs[0]["Id"]}

    def test_finished_job_is_not_deferred(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses(initial_status="completed")) as account:
            assert run.start_try(deferrable=True) == completed(account.jobs[0]["Id"])

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("xcom", ["kept", "cleared"])
    @pytest.mark.parametrize(
        ("status", "error_count", "expected_error"),
        [
            ("completed", 0, None),
            ("completed", 2, WasabiJobFailed),
            ("failed", 1, WasabiJobFailed),
            ("cancelled", 0, WasabiJobCancelled),
        ],
    )
    def test_outcomes_are_those_of_the_sensor(
        self,
        serve_account: Any,
        run: TaskRun,
        status: str,
        error_count: int,
        expected_error: Any,
        xcom: str,
        if_exists: str,
    ) -> None:
        # The older job of that name must not be used.
        with serve_account(AccountResponses(make_job("monday", "failed"))) as account:
            task = defer(run, name="monday", if_exists=if_exists)
            job = account.jobs[1]
            job |= {"Status": status, "ErrorCount": error_count}
            if xcom == "cleared":
                run.clear_xcoms()
            arguments = {"name": "monday", "if_exists": if_exists, "max_error_count": 1}
            if expected_error is None:
                assert run.resume_try(task.method_name, resume_kwargs(task), **arguments) == completed(job["Id"])
            else:
                with pytest.raises(expected_error, match=job["Id"]):
                    run.resume_try(task.method_name, resume_kwargs(task), **arguments)

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("xcom", ["kept", "cleared"])
    def test_error_event_is_raised_as_that_error(self, serve_account: Any, run: TaskRun, xcom: str) -> None:
        with serve_account(AccountResponses()) as account:
            task = defer(run)
            account.faults[f"GET /jobs/{account.jobs[0]['Id']}/status"] = response(403)
            if xcom == "cleared":
                run.clear_xcoms()
            with pytest.raises(exceptions.PermissionDeniedError, match=account.jobs[0]["Id"]):
                run.resume_try(task.method_name, resume_kwargs(task))

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("message", ["Trigger timeout", "Trigger/execution timeout"], ids=["3.x", "2.11"])
    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("xcom", ["kept", "cleared"])
    @pytest.mark.parametrize(
        ("status", "expected_error"),
        [
            *[(status, AirflowSensorTimeout) for status in UNFINISHED],
            ("completed", None),
            ("failed", WasabiJobFailed),
            ("cancelled", WasabiJobCancelled),
        ],
    )
    def test_last_poll_at_the_timeout_counts(
        self,
        serve_account: Any,
        run: TaskRun,
        status: str,
        expected_error: Any,
        xcom: str,
        if_exists: str,
        message: str,
    ) -> None:
        # The older job of that name must not be used.
        with serve_account(AccountResponses(make_job("monday", "failed"))) as account:
            defer(run, name="monday", if_exists=if_exists)
            _, job = account.jobs
            job["Status"] = status
            if xcom == "cleared":
                run.clear_xcoms()
            arguments = {"name": "monday", "if_exists": if_exists}
            if expected_error is None:
                assert run.resume_try("__fail__", {"error": message}, **arguments) == completed(job["Id"])
            else:
                with pytest.raises(expected_error, match=job["Id"]):
                    run.resume_try("__fail__", {"error": message}, **arguments)

        assert account.count(SUBMIT) == 1

    def test_older_job_is_not_used_without_the_xcom(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses(make_job("monday", "completed"))) as account:
            defer(run, name="monday", if_exists="submit")
            account.jobs[1]["Status"] = "failed"
            run.clear_xcoms()
            with pytest.raises(WasabiJobFailed, match=account.jobs[1]["Id"]):
                run.resume_try("__fail__", {"error": "Trigger timeout"}, name="monday", if_exists="submit")

    def test_event_of_a_job_that_is_not_the_newest(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            task = defer(run, name="monday")
            account.jobs[0]["Status"] = "failed"
            account.jobs.append(make_job("monday", "in_progress"))
            run.clear_xcoms()
            with pytest.raises(WasabiJobFailed, match=account.jobs[0]["Id"]):
                run.resume_try(task.method_name, resume_kwargs(task), name="monday")

        # The error code is also requested for that job.
        assert account.requests[-1] == f"GET /jobs/{account.jobs[0]['Id']}/errors"
        assert account.count(LOOKUP) == 1

    def test_xcom_identifies_the_job(self, serve_account: Any, tmp_path: Path) -> None:
        run = TaskRun(tmp_path / "xcoms.json", map_index=3)
        with serve_account(AccountResponses()) as account:
            defer(run, name="monday")
            account.jobs[0]["Status"] = "failed"
            account.jobs.append(make_job("monday", "in_progress"))
            with pytest.raises(WasabiJobFailed, match=account.jobs[0]["Id"]):
                run.resume_try("__fail__", {"error": "Trigger timeout"}, name="monday")

        assert account.count(LOOKUP) == 1

    def test_newer_failed_job_is_not_used(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(
            AccountResponses(make_job("monday", "in_progress"), make_job("monday", "failed"))
        ) as account:
            defer(run, name="monday")
            account.jobs[0]["Status"] = "in_progress"
            run.clear_xcoms()
            with pytest.raises(AirflowSensorTimeout, match=account.jobs[0]["Id"]):
                run.resume_try("__fail__", {"error": "Trigger timeout"}, name="monday")

    def test_missing_xcom_and_missing_job(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            defer(run, name="monday")
            run.clear_xcoms()
            account.jobs.clear()
            with pytest.raises(
                exceptions.NotFoundError, match=r"job named 'monday', but connection 'wasabi_default' has none"
            ):
                run.resume_try("__fail__", {"error": "Trigger timeout"}, name="monday")

    def test_trigger_failure_is_raised(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            defer(run)
            with pytest.raises(AirflowException, match="Trigger failure"):
                run.resume_try("__fail__", {"error": "Trigger failure", "traceback": ["boom"]})

        assert account.count(SUBMIT) == 1

    def test_retry_of_a_deferred_task_submits_no_second_job(self, serve_account: Any, run: TaskRun) -> None:
        with serve_account(AccountResponses()) as account:
            defer(run)
            account.jobs[0]["Status"] = "in_progress"
            second_deferral = defer(run)

        assert account.count(SUBMIT) == 1
        assert second_deferral.trigger.job_id == account.jobs[0]["Id"]


INVALID_ARGUMENTS = [
    *[("name", name) for name in ("", "  ", "None", "n" * 257, 1.5, ["monday"])],
    *[
        ("source", source)
        for source in (None, "media/monday.mp4", {}, [FILE], {"bucket": "media"}, {"object_key": "a"})
    ],
    *[("source", {**FILE, "bucket": bucket}) for bucket in ("", "  ", "None", None, 1.5)],
    ("source", {**FILE, "object_key": ""}),
    ("source", {**FILE, "region": ""}),
    ("source", {**FILE, "endpoint": "None"}),
    ("source", {"Bucket": "media", "ObjectKey": "monday.mp4"}),
    ("source", {**FILE, "bucket": "", "object_key": "{{ ds }}.mp4"}),
    ("source", {"bucket": "{{ ds }}"}),
    *[
        ("destination", destination)
        for destination in (None, "results", {}, {"bucket": "results"}, {"region": "us-east-1"})
    ],
    ("destination", {**RESULTS, "region": ""}),
    ("destination", {**RESULTS, "endpoint": "https://s3.example.com"}),
    *[
        ("services", services)
        for services in (None, "ocr", [], {}, (), set(), [5], {5}, {" ocr"}, ["ocr", " ocr"], {"": ""}, [""])
    ],
    *[("services", {"ocr": value}) for value in (None, {}, "yes", {"config": 1}, {"config": {}, "more": 1})],
    ("services", {"ocr": {"config": {"threshold": float("nan")}}}),
    *[("priority", priority) for priority in (0, 11, -1, True, 1.5, "11", "high")],
    *[("batch", batch) for batch in ("", "  ", "None", "b" * 257, 1.5)],
    *[("wasabi_conn_id", conn_id) for conn_id in (None, "", "  ", "None")],
    *[("source_conn_id", conn_id) for conn_id in ("", "  ", "None", 1.5)],
    *[("if_exists", if_exists) for if_exists in ("", None, "replace")],
    *[("max_error_count", count) for count in (-1, 1.5, "-1", "many", True)],
    *[("poke_interval", seconds) for seconds in (None, -1, "60", True, float("nan"), float("inf"), timedelta(-1))],
    *[("timeout", seconds) for seconds in (-1, "60", True, float("nan"), float("inf"), timedelta(-1))],
]


class TestArguments:
    @pytest.mark.parametrize(("field", "value"), INVALID_ARGUMENTS)
    def test_invalid_literal_argument_is_rejected_at_parse_time(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf"^(\w+ in |Unknown keys? .* in )?{field} of task 'submit'"):
            submit_task(**{field: value})

    @pytest.mark.parametrize("seconds", [0, timedelta(0)])
    def test_deferrable_needs_a_positive_poke_interval(self, seconds: Any) -> None:
        with pytest.raises(ValueError, match=r"^poke_interval of task 'submit' is 0"):
            submit_task(poke_interval=seconds, deferrable=True)

        submit_task(poke_interval=seconds)

    @pytest.mark.parametrize("field", ["access_key", "AccessKey", "secret_key", "aws_secret_access_key"])
    def test_keys_in_the_source_are_rejected_and_not_shown(self, field: str) -> None:
        with pytest.raises(
            ValueError, match=f"^Unknown key {field!r} in source of task 'submit'.* see source_conn_id"
        ) as caught:
            submit_task(source={**FILE, field: SECRET_KEY})

        assert SECRET_KEY not in str(caught.value)

    @pytest.mark.parametrize(
        ("field", "template", "message"),
        [
            ("name", "{{ empty }}", "name of task .* is ''"),
            ("name", "{{ nothing }}", "name of task .* is 'None'"),
            ("name", "{{ long }}", "name of task .* has 300 characters, but at most 256 are allowed"),
            ("batch", "{{ empty }}", "batch of task .* is ''"),
            ("batch", "{{ nothing }}", "batch of task .* is 'None'"),
            ("batch", "{{ long }}", "batch of task .* has 300 characters, but at most 256 are allowed"),
            ("source", "{{ file }}", "source of task .* is a str, but must be a dict"),
            ("source", {**FILE, "bucket": "{{ empty }}"}, "bucket in source of task .* is ''"),
            ("source", {**FILE, "object_key": "{{ nothing }}"}, "object_key in source of task .* is 'None'"),
            ("source", {**FILE, "region": "{% if no %}us-east-1{% endif %}"}, "region in source of task .* is ''"),
            ("destination", {**RESULTS, "bucket": "{{ nothing }}"}, "bucket in destination of task .* is 'None'"),
            ("destination", {**RESULTS, "region": "{{ empty }}"}, "region in destination of task .* is ''"),
            ("services", "{{ services }}", "services of task .* must be a list of services, or a dict"),
            ("services", ["ocr", "{{ empty }}"], "services of task .* has the service ''"),
            ("services", {"ocr": "{{ nothing }}"}, "services of task .* has 'None' for ocr"),
            ("priority", "{{ empty }}", "priority of task .* is '', but must be an integer from 1 to 10"),
            ("priority", "{{ nothing }}", "priority of task .* is 'None', but must be an integer from 1 to 10"),
            (
                "max_error_count",
                "{{ nothing }}",
                "max_error_count of task .* is 'None', but must be None or an integer",
            ),
            ("if_exists", "{{ empty }}", "if_exists of task .* is '', but must be 'reuse' or 'submit'"),
            ("source_conn_id", "{{ empty }}", "source_conn_id of task .* is '', but must be a connection id"),
            ("wasabi_conn_id", "{{ empty }}", "wasabi_conn_id of task .* is '', but must be a connection id"),
            ("wasabi_conn_id", "{{ nothing }}", "wasabi_conn_id of task .* is 'None', but must be a connection id"),
        ],
    )
    def test_invalid_rendered_argument_is_rejected_before_any_request(
        self, serve_account: Any, run: TaskRun, field: str, template: Any, message: str
    ) -> None:
        task = submit_task(**{field: template})
        task.render_template_fields(
            {"empty": "", "nothing": None, "long": "n" * 300, "file": FILE, "services": ["ocr"]}
        )
        with (
            serve_account(AccountResponses()) as account,
            pytest.raises(ValueError, match=f"^{message}"),
        ):
            execute(task, run.context)

        assert account.requests == []

    @pytest.mark.parametrize("field", ["name", "source", "destination", "services", "priority", "wasabi_conn_id"])
    def test_argument_rendered_to_none(self, serve_account: Any, run: TaskRun, field: str) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            task = submit_task(**{field: "{{ nothing }}"})
        task.render_template_fields({"nothing": None})
        assert getattr(task, field) is None
        with (
            serve_account(AccountResponses()) as account,
            pytest.raises(ValueError, match=f"^{field} of task 'submit' .*"),
        ):
            execute(task, run.context)

        assert account.requests == []

    def test_template_fields(self, set_connection: Any, monkeypatch: Any, run: TaskRun) -> None:
        task = submit_task(
            name="{{ day }} of {{ ds }}",
            source={"bucket": "{{ bucket }}", "object_key": "{{ day }}.mp4"},
            destination={**RESULTS, "region": "{{ region }}"},
            services={"ocr": "", "logo": {"config": {"only": ["{{ day }}"]}}},
            batch="{{ ds }}",
            wasabi_conn_id="{{ account }}",
            source_conn_id="{{ cloud }}",
        )
        task.render_template_fields(
            {
                "day": "monday",
                "ds": "2026-01-01",
                "bucket": "media",
                "region": "eu-central-1",
                "account": "an_account",
                "cloud": "a_cloud",
            }
        )
        account = AccountResponses()
        with Loopback(account) as server:
            keys = {"login": "access", "password": "secret"}
            monkeypatch.setenv(
                "AIRFLOW_CONN_AN_ACCOUNT", json.dumps({"conn_type": "wasabi", "host": server.url, **keys})
            )
            monkeypatch.setenv("AIRFLOW_CONN_A_CLOUD", json.dumps({"conn_type": "aws", **keys}))
            execute(task, run.context)

        assert account.posted_bodies == [
            {
                "Name": "monday of 2026-01-01",
                "Source": {
                    "Bucket": "media",
                    "ObjectKey": "monday.mp4",
                    "AccessKey": "access",
                    "SecretKey": "secret",
                },
                "Destination": {"Bucket": "results", "Region": "eu-central-1"},
                "Services": {"ocr": "", "logo": {"config": {"only": ["monday"]}}},
                "Priority": 5,
                "Batch": "2026-01-01",
            }
        ]

    @pytest.mark.parametrize("native", [False, True])
    def test_values_that_look_like_numbers(self, serve_account: Any, run: TaskRun, native: bool) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=native):
            task = submit_task(
                name="{{ ds_nodash }}",
                source={"bucket": "2024", "object_key": "{{ number }}"},
                destination={"bucket": "{{ ds_nodash }}", "region": "{{ number }}"},
                batch="{{ ds_nodash }}",
                priority="{{ number }}",
                max_error_count="{{ number }}",
                if_exists="{{ 'submit' }}",
            )
        task.render_template_fields({"ds_nodash": "20260101", "number": "7"})
        with serve_account(AccountResponses()) as account:
            execute(task, run.context)

        (body,) = account.posted_bodies
        assert (body["Name"], body["Batch"], body["Priority"]) == ("20260101", "20260101", 7)
        assert body["Source"] == {"Bucket": "2024", "ObjectKey": "7"}
        assert body["Destination"] == {"Bucket": "20260101", "Region": "7"}

    def test_ids_that_look_like_numbers(self, run: TaskRun, set_connection: Any, monkeypatch: Any) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            task = submit_task(source_conn_id="{{ number }}", wasabi_conn_id="{{ number }}")
        task.render_template_fields({"number": "7"})
        account = AccountResponses()
        with Loopback(account) as server:
            set_connection(server.url)
            monkeypatch.setenv("AIRFLOW_CONN_7", os.environ["AIRFLOW_CONN_WASABI_DEFAULT"])
            execute(task, run.context)

        assert account.posted_bodies[0]["Source"]["AccessKey"] == ACCESS_KEY

    @pytest.mark.parametrize("text", ["1.10", "1, 2", "True", "[1]", "5e1"])
    @pytest.mark.parametrize("field", ["name", "batch", "source", "source_conn_id", "wasabi_conn_id"])
    def test_value_that_native_rendering_converted(
        self, serve_account: Any, run: TaskRun, field: str, text: str
    ) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            task = submit_task(**{field: {**FILE, "object_key": "{{ text }}"} if field == "source" else "{{ text }}"})
        task.render_template_fields({"text": text})
        with (
            serve_account(AccountResponses()) as account,
            pytest.raises(ValueError, match=rf"{field} of task 'submit' .*the cause is render_template_as_native_obj="),
        ):
            execute(task, run.context)

        assert account.requests == []

    @pytest.mark.parametrize("text", ["1.10", "1_000", "True", "0x10"])
    def test_quotes_keep_the_text_in_native_rendering(self, serve_account: Any, run: TaskRun, text: str) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            task = submit_task(name="'{{ text }}'")
        task.render_template_fields({"text": text})
        with serve_account(AccountResponses()) as account:
            execute(task, run.context)

        assert account.posted_bodies[0]["Name"] == text

    @pytest.mark.parametrize(
        "field", ["wait_for_completion", "deferrable", "poke_interval", "timeout", "fetch_metadata"]
    )
    def test_argument_that_is_not_templated(self, field: str) -> None:
        with DAG("any", schedule=None):
            upstream = XComArg(BaseOperator(task_id="upstream"))
        for value in ("{{ params.value }}", upstream, upstream["value"]):
            with pytest.raises(ValueError, match=rf"^{field} of task 'submit' is .*, but it is not templated\. "):
                submit_task(**{field: value})

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_max_error_count_is_rendered_when_the_task_resumes(
        self, serve_account: Any, run: TaskRun, deferrable: bool
    ) -> None:
        job = make_job("monday", "completed", ErrorCount=3)
        task = submit_task(name="monday", max_error_count="{{ 2 }}", deferrable=deferrable)
        task.render_template_fields({})
        with serve_account(AccountResponses(job)), pytest.raises(WasabiJobFailed, match="more than max_error_count=2"):
            if deferrable:
                event = {"job_id": job["Id"], "status": "completed", "error_count": 3}
                task.resume_execution("execute_complete", {"event": event}, run.context)
            else:
                execute(task, run.context)

    def test_templates_of_complete_fields(self, serve_account: Any, run: TaskRun) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            task = submit_task(source="{{ file }}", destination="{{ place }}", services="{{ services }}")
        task.render_template_fields({"file": FILE, "place": RESULTS, "services": ["ocr", "s2t"]})
        with serve_account(AccountResponses()) as account:
            execute(task, run.context)

        assert account.posted_bodies[0]["Source"] == {"Bucket": "media", "ObjectKey": "monday.mp4"}
        assert account.posted_bodies[0]["Destination"] == {"Bucket": "results", "Region": "us-east-1"}
        assert account.posted_bodies[0]["Services"] == {"ocr": "", "s2t": ""}


class TestSourceKeys:
    ACCESS_KEY, SECRET_KEY = "SOURCE+KEY/0123456789", "source/secret+key=0123456789"

    @pytest.fixture
    def captured_log(self, monkeypatch: Any, caplog: Any, capfd: Any) -> Any:
        """Return everything that was logged or printed."""
        caplog.set_level(logging.DEBUG)
        for cls in (WasabiSubmitJobOperator, WasabiJobSensor, WasabiJobsHook):
            monkeypatch.setattr(cls, "log", logging.getLogger(cls.__name__))
        keys = {"login": self.ACCESS_KEY, "password": self.SECRET_KEY}
        monkeypatch.setenv("AIRFLOW_CONN_A_CLOUD", json.dumps({"conn_type": "aws", **keys}))

        def log_text() -> str:
            printed = capfd.readouterr()
            return f"{caplog.text}{printed.out}{printed.err}"

        return log_text

    def check(self, log_text: str) -> None:
        for key in (self.ACCESS_KEY, self.SECRET_KEY, ACCESS_KEY, SECRET_KEY):
            assert key not in log_text
            assert repr(key)[1:-1] not in log_text

    def test_source_keys_are_in_the_request_body_only(
        self, set_connection: Any, captured_log: Any, run: TaskRun
    ) -> None:
        echo = json_response({"Error": f"{self.ACCESS_KEY}:{self.SECRET_KEY} {ACCESS_KEY}:{SECRET_KEY}"}, 500)
        task = submit_task(source_conn_id="a_cloud", deferrable=True, poke_interval=5)
        with Loopback(AccountResponses(post_responses=((False, echo),))) as server:
            set_connection(server.url)
            with pytest.raises(TaskDeferred) as deferred:
                execute(task, run.context)
            run.resume_try("__fail__", {"error": "Trigger timeout"}, source_conn_id="a_cloud")

        submitted = [request for request in server.requests if request.method == "POST"]
        assert len(submitted) == 2
        for request in server.requests:
            source = json.loads(request.body)["Source"] if request in submitted else {}
            assert (source.get("AccessKey"), source.get("SecretKey")) == (
                (self.ACCESS_KEY, self.SECRET_KEY) if source else (None, None)
            )
            # Everything except the body.
            other_bytes = request.raw[: -len(request.body)] if request.body else request.raw
            assert self.ACCESS_KEY.encode() not in other_bytes
            assert self.SECRET_KEY.encode() not in other_bytes
        log_text = captured_log()
        assert "Submitted job " in log_text
        assert "Unclear whether job " in log_text
        rendered_fields = {field: getattr(task, field) for field in task.template_fields}
        self.check(f"{log_text}{task!r}{vars(task)}{rendered_fields}{run.xcoms}{deferred.value.trigger.serialize()}")

    @pytest.mark.parametrize("field", ["text", "code", "invalid response"])
    def test_source_keys_are_not_in_an_error(
        self, serve_account: Any, captured_log: Any, run: TaskRun, field: str
    ) -> None:
        echo = f"{self.ACCESS_KEY}:{self.SECRET_KEY}"
        responses = {
            "text": json_response({"Error": echo}, 400),
            "code": json_response({"ErrorCode": echo}, 400),
            "invalid response": json_response({"Job": {"Id": "", "Name": echo}}),
        }
        with (
            serve_account(AccountResponses(post_responses=((False, responses[field]),))) as account,
            pytest.raises(exceptions.WasabiApiError) as caught,
        ):
            run.start_try(source_conn_id="a_cloud")

        assert account.posted_bodies[0]["Source"]["SecretKey"] == self.SECRET_KEY
        self.check(
            f"{captured_log()}{caught.value}{vars(caught.value)}{caught.getrepr(style='long', showlocals=False)}"
        )

    @pytest.mark.parametrize(
        ("conn_id", "fields"),
        [("nowhere", None), ("a_cloud", {"login": ""}), ("a_cloud", {"password": ""}), ("a_cloud", {"login": "a b"})],
    )
    def test_invalid_source_connection_is_an_error_before_submit(
        self, serve_account: Any, captured_log: Any, run: TaskRun, monkeypatch: Any, conn_id: str, fields: Any
    ) -> None:
        if fields:
            keys = {"login": self.ACCESS_KEY, "password": self.SECRET_KEY, **fields}
            monkeypatch.setenv("AIRFLOW_CONN_A_CLOUD", json.dumps({"conn_type": "aws", **keys}))
        with (
            serve_account(AccountResponses()) as account,
            pytest.raises(exceptions.ConnectionConfigError, match=rf"{conn_id!r} \(source_conn_id\)") as caught,
        ):
            run.start_try(source_conn_id=conn_id)

        assert account.count(SUBMIT) == 0
        self.check(f"{captured_log()}{caught.value}")


DAG_FILE = """
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator, default_name
from airflow_wasabi_jobs.sensors import WasabiJobSensor

RESULTS = {"bucket": "results", "region": "us-east-1"}

with DAG(
    dag_id="submits",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    render_template_as_native_obj=True,
    params={"services": ["ocr", "s2t"]},
) as dag:

    @task
    def find_files():
        return [{"bucket": "media", "object_key": f"{day}.mp4"} for day in ("monday", "tuesday", "wednesday")]

    submit = WasabiSubmitJobOperator.partial(
        task_id="submit", destination=RESULTS, services=["ocr"], wait_for_completion=False
    ).expand(source=find_files())
    WasabiJobSensor.partial(task_id="wait", poke_interval=0.1, timeout=60).expand(job_id=submit.output)

    @task
    def find_file():
        return {"bucket": "media", "object_key": "thursday.mp4"}

    WasabiSubmitJobOperator(
        task_id="submit_and_wait",
        source=find_file(),
        destination=RESULTS,
        services="{{ params.services }}",
        deferrable=True,
        poke_interval=0.2,
        timeout=60,
    )
    WasabiJobSensor(
        task_id="end_from_trigger",
        job_id="completes-after-1-seconds",
        deferrable=True,
        end_from_trigger=True,
        poke_interval=0.1,
        timeout=60,
    )
"""


@pytest.mark.dag_run
def test_dag_run(serve_emulator: Any, tmp_path: Path, monkeypatch: Any, capfd: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    from airflow.utils.db import initdb

    dag_file = tmp_path / "submits.py"
    dag_file.write_text(DAG_FILE)
    bundle = {"name": "submits", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundles = [{**bundle, "kwargs": {"path": str(tmp_path), "refresh_interval": 300}}]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    initdb()
    with serve_emulator(speed=5) as emulator:
        dag_run = runpy.run_path(str(dag_file))["dag"].test()
        tasks = {
            (ti.task_id, ti.map_index): (
                ti.state,
                ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index),
                ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index, key="job_id"),
            )
            for ti in dag_run.get_task_instances()
            if not ti.task_id.startswith("find")
        }

        assert sorted(emulator.job_names) == [
            "completes-after-1-seconds",
            *[f"submits/submit[{number}]/{dag_run.run_id}" for number in range(3)],
            f"submits/submit_and_wait/{dag_run.run_id}",
        ]
    assert dag_run.state == "success"
    for number in range(3):
        _, job_id, pushed = tasks["submit", number]
        assert pushed == job_id
        assert tasks["wait", number] == ("success", completed(job_id), None)
    state, report, job_id = tasks["submit_and_wait", -1]
    assert (state, report) == ("success", completed(job_id))
    assert tasks["end_from_trigger", -1] == ("success", completed("completes-after-1-seconds"), None)
    # Airflow writes its own lines to the standard output.
    output = "".join(capfd.readouterr()) + caplog.text
    assert "completes-after-1-seconds': waiting in the triggerer" in output
    assert not re.search(r"Traceback|\[error|\bERROR\b", output)
    assert len({tasks["submit", number][1] for number in range(3)} | {job_id}) == 4
