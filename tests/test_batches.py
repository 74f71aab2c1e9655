"""The contract of a wait for a batch: what became of its jobs decides how it ends, and the mode does not matter."""

from __future__ import annotations

import asyncio
import logging
import re
import tracemalloc
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)
from connecting import SECRET_KEY
from listed import Jobs, Listed
from loopback import Answer, ByPath, Loopback, answer, json_answer, report, reset
from waiting import first_event, sent_through_airflow, wait

from airflow_wasabi_jobs.api import batches, errors
from airflow_wasabi_jobs.api.calls import Call
from airflow_wasabi_jobs.api.models import JobState, JobStatus
from airflow_wasabi_jobs.exceptions import WasabiBatchFailed
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.sensors import WasabiBatchSensor
from airflow_wasabi_jobs.triggers import WasabiBatchTrigger, WasabiJobTrigger

BATCH = "2026-11"
in_each_mode = pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])


def jobs(count: int, status: str = "completed", prefix: str = "job") -> Jobs:
    return {f"{prefix}-{number}": status for number in range(count)}


RUNNING = jobs(2) | jobs(1, "in_progress", "slow")
COMPLETED = jobs(2) | jobs(1, "completed", "slow")
FAILED = COMPLETED | {"bad-1": "failed", "bad-2": "cancelled"}
REASONS = {
    "bad-1": {"Status": "failed", "ErrorCode": "NO_SPEECH_MODEL"},
    "bad-2": {"Status": "cancelled", "ErrorCode": ""},
}
found = pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="at-first-look"),
        pytest.param([RUNNING], id="later"),
        pytest.param([{}, RUNNING], id="from-the-beginning"),
    ],
)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, connect: Any) -> Any:
    """Wait for a batch whose API answers by a script."""

    def wait_for(mode: str, listed: Answer, **arguments: Any) -> Any:
        with Loopback(listed) as server:
            connect(server.url)
            return wait(monkeypatch, mode, kind=WasabiBatchSensor, **{"batch": BATCH, **arguments})

    return wait_for


def ended(counts: dict[str, int], *failures: str, more: int = 0) -> dict[str, Any]:
    return {"batch": BATCH, "counts": counts, "failures": list(failures), "more_failures": more}


