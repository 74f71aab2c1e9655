"""The HTTP server of the emulated API."""

from __future__ import annotations

import asyncio
import logging
import math
import operator
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from itertools import islice
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import web

from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.emulator.jobs import Definition, EmulatedJob, EmulatedJobs
from airflow_wasabi_jobs.emulator.results import ResultWriter, validate_url

ACCESS_KEY = "emulator-access-key"
SECRET_KEY = "emulator-secret-key"  # noqa: S105 - opens nothing but the emulator
OPEN_WARNING = "It is reachable from other machines."

log = logging.getLogger(__name__)

# What a header can hold.
_Key = Annotated[str, msgspec.Meta(pattern=r"^[!-~]+\Z")]


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How the emulated API behaves.

    :param access_key: the access key that it accepts (str). Default: ``emulator-access-key``.
    :param secret_key: the secret key that it accepts (str). Default: ``emulator-secret-key``.
    :param speed: how many times faster jobs run (float). At speed 1 a job takes 5 seconds. Default: 1.
    :param latency_ms: milliseconds before each response (float). Default: 0.
    :param error_rate: share of the requests whose response is 500, from 0 to 1 (float). Default: 0.
    :param rate_limit_per_minute: number of requests a minute before the response is 429 (int); 0 for no limit.
        Default: 0.
    :param lost_answers: how many of the first submissions create their job but get no response, because the connection
        is closed (int). Default: 0.
    :param result_after_seconds: seconds at speed 1 from the completion of a job until the location of its result is
        available (float). Default: 0.
    :param results: URL below which the result of each completed job is written (str), such as ``file:///tmp/results``.
        The destination bucket of the job is the first part of the path below it, so ``s3://`` writes to the bucket
        itself. Folders and buckets are created. Default: no result is written.
    :param storage_options: arguments of the file system of fsspec that writes the results (dict), such as
        ``{"endpoint_url": "http://127.0.0.1:9000"}`` for ``s3://``. Default: none.
    :param loose_filters: whether the filters ``batch`` and ``name`` of the list match any part, in upper and lower case
        (bool). Default: False.
    :param seed: seed of the random choice of errors (int). Default: 0.
    """

    access_key: _Key = ACCESS_KEY
    secret_key: _Key = SECRET_KEY
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    latency_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    rate_limit_per_minute: Annotated[int, msgspec.Meta(ge=0)] = 0
    lost_answers: Annotated[int, msgspec.Meta(ge=0)] = 0
    result_after_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    results: str | None = None
    storage_options: dict[str, Any] | None = None
    loose_filters: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("speed", "latency_ms", "result_after_seconds"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"{name}: must be a finite number.")
        if self.seed and not self.error_rate:
            raise ValueError("seed has no effect without error_rate.")
        if self.error_rate == 1:
            for name in ("lost_answers", "result_after_seconds", "loose_filters"):
                if getattr(self, name):
                    raise ValueError(f"{name} has no effect with error_rate 1, because every response is an error.")
        if self.results is not None:
            validate_url(self.results)
        elif self.storage_options:
            raise ValueError("storage_options has no effect without results.")

    def __repr__(self) -> str:
        # The keys and the storage options are secrets.
        return "Behaviour(...)"

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """Return the behaviour with these parameters. Raise ``ValueError`` for one that is invalid or has no effect."""
        if unknown := [name for name in parameters if name not in cls.__struct_fields__]:
            raise ValueError(f"{unknown[0]}: unknown parameter. There are {', '.join(cls.__struct_fields__)}.")
        try:
            return msgspec.convert(parameters, cls)
        except msgspec.ValidationError as error:
            reason, _, path = str(error).partition(" - at ")
            name = path.strip("`$.")
            if name.endswith("_key"):
                reason = "must be printable ASCII characters without a space, as it is sent in a header"
            elif name:
                reason = reason.replace("Expected", "must be").replace("`", "")
            raise ValueError(f"{name}: {reason}." if name else reason) from None


class AirEmulator:
    """
    A Wasabi AiR Jobs API on this machine, for as long as the ``with`` block lasts.

    The name of a submitted job controls how the job ends: at its beginning ``completes``, ``fails``, ``fails-once``
    (later jobs of that name complete) or ``cancels``; anywhere ``with-3-errors`` and ``after-60-seconds`` (any number).
    If the name has none of them, the file name of the source controls the job in the same way. All other jobs complete.
    A status request for an unknown id with one of them creates such a job; the response for any other unknown id is
    404.

    :param host: address to listen on (str). Default: ``127.0.0.1``.
    :param port: port to listen on (int). Default: 0, for a free one.
    :param behaviour: the parameters of ``Behaviour``: ``access_key``, ``secret_key``, ``speed``, ``latency_ms``,
        ``error_rate``, ``rate_limit_per_minute``, ``lost_answers``, ``result_after_seconds``, ``results``,
        ``storage_options``, ``loose_filters`` and ``seed``. They are those of the command ``wasabi-air-emulator``.
    :raises ValueError: if a parameter is unknown or invalid, or has no effect together with the others.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **behaviour: Any) -> None:
        check_address(host, port)
        self._host = host
        self._port = port
        self._behaviour = Behaviour.from_parameters(behaviour)
        self._jobs = EmulatedJobs(time.time, self._behaviour.speed)
        self._thread = threading.Thread(target=self._run, name="wasabi-air-emulator", daemon=True)
        self._listening = threading.Event()
        self._failure: BaseException | None = None
        self.url = ""

    @property
    def connection_uri(self) -> str:
        """The Airflow connection to this emulator, as the value of an ``AIRFLOW_CONN_…`` variable."""
        keys = f"{quote(self._behaviour.access_key, safe='')}:{quote(self._behaviour.secret_key, safe='')}"
        return f"wasabi://{keys}@{quote(_loopback_url(self.url), safe='')}"

    @property
    def job_names(self) -> list[str]:
        """The names of all jobs so far, oldest first."""
        return self._jobs.names()

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        if self._failure:
            raise self._failure
        if is_open(self.url):
            log.warning("The Wasabi AiR emulator listens on %s. %s", self.url, OPEN_WARNING)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised by __enter__
            self._failure = error
            self._listening.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with serving(self._behaviour, self._host, self._port, jobs=self._jobs) as self.url:
                self._listening.set()
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001 - raised by __enter__
            self._failure = error
        finally:
            self._listening.set()


