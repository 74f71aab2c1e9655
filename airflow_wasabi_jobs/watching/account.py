"""What a poll of watchers requests: lists of the account's jobs, and the details of jobs that have finished."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.exceptions import AuthenticationError, NotFoundError, WasabiApiError
from airflow_wasabi_jobs.api.models import Job, JobMetadata, JobReport, JobStatus
from airflow_wasabi_jobs.api.pages import Pages

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request

T = TypeVar("T")

# Right after a job has completed, the location of its result may not be available yet.
RESULT_LOCATION_TIMEOUT_SECONDS, RESULT_LOCATION_POLL_SECONDS = 10.0, 2.0
# So many pages of jobs may be created between two requests.
MAX_REPEATED_PAGES = 10

# In the order of a job's life: a job that changes its status meanwhile is seen in a later list.
_UNFINISHED = tuple(status for status in JobStatus if not status.is_terminal)


class Send(Protocol):
    """Sends a request and returns its result, or raises a ``WasabiApiError``."""

    def __call__(self, request: Request[T], /) -> Awaitable[T]: ...  # noqa: D102 - the class says it


async def list_newest(send: Send, has_more: Callable[[list[Job], list[Job]], bool]) -> list[Job]:
    """
    List the newest jobs of the account, newest first.

    :param send: sends a request.
    :param has_more: whether the next page is needed, given all jobs so far and those of the last page.
    """
    newest: list[Job] = []
    pages = Pages[Job](MAX_REPEATED_PAGES)
    while not pages.is_complete:
        page = await send(endpoints.list_jobs(page_number=pages.next_number))
        newest += pages.add(page)
        if not has_more(newest, page):
            break
    return newest


async def list_unfinished(send: Send) -> dict[str, Job]:
    """List all unfinished jobs of the account by their ids."""
    unfinished: dict[str, Job] = {}
    for status in _UNFINISHED:
        pages = Pages[Job]()
        while not pages.is_complete:
            page = await send(endpoints.list_jobs(status=status, page_number=pages.next_number))
            unfinished |= {job.job_id: job for job in pages.add(page) if job.status in _UNFINISHED}
    return unfinished


async def get_payload(report: JobReport, listed: Job | None, send: Send, *, is_last_attempt: bool) -> dict[str, Any]:
    """
    Return the payload of the event of a finished job.

    :param report: the status of the job.
    :param listed: the job as a list has shown it, if a list has.
    :param send: sends a request.
    :param is_last_attempt: whether the payload has no details if they cannot be requested.
    :raises WasabiApiError: if the details cannot be requested now.
    """
    job = listed or Job(report.job_id, report.status)
    if job.completed is None:
        try:
            job = await send(endpoints.get_job(report.job_id))
        except WasabiApiError as error:
            if (error.is_transient or isinstance(error, AuthenticationError)) and not is_last_attempt:
                raise
    result = await _find_result(report.job_id, send) if report.status is JobStatus.COMPLETED else None
    payload = {
        **report.to_xcom(),
        "name": job.name,
        "batch": job.batch,
        "source": {name: value for name, value in msgspec.structs.asdict(job.source).items() if value is not None},
        "created": _to_text(job.created),
        "completed": _to_text(job.completed),
        **({"metadata_path": None, "destination": None} if result is None else result.to_xcom()),
    }
    without_nulls: dict[str, Any] = _replace_nulls(payload)
    return without_nulls


async def _find_result(job_id: str, send: Send) -> JobMetadata | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RESULT_LOCATION_TIMEOUT_SECONDS
    while True:
        try:
            return await send(endpoints.get_job_metadata(job_id))
        except NotFoundError:
            if loop.time() + RESULT_LOCATION_POLL_SECONDS > deadline:
                return None
        except WasabiApiError:
            return None
        await asyncio.sleep(RESULT_LOCATION_POLL_SECONDS)


def _to_text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _replace_nulls(value: Any) -> Any:
    """Return a payload without null characters: PostgreSQL rejects them, and the triggerer would crash."""
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case dict():
            return {name: _replace_nulls(inner) for name, inner in value.items()}
        case _:
            return value