@in_each_mode
class TestWait:
    @found
    @pytest.mark.parametrize("fail_fast", [True, False])
    def test_all_completed(self, waits: Any, mode: str, before: list[Jobs], fail_fast: bool) -> None:
        listed = Listed(*before, COMPLETED)

        assert waits(mode, listed, fail_fast=fail_fast) == ended({"completed": 3})
        assert listed.looks == len(before) + 1

    @found
    @pytest.mark.parametrize("max_failures", [2, 3])
    def test_some_may_fail(self, waits: Any, mode: str, before: list[Jobs], max_failures: int) -> None:
        xcom = waits(mode, Listed(*before, FAILED), max_failures=max_failures)

        assert xcom == ended({"completed": 3, "failed": 1, "cancelled": 1}, "bad-1", "bad-2")

    @found
    @pytest.mark.parametrize(("max_failures", "fail_fast"), [(0, True), (1, True), (0, False), (1, False)])
    def test_too_many_failed(
        self, waits: Any, mode: str, before: list[Jobs], max_failures: int, fail_fast: bool
    ) -> None:
        listed = Listed(*before, FAILED, reasons=REASONS)
        with pytest.raises(WasabiBatchFailed) as caught:
            waits(mode, listed, max_failures=max_failures, fail_fast=fail_fast)

        told = str(caught.value)
        assert isinstance(caught.value, AirflowFailException)  # which Airflow does not retry
        assert told.startswith("Batch '2026-11' on connection 'wasabi_default': ")
        assert "bad-1 (NO_SPEECH_MODEL)" in told
        assert f"max_failures is {max_failures}" in told
        assert listed.looks == len(before) + 1

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_too_many_failed_skips(self, waits: Any, mode: str, flag: str) -> None:
        with pytest.raises(AirflowSkipException, match=r"bad-1 \(NO_SPEECH_MODEL\)") as caught:
            waits(mode, Listed(RUNNING, FAILED, reasons=REASONS), **{flag: True})

        assert flag in str(caught.value)
        assert isinstance(caught.value.__cause__, WasabiBatchFailed)

    def test_it_fails_while_others_run(self, waits: Any, mode: str) -> None:
        with pytest.raises(WasabiBatchFailed, match="1 job failed or was cancelled"):
            waits(mode, Listed(RUNNING, RUNNING | {"bad-1": "failed"}, reasons=REASONS))

    def test_it_waits_for_the_others_if_told_so(self, waits: Any, mode: str) -> None:
        listed = Listed(RUNNING | {"bad-1": "failed"}, RUNNING | {"bad-1": "failed"}, FAILED, reasons=REASONS)
        with pytest.raises(WasabiBatchFailed, match=r"2 jobs failed.*bad-1 \(NO_SPEECH_MODEL\), bad-2 \(cancelled\)"):
            waits(mode, listed, fail_fast=False)

        assert listed.looks == 3

    def test_ten_are_named(self, waits: Any, mode: str) -> None:
        bad = jobs(12, "failed", "bad")
        reasons = {job_id: {"Status": "failed", "ErrorCode": "INTERNAL_ERROR"} for job_id in bad}
        listed = Listed(COMPLETED | bad, reasons=reasons)
        with pytest.raises(WasabiBatchFailed, match=r"12 jobs failed.*bad-9 \(INTERNAL_ERROR\) and 2 more") as caught:
            waits(mode, listed, fail_fast=False)

        assert str(caught.value).count("INTERNAL_ERROR") == 10

    @pytest.mark.parametrize("why", [answer(500), answer(403), answer(200, "<html>"), reset()])
    def test_the_verdict_stands_without_reasons(self, waits: Any, mode: str, why: Any) -> None:
        class Unexplained(Listed):
            def __call__(self, wire: Any) -> bytes | None:
                if wire.request.target.endswith("/errors"):
                    return why if isinstance(why, bytes) else why(wire)
                return super().__call__(wire)

        with pytest.raises(WasabiBatchFailed, match=r"max_failures is 0: bad-1\b(?! \()"):
            waits(mode, Unexplained(FAILED))

    def test_an_empty_batch_is_waited_for(self, waits: Any, mode: str) -> None:
        listed = Listed({}, {}, {}, COMPLETED)

        assert waits(mode, listed) == ended({"completed": 3})
        assert listed.looks == 4

    def test_it_waits_for_as_many_jobs_as_are_expected(self, waits: Any, mode: str) -> None:
        listed = Listed(jobs(2), jobs(2), jobs(3, "in_progress"), jobs(4), jobs(5))

        assert waits(mode, listed, expected_jobs=5) == ended({"completed": 5})
        assert listed.looks == 5

    def test_more_jobs_than_expected_count(self, waits: Any, mode: str) -> None:
        assert waits(mode, Listed(jobs(7)), expected_jobs=5) == ended({"completed": 7})

    def test_only_jobs_of_exactly_that_batch_count(self, waits: Any, mode: str) -> None:
        others = jobs(120, "in_progress", "other") | jobs(120, "failed", "broken")

        assert waits(mode, Listed(RUNNING, COMPLETED, others=others)) == ended({"completed": 3})

    def test_others_alone_are_no_batch(self, waits: Any, mode: str) -> None:
        with pytest.raises(AirflowSensorTimeout, match="when last seen it was without a job yet"):
            waits(mode, Listed({}, others=jobs(3, "completed", "other")), timeout=0.3)

    def test_ids_of_failures_are_limited(self, waits: Any, mode: str) -> None:
        xcom = waits(mode, Listed(jobs(130, "failed", "bad") | COMPLETED), max_failures=130)

        assert xcom == ended({"completed": 3, "failed": 130}, *[f"bad-{number}" for number in range(100)], more=30)

    @found
    @pytest.mark.parametrize("trouble", [answer(429), answer(503), reset()], ids=["429", "503", "reset"])
    def test_what_passes_ends_nothing(
        self, waits: Any, monkeypatch: Any, mode: str, before: list[Jobs], trouble: Any
    ) -> None:
        monkeypatch.setattr("airflow_wasabi_jobs.watch.pace.SHORTEST_PAUSE", 0.05)
        listed = Listed(*before, *[COMPLETED] * 8, trouble=dict.fromkeys((0, 3, 6, 9), trouble))

        assert waits(mode, listed) == ended({"completed": 3})

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail", "silent_fail"])
    def test_what_passes_is_never_skipped(self, waits: Any, mode: str, flag: str) -> None:
        listed = Listed(RUNNING, *[COMPLETED] * 8, trouble=dict.fromkeys((0, 3, 6, 9), answer(500)))

        assert waits(mode, listed, **{flag: True}) == ended({"completed": 3})

    @found
    @pytest.mark.parametrize(
        ("trouble", "error"),
        [
            pytest.param(answer(401), errors.Unauthorized, id="401"),
            pytest.param(answer(403), errors.Forbidden, id="403"),
            pytest.param(answer(404), errors.NotFound, id="404"),
            pytest.param(answer(302, Location="http://127.0.0.2/"), errors.Redirected, id="302"),
            pytest.param(answer(200, "<html>"), errors.UnexpectedAnswer, id="html"),
            pytest.param(json_answer({"Jobs": []}), errors.UnexpectedAnswer, id="no-records"),
            pytest.param(
                json_answer({"Records": [{"Id": "1", "Status": "paused", "Batch": BATCH}]}),
                errors.UnexpectedAnswer,
                id="unknown-status",
            ),
        ],
    )
    def test_an_error_must_be_seen(self, waits: Any, mode: str, before: list[Jobs], trouble: bytes, error: Any) -> None:
        at = 0 if not before else 5 * len(before) + (1 if before[0] == {} else 0)
        listed = Listed(*before, COMPLETED, trouble=dict.fromkeys(range(at, 99), trouble))
        with pytest.raises(errors.AirError, match="'wasabi_default'") as caught:
            waits(mode, listed, soft_fail=True)

        assert type(caught.value) is error
        assert not isinstance(caught.value, AirflowException)  # which a deferred sensor with soft_fail would skip

    def test_an_error_skips_with_never_fail(self, waits: Any, mode: str) -> None:
        with pytest.raises(AirflowSkipException) as caught:
            waits(mode, Listed(COMPLETED, trouble={0: answer(403)}), never_fail=True)

        assert type(caught.value.__cause__) is errors.Forbidden

    def test_silent_fail_waits_on(self, waits: Any, mode: str) -> None:
        listed = Listed(COMPLETED, trouble={0: answer(403), 1: answer(404)})

        assert waits(mode, listed, silent_fail=True) == ended({"completed": 3})

    @pytest.mark.parametrize("status", ["paused", "Completed"])
    def test_an_unknown_status_of_another_batch_does_not_matter(self, waits: Any, mode: str, status: str) -> None:
        assert waits(mode, Listed(COMPLETED, others={"other": status})) == ended({"completed": 3})

    def test_time_out(self, waits: Any, mode: str) -> None:
        with pytest.raises(AirflowSensorTimeout, match=r"Batch '2026-11' on connection .* it was running"):
            waits(mode, Listed(RUNNING), timeout=0.5)

    def test_time_out_skips(self, waits: Any, mode: str) -> None:
        with pytest.raises(AirflowSkipException, match=r"Batch '2026-11'.* timeout"):
            waits(mode, Listed(RUNNING), timeout=0.3, soft_fail=True)

    @pytest.mark.parametrize("batch", ["", "  ", "None", None, 5, ["a"], "x" * 257])
    def test_batch_that_rendered_to_nothing(self, monkeypatch: Any, connect: Any, mode: str, batch: Any) -> None:
        connect("http://127.0.0.1:1")
        made = WasabiBatchSensor.execute

        def rendered(sensor: WasabiBatchSensor, context: Any) -> Any:
            sensor.batch = batch
            return made(sensor, context)

        monkeypatch.setattr(WasabiBatchSensor, "execute", rendered)
        with pytest.raises(ValueError, match=r"^batch of task 'wait' "):
            wait(monkeypatch, mode, kind=WasabiBatchSensor, batch="{{ params.batch }}", silent_fail=True)

    def test_keys_never_reach_a_log(self, waits: Any, caplog: Any, mode: str) -> None:
        caplog.set_level(logging.DEBUG)
        echo = json_answer({"Error": f"{SECRET_KEY} is not known"}, 503)
        why = {"bad-1": {"Status": "failed", "ErrorCode": SECRET_KEY}}
        with pytest.raises(WasabiBatchFailed) as caught:
            waits(mode, Listed(RUNNING | {"bad-1": "failed"}, trouble={0: echo}, reasons=why))

        assert SECRET_KEY not in f"{caplog.text}{caught.value!r}"