def check_address(host: str, port: int) -> None:
    """Raise ``ValueError`` for an address that cannot be listened on."""
    if not isinstance(host, str) or not host.strip():
        raise ValueError(f"host: {host!r} is empty. Use 127.0.0.1 for this machine only, 0.0.0.0 for all addresses.")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 65536:
        raise ValueError(f"port: {port!r} is not an integer between 0 and 65535.")


def _loopback_url(url: str) -> str:
    """Return a URL that a client on this machine can use for an emulator that listens on all addresses."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def is_open(url: str) -> bool:
    """Whether other machines can reach an emulator that listens there."""
    return not ip_address(urlsplit(url).hostname or "").is_loopback


@asynccontextmanager
async def serving(
    behaviour: Behaviour,
    host: str,
    port: int,
    log_request: Callable[[str], None] | None = None,
    jobs: EmulatedJobs | None = None,
) -> AsyncIterator[str]:
    """Serve the emulated API and yield its base URL. ``log_request`` receives a line for each request."""
    runner = web.AppRunner(
        create_application(behaviour, log_request=log_request, jobs=jobs), access_log=None, shutdown_timeout=0.5
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        address, port = runner.addresses[0][:2]
        yield f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    finally:
        await runner.cleanup()


def create_application(
    behaviour: Behaviour,
    *,
    clock: Callable[[], float] = time.time,
    log_request: Callable[[str], None] | None = None,
    jobs: EmulatedJobs | None = None,
) -> web.Application:
    """Return the web application of the emulated API."""
    api = _Api(EmulatedJobs(clock, behaviour.speed) if jobs is None else jobs, behaviour, clock)
    middleware = _Middleware(behaviour, clock, log_request)
    app = web.Application(middlewares=[middleware.handle])
    app.router.add_get("/jobs", api.list)
    app.router.add_post("/jobs", api.submit)
    app.router.add_get("/jobs/{job_id:[^/]+}", api.job)
    app.router.add_get("/jobs/{job_id:[^/]+}/status", api.status)
    app.router.add_get("/jobs/{job_id:[^/]+}/errors", api.errors)
    app.router.add_get("/jobs/{job_id:[^/]+}/metadata", api.metadata)
    app.on_cleanup.append(api.close)
    return app


class _Middleware:
    """Authentication, latency, rate limit and faults, before a request reaches the API."""

    def __init__(
        self, behaviour: Behaviour, clock: Callable[[], float], log_request: Callable[[str], None] | None
    ) -> None:
        self._behaviour = behaviour
        self._clock = clock
        self._log_request = log_request
        self._random = random.Random(behaviour.seed)  # noqa: S311 - repeatable, not a secret
        self._minute_started_at, self._requests_in_minute = 0.0, 0
        self._responses_to_lose = behaviour.lost_answers

    @web.middleware
    async def handle(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._behaviour.latency_ms:
            await asyncio.sleep(self._behaviour.latency_ms / 1000)
        response = self._reject(request) or await _handle(handler, request)
        is_lost = self._take_lost_response(request, response)
        if is_lost and request.transport:
            request.transport.close()
        if self._log_request:
            self._log_request(f"{request.method} {request.raw_path} {'lost' if is_lost else response.status}")
        return response

    def _take_lost_response(self, request: web.Request, response: web.Response) -> bool:
        if not self._responses_to_lose or (request.method, response.status) != ("POST", 200):
            return False
        self._responses_to_lose -= 1
        return True

    def _reject(self, request: web.Request) -> web.Response | None:
        keys = (request.headers.get("x-amz-access-key"), request.headers.get("x-amz-secret-key"))
        if keys != (self._behaviour.access_key, self._behaviour.secret_key):
            return _error(401, "UNAUTHORIZED", "Unauthorized")
        if self._behaviour.rate_limit_per_minute:
            if self._clock() - self._minute_started_at >= 60:
                self._minute_started_at, self._requests_in_minute = self._clock(), 0
            self._requests_in_minute += 1
            if self._requests_in_minute > self._behaviour.rate_limit_per_minute:
                seconds_left = self._minute_started_at + 60 - self._clock()
                headers = {"Retry-After": str(math.ceil(seconds_left))}
                return _error(429, "TOO_MANY_REQUESTS", "Too many requests", headers)
        if self._random.random() < self._behaviour.error_rate:
            return _error(500, "INTERNAL_ERROR", "An unexpected error occurred while processing the job.")
        return None


class _ListQuery(msgspec.Struct, rename="camel"):
    page_number: Annotated[int, msgspec.Meta(ge=1)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 25
    batch: str | None = None
    name: str | None = None
    # Not None, because msgspec would accept the string "null" for it.
    status: JobStatus | msgspec.UnsetType = msgspec.UNSET
    sort_by: Literal["Created"] = "Created"
    sort_order: Literal["Asc", "Desc"] = "Asc"


class _Api:
    """The endpoints."""

    def __init__(self, jobs: EmulatedJobs, behaviour: Behaviour, clock: Callable[[], float]) -> None:
        self._jobs = jobs
        self._matches = _contains if behaviour.loose_filters else operator.eq
        self._result_after_seconds = behaviour.result_after_seconds
        self._writer = (
            None
            if behaviour.results is None
            else ResultWriter(behaviour.results, behaviour.storage_options or {}, behaviour.result_after_seconds)
        )
        self._clock = clock

    async def close(self, _: web.Application) -> None:
        if self._writer:
            await self._writer.close()

    async def list(self, request: web.Request) -> web.Response:
        query = msgspec.convert(dict(request.query), _ListQuery, strict=False)
        now = self._clock()
        matching = (
            job
            for job in (self._jobs if query.sort_order == "Asc" else reversed(self._jobs))
            if (query.batch is None or self._matches(query.batch, job.definition.batch))
            and (query.name is None or self._matches(query.name, job.definition.name))
            and (query.status is msgspec.UNSET or job.status(now) is query.status)
        )
        first = min((query.page_number - 1) * query.page_size, len(self._jobs))
        return _json({"Records": [job.list_record(now) for job in islice(matching, first, first + query.page_size)]})

    async def submit(self, request: web.Request) -> web.Response:
        job = self._jobs.submit(msgspec.json.decode(await request.read(), type=Definition))
        self._schedule_result(job)
        return _json({"Job": job.record(self._clock())})

    async def job(self, request: web.Request) -> web.Response:
        return _json(self._find(request).record(self._clock()))

    async def status(self, request: web.Request) -> web.Response:
        self._jobs.find_or_create(request.match_info["job_id"])
        job, now = self._find(request), self._clock()
        self._schedule_result(job)
        return _json({"Id": job.job_id, "Status": job.status(now).value, "ErrorCount": job.error_count(now)})

    async def errors(self, request: web.Request) -> web.Response:
        job, now = self._find(request), self._clock()
        has_errors = job.status(now) is JobStatus.FAILED or job.error_count(now) > 0
        return _json(
            {
                "Id": job.job_id,
                "Status": job.status(now).value,
                "ErrorCode": "INTERNAL_ERROR" if has_errors else "",
                "ErrorCount": job.error_count(now),
            }
        )

    async def metadata(self, request: web.Request) -> web.Response:
        job = self._find(request)
        if not job.has_result(self._clock(), self._result_after_seconds):
            raise _NotFoundError
        if self._writer and (error := await self._writer.write(job)):
            return _error(500, "INTERNAL_ERROR", error)
        record = job.list_record(self._clock())
        return _json(
            {
                "Id": job.job_id,
                "UserId": record["UserId"],
                "Destination": record["Destination"],
                "DestinationPath": self._writer.path_of(job) if self._writer else job.result_path(),
            }
        )

    def _schedule_result(self, job: EmulatedJob) -> None:
        if self._writer:
            self._writer.schedule(job, self._clock())

    def _find(self, request: web.Request) -> EmulatedJob:
        job = self._jobs.find(request.match_info["job_id"])
        if job is None:
            raise _NotFoundError
        return job


def _contains(part: str, text: str | None) -> bool:
    return text is not None and part.casefold() in text.casefold()


class _NotFoundError(Exception):
    """There is no such job."""


async def _handle(handler: Any, request: web.Request) -> web.Response:
    try:
        response: web.Response = await handler(request)
    except (_NotFoundError, web.HTTPNotFound):
        return _error(404, "NOT_FOUND")
    except web.HTTPException as error:
        return _error(error.status, error.reason.upper().replace(" ", "_"), error.reason)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _error(400, "BAD_REQUEST", str(error))
    return response


def _error(code: int, error_code: str, text: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    # The documented 404 has no Error.
    body = {"ErrorCode": error_code} if text is None else {"Error": text, "ErrorCode": error_code}
    return _json(body, code, headers)


def _json(body: Any, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=code, body=msgspec.json.encode(body), content_type="application/json", headers=headers)
