"""
Random programs for the poller: the steps, the waits that they start, and the rules that hold whatever the steps are.

A program runs in virtual time, on a simulated account.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import msgspec
import pytest
from simulated_account import MAX_RETRY_PAUSE, BrokenRequestError, SimulatedAccount, SimulatedClient, SimulatedJob
from virtual_clock import VirtualClockLoop

from airflow_wasabi_jobs.api import batches, exceptions
from airflow_wasabi_jobs.api.models import JobReport
from airflow_wasabi_jobs.api.settings import Settings, build_settings
from airflow_wasabi_jobs.polling import Subscription, registry
from airflow_wasabi_jobs.polling.poll_group import MAX_LIST_POLLS

JOB_COUNT, BATCH_SIZE = 120, 40
READ_SECONDS = 0.01
MAX_REQUESTS = 6000
# For opening a client, reading a connection and the tolerance of timers.
SLACK_SECONDS = 0.5
# A poll of a batch sends at most so many requests: two pages of three lists by status and of two complete lists.
MAX_BATCH_REQUESTS = 10
UNENCODABLE_ID = "job-\ud800"


class Wait(msgspec.Struct, eq=False, kw_only=True):
    """A wait for a job or a batch, and how it ended."""

    key: str
    is_batch: bool
    interval: float
    align: bool
    report_unchanged_after: float
    conn_id: str
    started_at: float
    intervals: list[float] = msgspec.field(default_factory=list)
    ended_at: float = math.inf
    result: Any = None
    error: BaseException | None = None
    is_cancelled: bool = False
    task: Any = None

    @property
    def group(self) -> object:
        return self.interval if self.align else "backoff"


class World:
    """
    The account and all waits of a program.

    :param retries: the option of the connections.
    """

    def __init__(self, retries: int) -> None:
        self.loop: VirtualClockLoop = asyncio.get_running_loop()
        self.account = SimulatedAccount(
            [
                SimulatedJob(job_id=f"job-{number}", batch=f"batch-{number // BATCH_SIZE}", error_count=number)
                for number in range(JOB_COUNT)
            ]
        )
        self.connection_key = self.account.secret_key
        self.mismatches: list[tuple[float, float]] = []
        self.key_changes: list[float] = []
        self.latencies = [(-math.inf, self.account.latency)]
        self.waits: list[Wait] = []
        self.retries = retries
        self.max_jobs_of_a_group = 0

    def jobs(self, first: int, count: int) -> list[SimulatedJob]:
        return [self.account.jobs[f"job-{(first + step) % JOB_COUNT}"] for step in range(count)]

    def set_latency(self, seconds: float) -> None:
        self.account.latency = seconds
        self.latencies.append((self.loop.time(), seconds))

    def set_keys(self, key: str, *, in_connection: bool) -> None:
        self.account.secret_key = key
        if in_connection:
            self.connection_key = key
        now = self.loop.time()
        self.key_changes.append(now)
        if self.mismatches and self.mismatches[-1][1] == math.inf:
            self.mismatches[-1] = (self.mismatches[-1][0], now)
        if self.connection_key != key:
            self.mismatches.append((now, math.inf))

    async def read_connection(self, conn_id: str) -> Settings:
        key = self.connection_key
        await asyncio.sleep(READ_SECONDS)
        return build_settings(
            name=f"connection {conn_id!r}",
            host="https://air.example.com",
            access_key="access",
            secret_key=key,
            extra=f'{{"retries": {self.retries}}}',
        )

    def start_wait(self, key: str, **options: Any) -> Wait:
        wait = Wait(key=key, conn_id=f"conn-{len(self.waits) % 2}", started_at=self.loop.time(), **options)
        if not wait.is_batch and key in self.account.jobs:
            self.account.jobs[key].wait_count += 1
        self.waits.append(wait)
        wait.task = asyncio.create_task(self._run_wait(wait))
        jobs_by_group = defaultdict(set)
        for each in self.live_waits():
            if not each.is_batch:
                jobs_by_group[each.group].add(each.key)
        self.max_jobs_of_a_group = max([self.max_jobs_of_a_group, *map(len, jobs_by_group.values())])
        return wait

    def live_waits(self) -> list[Wait]:
        return [wait for wait in self.waits if not wait.task or not wait.task.done()]

    async def _run_wait(self, wait: Wait) -> None:
        read = functools.partial(self.read_connection, wait.conn_id)
        try:
            async with Subscription(wait.conn_id, read) as subscription:
                wait.result = await (self._poll_batch if wait.is_batch else self._poll_job)(wait, subscription)
                wait.ended_at = self.loop.time()
        except asyncio.CancelledError:
            wait.is_cancelled = True
        except Exception as error:  # noqa: BLE001 - judged when the program has ended
            wait.error = error
            # Tracebacks hold the frames of the poller.
            for each in filter(None, [error, error.__cause__]):
                each.__traceback__ = None
        wait.ended_at = min(wait.ended_at, self.loop.time())

    async def _poll_job(self, wait: Wait, subscription: Subscription) -> JobReport:
        while True:
            try:
                result = await subscription.poll(
                    wait.key,
                    self._next_interval(wait),
                    align=wait.align,
                    report_unchanged_after=wait.report_unchanged_after,
                )
            except exceptions.WasabiApiError as error:
                if not error.is_transient:
                    raise
                continue
            status = result.status if isinstance(result, JobReport) else result
            if status.is_terminal:
                return result

    async def _poll_batch(self, wait: Wait, subscription: Subscription) -> batches.BatchReport:
        while True:
            await asyncio.sleep(self._next_interval(wait))
            requests = batches.poll_batch(wait.key, expected_jobs=BATCH_SIZE, max_failures=0, fail_fast=False)
            request = next(requests)
            try:
                while True:
                    request = requests.send(await subscription.send(request))
            except exceptions.WasabiApiError as error:
                if not error.is_transient:
                    raise
            except StopIteration as end:
                if end.value.is_finished:
                    return end.value

    def _next_interval(self, wait: Wait) -> float:
        interval = wait.interval
        if not wait.align:
            shortest = max(int(wait.interval * 2 ** (len(wait.intervals) - 1)), 1)
            interval = min(shortest + random.randrange(shortest), 10 * wait.interval)
        wait.intervals.append(interval)
        return interval


class Step(Protocol):
    def apply(self, world: World) -> Any: ...


class Rules:
    """The rules that a program must not break."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.account = world.account
        self._pauses = sorted(period for client in self.account.clients for period in client.pauses)
        self._saturated = sorted(period for client in self.account.clients for period in client.saturated_periods())

    def violations(self) -> Iterator[str]:
        yield from self.account.violations
        for wait in self.world.waits:
            yield from self._check_outcome(wait)
            yield from self._check_end_time(wait)
        for job in self.account.jobs.values():
            yield from self._check_requests_by_id(job)
        yield from self._check_request_counts()

    def _check_outcome(self, wait: Wait) -> Iterator[str]:
        if wait.is_cancelled:
            return
        if wait.error is not None:
            if not self._is_expected(wait):
                yield f"{describe(wait)} ended with {wait.error!r}"
        elif wait.result is None:
            yield f"{describe(wait)} has not ended"
        elif wait.is_batch:
            jobs = [job for job in self.account.jobs.values() if job.batch == wait.key]
            if wait.result.counts != Counter(job.status for job in jobs) or self._finished_at(wait) > wait.ended_at:
                yield f"{describe(wait)} ended with {wait.result}"
        else:
            job = self.account.jobs[wait.key]
            outcome = (getattr(wait.result, "status", None), getattr(wait.result, "error_count", None))
            if outcome != (job.status, job.error_count) or job.finished_at > wait.ended_at:
                yield f"{describe(wait)} ended with {wait.result}"

    def _is_expected(self, wait: Wait) -> bool:
        """Whether the account gave a reason for an error."""
        error = wait.error
        if isinstance(error, exceptions.ConnectionConfigError) or isinstance(error.__cause__, OSError):
            return any(abs(client.failed_at - wait.ended_at) < SLACK_SECONDS for client in self.account.clients)
        if isinstance(error, exceptions.AuthenticationError):
            since = wait.ended_at - SLACK_SECONDS - 2 * self._latency(wait.ended_at - 5, wait.ended_at)
            for started_at, ended_at in sorted([*self._pauses, *self._saturated], reverse=True):
                if started_at <= wait.ended_at and ended_at >= since:
                    since = min(since, started_at - SLACK_SECONDS)
            return any(start <= wait.ended_at and end >= since for start, end in self.world.mismatches)
        if wait.key == UNENCODABLE_ID:
            return isinstance(error.__cause__, UnicodeEncodeError)
        is_broken = not wait.is_batch and self.account.jobs[wait.key].is_broken
        return is_broken and isinstance(error.__cause__, BrokenRequestError)

    def _finished_at(self, wait: Wait) -> float:
        if wait.is_batch:
            return max(job.finished_at for job in self.account.jobs.values() if job.batch == wait.key)
        return self.account.jobs[wait.key].finished_at

    def _latency(self, since: float, until: float) -> float:
        changes = itertools.pairwise([*self.world.latencies, (math.inf, 0)])
        return 1.1 * max(seconds for (start, seconds), (end, _) in changes if start <= until and end >= since)

    def _check_end_time(self, wait: Wait) -> Iterator[str]:
        if wait.is_cancelled or wait.error is not None or wait.key == UNENCODABLE_ID:
            return
        finished_at = max(wait.started_at, self._finished_at(wait))
        own_problems = self.account.batches_failed_at
        if not wait.is_batch:
            job = self.account.jobs[wait.key]
            if job.has_hung:
                return
            own_problems = [*job.failed_at, *job.listed_as_running_at]
        problems = [
            *self._pauses,
            *self._saturated,
            *((at, at + MAX_RETRY_PAUSE) for at in own_problems),
            *((at, at + SLACK_SECONDS) for at in self.world.key_changes),
        ]
        requests = MAX_BATCH_REQUESTS if wait.is_batch else 2
        latency = self._latency(finished_at - 10, wait.ended_at)
        limit = 2 * max(wait.intervals) + 2 * requests * latency + SLACK_SECONDS
        latest = finished_at
        for started_at, ended_at in sorted(problems):
            if started_at > latest + limit:
                break
            latest = max(latest, ended_at)
        if wait.ended_at > latest + limit:
            yield (
                f"{describe(wait)} ended {wait.ended_at - finished_at:.1f} seconds after its job finished, "
                f"{wait.ended_at - latest - limit:.1f} too late"
            )

    def _check_requests_by_id(self, job: SimulatedJob) -> Iterator[str]:
        """Check that a job is requested by its id often enough, and not too often."""
        waits = [wait for wait in self.world.waits if wait.key == job.job_id]
        polls = sum(self._max_polls(wait) for wait in waits)
        if len(job.sent_at) > polls:
            yield f"{len(job.sent_at)} requests for the status of {job.job_id} in at most {polls} polls"
        if len(waits) != 1 or not waits[0].align or job.has_hung:
            return
        wait = waits[0]
        limit = 2 * wait.interval + 4 * self._latency(wait.started_at, wait.ended_at) + SLACK_SECONDS
        answered_at = wait.started_at
        for before, after in itertools.pairwise([wait.started_at, *job.sent_at, wait.ended_at]):
            answered_at = max([answered_at, *(at for at in job.answered_at if at < after)])
            latest = max(before, answered_at + MAX_LIST_POLLS * wait.interval) + limit
            problems = [*self._pauses, *self._saturated]
            is_disturbed = any(start <= after and end >= before for start, end in problems)
            if after > latest and not is_disturbed:
                yield f"{job.job_id} was not requested by its id from {before:.1f} to {after:.1f}"

    def _max_polls(self, wait: Wait) -> int:
        polls = (wait.ended_at - wait.started_at) / min(wait.intervals, default=1) + 2 if wait.align else 1
        return int(polls if wait.align else len(wait.intervals)) + len(self.world.key_changes)

    def _check_request_counts(self) -> Iterator[str]:
        most = max(self.account.list_pages.values(), default=0)
        if most > math.ceil(self.world.max_jobs_of_a_group / 2):
            yield f"{most} pages of lists in a poll of at most {self.world.max_jobs_of_a_group} jobs"
        pages = sum(self.account.list_pages.values())
        polls = sum(self._max_polls(wait) for wait in self.world.waits if not wait.is_batch)
        if pages > math.ceil(polls / 2):
            yield f"{pages} pages of lists in at most {polls} polls of single jobs"


