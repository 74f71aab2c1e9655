"""One poller for all waits on one account: sharing, number of requests, rate limits, cancellation and errors."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections import Counter
from typing import Any
from unittest.mock import Mock

import idle_clock
import pytest
from account_server import AccountServer, serve_account
from aiohttp import web

from airflow_wasabi_jobs.api import exceptions
from airflow_wasabi_jobs.api.models import JobReport
from airflow_wasabi_jobs.api.settings import Settings
from airflow_wasabi_jobs.polling import (
    Subscription,
    job_lists,
    poll_group,
    rate_limiter,
    registry,
    request_queue,
    subscription,
)

pytestmark = pytest.mark.long

INTERVAL = 0.4


class WaitGroup:
    """Waits for jobs on one connection, as triggers do."""

    def __init__(
        self, api: AccountServer, conn_id: str = "wasabi", interval: float = INTERVAL, **settings: Any
    ) -> None:
        self.api = api
        self.interval = interval
        self.heartbeat_interval = 600.0
        self.conn_id = conn_id
        self.settings_fields = settings
        self.connection_reads = 0
        self.results: list[Any] = []
        self.end_times: dict[str, float] = {}

    async def read(self) -> Settings:
        self.connection_reads += 1
        await asyncio.sleep(0)
        return self.api.settings(f"connection {self.conn_id!r}", **self.settings_fields)

    async def wait_for_job(self, job_id: str) -> JobReport:
        async with Subscription(self.conn_id, self.read) as subscription:
            while True:
                try:
                    result = await subscription.poll(
                        job_id, self.interval, align=True, report_unchanged_after=self.heartbeat_interval
                    )
                except exceptions.WasabiApiError as error:
                    if not error.is_transient:
                        raise
                    continue
                self.results.append(result)
                if isinstance(result, JobReport) and result.status.is_terminal:
                    self.end_times[job_id] = asyncio.get_running_loop().time()
                    return result

    def start(self, *job_ids: str) -> list[asyncio.Task[JobReport]]:
        return [asyncio.create_task(self.wait_for_job(job_id)) for job_id in job_ids]


def running(count: int, status: str = "in_progress", prefix: str = "job") -> dict[str, str]:
    return {f"{prefix}-{number}": status for number in range(count)}


async def wait_until(condition: Any) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


async def gather_all(tasks: list[asyncio.Task[JobReport]]) -> list[JobReport]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*tasks)


class TestSharing:
    def test_waits_on_one_connection_share_the_connection_and_the_lists(self) -> None:
        async def main() -> None:
            async with serve_account(running(250)) as api:
                waits = WaitGroup(api)
                tasks = waits.start(*api.jobs)
                await wait_until(lambda: api.request_counts["list"] >= 9)
                api.jobs |= running(250, "completed")
                reports = await gather_all(tasks)

            assert {report.job_id for report in reports} == set(api.jobs)
            assert waits.connection_reads == 1
            assert api.request_counts["status"] == 250  # only the requests that end the waits

        idle_clock.run(main())

    def test_connections_to_one_account_share_one_poller(self) -> None:
        async def main() -> None:
            async with serve_account(running(40)) as api:
                first, second = WaitGroup(api, "one"), WaitGroup(api, "other")
                tasks = first.start(*list(api.jobs)[:20]) + second.start(*list(api.jobs)[20:])
                await wait_until(lambda: api.request_counts["list"] >= 5)
                assert len(registry.Registry.of_running_loop()._pollers) == 1
                api.jobs |= running(40, "completed")
                await gather_all(tasks)

            assert (first.connection_reads, second.connection_reads) == (1, 1)

        idle_clock.run(main())

    def test_error_names_the_connection_of_its_wait(self) -> None:
        async def main() -> None:
            async with serve_account({}) as api:
                for conn_id in ("one", "other"):
                    with pytest.raises(exceptions.NotFoundError, match=f"connection '{conn_id}'"):
                        await WaitGroup(api, conn_id).wait_for_job("nowhere")

        idle_clock.run(main())

    def test_two_accounts_share_nothing(self) -> None:
        async def main() -> None:
            async with serve_account(running(15)) as first, serve_account(running(15, "completed")) as second:
                second.secret_key = "another-secret"
                second_tasks = WaitGroup(second, "other").start(*second.jobs)
                first_tasks = WaitGroup(first, "one").start(*first.jobs)
                await gather_all(second_tasks)
                first.error_response = web.Response(status=429, headers={"Retry-After": "900"})
                await wait_until(lambda: first.requests)
                await gather_all(WaitGroup(second, "other").start(*second.jobs))
                for task in first_tasks:
                    task.cancel()
                await asyncio.gather(*first_tasks, return_exceptions=True)

        idle_clock.run(main())

    def test_two_waits_for_one_job_share_the_request(self) -> None:
        async def main() -> None:
            async with serve_account({"job": "completed"}) as api:
                reports = await gather_all(WaitGroup(api).start("job", "job", "job"))

            assert len(reports) == 3
            assert api.request_counts == {"status": 1}

        idle_clock.run(main())

    def test_event_loops_do_not_share_pollers(self) -> None:
        async def main() -> None:
            async with serve_account(running(12)) as api:
                tasks = WaitGroup(api).start(*api.jobs)
                await wait_until(lambda: api.request_counts["list"] >= 3)
                api.jobs |= running(12, "completed")
                assert len(await gather_all(tasks)) == 12

        threads = [threading.Thread(target=idle_clock.run, args=(main(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)


async def _duplicated(_: web.Request, page: Any) -> Any:
    return page + page[:50]


async def _missing_half(_: web.Request, page: Any) -> Any:
    return page[::2]


async def _shifted(request: web.Request, page: Any) -> Any:
    return page[int(request.query["pageNumber"]) :]


async def _empty(*_: Any) -> Any:
    return []


async def _all_finished(_: web.Request, page: Any) -> Any:
    return [{**record, "Status": "completed"} for record in page]


async def _unknown_statuses(_: web.Request, page: Any) -> Any:
    return [{**record, "Status": "Paused"} for record in page]


async def _other_jobs(_: web.Request, page: Any) -> Any:
    return [{**record, "Id": f"other-{record['Id']}"} for record in page] or [
        {"Id": "x", "Status": "in_progress"}
    ] * 100


def _respond_with(status: int, text: str = "") -> Any:
    async def respond(*_: Any) -> web.Response:
        return web.Response(status=status, text=text)

    return respond


async def _slow(_: web.Request, page: Any) -> Any:
    await asyncio.sleep(INTERVAL * 5)
    return page


async def _truncated(request: web.Request, _: Any) -> Any:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"Records": [')
    request.transport.abort()
    return response


LIST_RESPONSES = {
    "correct": None,
    "duplicated jobs": _duplicated,
    "missing jobs": _missing_half,
    "shifted pages": _shifted,
    "empty": _empty,
    "all finished": _all_finished,
    "unknown statuses": _unknown_statuses,
    "other jobs": _other_jobs,
    "403": _respond_with(403),
    "404": _respond_with(404, "nothing here"),
    "500": _respond_with(500),
    "html": _respond_with(200, "<html>Welcome</html>"),
    "not a list": _respond_with(200, "{}"),
    "slow": _slow,
    "truncated": _truncated,
}


@pytest.mark.parametrize("lists", LIST_RESPONSES.values(), ids=LIST_RESPONSES)
def test_wrong_list_changes_and_delays_no_outcome(lists: Any) -> None:
    async def main() -> None:
        final_statuses = ["completed", "failed", "cancelled"]
        async with serve_account(running(120), lists) as api:
            waits = WaitGroup(api)
            tasks = waits.start(*api.jobs)
            await wait_until(lambda: len(api.requests) >= 3)
            for number, job_id in enumerate(list(api.jobs)):
                if number % 2:
                    api.jobs[job_id] = final_statuses[number % 3]
            changed_at = asyncio.get_running_loop().time()
            await wait_until(lambda: len(waits.end_times) == 60)
            assert max(waits.end_times.values()) - changed_at < 2 * INTERVAL
            assert all(api.jobs[job_id] != "in_progress" for job_id in waits.end_times)
            for number, job_id in enumerate(list(api.jobs)):
                api.jobs[job_id] = final_statuses[number % 3]
            reports = await gather_all(tasks)

        assert [report.status for report in reports] == [final_statuses[number % 3] for number in range(120)]

    idle_clock.run(main())


def test_outdated_list_delays_the_outcome_by_a_few_polls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "MAX_LIST_POLLS", 4)
    monkeypatch.setattr(poll_group, "MAX_LIST_POLLS", 4)
    stale = [{"Id": job_id, "Status": "in_progress"} for job_id in running(30)]

    async def stale_list(*_: Any) -> Any:
        return stale

    async def main() -> None:
        async with serve_account(running(30, "completed"), stale_list) as api:
            assert len(await gather_all(WaitGroup(api).start(*api.jobs))) == 30

    idle_clock.run(main())


class TestUpdates:
    def test_wait_receives_only_changes_of_status(self) -> None:
        async def main() -> None:
            async with serve_account(running(30, "submitted")) as api:
                waits = WaitGroup(api)
                tasks = waits.start(*api.jobs)
                for status in ("submitted", "in_progress"):
                    api.jobs |= running(30, status)
                    list_count = api.request_counts["list"]
                    await wait_until(lambda list_count=list_count: api.request_counts["list"] >= list_count + 12)
                api.jobs |= running(30, "completed")
                await gather_all(tasks)

            assert Counter(getattr(result, "status", result) for result in waits.results) == {
                "submitted": 30,
                "in_progress": 30,
                "completed": 30,
            }

        idle_clock.run(main())

    def test_wait_receives_the_unchanged_status_at_intervals(self) -> None:
        async def main() -> None:
            async with serve_account(running(30)) as api:
                waits = WaitGroup(api)
                waits.heartbeat_interval = 3 * INTERVAL
                tasks = waits.start(*api.jobs)
                await wait_until(lambda: len(waits.results) >= 90)
                poll_count = len({round((at - api.requests[0][0]) / INTERVAL) for at, _ in api.requests})
                assert poll_count >= 7
                api.jobs |= running(30, "completed")
                await gather_all(tasks)

        idle_clock.run(main())

    def test_keys_that_change_long_after_the_last_update(self) -> None:
        async def main() -> None:
            async with serve_account(running(30)) as api:
                waits = WaitGroup(api)
                tasks = waits.start(*api.jobs)
                for key in ("the-second", "the-third"):
                    list_count = api.request_counts["list"]
                    await wait_until(lambda list_count=list_count: api.request_counts["list"] >= list_count + 9)
                    api.secret_key = f"secret-of-the-account-{key}"
                list_count = api.request_counts["list"]
                await wait_until(lambda: api.request_counts["list"] >= list_count + 9)
                api.jobs |= running(30, "completed")
                assert {report.status for report in await gather_all(tasks)} == {"completed"}

        idle_clock.run(main())


class TestRequestCount:
    def test_few_waits_use_the_status_endpoint(self) -> None:
        async def main() -> None:
            async with serve_account(running(job_lists.MIN_LISTED_JOBS - 1)) as api:
                tasks = WaitGroup(api).start(*api.jobs)
                await wait_until(lambda: api.request_counts["status"] >= 3 * (job_lists.MIN_LISTED_JOBS - 1))
                assert api.request_counts["list"] == 0
                api.jobs |= running(len(api.jobs), "completed")
                await gather_all(tasks)

        idle_clock.run(main())

    def test_1000_waits_need_13_requests_for_each_poll(self) -> None:
        async def main() -> None:
            async with serve_account(running(300, "submitted") | running(700, prefix="older")) as api:
                tasks = WaitGroup(api, interval=1.5).start(*api.jobs)
                await wait_until(lambda: api.request_counts["list"] >= 30)
                assert api.request_counts["status"] == 0
                poll_count = len({round((at - api.requests[0][0]) / 1.5) for at, _ in api.requests})
                assert api.request_counts["list"] / poll_count <= 13
                for job_id in api.jobs:
                    api.jobs[job_id] = "completed"
                await gather_all(tasks)
                assert api.request_counts["status"] == 1000

        idle_clock.run(main())

    @pytest.mark.parametrize("other_job_count", [0, 5000])
    @pytest.mark.parametrize("count", [10, 60, 300])
    def test_lists_add_at_most_half_of_the_status_requests(self, count: int, other_job_count: int) -> None:
        poll_count = 6

        async def main() -> None:
            other_jobs = running(other_job_count, prefix="other")
            async with serve_account({**running(count), **other_jobs}) as api:
                results: list[Any] = []

                async def poll(job_id: str) -> None:
                    async with Subscription("wasabi", WaitGroup(api).read) as subscription:
                        results.extend(
                            [await subscription.poll(job_id, INTERVAL, align=True) for _ in range(poll_count)]
                        )

                await asyncio.gather(*(poll(job_id) for job_id in running(count)))
                assert len(results) == count * poll_count
                assert sum(api.request_counts.values()) <= 1.5 * count * poll_count

                # The jobs are at the end of a long list of other jobs: more pages are not worth it.
                reordered = {**running(count), **other_jobs} if other_job_count else {}
                assert api.request_counts["list"] <= (6 * poll_count if reordered else api.request_counts["list"])

        idle_clock.run(main())

    def test_lists_are_tried_again_when_there_are_many_more_waits(self) -> None:
        # As in a triggerer that starts again: Airflow starts the oldest waits first, and lists show the newest jobs.
        async def main() -> None:
            async with serve_account({**running(40, prefix="old"), **running(400, prefix="new")}) as api:
                waits = WaitGroup(api)
                tasks = waits.start(*running(40, prefix="old"))
                # Useless lists are skipped for one poll, then for two, then for four: 2, 4 and 5, 7 to 10.
                await wait_until(lambda: api.request_counts["status"] >= 40 * 7)
                before = api.request_counts.copy()
                tasks += waits.start(*running(400, prefix="new"))
                await wait_until(lambda: api.request_counts["list"] >= before["list"] + 10)
                assert api.request_counts["status"] - before["status"] < 400
                api.jobs |= dict.fromkeys(api.jobs, "completed")
                await gather_all(tasks)

        idle_clock.run(main())

    def test_concurrent_requests_are_limited(self) -> None:
        async def main() -> None:
            async with serve_account(running(300, "completed")) as api:
                api.latency = 0.01
                await gather_all(WaitGroup(api).start(*api.jobs))
                assert api.max_in_flight <= request_queue.MAX_CONCURRENT_REQUESTS

        idle_clock.run(main())


class TestTiming:
    def test_429_pauses_all_waits(self) -> None:
        async def main() -> None:
            async with serve_account(running(40)) as api:
                tasks = WaitGroup(api).start(*api.jobs)
                await wait_until(lambda: api.request_counts["list"] >= 3)
                api.error_response = web.Response(status=429, headers={"Retry-After": "1"})
                before = len(api.requests)
                await wait_until(lambda: len(api.requests) > before)
                paused_at = asyncio.get_running_loop().time()
                await asyncio.sleep(0.2)  # requests already sent arrive
                next_request = len(api.requests)
                api.error_response = None
                api.jobs |= running(40, "completed")
                await gather_all(tasks)

            assert api.requests[next_request][0] - paused_at > 0.8

        idle_clock.run(main())

    def test_first_poll_is_after_one_interval_and_polls_are_aligned(self) -> None:
        async def main() -> None:
            async with serve_account(running(3)) as api:
                started_at = asyncio.get_running_loop().time()
                first = WaitGroup(api).start("job-0")
                await asyncio.sleep(INTERVAL * 0.6)
                second_started_at = asyncio.get_running_loop().time()
                others = WaitGroup(api).start("job-1", "job-2")
                await wait_until(lambda: len(api.requests) >= 10)
                times = [at for at, _ in api.requests]
                api.jobs |= running(3, "completed")
                await gather_all(first + others)

            assert times[0] - started_at >= INTERVAL * 0.99
            assert times[1] - second_started_at >= INTERVAL / 2
            # Aligned: the requests of one poll come together, one interval after those of the previous poll.
            steps = [round((at - times[0]) / INTERVAL, 1) for at in times]
            assert all(abs(step - round(step)) <= 0.3 for step in steps)

        idle_clock.run(main())

    @pytest.mark.parametrize(
        ("now", "first", "expected"),
        [
            (0.0, True, 10.0),
            (4.0, True, 10.0),
            (6.0, True, 20.0),
            (10.1, False, 20.0),
            (19.9, False, 20.0),
            # The poll of this time has already happened: the timer fired slightly early.
            (19.96, False, 30.0),
            (20.0 - 1e-9, False, 30.0),
        ],
    )
    def test_next_poll_time(self, monkeypatch: pytest.MonkeyPatch, now: float, first: bool, expected: float) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            group = poll_group.PollGroup(Mock(), Mock(), Mock())
            monkeypatch.setattr(loop, "time", lambda: 100.0)
            group.next_due_time(10.0, first=True)
            monkeypatch.setattr(loop, "time", lambda: 100.0 + now)
            assert group.next_due_time(10.0, first=first) == pytest.approx(100.0 + expected)
            monkeypatch.undo()

        idle_clock.run(main())


class TestCancellation:
    @pytest.mark.filterwarnings("error")
    def test_last_wait_closes_everything(self) -> None:
        async def main() -> None:
            async with serve_account(running(30)) as api:
                before = asyncio.all_tasks()
                for delay in (0.0, 0.01, INTERVAL * 1.2, INTERVAL * 2.5):
                    tasks = WaitGroup(api).start(*api.jobs)
                    await asyncio.sleep(delay)
                    for task in tasks:
                        task.cancel()
                    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
                    server_tasks = {task for task in asyncio.all_tasks() if "RequestHandler" in repr(task)}
                    assert asyncio.all_tasks() - server_tasks <= before
                assert asyncio.get_running_loop() not in registry._registries

        threads = threading.active_count()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            idle_clock.run(main())
            gc.collect()
        assert threading.active_count() == threads

    def test_cancelled_wait_does_not_affect_the_others(self) -> None:
        async def main() -> None:
            async with serve_account(running(30)) as api:
                tasks = WaitGroup(api).start(*api.jobs)
                for number in (0, 7, 20):
                    await asyncio.sleep(INTERVAL / 2)
                    tasks[number].cancel()
                api.jobs |= running(30, "completed")
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)

            assert [
                number for number, outcome in enumerate(outcomes) if isinstance(outcome, asyncio.CancelledError)
            ] == [0, 7, 20]
            assert sum(isinstance(outcome, JobReport) for outcome in outcomes) == 27

        idle_clock.run(main())

    def test_connection_is_read_again_after_the_last_wait(self) -> None:
        async def main() -> None:
            async with serve_account({"job": "completed"}) as api:
                waits = WaitGroup(api)
                for connection_reads in (1, 2):
                    await waits.wait_for_job("job")
                    assert waits.connection_reads == connection_reads

        idle_clock.run(main())


class TestErrors:
    def test_unexpected_exception_reaches_every_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a bug")

        async def main() -> None:
            async with serve_account(running(30)) as api:
                with monkeypatch.context() as patch:
                    patch.setattr(job_lists.UnfinishedJobLists, "find_running", fail)
                    tasks = WaitGroup(api).start(*api.jobs)
                    async with asyncio.timeout(10):
                        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert {repr(outcome.__cause__) for outcome in outcomes} == {"RuntimeError('a bug')"}
                assert len({id(outcome) for outcome in outcomes}) == 30
                api.jobs |= running(30, "completed")
                assert len(await gather_all(WaitGroup(api).start(*api.jobs))) == 30

        idle_clock.run(main())

    def test_invalid_settings_reach_every_wait(self) -> None:
        async def main() -> None:
            async with serve_account(running(12)) as api:
                waits = WaitGroup(api)
                waits.read = lambda: _settings_with_a_missing_bundle(api)
                outcomes = await asyncio.gather(*waits.start(*api.jobs), return_exceptions=True)

            assert {type(outcome) for outcome in outcomes} == {exceptions.ConnectionConfigError}

        idle_clock.run(main())

    def test_unreadable_connection_is_read_once_for_all_waits(self) -> None:
        async def main() -> None:
            async with serve_account(running(50)) as api:
                waits = WaitGroup(api)
                connection_reads = 0

                async def fail() -> Settings:
                    nonlocal connection_reads
                    connection_reads += 1
                    await asyncio.sleep(0.01)
                    raise exceptions.ConnectionConfigError("There is no such connection.")

                waits.read = fail
                outcomes = await asyncio.gather(*waits.start(*api.jobs), return_exceptions=True)

            assert {type(outcome) for outcome in outcomes} == {exceptions.ConnectionConfigError}
            assert connection_reads == 1
            assert not api.requests

        idle_clock.run(main())

    def test_401_reads_the_connection_once_more_for_all_waits(self) -> None:
        async def main() -> None:
            async with serve_account(running(50)) as api:
                waits = WaitGroup(api, secret_key="wrong")
                outcomes = await asyncio.gather(*waits.start(*api.jobs), return_exceptions=True)

            assert {type(outcome) for outcome in outcomes} == {exceptions.AuthenticationError}
            assert waits.connection_reads == 2

        idle_clock.run(main())

    def test_changed_keys_are_used_by_all_waits(self) -> None:
        async def main() -> None:
            async with serve_account(running(50)) as api:
                waits = WaitGroup(api)
                tasks = waits.start(*api.jobs)
                await wait_until(lambda: api.request_counts["list"] >= 3)
                api.secret_key = "a-new-secret"
                await asyncio.sleep(INTERVAL * 2)
                api.jobs |= running(50, "completed")
                reports = await gather_all(tasks)

            assert len(reports) == 50
            assert waits.connection_reads == 2

        idle_clock.run(main())

    def test_transient_error_does_not_end_the_waits(self) -> None:
        async def main() -> None:
            async with serve_account(running(30)) as api:
                tasks = WaitGroup(api).start(*api.jobs)
                api.error_response = web.Response(status=503)
                await wait_until(lambda: api.request_counts["status"] >= 60)
                api.error_response = None
                api.jobs |= running(30, "completed")
                assert len(await gather_all(tasks)) == 30

        idle_clock.run(main())


async def _settings_with_a_missing_bundle(api: AccountServer) -> Settings:
    import msgspec

    settings = api.settings()
    options = msgspec.structs.replace(settings.options, verify="/no/such/file")
    return msgspec.structs.replace(settings, options=options)


def test_429_without_retry_after_backs_off_exponentially() -> None:
    async def main() -> None:
        limiter = rate_limiter.RateLimiter()
        loop = asyncio.get_running_loop()
        delays = []
        for _ in range(12):
            limiter._not_paused.set()
            limiter._paused_until = 0.0
            limiter.record_error(exceptions.RateLimitError("too many"))
            delays.append(round(limiter._paused_until - loop.time()))
        assert delays[:4] == [5, 10, 20, 40]
        assert delays[-1] == rate_limiter.MAX_PAUSE_SECONDS
        limiter._not_paused.set()
        limiter._paused_until = 0.0
        limiter.record_success()
        limiter.record_error(exceptions.RateLimitError("too many"))
        assert round(limiter._paused_until - loop.time()) == 5

    idle_clock.run(main())


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (exceptions.RateLimitError("", retry_after=30), 30),
        (exceptions.RateLimitError("", retry_after=1e9), rate_limiter.MAX_PAUSE_SECONDS),
        (exceptions.ServerError("", retry_after=30), 30),
        (exceptions.ServerError(""), None),
        (exceptions.NotFoundError("", retry_after=30), None),
    ],
)
def test_retry_after(error: exceptions.WasabiApiError, delay: float | None) -> None:
    async def main() -> None:
        limiter = rate_limiter.RateLimiter()
        limiter.record_error(error)
        if delay is None:
            await asyncio.wait_for(limiter.wait(), 1)
        else:
            assert limiter._paused_until - asyncio.get_running_loop().time() == pytest.approx(delay, abs=1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(limiter.wait(), 0.01)

    idle_clock.run(main())
