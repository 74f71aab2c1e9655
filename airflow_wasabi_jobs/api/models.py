"""The data of the AiR Jobs API."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, NoReturn

import msgspec

DEFAULT_PRIORITY = 5


class JobStatus(StrEnum):
    """
    The status of a job: ``submitted``, ``preflight`` and ``in_progress``, then one of three terminal statuses.

    The values are those that *Get job status* documents.
    """

    SUBMITTED = "submitted"
    PREFLIGHT = "preflight"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has finished: a terminal status does not change any more."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


def refuse_serialization(model: object) -> NoReturn:
    """
    Say what a task returns instead of a model. Airflow calls ``serialize`` for each XCom of a foreign class.

    With a ``serialize`` that returns data, the task would succeed, and the next one could not read the XCom: Airflow
    imports only the classes in ``[core] allowed_deserialization_classes``.
    """
    raise TypeError(
        f"A {type(model).__name__} cannot be an XCom. Return a dict instead, such as that of its to_xcom()."
    )


class JobReport(msgspec.Struct, frozen=True):
    """
    The status of a job, as *Get job status* returns it.

    :param job_id: the job's id.
    :param status: the status.
    :param error_count: how many errors the analysis has had so far. A ``completed`` job may have some. Default: 0.
    """

    job_id: str
    status: JobStatus
    error_count: int = 0

    serialize = refuse_serialization

    def has_succeeded(self, max_error_count: int | None) -> bool:
        """Whether the job completed with at most ``max_error_count`` errors, or with any number if that is None."""
        return self.status is JobStatus.COMPLETED and (max_error_count is None or self.error_count <= max_error_count)

    def to_xcom(self) -> dict[str, Any]:
        """Return the report as a plain dict, for an XCom or an event."""
        return {"job_id": self.job_id, "status": self.status.value, "error_count": self.error_count}


class JobErrors(msgspec.Struct, frozen=True):
    """
    The errors of a job.

    :param job_id: the job's id.
    :param status: the status.
    :param error_count: how many errors the analysis has had so far. Default: 0.
    :param error_code: the code of the failure, such as ``INTERNAL_ERROR``. Default: None, if the API names none.
    """

    job_id: str
    status: JobStatus
    error_count: int = 0
    error_code: str | None = None

    serialize = refuse_serialization

    def to_xcom(self) -> dict[str, Any]:
        """Return the errors as a plain dict, for an XCom."""
        return {
            "job_id": self.job_id,
            "status": self.status.value,
            "error_count": self.error_count,
            "error_code": self.error_code,
        }


class Source(msgspec.Struct, frozen=True):
    """
    The location of a media file.

    :param bucket: the bucket.
    :param object_key: the key of the file in the bucket.
    :param region: the region of the bucket.
    :param endpoint: the endpoint of the storage service, with or without a scheme.
    :param provider: the provider of the storage service.
    """

    bucket: str | None = None
    object_key: str | None = None
    region: str | None = None
    endpoint: str | None = None
    provider: str | None = None

    @property
    def url(self) -> str:
        """The URL of the file, such as ``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.object_key}"


class Destination(msgspec.Struct, frozen=True):
    """
    The bucket for the result.

    :param bucket: the bucket.
    :param region: the region of the bucket.
    """

    bucket: str | None = None
    region: str | None = None


class JobMetadata(msgspec.Struct, frozen=True):
    """
    The location of the result of a job.

    :param job_id: the job's id.
    :param path: the URL of the metadata file, such as ``s3://…_metadata.json``.
    :param destination: the bucket and its region.
    :param user_id: the user who submitted the job.
    """

    job_id: str
    path: str
    destination: Destination = Destination()
    user_id: str | None = None

    serialize = refuse_serialization

    def to_xcom(self) -> dict[str, Any]:
        """Return the location as a plain dict, for an XCom."""
        return {
            "metadata_path": self.path,
            "destination": {"bucket": self.destination.bucket, "region": self.destination.region},
        }


class JobSummary(msgspec.Struct, frozen=True):
    """
    What a poll needs of a job in a list.

    :param job_id: the job's id.
    :param status: the status, or None if it is unknown. A list may be out of date: only the status endpoint
        decides whether a job has finished.
    :param name: the job's name.
    :param batch: the batch of the job.
    :param source: the URL of the media file, ``s3://bucket/key``. Only lists of a batch have it.
    """

    job_id: str
    status: JobStatus | None
    name: str | None = None
    batch: str | None = None
    source: str | None = None


class Job(msgspec.Struct, frozen=True):
    """
    A job with what it was submitted with. Any field but ``job_id`` may be None.

    :param job_id: the job's id.
    :param status: the status, or None if it is unknown.
    :param name: the job's name.
    :param source: the location of the media file.
    :param services: the services that analyse the file. Lists omit them.
    :param destination: the bucket for the result.
    :param priority: 1 to 10.
    :param batch: the batch of the job.
    :param user_id: the user who submitted the job.
    :param created: when the job was submitted.
    :param completed: when the job finished.
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

    serialize = refuse_serialization

    def to_xcom(self) -> dict[str, Any]:
        """Return the job as a plain dict, for an XCom. Its times are in ISO format."""
        xcom: dict[str, Any] = msgspec.to_builtins(self)
        return xcom


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """
    A job to submit. :meth:`~airflow_wasabi_jobs.hooks.WasabiJobsHook.build_submission` validates it.

    :param name: the job's name.
    :param source: the location of the media file.
    :param destination: the bucket for the result.
    :param services: the services that analyse the file: for each of them ``""`` or ``{"config": {…}}``.
    :param priority: 1 to 10. Default: 5.
    :param batch: the batch of the job.
    :param source_access_key: the access key of a source outside Wasabi.
    :param source_secret_key: the secret key of a source outside Wasabi.
    """

    name: str
    source: Source
    destination: Destination
    services: dict[str, Any]
    priority: int = DEFAULT_PRIORITY
    batch: str | None = None
    source_access_key: str | None = None
    source_secret_key: str | None = None

    def __repr__(self) -> str:
        return f"Submission({self.name!r})"

    def __rich_repr__(self) -> list[Any]:
        return [self.name]
