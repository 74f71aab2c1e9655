"""The poller of one account: what is due together is looked at together."""

from __future__ import annotations

import asyncio
import copy
import heapq
import math
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
import tenacity

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.client import AsyncJobsClient, retry_policy
from airflow_wasabi_jobs.watch.listing import Listing
from airflow_wasabi_jobs.watch.pace import Pace

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import JobReport, JobState, JobStatus
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

CALLS_AT_ONCE = 64
# What is due within this many seconds is looked at together.
TOGETHER = 0.05
# After so many looks by list a wait is asked for in person, be the list as it may: it could be out of date for ever.
LONGEST_HEARSAY = 100
# So many waits are told at a time, before the event loop has its turn again.
TOLD_AT_ONCE = 20


class Look(msgspec.Struct, eq=False):
    """
    A look at one job that somebody waits for, or several until there is something to tell.

    :param job_id: the job's id.
    :param name: what the connection is called in a message.
    :param interval: seconds between two looks.
    :param due: when to look next, on the clock of the event loop.
    :param last: where the job stood when it was last seen.
    :param hearsay: how many looks by list there were since the job's own status call.
    :param quiet_until: when to tell where the job stands though it is no news, on the same clock.
    :param answer: what the wait waits for.
    """

    job_id: str
    name: str
    interval: float
    due: float
    last: JobStatus | None
    hearsay: int
    quiet_until: float
    answer: asyncio.Future[JobReport | JobStatus]


class Watch:
    """
    The poller of one account. It begins with its first look and ends when it is closed.

    :param account: where the account is, with which keys and how patiently it is asked.
    """

    def __init__(self, account: Settings) -> None:
        self.account = account
        self.seats = 0
        self.failure: BaseException | None = None
        self._due: dict[float, list[Look]] = {}
        self._times: list[float] = []
        self._steps: dict[float, float] = {}
        self._pending: set[Look] = set()
        self._new = asyncio.Event()
        self._to_ask: deque[list[Look]] = deque()
        self._askers = 0
        self._pace = Pace()
        self._listing = Listing()
        self._is_open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def next_step(self, interval: float, *, first: bool) -> float:
        """Return when the waits of that interval are looked at next."""
        now = asyncio.get_running_loop().time()
        began = self._steps.setdefault(interval, now)
        # A look that was taken a little early, together with others, is not taken again.
        earliest = now + (interval / 2 if first else min(TOGETHER, interval / 2))
        return began + interval * (math.floor((earliest - began) / interval) + 1)

    async def look(self, look: Look) -> JobReport | JobStatus:
        """Take a look when it is due, and answer as soon as there is something to tell."""
        self._begin()
        self._wait_for(look)
        self._pending.add(look)
        try:
            return await look.answer
        finally:
            self._pending.discard(look)

    async def ask(self, call: calls.Call[T], name: str) -> T:
        """Carry a call that is no look, when the account may be asked."""
        self._begin()
        await self._is_open.wait()
        if self.failure is not None:
            raise self._failed()
        return await self._ask(call, name)

    def _begin(self) -> None:
        if self.failure is not None:
            raise self._failed()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="wasabi-watch")

    async def close(self) -> None:
        """End the watch, and all that it is about to do."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with AsyncJobsClient(self.account) as self._client, asyncio.TaskGroup() as self._tasks:
                self._is_open.set()
                while True:
                    batch = await self._next_batch()
                    self._tasks.create_task(self._look_at(batch))
        except BaseException as error:
            # Whatever it is, nobody may be left waiting for a watch that is gone.
            self.failure = _single(error)
            self._is_open.set()
            for look in self._pending:
                if not look.answer.done():
                    look.answer.set_exception(self._failed())
            if not isinstance(error, Exception):
                raise

    def _failed(self) -> BaseException:
        # One for each wait: what is raised gathers the traces of all who raise it.
        if isinstance(self.failure, errors.AirError):
            return copy.copy(self.failure)
        broken = RuntimeError(f"The watch over {self.account.base_url} broke: {self.failure!r}")
        broken.__cause__ = self.failure
        return broken

    def _wait_for(self, look: Look) -> None:
        if look.due not in self._due:
            self._due[look.due] = []
            heapq.heappush(self._times, look.due)
            self._new.set()
        self._due[look.due].append(look)

    async def _next_batch(self) -> list[Look]:
        loop = asyncio.get_running_loop()
        while True:
            self._new.clear()
            await self._pace.turn()
            if self._times and self._times[0] <= loop.time():
                break
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._times[0] if self._times else None):
                    await self._new.wait()
        batch = []
        while self._times and self._times[0] <= loop.time() + TOGETHER:
            batch += self._due.pop(heapq.heappop(self._times))
        return batch

    async def _look_at(self, batch: list[Look]) -> None:
        jobs: dict[str, list[Look]] = {}
        for look in batch:
            if not look.answer.done():
                jobs.setdefault(look.job_id, []).append(look)
        running = await self._listing.running(
            {
                job_id: looks[0].last
                for job_id, looks in jobs.items()
                if all(look.hearsay < LONGEST_HEARSAY for look in looks)
            },
            ask=self._ask_for_page,
            limit=min((look.interval for look in batch), default=0.0) / 2,
        )
        self._to_ask.extend(looks for job_id, looks in jobs.items() if job_id not in running)
        while self._askers < min(CALLS_AT_ONCE, len(self._to_ask)):
            self._askers += 1
            self._tasks.create_task(self._ask_one_by_one())
        for number, (job_id, status) in enumerate(running.items(), start=1):
            for look in jobs[job_id]:
                self._heard(look, status)
            if not number % TOLD_AT_ONCE:
                await asyncio.sleep(0)

    def _heard(self, look: Look, status: JobStatus) -> None:
        look.hearsay += 1
        if status is not look.last or look.quiet_until <= asyncio.get_running_loop().time():
            look.last = status
            _tell([look], status)
        elif not look.answer.done():
            # To wake the wait for no news would be most of what a look costs.
            look.due = self.next_step(look.interval, first=False)
            self._wait_for(look)

    async def _ask_one_by_one(self) -> None:
        try:
            while self._to_ask:
                looks = self._to_ask.popleft()
                first = next((look for look in looks if not look.answer.done()), None)
                if first is not None:
                    try:
                        report = await self._ask(calls.job_status(first.job_id), first.name)
                        _tell(looks, report)
                    except errors.AirError as error:
                        _fail(looks, error)
        finally:
            self._askers -= 1

    async def _ask_for_page(self, call: calls.Call[list[JobState]]) -> list[JobState] | errors.AirError:
        try:
            return await self._ask(call)
        except errors.AirError as error:
            return error

    async def _ask(self, call: calls.Call[T], name: str | None = None) -> T:
        async def attempt() -> T:
            await self._pace.turn()
            try:
                result = await self._client.attempt(call, deadline, name)
            except errors.AirError as error:
                self._pace.heed(error)
                raise
            self._pace.ease()
            return result

        await self._pace.turn()
        deadline = time.monotonic() + self.account.look_timeout
        result: T = await tenacity.AsyncRetrying(**retry_policy(self.account, call))(attempt)
        return result


def _tell(looks: Iterable[Look], seen: JobReport | JobStatus) -> None:
    for look in looks:
        if not look.answer.done():
            look.answer.set_result(seen)


def _fail(looks: Iterable[Look], error: errors.AirError) -> None:
    for look in looks:
        if not look.answer.done():
            look.answer.set_exception(copy.copy(error))


def _single(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
