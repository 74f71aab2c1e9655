"""
A fake AiR Jobs API in the test's own event loop, whose job statuses the test changes.

The status endpoint is always correct. The list endpoint is, too, unless the test makes it misbehave.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from airflow_wasabi_jobs.api.settings import Settings, build_settings

Records = list[dict[str, str]]


class AccountServer:
    """
    :param jobs: each job's status by its id, oldest first.
    :param lists: builds the response of the list endpoint from the request and the correct page.

    Status requests for ``hung_jobs`` never get a response, and those for ``status_errors`` get this HTTP status.
    """

    def __init__(self, jobs: dict[str, str], lists: Callable[[web.Request, Records], Awaitable[Any]] | None) -> None:
        self.jobs = jobs
        self.lists = lists
        self.secret_key = "secret-of-the-account"
        self.error_response: web.Response | None = None
        self.requests: list[tuple[float, str]] = []
        self.in_flight = self.max_in_flight = 0
        self.latency = 0.0
        self.hung_jobs: set[str] = set()
        self.status_errors: dict[str, int] = {}
        self.requested_ids: list[str] = []
        self.url = ""

    @property
    def request_counts(self) -> Counter[str]:
        return Counter(kind for _, kind in self.requests)

    def settings(self, name: str = "connection 'wasabi'", **changes: Any) -> Settings:
        keys = {"access_key": "access-of-the-account", "secret_key": self.secret_key}
        return build_settings(name=name, host=self.url, **{"extra": '{"retries": 0}', **keys, **changes})

    @web.middleware
    async def _log_request(self, request: web.Request, handler: Any) -> web.StreamResponse:
        kind = "list" if request.path == "/jobs" else "status"
        self.requests.append((asyncio.get_running_loop().time(), kind))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            if request.headers["x-amz-secret-key"] != self.secret_key:
                return web.json_response({"ErrorCode": "UNAUTHORIZED"}, status=401)
            if self.error_response is not None:
                return web.Response(status=self.error_response.status, headers=self.error_response.headers)
            response: web.StreamResponse = await handler(request)
            return response
        finally:
            self.in_flight -= 1

    async def _status(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        self.requested_ids.append(job_id)
        if job_id in self.hung_jobs:
            await asyncio.Event().wait()
        if job_id in self.status_errors:
            return web.Response(status=self.status_errors[job_id])
        if job_id not in self.jobs:
            return web.json_response({"ErrorCode": "NOT_FOUND"}, status=404)
        return web.json_response({"Id": job_id, "Status": self.jobs[job_id], "ErrorCount": 0})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        size, number = int(request.query["pageSize"]), int(request.query["pageNumber"])
        status = request.query.get("status")
        matching = [
            {"Id": job_id, "Status": job_status}
            for job_id, job_status in reversed(self.jobs.items())
            if status in {None, job_status}
        ]
        page: Any = matching[(number - 1) * size : number * size]
        if self.lists is not None:
            page = await self.lists(request, page)
        return page if isinstance(page, web.StreamResponse) else web.json_response({"Records": page})


@asynccontextmanager
async def serve_account(jobs: dict[str, str], lists: Any = None) -> Any:
    account = AccountServer(jobs, lists)
    app = web.Application(middlewares=[account._log_request])
    app.router.add_get("/jobs", account._list)
    app.router.add_get("/jobs/{job_id}/status", account._status)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        account.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield account
    finally:
        await runner.cleanup()
