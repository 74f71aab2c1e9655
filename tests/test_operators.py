"""Submitting: one job for each task run, whatever becomes of workers and answers on the way."""

from __future__ import annotations

import asyncio
import json
import logging
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
from airflow.providers.common.compat.sdk import DAG, AirflowException, AirflowSensorTimeout, TaskDeferred
from connecting import ACCESS_KEY, SECRET_KEY
from loopback import Loopback, answer, cut, hang, json_answer, refusing, reset
from submitting import DEATHS, FILE, RESULTS, Account, TaskRun, a_job, execute, submitting, worker
from waiting import first_event, sent_through_airflow

from airflow_wasabi_jobs import operators
from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator, default_name
from airflow_wasabi_jobs.sensors import WasabiJobSensor

LOOK_UP, SUBMIT = "GET /jobs", "POST /jobs"
HANG = hang()
UNFINISHED = ["submitted", "preflight", "in_progress"]

may_pass = pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(answer(429), id="429"),
        pytest.param(json_answer({"ErrorCode": "INTERNAL_ERROR"}, 500), id="500"),
        pytest.param(answer(503, "<html>Gateway</html>"), id="503"),
        pytest.param(answer(408), id="408"),
        pytest.param(reset(), id="reset"),
        pytest.param(cut(answer(200, '{"Job": {"Id"')[:-3]), id="cut"),
        pytest.param(HANG, id="time-out"),
    ],
)
is_rubbish = pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(answer(200, "<html>Welcome</html>"), id="html"),
        pytest.param(answer(200), id="empty"),
        pytest.param(json_answer({"Job": {"Status": "submitted"}}), id="no-id"),
        pytest.param(json_answer({"Job": {"Id": "", "Status": "submitted"}}), id="empty-id"),
        pytest.param(json_answer({"Job": {"Id": "12345", "Status": "submitted"}}, 201), id="201"),
        pytest.param(cut(b"This is not HTTP.\r\n\r\n"), id="not-http"),
    ],
)
is_refused = pytest.mark.parametrize(
    ("refusal", "error"),
    [
        pytest.param(json_answer({"Error": "Name is wrong", "ErrorCode": "BAD"}, 400), errors.Refusal, id="400"),
        pytest.param(json_answer({"ErrorCode": "UNAUTHORIZED"}, 401), errors.Unauthorized, id="401"),
        pytest.param(answer(403), errors.Forbidden, id="403"),
        pytest.param(answer(404), errors.NotFound, id="404"),
        pytest.param(answer(409), errors.Refusal, id="409"),
        pytest.param(answer(302, Location="http://127.0.0.2/"), errors.Redirected, id="302"),
    ],
)


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "PATIENCE", 10.0)
    monkeypatch.setattr(operators, "SETTLING", 0.1)
    monkeypatch.setattr(operators, "PAUSE", 0.01)


class Clock:
    """Goes on only while the operator sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def run(tmp_path: Path) -> TaskRun:
    return TaskRun(tmp_path / "xcoms.json")


@pytest.fixture
def serving(connect: Any) -> Any:
    """Serve an account at the default connection."""

    @contextmanager
    def serve(account: Account, **extra: Any) -> Iterator[Account]:
        with Loopback(account) as server:
            connect(server.url, **extra)
            yield account

    return serve


@pytest.fixture
def emulating(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serve the emulator at the default connection."""

    @contextmanager
    def emulate(**behaviour: Any) -> Iterator[AirEmulator]:
        with AirEmulator(**behaviour) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
            yield emulator

    return emulate


def in_time(trouble: Any) -> dict[str, Any]:
    """Wait only as long for an answer as it takes to see that there is none."""
    return {"read_timeout": 0.5} if trouble is HANG else {}


def completed(job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "status": "completed", "error_count": 0}


def deferred(run: TaskRun, **arguments: Any) -> TaskDeferred:
    """Begin a try that is to defer, and return with what it does."""
    with pytest.raises(TaskDeferred) as caught:
        run.begin(deferrable=True, **arguments)
    return caught.value


def fired(task: TaskDeferred) -> dict[str, Any]:
    """Run the trigger, and return what its event resumes the task with."""
    event = asyncio.run(asyncio.wait_for(first_event(sent_through_airflow(task.trigger)), 20))
    return {**(task.kwargs or {}), "event": event.payload}