class TestConclusion:
    """The end is only concluded from two whole lists in a row that are alike."""

    @staticmethod
    def look(*pages: list[JobState], expected: int | None = None) -> Any:
        """Drive one look with these pages of the whole list, all other lists being empty."""
        whole = list(pages)
        asking = batches.look(BATCH, expected_jobs=expected, max_failures=0, fail_fast=True)
        call: Call[Any] = next(asking)
        try:
            while True:
                call = asking.send([] if "status=" in call.path else whole.pop(0))
        except StopIteration as end:
            assert not whole
            return end.value

    @staticmethod
    def page(**listed: str) -> list[JobState]:
        return [JobState(job_id, JobStatus(status), batch=BATCH) for job_id, status in listed.items()]

    def test_two_lists_that_are_alike(self) -> None:
        page = self.page(a="completed", b="completed")

        assert self.look(page, page).is_over

    @pytest.mark.parametrize(
        "second",
        [
            {"a": "completed"},
            {"a": "completed", "b": "completed", "c": "completed"},
            {"a": "completed", "c": "completed"},
        ],
        ids=["one-less", "one-more", "another"],
    )
    def test_two_lists_that_differ(self, second: dict[str, str]) -> None:
        assert not self.look(self.page(a="completed", b="completed"), self.page(**second)).is_over

    def test_a_job_that_began_between_the_lists(self) -> None:
        assert not self.look(self.page(a="completed", b="submitted")).is_over

    def test_too_few_jobs_take_one_list_only(self) -> None:
        assert not self.look(self.page(a="completed"), expected=2).is_over

    def test_a_job_that_is_on_two_pages_counts_once(self) -> None:
        many = {f"job-{number}": "completed" for number in range(100)}
        pages = [self.page(**many), self.page(**{"job-99": "completed", "job-100": "completed"})]

        assert self.look(*pages, *pages).counts == {"completed": 101}

    def test_a_page_that_is_repeated_for_ever_ends_the_list(self) -> None:
        page = self.page(**{f"job-{number}": "completed" for number in range(100)})

        assert self.look(page, page, page, page).counts == {"completed": 100}


