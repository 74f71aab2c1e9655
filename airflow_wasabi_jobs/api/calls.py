"""
Each call of the AiR Jobs API once: what to send, and how to read the answer. Nothing is sent from here.

Both clients are driven by these functions, so they can't drift apart: no other place knows a path, a
header or a field name of the API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from airflow_wasabi_jobs import __version__
from airflow_wasabi_jobs.api.answers import legible
from airflow_wasabi_jobs.api.ids import checked_id
from airflow_wasabi_jobs.api.models import (
    Destination,
    Job,
    JobErrors,
    JobMetadata,
    JobReport,
    JobState,
    JobStatus,
    Source,
    Submission,
)

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

LONGEST_PAGE = 100

Scrub = Callable[[str], str]


class Call(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """
    One thing to ask the API.

    :param subject: what is asked for, as it reads in a message.
    :param path: the path behind the base URL, encoded, with its query.
    :param read: makes the result of the body of a 200, with the help of what takes the keys out of a text. Raises
        ``ValueError`` if the body is not what was promised.
    :param missing: what to do about a 404.
    :param body: what to send, as JSON. Only a call without one may be sent again, for that changes nothing.
    :param policy: the IAM policy that the user of the keys needs.
    :param secrets: what is in the body and may not be shown.
    """

    subject: str
    path: str
    read: Callable[[bytes, Scrub], T]
    missing: str
    body: bytes | None = None
    policy: str = "WasabiViewAiR"
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Call({self.subject!r})"

    def __rich_repr__(self) -> list[Any]:
        return [self.subject]

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.body is None else "POST"


def job_status(job_id: str) -> Call[JobReport]:
    """
    Ask where a job stands: *Get job status*, ``GET /jobs/{Id}/status``.

    :param job_id: the job's id.
    """
    return Call(
        subject=f"the status of job {job_id!r}",
        path=f"/jobs/{quote(job_id, safe='')}/status",
        read=lambda body, _: _read_report(job_id, body),
        missing=_NO_SUCH_JOB,
    )


def job(job_id: str) -> Call[Job]:
    """
    Ask for a job with what it was submitted with: ``GET /jobs/{Id}``.

    :param job_id: the job's id.
    """
    return Call(
        subject=f"job {job_id!r}",
        path=f"/jobs/{quote(job_id, safe='')}",
        read=lambda body, _: _read_job(job_id, body),
        missing=_NO_SUCH_JOB,
    )


def job_errors(job_id: str) -> Call[JobErrors]:
    """
    Ask why a job failed: ``GET /jobs/{Id}/errors``.

    :param job_id: the job's id.
    """
    return Call(
        subject=f"the errors of job {job_id!r}",
        path=f"/jobs/{quote(job_id, safe='')}/errors",
        read=lambda body, scrub: _read_errors(job_id, body, scrub),
        missing=_NO_SUCH_JOB,
    )


def job_metadata(job_id: str) -> Call[JobMetadata]:
    """
    Ask where the result of a completed job lies: ``GET /jobs/{Id}/metadata``.

    :param job_id: the job's id.
    """
    return Call(
        subject=f"the place of the result of job {job_id!r}",
        path=f"/jobs/{quote(job_id, safe='')}/metadata",
        read=lambda body, scrub: _read_metadata(job_id, body, scrub),
        missing=f"It is known once the job is completed; a job that failed has none. {_NO_SUCH_JOB}",
    )


def list_jobs(**query: Any) -> Call[list[Job]]:
    """Ask for one page of the account's jobs: ``GET /jobs``. It takes what :func:`list_states` does."""
    return _list(query, lambda body, _: [_job(record) for record in _records(body, _JobBody)])


def list_states(**query: Any) -> Call[list[JobState]]:
    """
    Ask for one page of the account's jobs, and read no more of them than where they stand: ``GET /jobs``.

    :param status: only jobs of this status. Default: all.
    :param batch: only jobs of this batch. Default: all. The filter may let others through.
    :param name: only jobs of this name. Default: all. The filter may let others through.
    :param newest_first: whether the newest comes first. Default: True, so that a job that begins meanwhile
        moves others to where they are seen twice, and not to where they are missed.
    :param page_number: which page, from 1.
    :param page_size: how many jobs at most, 1 to 100. A page with fewer is the last one.
    """
    return _list(query, lambda body, _: [_state(record) for record in _records(body, _StateBody)])


