"""The JSON bodies of the API's responses, and how they become models."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from airflow_wasabi_jobs.api.ids import validate_id
from airflow_wasabi_jobs.api.models import (
    Destination,
    Job,
    JobErrors,
    JobMetadata,
    JobReport,
    JobStatus,
    JobSummary,
    Source,
)
from airflow_wasabi_jobs.api.redaction import excerpt

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints.request import Redact

T = TypeVar("T")


class _StatusBody(msgspec.Struct):
    Status: str
    Id: str | int | None = None
    ErrorCount: int | None = 0


class _ErrorsBody(_StatusBody):
    ErrorCode: str | None = None


class _DestinationBody(msgspec.Struct):
    Bucket: str | None = None
    Region: str | None = None


class _MetadataBody(msgspec.Struct):
    DestinationPath: str
    Destination: _DestinationBody | None = None
    Id: str | int | None = None
    UserId: str | None = None


class _SourceBody(msgspec.Struct):
    Bucket: str | None = None
    ObjectKey: str | None = None
    Region: str | None = None
    Endpoint: str | None = None
    Provider: str | None = None


class _SummaryBody(msgspec.Struct):
    Id: str | int
    Status: str
    Name: str | None = None
    Batch: str | None = None


class _BatchJobBody(_SummaryBody):
    Source: _SourceBody | None = None


class _JobBody(_BatchJobBody):
    Services: dict[str, Any] | None = None
    UserId: str | None = None
    Created: datetime | None = None
    Completed: datetime | None = None
    Priority: int | None = None
    Destination: _DestinationBody | None = None


class _SubmittedBody(msgspec.Struct):
    Job: _JobBody


class _ListBody(msgspec.Struct, Generic[T]):
    Records: list[T]


def parse_status(job_id: str, body: bytes) -> JobReport:
    """Parse the response of ``GET /jobs/{Id}/status``."""
    report = msgspec.json.decode(body, type=_StatusBody)
    _check_id(job_id, report.Id)
    return JobReport(
        job_id=job_id, status=_parse_job_status(report.Status), error_count=_parse_error_count(report.ErrorCount)
    )


def parse_errors(job_id: str, body: bytes, redact: Redact) -> JobErrors:
    """Parse the response of ``GET /jobs/{Id}/errors``."""
    report = msgspec.json.decode(body, type=_ErrorsBody)
    _check_id(job_id, report.Id)
    return JobErrors(
        job_id=job_id,
        status=_parse_job_status(report.Status),
        error_count=_parse_error_count(report.ErrorCount),
        error_code=excerpt(redact(report.ErrorCode or "")) or None,
    )


def parse_metadata(job_id: str, body: bytes, redact: Redact) -> JobMetadata:
    """Parse the response of ``GET /jobs/{Id}/metadata``."""
    metadata = msgspec.json.decode(body, type=_MetadataBody)
    _check_id(job_id, metadata.Id)
    path = metadata.DestinationPath
    # It is pushed to an XCom as it is, so it must hold neither a key nor a control character.
    if (
        not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://\s*\S", path)
        or redact(path) != path
        or re.search(r"[\x00-\x1f]", path)
    ):
        raise ValueError("its DestinationPath is not an absolute URL")
    return JobMetadata(
        job_id=job_id,
        path=path,
        destination=_to_destination(metadata.Destination),
        user_id=metadata.UserId,
    )


def parse_job(job_id: str, body: bytes) -> Job:
    """Parse the response of ``GET /jobs/{Id}``."""
    record = msgspec.json.decode(body, type=_JobBody)
    _check_id(job_id, record.Id)
    # Unlike in a list, an unknown status is an error.
    _parse_job_status(record.Status)
    return _to_job(record)


def parse_submitted(body: bytes) -> Job:
    """Parse the response of ``POST /jobs``."""
    return _to_job(msgspec.json.decode(body, type=_SubmittedBody).Job)


def parse_job_list(body: bytes) -> list[Job]:
    """Parse the response of ``GET /jobs``."""
    return [_to_job(record) for record in _decode_records(body, _JobBody)]


def parse_summaries(body: bytes) -> list[JobSummary]:
    """Parse no more of the response of ``GET /jobs`` than a poll needs."""
    return [_to_summary(record) for record in _decode_records(body, _SummaryBody)]


def parse_batch(batch: str, body: bytes) -> list[JobSummary]:
    """Parse the jobs of a batch in the response of ``GET /jobs``. The filter of the API may let other jobs through."""
    jobs = [
        msgspec.structs.replace(_to_summary(record), source=_to_url(record.Source))
        for record in _decode_records(body, _BatchJobBody)
    ]
    if any(job.status is None for job in jobs if job.batch == batch):
        raise ValueError("the Status of one of its jobs is unknown")
    return jobs


def _decode_records(body: bytes, record_type: type[T]) -> list[T]:
    return msgspec.json.decode(body, type=_ListBody[record_type]).Records  # type: ignore[valid-type] # made at run time


def _to_summary(record: _SummaryBody) -> JobSummary:
    return JobSummary(
        job_id=validate_id(record.Id), status=_STATUSES.get(record.Status), name=record.Name, batch=record.Batch
    )


def _to_job(record: _JobBody) -> Job:
    source = record.Source or _SourceBody()
    return Job(
        job_id=validate_id(record.Id),
        status=_STATUSES.get(record.Status),
        name=record.Name,
        source=Source(
            bucket=source.Bucket,
            object_key=source.ObjectKey,
            region=source.Region,
            endpoint=source.Endpoint,
            provider=source.Provider,
        ),
        services=record.Services,
        destination=_to_destination(record.Destination),
        priority=record.Priority,
        batch=record.Batch,
        user_id=record.UserId,
        created=_to_utc(record.Created),
        completed=_to_utc(record.Completed),
    )


def _to_utc(at: datetime | None) -> datetime | None:
    """Return a time with its zone, so that times can be compared. The API documents UTC."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _to_url(source: _SourceBody | None) -> str | None:
    return f"s3://{source.Bucket}/{source.ObjectKey}" if source and source.Bucket and source.ObjectKey else None


def _to_destination(body: _DestinationBody | None) -> Destination:
    return Destination(bucket=body.Bucket, region=body.Region) if body else Destination()


def _check_id(requested: str, returned: str | int | None) -> None:
    if returned is not None and str(returned) != requested:
        raise ValueError("its Id is that of another job")


def _parse_job_status(value: str) -> JobStatus:
    status = _STATUSES.get(value)
    if status is None:
        raise ValueError("its Status is unknown")
    return status


def _parse_error_count(value: int | None) -> int:
    if value is not None and value < 0:
        raise ValueError("its ErrorCount is negative")
    return value or 0


_STATUSES = {status.value: status for status in JobStatus}
