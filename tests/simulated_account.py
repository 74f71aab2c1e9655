"""
An account of the AiR Jobs API in virtual time, and a client that replaces ``AsyncJobsClient`` and sends nothing.

The client parses real JSON with the package's own endpoints, and keeps the timeouts of the real client. Status
requests always show the true status, if they get a response. Lists do not have to.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.client.connection_errors import connection_error
from airflow_wasabi_jobs.api.client.observer import Observer
from airflow_wasabi_jobs.api.exceptions import AuthenticationError, RateLimitError, WasabiApiError
from airflow_wasabi_jobs.api.responses import Response, parse_response
from airflow_wasabi_jobs.api.settings import Settings
from airflow_wasabi_jobs.polling.rate_limiter import MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS
from airflow_wasabi_jobs.polling.request_queue import MAX_CONCURRENT_REQUESTS
from airflow_wasabi_jobs.polling.status_requests import MAX_CONCURRENT_SLOW_REQUESTS

RUNNING_STATUSES = ("submitted", "preflight", "in_progress")
# The pause between two attempts of a request that fails, without a Retry-After.
MAX_RETRY_PAUSE = 1.3

Record = dict[str, str]


class SimulatedJob(msgspec.Struct, eq=False):
    """
    A job of the account.

    :param listed_as_running_at: when a list showed the job as running although it had finished.
    :param failed_at: when a request for its status failed with a transient error.
    :param sent_at: when a request for its status was first sent, without its retries.
    :param answered_at: when a request for its status got its result.
    :param is_hanging: whether requests for its status get no response.
    :param has_hung: whether one ever did.
    :param has_timed_out: whether the last request for its status timed out.
    """

    job_id: str
    batch: str
    error_count: int
    status: str = "submitted"
    finished_at: float = math.inf
    failing_until: float = 0.0
    is_broken: bool = False
    is_hanging: bool = False
    has_hung: bool = False
    has_timed_out: bool = False
    wait_count: int = 0
    last_deadline: Any = None
    listed_as_running_at: list[float] = msgspec.field(default_factory=list)
    failed_at: list[float] = msgspec.field(default_factory=list)
    sent_at: list[float] = msgspec.field(default_factory=list)
    answered_at: list[float] = msgspec.field(default_factory=list)


class BrokenRequestError(Exception):
    """An exception that the client never raises unless there is a bug in it."""


class SimulatedAccount:
    """
    The account. What it does wrong is set by the attributes.

    :param jobs: the jobs, oldest first.
    :param lists: the name of what is wrong with the lists, in ``LISTS`` or ``LIST_RESPONSES``.
    :param violations: the rules that the poller broke.
    """

    def __init__(self, jobs: list[SimulatedJob]) -> None:
        self.jobs = {job.job_id: job for job in jobs}
        self.secret_key = "key-0"
        self.latency = 0.05
        self.lists = "correct"
        self.outdated_records: list[Record] = []
        self.failing_until = self.rate_limited_until = 0.0
        self.rate_limit_headers: dict[str, str] = {}
        self.rate_limit_status = 429
        self.open_errors: list[BaseException] = []
        self.clients: list[SimulatedClient] = []
        self.request_count = 0
        self.list_pages: dict[object, int] = {}
        self.batches_failed_at: list[float] = []
        self.violations: list[str] = []

    def records(self, batch: str | None = None) -> list[Record]:
        return [
            {"Id": job.job_id, "Status": job.status, "Batch": job.batch}
            for job in self.jobs.values()
            if batch in {None, job.batch}
        ]

    async def respond(self, path: str, secret_key: str) -> Response:
        url = urlsplit(path)
        self.request_count += 1
        # No two responses at the same time: ties are rarer in reality than in virtual time.
        latency = self.latency * (1 + self.request_count * 7919 % 1000 / 10_000)
        await asyncio.sleep(latency / 2)
        is_list = url.path == "/jobs"
        response = self._respond_to_all(secret_key)
        if response is None and is_list:
            response = await self._list({name: values[0] for name, values in parse_qs(url.query).items()})
        elif response is None:
            response = await self._status(self.jobs[unquote(url.path.split("/")[2])])
        await asyncio.sleep(latency / 2)
        if is_list and "batch=" not in url.query:
            self._record_listed_jobs(response)
        return response

    def _respond_to_all(self, secret_key: str) -> Response | None:
        now = asyncio.get_running_loop().time()
        if secret_key != self.secret_key:
            return _json_response({"ErrorCode": "UNAUTHORIZED"}, 401)
        if now < self.rate_limited_until:
            return Response(self.rate_limit_status, self.rate_limit_headers, b"")
        if now < self.failing_until:
            return Response(500, {}, b"")
        return None

    async def _status(self, job: SimulatedJob) -> Response:
        if job.is_hanging:
            await asyncio.get_running_loop().create_future()
        if job.is_broken:
            raise BrokenRequestError
        if asyncio.get_running_loop().time() < job.failing_until:
            return Response(500, {}, b"")
        return _json_response({"Id": job.job_id, "Status": job.status, "ErrorCount": job.error_count})

    async def _list(self, query: dict[str, str]) -> Response:
        if "batch" in query:
            return _json_response({"Records": _page(self.records(query["batch"]), query)})
        if self.lists == "slow":
            await asyncio.sleep(40)
        if self.lists in LIST_RESPONSES:
            return LIST_RESPONSES[self.lists]
        records = self.outdated_records if self.lists == "outdated" else self.records()
        return _json_response({"Records": LISTS[self.lists](records[::-1], query)})

    def _record_listed_jobs(self, response: Response) -> None:
        if response.status_code == 200 and response.body.startswith(b'{"Records": [{'):
            now = asyncio.get_running_loop().time()
            for record in json.loads(response.body)["Records"]:
                job = self.jobs.get(record["Id"])
                if job and record["Status"] in RUNNING_STATUSES and job.finished_at <= now:
                    job.listed_as_running_at.append(now)


def _json_response(content: Any, status_code: int = 200) -> Response:
    body = json.dumps(content).encode()
    return Response(status_code, {"Content-Length": str(len(body))}, body)


def _page(records: list[Record], query: dict[str, str], max_size: int = 100, *, skip: int = 0) -> list[Record]:
    size = min(int(query["pageSize"]), max_size)
    first = (int(query["pageNumber"]) - 1) * size
    return [r for r in records if query.get("status") in {None, r["Status"]}][first + skip : first + size]


def _all_running(records: list[Record], query: dict[str, str]) -> list[Record]:
    return _page([{**record, "Status": query["status"]} for record in records], query)


def _all_finished(records: list[Record], query: dict[str, str]) -> list[Record]:
    return [{**record, "Status": "completed"} for record in _page(records, query)]


def _other_jobs(_: list[Record], query: dict[str, str]) -> list[Record]:
    return [{"Id": f"other-{number}", "Status": query["status"]} for number in range(100)]


LISTS: dict[str, Callable[[list[Record], dict[str, str]], list[Record]]] = {
    "correct": _page,
    "slow": _page,
    "outdated": _page,
    "missing jobs": lambda records, query: _page(records[::2], query),
    "all running": _all_running,
    "all finished": _all_finished,
    "duplicated jobs": lambda records, query: _page(records, query) + _page(records, query)[:50],
    "short pages": lambda records, query: _page(records, query, 7),
    "shifted pages": lambda records, query: _page(records, query, skip=int(query["pageNumber"])),
    "other jobs": _other_jobs,
    "unknown statuses": lambda records, query: [{**record, "Status": "Paused"} for record in _page(records, query)],
}
LIST_RESPONSES = {
    "empty": _json_response({"Records": []}),
    "500": Response(500, {}, b""),
    "403": Response(403, {}, b""),
    "html": Response(200, {}, b"<html>Welcome</html>"),
    "not a list": _json_response({}),
}


class SimulatedClient:
    """
    Replaces ``AsyncJobsClient``, and checks what each request must comply with.

    :param account: the account.
    :param settings: the settings of the client.
    :param observe: as that of ``AsyncJobsClient``. Nothing is reported.
    """

    def __init__(self, account: SimulatedAccount, settings: Settings, observe: Observer | None = None) -> None:
        self.account = account
        self._settings = settings
        self._is_open = False
        self.in_flight = self._timed_out_in_flight = 0
        self.paused_until = 0.0
        self._pauses_in_a_row = 0
        # Each time with how many more requests the account is busy from then on.
        self.load: list[tuple[float, int]] = []
        self.pauses: list[tuple[float, float]] = []
        self.rejected_count = 0
        self.failed_at = math.inf
        # They keep the deadlines alive, so that no two have the same id.
        self._known_deadlines: deque[Any] = deque()
        self._known_ids: set[int] = set()
        account.clients.append(self)

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0.01)
        if self.account.open_errors:
            self.failed_at = asyncio.get_running_loop().time()
            raise self.account.open_errors.pop()
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        self._check(not self.in_flight, "the client was closed while requests were in flight")
        await asyncio.sleep(0.01)

    async def send_once(self, request: endpoints.Request[Any], deadline: Any, name: str | None = None) -> Any:
        settings = msgspec.structs.replace(self._settings, name=name) if name else self._settings
        now = asyncio.get_running_loop().time()
        is_retry = id(deadline) in self._known_ids
        if not is_retry:
            self._known_ids.add(id(deadline))
            self._known_deadlines.append(deadline)
        self._check(self._is_open, "a request was sent by a client that is not open")
        self._check(self.in_flight < MAX_CONCURRENT_REQUESTS, "too many requests were in flight")
        self._check(now >= self.paused_until - 1e-6, "a request was sent during a rate-limit pause")
        if not is_retry:
            self._check(
                deadline.seconds_to_read() >= settings.options.read_timeout,
                "time in the queue counted for the timeout of a request",
            )
        job = self._find_job(request)
        is_slow = job is not None and job.wait_count == 1 and job.has_timed_out and deadline is not job.last_deadline
        self._timed_out_in_flight += is_slow
        self._check(
            self._timed_out_in_flight <= MAX_CONCURRENT_SLOW_REQUESTS,
            "too many requests were in flight for jobs whose last request had timed out",
        )
        if job is not None:
            job.last_deadline = deadline
            if not is_retry:
                job.sent_at.append(now)
        elif not is_retry and "batch=" not in request.path:
            root = asyncio.get_running_loop().root_of_current_task()
            self.account.list_pages[root] = self.account.list_pages.get(root, 0) + 1
        self.in_flight += 1
        self.load.append((now, 1))
        held_until = 0.0
        try:
            result = await self._send(request, deadline, settings)
        except WasabiApiError as error:
            held_until = self._record_error(error, job, request)
            raise
        else:
            self._record_success(job)
            return result
        finally:
            self.in_flight -= 1
            self._timed_out_in_flight -= is_slow
            self.load.append((max(held_until, asyncio.get_running_loop().time()), -1))

    async def _send(self, request: endpoints.Request[Any], deadline: Any, settings: Settings) -> Any:
        try:
            async with asyncio.timeout(max(0.001, min(settings.options.read_timeout, deadline.seconds_to_read()))):
                response = await self.account.respond(request.path, settings.secret_key)
        except OSError as cause:
            raise connection_error(settings, request, cause) from cause
        self.rejected_count += response.status_code == 401
        return parse_response(settings, request, response)

    def _find_job(self, request: endpoints.Request[Any]) -> SimulatedJob | None:
        path = urlsplit(request.path).path
        return None if path == "/jobs" else self.account.jobs[unquote(path.split("/")[2])]

    def _record_success(self, job: SimulatedJob | None) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self.paused_until:
            self._pauses_in_a_row = 0
        if job is not None:
            job.has_timed_out = False
            job.answered_at.append(now)

    def _record_error(self, error: WasabiApiError, job: SimulatedJob | None, request: endpoints.Request[Any]) -> float:
        now = asyncio.get_running_loop().time()
        if job is not None:
            job.failed_at.append(now)
            job.has_timed_out = error.status_code is None
            job.has_hung = job.has_hung or job.has_timed_out
        elif "batch=" in request.path:
            self.account.batches_failed_at.append(now)
        if isinstance(error, AuthenticationError):
            for each in self.account.jobs.values():
                each.has_timed_out = False
        if error.is_transient and (error.retry_after is not None or isinstance(error, RateLimitError)):
            if now >= self.paused_until:
                self._pauses_in_a_row += 1
            backoff = MIN_PAUSE_SECONDS * 2 ** min(self._pauses_in_a_row - 1, 10)
            pause = min(backoff if error.retry_after is None else error.retry_after, MAX_PAUSE_SECONDS)
            self.paused_until = max(self.paused_until, now + pause)
            self.pauses.append((now, self.paused_until))
        return now + MAX_RETRY_PAUSE if error.is_transient and self._settings.options.retries else now

    def _check(self, is_met: bool, violation: str) -> None:
        if not is_met:
            self.account.violations.append(f"{asyncio.get_running_loop().time():.2f}: {violation}")

    def forget_requests(self) -> None:
        """Release the deadlines of all requests."""
        self._known_deadlines.clear()

    def saturated_periods(self) -> list[tuple[float, float]]:
        """Return when as many requests as possible were in flight, or about to be retried."""
        periods: list[tuple[float, float]] = []
        level, started_at = 0, math.inf
        for at, change in sorted(self.load):
            level += change
            if level >= MAX_CONCURRENT_REQUESTS:
                started_at = min(started_at, at)
            elif started_at < math.inf:
                periods.append((started_at, at))
                started_at = math.inf
        return [*periods, *([(started_at, math.inf)] if started_at < math.inf else [])]