def list_batch(batch: str, *, status: JobStatus | None = None, page_number: int = 1) -> Call[list[JobState]]:
    """
    Ask for one page of a batch, oldest first: a job that begins meanwhile moves no other.

    Unlike in other lists, a status that nobody knows is an error: there is no way to tell whether that job is over.

    :param batch: the batch. The filter may let other jobs through.
    :param status: only jobs of this status. Default: all.
    :param page_number: which page, from 1.
    """
    query = {"batch": batch, "status": status, "page_number": page_number, "newest_first": False}
    return _list(query, lambda body, _: _read_batch(batch, body))


def submit_job(submission: Submission) -> Call[Job]:
    """
    Submit a job: ``POST /jobs``. The same call twice makes two jobs.

    :param submission: what to analyse, how, and where to put the result.
    """
    origin, target = submission.source, submission.destination
    source = {
        "Bucket": origin.bucket,
        "ObjectKey": origin.object_key,
        "Region": origin.region,
        "Endpoint": origin.endpoint,
        "AccessKey": submission.source_access_key,
        "SecretKey": submission.source_secret_key,
    }
    content = {
        "Name": submission.name,
        "Services": submission.services,
        "Source": _without_none(source),
        "Destination": _without_none({"Bucket": target.bucket, "Region": target.region}),
        "Priority": submission.priority,
        "Batch": submission.batch,
    }
    return Call(
        subject=f"a new job {submission.name!r}",
        path="/jobs",
        read=lambda body, _: _job(msgspec.json.decode(body, type=_SubmittedBody).Job),
        missing=_NO_SUCH_API,
        # With what the services were checked with: msgspec can't encode all that it can.
        body=json.dumps(_without_none(content), allow_nan=False).encode(),
        policy="WasabiManageAiR",
        secrets=tuple(filter(None, (submission.source_access_key, submission.source_secret_key))),
    )


def headers(settings: Settings, call: Call[Any]) -> dict[str, str]:
    """Return the headers of a request: the keys, as the API wants them, what is sent and what is accepted."""
    return {
        **({} if call.body is None else {"Content-Type": "application/json"}),
        "x-amz-access-key": settings.access_key,
        "x-amz-secret-key": settings.secret_key,
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": f"airflow-wasabi-jobs/{__version__}",
    }


_NO_SUCH_JOB = "Check the job id, and that the job was submitted with the account of this connection."
_NO_SUCH_API = "This is not the address of an AiR Jobs API: check the host, and the path behind it."


def _list(query: dict[str, Any], read: Callable[[bytes, Scrub], list[T]]) -> Call[list[T]]:
    # A space as %20: not everything that reads a query takes a plus for one.
    path = f"/jobs?{urlencode(_query(**query), quote_via=quote)}"
    return Call(subject="a list of jobs", path=path, read=read, missing=_NO_SUCH_API)


