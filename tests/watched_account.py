"""An emulated account over real HTTP in virtual time, and the triggers that watch it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

# Import before any watcher starts: the first import takes longer than a request.
import airflow_wasabi_jobs.hooks
import airflow_wasabi_jobs.watching.watcher  # noqa: F401 - imported for its side effect only
from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.emulator.jobs import Definition, Destination, EmulatedJob, EmulatedJobs, Outcome, Source
from airflow_wasabi_jobs.emulator.server import Behaviour, create_application

# The clock of the account when that of the event loop is at 0.
EPOCH = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


class WatchedAccount:
    """
    The account. ``fault`` may respond to a request instead of it, or change its response.

    :param behaviour: how the emulated API behaves.
    """

    def __init__(self, behaviour: dict[str, Any]) -> None:
        self.behaviour = Behaviour(**behaviour)
        self.jobs = EmulatedJobs(self.clock, 1.0)
        self.requests: list[tuple[float, str]] = []
        self.fault: Callable[[web.Request], web.Response | None] = lambda _: None
        self.url = ""
        self.app = create_application(self.behaviour, clock=self.clock, jobs=self.jobs)
        self.app.middlewares.insert(0, self._handle)

    @staticmethod
    def clock() -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def utcnow(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    def add(
        self,
        job_id: str,
        seconds: float = 30,
        *,
        batch: str | None = "ingest",
        name: str | None = None,
        status: str = "completed",
        error_count: int = 0,
        age: float = 0,
    ) -> None:
        """Add a job that finishes so many seconds after it was created."""
        definition = Definition(
            name=name or job_id,
            services={"ocr": ""},
            source=Source(bucket="media", object_key=f"{job_id}.mp4"),
            destination=Destination(bucket="results", region="us-east-1"),
            batch=batch,
        )
        outcome = Outcome(JobStatus(status), error_count, seconds)
        self.jobs._jobs[job_id] = EmulatedJob(job_id, definition, outcome, self.clock() - age, 1.0)

    def request_counts(self, since: float = 0) -> Counter[str]:
        """Return the number of requests by kind: list, status, job or metadata."""
        kinds = {None: "list", "": "job"}
        matches = [re.match(r"/jobs(?:/[^/?]+(/\w+|))?(?:\?|$)", path) for at, path in self.requests if at >= since]
        return Counter(kinds.get(match[1], str(match[1]).strip("/")) for match in matches if match)

    @web.middleware
    async def _handle(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((asyncio.get_running_loop().time(), request.path_qs))
        response = self.fault(request)
        return response if response is not None else await handler(request)


@asynccontextmanager
async def serve_watched_account(monkeypatch: pytest.MonkeyPatch, **behaviour: Any) -> AsyncIterator[WatchedAccount]:
    account = WatchedAccount(behaviour)
    monkeypatch.setattr("airflow_wasabi_jobs.watching.watcher.utcnow", account.utcnow)
    runner = web.AppRunner(account.app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        account.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield account
    finally:
        await runner.cleanup()


class MemoryStore:
    """Replaces Airflow's store of an asset."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.writes = 0
        self.error: Exception | None = None

    async def aget(self, key: str, default: Any = None) -> Any:
        if self.error is not None:
            raise self.error
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        if self.error is not None:
            raise self.error
        self.writes += 1
        self.values[key] = value


@asynccontextmanager
async def watching(*triggers: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Run triggers as Airflow 3.0 to 3.2 do, and yield the list of their payloads."""
    payloads: list[dict[str, Any]] = []

    async def watch(trigger: Any) -> None:
        async for event in trigger.run():
            payloads.append(event.payload)  # noqa: PERF401 - the trigger never ends

    tasks = [asyncio.create_task(watch(trigger)) for trigger in triggers]
    try:
        yield payloads
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