class TestCost:
    @pytest.fixture
    def requests_of_a_look(self, connect: Any) -> Any:
        def look(listed: Listed, **arguments: Any) -> tuple[Any, int]:
            with Loopback(listed) as server:
                connect(server.url)
                report = WasabiJobsHook().get_batch_report(BATCH, **arguments)
            return report, len(listed.asked)

        return look

    @pytest.mark.parametrize("fail_fast", [True, False])
    def test_while_jobs_run_the_batch_is_not_read(self, requests_of_a_look: Any, fail_fast: bool) -> None:
        listed = Listed(jobs(2000) | jobs(2000, "in_progress", "slow"))

        report, count = requests_of_a_look(listed, fail_fast=fail_fast)
        assert not report.is_over
        assert count <= 5

    def test_ten_thousand_jobs(self, requests_of_a_look: Any) -> None:
        listed = Listed(jobs(9_999))

        report, count = requests_of_a_look(listed, expected_jobs=10_000)
        assert (report.is_over, count) == (False, 105)

        # To conclude, all of them are read twice.
        listed = Listed(jobs(9_999))
        report, count = requests_of_a_look(listed)
        assert (report.is_over, count) == (True, 205)

    def test_memory(self) -> None:
        def page(number: int) -> list[JobState]:
            return [
                JobState(f"{job:032}", JobStatus.COMPLETED, batch=BATCH)
                for job in range(number * 100, number * 100 + 100)
            ]

        asking = batches.look(BATCH, expected_jobs=None, max_failures=0, fail_fast=True)
        tracemalloc.start()
        try:
            call = next(asking)
            while True:
                number = int(re.search(r"pageNumber=(\d+)", call.path)[1]) - 1
                call = asking.send(page(number) if "status=" not in call.path and number < 100 else [])
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

    def test_a_batch_that_is_over_is_its_report(self, connect: Any) -> None:
        with Loopback(Listed(RUNNING, FAILED)) as server:
            connect(server.url)
            event = asyncio.run(first_event(sent_through_airflow(self.trigger(max_failures=9))))

        assert event.payload == {
            "is_over": True,
            **ended({"completed": 3, "failed": 1, "cancelled": 1}, "bad-1", "bad-2"),
        }

    def test_an_error_travels_as_an_event(self, connect: Any) -> None:
        with Loopback(answer(403)) as server:
            connect(server.url)
            event = asyncio.run(first_event(self.trigger()))

        assert event.payload["batch"] == BATCH
        assert type(errors.from_event(event.payload["error"])) is errors.Forbidden

    def test_it_survives_the_database(self) -> None:
        made = self.trigger(exponential_backoff=True, max_wait=9.0, expected_jobs=7, max_failures=2, fail_fast=False)

        assert sent_through_airflow(made).serialize() == made.serialize()

    @pytest.mark.parametrize(
        "arguments", [{"poke_interval": 0}, {"poke_interval": -1}, {"poke_interval": 1, "max_wait": -1}]
    )
    def test_intervals_must_be_positive(self, arguments: Any) -> None:
        with pytest.raises(ValueError, match="0 seconds"):
            self.trigger(**arguments)

    def test_keys_that_change_meanwhile(self, connect: Any, monkeypatch: Any) -> None:
        looked_up = []
        settings_of = WasabiJobsHook._settings_of
        monkeypatch.setattr(WasabiJobsHook, "_settings_of", lambda *of: looked_up.append(1) or settings_of(*of))

        class Rotated(Listed):
            def __call__(self, wire: Any) -> bytes | None:
                if len(self.asked) > 6 and wire.request.headers["x-amz-secret-key"] == SECRET_KEY:
                    connect(server.url, secret_key="a-new-one")
                    return answer(401)
                return super().__call__(wire)

        with Loopback(Rotated(RUNNING, RUNNING, COMPLETED)) as server:
            connect(server.url)
            event = asyncio.run(first_event(self.trigger()))

        assert event.payload["counts"] == {"completed": 3}
        assert len(looked_up) == 2

    @pytest.mark.filterwarnings("error")
    def test_it_can_be_cancelled_at_any_time(self, connect: Any) -> None:
        async def cancelled_while(seconds: float) -> None:
            waiting = asyncio.create_task(first_event(self.trigger()))
            await asyncio.sleep(seconds)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with Loopback(Listed(RUNNING)) as server:
            connect(server.url)
            for seconds in (0, 0.01, 0.1):
                asyncio.run(cancelled_while(seconds))

    def test_it_shares_what_the_waits_for_jobs_on_the_account_share(self, connect: Any, monkeypatch: Any) -> None:
        looked_up = []
        settings_of = WasabiJobsHook._settings_of
        monkeypatch.setattr(WasabiJobsHook, "_settings_of", lambda *of: looked_up.append(1) or settings_of(*of))

        async def both() -> list[Any]:
            job = WasabiJobTrigger("12345", "wasabi_default", 0.02)
            return await asyncio.gather(first_event(job), first_event(self.trigger()))

        listed = Listed(RUNNING, COMPLETED)
        status = [report("in_progress")] * 3 + [report("completed")]
        with Loopback(ByPath(jobs=[listed], status=status)) as server:
            connect(server.url)
            job, batch = asyncio.run(both())

        assert (job.payload["status"], batch.payload["counts"]) == ("completed", {"completed": 3})
        assert looked_up == [1]