def _query(
    *,
    status: JobStatus | None = None,
    batch: str | None = None,
    name: str | None = None,
    newest_first: bool = True,
    page_number: int = 1,
    page_size: int = LONGEST_PAGE,
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


class _ReportBody(msgspec.Struct):
    Status: str
    Id: str | int | None = None
    ErrorCount: int | None = 0


class _ErrorsBody(_ReportBody):
    ErrorCode: str | None = None


class _PlaceBody(msgspec.Struct):
    Bucket: str | None = None
    Region: str | None = None


class _MetadataBody(msgspec.Struct):
    DestinationPath: str
    Destination: _PlaceBody | None = None
    Id: str | int | None = None
    UserId: str | None = None


class _SourceBody(_PlaceBody):
    ObjectKey: str | None = None
    Endpoint: str | None = None
    Provider: str | None = None


class _StateBody(msgspec.Struct):
    Id: str | int
    Status: str
    Name: str | None = None
    Batch: str | None = None


class _JobBody(_StateBody):
    Source: _SourceBody | None = None
    Services: dict[str, Any] | None = None
    UserId: str | None = None
    Created: datetime | None = None
    Completed: datetime | None = None
    Priority: int | None = None
    Destination: _PlaceBody | None = None


class _SubmittedBody(msgspec.Struct):
    Job: _JobBody


class _ListBody(msgspec.Struct, Generic[T]):
    Records: list[T]


def _read_report(job_id: str, body: bytes) -> JobReport:
    report = msgspec.json.decode(body, type=_ReportBody)
    _check_id(job_id, report.Id)
    return JobReport(job_id=job_id, status=_status(report.Status), error_count=_count(report.ErrorCount))


def _read_errors(job_id: str, body: bytes, scrub: Scrub) -> JobErrors:
    report = msgspec.json.decode(body, type=_ErrorsBody)
    _check_id(job_id, report.Id)
    return JobErrors(
        job_id=job_id,
        status=_status(report.Status),
        error_count=_count(report.ErrorCount),
        error_code=legible(scrub(report.ErrorCode or "")) or None,
    )


def _read_metadata(job_id: str, body: bytes, scrub: Scrub) -> JobMetadata:
    metadata = msgspec.json.decode(body, type=_MetadataBody)
    _check_id(job_id, metadata.Id)
    path = metadata.DestinationPath
    # It goes into an XCom, whole: no key may, and no control character can.
    is_place = path.startswith("s3://") and path.removeprefix("s3://").strip()
    if not is_place or scrub(path) != path or any(char < " " for char in path):
        raise ValueError("its DestinationPath is no path")
    return JobMetadata(
        job_id=job_id,
        path=path,
        destination=_destination(metadata.Destination),
        user_id=metadata.UserId,
    )


def _read_job(job_id: str, body: bytes) -> Job:
    record = msgspec.json.decode(body, type=_JobBody)
    _check_id(job_id, record.Id)
    _status(record.Status)
    return _job(record)


def _records(body: bytes, kind: type[T]) -> list[T]:
    return msgspec.json.decode(body, type=_ListBody[kind]).Records  # type: ignore[valid-type] # made at run time


def _state(record: _StateBody) -> JobState:
    return JobState(
        job_id=checked_id(record.Id), status=_KNOWN.get(record.Status), name=record.Name, batch=record.Batch
    )


def _read_batch(batch: str, body: bytes) -> list[JobState]:
    jobs = [_state(record) for record in _records(body, _StateBody)]
    if any(job.status is None for job in jobs if job.batch == batch):
        raise ValueError("the Status of one of its jobs is none that is known")
    return jobs


def _job(record: _JobBody) -> Job:
    source = record.Source or _SourceBody()
    return Job(
        job_id=checked_id(record.Id),
        status=_KNOWN.get(record.Status),
        name=record.Name,
        source=Source(
            bucket=source.Bucket,
            object_key=source.ObjectKey,
            region=source.Region,
            endpoint=source.Endpoint,
            provider=source.Provider,
        ),
        services=record.Services,
        destination=_destination(record.Destination),
        priority=record.Priority,
        batch=record.Batch,
        user_id=record.UserId,
        created=record.Created,
        completed=record.Completed,
    )


def _destination(place: _PlaceBody | None) -> Destination:
    return Destination(bucket=place.Bucket, region=place.Region) if place else Destination()


def _check_id(asked: str, told: str | int | None) -> None:
    if told is not None and str(told) != asked:
        raise ValueError("its Id is that of another job")


def _status(told: str) -> JobStatus:
    status = _KNOWN.get(told)
    if status is None:
        raise ValueError("its Status is none that is known")
    return status


def _count(told: int | None) -> int:
    if told is not None and told < 0:
        raise ValueError("its ErrorCount is negative")
    return told or 0


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


_KNOWN = {status.value: status for status in JobStatus}