def describe(wait: Wait) -> str:
    return f"the wait for {wait.key!r} (every {wait.interval} seconds, started at {wait.started_at:.2f})"


def poller_objects() -> Counter[str]:
    """Return how many objects of the poller's classes exist, without the garbage."""
    asyncio.get_running_loop().pending_timers()
    gc.collect()
    return Counter(
        type(each).__name__
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("airflow_wasabi_jobs.poll")
    )


def ignore_existing_objects() -> None:
    """Speed up garbage collection: it ignores the objects that exist already, until ``gc.unfreeze()``."""
    gc.collect()
    gc.freeze()


def run_program(steps: Sequence[tuple[float, Step]], *, retries: int = 0, seed: int = 0) -> World:
    """
    Run the steps of a program, let all jobs finish, and check the rules.

    :param steps: each step, and the seconds before it.
    :param retries: the option of the connections.
    :param seed: for what is random in the poller.
    """
    ignore_existing_objects()
    with (
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner(loop_factory=VirtualClockLoop) as runner,
    ):
        random.seed(seed)
        loop = runner.get_loop()
        clock = SimpleNamespace(monotonic=loop.time)
        for module in ("api.client.retries", "polling.request_queue"):
            patch.setattr(f"airflow_wasabi_jobs.{module}.time", clock, raising=False)
        world, leftovers = runner.run(_run_steps(steps, retries, patch))
        violations = list(Rules(world).violations())
    assert not violations, "\n".join(violations)
    assert not leftovers, f"left when all waits had ended: {leftovers}"
    return world


