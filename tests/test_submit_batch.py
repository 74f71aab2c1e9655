"""The operator that submits a batch: one job for each file, whatever happens."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import multiprocessing
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, TaskDeferred
from batch_account import BatchAccount, make_batch_job
from loopback import Loopback, Response, json_response, refused_url, reset, response
from task_runs import RESULTS, TaskRun
from wait_runner import first_event, run_deferred_trigger, serialized_and_loaded

from airflow_wasabi_jobs.api import exceptions
from airflow_wasabi_jobs.api.models import Source
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.exceptions import WasabiBatchFailed
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator
from airflow_wasabi_jobs.operators.default_name import default_name
from airflow_wasabi_jobs.polling import Subscription
from airflow_wasabi_jobs.submitting import batch_run, files
from airflow_wasabi_jobs.triggers import WasabiUnfinishedJobsTrigger
from airflow_wasabi_jobs.waiting.progress import Progress

BATCH = "2026-11"
MODES = {"worker": {"deferrable": False}, "deferrable": {"deferrable": True}}
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "SETTLING_SECONDS", 0.05)
    monkeypatch.setattr(batch_run, "RESULT_LOCATION_POLL_SECONDS", 0.01)


@pytest.fixture
def run(tmp_path: Path) -> TaskRun:
    return TaskRun(tmp_path / "xcoms.json")


@pytest.fixture
def serve(set_connection: Any) -> Any:
    @contextmanager
    def serve_account(account: BatchAccount) -> Iterator[BatchAccount]:
        with Loopback(account) as server:
            set_connection(server.url)
            yield account

    return serve_account


def batch_task(**arguments: Any) -> WasabiSubmitBatchOperator:
    defaults = {"task_id": "submit", "destination": RESULTS, "services": ["ocr"], "batch": BATCH, "poke_interval": 0.02}
    return WasabiSubmitBatchOperator(**{**defaults, "timeout": 20, **arguments})


def run_try(run: TaskRun, mode: str = "worker", **arguments: Any) -> Any:
    """Run a try to its end as scheduler, worker and triggerer do, each time with a new operator."""
    arguments = {**MODES[mode], **arguments}
    try:
        return inspect.unwrap(WasabiSubmitBatchOperator.execute)(batch_task(**arguments), run.context)
    except TaskDeferred as deferred:
        current = deferred
    while True:
        next_method, next_kwargs = run_deferred_trigger(current)
        next_kwargs = json.loads(json.dumps(next_kwargs))
        try:
            return batch_task(**arguments).resume_execution(next_method, next_kwargs, run.context)
        except TaskDeferred as deferred:
            current = deferred


def urls(*names: str) -> list[str]:
    return [f"s3://media/{name}" for name in names]


def numbered(count: int) -> list[str]:
    return urls(*(f"{number}.mp4" for number in range(count)))


def xcom(files: int, counts: dict[str, int], *failures: Any, **fields: Any) -> dict[str, Any]:
    return {
        "batch": BATCH,
        "files": files,
        "counts": counts,
        "failures": list(failures),
        "more_failures": 0,
        "results_path": None,
        **fields,
    }


@every_mode
class TestOutcome:
    def test_all_files_complete(self, serve: Any, run: TaskRun, mode: str) -> None:
        with serve(BatchAccount()) as account:
            assert run_try(run, mode, sources=numbered(20)) == xcom(20, {"completed": 20})

        assert account.submitted == Counter(f"{number}.mp4" for number in range(20))
        assert {(job["Batch"], job["Priority"], job["Destination"]["Bucket"]) for job in account.jobs} == {
            (BATCH, 5, "results")
        }
        assert run.xcoms["batch"] == BATCH

    def test_failures_within_max_failures(self, serve: Any, run: TaskRun, mode: str) -> None:
        with serve(BatchAccount()) as account:
            report = run_try(run, mode, sources=urls("a.mp4", "fails.mp4", "cancels.mp4"), max_failures=2)

        ids = [job["Id"] for job in sorted(account.jobs, key=lambda job: job["Source"]["ObjectKey"])]
        assert report == xcom(
            3,
            {"completed": 1, "failed": 1, "cancelled": 1},
            {"source": "s3://media/fails.mp4", "job_id": ids[2], "status": "failed", "error_code": "INTERNAL_ERROR"},
            {"source": "s3://media/cancels.mp4", "job_id": ids[1], "status": "cancelled", "error_code": None},
        )

    def test_too_many_failures(self, serve: Any, run: TaskRun, mode: str) -> None:
        bad = [f"fails-{number}.mp4" for number in range(12)]
        with serve(BatchAccount()), pytest.raises(WasabiBatchFailed) as caught:
            run_try(run, mode, sources=urls("a.mp4", *bad), max_failures=11)

        message = str(caught.value)
        start = "Batch '2026-11' (connection 'wasabi_default'): 12 of 13 files failed, more than max_failures=11: "
        assert message.startswith(f"{start}media/fails-0.mp4 (job ")
        assert message.count(", INTERNAL_ERROR)") == 10
        assert " and 2 more. Not retried. Clear this task to submit these files again, " in message

    def test_too_many_errors(self, serve: Any, run: TaskRun, mode: str) -> None:
        jobs = [
            make_batch_job("a.mp4", "completed", BATCH, ErrorCount=3),
            make_batch_job("b.mp4", "completed", BATCH, ErrorCount=2),
        ]
        with (
            serve(BatchAccount(*jobs)),
            pytest.raises(WasabiBatchFailed, match=r"a\.mp4 \(.*completed with 3 errors\)"),
        ):
            run_try(run, mode, sources=urls("a.mp4", "b.mp4"), max_error_count=2)

    def test_fail_fast(self, serve: Any, run: TaskRun, mode: str) -> None:
        class OneFails(BatchAccount):
            def _status(self, job: Any) -> str:
                return super()._status(job) if job["Source"]["ObjectKey"].startswith("fails") else "in_progress"

        with serve(OneFails(polls_to_finish=3)), pytest.raises(WasabiBatchFailed, match=r"1 of 3 files failed"):
            run_try(run, mode, sources=urls("a.mp4", "b.mp4", "fails.mp4"), fail_fast=True)

    def test_fail_fast_counts_a_job_that_fails_before_the_first_poll(self, serve: Any, run: TaskRun, mode: str) -> None:
        class FailsSoon(BatchAccount):
            def _submit(self, body: Any) -> Response:
                return super()._submit(body | {"Status": "submitted"})

            def _list(self, query: Any) -> Response:
                for job in self.jobs:
                    job["Status"] = "failed" if job["Source"]["ObjectKey"] == "fails.mp4" else "in_progress"
                return super()._list(query)

        with serve(FailsSoon()), pytest.raises(WasabiBatchFailed, match=r"1 of 2 files failed"):
            run_try(run, mode, sources=urls("a.mp4", "fails.mp4"), fail_fast=True)

    def test_fail_fast_does_not_count_failed_files_that_are_submitted_again(
        self, serve: Any, run: TaskRun, mode: str
    ) -> None:
        created = {"Created": "2026-11-01T00:00:00Z"}
        existing = [make_batch_job(f"{number}.mp4", "failed", BATCH, **created) for number in range(3)]
        with serve(BatchAccount(*existing)):
            report = run_try(run, mode, sources=numbered(3), fail_fast=True, max_unfinished_jobs=1)

        assert report == xcom(3, {"completed": 3})

    def test_empty_list(self, set_connection: Any, run: TaskRun, mode: str, tmp_path: Path) -> None:
        path = f"file://{tmp_path}/results.jsonl"
        with refused_url() as url:
            set_connection(url)
            assert run_try(run, mode, sources=[], results_path=path) == xcom(0, {}, results_path=path)
        assert (tmp_path / "results.jsonl").read_text() == ""

    def test_without_waiting(self, serve: Any, run: TaskRun, mode: str) -> None:
        with serve(BatchAccount(polls_to_finish=99)) as account:
            report = run_try(run, mode, sources=numbered(3), wait_for_completion=False)

        assert report == {"batch": BATCH, "files": 3}
        assert len(account.jobs) == 3

    def test_rejected_files_without_waiting(self, serve: Any, run: TaskRun, mode: str) -> None:
        account = BatchAccount(post_response=lambda number, _: response(400) if number == 2 else None)
        with serve(account), pytest.raises(WasabiBatchFailed, match=r"1 of 3 files failed, .* \(rejected: HTTP 400\)"):
            run_try(run, mode, sources=numbered(3), wait_for_completion=False)

    def test_timeout(self, serve: Any, run: TaskRun, mode: str) -> None:
        with (
            serve(BatchAccount(make_batch_job("a.mp4", "completed", BATCH), polls_to_finish=9999)),
            pytest.raises(AirflowSensorTimeout, match=r"did not finish within timeout=0 s \(1 of 3 files done\)"),
        ):
            run_try(run, mode, sources=urls("a.mp4", "b.mp4", "c.mp4"), timeout=0.4)

    def test_files_that_are_done_when_the_task_times_out(self, serve: Any, run: TaskRun, mode: str) -> None:
        with serve(BatchAccount(*(make_batch_job(f"{number}.mp4", "completed", BATCH) for number in range(3)))):
            assert run_try(run, mode, sources=numbered(3), timeout=0) == xcom(3, {"completed": 3})

    def test_outage_until_the_task_times_out(self, serve: Any, run: TaskRun, mode: str, monkeypatch: Any) -> None:
        monkeypatch.setattr(batch_run, "RETRY_SECONDS", 0.0)

        class Down(BatchAccount):
            def _list(self, query: Any) -> Response:
                return response(503, Retry_After="0")

        with serve(Down()), pytest.raises(AirflowSensorTimeout, match="did not finish within timeout=0 s"):
            run_try(run, mode, sources=numbered(3), timeout=0)

    def test_permanent_error_after_the_timeout(self, serve: Any, run: TaskRun, mode: str) -> None:
        class Forbidden(BatchAccount):
            def _list(self, query: Any) -> Response:
                return response(403)

        with serve(Forbidden()), pytest.raises(exceptions.PermissionDeniedError):
            run_try(run, mode, sources=numbered(1), timeout=0)

    def test_permanent_error_of_a_poll(self, serve: Any, run: TaskRun, mode: str) -> None:
        class Forbidden(BatchAccount):
            def _list(self, query: Any) -> Response:
                return response(403) if self._posts and query.get("status") else super()._list(query)

        with serve(Forbidden()), pytest.raises(exceptions.PermissionDeniedError):
            run_try(run, mode, sources=numbered(1))

    def test_transient_error_of_a_poll(self, serve: Any, run: TaskRun, mode: str) -> None:
        class Busy(BatchAccount):
            errors = 3

            def _list(self, query: Any) -> Response:
                if query.get("status") and self.errors:
                    self.errors -= 1
                    return response(503)
                return super()._list(query)

        with serve(Busy()):
            assert run_try(run, mode, sources=numbered(1)) == xcom(1, {"completed": 1})

    def test_default_batch(self, serve: Any, run: TaskRun, mode: str) -> None:
        with serve(BatchAccount()) as account:
            report = run_try(run, mode, sources=numbered(1), batch=None)

        assert report["batch"] == default_name(run) == account.jobs[0]["Batch"]


class TestEachFileOnce:
    @every_mode
    def test_existing_jobs_are_kept(self, serve: Any, run: TaskRun, mode: str) -> None:
        existing = [make_batch_job("a.mp4", "completed", BATCH), make_batch_job("b.mp4", "in_progress", BATCH)]

        class Finishes(BatchAccount):
            def _list(self, query: Any) -> Response:
                if query.get("status"):
                    existing[1]["Status"] = "completed"
                return super()._list(query)

        with serve(Finishes(*existing)) as account:
            assert run_try(run, mode, sources=urls("a.mp4", "b.mp4", "c.mp4")) == xcom(3, {"completed": 3})

        assert account.submitted == Counter(["a.mp4", "b.mp4", "c.mp4"])

    @every_mode
    def test_cleared_task_submits_failed_files_again(self, serve: Any, run: TaskRun, mode: str) -> None:
        sources = urls("a.mp4", "fails-1.mp4", "cancels-2.mp4", "b.mp4")
        with serve(BatchAccount()) as account:
            with pytest.raises(WasabiBatchFailed):
                run_try(run, mode, sources=sources)
            for job in account.jobs:
                job["Status"] = account._status(job)
            account._status = lambda job: job.get("Status", "completed")  # type: ignore[method-assign] # new jobs complete
            assert run_try(run, mode, sources=sources) == xcom(4, {"completed": 4})

        assert account.submitted == Counter({"a.mp4": 1, "b.mp4": 1, "fails-1.mp4": 2, "cancels-2.mp4": 2})

    @every_mode
    def test_failed_file_is_submitted_once_in_each_try(self, serve: Any, run: TaskRun, mode: str) -> None:
        created = {"Created": "2026-11-01T00:00:00Z"}
        existing = [make_batch_job(f"fails-{number}.mp4", "failed", BATCH, **created) for number in range(4)]

        class Dated(BatchAccount):
            def _submit(self, body: Any) -> Response:
                return super()._submit(body | {"Created": f"2026-11-02T00:00:{self._posts:02}Z"})

        # With one job at a time, the deferred task resumes four times.
        with serve(Dated(*existing)) as account, pytest.raises(WasabiBatchFailed, match="4 of 4 files failed"):
            run_try(run, mode, sources=urls(*(f"fails-{number}.mp4" for number in range(4))), max_unfinished_jobs=1)

        assert set(account.submitted.values()) == {2}
        assert account.max_unfinished == 1

    def test_failed_files_are_not_submitted_again_on_request(self, serve: Any, run: TaskRun) -> None:
        with serve(BatchAccount(make_batch_job("a.mp4", "failed", BATCH))) as account:
            report = run_try(run, sources=urls("a.mp4", "b.mp4"), resubmit_failed=False, max_failures=1)

        assert report["counts"] == {"failed": 1, "completed": 1}
        assert account.submitted == Counter(["a.mp4", "b.mp4"])

    @every_mode
    @pytest.mark.parametrize("is_created", [True, False])
    @pytest.mark.parametrize("fault", [reset(), response(503), response(408)], ids=["reset", "503", "408"])
    def test_lost_response(self, serve: Any, run: TaskRun, mode: str, fault: Response, is_created: bool) -> None:
        class LosesResponses(BatchAccount):
            def _submit(self, body: Any) -> Response:
                submitted = super()._submit(body)
                if self._posts not in {2, 5, 6}:
                    return submitted
                if not is_created:
                    self.jobs.pop()
                return fault

        with serve(LosesResponses()) as account:
            assert run_try(run, mode, sources=numbered(9)) == xcom(9, {"completed": 9})

        assert account.submitted == Counter(f"{number}.mp4" for number in range(9))

    def test_job_that_is_listed_after_a_lost_response_is_not_submitted_again(
        self, run: TaskRun, monkeypatch: Any
    ) -> None:
        with AirEmulator(speed=25, lost_answers=7) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
            assert run_try(run, sources=numbered(30))["counts"] == {"completed": 30}

            assert len(emulator.job_names) == len(set(emulator.job_names)) == 30

    @every_mode
    @pytest.mark.parametrize("max_unfinished_jobs", [None, 2])
    def test_list_that_is_late(
        self, serve: Any, run: TaskRun, mode: str, max_unfinished_jobs: int | None, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(batch_run, "SETTLING_SECONDS", 0.4)
        with serve(ListsLate(8)) as account:
            report = run_try(run, mode, sources=numbered(4), max_unfinished_jobs=max_unfinished_jobs)

        assert report == xcom(4, {"completed": 4})
        assert set(account.submitted.values()) == {1}
        assert account.max_unfinished <= (max_unfinished_jobs or 4)

    def test_list_that_is_late_after_failed_files_were_submitted_again(
        self, serve: Any, run: TaskRun, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(batch_run, "SETTLING_SECONDS", 0.4)
        fields = {"Created": "2026-11-01T00:00:00Z", "_hidden_for": 0}
        failed = [make_batch_job(f"{number}.mp4", "failed", BATCH, **fields) for number in range(2)]
        with serve(ListsLate(8, *failed)) as account:
            assert run_try(run, "deferrable", sources=numbered(2)) == xcom(2, {"completed": 2})

        assert set(account.submitted.values()) == {2}

    def test_list_that_is_late_after_a_killed_try(self, serve: Any, run: TaskRun) -> None:
        account = ListsLate(1, post_response=lambda number, _: response(403) if number == 3 else None)
        with serve(account):
            with pytest.raises(exceptions.PermissionDeniedError):
                run_try(run, sources=numbered(4), submit_concurrency=1)
            assert run_try(replace(run, try_number=2), sources=numbered(4)) == xcom(4, {"completed": 4})

        assert set(account.submitted.values()) == {1}

    def test_jobs_that_stay_missing_from_the_list(self, serve: Any, run: TaskRun) -> None:
        class ListsNothing(BatchAccount):
            def _list(self, _: Any) -> Response:
                return json_response({"Records": []})

        with (
            serve(ListsNothing()) as account,
            pytest.raises(
                exceptions.InvalidResponseError, match=r"lists 0 jobs of these files, but there were 3 before"
            ),
        ):
            run_try(run, "deferrable", sources=numbered(3))

        assert len(account.jobs) == 3

    def test_job_with_another_name_than_submitted(self, serve: Any, run: TaskRun) -> None:
        class RenamesJobs(BatchAccount):
            def _record(self, job: Any) -> Any:
                return super()._record(job) | {"Name": job["Name"].upper()}

        with (
            serve(RenamesJobs()) as account,
            pytest.raises(exceptions.InvalidResponseError, match=r"the API stores it as '2026-11/MEDIA/0\.MP4'"),
        ):
            run_try(run, sources=numbered(20), submit_concurrency=1)

        assert len(account.jobs) == 1

    def test_list_whose_order_differs_from_page_to_page(self, serve: Any, run: TaskRun) -> None:
        class Reorders(BatchAccount):
            def _list(self, query: Any) -> Response:
                if query["pageNumber"] == "2" and self.count("GET /jobs") == 2:
                    self.jobs.insert(100, self.jobs.pop(99))
                return super()._list(query)

        with serve(
            Reorders(*(make_batch_job(f"{number}.mp4", "completed", BATCH) for number in range(120)))
        ) as account:
            run_try(run, sources=numbered(120))

        assert account.count("POST /jobs") == 0

    def test_list_that_misses_a_new_job(self, serve: Any, run: TaskRun) -> None:
        class Misses(BatchAccount):
            complete_lists = 0

            def _list(self, query: Any) -> Response:
                self.complete_lists += "status" not in query
                if self.complete_lists in {3, 4}:
                    return json_response({"Records": [self._record(self.jobs[0])]})
                return super()._list(query)

        account = Misses(make_batch_job("fails.mp4", "failed", BATCH))
        with serve(account), pytest.raises(WasabiBatchFailed, match="1 of 1 files failed"):
            run_try(run, sources=urls("fails.mp4"))

        assert len(account.jobs) == 2

    def test_many_errors(self, run: TaskRun, monkeypatch: Any) -> None:
        with AirEmulator(speed=25, error_rate=0.2, lost_answers=5) as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
            assert run_try(run, "deferrable", sources=numbered(100))["counts"] == {"completed": 100}

            assert len(emulator.job_names) == len(set(emulator.job_names)) == 100

    @every_mode
    def test_jobs_for_other_files_do_not_count(self, serve: Any, run: TaskRun, mode: str) -> None:
        others = [make_batch_job("old-1.mp4", "failed", BATCH), make_batch_job("old-2.mp4", "completed", BATCH)]
        with serve(BatchAccount(*others)):
            assert run_try(run, mode, sources=numbered(2)) == xcom(2, {"completed": 2})

    def test_jobs_of_other_batches_do_not_count(self, serve: Any, run: TaskRun) -> None:
        class FiltersInexactly(BatchAccount):
            def _record(self, job: Any) -> Any:
                return super()._record(job) | ({"Batch": f"{BATCH}-b"} if job is self.jobs[0] else {})

        with serve(FiltersInexactly(make_batch_job("old.mp4", "in_progress", BATCH))):
            assert run_try(run, sources=numbered(2), max_unfinished_jobs=1) == xcom(2, {"completed": 2})

    def test_job_with_another_destination_is_an_error(self, serve: Any, run: TaskRun) -> None:
        other = make_batch_job("b.mp4", "completed", BATCH, Destination={"Bucket": "staging", "Region": "us-east-1"})
        with (
            serve(BatchAccount(other)) as account,
            pytest.raises(
                ValueError,
                match=r"\(connection '.+'\) already belongs to job .+ for destination staging/us-east-1, not "
                r"results/us-east-1\. Use another batch",
            ),
        ):
            run_try(run, sources=urls("a.mp4", "b.mp4"))

        assert account.count("POST /jobs") == 0

    @every_mode
    def test_list_without_batches(self, serve: Any, run: TaskRun, mode: str) -> None:
        class WithoutBatches(BatchAccount):
            def _record(self, job: Any) -> Any:
                return {field: value for field, value in super()._record(job).items() if field != "Batch"}

        with serve(WithoutBatches()) as account:
            for _ in range(2):
                assert run_try(run, mode, sources=numbered(3))["counts"] == {"completed": 3}

        assert set(account.submitted.values()) == {1}

    def test_jobs_without_a_name_are_found_by_their_file(self, serve: Any, run: TaskRun) -> None:
        job = make_batch_job("a.mp4", "completed", BATCH)
        del job["Name"]
        with serve(BatchAccount(job)) as account:
            run_try(run, sources=urls("a.mp4"))

        assert account.count("POST /jobs") == 0

    @every_mode
    @pytest.mark.parametrize("max_unfinished_jobs", [1, 4])
    def test_max_unfinished_jobs(self, serve: Any, run: TaskRun, mode: str, max_unfinished_jobs: int) -> None:
        with serve(BatchAccount(polls_to_finish=2)) as account:
            report = run_try(run, mode, sources=numbered(11), max_unfinished_jobs=max_unfinished_jobs)

        assert report == xcom(11, {"completed": 11})
        assert account.max_unfinished == max_unfinished_jobs
        assert set(account.submitted.values()) == {1}

    def test_max_unfinished_jobs_counts_a_second_job_of_a_file(self, serve: Any, run: TaskRun) -> None:
        unfinished = [make_batch_job("a.mp4", "in_progress", BATCH) for _ in range(2)]
        with serve(BatchAccount(*unfinished)) as account, pytest.raises(AirflowSensorTimeout):
            run_try(run, sources=urls("a.mp4", "b.mp4"), max_unfinished_jobs=2, timeout=0.2)

        assert account.count("POST /jobs") == 0


class ListsLate(BatchAccount):
    """Shows a job only after its submission was followed by some lists."""

    def __init__(self, lists: int, *jobs: Any, **options: Any) -> None:
        super().__init__(*jobs, **options)
        self._lists = lists

    def _submit(self, body: Any) -> Response:
        return super()._submit(body | {"_hidden_for": self._lists})

    def _list(self, query: Any) -> Response:
        all_jobs = self.jobs
        self.jobs = [job for job in all_jobs if job["_hidden_for"] <= 0]
        for job in all_jobs:
            job["_hidden_for"] -= 1
        try:
            return super()._list(query)
        finally:
            self.jobs = all_jobs


def _run_worker(run: TaskRun, connection_uri: str, kill_after: tuple[str, int] | None, arguments: Any) -> None:
    os.environ["AIRFLOW_CONN_WASABI_DEFAULT"] = connection_uri
    batch_run.SETTLING_SECONDS = 0.05
    if kill_after:
        kind, number = kill_after
        send = Subscription.send
        seen = []

        async def send_and_kill(self: Any, request: Any) -> Any:
            is_kind = request.method == kind or (kind == "poll" and "status=" in request.path)
            if is_kind:
                seen.append(request)
            if is_kind and len(seen) == number and kind != "POST":
                os.kill(os.getpid(), signal.SIGKILL)
            result = await send(self, request)
            if is_kind and len(seen) >= number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Subscription.send = send_and_kill  # type: ignore[method-assign, assignment] # kills this process
    run_try(run, **arguments)


_processes = multiprocessing.get_context("forkserver")


@pytest.mark.parametrize(
    "kill_after", [("GET", 1), ("POST", 1), ("POST", 13), ("POST", 40), ("poll", 1), ("poll", 4)], ids=str
)
def test_killed_worker_leaves_one_job_for_each_file(run: TaskRun, kill_after: tuple[str, int]) -> None:
    arguments = {"sources": numbered(40), "batch": None}
    with AirEmulator(speed=10) as emulator:
        for kill in (kill_after, kill_after, None):
            process = _processes.Process(target=_run_worker, args=(run, emulator.connection_uri, kill, arguments))
            process.start()
            process.join(60)
            assert process.exitcode in {-signal.SIGKILL, 0} if kill else process.exitcode == 0

        assert len(emulator.job_names) == len(set(emulator.job_names)) == 40


class TestRejections:
    def test_rejected_files_are_failures(self, serve: Any, run: TaskRun) -> None:
        def reject(_: int, body: Any) -> Response | None:
            bad = body["Source"]["ObjectKey"].startswith("bad")
            return json_response({"Error": "Unknown format", "ErrorCode": "BAD"}, 422) if bad else None

        with serve(BatchAccount(post_response=reject)) as account:
            report = run_try(run, sources=urls("a.mp4", "bad-1.txt", "b.mp4"), max_failures=1)

        failure = {"source": "s3://media/bad-1.txt", "job_id": None, "status": "rejected"}
        assert report == xcom(3, {"completed": 2, "rejected": 1}, {**failure, "error_code": "HTTP 422: Unknown format"})
        assert account.count("POST /jobs") == 3

    def test_rejection_is_remembered_while_the_task_is_deferred(self, serve: Any, run: TaskRun) -> None:
        def reject(_: int, body: Any) -> Response | None:
            return response(404) if body["Source"]["ObjectKey"] == "0.mp4" else None

        with (
            serve(BatchAccount(post_response=reject)) as account,
            pytest.raises(WasabiBatchFailed, match=r"1 of 6 files failed.*media/0\.mp4 \(rejected: HTTP 404\)"),
        ):
            run_try(run, "deferrable", sources=numbered(6), max_unfinished_jobs=2)

        assert account.count("POST /jobs") == 6

    def test_rejection_is_remembered_when_the_manifest_changes(self, serve: Any, run: TaskRun, tmp_path: Path) -> None:
        manifest = tmp_path / "files.txt"
        manifest.write_text("\n".join(numbered(3)))

        class AddsFile(BatchAccount):
            def _list(self, query: Any) -> Response:
                if query.get("status"):
                    manifest.write_text("\n".join([*urls("new.mp4"), *numbered(3)]))
                return super()._list(query)

        account = AddsFile(post_response=lambda _, body: response(404) if "0.mp4" in body["Name"] else None)
        with serve(account):
            report = run_try(run, "deferrable", sources=f"file://{manifest}", max_failures=1)

        assert report["counts"] == {"completed": 3, "rejected": 1}
        assert account.submitted == Counter(["new.mp4", "1.mp4", "2.mp4"])

    @every_mode
    def test_cleared_task_with_many_rejected_files(self, serve: Any, run: TaskRun, mode: str) -> None:
        sources = urls("a.mp4", *(f"bad-{number}.mp4" for number in range(12)))
        account = BatchAccount(post_response=lambda _, body: response(400) if "bad" in body["Name"] else None)
        with serve(account):
            for _ in range(2):
                report = run_try(run, mode, sources=sources, max_failures=12)
                assert report["counts"] == {"completed": 1, "rejected": 12}

    def test_fail_fast_stops_the_submission(self, serve: Any, run: TaskRun) -> None:
        account = BatchAccount(post_response=lambda number, _: response(400) if number in {2, 4} else None)
        with serve(account), pytest.raises(WasabiBatchFailed, match="2 of 50 files failed"):
            run_try(run, sources=numbered(50), fail_fast=True, max_failures=1, submit_concurrency=1)

        assert account.count("POST /jobs") == 4

    def test_cleared_task_submits_rejected_files_again(self, serve: Any, run: TaskRun) -> None:
        account = BatchAccount(post_response=lambda number, _: response(400) if number == 2 else None)
        with serve(account):
            with pytest.raises(WasabiBatchFailed):
                run_try(run, sources=numbered(3))
            assert run_try(run, sources=numbered(3)) == xcom(3, {"completed": 3})

    @every_mode
    @pytest.mark.parametrize("max_unfinished_jobs", [None, 3])
    def test_ten_equal_rejections_end_the_task(
        self, serve: Any, run: TaskRun, mode: str, max_unfinished_jobs: int | None
    ) -> None:
        def reject(_: int, body: Any) -> Response:
            return json_response({"Error": f"No {body['Source']['ObjectKey']} for {body['Name']}"}, 400)

        with (
            serve(BatchAccount(post_response=reject)) as account,
            pytest.raises(exceptions.BadRequestError, match="No "),
        ):
            run_try(run, mode, sources=numbered(100), max_unfinished_jobs=max_unfinished_jobs)

        assert 10 <= account.count("POST /jobs") <= 18  # those in flight included

    def test_ten_different_rejections_do_not(self, serve: Any, run: TaskRun) -> None:
        account = BatchAccount(post_response=lambda number, _: response(400 if number % 2 else 422))
        with serve(account), pytest.raises(WasabiBatchFailed, match="30 of 30 files failed"):
            run_try(run, sources=numbered(30))

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (response(401), exceptions.AuthenticationError),
            (response(403), exceptions.PermissionDeniedError),
            (response(409), exceptions.ApiStatusError),
            (response(200, "<html>"), exceptions.InvalidResponseError),
            (json_response({"Job": {}}), exceptions.InvalidResponseError),
        ],
    )
    def test_other_errors_end_the_task(self, serve: Any, run: TaskRun, fault: bytes, error: Any) -> None:
        account = BatchAccount(post_response=lambda number, _: fault if number > 3 else None)
        with serve(account), pytest.raises(error):
            run_try(run, sources=numbered(50), submit_concurrency=2)

        assert account.count("POST /jobs") <= 6

    @pytest.mark.parametrize("count", [3, 5000])
    def test_outage_ends_the_task(self, serve: Any, run: TaskRun, monkeypatch: Any, count: int) -> None:
        monkeypatch.setattr(batch_run, "RETRY_SECONDS", 0.3)
        monkeypatch.setattr(batch_run, "MAX_BACKOFF_SECONDS", 0.02)
        account = BatchAccount(post_response=lambda *_: response(503))
        with serve(account), pytest.raises(exceptions.ServerError):
            run_try(run, sources=numbered(count), timeout=3)

        assert account.count("POST /jobs") < 400

    def test_rate_limit_pauses_all_requests(self, serve: Any, run: TaskRun) -> None:
        account = BatchAccount(post_response=lambda number, _: response(429, Retry_After="1") if number == 4 else None)
        with serve(account):
            assert run_try(run, sources=numbered(30), submit_concurrency=2) == xcom(30, {"completed": 30})

        assert account.count("POST /jobs") == 31


class TestSources:
    def read(self, sources: Any) -> list[str]:
        return [file.url for file in files.read_files(sources, task_id="submit")]

    def test_urls_and_dicts(self) -> None:
        sources = ["s3://media/a b?c#d.mp4", {"bucket": "media", "object_key": "b.mp4", "region": "eu"}]

        assert files.read_files(sources, task_id="submit") == [
            Source("media", "a b?c#d.mp4"),
            Source("media", "b.mp4", region="eu"),
        ]

    def test_lists_of_mapped_tasks(self) -> None:
        assert self.read([urls("a"), urls("b", "c"), "s3://media/d"]) == urls("a", "b", "c", "d")

    def test_any_iterable(self) -> None:
        assert self.read(iter(urls("a", "b"))) == urls("a", "b")

    def test_duplicates_are_read_once_and_logged(self, caplog: Any) -> None:
        sources = [*urls("a", "b", "a"), {"bucket": "media", "object_key": "b"}]

        assert self.read(sources) == urls("a", "b")
        assert "2 of the sources are duplicates, and each file is submitted once: s3://media/a, s3://media/b." in (
            caplog.text
        )

    @pytest.mark.parametrize(
        "content",
        [
            "s3://media/a\ns3://media/b\n",
            "\ufeffs3://media/a\r\n\r\n  s3://media/b  ",
            '{"bucket": "media", "object_key": "a"}\n{"bucket": "media", "object_key": "b"}\n',
            's3://media/a\n{"bucket": "media", "object_key": "b"}',
        ],
        ids=["urls", "windows", "json-lines", "mixed"],
    )
    def test_manifest(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "files.txt").write_text(content, "utf-8", newline="")

        assert self.read(f"file://{tmp_path}/files.txt") == urls("a", "b")

    def test_hundred_thousand_files(self, tmp_path: Path) -> None:
        (tmp_path / "files.txt").write_text("\n".join(numbered(100_000)))

        assert len(self.read(f"file://{tmp_path}/files.txt")) == 100_000

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"s3://media/a\ns3://media\n", r"^Line 2 of the manifest 'file:///.*' \(sources of task 'submit'\) is"),
            (b's3://media/a\n{"bucket": "media"}\n', r"^Line 2 of .* has no object_key"),
            (b'{"bucket": ', r"^Line 1 of .* is not valid JSON: "),
            (b"s3://media/a\n\xff\xfe\x00", r"^Line 2 of .* is not UTF-8 text\.$"),
        ],
    )
    def test_invalid_manifest(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "files.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            self.read(f"file://{tmp_path}/files.txt")

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (
                "file:///no/such/file.txt",
                r"^The manifest 'file:///no/such/file\.txt' .* does not exist\. Check its URL",
            ),
            ("nosuchscheme://bucket/files.txt", r"^The manifest .* cannot be read: "),
            ("file:///", r"^The manifest .* cannot be read: "),
        ],
    )
    def test_manifest_that_cannot_be_read(self, url: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.read(url)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ("https://media/a", "must be a URL with a bucket and a key, such as"),
            ("s3://media", "must be a URL with a bucket and a key"),
            ("s3:///key", "must be a URL with a bucket and a key"),
            ("", "must be a URL with a bucket and a key"),
            (5, "is a int, but must be a URL"),
            (None, "is None, but must be a URL"),
            ({"bucket": "media"}, "has no object_key"),
            ({"bucket": "media", "object_key": "a", "prefix": "x"}, "Unknown key 'prefix'"),
        ],
    )
    def test_invalid_entry(self, run: TaskRun, entry: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message) as at_parse_time:
            batch_task(sources=["s3://media/a", entry])
        with pytest.raises(ValueError, match=message) as at_run_time:
            run_try(run, sources=iter(["s3://media/a", entry]))

        assert "sources[1] of task 'submit'" in str(at_parse_time.value)
        assert str(at_run_time.value) == str(at_parse_time.value)

    @pytest.mark.parametrize("text", ["", "None", str(urls("a", "b"))])
    def test_template_that_renders_to_text(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^sources of task 'submit' is .*: pass the output of the upstream task"):
            self.read(text)

    @pytest.mark.parametrize("key", ["k" * 300, "a", "ü" * 250])
    def test_job_names_are_unique_and_short(self, key: str) -> None:
        names = [
            files.job_name(batch, Source("media", key + suffix, region=region))
            for batch in (BATCH, "b" * 256)
            for suffix in ("1", "2")
            for region in (None, "eu")
        ]

        assert len(set(names)) == len(names)
        assert max(map(len, names)) <= 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": None}, r"^sources of task 'submit' must be a list of files, or the URL of a manifest"),
        ({"sources": {"bucket": "a", "object_key": "b"}}, r"^sources of task 'submit' must be a list"),
        ({"sources": "files.txt"}, r"^sources of task 'submit' is 'files\.txt', but must be"),
        ({"max_unfinished_jobs": 0}, r"^max_unfinished_jobs of task 'submit' is 0"),
        ({"submit_concurrency": 0}, r"^submit_concurrency of task 'submit' is 0"),
        ({"max_failures": -1}, r"^max_failures of task 'submit' is -1"),
        ({"batch": "b" * 257}, r"^batch of task 'submit' has 257 characters"),
        ({"batch": " "}, r"^batch of task 'submit' is ' '"),
        ({"destination": {"bucket": "r"}}, r"^destination of task 'submit' has no region"),
        ({"services": []}, r"^services of task 'submit' is empty"),
        ({"priority": 11}, r"^priority of task 'submit' is 11"),
        (
            {"results_path": "file:///r.jsonl", "wait_for_completion": False},
            r"^results_path of task 'submit' needs wait_for_completion",
        ),
        ({"fetch_metadata": True}, r"^fetch_metadata of task 'submit' needs results_path"),
        ({"poke_interval": 0, "deferrable": True}, r"^poke_interval of task 'submit' is 0"),
        ({"timeout": -1}, r"^timeout of task 'submit' is -1"),
        ({"wasabi_conn_id": ""}, r"^wasabi_conn_id of task 'submit' "),
    ],
)
def test_invalid_argument_at_parse_time(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch_task(**{"sources": urls("a"), **arguments})


class TestResultsFile:
    def lines(self, path: Path) -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    @every_mode
    @pytest.mark.parametrize("max_failures", [0, 9])
    def test_has_a_line_for_each_file(
        self, serve: Any, run: TaskRun, tmp_path: Path, mode: str, max_failures: int
    ) -> None:
        path = tmp_path / "new" / "results.jsonl"
        account = BatchAccount(
            make_batch_job("a.mp4", "completed", BATCH, Id="1", ErrorCount=2),
            post_response=lambda _, body: response(400) if "bad" in body["Name"] else None,
        )
        arguments = {"results_path": f"file://{path}", "fetch_metadata": True, "max_failures": max_failures}
        with serve(account):
            try:
                report = run_try(run, mode, sources=urls("a.mp4", "fails.mp4", "bad.mp4"), **arguments)
            except WasabiBatchFailed as error:
                assert max_failures == 0
                assert f"All results are in file://{path}." in str(error)
            else:
                assert report["results_path"] == f"file://{path}"

        completed, failed, rejected = self.lines(path)
        assert completed == {
            "source": "s3://media/a.mp4",
            "job_id": "1",
            "status": "completed",
            "error_count": 2,
            "error_code": None,
            "metadata_path": "s3://results/1_metadata.json",
        }
        assert (failed["status"], failed["error_code"]) == ("failed", "INTERNAL_ERROR")
        assert (rejected["job_id"], rejected["status"], rejected["error_code"]) == (None, "rejected", "HTTP 400")
        assert [file.name for file in path.parent.iterdir()] == ["results.jsonl"]

    def test_without_locations(self, serve: Any, run: TaskRun, tmp_path: Path) -> None:
        with serve(BatchAccount()) as account:
            run_try(run, sources=urls("a.mp4"), results_path=f"file://{tmp_path}/results.jsonl")

        assert "metadata_path" not in self.lines(tmp_path / "results.jsonl")[0]
        assert not [request for request in account.requests if request.endswith("metadata")]

    def test_result_without_a_location(self, serve: Any, run: TaskRun, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(batch_run, "RESULT_LOCATION_TIMEOUT_SECONDS", 0.02)

        class NoLocation(BatchAccount):
            def _job(self, job_id: str, endpoint: str) -> Response:
                is_missing = endpoint == "metadata" and job_id == self.jobs[0]["Id"]
                return response(404) if is_missing else super()._job(job_id, endpoint)

        account = NoLocation(
            *(make_batch_job(f"{number}.mp4", "completed", BATCH, Id=str(number)) for number in (0, 1))
        )
        with serve(account):
            run_try(run, sources=numbered(2), results_path=f"file://{tmp_path}/results.jsonl", fetch_metadata=True)

        locations = [line["metadata_path"] for line in self.lines(tmp_path / "results.jsonl")]
        assert locations == [None, "s3://results/1_metadata.json"]

    def test_outage_of_the_error_codes(self, serve: Any, run: TaskRun, monkeypatch: Any) -> None:
        monkeypatch.setattr(batch_run, "RETRY_SECONDS", 0.0)

        class NoErrorCodes(BatchAccount):
            def _job(self, _job_id: str, _endpoint: str) -> Response:
                return response(503, Retry_After="0")

        jobs = [make_batch_job(f"{number}.mp4", "failed", BATCH) for number in range(20)]
        with serve(NoErrorCodes(*jobs)) as account:
            report = run_try(run, sources=numbered(20), max_failures=20, resubmit_failed=False, submit_concurrency=1)

        assert report["counts"] == {"failed": 20}
        assert len({request for request in account.requests if request.endswith("errors")}) == 1

    def test_replaces_an_earlier_file(self, serve: Any, run: TaskRun, tmp_path: Path) -> None:
        (tmp_path / "results.jsonl").write_text("earlier")
        with serve(BatchAccount()):
            run_try(run, sources=urls("a.mp4"), results_path=f"file://{tmp_path}/results.jsonl")

        assert len(self.lines(tmp_path / "results.jsonl")) == 1

    @pytest.mark.parametrize("path", ["file:///dev/null/results.jsonl", "nosuchscheme://bucket/results.jsonl"])
    def test_path_that_cannot_be_written_fails_first(self, serve: Any, run: TaskRun, path: str) -> None:
        with (
            serve(BatchAccount()) as account,
            pytest.raises(ValueError, match=rf"^results_path of task 'submit' cannot be written: '{path}'"),
        ):
            run_try(run, sources=urls("a.mp4"), results_path=path)

        assert account.requests == []


class TestProgress:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    @pytest.mark.parametrize(
        ("seconds", "done", "failed", "expected"),
        [
            (0, 0, 0, "0 of 10,000 files done"),
            (60, 96, 0, "96 of 10,000 files done, 96 per minute, about 103 minutes left"),
            (2006, 3210, 12, "3,210 of 10,000 files done (12 failed), 96 per minute, about 71 minutes left"),
            (3600, 10_000, 0, "10,000 of 10,000 files done, 167 per minute"),
            (3600, 9_999, 0, "9,999 of 10,000 files done, 167 per minute, about 1 minute left"),
            (36_000, 20, 0, "20 of 10,000 files done, 0.03 per minute, about 4,990 hours left"),
        ],
    )
    def test_description(self, seconds: float, done: int, failed: int, expected: str) -> None:
        clock = self.Clock()
        progress = Progress(10_000, "done", clock)
        progress.describe(0)
        clock.now = seconds

        assert progress.describe(done, failed) == expected

    @every_mode
    def test_progress_is_logged(self, serve: Any, run: TaskRun, monkeypatch: Any, caplog: Any, mode: str) -> None:
        monkeypatch.setattr("airflow_wasabi_jobs.waiting.status_log.FIRST_PROGRESS_SECONDS", 0)
        caplog.set_level(logging.INFO)
        with serve(BatchAccount(polls_to_finish=4)):
            run_try(run, mode, sources=numbered(5))

        lines = [record.getMessage() for record in caplog.records if record.name == LOG.name]
        assert any(re.match(r"Batch '2026-11': 5 of 5 files submitted, [\d,]+ per minute\.", line) for line in lines)
        assert "Batch '2026-11': 0 of 5 files done." in lines
        place = "the triggerer" if mode == "deferrable" else "a worker"
        assert any(f"Batch '2026-11': waiting in {place}; polling every 0.02 s; times out at" in line for line in lines)


class TestTrigger:
    def trigger(self, **arguments: Any) -> WasabiUnfinishedJobsTrigger:
        return WasabiUnfinishedJobsTrigger(
            **{"batch": BATCH, "wasabi_conn_id": "wasabi_default", "poke_interval": 0.02, **arguments}
        )

    def test_serialization_round_trip(self) -> None:
        trigger = self.trigger(max_unfinished_jobs=3, failed_jobs=1, max_failures=2, files=9, files_to_submit=4)

        assert serialized_and_loaded(trigger).serialize() == trigger.serialize()

    def test_error_is_sent_as_an_event(self, serve: Any) -> None:
        class Forbidden(BatchAccount):
            def _list(self, query: Any) -> Response:
                return response(403)

        with serve(Forbidden()):
            event = asyncio.run(first_event(self.trigger()))

        assert type(exceptions.deserialize_error(event.payload["error"])) is exceptions.PermissionDeniedError

    def test_waits_until_half_of_the_unfinished_jobs_have_finished(self, serve: Any, run: TaskRun) -> None:
        task = batch_task(sources=numbered(9), max_unfinished_jobs=6, deferrable=True)
        with serve(BatchAccount()), pytest.raises(TaskDeferred) as deferred:
            inspect.unwrap(WasabiSubmitBatchOperator.execute)(task, run.context)

        _, arguments = deferred.value.trigger.serialize()
        assert (arguments["max_unfinished_jobs"], arguments["files_to_submit"]) == (3, 3)

    @pytest.mark.parametrize("unfinished", [3, 4])
    def test_large_batch_takes_few_requests(self, serve: Any, unfinished: int) -> None:
        jobs = [make_batch_job(f"{number}", "completed", BATCH) for number in range(1500)]
        jobs += [make_batch_job(f"slow-{number}", "in_progress", BATCH) for number in range(3)]
        with serve(BatchAccount(*jobs)) as account:
            asyncio.run(first_event(self.trigger(max_unfinished_jobs=unfinished)))

        assert len(account.requests) == 3
