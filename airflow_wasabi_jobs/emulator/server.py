"""The emulated API on HTTP: aiohttp's server around the emulated jobs."""

from __future__ import annotations

import asyncio
import logging
import math
import operator
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from itertools import islice
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import web

from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.emulator.jobs import Definition, EmulatedJob, EmulatedJobs

ACCESS_KEY = "emulator-access-key"
SECRET_KEY = "emulator-secret-key"  # noqa: S105 - opens nothing but the emulator
OPEN = "It is open to other machines: whoever reaches this one can use it."

log = logging.getLogger(__name__)


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How the emulated API behaves.

    :param access_key: the access key it accepts.
    :param secret_key: the secret key it accepts.
    :param speed: how many times faster than usual jobs run. Usually one takes 5 seconds.
    :param latency_ms: how many milliseconds each answer is held back.
    :param error_rate: the share of the requests that are answered 500, from 0 to 1.
    :param rate_limit_per_minute: how many requests a minute are answered before 429; 0 for any number.
    :param lost_answers: how many of the first submissions make their job, but get no answer: the connection is cut.
    :param result_after_seconds: how many seconds after its completion the place of a job's result is known. They
        too pass faster with ``speed``.
    :param loose_filters: whether the filters ``batch`` and ``name`` of the list find jobs by any part of them, in
        any case, and not only by the whole.
    :param seed: what decides which requests the error rate hits.
    """

    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    latency_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    rate_limit_per_minute: Annotated[int, msgspec.Meta(ge=0)] = 0
    lost_answers: Annotated[int, msgspec.Meta(ge=0)] = 0
    result_after_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    loose_filters: bool = False
    seed: int = 0


class AirEmulator:
    """
    A Wasabi AiR Jobs API on this machine, for as long as the ``with`` block lasts.

    A status call for an unknown id that begins with ``completes``, ``fails``, ``cancels`` or
    ``completes-with-3-errors`` (any number) brings such a job to life; any other unknown id is a 404.
    With ``-after-60-seconds`` (any number) behind that, it takes so long.
    The name of a submitted job steers it in the same way; without that it completes.

    What a client has to put up with comes when asked for: ``latency_ms``, ``error_rate``, ``rate_limit_per_minute``,
    ``lost_answers``, ``result_after_seconds`` and ``loose_filters``.

    :param host: the address to listen on.
    :param port: the port to listen on. Default: a free one.
    :param behaviour: the parameters of :class:`Behaviour`.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **behaviour: Any) -> None:
        self._host = host
        self._port = port
        self._behaviour = msgspec.convert(behaviour, Behaviour)
        self._jobs = EmulatedJobs(time.time, self._behaviour.speed)
        self._thread = threading.Thread(target=self._run, name="wasabi-air-emulator", daemon=True)
        self._listening = threading.Event()
        self._failure: BaseException | None = None
        self.url = ""

    @property
    def connection_uri(self) -> str:
        """The Airflow connection to this emulator, as an ``AIRFLOW_CONN_…`` variable takes it."""
        keys = f"{quote(self._behaviour.access_key, safe='')}:{quote(self._behaviour.secret_key, safe='')}"
        return f"wasabi://{keys}@{quote(self.url, safe='')}"

    @property
    def job_names(self) -> list[str]:
        """The names of all jobs submitted or brought to life so far, oldest first."""
        return self._jobs.names()

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        if self._failure:
            raise self._failure
        if is_open(self.url):
            log.warning("The Wasabi AiR emulator listens on %s. %s", self.url, OPEN)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with serving(self._behaviour, self._host, self._port, jobs=self._jobs) as self.url:
                self._listening.set()
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001 - raised where the emulator was asked for
            self._failure = error
        finally:
            self._listening.set()


def is_open(url: str) -> bool:
    """Whether other machines can reach an emulator that listens there."""
    return not ip_address(urlsplit(url).hostname or "").is_loopback