class TestArguments:
    @pytest.mark.parametrize(("rendered", "expected"), [("3", 3), (" 12 ", 12), (4, 4), (None, None)])
    def test_expected_jobs_that_are_templated(self, connect: Any, rendered: Any, expected: int | None) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch=BATCH, expected_jobs="{{ params.count }}")
        sensor.expected_jobs = rendered
        with Loopback(Listed(jobs(2 if expected is None else expected))) as server:
            connect(server.url)
            assert sensor.execute({})["counts"]["completed"] == (expected or 2)

        assert sensor.expected_jobs == expected

    @pytest.mark.parametrize("rendered", ["", "None", "0", "-1", "1.5", "many", [1]])
    def test_expected_jobs_that_rendered_to_nothing(self, rendered: Any) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch=BATCH, expected_jobs="{{ params.count }}")
        sensor.expected_jobs = rendered
        with pytest.raises(ValueError, match=r"^expected_jobs of task 'wait' is "):
            sensor.execute({})

    @pytest.mark.parametrize("batch", [None, "", " ", "None", "x" * 257])
    def test_batch(self, batch: Any) -> None:
        with pytest.raises(ValueError, match=r"^batch of task 'wait' "):
            WasabiBatchSensor(task_id="wait", batch=batch)

    @pytest.mark.parametrize("expected_jobs", [0, -1, 1.5, "3", True])
    def test_expected_jobs(self, expected_jobs: Any) -> None:
        with pytest.raises(ValueError, match=r"^expected_jobs of task 'wait' is "):
            WasabiBatchSensor(task_id="wait", batch=BATCH, expected_jobs=expected_jobs)

    @pytest.mark.parametrize("max_failures", [-1, 1.5, "3", True, None])
    def test_max_failures(self, max_failures: Any) -> None:
        with pytest.raises(ValueError, match=r"^max_failures of task 'wait' is "):
            WasabiBatchSensor(task_id="wait", batch=BATCH, max_failures=max_failures)

    def test_poke_interval_must_be_positive_to_defer(self) -> None:
        with pytest.raises(ValueError, match=r"^poke_interval of task 'wait' is 0"):
            WasabiBatchSensor(task_id="wait", batch=BATCH, poke_interval=0, deferrable=True)

    def test_templates(self) -> None:
        sensor = WasabiBatchSensor(task_id="wait", batch="{{ a }}", wasabi_conn_id="{{ b }}")

        sensor.render_template_fields({"a": BATCH, "b": "another"})

        assert (sensor.batch, sensor.wasabi_conn_id) == (BATCH, "another")
