"""
An account whose jobs a test moves by hand, served in the event loop of the test.

Status calls are always right. The lists are, too, unless the test has them misbehave.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from airflow_wasabi_jobs.api.settings import Settings, check

Records = list[dict[str, str]]


class Account:
    """
    :param jobs: each job's status by its id, oldest first.
    :param lists: makes the answer to a list of the page that would be right, or of the request.
    """

    def __init__(self, jobs: dict[str, str], lists: Callable[[web.Request, Records], Awaitable[Any]] | None) -> None:
        self.jobs = jobs
        self.lists = lists
        self.secret_key = "secret-of-the-account"
        self.refuse: web.Response | None = None
        self.asked: list[tuple[float, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.latency = 0.0
        self.url = ""

    @property
    def count(self) -> Counter[str]:
        return Counter(kind for _, kind in self.asked)

    def settings(self, name: str = "connection 'wasabi'", **changes: Any) -> Settings:
        keys = {"access_key": "access-of-the-account", "secret_key": self.secret_key}
        return check(name=name, host=self.url, extra='{"retries": 0}', **{**keys, **changes})

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        kind = "list" if request.path == "/jobs" else "status"
        self.asked.append((asyncio.get_running_loop().time(), kind))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            if request.headers["x-amz-secret-key"] != self.secret_key:
                return web.json_response({"ErrorCode": "UNAUTHORIZED"}, status=401)
            if self.refuse is not None:
                return web.Response(status=self.refuse.status, headers=self.refuse.headers)
            response: web.StreamResponse = await handler(request)
            return response
        finally:
            self.in_flight -= 1

    async def _status(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        if job_id not in self.jobs:
            return web.json_response({"ErrorCode": "NOT_FOUND"}, status=404)
        return web.json_response({"Id": job_id, "Status": self.jobs[job_id], "ErrorCount": 0})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        size, number = int(request.query["pageSize"]), int(request.query["pageNumber"])
        status = request.query.get("status")
        matching = [{"Id": job_id, "Status": at} for job_id, at in reversed(self.jobs.items()) if status in {None, at}]
        page: Any = matching[(number - 1) * size : number * size]
        if self.lists is not None:
            page = await self.lists(request, page)
        return page if isinstance(page, web.StreamResponse) else web.json_response({"Records": page})


@asynccontextmanager
async def account(jobs: dict[str, str], lists: Any = None) -> Any:
    served = Account(jobs, lists)
    app = web.Application(middlewares=[served._gate])
    app.router.add_get("/jobs", served._list)
    app.router.add_get("/jobs/{job_id}/status", served._status)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield served
    finally:
        await runner.cleanup()
