"""
The endpoints of the AiR Jobs API: one function for each makes the :class:`Request`. Nothing is sent from here.

Both clients send these requests, so that they cannot differ: no other place knows a path, a header or a field name of
the API.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from airflow_wasabi_jobs import __version__
from airflow_wasabi_jobs.api.endpoints import bodies
from airflow_wasabi_jobs.api.endpoints.request import Redact, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_wasabi_jobs.api.models import (
        Job,
        JobErrors,
        JobMetadata,
        JobReport,
        JobStatus,
        JobSummary,
        Submission,
    )
    from airflow_wasabi_jobs.api.settings import Settings

__all__ = [
    "MAX_PAGE_SIZE",
    "Redact",
    "Request",
    "get_job",
    "get_job_errors",
    "get_job_metadata",
    "get_job_status",
    "list_batch",
    "list_job_summaries",
    "list_jobs",
    "request_headers",
    "submit_job",
]

T = TypeVar("T")

MAX_PAGE_SIZE = 100

_JOB_NOT_FOUND = "Check the job id, and that the job belongs to the account of this connection."
_API_NOT_FOUND = "Check the host and its path: they are not the base URL of the AiR Jobs API."


def get_job_status(job_id: str) -> Request[JobReport]:
    """
    Get the status of a job: *Get job status*, ``GET /jobs/{Id}/status``.

    :param job_id: the job's id.
    """
    return Request(
        error_prefix=f"Job {job_id!r}",
        path=f"/jobs/{quote(job_id, safe='')}/status",
        parse_body=lambda body, _: bodies.parse_status(job_id, body),
        not_found_advice=_JOB_NOT_FOUND,
    )


def get_job(job_id: str) -> Request[Job]:
    """
    Get a job with what it was submitted with: ``GET /jobs/{Id}``.

    :param job_id: the job's id.
    """
    return Request(
        error_prefix=f"Job {job_id!r}",
        path=f"/jobs/{quote(job_id, safe='')}",
        parse_body=lambda body, _: bodies.parse_job(job_id, body),
        not_found_advice=_JOB_NOT_FOUND,
    )


def get_job_errors(job_id: str) -> Request[JobErrors]:
    """
    Get the error code of a job: ``GET /jobs/{Id}/errors``.

    :param job_id: the job's id.
    """
    return Request(
        error_prefix=f"Reading the error code of job {job_id!r} failed",
        path=f"/jobs/{quote(job_id, safe='')}/errors",
        parse_body=lambda body, redact: bodies.parse_errors(job_id, body, redact),
        not_found_advice=_JOB_NOT_FOUND,
    )


def get_job_metadata(job_id: str) -> Request[JobMetadata]:
    """
    Get the location of the result of a completed job: ``GET /jobs/{Id}/metadata``.

    :param job_id: the job's id.
    """
    return Request(
        error_prefix=f"Reading the result location of job {job_id!r} failed",
        path=f"/jobs/{quote(job_id, safe='')}/metadata",
        parse_body=lambda body, redact: bodies.parse_metadata(job_id, body, redact),
        not_found_advice=f"A job has a result location only after it has completed. {_JOB_NOT_FOUND}",
    )


def list_jobs(**query: Any) -> Request[list[Job]]:
    """List one page of the account's jobs: ``GET /jobs``. Takes the parameters of :func:`list_job_summaries`."""
    return _list(query, lambda body, _: bodies.parse_job_list(body))


def list_job_summaries(**query: Any) -> Request[list[JobSummary]]:
    """
    List one page of the account's jobs, and parse only their statuses: ``GET /jobs``.

    :param status: only jobs with this status. Default: all.
    :param batch: only jobs of this batch. Default: all. The filter may let other jobs through.
    :param name: only jobs with this name. Default: all. The filter may let other jobs through.
    :param newest_first: whether the newest job comes first. Default: True, so that a job that is created meanwhile
        moves others to where they are seen twice, and not to where they are missed.
    :param page_number: which page, from 1. Default: 1.
    :param page_size: how many jobs at most, 1 to 100. Default: 100. A page with fewer jobs is the last one.
    """
    return _list(query, lambda body, _: bodies.parse_summaries(body))


def list_batch(batch: str, *, status: JobStatus | None = None, page_number: int = 1) -> Request[list[JobSummary]]:
    """
    List one page of a batch, oldest job first, so that a job that is created meanwhile moves no other.

    Unlike in other lists, an unknown status is an error, because it leaves open whether that job has finished.

    :param batch: the batch. The filter may let other jobs through.
    :param status: only jobs with this status. Default: all.
    :param page_number: which page, from 1.
    """
    query = {"batch": batch, "status": status, "page_number": page_number, "newest_first": False}
    return _list(query, lambda body, _: bodies.parse_batch(batch, body))


def submit_job(submission: Submission) -> Request[Job]:
    """
    Submit a job: ``POST /jobs``. The same request twice makes two jobs.

    :param submission: the file, the services, and the destination of the result.
    """
    source, destination = submission.source, submission.destination
    content = {
        "Name": submission.name,
        "Services": submission.services,
        "Source": _without_none(
            {
                "Bucket": source.bucket,
                "ObjectKey": source.object_key,
                "Region": source.region,
                "Endpoint": source.endpoint,
                "AccessKey": submission.source_access_key,
                "SecretKey": submission.source_secret_key,
            }
        ),
        "Destination": _without_none({"Bucket": destination.bucket, "Region": destination.region}),
        # Always sent: one version of the documentation requires it.
        "Priority": submission.priority,
        "Batch": submission.batch,
    }
    return Request(
        error_prefix=f"Submitting job {submission.name!r} failed",
        path="/jobs",
        parse_body=lambda body, _: bodies.parse_submitted(body),
        not_found_advice=_API_NOT_FOUND,
        # Encoded by what validated the services: msgspec does not encode everything that json does.
        body=json.dumps(_without_none(content), allow_nan=False).encode(),
        policy="WasabiManageAiR",
        secrets=tuple(filter(None, (submission.source_access_key, submission.source_secret_key))),
    )


def request_headers(settings: Settings, request: Request[Any]) -> dict[str, str]:
    """Return the headers of a request, with the keys."""
    return {
        **({} if request.body is None else {"Content-Type": "application/json"}),
        "x-amz-access-key": settings.access_key,
        "x-amz-secret-key": settings.secret_key,
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": f"airflow-wasabi-jobs/{__version__}",
    }


def _list(query: dict[str, Any], parse_body: Callable[[bytes, Redact], list[T]]) -> Request[list[T]]:
    # A space is sent as %20: not every server takes a plus for one.
    path = f"/jobs?{urlencode(_list_query(**query), quote_via=quote)}"
    return Request(
        error_prefix="Listing jobs failed", path=path, parse_body=parse_body, not_found_advice=_API_NOT_FOUND
    )


def _list_query(
    *,
    status: JobStatus | None = None,
    batch: str | None = None,
    name: str | None = None,
    newest_first: bool = True,
    page_number: int = 1,
    page_size: int = MAX_PAGE_SIZE,
) -> dict[str, Any]:
    return _without_none(
        {
            "pageNumber": page_number,
            # Always sent: the documentation names two defaults.
            "pageSize": page_size,
            "sortBy": "Created",
            "sortOrder": "Desc" if newest_first else "Asc",
            "status": status and status.value,
            "batch": batch,
            "name": name,
        }
    )


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
