"""Whatever else happens on an account, a wait ends soon after its job, with its true outcome, and for few requests."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from poller_model import (
    JOB_COUNT,
    UNENCODABLE_ID,
    Step,
    World,
    poller_objects,
    run_program,
)
from simulated_account import LIST_RESPONSES, LISTS, RUNNING_STATUSES

from airflow_wasabi_jobs.api.exceptions import ConnectionConfigError
from airflow_wasabi_jobs.polling.request_queue import MAX_CONCURRENT_REQUESTS

pytestmark = pytest.mark.long

PROGRAMS = 60
OUTDATED_LISTS, REJECTED_KEYS, SHORT_INTERVALS, HANGING_REQUESTS, RATE_LIMITS = 4, 20, 8, 8, 8
FINAL_STATUSES = ("completed", "failed", "cancelled")


class StartWaits(msgspec.Struct, frozen=True):
    """Start waits for some jobs, one for each."""

    first: int
    count: int
    interval: float
    align: bool = True
    report_unchanged_after: float = 600

    def apply(self, world: World) -> None:
        for job in world.jobs(self.first, self.count):
            world.start_wait(
                job.job_id,
                is_batch=False,
                interval=self.interval,
                align=self.align,
                report_unchanged_after=self.report_unchanged_after,
            )


class StartBatchWaits(msgspec.Struct, frozen=True):
    """Start waits for a batch."""

    number: int
    count: int
    interval: float

    def apply(self, world: World) -> None:
        for _ in range(self.count):
            world.start_wait(
                f"batch-{self.number}", is_batch=True, interval=self.interval, align=True, report_unchanged_after=0
            )


class StartUnencodableWait(msgspec.Struct, frozen=True):
    """Start a wait for an id that cannot be a part of a URL."""

    interval: float

    def apply(self, world: World) -> None:
        world.start_wait(UNENCODABLE_ID, is_batch=False, interval=self.interval, align=True, report_unchanged_after=600)


class SetStatus(msgspec.Struct, frozen=True):
    """Change the statuses of some jobs, unless they have finished."""

    first: int
    count: int
    status: str

    def apply(self, world: World) -> None:
        for job in world.jobs(self.first, self.count):
            if job.finished_at == math.inf:
                job.status = self.status
                if self.status in FINAL_STATUSES:
                    job.finished_at = world.loop.time()


class CancelWaits(msgspec.Struct, frozen=True):
    """Cancel some of the waits, once or more often."""

    first: int
    step: int
    times: int

    async def apply(self, world: World) -> None:
        for _ in range(self.times):
            for wait in world.live_waits()[self.first :: self.step]:
                wait.task.cancel()
            await asyncio.sleep(0)


class Hang(msgspec.Struct, frozen=True):
    """Let status requests of some jobs hang, or no longer."""

    first: int
    count: int
    is_hanging: bool = True

    def apply(self, world: World) -> None:
        for job in world.jobs(self.first, self.count):
            job.is_hanging = self.is_hanging
            job.has_hung = job.has_hung or self.is_hanging


class Fail(msgspec.Struct, frozen=True):
    """Respond to status requests of some jobs with 500 for a while; without jobs, to all requests."""

    first: int
    count: int
    seconds: float

    def apply(self, world: World) -> None:
        until = world.loop.time() + self.seconds
        for job in world.jobs(self.first, self.count):
            job.failing_until = until
        if not self.count:
            world.account.failing_until = until


class Break(msgspec.Struct, frozen=True):
    """Let the client raise an unexpected exception for a job."""

    number: int

    def apply(self, world: World) -> None:
        world.jobs(self.number, 1)[0].is_broken = True


class LimitRate(msgspec.Struct, frozen=True):
    """Respond with 429, or 503, for a while."""

    status: int
    retry_after: str | None
    seconds: float

    def apply(self, world: World) -> None:
        account = world.account
        account.rate_limit_status = self.status
        account.rate_limit_headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        account.rate_limited_until = world.loop.time() + self.seconds


class SetLatency(msgspec.Struct, frozen=True):
    """Change the latency of all requests."""

    seconds: float

    def apply(self, world: World) -> None:
        world.set_latency(self.seconds)


class SetLists(msgspec.Struct, frozen=True):
    """Let the lists be wrong in some way, or right."""

    kind: str

    def apply(self, world: World) -> None:
        world.account.lists = self.kind
        world.account.outdated_records = world.account.records()


class ChangeKeys(msgspec.Struct, frozen=True):
    """Change the keys, in the account and in the connection, once or more often."""

    times: int
    pause: float

    async def apply(self, world: World) -> None:
        for number in range(self.times):
            if number:
                await asyncio.sleep(self.pause)
            world.set_keys(f"key-{len(world.key_changes) + 1}", in_connection=True)


class RevokeKeys(msgspec.Struct, frozen=True):
    """Revoke the keys: the connection still has them."""

    def apply(self, world: World) -> None:
        world.set_keys(f"key-{len(world.key_changes) + 1}", in_connection=False)


class FailToOpen(msgspec.Struct, frozen=True):
    """Let the next client fail to open."""

    is_unexpected: bool

    def apply(self, world: World) -> None:
        message = "no such file"
        world.account.open_errors = [OSError(message) if self.is_unexpected else ConnectionConfigError(message)]


class CountObjects(msgspec.Struct, frozen=True):
    """Check that the poller holds nothing for waits that have ended."""

    def apply(self, world: World) -> None:
        account = world.account
        now = world.loop.time()
        is_quiet = now >= max(account.rate_limited_until, account.failing_until) and all(
            now >= max([client.paused_until, *(at for at, _ in client.load)]) and not client.in_flight
            for client in account.clients
        )
        if is_quiet:
            objects, waits = poller_objects(), [wait for wait in world.live_waits() if not wait.is_batch]
            intervals = {wait.interval for wait in waits if wait.align}
            groups = objects["Poller"] * len(intervals) + sum(not wait.align for wait in waits)
            if objects["Poll"] > len(waits) or objects["PollGroup"] > groups:
                account.violations.append(f"{now:.2f}: the poller holds {dict(objects)} for {len(waits)} waits")


@pytest.fixture(scope="module", autouse=True)
def unfreeze_objects() -> Iterator[None]:
    """Undo what the programs do to garbage collection."""
    yield
    gc.unfreeze()
    gc.collect()


firsts = st.sampled_from([0, 1, 10, 40, 79])
counts = st.sampled_from([1, 2, 9, 12, 30, 80, 110])
few = st.sampled_from([1, 2, 9, 12])
seconds = st.sampled_from([0.3, 4.0, 35.0, 100.0])
long_waits = st.builds(
    StartWaits, firsts, counts, st.sampled_from([20.0, 60.0]), st.sampled_from([True, True, False]), st.just(600)
)
short_waits = st.builds(StartWaits, firsts, few, st.sampled_from([1.0, 5.0]), st.booleans(), st.sampled_from([0, 600]))
batch_waits = st.builds(StartBatchWaits, st.integers(0, 2), st.sampled_from([1, 3, 80]), st.sampled_from([20.0, 60.0]))

steps: st.SearchStrategy[Step] = st.one_of(
    long_waits,
    long_waits,
    short_waits,
    batch_waits,
    st.builds(SetStatus, firsts, counts, st.sampled_from(RUNNING_STATUSES)),
    st.builds(SetStatus, firsts, few, st.sampled_from(FINAL_STATUSES)),
    st.builds(SetStatus, firsts, counts, st.sampled_from(FINAL_STATUSES)),
    st.builds(CancelWaits, st.integers(0, 5), st.integers(1, 5), st.integers(1, 3)),
    st.builds(Hang, firsts, counts, st.booleans()),
    st.builds(Fail, firsts, st.sampled_from([0, 12, 80]), seconds),
    st.builds(LimitRate, st.sampled_from([429, 503]), st.sampled_from([None, "0", "3", "20", "120"]), seconds),
    st.builds(SetLatency, st.sampled_from([0.002, 0.05, 0.5, 3.0])),
    st.builds(SetLists, st.sampled_from([*LISTS, *LIST_RESPONSES])),
    st.builds(ChangeKeys, st.sampled_from([1, 1, 2]), st.sampled_from([0.02, 0.1, 4.0])),
    st.builds(CountObjects),
    # Each of them ends waits, so they are rarer.
    st.one_of(
        st.builds(Break, firsts),
        st.builds(StartUnencodableWait, st.sampled_from([1.0, 20.0])),
        st.builds(FailToOpen, st.booleans()),
        st.builds(RevokeKeys),
    ).filter(lambda _: True),  # not flattened into the others
)
delays = st.sampled_from([0.0, 0.01, 0.3, 2.0, 9.0, 25.0, 70.0])
programs = st.builds(
    lambda first, others: [(0.0, first), *others],
    long_waits,
    st.lists(st.tuples(delays, steps), min_size=8, max_size=25),
)


@settings(max_examples=PROGRAMS)
@given(programs, st.sampled_from([0, 3]), st.integers(0, 1000))
def test_random_programs(program: list[tuple[float, Step]], retries: int, seed: int) -> None:
    run_program(program, retries=retries, seed=seed)


@settings(max_examples=OUTDATED_LISTS)
@given(
    count=st.integers(20, 30),
    failing_count=st.integers(1, 4),
    failing_for=st.sampled_from([10, 400, 900]),
    kind=st.sampled_from(["outdated", "all running"]),
    seed=st.integers(0, 1000),
)
def test_lists_that_are_outdated_forever(
    count: int, failing_count: int, failing_for: float, kind: str, seed: int
) -> None:
    world = run_program(
        [
            (0, SetStatus(0, count, "in_progress")),
            (0, SetLists(kind)),
            (0, StartWaits(0, count, 5)),
            (200, Fail(0, failing_count, failing_for)),
            (200, SetStatus(count // 2, count, "completed")),
            (800, CountObjects()),
        ],
        seed=seed,
    )
    assert sum(world.account.list_pages.values()) >= 100


# One poll was rejected before those of all other jobs were due.
@example(count=103, latency=3.0, kind="all finished", delay=32.284880637017224, is_revoked=True)
@settings(max_examples=REJECTED_KEYS)
@given(
    count=st.integers(65, JOB_COUNT),
    latency=st.sampled_from([0.05, 0.5, 3.0]),
    kind=st.sampled_from(["correct", "empty", "all finished", "500"]),
    delay=st.floats(0, 60),
    is_revoked=st.booleans(),
)
def test_rejected_keys_are_not_sent_again(
    count: int, latency: float, kind: str, delay: float, is_revoked: bool
) -> None:
    world = run_program(
        [
            (0, SetLatency(latency)),
            (0, SetLists(kind)),
            (0, StartWaits(0, count, 20)),
            (0, StartWaits(0, 9, 20, report_unchanged_after=0)),
            (delay, RevokeKeys() if is_revoked else ChangeKeys(1, 0)),
            (60, CountObjects()),
        ]
    )
    # Those in flight, and one that finds out whether the keys are valid again.
    assert 0 < world.account.clients[0].rejected_count <= MAX_CONCURRENT_REQUESTS + 1


@settings(max_examples=SHORT_INTERVALS)
@given(
    count=st.integers(1, 100),
    interval=st.sampled_from([20.0, 60.0]),
    latency=st.sampled_from([0.05, 1.0]),
    kind=st.sampled_from(["correct", "missing jobs", "duplicated jobs", "empty"]),
    short_count=st.integers(1, 9),
    short_interval=st.sampled_from([1.0, 5.0]),
)
def test_short_interval_does_not_change_the_requests_of_other_intervals(
    count: int, interval: float, latency: float, kind: str, short_count: int, short_interval: float
) -> None:
    def count_requests(*more_steps: tuple[float, Step]) -> int:
        world = run_program(
            [
                (0, SetLatency(latency)),
                (0, SetLists(kind)),
                # So that all three lists are read.
                (0, SetStatus(0, count, "in_progress")),
                (0, StartWaits(0, count, interval)),
                *more_steps,
                (4 * interval, SetStatus(0, count // 2, "completed")),
                (3 * interval, SetStatus(0, count, "failed")),
                (2 * interval, CountObjects()),
            ]
        )
        return sum(len(job.sent_at) for job in world.jobs(0, count)) + sum(world.account.list_pages.values())

    short_waits = StartWaits(count, short_count, short_interval)
    assert count_requests((0, short_waits)) == count_requests()


@settings(max_examples=HANGING_REQUESTS)
@given(
    hanging_count=st.sampled_from([1, 12, 60, 100]),
    count=st.integers(1, 12),
    interval=st.sampled_from([1.0, 5.0, 20.0]),
    batch_waits=st.sampled_from([0, 80]),
    retries=st.sampled_from([0, 3]),
    delay=st.floats(0, 300),
)
def test_hanging_requests_delay_no_other_wait(
    hanging_count: int, count: int, interval: float, batch_waits: int, retries: int, delay: float
) -> None:
    run_program(
        [
            (0, Hang(0, hanging_count)),
            (0, SetLists("empty")),
            (0, StartWaits(0, hanging_count, 20)),
            (15, StartWaits(JOB_COUNT - count, count, interval)),
            (15, StartBatchWaits(2, batch_waits, 20)),
            (delay, SetStatus(JOB_COUNT - count, count, "completed")),
            (300 - delay, CountObjects()),
        ],
        retries=retries,
    )


@settings(max_examples=RATE_LIMITS)
@given(
    count=st.sampled_from([1, 12, 80, 110]),
    batch_waits=st.sampled_from([1, 80]),
    status=st.sampled_from([429, 503]),
    retry_after=st.sampled_from([None, "3", "20", "120"]),
    retries=st.sampled_from([0, 3]),
    delay=st.floats(10, 60),
    duration=st.floats(1, 100),
)
def test_rate_limits(
    count: int,
    batch_waits: int,
    status: int,
    retry_after: str | None,
    retries: int,
    delay: float,
    duration: float,
) -> None:
    run_program(
        [
            (0, SetLists("empty")),
            (0, StartWaits(0, count, 20)),
            (4, StartBatchWaits(2, batch_waits, 20)),
            (delay, LimitRate(status, retry_after, duration)),
            (10, SetStatus(0, count, "failed")),
            (300, CountObjects()),
        ],
        retries=retries,
    )