async def _run_steps(
    steps: Sequence[tuple[float, Step]], retries: int, patch: pytest.MonkeyPatch
) -> tuple[World, dict[str, Any]]:
    world = World(retries)
    patch.setattr(
        "airflow_wasabi_jobs.polling.poller.AsyncJobsClient", functools.partial(SimulatedClient, world.account)
    )
    for delay, step in steps:
        if world.account.request_count < MAX_REQUESTS:
            await asyncio.sleep(delay)
        result = step.apply(world)
        if asyncio.iscoroutine(result):
            await result
    await _finish(world)
    return world, _find_leftovers(world)


async def _finish(world: World) -> None:
    """End all problems and all jobs, and wait until the waits have noticed."""
    account = world.account
    now = world.loop.time()
    account.lists = "correct"
    account.failing_until = account.rate_limited_until = 0.0
    account.open_errors.clear()
    world.set_latency(0.05)
    for job in account.jobs.values():
        job.failing_until = 0.0
        job.is_hanging = False
        if job.finished_at == math.inf:
            job.status, job.finished_at = "completed", now
    done = asyncio.gather(*(wait.task for wait in world.waits), return_exceptions=True)
    # Longer than any pause, and than all requests that are still waiting for a response.
    await asyncio.wait([done], timeout=5000)
    for wait in world.live_waits():
        # It has not ended, and that is not because of this.
        wait.task.cancel()
        await asyncio.wait([wait.task])
        wait.is_cancelled = False
    await asyncio.sleep(1)


def _find_leftovers(world: World) -> dict[str, Any]:
    """Return what still exists of the poller."""
    for wait in world.waits:
        wait.task = None
    for client in world.account.clients:
        client.forget_requests()
    for job in world.account.jobs.values():
        job.last_deadline = None
    leftovers = {
        "objects": dict(poller_objects()),
        "tasks": [repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}],
        "timers": [repr(timer) for timer in world.loop.pending_timers()],
        "registries": [repr(each()) for each in registry._registries.values()],
        "unhandled errors": [str(context) for context in world.loop.unhandled_errors],
    }
    return {name: found for name, found in leftovers.items() if found}
