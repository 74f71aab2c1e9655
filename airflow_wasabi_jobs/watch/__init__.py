"""
One poller for all the waits of an event loop on one account.

A thousand waits are not a thousand pollers. Those that are due at the same time are looked at together:
the lists of the account's unfinished jobs tell which of them still run, a hundred with one request, and
only the others are asked for one by one. **A list never ends a wait, only the job's own status call does**:
what a list leaves out, repeats or gets wrong costs a request, never a wrong outcome.
"""

from __future__ import annotations

import asyncio
import copy
import math
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.models import JobReport, JobStatus
from airflow_wasabi_jobs.watch.poller import LONGEST_HEARSAY, Look, Watch

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

ReadSettings = Callable[[], Awaitable["Settings"]]


class Seat:
    """
    One wait's place at the watch of the account that a connection leads to, for as long as the ``async with`` lasts.

    :param conn_id: the connection's id: all waits on it share one look-up, and one more after a 401.
    :param read_settings: looks the connection up.
    """

    def __init__(self, conn_id: str, read_settings: ReadSettings) -> None:
        loop = asyncio.get_running_loop()
        self._room = _rooms.setdefault(loop, _Room())
        self._connection = self._room.connections.setdefault(conn_id, _Connection(conn_id, read_settings))
        self._watch: Watch | None = None
        self._last: JobStatus | None = None
        self._began = loop.time()
        self._looks = 0
        # Not all that began together are asked for in person together.
        self._hearsay = -random.randrange(LONGEST_HEARSAY)  # noqa: S311 - spreads requests, guards nothing

    async def __aenter__(self) -> Self:
        self._connection.waits += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.waits -= 1
        if not self._connection.waits:
            del self._room.connections[self._connection.conn_id]
        if not self._room.connections:
            del _rooms[asyncio.get_running_loop()]
        await self._leave()

    async def look(self, job_id: str, interval: float, *, in_step: bool, quiet_for: float = 0) -> JobReport | JobStatus:
        """
        Wait for the interval, then see where the job stands.

        :param job_id: the job's id.
        :param interval: seconds to wait.
        :param in_step: whether to look when the other waits of the same interval do. The first look
            comes after half an interval to one and a half, then.
        :param quiet_for: seconds for which to go on looking, in step, while a list tells what is known already.
        :return: the job's own report; or, while it runs, the status that a list tells.
        :raises AirError: what the job's own status call ended with, or the connection's error.
        """
        watch = await self._take(await self._connection.settings(since=self._began))
        now = asyncio.get_running_loop().time()
        due = watch.next_step(interval, first=not self._looks) if in_step else now + interval
        self._looks += 1
        look = self._asking(job_id, interval, due, quiet_until=now + quiet_for if in_step else now)
        try:
            seen = await watch.look(look)
        except errors.Unauthorized:
            settings = await self._connection.renewed(since=look.due)
            if _account(settings) == watch.account:
                raise
            watch = await self._take(settings)
            look = self._asking(job_id, interval, look.due, quiet_until=now)
            seen = await watch.look(look)
        if isinstance(seen, JobStatus):
            self._last, self._hearsay = seen, look.hearsay
        else:
            self._last, self._hearsay = seen.status, 0
        return seen

    async def ask(self, call: calls.Call[T]) -> T:
        """
        Ask something else of the account, at the pace of the watch.

        :param call: what to ask.
        :raises AirError: if no answer was to be had.
        """
        began = asyncio.get_running_loop().time()
        watch = await self._take(await self._connection.settings(since=self._began))
        try:
            return await watch.ask(call, self._connection.name)
        except errors.Unauthorized:
            settings = await self._connection.renewed(since=began)
            if _account(settings) == watch.account:
                raise
        watch = await self._take(settings)
        return await watch.ask(call, self._connection.name)

    def _asking(self, job_id: str, interval: float, due: float, quiet_until: float) -> Look:
        return Look(
            job_id=job_id,
            name=self._connection.name,
            interval=interval,
            due=due,
            last=self._last,
            hearsay=self._hearsay,
            quiet_until=quiet_until,
            answer=asyncio.get_running_loop().create_future(),
        )

    async def _leave(self) -> None:
        # The last one who leaves closes the watch.
        watch, self._watch = self._watch, None
        if watch is not None:
            await self._room.leave(watch)

    async def _take(self, settings: Settings) -> Watch:
        if self._watch is None or self._watch.account != _account(settings):
            await self._leave()
            self._watch = self._room.join(_account(settings))
        return self._watch


class _Room:
    """All that the waits of one event loop share."""

    def __init__(self) -> None:
        self.connections: dict[str, _Connection] = {}
        self._watches: dict[Settings, Watch] = {}

    def join(self, account: Settings) -> Watch:
        watch = self._watches.get(account)
        if watch is None or watch.failure is not None:
            watch = self._watches[account] = Watch(account)
        watch.seats += 1
        return watch

    async def leave(self, watch: Watch) -> None:
        watch.seats -= 1
        if not watch.seats:
            if self._watches.get(watch.account) is watch:
                del self._watches[watch.account]
            await watch.close()


# Event loops of one process share nothing. A room is there as long as somebody waits in it; that of a loop which
# was closed over its waits goes with the loop.
_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, _Room] = WeakKeyDictionary()


def _account(settings: Settings) -> Settings:
    # Connections that differ in name only lead to the same account, and ask it in the same way.
    return msgspec.structs.replace(settings, name="")


class _Connection:
    """What a connection says, for as long as somebody waits on it: looked up once, and once more after a 401."""

    def __init__(self, conn_id: str, read: ReadSettings) -> None:
        self.conn_id = conn_id
        self.name = f"connection {conn_id!r}"
        self.waits = 0
        self._read = read
        self._lock = asyncio.Lock()
        self._said: Settings | errors.AirError | None = None
        self._read_from = self._read_until = -math.inf

    async def settings(self, since: float) -> Settings:
        """Return the connection's settings. One that can't be used is looked up again, unless it was since then."""
        async with self._lock:
            if self._said is None or (isinstance(self._said, errors.AirError) and self._read_until < since):
                await self._look_up()
            return self._settings()

    async def renewed(self, since: float) -> Settings:
        """Return the connection's settings, looked up again, unless they were since then."""
        async with self._lock:
            if self._read_from < since:
                await self._look_up()
            return self._settings()

    async def _look_up(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self._said = await self._read()
        except errors.AirError as error:
            self._said = error
        self._read_from, self._read_until = began, loop.time()

    def _settings(self) -> Settings:
        if isinstance(self._said, errors.AirError):
            raise copy.copy(self._said)
        if self._said is None:
            raise RuntimeError(f"The {self.name} was not looked up.")
        return self._said