@asynccontextmanager
async def serving(
    behaviour: Behaviour,
    host: str,
    port: int,
    tell: Callable[[str], None] | None = None,
    jobs: EmulatedJobs | None = None,
) -> AsyncIterator[str]:
    """Serve the emulated API and yield its base URL. ``tell`` is handed a line for each request."""
    runner = web.AppRunner(application(behaviour, tell=tell, jobs=jobs), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        address, port = runner.addresses[0][:2]
        yield f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    finally:
        await runner.cleanup()


def application(
    behaviour: Behaviour,
    *,
    clock: Callable[[], float] = time.time,
    tell: Callable[[str], None] | None = None,
    jobs: EmulatedJobs | None = None,
) -> web.Application:
    """Put the emulated API together, around the jobs that it is to begin with."""
    api = _Api(EmulatedJobs(clock, behaviour.speed) if jobs is None else jobs, behaviour, clock)
    gate = _Gate(behaviour, clock, tell)
    app = web.Application(middlewares=[gate.pass_through])
    app.router.add_get("/jobs", api.list)
    app.router.add_post("/jobs", api.submit)
    app.router.add_get("/jobs/{job_id:[^/]+}", api.job)
    app.router.add_get("/jobs/{job_id:[^/]+}/status", api.status)
    app.router.add_get("/jobs/{job_id:[^/]+}/errors", api.errors)
    app.router.add_get("/jobs/{job_id:[^/]+}/metadata", api.metadata)
    return app


class _Gate:
    """What every request passes before it reaches the API."""

    def __init__(self, behaviour: Behaviour, clock: Callable[[], float], tell: Callable[[str], None] | None) -> None:
        self._behaviour = behaviour
        self._clock = clock
        self._tell = tell
        self._chance = random.Random(behaviour.seed)  # noqa: S311 - to be repeatable is the point
        self._minute, self._count = 0.0, 0
        self._answers_to_lose = behaviour.lost_answers

    @web.middleware
    async def pass_through(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._behaviour.latency_ms:
            await asyncio.sleep(self._behaviour.latency_ms / 1000)
        response = self._refusal(request) or await _answered(handler, request)
        lost = self._is_lost(request, response)
        if lost and request.transport:
            request.transport.close()
        if self._tell:
            self._tell(f"{request.method} {request.raw_path} {'lost' if lost else response.status}")
        return response

    def _is_lost(self, request: web.Request, response: web.Response) -> bool:
        if not self._answers_to_lose or (request.method, response.status) != ("POST", 200):
            return False
        self._answers_to_lose -= 1
        return True

    def _refusal(self, request: web.Request) -> web.Response | None:
        given = (request.headers.get("x-amz-access-key"), request.headers.get("x-amz-secret-key"))
        if given != (self._behaviour.access_key, self._behaviour.secret_key):
            return _error(401, "UNAUTHORIZED", "Unauthorized")
        if self._behaviour.rate_limit_per_minute:
            if self._clock() - self._minute >= 60:
                self._minute, self._count = self._clock(), 0
            self._count += 1
            if self._count > self._behaviour.rate_limit_per_minute:
                left = self._minute + 60 - self._clock()
                headers = {"Retry-After": str(math.ceil(left))}
                return _error(429, "TOO_MANY_REQUESTS", "Too many requests", headers)
        if self._chance.random() < self._behaviour.error_rate:
            return _error(500, "INTERNAL_ERROR", "An unexpected error occurred while processing the job.")
        return None


class _Page(msgspec.Struct, rename="camel"):
    page_number: Annotated[int, msgspec.Meta(ge=1)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 25
    batch: str | None = None
    name: str | None = None
    # Not None, for which the text "null" would be taken.
    status: JobStatus | msgspec.UnsetType = msgspec.UNSET
    sort_by: Literal["Created"] = "Created"
    sort_order: Literal["Asc", "Desc"] = "Asc"


class _Api:
    """The six calls."""

    def __init__(self, jobs: EmulatedJobs, behaviour: Behaviour, clock: Callable[[], float]) -> None:
        self._jobs = jobs
        self._matches = _is_part if behaviour.loose_filters else operator.eq
        self._result_after_seconds = behaviour.result_after_seconds
        self._clock = clock

    async def list(self, request: web.Request) -> web.Response:
        page = msgspec.convert(dict(request.query), _Page, strict=False)
        now = self._clock()
        matching = (
            job
            for job in (self._jobs if page.sort_order == "Asc" else reversed(self._jobs))
            if (page.batch is None or self._matches(page.batch, job.definition.batch))
            and (page.name is None or self._matches(page.name, job.definition.name))
            and (page.status is msgspec.UNSET or job.status(now) is page.status)
        )
        first = min((page.page_number - 1) * page.page_size, len(self._jobs))
        return _json({"Records": [job.brief(now) for job in islice(matching, first, first + page.page_size)]})

    async def submit(self, request: web.Request) -> web.Response:
        job = self._jobs.submit(msgspec.json.decode(await request.read(), type=Definition))
        return _json({"Job": job.full(self._clock())})

    async def job(self, request: web.Request) -> web.Response:
        return _json(self._asked(request).full(self._clock()))

    async def status(self, request: web.Request) -> web.Response:
        self._jobs.find_or_begin(request.match_info["job_id"])
        job, now = self._asked(request), self._clock()
        return _json({"Id": job.job_id, "Status": job.status(now).value, "ErrorCount": job.error_count(now)})

    async def errors(self, request: web.Request) -> web.Response:
        job, now = self._asked(request), self._clock()
        went_wrong = job.status(now) is JobStatus.FAILED or job.error_count(now) > 0
        return _json(
            {
                "Id": job.job_id,
                "Status": job.status(now).value,
                "ErrorCode": "INTERNAL_ERROR" if went_wrong else "",
                "ErrorCount": job.error_count(now),
            }
        )

    async def metadata(self, request: web.Request) -> web.Response:
        job = self._asked(request)
        if not job.has_result(self._clock(), self._result_after_seconds):
            raise _NotFoundError
        brief = job.brief(self._clock())
        return _json(
            {
                "Id": job.job_id,
                "UserId": brief["UserId"],
                "Destination": brief["Destination"],
                "DestinationPath": job.result_path(),
            }
        )

    def _asked(self, request: web.Request) -> EmulatedJob:
        job = self._jobs.find(request.match_info["job_id"])
        if job is None:
            raise _NotFoundError
        return job


def _is_part(wanted: str, text: str | None) -> bool:
    return text is not None and wanted.casefold() in text.casefold()


class _NotFoundError(Exception):
    """There is no such thing."""


async def _answered(handler: Any, request: web.Request) -> web.Response:
    try:
        response: web.Response = await handler(request)
    except (_NotFoundError, web.HTTPNotFound):
        return _error(404, "NOT_FOUND")
    except web.HTTPException as refusal:
        return _error(refusal.status, refusal.reason.upper().replace(" ", "_"), refusal.reason)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as refusal:
        return _error(400, "BAD_REQUEST", str(refusal))
    return response


def _error(code: int, error_code: str, text: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    # The documented 404 has no text.
    body = {"ErrorCode": error_code} if text is None else {"Error": text, "ErrorCode": error_code}
    return _json(body, code, headers)


def _json(body: Any, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=code, body=msgspec.json.encode(body), content_type="application/json", headers=headers)
