"""The contract of a wait for a batch: each event leads to the same outcome in every mode."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import tracemalloc
from typing import Any
from urllib.parse import parse_qs

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)
from connections import SECRET_KEY
from job_lists import JobListResponses, Jobs
from loopback import ByPath, Loopback, Response, json_response, reset, response, status_response
from wait_runner import first_event, run_wait, serialized_and_loaded

from airflow_wasabi_jobs.api import batches, exceptions
from airflow_wasabi_jobs.api.endpoints import Request
from airflow_wasabi_jobs.api.models import JobStatus, JobSummary
from airflow_wasabi_jobs.exceptions import WasabiBatchFailed
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.sensors import WasabiBatchSensor
from airflow_wasabi_jobs.triggers import WasabiBatchTrigger, WasabiJobTrigger

BATCH = "2026-11"
every_mode = pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])


def jobs(count: int, status: str = "completed", prefix: str = "job") -> Jobs:
    return {f"{prefix}-{number}": status for number in range(count)}


RUNNING = jobs(2) | jobs(1, "in_progress", "slow")
COMPLETED = jobs(2) | jobs(1, "completed", "slow")
FAILED = COMPLETED | {"bad-1": "failed", "bad-2": "cancelled"}
ERROR_REPORTS = {
    "bad-1": {"Status": "failed", "ErrorCode": "NO_SPEECH_MODEL"},
    "bad-2": {"Status": "cancelled", "ErrorCode": ""},
}
at_first_and_later_poll = pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="first-poll"),
        pytest.param([RUNNING], id="second-poll"),
        pytest.param([{}, RUNNING], id="from-an-empty-batch"),
    ],
)


@pytest.fixture
def wait_for(monkeypatch: pytest.MonkeyPatch, set_connection: Any) -> Any:
    """Run a wait for a batch against scripted responses."""

    def run(mode: str, responses: Response, **arguments: Any) -> Any:
        with Loopback(responses) as server:
            set_connection(server.url)
            return run_wait(monkeypatch, mode, kind=WasabiBatchSensor, **{"batch": BATCH, **arguments})

    return run


def batch_xcom(counts: dict[str, int], *failures: dict[str, Any], more: int = 0) -> dict[str, Any]:
    return {"batch": BATCH, "counts": counts, "failures": list(failures), "more_failures": more}


def failure(job_id: str, status: str = "failed", code: str | None = None, source: str | None = None) -> dict[str, Any]:
    return {"source": source, "job_id": job_id, "status": status, "error_code": code}


@every_mode
class TestWait:
    @at_first_and_later_poll
    @pytest.mark.parametrize("fail_fast", [True, False])
    def test_all_completed(self, wait_for: Any, mode: str, before: list[Jobs], fail_fast: bool) -> None:
        responses = JobListResponses(*before, COMPLETED)

        assert wait_for(mode, responses, fail_fast=fail_fast) == batch_xcom({"completed": 3})
        assert responses.polls == len(before) + 1

    @at_first_and_later_poll
    @pytest.mark.parametrize("max_failures", [2, 3])
    def test_failures_within_max_failures(
        self, wait_for: Any, mode: str, before: list[Jobs], max_failures: int
    ) -> None:
        responses = JobListResponses(*before, FAILED, error_reports=ERROR_REPORTS, with_sources=True)
        xcom = wait_for(mode, responses, max_failures=max_failures)

        assert xcom == batch_xcom(
            {"completed": 3, "failed": 1, "cancelled": 1},
            failure("bad-1", "failed", "NO_SPEECH_MODEL", "s3://media/bad-1.mp4"),
            failure("bad-2", "cancelled", None, "s3://media/bad-2.mp4"),
        )

    @at_first_and_later_poll
    @pytest.mark.parametrize(("max_failures", "fail_fast"), [(0, True), (1, True), (0, False), (1, False)])
    def test_too_many_failures(
        self, wait_for: Any, mode: str, before: list[Jobs], max_failures: int, fail_fast: bool
    ) -> None:
        responses = JobListResponses(*before, FAILED, error_reports=ERROR_REPORTS)
        with pytest.raises(WasabiBatchFailed) as caught:
            wait_for(mode, responses, max_failures=max_failures, fail_fast=fail_fast)

        message = str(caught.value)
        assert isinstance(caught.value, AirflowFailException)  # which Airflow does not retry
        assert message.startswith("Batch '2026-11' (connection 'wasabi_default'): ")
        assert "bad-1 (NO_SPEECH_MODEL)" in message
        assert f", more than max_failures={max_failures}: " in message
        assert responses.polls == len(before) + 1

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_too_many_failures_are_skipped_with_soft_fail_or_never_fail(
        self, wait_for: Any, mode: str, flag: str
    ) -> None:
        with pytest.raises(AirflowSkipException, match=r"bad-1 \(NO_SPEECH_MODEL\)") as caught:
            wait_for(mode, JobListResponses(RUNNING, FAILED, error_reports=ERROR_REPORTS), **{flag: True})

        assert flag in str(caught.value)
        assert isinstance(caught.value.__cause__, WasabiBatchFailed)

    def test_fail_fast_does_not_wait_for_running_jobs(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(WasabiBatchFailed, match="1 job failed or was cancelled"):
            wait_for(mode, JobListResponses(RUNNING, RUNNING | {"bad-1": "failed"}, error_reports=ERROR_REPORTS))

    def test_without_fail_fast_all_jobs_finish_first(self, wait_for: Any, mode: str) -> None:
        responses = JobListResponses(
            RUNNING | {"bad-1": "failed"}, RUNNING | {"bad-1": "failed"}, FAILED, error_reports=ERROR_REPORTS
        )
        with pytest.raises(
            WasabiBatchFailed, match=r"2 of 5 jobs failed.*job bad-1 \(NO_SPEECH_MODEL\), job bad-2 \(cancelled\)\. Not"
        ):
            wait_for(mode, responses, fail_fast=False)

        assert responses.polls == 3

    @at_first_and_later_poll
    def test_message_names_the_files_of_failed_jobs(self, wait_for: Any, mode: str, before: list[Jobs]) -> None:
        responses = JobListResponses(*before, FAILED, error_reports=ERROR_REPORTS, with_sources=True)
        with pytest.raises(WasabiBatchFailed) as caught:
            wait_for(mode, responses, fail_fast=False)

        assert (
            "2 of 5 jobs failed or were cancelled, more than max_failures=0: "
            "media/bad-1.mp4 (job bad-1, NO_SPEECH_MODEL), media/bad-2.mp4 (job bad-2, cancelled). "
        ) in str(caught.value)

    def test_failure_reasons_are_requested_at_the_same_time(self, wait_for: Any, mode: str) -> None:
        requested = threading.Barrier(10)

        class Concurrent(JobListResponses):
            def __call__(self, connection: Any) -> bytes | None:
                if connection.request.target.endswith("/errors"):
                    requested.wait(10)
                return super().__call__(connection)

        failed = jobs(12, "failed", "bad")
        error_reports = {job_id: {"Status": "failed", "ErrorCode": "INTERNAL_ERROR"} for job_id in failed}
        with pytest.raises(WasabiBatchFailed) as caught:
            wait_for(mode, Concurrent(failed, error_reports=error_reports))

        assert str(caught.value).count("INTERNAL_ERROR") == 10

    def test_message_names_ten_failed_jobs(self, wait_for: Any, mode: str) -> None:
        failed = jobs(12, "failed", "bad")
        error_reports = {job_id: {"Status": "failed", "ErrorCode": "INTERNAL_ERROR"} for job_id in failed}
        responses = JobListResponses(COMPLETED | failed, error_reports=error_reports)
        with pytest.raises(
            WasabiBatchFailed, match=r"12 of 15 jobs failed.*job bad-9 \(INTERNAL_ERROR\) and 2 more"
        ) as caught:
            wait_for(mode, responses, fail_fast=False)

        assert str(caught.value).count("INTERNAL_ERROR") == 10

    @pytest.mark.parametrize("errors_response", [response(500), response(403), response(200, "<html>"), reset()])
    def test_failure_without_error_codes(self, wait_for: Any, mode: str, errors_response: Any) -> None:
        class WithoutErrorCodes(JobListResponses):
            def __call__(self, connection: Any) -> bytes | None:
                if connection.request.target.endswith("/errors"):
                    return errors_response if isinstance(errors_response, bytes) else errors_response(connection)
                return super().__call__(connection)

        with pytest.raises(WasabiBatchFailed, match=r"max_failures=0: job bad-1 \(failed\)"):
            wait_for(mode, WithoutErrorCodes(FAILED))

    def test_empty_batch_continues_the_wait(self, wait_for: Any, mode: str) -> None:
        responses = JobListResponses({}, {}, {}, COMPLETED)

        assert wait_for(mode, responses) == batch_xcom({"completed": 3})
        assert responses.polls == 4

    def test_expected_jobs(self, wait_for: Any, mode: str) -> None:
        responses = JobListResponses(jobs(2), jobs(2), jobs(3, "in_progress"), jobs(4), jobs(5))

        assert wait_for(mode, responses, expected_jobs=5) == batch_xcom({"completed": 5})
        assert responses.polls == 5

    def test_more_jobs_than_expected(self, wait_for: Any, mode: str) -> None:
        assert wait_for(mode, JobListResponses(jobs(7)), expected_jobs=5) == batch_xcom({"completed": 7})

    def test_jobs_of_other_batches_are_ignored(self, wait_for: Any, mode: str) -> None:
        other_jobs = jobs(120, "in_progress", "other") | jobs(120, "failed", "broken")

        assert wait_for(mode, JobListResponses(RUNNING, COMPLETED, other_jobs=other_jobs)) == batch_xcom(
            {"completed": 3}
        )

    def test_jobs_of_other_batches_only_is_an_empty_batch(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(
            AirflowSensorTimeout,
            match=r"No jobs were found in batch '2026-11' \(connection 'wasabi_default'\) within timeout=0 s\. Check",
        ):
            wait_for(mode, JobListResponses({}, other_jobs=jobs(3, "completed", "other")), timeout=0.3)

    def test_xcom_has_at_most_100_failures(self, wait_for: Any, mode: str) -> None:
        xcom = wait_for(mode, JobListResponses(jobs(130, "failed", "bad") | COMPLETED), max_failures=130)

        assert xcom == batch_xcom(
            {"completed": 3, "failed": 130}, *[failure(f"bad-{number}") for number in range(100)], more=30
        )

    @at_first_and_later_poll
    @pytest.mark.parametrize("fault", [response(429), response(503), reset()], ids=["429", "503", "reset"])
    def test_transient_error_does_not_end_the_wait(
        self, wait_for: Any, monkeypatch: Any, mode: str, before: list[Jobs], fault: Any
    ) -> None:
        monkeypatch.setattr("airflow_wasabi_jobs.polling.rate_limiter.MIN_PAUSE_SECONDS", 0.05)
        responses = JobListResponses(*before, *[COMPLETED] * 8, faults=dict.fromkeys((0, 3, 6, 9), fault))

        assert wait_for(mode, responses) == batch_xcom({"completed": 3})

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail", "silent_fail"])
    def test_transient_error_is_never_skipped(self, wait_for: Any, mode: str, flag: str) -> None:
        responses = JobListResponses(RUNNING, *[COMPLETED] * 8, faults=dict.fromkeys((0, 3, 6, 9), response(500)))

        assert wait_for(mode, responses, **{flag: True}) == batch_xcom({"completed": 3})

    @at_first_and_later_poll
    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            pytest.param(response(401), exceptions.AuthenticationError, id="401"),
            pytest.param(response(403), exceptions.PermissionDeniedError, id="403"),
            pytest.param(response(404), exceptions.NotFoundError, id="404"),
            pytest.param(response(302, Location="http://127.0.0.2/"), exceptions.RedirectError, id="302"),
            pytest.param(response(200, "<html>"), exceptions.InvalidResponseError, id="html"),
            pytest.param(json_response({"Jobs": []}), exceptions.InvalidResponseError, id="no-records"),
            pytest.param(
                json_response({"Records": [{"Id": "1", "Status": "paused", "Batch": BATCH}]}),
                exceptions.InvalidResponseError,
                id="unknown-status",
            ),
        ],
    )
    def test_permanent_error(self, wait_for: Any, mode: str, before: list[Jobs], fault: bytes, error: Any) -> None:
        # A poll of running jobs takes six requests, and so does one of an empty batch.
        first_fault = 6 * len(before)
        responses = JobListResponses(*before, COMPLETED, faults=dict.fromkeys(range(first_fault, 99), fault))
        with pytest.raises(exceptions.WasabiApiError, match="'wasabi_default'") as caught:
            wait_for(mode, responses, soft_fail=True)

        assert type(caught.value) is error
        assert not isinstance(caught.value, AirflowException)  # which a deferred sensor with soft_fail would skip

    def test_permanent_error_is_skipped_with_never_fail(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(AirflowSkipException) as caught:
            wait_for(mode, JobListResponses(COMPLETED, faults={0: response(403)}), never_fail=True)

        assert type(caught.value.__cause__) is exceptions.PermissionDeniedError

    def test_silent_fail_continues_the_wait_after_a_permanent_error(self, wait_for: Any, mode: str) -> None:
        responses = JobListResponses(COMPLETED, faults={0: response(403), 1: response(404)})

        assert wait_for(mode, responses, silent_fail=True) == batch_xcom({"completed": 3})

    @pytest.mark.parametrize("status", ["paused", "Completed"])
    def test_unknown_status_of_another_batch_is_ignored(self, wait_for: Any, mode: str, status: str) -> None:
        assert wait_for(mode, JobListResponses(COMPLETED, other_jobs={"other": status})) == batch_xcom({"completed": 3})

    def test_timeout(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(
            AirflowSensorTimeout, match=r"Batch '2026-11' \(connection .*\) did not finish .*\(last status: running\)"
        ):
            wait_for(mode, JobListResponses(RUNNING), timeout=0.5)

    def test_timeout_is_skipped_with_soft_fail(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(AirflowSkipException, match=r"Batch '2026-11'.* timeout"):
            wait_for(mode, JobListResponses(RUNNING), timeout=0.3, soft_fail=True)

    @pytest.mark.parametrize("batch", ["", "  ", "None", None, 1.5, ["a"], "x" * 257])
    def test_invalid_rendered_batch(self, monkeypatch: Any, set_connection: Any, mode: str, batch: Any) -> None:
        set_connection("http://127.0.0.1:1")
        execute = WasabiBatchSensor.execute

        def execute_with_rendered_value(sensor: WasabiBatchSensor, context: Any) -> Any:
            sensor.batch = batch
            return execute(sensor, context)

        monkeypatch.setattr(WasabiBatchSensor, "execute", execute_with_rendered_value)
        with pytest.raises(ValueError, match=r"^batch of task 'wait' "):
            run_wait(monkeypatch, mode, kind=WasabiBatchSensor, batch="{{ params.batch }}", silent_fail=True)

    def test_keys_are_never_logged(self, wait_for: Any, caplog: Any, mode: str) -> None:
        caplog.set_level(logging.DEBUG)
        echo = json_response({"Error": f"{SECRET_KEY} is not known"}, 503)
        errors_response = {"bad-1": {"Status": "failed", "ErrorCode": SECRET_KEY}}
        with pytest.raises(WasabiBatchFailed) as caught:
            wait_for(
                mode, JobListResponses(RUNNING | {"bad-1": "failed"}, faults={0: echo}, error_reports=errors_response)
            )

        assert SECRET_KEY not in f"{caplog.text}{caught.value!r}"


@every_mode
class TestLog:
    """The log counts what has finished of how many."""

    @pytest.fixture
    def lines_of(self, wait_for: Any, monkeypatch: Any, caplog: Any) -> Any:
        monkeypatch.setattr("airflow_wasabi_jobs.waiting.status_log.FIRST_PROGRESS_SECONDS", 0)
        caplog.set_level(logging.INFO)

        def run(mode: str, *stages: Jobs, **arguments: Any) -> list[str]:
            wait_for(mode, JobListResponses(*stages), max_failures=9, **arguments)
            lines = [record.getMessage() for record in caplog.records if record.name == LOG.name]
            return [line.removeprefix("Batch '2026-11': ") for line in lines if "waiting in " not in line]

        return run

    def test_progress(self, lines_of: Any, mode: str) -> None:
        stages = [jobs(2, "in_progress"), {"job-0": "failed", "job-1": "in_progress"}, jobs(2)]

        assert lines_of(mode, *stages) == [
            "0 of 2 jobs finished, 2 in progress.",
            "1 of 2 jobs finished (1 failed), 1 in progress.",
            "2 of 2 jobs finished.",
        ]

    def test_expected_jobs(self, lines_of: Any, mode: str) -> None:
        stages = [{}, jobs(1, "submitted"), jobs(1), jobs(3)]

        assert lines_of(mode, *stages, expected_jobs=3) == [
            "no jobs found yet; waiting. Check the name of the batch if this persists.",
            "0 of 3 jobs finished, 1 submitted.",
            "1 of 3 jobs finished; waiting for more jobs.",
            "3 of 3 jobs finished.",
        ]

    def test_large_batch(self, lines_of: Any, mode: str) -> None:
        large = jobs(250) | jobs(120, "submitted", "new") | jobs(1, "in_progress", "slow")

        # Twice, because counting begins with the same request as a poll.
        assert lines_of(mode, large, large, jobs(371), fail_fast=False) == [
            "250 of 371 jobs finished, 120 submitted, 1 in progress.",
            "371 of 371 jobs finished.",
        ]


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"submitted": 1},
        {"completed": 99},
        {"submitted": 100},
        {"submitted": 250, "completed": 1_601, "failed": 200},
    ],
)
@pytest.mark.parametrize("change", [-150, -100, -1, 0, 1, 700])
def test_counter_counts_again_after_a_change(counts: dict[str, int], change: int) -> None:
    counter = batches.BatchCounter(BATCH)
    for _ in range(2):
        listed = {status: list(jobs(count, status, status)) for status, count in counts.items() if count > 0}
        requests = counter.count()
        with pytest.raises(StopIteration) as end:
            request = next(requests)
            for _request in range(40):
                query = parse_qs(request.path.partition("?")[2])
                start = (int(query["pageNumber"][0]) - 1) * 100
                page = listed.get(query["status"][0], [])[start : start + 100]
                request = requests.send([JobSummary(job_id, None, batch=BATCH) for job_id in page])
        assert end.value.value == {status: len(ids) for status, ids in listed.items()}
        counts = {status: count + change for status, count in counts.items()}


class TestFinished:
    """A batch is finished when two consecutive complete lists agree."""

    @staticmethod
    def poll(*pages: list[JobSummary], expected: int | None = None) -> Any:
        """Run one poll with these pages of the complete list; all lists by status are empty."""
        pages_left = list(pages)
        poll = batches.poll_batch(BATCH, expected_jobs=expected, max_failures=0, fail_fast=True)
        request: Request[Any] = next(poll)
        try:
            while True:
                request = poll.send([] if "status=" in request.path else pages_left.pop(0))
        except StopIteration as end:
            assert not pages_left
            return end.value

    @staticmethod
    def page(**statuses: str) -> list[JobSummary]:
        return [JobSummary(job_id, JobStatus(status), batch=BATCH) for job_id, status in statuses.items()]

    def test_two_equal_lists_finish_the_batch(self) -> None:
        page = self.page(a="completed", b="completed")

        assert self.poll(page, page).is_finished

    @pytest.mark.parametrize(
        "second_list",
        [
            {"a": "completed"},
            {"a": "completed", "b": "completed", "c": "completed"},
            {"a": "completed", "c": "completed"},
        ],
        ids=["job-missing", "job-added", "job-replaced"],
    )
    def test_two_different_lists_do_not_finish_the_batch(self, second_list: dict[str, str]) -> None:
        assert not self.poll(self.page(a="completed", b="completed"), self.page(**second_list)).is_finished

    def test_new_unfinished_job_does_not_finish_the_batch(self) -> None:
        assert not self.poll(self.page(a="completed", b="submitted")).is_finished

    def test_too_few_jobs_need_one_list_only(self) -> None:
        assert not self.poll(self.page(a="completed"), expected=2).is_finished

    def test_job_on_two_pages_counts_once(self) -> None:
        statuses = {f"job-{number}": "completed" for number in range(100)}
        pages = [self.page(**statuses), self.page(**{"job-99": "completed", "job-100": "completed"})]

        assert self.poll(*pages, *pages).counts == {"completed": 101}

    def test_repeated_page_ends_the_list(self) -> None:
        page = self.page(**{f"job-{number}": "completed" for number in range(100)})

        assert self.poll(page, page, page, page).counts == {"completed": 100}


class TestRequestCount:
    @pytest.fixture
    def poll_batch(self, set_connection: Any) -> Any:
        def poll(responses: JobListResponses, **arguments: Any) -> tuple[Any, int]:
            with Loopback(responses) as server:
                set_connection(server.url)
                report = WasabiJobsHook().get_batch_report(BATCH, **arguments)
            return report, len(responses.requests)

        return poll

    @pytest.mark.parametrize("fail_fast", [True, False])
    def test_complete_list_is_not_requested_while_jobs_run(self, poll_batch: Any, fail_fast: bool) -> None:
        responses = JobListResponses(jobs(2000) | jobs(2000, "in_progress", "slow"))

        report, request_count = poll_batch(responses, fail_fast=fail_fast)
        assert not report.is_finished
        assert request_count <= 6

    def test_ten_thousand_jobs(self, poll_batch: Any) -> None:
        responses = JobListResponses(jobs(9_999))

        report, request_count = poll_batch(responses, expected_jobs=10_000)
        assert (report.is_finished, request_count) == (False, 105)

        # The complete list is requested twice to finish the batch.
        responses = JobListResponses(jobs(9_999))
        report, request_count = poll_batch(responses)
        assert (report.is_finished, request_count) == (True, 205)

    def test_memory(self) -> None:
        def page(number: int) -> list[JobSummary]:
            return [
                JobSummary(f"{job:032}", JobStatus.COMPLETED, batch=BATCH)
                for job in range(number * 100, number * 100 + 100)
            ]

        poll = batches.poll_batch(BATCH, expected_jobs=None, max_failures=0, fail_fast=True)
        tracemalloc.start()
        try:
            request = next(poll)
            while True:
                number = int(re.search(r"pageNumber=(\d+)", request.path)[1]) - 1
                request = poll.send(page(number) if "status=" not in request.path and number < 100 else [])
        except StopIteration as end:
            _, peak = tracemalloc.get_traced_memory()
            assert end.value.counts == {"completed": 10_000}
        finally:
            tracemalloc.stop()

        assert peak < 20 * 2**20


class TestTrigger:
    def trigger(self, **arguments: Any) -> WasabiBatchTrigger:
        return WasabiBatchTrigger(
            **{"batch": BATCH, "wasabi_conn_id": "wasabi_default", "poke_interval": 0.02, **arguments}
        )

    def test_event_of_a_finished_batch_is_its_report(self, set_connection: Any) -> None:
        with Loopback(JobListResponses(RUNNING, FAILED)) as server:
            set_connection(server.url)
            event = asyncio.run(first_event(serialized_and_loaded(self.trigger(max_failures=9))))

        assert event.payload == {
            "batch": BATCH,
            "is_finished": True,
            "counts": {"completed": 3, "failed": 1, "cancelled": 1},
            "failed_jobs": [failure("bad-1"), failure("bad-2", "cancelled")],
            "is_counted": True,
            "more_failures": 0,
        }

    def test_batch_fails_even_if_the_connection_is_gone(self) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch=BATCH, wasabi_conn_id="deleted", deferrable=True)
        event = {
            "batch": BATCH,
            "is_finished": True,
            "counts": {"failed": 1},
            "failed_jobs": [{"job_id": "bad-1", "status": "failed", "source": "s3://media/bad-1.mp4"}],
            "more_failures": 0,
        }
        with pytest.raises(WasabiBatchFailed, match=r"media/bad-1\.mp4 \(job bad-1, failed\)"):
            sensor.resume_execution("execute_complete", {"event": event}, {})

    def test_error_is_sent_as_an_event(self, set_connection: Any) -> None:
        with Loopback(response(403)) as server:
            set_connection(server.url)
            event = asyncio.run(first_event(self.trigger()))

        assert event.payload["batch"] == BATCH
        assert type(exceptions.deserialize_error(event.payload["error"])) is exceptions.PermissionDeniedError

    def test_serialization_round_trip(self) -> None:
        trigger = self.trigger(exponential_backoff=True, max_wait=9.0, expected_jobs=7, max_failures=2, fail_fast=False)

        assert serialized_and_loaded(trigger).serialize() == trigger.serialize()

    @pytest.mark.parametrize(
        "arguments", [{"poke_interval": 0}, {"poke_interval": -1}, {"poke_interval": 1, "max_wait": -1}]
    )
    def test_intervals_must_be_positive(self, arguments: Any) -> None:
        with pytest.raises(ValueError, match="0 seconds"):
            self.trigger(**arguments)

    def test_keys_that_change_during_the_wait(self, set_connection: Any, monkeypatch: Any) -> None:
        connection_reads = []
        to_settings = WasabiJobsHook._to_settings
        monkeypatch.setattr(
            WasabiJobsHook, "_to_settings", lambda *args: connection_reads.append(1) or to_settings(*args)
        )

        class RotatesKeys(JobListResponses):
            def __call__(self, connection: Any) -> bytes | None:
                if len(self.requests) > 6 and connection.request.headers["x-amz-secret-key"] == SECRET_KEY:
                    set_connection(server.url, secret_key="a-new-one")
                    return response(401)
                return super().__call__(connection)

        with Loopback(RotatesKeys(RUNNING, RUNNING, COMPLETED)) as server:
            set_connection(server.url)
            event = asyncio.run(first_event(self.trigger()))

        assert event.payload["counts"] == {"completed": 3}
        assert len(connection_reads) == 2

    @pytest.mark.filterwarnings("error")
    def test_trigger_can_be_cancelled_at_any_time(self, set_connection: Any) -> None:
        async def cancel_after(seconds: float) -> None:
            task = asyncio.create_task(first_event(self.trigger()))
            await asyncio.sleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with Loopback(JobListResponses(RUNNING)) as server:
            set_connection(server.url)
            for seconds in (0, 0.01, 0.1):
                asyncio.run(cancel_after(seconds))

    def test_job_and_batch_triggers_share_one_poller(self, set_connection: Any, monkeypatch: Any) -> None:
        connection_reads = []
        to_settings = WasabiJobsHook._to_settings
        monkeypatch.setattr(
            WasabiJobsHook, "_to_settings", lambda *args: connection_reads.append(1) or to_settings(*args)
        )

        async def both() -> list[Any]:
            job = WasabiJobTrigger("12345", "wasabi_default", 0.02)
            return await asyncio.gather(first_event(job), first_event(self.trigger()))

        responses = JobListResponses(RUNNING, COMPLETED)
        status = [status_response("in_progress")] * 3 + [status_response("completed")]
        with Loopback(ByPath(jobs=[responses], status=status)) as server:
            set_connection(server.url)
            job, batch = asyncio.run(both())

        assert (job.payload["status"], batch.payload["counts"]) == ("completed", {"completed": 3})
        assert connection_reads == [1]


class TestArguments:
    @pytest.mark.parametrize(("rendered_value", "expected"), [("3", 3), (" 12 ", 12), (4, 4), (None, None)])
    def test_templated_expected_jobs(self, set_connection: Any, rendered_value: Any, expected: int | None) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch=BATCH, expected_jobs="{{ params.count }}")
        sensor.expected_jobs = rendered_value
        with Loopback(JobListResponses(jobs(2 if expected is None else expected))) as server:
            set_connection(server.url)
            assert sensor.execute({})["counts"]["completed"] == (expected or 2)

        assert sensor.expected_jobs == expected

    @pytest.mark.parametrize("rendered_value", ["", "None", "0", "-1", "1.5", "many", [1]])
    def test_invalid_rendered_expected_jobs(self, rendered_value: Any) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch=BATCH, expected_jobs="{{ params.count }}")
        sensor.expected_jobs = rendered_value
        with pytest.raises(ValueError, match=r"^expected_jobs of task 'wait' is "):
            sensor.execute({})

    @pytest.mark.parametrize("batch", [None, "", " ", "None", "x" * 257])
    def test_invalid_batch(self, batch: Any) -> None:
        with pytest.raises(ValueError, match=r"^batch of task 'wait' "):
            WasabiBatchSensor(task_id="wait", batch=batch)

    @pytest.mark.parametrize("expected_jobs", [0, -1, 1.5, "0", "many", True])
    def test_invalid_expected_jobs(self, expected_jobs: Any) -> None:
        with pytest.raises(ValueError, match=r"^expected_jobs of task 'wait' is "):
            WasabiBatchSensor(task_id="wait", batch=BATCH, expected_jobs=expected_jobs)

    @pytest.mark.parametrize("max_failures", [-1, 1.5, "-1", "many", True, None])
    def test_invalid_max_failures(self, max_failures: Any) -> None:
        with pytest.raises(ValueError, match=r"^max_failures of task 'wait' is "):
            WasabiBatchSensor(task_id="wait", batch=BATCH, max_failures=max_failures)

    @pytest.mark.parametrize("native", [False, True])
    def test_templated_numbers_and_a_batch_that_looks_like_a_number(self, set_connection: Any, native: bool) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=native):
            sensor = WasabiBatchSensor(
                task_id="wait", batch="{{ ds_nodash }}", expected_jobs="{{ count }}", max_failures="{{ failures }}"
            )
        sensor.render_template_fields({"ds_nodash": "20260101", "count": 2, "failures": "1"})
        with Loopback(JobListResponses(jobs(2), batch="20260101")) as server:
            set_connection(server.url)
            assert sensor.execute({})["batch"] == "20260101"

        assert (sensor.expected_jobs, sensor.max_failures) == (2, 1)

    def test_invalid_rendered_max_failures(self) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch=BATCH, max_failures="{{ failures }}")
        sensor.render_template_fields({"failures": None})
        with pytest.raises(ValueError, match=r"^max_failures of task 'wait' is 'None', but must be an integer"):
            sensor.execute({})

    def test_argument_that_is_not_templated(self) -> None:
        with pytest.raises(ValueError, match=r"^fail_fast of task 'wait' is .*, but it is not templated"):
            WasabiBatchSensor(task_id="wait", batch=BATCH, fail_fast="{{ params.fast }}")  # type: ignore[arg-type] # wrong

    def test_deferrable_needs_a_positive_poke_interval(self) -> None:
        with pytest.raises(ValueError, match=r"^poke_interval of task 'wait' is 0"):
            WasabiBatchSensor(task_id="wait", batch=BATCH, poke_interval=0, deferrable=True)

    def test_template_fields(self) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch="{{ a }}", wasabi_conn_id="{{ b }}")

        sensor.render_template_fields({"a": BATCH, "b": "another"})

        assert (sensor.batch, sensor.wasabi_conn_id) == (BATCH, "another")
