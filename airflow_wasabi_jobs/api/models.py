"""What the AiR Jobs API speaks of."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class JobStatus(StrEnum):
    """
    Where a job stands: ``submitted`` → ``preflight`` → ``in_progress``, then one of the three final ones.

    The values are those of the documentation of *Get job status*, written as the API writes them.
    """

    SUBMITTED = "submitted"
    PREFLIGHT = "preflight"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job is over: a final status never changes again."""
        return self in _FINAL


_FINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class JobReport(msgspec.Struct, frozen=True):
    """
    The answer to a status call.

    :param job_id: the job's id.
    :param status: where the job stands.
    :param error_count: how many errors the analysis met so far. A ``completed`` job may have some.
    """

    job_id: str
    status: JobStatus
    error_count: int = 0

    def is_completed_within(self, max_error_count: int | None) -> bool:
        """Whether the job completed, with at most so many errors, or any number of them."""
        return self.status is JobStatus.COMPLETED and (max_error_count is None or self.error_count <= max_error_count)

    def as_xcom(self) -> dict[str, Any]:
        """Return the report as a plain dict, for an XCom or an event."""
        return {"job_id": self.job_id, "status": self.status.value, "error_count": self.error_count}


class JobErrors(msgspec.Struct, frozen=True):
    """
    What went wrong with a job.

    :param job_id: the job's id.
    :param status: where the job stands.
    :param error_count: how many errors the analysis met so far.
    :param error_code: why the job failed, such as ``INTERNAL_ERROR``, if the API says so.
    """

    job_id: str
    status: JobStatus
    error_count: int = 0
    error_code: str | None = None


class Source(msgspec.Struct, frozen=True):
    """
    Where the media file lies.

    :param bucket: the bucket.
    :param object_key: the file's key in the bucket.
    :param region: the bucket's region.
    :param endpoint: the URL of the storage service.
    :param provider: who runs the storage service.
    """

    bucket: str | None = None
    object_key: str | None = None
    region: str | None = None
    endpoint: str | None = None
    provider: str | None = None


class Destination(msgspec.Struct, frozen=True):
    """
    Where the result goes.

    :param bucket: the bucket.
    :param region: the bucket's region.
    """

    bucket: str | None = None
    region: str | None = None


class JobMetadata(msgspec.Struct, frozen=True):
    """
    Where the result of a job lies.

    :param job_id: the job's id.
    :param path: the URL of the metadata file, ``s3://…_metadata.json``.
    :param destination: the bucket and its region.
    :param user_id: whose job it is.
    """

    job_id: str
    path: str
    destination: Destination = Destination()
    user_id: str | None = None

    def as_xcom(self) -> dict[str, Any]:
        """Return the place as a plain dict, for an XCom."""
        return {
            "metadata_path": self.path,
            "destination": {"bucket": self.destination.bucket, "region": self.destination.region},
        }


class JobState(msgspec.Struct, frozen=True):
    """
    What a wait has to know of a job in a list.

    :param job_id: the job's id.
    :param status: where the job stands, or None if the list says what nobody knows. It may be out of
        date: a list is a hint, and only the job's own report counts.
    :param name: the job's name.
    :param batch: the batch that the job belongs to.
    """

    job_id: str
    status: JobStatus | None
    name: str | None = None
    batch: str | None = None


class Job(msgspec.Struct, frozen=True):
    """
    A job with what it was submitted with. Any field but the id may be absent.

    :param job_id: the job's id.
    :param status: where the job stands, or None if a list says what nobody knows.
    :param name: the job's name.
    :param source: where the media file lies.
    :param services: what analyses the file. Lists leave it out.
    :param destination: where the result goes.
    :param priority: 1 to 10.
    :param batch: the batch that the job belongs to.
    :param user_id: whose job it is.
    :param created: when the job was submitted.
    :param completed: when the job was over.
    """

    job_id: str
    status: JobStatus | None
    name: str | None = None
    source: Source = Source()
    services: dict[str, Any] | None = None
    destination: Destination = Destination()
    priority: int | None = None
    batch: str | None = None
    user_id: str | None = None
    created: datetime | None = None
    completed: datetime | None = None


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """
    What to submit a job with, checked by :mod:`airflow_wasabi_jobs.api.submissions`.

    :param name: the job's name.
    :param source: where the media file lies.
    :param destination: where the result goes.
    :param services: what analyses the file: for each service ``""`` or ``{"config": {…}}``.
    :param priority: 1 to 10.
    :param batch: the batch that the job belongs to.
    :param source_access_key: the access key of a source outside Wasabi.
    :param source_secret_key: the secret key of a source outside Wasabi.
    """

    name: str
    source: Source
    destination: Destination
    services: dict[str, Any]
    priority: int | None = None
    batch: str | None = None
    source_access_key: str | None = None
    source_secret_key: str | None = None

    def __repr__(self) -> str:
        return f"Submission({self.name!r})"

    def __rich_repr__(self) -> list[Any]:
        return [self.name]