class TestSubmitting:
    def test_the_report_is_the_xcom_and_the_id_another(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin()

        (job,) = account.jobs
        assert run.xcoms == {"job_id": job["Id"], "return_value": completed(job["Id"])}
        assert account.asked == [LOOK_UP, SUBMIT, *[f"GET /jobs/{job['Id']}/status"] * 2]

    def test_without_a_wait_the_id_is_the_xcom(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin(wait_for_completion=False)

        (job,) = account.jobs
        assert run.xcoms == {"job_id": job["Id"], "return_value": job["Id"]}
        assert account.asked == [LOOK_UP, SUBMIT]

    def test_the_id_is_there_before_the_wait_is_over(self, serving: Any, run: TaskRun) -> None:
        with serving(Account(born="failed")) as account, pytest.raises(WasabiJobFailed):
            run.begin()

        assert run.xcoms == {"job_id": account.jobs[0]["Id"]}

    def test_as_little_as_there_can_be_is_sent(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin()

        assert account.posted == [
            {
                "Name": "media/submit/manual__2026-01-01T00:00:00+00:00",
                "Source": {"Bucket": "media", "ObjectKey": "monday.mp4"},
                "Destination": {"Bucket": "results", "Region": "us-east-1"},
                "Services": {"ocr": ""},
            }
        ]

    def test_all_that_there_can_be_is_sent(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin(
                name="n" * 256,
                source={**FILE, "region": "eu-central-1", "endpoint": "https://s3.example.com"},
                services={"s2t": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
                priority=10,
                batch="b" * 256,
            )

        assert account.posted == [
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

    def test_the_wait_is_the_sensors(self, emulating: Any, run: TaskRun) -> None:
        with emulating(speed=1e6) as emulator:
            report = run.begin(name="completes-with-3-errors", max_error_count=3, fetch_metadata=True)
            with pytest.raises(WasabiJobFailed, match="max_error_count is 2"):
                run.begin(name="completes-with-3-errors", max_error_count=2)

        assert report["error_count"] == 3
        assert report["destination"] == RESULTS
        assert report["metadata_path"].endswith(f"/{report['job_id']}/monday.mp4_metadata.json")
        assert len(emulator.job_names) == 1

    @pytest.mark.parametrize("timeout", [0, timedelta(0)])
    def test_the_time_out_is_the_sensors(self, serving: Any, run: TaskRun, timeout: Any) -> None:
        with (
            serving(Account()) as account,
            pytest.raises(AirflowSensorTimeout, match="not over within the sensor's timeout of 0 seconds"),
        ):
            run.begin(timeout=timeout)

        assert len(account.jobs) == 1

    def test_the_default_time_out_is_the_sensors(self, serving: Any, run: TaskRun) -> None:
        default = WasabiJobSensor(task_id="wait", job_id="12345").timeout
        with serving(Account()):
            task = deferred(run, timeout=None)

        assert default - 60 < task.timeout.total_seconds() <= default


class TestKilledWorker:
    # A retry finds the job unfinished, or completed meanwhile.
    @pytest.mark.parametrize("speed", [25, 1e6], ids=["it-runs", "it-is-over"])
    @pytest.mark.parametrize("dies", DEATHS)
    def test_the_retry_ends_well_with_one_job(self, run: TaskRun, dies: str, speed: float) -> None:
        with AirEmulator(speed=speed) as emulator:
            assert worker(run, emulator.connection_uri, dies=dies) == -signal.SIGKILL
            at_death, told = len(emulator.job_names), run.xcoms
            assert worker(run, emulator.connection_uri) == 0

            assert emulator.job_names == [default_name(run)]
        posts = dies not in {"before the look-up", "before the POST"}
        pushes = dies in {"after the XCom", "before the first look", "after the first look"}
        assert (at_death, list(told)) == (int(posts), ["job_id"] if pushes else [])
        assert run.xcoms["return_value"] == completed(run.xcoms["job_id"])
        assert told.get("job_id", run.xcoms["job_id"]) == run.xcoms["job_id"]

    def test_a_worker_killed_at_each_point_one_try_after_the_other(self, run: TaskRun) -> None:
        with AirEmulator(speed=25) as emulator:
            ends = [worker(run, emulator.connection_uri, dies=dies) for dies in (*DEATHS, None)]

            assert emulator.job_names == [default_name(run)]
        assert ends == [*[-signal.SIGKILL] * len(DEATHS), 0]
        assert run.xcoms["return_value"] == completed(run.xcoms["job_id"])

    @pytest.mark.parametrize("dies", [dies for dies in DEATHS if "look" not in dies or "up" in dies])
    def test_a_task_that_does_not_wait(self, run: TaskRun, dies: str) -> None:
        with AirEmulator() as emulator:
            assert worker(run, emulator.connection_uri, dies=dies, wait_for_completion=False) == -signal.SIGKILL
            assert worker(run, emulator.connection_uri, wait_for_completion=False) == 0

            assert emulator.job_names == [default_name(run)]
        assert run.xcoms["return_value"] == run.xcoms["job_id"]


class TestLostAnswer:
    def test_the_emulator_cuts_the_connection(self, emulating: Any, run: TaskRun) -> None:
        with emulating(speed=25, lost_answers=1) as emulator:
            report = run.begin()

            assert emulator.job_names == [default_name(run)]
        assert report == completed(run.xcoms["job_id"])

    @may_pass
    def test_a_job_that_was_made_is_found(self, serving: Any, run: TaskRun, trouble: Any) -> None:
        with serving(Account(posts=((True, trouble),)), **in_time(trouble)) as account:
            report = run.begin()

        assert report == completed(account.jobs[0]["Id"])
        assert account.asked[:3] == [LOOK_UP, SUBMIT, LOOK_UP]
        assert account.count(SUBMIT) == 1

    @may_pass
    def test_a_job_that_was_not_made_is_submitted_again(self, serving: Any, run: TaskRun, trouble: Any) -> None:
        with serving(Account(posts=((False, trouble),) * 2), **in_time(trouble)) as account:
            report = run.begin()

        assert report == completed(account.jobs[0]["Id"])
        assert account.count(SUBMIT) == 3
        assert len(account.jobs) == 1
        posts = [number for number, request in enumerate(account.asked) if request == SUBMIT]
        assert all(later - earlier > 2 for earlier, later in pairwise(posts))

    @is_rubbish
    def test_a_job_that_was_made_is_found_behind_rubbish(self, serving: Any, run: TaskRun, rubbish: Any) -> None:
        with serving(Account(posts=((True, rubbish),))) as account:
            report = run.begin()

        assert report == completed(account.jobs[0]["Id"])
        assert account.count(SUBMIT) == 1

    @is_rubbish
    def test_rubbish_and_no_job_is_an_error(self, serving: Any, run: TaskRun, monkeypatch: Any, rubbish: Any) -> None:
        monkeypatch.setattr(operators, "time", Clock())
        monkeypatch.setattr(operators, "SETTLING", 10)
        monkeypatch.setattr(operators, "PAUSE", 2)
        with serving(Account(posts=((False, rubbish),))) as account, pytest.raises(errors.UnexpectedAnswer):
            run.begin()

        assert account.count(SUBMIT) == 1
        assert account.count(LOOK_UP) == 1 + 6  # before it, and every two seconds for ten after it

    def test_a_job_that_is_listed_late(self, serving: Any, run: TaskRun, monkeypatch: Any) -> None:
        monkeypatch.setattr(operators, "SETTLING", 10)
        with serving(Account(posts=((True, reset()),), unseen_for=4)) as account:
            report = run.begin()

        assert report == completed(account.jobs[0]["Id"])
        assert (account.count(SUBMIT), account.count(LOOK_UP)) == (1, 6)

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("before", [[], ["failed"], ["completed", "cancelled"]], ids=", ".join)
    @pytest.mark.parametrize(
        ("born", "ends"), [("completed", None), ("failed", WasabiJobFailed), ("cancelled", WasabiJobCancelled)]
    )
    def test_a_job_that_is_over_when_it_is_looked_for(
        self, serving: Any, run: TaskRun, before: list[str], born: str, ends: Any, if_exists: str
    ) -> None:
        if if_exists == "reuse":
            before = [status for status in before if status != "completed"]
        there = [a_job("monday", status) for status in before]
        with serving(Account(*there, posts=((True, reset()),), born=born)) as account:
            if ends is None:
                run.begin(name="monday", if_exists=if_exists)
            else:
                with pytest.raises(ends):
                    run.begin(name="monday", if_exists=if_exists)

        assert run.xcoms["job_id"] == account.jobs[-1]["Id"]
        assert account.count(SUBMIT) == 1

    def test_trouble_in_the_look_after_it_is_borne_with(self, serving: Any, run: TaskRun) -> None:
        looks = (json_answer({"Records": []}), answer(503), reset(), answer(429))
        with serving(Account(posts=((True, reset()),), looks=looks)) as account:
            report = run.begin()

        assert report == completed(account.jobs[0]["Id"])
        assert (account.count(SUBMIT), account.count(LOOK_UP)) == (1, 5)

    def test_lasting_trouble_in_the_look_after_it_leaves_it_to_the_retry(
        self, serving: Any, run: TaskRun, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(operators, "PATIENCE", 0.2)
        looks = (json_answer({"Records": []}), *[answer(503)] * 1000)
        with serving(Account(posts=((True, reset()),), looks=looks)) as account:
            with pytest.raises(errors.ServerTrouble):
                run.begin()
            assert account.count(SUBMIT) == 1

            account.looks.clear()
            assert run.begin() == completed(account.jobs[0]["Id"])
            assert account.count(SUBMIT) == 1

    def test_lasting_trouble_ends_the_task(self, serving: Any, run: TaskRun, monkeypatch: Any) -> None:
        monkeypatch.setattr(operators, "PATIENCE", 0.3)
        with serving(Account(posts=((False, answer(503)),) * 1000)) as account, pytest.raises(errors.ServerTrouble):
            run.begin()

        assert account.asked[-1] == LOOK_UP
        assert account.jobs == []

    def test_too_many_requests_are_not_answered_with_more(self, serving: Any, run: TaskRun, monkeypatch: Any) -> None:
        times = []
        submit = WasabiJobsHook.submit_job

        def timed(*arguments: Any, **options: Any) -> Any:
            times.append(time.monotonic())
            return submit(*arguments, **options)

        monkeypatch.setattr(WasabiJobsHook, "submit_job", timed)
        with serving(Account(posts=((False, answer(429, Retry_After="1")),))) as account:
            run.begin()

        assert len(account.jobs) == 1
        assert times[1] - times[0] >= 1

    @is_refused
    def test_a_refusal_is_an_error_at_once(self, serving: Any, run: TaskRun, refusal: bytes, error: Any) -> None:
        with serving(Account(posts=((False, refusal),))) as account, pytest.raises(errors.AirError) as caught:
            run.begin()

        assert type(caught.value) is error
        assert "'wasabi_default'" in str(caught.value)
        assert account.asked == [LOOK_UP, SUBMIT]
        assert run.xcoms == {}


class TestLookUp:
    @may_pass
    def test_passing_trouble_is_borne_with(self, serving: Any, run: TaskRun, trouble: Any) -> None:
        with serving(Account(looks=(trouble, trouble)), **in_time(trouble)) as account:
            report = run.begin()

        assert report == completed(account.jobs[0]["Id"])
        assert account.asked[:4] == [LOOK_UP, LOOK_UP, LOOK_UP, SUBMIT]
        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize(("trouble", "error"), [(answer(503), errors.ServerTrouble), (reset(), errors.NoAnswer)])
    def test_lasting_trouble_is_an_error(
        self, serving: Any, run: TaskRun, monkeypatch: Any, trouble: Any, error: Any
    ) -> None:
        monkeypatch.setattr(operators, "PATIENCE", 0.2)
        with serving(Account(looks=(trouble,) * 1000)) as account, pytest.raises(error):
            run.begin()

        assert set(account.asked) == {LOOK_UP}

    def test_nobody_there_is_an_error(self, connect: Any, run: TaskRun, monkeypatch: Any) -> None:
        monkeypatch.setattr(operators, "PATIENCE", 0.2)
        with refusing() as url:
            connect(url)
            with pytest.raises(errors.PassingNoAnswer, match="refused"):
                run.begin()

    @is_refused
    def test_a_refusal_is_an_error_at_once(self, serving: Any, run: TaskRun, refusal: bytes, error: Any) -> None:
        with serving(Account(looks=(refusal,))) as account, pytest.raises(errors.AirError) as caught:
            run.begin()

        assert type(caught.value) is error
        assert account.asked == [LOOK_UP]

    def test_rubbish_is_an_error_at_once(self, serving: Any, run: TaskRun) -> None:
        with serving(Account(looks=(answer(200, "Welcome"),))) as account, pytest.raises(errors.UnexpectedAnswer):
            run.begin()

        assert account.asked == [LOOK_UP]

    # Each is a part of another, or differs in the case alone; the last is no other's part.
    @pytest.mark.parametrize("order", [1, -1], ids=["short-first", "long-first"])
    def test_names_that_contain_each_other(self, emulating: Any, run: TaskRun, order: int) -> None:
        names = ["mon", "monday", "Monday", "monday.mp4", "on monday.mp4", "100% monday.mp4"][::order]
        with emulating(speed=1e-6, loose_filters=True) as emulator:
            first = [run.begin(name=name, wait_for_completion=False) for name in names]
            again = [run.begin(name=name, wait_for_completion=False) for name in reversed(names)]

            assert emulator.job_names == names
        assert again == first[::-1]
        assert len(set(first)) == len(names)

    def test_a_loose_filter_after_a_lost_answer(self, emulating: Any, run: TaskRun) -> None:
        with emulating(speed=1e-6, loose_filters=True, lost_answers=2) as emulator:
            longer = run.begin(name="monday.mp4", wait_for_completion=False)
            shorter = run.begin(name="monday", wait_for_completion=False)

            assert emulator.job_names == ["monday.mp4", "monday"]
        assert longer != shorter

    @pytest.mark.parametrize("status", [*UNFINISHED, "completed"])
    @pytest.mark.parametrize("file", [{**FILE, "object_key": "tuesday.mp4"}, {**FILE, "bucket": "archive"}])
    def test_a_job_of_that_name_for_another_file(self, serving: Any, run: TaskRun, file: Any, status: str) -> None:
        with serving(Account(a_job("monday", status, file))) as account, pytest.raises(ValueError) as caught:
            run.begin(name="monday")

        assert str(caught.value) == (
            f"name of task 'submit' is 'monday', and job {account.jobs[0]['Id']!r} of that name analyses "
            f"{file['bucket']}/{file['object_key']}, not media/monday.mp4. "
            "Give each file a name of its own, or leave name out."
        )
        assert account.asked == [LOOK_UP]

    def test_a_mapped_task_that_stands_for_another_file_now(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin(wait_for_completion=False)
            with pytest.raises(ValueError, match="start a new run, or have the files name the jobs"):
                run.begin(source={**FILE, "object_key": "tuesday.mp4"})

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("source", [{}, {"bucket": "media"}, {"object_key": "monday.mp4"}], ids=", ".join)
    def test_a_job_that_does_not_tell_its_file(self, serving: Any, run: TaskRun, source: Any) -> None:
        with serving(Account(a_job("monday", "completed", source))) as account:
            report = run.begin(name="monday")

        assert report == completed(account.jobs[0]["Id"])
        assert account.count(SUBMIT) == 0

    def test_a_job_on_the_second_page(self, serving: Any, run: TaskRun) -> None:
        there = [a_job("monday", "in_progress"), *[a_job("monday", "failed") for _ in range(120)]]
        with serving(Account(*there)) as account:
            report = run.begin(name="monday")

        assert report == completed(there[0]["Id"])
        assert account.count(SUBMIT) == 0


class TestRunsAtOnce:
    @pytest.mark.parametrize("lost_answers", [0, 10])
    def test_each_run_has_a_job_of_its_own(self, emulating: Any, tmp_path: Path, lost_answers: int) -> None:
        # Run ids that contain each other, and filters that do not mind.
        runs = [TaskRun(tmp_path / str(number), run_id=f"run{'1' * number}") for number in range(10)]
        together = threading.Barrier(len(runs))

        def begin(run: TaskRun) -> Any:
            together.wait()
            return run.begin()

        with (
            emulating(speed=5, loose_filters=True, lost_answers=lost_answers) as emulator,
            ThreadPoolExecutor(len(runs)) as pool,
        ):
            reports = list(pool.map(begin, runs))
            again = [run.begin() for run in runs]

            assert sorted(emulator.job_names) == sorted(map(default_name, runs))
        assert [report["status"] for report in reports] == ["completed"] * 10
        assert len({report["job_id"] for report in reports}) == 10
        assert again == reports


class TestIfExists:
    @pytest.mark.parametrize(
        ("there", "reuse", "submit"),
        [
            # The jobs of that name, oldest first, and which of them is waited for; None for a new one.
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
        ids=lambda there: ", ".join(there) or "none" if isinstance(there, list) else "",
    )
    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    def test_which_job_is_waited_for(
        self, serving: Any, run: TaskRun, there: list[str], reuse: Any, submit: Any, if_exists: str
    ) -> None:
        expected = {"reuse": reuse, "submit": submit}[if_exists]
        with serving(Account(*[a_job("monday", status) for status in there])) as account:
            report = run.begin(name="monday", if_exists=if_exists)

        assert len(account.jobs) == len(there) + (expected is None)
        job = account.jobs[-1 if expected is None else expected]
        assert report == completed(job["Id"])
        assert set(account.waited_for) == {job["Id"]}

    def test_reuse_is_the_default(self, serving: Any, run: TaskRun) -> None:
        with serving(Account(a_job("monday", "completed"))) as account:
            run.begin(name="monday")

        assert account.count(SUBMIT) == 0

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    def test_a_status_that_nobody_knows_is_not_over(self, serving: Any, run: TaskRun, if_exists: str) -> None:
        with (
            serving(Account(a_job("monday", "paused"))) as account,
            pytest.raises(errors.UnexpectedAnswer, match="Status"),
        ):
            run.begin(name="monday", if_exists=if_exists)

        assert account.count(SUBMIT) == 0

    def test_a_cleared_task_submits_what_failed_again(self, emulating: Any, run: TaskRun) -> None:
        with emulating(speed=1e6) as emulator:
            for _ in range(3):
                with pytest.raises(WasabiJobFailed):
                    run.begin(name="fails")

            assert emulator.job_names == ["fails"] * 3

    def test_a_cleared_task_reuses_what_completed(self, emulating: Any, run: TaskRun) -> None:
        with emulating(speed=1e6) as emulator:
            reports = [run.begin() for _ in range(3)]

            assert len(emulator.job_names) == 1
        assert reports == [reports[0]] * 3


class TestDefaultName:
    def test_is_made_of_what_makes_the_task_run(self) -> None:
        name = default_name(TaskRun(Path(), run_id="scheduled__2026-01-01T00:00:00+00:00", map_index=3))

        assert name == "media/submit[3]/scheduled__2026-01-01T00:00:00+00:00"

    @pytest.mark.parametrize("map_index", [None, -1])
    def test_of_a_task_that_is_not_mapped(self, map_index: Any) -> None:
        assert default_name(TaskRun(Path(), run_id="r", map_index=map_index)) == "media/submit/r"

    def test_no_two_task_runs_have_the_same(self) -> None:
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

        assert [(one, other) for one, other in combinations(names, 2) if one == other] == []
        assert all(len(name) <= 256 for name in names)

    def test_a_long_one_is_the_same_in_every_process(self) -> None:
        name = default_name(TaskRun(Path(), dag_id="d" * 250, run_id="r"))
        other = default_name(TaskRun(Path(), dag_id="d" * 250, run_id="s"))

        assert name == f"{'d' * 239}-6a5e222d78fd813b"
        assert name[:239] == other[:239]
        assert name != other

    @pytest.mark.parametrize("length", [255, 256])
    def test_one_that_just_fits_is_not_cut(self, length: int) -> None:
        run_id = "r" * (length - len("media/submit/"))

        assert default_name(TaskRun(Path(), run_id=run_id)) == f"media/submit/{run_id}"

    def test_the_longest_is_accepted(self, emulating: Any, tmp_path: Path) -> None:
        run = TaskRun(tmp_path / "xcoms.json", dag_id="d" * 250, run_id="r" * 250)
        with emulating(speed=1e6) as emulator:
            run.begin()
            run.begin()

            assert emulator.job_names == [default_name(run)]


class Store:
    """What Airflow 3.3 keeps of a task run, as JSON."""

    def __init__(self, kept: Any = None) -> None:
        self.kept: dict[str, str] = {}
        self.then = kept

    def get(self, key: str, default: Any = None) -> Any:
        if isinstance(self.then, Exception):
            raise self.then
        if self.then is not None:
            return self.then
        return json.loads(self.kept[key]) if key in self.kept else default

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        if isinstance(self.then, Exception):
            raise self.then
        self.kept[key] = json.dumps(value)


class TestStateStore:
    @pytest.fixture
    def run(self, run: TaskRun) -> TaskRun:
        return TaskRun(run.kept, store=Store())

    @pytest.mark.parametrize("status", [*UNFINISHED, "completed"])
    def test_a_retry_asks_for_the_job_that_was_kept(self, serving: Any, run: TaskRun, status: str) -> None:
        with serving(Account()) as account:
            job_id = run.begin(wait_for_completion=False)
            account.jobs[0]["Status"] = status
            account.asked.clear()
            report = run.begin()

        assert report == completed(job_id)
        assert account.asked[0] == f"GET /jobs/{job_id}"
        assert not {LOOK_UP, SUBMIT} & set(account.asked)

    def test_a_retry_finds_a_job_that_no_list_shows(self, serving: Any, run: TaskRun) -> None:
        with serving(Account(unseen_for=100)) as account:
            reports = [run.begin(), run.begin()]

        assert reports == [completed(account.jobs[0]["Id"])] * 2
        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_kept_job_that_failed(self, serving: Any, run: TaskRun, status: str, if_exists: str) -> None:
        with serving(Account()) as account:
            run.begin(wait_for_completion=False)
            account.jobs[0]["Status"] = status
            account.asked.clear()
            report = run.begin(if_exists=if_exists)

        assert report == completed(account.jobs[1]["Id"])
        assert (account.count(LOOK_UP), account.count(SUBMIT)) == (1, 1)

    def test_a_kept_job_that_failed_and_another_that_runs(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin(wait_for_completion=False)
            account.jobs[0]["Status"] = "failed"
            account.jobs.append(a_job(default_name(run), "in_progress"))
            report = run.begin()

        assert report == completed(account.jobs[1]["Id"])
        assert account.count(SUBMIT) == 1

    def test_a_kept_job_that_completed_will_not_do_for_submit(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            reports = [run.begin(), run.begin(if_exists="submit")]

        assert reports == [completed(job["Id"]) for job in account.jobs]
        assert account.count(SUBMIT) == 2

    def test_a_kept_job_that_is_gone(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin()
            account.jobs.clear()
            report = run.begin()

        assert report == completed(account.jobs[0]["Id"])

    def test_a_kept_job_of_another_name(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin(name="monday", wait_for_completion=False)
            account.asked.clear()
            report = run.begin(name="tuesday")

        assert [job["Name"] for job in account.jobs] == ["monday", "tuesday"]
        assert report == completed(account.jobs[1]["Id"])
        assert account.asked[:2] == [LOOK_UP, SUBMIT]

    def test_a_kept_job_whose_name_is_not_what_was_kept(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin(name="monday")
            account.jobs[0]["Name"] = "tuesday"
            run.begin(name="monday")

        assert account.count(SUBMIT) == 2

    def test_a_kept_job_that_is_told_without_its_name(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            job_id = run.begin(wait_for_completion=False)
            del account.jobs[0]["Name"]
            report = run.begin()

        assert report == completed(job_id)
        assert account.count(SUBMIT) == 1

    def test_a_kept_job_for_another_file(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            run.begin(name="monday")
            with pytest.raises(ValueError, match=r"analyses media/monday\.mp4, not media/tuesday\.mp4"):
                run.begin(name="monday", source={**FILE, "object_key": "tuesday.mp4"})

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize(
        "kept",
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
            {"name": "monday", "job_id": "nobody-knows-it"},
        ],
        ids=repr,
    )
    def test_a_store_that_is_of_no_use(self, serving: Any, tmp_path: Path, kept: Any) -> None:
        run = TaskRun(tmp_path / "xcoms.json", store=Store(kept))
        with serving(Account()) as account:
            reports = [run.begin(name="monday"), run.begin(name="monday")]

        assert reports == [completed(account.jobs[0]["Id"])] * 2
        assert account.count(SUBMIT) == 1

    @may_pass
    def test_trouble_in_asking_for_the_kept_job(self, serving: Any, run: TaskRun, trouble: Any) -> None:
        with serving(Account(), **in_time(trouble)) as account:
            job_id = run.begin(wait_for_completion=False)
            account.troubles[f"GET /jobs/{job_id}"] = trouble
            report = run.begin()

        assert report == completed(job_id)
        assert account.count(SUBMIT) == 1


class TestDeferring:
    def test_defers_as_the_sensor_does(self, serving: Any, run: TaskRun) -> None:
        options = {"poke_interval": 7, "timeout": 3600, "max_error_count": 3, "fetch_metadata": True}
        with serving(Account()) as account:
            task = deferred(run, **options)
            account.jobs[0]["Status"] = "in_progress"
            sensor = WasabiJobSensor(task_id="wait", job_id=account.jobs[0]["Id"], deferrable=True, **options)
            with pytest.raises(TaskDeferred) as sensors:
                sensor.execute({})

        assert task.trigger.serialize() == sensors.value.trigger.serialize()
        assert task.method_name == sensors.value.method_name
        assert 3590 < task.timeout.total_seconds() <= 3600
        assert run.xcoms == {"job_id": account.jobs[0]["Id"]}

    def test_a_job_that_is_over_needs_no_triggerer(self, serving: Any, run: TaskRun) -> None:
        with serving(Account(born="completed")) as account:
            assert run.begin(deferrable=True) == completed(account.jobs[0]["Id"])

    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("xcom", ["there", "gone"])
    @pytest.mark.parametrize(
        ("status", "error_count", "ends"),
        [
            ("completed", 0, None),
            ("completed", 2, WasabiJobFailed),
            ("failed", 1, WasabiJobFailed),
            ("cancelled", 0, WasabiJobCancelled),
        ],
    )
    def test_ends_as_the_sensor_does(
        self, serving: Any, run: TaskRun, status: str, error_count: int, ends: Any, xcom: str, if_exists: str
    ) -> None:
        # The older one, by that name, is not what was waited for.
        with serving(Account(a_job("monday", "failed"))) as account:
            task = deferred(run, name="monday", if_exists=if_exists)
            job = account.jobs[1]
            job |= {"Status": status, "ErrorCount": error_count}
            if xcom == "gone":
                run.clear_xcoms()
            resumed = {"name": "monday", "if_exists": if_exists, "max_error_count": 1}
            if ends is None:
                assert run.resume(task.method_name, fired(task), **resumed) == completed(job["Id"])
            else:
                with pytest.raises(ends, match=job["Id"]):
                    run.resume(task.method_name, fired(task), **resumed)

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("xcom", ["there", "gone"])
    def test_an_error_event_is_that_error(self, serving: Any, run: TaskRun, xcom: str) -> None:
        with serving(Account()) as account:
            task = deferred(run)
            account.troubles[f"GET /jobs/{account.jobs[0]['Id']}/status"] = answer(403)
            if xcom == "gone":
                run.clear_xcoms()
            with pytest.raises(errors.Forbidden, match=account.jobs[0]["Id"]):
                run.resume(task.method_name, fired(task))

        assert account.count(SUBMIT) == 1

    @pytest.mark.parametrize("says", ["Trigger timeout", "Trigger/execution timeout"], ids=["3.x", "2.11"])
    @pytest.mark.parametrize("if_exists", ["reuse", "submit"])
    @pytest.mark.parametrize("xcom", ["there", "gone"])
    @pytest.mark.parametrize(
        ("status", "ends"),
        [
            *[(status, AirflowSensorTimeout) for status in UNFINISHED],
            ("completed", None),
            ("failed", WasabiJobFailed),
            ("cancelled", WasabiJobCancelled),
        ],
    )
    def test_when_the_time_is_up_the_last_look_counts(
        self, serving: Any, run: TaskRun, status: str, ends: Any, xcom: str, if_exists: str, says: str
    ) -> None:
        # The older one, by that name, is not what was waited for.
        with serving(Account(a_job("monday", "failed"))) as account:
            deferred(run, name="monday", if_exists=if_exists)
            _, job = account.jobs
            job["Status"] = status
            if xcom == "gone":
                run.clear_xcoms()
            resumed = {"name": "monday", "if_exists": if_exists}
            if ends is None:
                assert run.resume("__fail__", {"error": says}, **resumed) == completed(job["Id"])
            else:
                with pytest.raises(ends, match=job["Id"]):
                    run.resume("__fail__", {"error": says}, **resumed)

        assert account.count(SUBMIT) == 1

    def test_an_older_job_is_no_answer_when_the_xcom_is_gone(self, serving: Any, run: TaskRun) -> None:
        with serving(Account(a_job("monday", "completed"))) as account:
            deferred(run, name="monday", if_exists="submit")
            account.jobs[1]["Status"] = "failed"
            run.clear_xcoms()
            with pytest.raises(WasabiJobFailed, match=account.jobs[1]["Id"]):
                run.resume("__fail__", {"error": "Trigger timeout"}, name="monday", if_exists="submit")

    def test_an_event_of_another_job_than_the_newest(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            task = deferred(run, name="monday")
            account.jobs[0]["Status"] = "failed"
            account.jobs.append(a_job("monday", "in_progress"))
            run.clear_xcoms()
            with pytest.raises(WasabiJobFailed, match=account.jobs[0]["Id"]):
                run.resume(task.method_name, fired(task), name="monday")

        # Why it failed, too, is asked of that one.
        assert account.asked[-1] == f"GET /jobs/{account.jobs[0]['Id']}/errors"
        assert account.count(LOOK_UP) == 1

    def test_the_xcom_tells_which_job_it_is(self, serving: Any, tmp_path: Path) -> None:
        run = TaskRun(tmp_path / "xcoms.json", map_index=3)
        with serving(Account()) as account:
            deferred(run, name="monday")
            account.jobs[0]["Status"] = "failed"
            account.jobs.append(a_job("monday", "in_progress"))
            with pytest.raises(WasabiJobFailed, match=account.jobs[0]["Id"]):
                run.resume("__fail__", {"error": "Trigger timeout"}, name="monday")

        assert account.count(LOOK_UP) == 1

    def test_a_newer_job_that_failed_is_not_what_was_waited_for(self, serving: Any, run: TaskRun) -> None:
        with serving(Account(a_job("monday", "in_progress"), a_job("monday", "failed"))) as account:
            deferred(run, name="monday")
            account.jobs[0]["Status"] = "in_progress"
            run.clear_xcoms()
            with pytest.raises(AirflowSensorTimeout, match=account.jobs[0]["Id"]):
                run.resume("__fail__", {"error": "Trigger timeout"}, name="monday")

    def test_neither_the_xcom_nor_the_job_is_there(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            deferred(run, name="monday")
            run.clear_xcoms()
            account.jobs.clear()
            with pytest.raises(errors.NotFound, match=r"job named 'monday', and there is none on .* 'wasabi_default'"):
                run.resume("__fail__", {"error": "Trigger timeout"}, name="monday")

    def test_a_trigger_that_breaks_must_be_seen(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            deferred(run)
            with pytest.raises(AirflowException, match="Trigger failure"):
                run.resume("__fail__", {"error": "Trigger failure", "traceback": ["boom"]})

        assert account.count(SUBMIT) == 1

    def test_a_retry_of_a_task_that_deferred_makes_no_second_job(self, serving: Any, run: TaskRun) -> None:
        with serving(Account()) as account:
            deferred(run)
            account.jobs[0]["Status"] = "in_progress"
            deferred_again = deferred(run)

        assert account.count(SUBMIT) == 1
        assert deferred_again.trigger.job_id == account.jobs[0]["Id"]


bad_when_parsed = [
    *[("name", name) for name in ("", "  ", "None", "n" * 257, 5, ["monday"])],
    *[
        ("source", source)
        for source in (None, "media/monday.mp4", {}, [FILE], {"bucket": "media"}, {"object_key": "a"})
    ],
    *[("source", {**FILE, "bucket": bucket}) for bucket in ("", "  ", "None", None, 5)],
    ("source", {**FILE, "object_key": ""}),
    ("source", {**FILE, "region": ""}),
    ("source", {**FILE, "endpoint": "None"}),
    ("source", {"Bucket": "media", "ObjectKey": "monday.mp4"}),
    ("source", {**FILE, "bucket": "", "object_key": "{{ ds }}.mp4"}),
    ("source", {"bucket": "{{ ds }}"}),
    *[("destination", place) for place in (None, "results", {}, {"bucket": "results"}, {"region": "us-east-1"})],
    ("destination", {**RESULTS, "region": ""}),
    ("destination", {**RESULTS, "endpoint": "https://s3.example.com"}),
    *[("services", services) for services in (None, "ocr", [], {}, (), [5], ["ocr", "orc"], {"orc": ""}, ["OCR"])],
    *[("services", {"ocr": value}) for value in (None, {}, "yes", {"config": 1}, {"config": {}, "more": 1})],
    ("services", {"ocr": {"config": {"threshold": float("nan")}}}),
    *[("priority", priority) for priority in (0, 11, -1, True, 1.5, "5")],
    *[("batch", batch) for batch in ("", "  ", "None", "b" * 257, 5)],
    *[("wasabi_conn_id", conn_id) for conn_id in (None, "", "  ", "None")],
    *[("if_exists", if_exists) for if_exists in ("", None, "replace")],
    *[("max_error_count", count) for count in (-1, 1.5, "3", True)],
    *[("poke_interval", seconds) for seconds in (None, -1, "60", True, float("nan"), float("inf"), timedelta(-1))],
    *[("timeout", seconds) for seconds in (-1, "60", True, float("nan"), float("inf"), timedelta(-1))],
]


class TestArguments:
    @pytest.mark.parametrize(("field", "value"), bad_when_parsed)
    def test_what_is_wrong_is_an_error_when_the_file_is_parsed(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"^{field} of task 'submit' "):
            submitting(**{field: value})

    @pytest.mark.parametrize("seconds", [0, timedelta(0)])
    def test_poke_interval_must_be_positive_to_defer(self, seconds: Any) -> None:
        with pytest.raises(ValueError, match=r"^poke_interval of task 'submit' is 0"):
            submitting(poke_interval=seconds, deferrable=True)

        submitting(poke_interval=seconds)

    @pytest.mark.parametrize("field", ["access_key", "AccessKey", "secret_key", "aws_secret_access_key"])
    def test_keys_in_the_source_are_refused_and_not_shown(self, field: str) -> None:
        with pytest.raises(ValueError, match=f"^source of task 'submit' has {field}, .* see source_conn_id") as caught:
            submitting(source={**FILE, field: SECRET_KEY})

        assert SECRET_KEY not in str(caught.value)

    @pytest.mark.parametrize(
        ("field", "template", "says"),
        [
            ("name", "{{ empty }}", "is ''"),
            ("name", "{{ nothing }}", "is 'None'"),
            ("name", "{{ long }}", "has 300 characters, and 256 is the most"),
            ("batch", "{{ empty }}", "is ''"),
            ("batch", "{{ nothing }}", "is 'None'"),
            ("batch", "{{ long }}", "has 300 characters, and 256 is the most"),
            ("source", "{{ file }}", "is a str, and must be a dict"),
            ("source", {**FILE, "bucket": "{{ empty }}"}, "has the bucket ''"),
            ("source", {**FILE, "object_key": "{{ nothing }}"}, "has the object_key 'None'"),
            ("source", {**FILE, "region": "{% if no %}us-east-1{% endif %}"}, "has the region ''"),
            ("destination", {**RESULTS, "bucket": "{{ nothing }}"}, "has the bucket 'None'"),
            ("destination", {**RESULTS, "region": "{{ empty }}"}, "has the region ''"),
            ("services", "{{ services }}", "must be a list of services, or a dict"),
            ("services", ["ocr", "{{ empty }}"], "names '', which is no service"),
            ("services", {"ocr": "{{ nothing }}"}, "has 'None' for ocr"),
            ("wasabi_conn_id", "{{ empty }}", "is '', which is no id"),
            ("wasabi_conn_id", "{{ nothing }}", "is 'None', which is no id"),
        ],
    )
    def test_what_renders_wrong_is_an_error_and_nothing_is_sent(
        self, serving: Any, run: TaskRun, field: str, template: Any, says: str
    ) -> None:
        task = submitting(**{field: template})
        task.render_template_fields(
            {"empty": "", "nothing": None, "long": "n" * 300, "file": FILE, "services": ["ocr"]}
        )
        with serving(Account()) as account, pytest.raises(ValueError, match=f"^{field} of task 'submit' {says}"):
            execute(task, run.context)

        assert account.asked == []

    @pytest.mark.parametrize("field", ["source", "destination", "services", "wasabi_conn_id"])
    def test_what_renders_to_none_itself(self, serving: Any, run: TaskRun, field: str) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            task = submitting(**{field: "{{ nothing }}"})
        task.render_template_fields({"nothing": None})
        assert getattr(task, field) is None
        with serving(Account()) as account, pytest.raises(ValueError, match=f"^{field} of task 'submit' .*"):
            execute(task, run.context)

        assert account.asked == []

    def test_templates(self, connect: Any, monkeypatch: Any, run: TaskRun) -> None:
        task = submitting(
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
        account = Account()
        with Loopback(account) as server:
            keys = {"login": "access", "password": "secret"}
            monkeypatch.setenv(
                "AIRFLOW_CONN_AN_ACCOUNT", json.dumps({"conn_type": "wasabi", "host": server.url, **keys})
            )
            monkeypatch.setenv("AIRFLOW_CONN_A_CLOUD", json.dumps({"conn_type": "aws", **keys}))
            execute(task, run.context)

        assert account.posted == [
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
                "Batch": "2026-01-01",
            }
        ]

    def test_templates_of_whole_fields(self, serving: Any, run: TaskRun) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            task = submitting(source="{{ file }}", destination="{{ place }}", services="{{ services }}")
        task.render_template_fields({"file": FILE, "place": RESULTS, "services": ["ocr", "s2t"]})
        with serving(Account()) as account:
            execute(task, run.context)

        assert account.posted[0]["Source"] == {"Bucket": "media", "ObjectKey": "monday.mp4"}
        assert account.posted[0]["Destination"] == {"Bucket": "results", "Region": "us-east-1"}
        assert account.posted[0]["Services"] == {"ocr": "", "s2t": ""}


class TestKeysOfTheSource:
    ACCESS_KEY, SECRET_KEY = "SOURCE+KEY/0123456789", "source/secret+key=0123456789"

    @pytest.fixture
    def seen(self, monkeypatch: Any, caplog: Any, capfd: Any) -> Any:
        """Collect what is logged, by whichever kind of logger, and what is printed."""
        caplog.set_level(logging.DEBUG)
        for kind in (WasabiSubmitJobOperator, WasabiJobSensor, WasabiJobsHook):
            monkeypatch.setattr(kind, "log", logging.getLogger(kind.__name__))
        keys = {"login": self.ACCESS_KEY, "password": self.SECRET_KEY}
        monkeypatch.setenv("AIRFLOW_CONN_A_CLOUD", json.dumps({"conn_type": "aws", **keys}))

        def said() -> str:
            printed = capfd.readouterr()
            return f"{caplog.text}{printed.out}{printed.err}"

        return said

    def check(self, said: str) -> None:
        for key in (self.ACCESS_KEY, self.SECRET_KEY, ACCESS_KEY, SECRET_KEY):
            assert key not in said
            assert repr(key)[1:-1] not in said

    def test_are_in_the_body_and_nowhere_else(self, connect: Any, seen: Any, run: TaskRun) -> None:
        echo = json_answer({"Error": f"{self.ACCESS_KEY}:{self.SECRET_KEY} {ACCESS_KEY}:{SECRET_KEY}"}, 500)
        task = submitting(source_conn_id="a_cloud", deferrable=True, poke_interval=5)
        with Loopback(Account(posts=((False, echo),))) as server:
            connect(server.url)
            with pytest.raises(TaskDeferred) as deferred:
                execute(task, run.context)
            run.resume("__fail__", {"error": "Trigger timeout"}, source_conn_id="a_cloud")

        submitted = [request for request in server.requests if request.method == "POST"]
        assert len(submitted) == 2
        for request in server.requests:
            source = json.loads(request.body)["Source"] if request in submitted else {}
            assert (source.get("AccessKey"), source.get("SecretKey")) == (
                (self.ACCESS_KEY, self.SECRET_KEY) if source else (None, None)
            )
            # Whatever else was sent.
            rest = request.raw[: -len(request.body)] if request.body else request.raw
            assert self.ACCESS_KEY.encode() not in rest
            assert self.SECRET_KEY.encode() not in rest
        said = seen()
        assert "is submitted. Its id is" in said
        assert "may have been submitted or not" in said
        rendered = {field: getattr(task, field) for field in task.template_fields}
        self.check(f"{said}{task!r}{vars(task)}{rendered}{run.xcoms}{deferred.value.trigger.serialize()}")

    @pytest.mark.parametrize("kind", ["text", "code", "rubbish"])
    def test_are_not_in_an_error(self, serving: Any, seen: Any, run: TaskRun, kind: str) -> None:
        echo = f"{self.ACCESS_KEY}:{self.SECRET_KEY}"
        answers = {
            "text": json_answer({"Error": echo}, 400),
            "code": json_answer({"ErrorCode": echo}, 400),
            "rubbish": json_answer({"Job": {"Id": "", "Name": echo}}),
        }
        with (
            serving(Account(posts=((False, answers[kind]),))) as account,
            pytest.raises(errors.AirError) as caught,
        ):
            run.begin(source_conn_id="a_cloud")

        assert account.posted[0]["Source"]["SecretKey"] == self.SECRET_KEY
        self.check(f"{seen()}{caught.value}{vars(caught.value)}{caught.getrepr(style='long', showlocals=False)}")

    @pytest.mark.parametrize(
        ("conn_id", "fields"),
        [("nowhere", None), ("a_cloud", {"login": ""}), ("a_cloud", {"password": ""}), ("a_cloud", {"login": "a b"})],
    )
    def test_that_can_not_be_used_are_an_error_and_nothing_is_submitted(
        self, serving: Any, seen: Any, run: TaskRun, monkeypatch: Any, conn_id: str, fields: Any
    ) -> None:
        if fields:
            keys = {"login": self.ACCESS_KEY, "password": self.SECRET_KEY, **fields}
            monkeypatch.setenv("AIRFLOW_CONN_A_CLOUD", json.dumps({"conn_type": "aws", **keys}))
        with (
            serving(Account()) as account,
            pytest.raises(errors.InvalidSettings, match=f"{conn_id!r}, which source_conn_id names") as caught,
        ):
            run.begin(source_conn_id=conn_id)

        assert account.count(SUBMIT) == 0
        self.check(f"{seen()}{caught.value}")


DAG_FILE = """
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
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
"""


def test_a_dag_run(emulating: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from airflow.utils.db import initdb

    file = tmp_path / "submits.py"
    file.write_text(DAG_FILE)
    bundle = {"name": "submits", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundles = [{**bundle, "kwargs": {"path": str(tmp_path), "refresh_interval": 300}}]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    initdb()
    with emulating(speed=5) as emulator:
        dag_run = runpy.run_path(str(file))["dag"].test()
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
    assert len({tasks["submit", number][1] for number in range(3)} | {job_id}) == 4
