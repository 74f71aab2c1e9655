"""Waits of one account do not affect each other: hung requests, other intervals, batches, rejected keys, errors."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import idle_clock
import pytest
from account_server import AccountServer, serve_account
from aiohttp import web

from airflow_wasabi_jobs.api import batches, exceptions
from airflow_wasabi_jobs.api.models import JobReport
from airflow_wasabi_jobs.polling import Subscription, poll_group, registry, subscription
from airflow_wasabi_jobs.polling.poll import Poll
from airflow_wasabi_jobs.polling.request_queue import MAX_CONCURRENT_REQUESTS

pytestmark = pytest.mark.long

INTERVAL = 0.2


def running(count: int, prefix: str = "job") -> dict[str, str]:
    return {f"{prefix}-{number}": "in_progress" for number in range(count)}


def options(**values: float) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in {"retries": 0, **values}.items()) + "}"


async def wait_for_job(
    api: AccountServer, job_id: str, interval: float = INTERVAL, *, align: bool = True, extra: str | None = None
) -> float:
    """Wait for a job, and return when the wait ended."""

    async def read() -> Any:
        return api.settings(**({"extra": extra} if extra else {}))

    async with Subscription("wasabi", read) as wait:
        while True:
            try:
                result = await wait.poll(job_id, interval, align=align, report_unchanged_after=600)
            except exceptions.WasabiApiError as error:
                if not error.is_transient:
                    raise
                continue
            if isinstance(result, JobReport) and result.status.is_terminal:
                return asyncio.get_running_loop().time()


def start(api: AccountServer, *job_ids: str, **arguments: Any) -> list[asyncio.Task[float]]:
    return [asyncio.create_task(wait_for_job(api, job_id, **arguments)) for job_id in job_ids]


async def cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("hung_count", [3, MAX_CONCURRENT_REQUESTS + 20])
@pytest.mark.parametrize("align", [True, False])
def test_hung_requests_do_not_delay_other_waits(hung_count: int, align: bool) -> None:
    async def main() -> None:
        hung, healthy = running(hung_count, "hung"), running(5, "healthy")
        async with serve_account({**hung, **healthy}) as api:
            api.hung_jobs = set(hung)
            extra = options(connect_timeout=0.5, read_timeout=0.5)
            hung_waits = start(api, *hung, align=align, extra=extra)
            # Until each hung request has timed out once: from then on they share few workers.
            await asyncio.sleep(4 * INTERVAL + 1.5)
            healthy_waits = start(api, *healthy, align=align, extra=extra)
            await asyncio.sleep(3 * INTERVAL)
            finished_at = asyncio.get_running_loop().time()
            api.jobs |= dict.fromkeys(healthy, "completed")
            async with asyncio.timeout(10):
                end_times = await asyncio.gather(*healthy_waits)
            await cancel(hung_waits)

        assert max(end_times) - finished_at < 2 * INTERVAL

    idle_clock.run(main())


@pytest.mark.parametrize("align", [True, False], ids=["short interval", "backoff"])
def test_other_interval_does_not_add_requests(align: bool) -> None:
    """The lists take longer than half of the short interval, and less than half of the long one."""

    async def count_requests(*, with_other_wait: bool) -> int:
        async with serve_account({**running(300), "other": "in_progress"}) as api:
            api.latency = 0.04
            waits = start(api, *running(300), interval=0.6)
            others = start(api, "other", interval=0.05, align=align) if with_other_wait else []
            await asyncio.sleep(2.4)
            await cancel(waits + others)
        return len(api.requests) - api.requested_ids.count("other")

    alone = idle_clock.run(count_requests(with_other_wait=False))
    beside = idle_clock.run(count_requests(with_other_wait=True))

    assert beside <= alone * 1.1


def test_batches_share_a_bounded_queue_in_which_no_time_counts() -> None:
    async def poll_batch(api: AccountServer, number: int) -> bool:
        async def read() -> Any:
            return api.settings(extra=options(connect_timeout=0.3, read_timeout=30))

        async with Subscription("wasabi", read) as wait:
            requests = batches.poll_batch(f"b{number}", expected_jobs=None, max_failures=0, fail_fast=True)
            request = next(requests)
            try:
                while True:
                    request = requests.send(await wait.send(request))
            except StopIteration as end:
                return bool(end.value.is_finished)

    async def main() -> None:
        async with serve_account({}) as api:
            api.latency = 0.15
            finished = await asyncio.gather(*(poll_batch(api, number) for number in range(200)))

        assert finished == [False] * 200
        assert api.max_in_flight == MAX_CONCURRENT_REQUESTS

    idle_clock.run(main())


def test_pause_does_not_shorten_the_timeout_of_the_next_request() -> None:
    async def main() -> None:
        async with serve_account({"job": "completed", "other": "completed"}) as api:
            extra = options(connect_timeout=1, read_timeout=1)
            api.error_response = web.Response(status=429, headers={"Retry-After": "2"})
            waits = start(api, "job", "other", extra=extra)
            await asyncio.sleep(1.5 * INTERVAL + 0.1)
            api.error_response, api.latency = None, 0.7
            async with asyncio.timeout(20):
                await asyncio.gather(*waits)

        # Each job is requested once before the pause, and once after it.
        assert len(api.requests) <= 4

    idle_clock.run(main())


@pytest.mark.parametrize("status_error", [None, 500])
def test_job_is_requested_by_its_id_after_a_bounded_number_of_list_polls(
    monkeypatch: pytest.MonkeyPatch, status_error: int | None
) -> None:
    bound, polls = 4, 20
    monkeypatch.setattr(subscription, "MAX_LIST_POLLS", bound)
    monkeypatch.setattr(poll_group, "MAX_LIST_POLLS", bound)

    async def outdated_list(*_: Any) -> Any:
        return [{"Id": job_id, "Status": "in_progress"} for job_id in running(30)]

    async def main() -> None:
        async with serve_account(running(30), outdated_list) as api:
            if status_error:
                api.status_errors = dict.fromkeys(running(30), status_error)
            waits = start(api, *running(30))
            await asyncio.sleep(polls * INTERVAL)
            await cancel(waits)

        expected = polls // (bound + 1) - 1 if status_error is None else polls - bound - 2
        assert min(api.requested_ids.count(job_id) for job_id in running(30)) >= expected

    idle_clock.run(main())


def test_unexpected_error_ends_only_its_own_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_wasabi_jobs.polling import status_requests

    get_job_status = status_requests.endpoints.get_job_status

    def fail_for_one_job(job_id: str) -> Any:
        if job_id == "broken":
            raise RuntimeError("a bug")
        return get_job_status(job_id)

    monkeypatch.setattr(status_requests.endpoints, "get_job_status", fail_for_one_job)

    async def main() -> None:
        async with serve_account({**running(3), "broken": "in_progress"}) as api:
            broken, *waits = start(api, "broken", *running(3))
            with pytest.raises(RuntimeError, match="a bug"):
                await broken
            api.jobs |= dict.fromkeys(running(3), "completed")
            async with asyncio.timeout(10):
                await asyncio.gather(*waits)

    idle_clock.run(main())


def test_rejected_keys_are_sent_by_a_bounded_number_of_requests() -> None:
    async def main() -> None:
        async with serve_account(running(500)) as api:
            waits = start(api, *running(500))
            await asyncio.sleep(2 * INTERVAL)
            sent = len(api.requests)
            api.secret_key = "a-new-secret-key"
            api.jobs = dict.fromkeys(api.jobs, "completed")
            async with asyncio.timeout(20):
                await asyncio.gather(*waits)

        assert len(api.requests) - sent <= 500 + 2 * MAX_CONCURRENT_REQUESTS + 10

    idle_clock.run(main())


def test_keys_that_change_twice_during_one_poll() -> None:
    async def main() -> None:
        async with serve_account({"job": "completed"}) as api:
            keys = iter(["first", "second", "third"])

            async def read() -> Any:
                return api.settings(secret_key=next(keys))

            api.secret_key = "third"
            async with Subscription("wasabi", read) as wait, asyncio.timeout(10):
                report = await wait.poll("job", INTERVAL, align=True)

        assert report == JobReport("job", report.status)
        assert report.status.is_terminal

    idle_clock.run(main())


def count_polls() -> int:
    gc.collect()
    return sum(type(item) is Poll for item in gc.get_objects())


def test_cancelled_waits_leave_nothing() -> None:
    async def main() -> None:
        before = count_polls()
        async with serve_account({"other": "in_progress"}) as api:
            (other,) = start(api, "other", interval=3600)
            await asyncio.sleep(0.05)
            loop: Any = asyncio.get_running_loop()
            timers = len(loop._scheduled)
            for number in range(3):
                waits = start(api, *(f"job-{index}" for index in range(200)), interval=60.0 + number)
                backoff = start(api, *(f"job-{index}" for index in range(200)), interval=90.0 + number, align=False)
                await asyncio.sleep(0.05)
                await cancel(waits + backoff)
            del waits, backoff  # their exceptions hold frames
            await asyncio.sleep(0)  # asyncio releases the exceptions in the next iteration of the loop
            assert count_polls() == before + 1
            # asyncio keeps cancelled timers until there are more of them than of others, at most about 100.
            assert len([timer for timer in loop._scheduled if not timer.cancelled()]) <= timers
            (poller,) = registry.Registry.of_running_loop()._pollers.values()
            assert len(poller._groups) == 1
            await cancel([other])

    idle_clock.run(main())


def test_closed_event_loops_are_released() -> None:
    loops = []

    async def start_waiting() -> None:
        async def read() -> Any:
            raise exceptions.ConnectionConfigError("not configured")

        held_subscription = Subscription("wasabi", read)
        assert held_subscription

    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(start_waiting())
        loop.close()
        loops.append(weakref.ref(loop))
        del loop
    gc.collect()

    assert [loop() for loop in loops] == [None] * 5
