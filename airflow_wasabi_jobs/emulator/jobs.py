"""The emulated jobs: how their statuses change over time, and how their names control that."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from airflow_wasabi_jobs.api.models import JobStatus

# How many seconds a job takes at speed 1, and when it reaches the statuses before the last. A shorter job reaches them
# proportionally earlier.
JOB_SECONDS = 5.0
PREFLIGHT_AT_SECONDS, IN_PROGRESS_AT_SECONDS = 1.0, 2.0


class Outcome(msgspec.Struct, frozen=True):
    """
    How a job ends.

    :param status: the terminal status.
    :param error_count: the final error count.
    :param seconds: how long the job takes at speed 1.
    :param is_first_only: whether only the first job of that name or file ends so. Later ones complete.
    """

    status: JobStatus = JobStatus.COMPLETED
    error_count: int = 0
    seconds: float = JOB_SECONDS
    is_first_only: bool = False

    @classmethod
    def from_name(cls, name: str) -> Outcome | None:
        """Return the outcome that a job's name, its id or its file stands for, or None."""
        keyword, errors, seconds = _KEYWORD.match(name), _ERRORS.search(name), _SECONDS.search(name)
        if not (keyword or errors or seconds):
            return None
        status = _TERMINAL_STATUSES[keyword[1]] if keyword else JobStatus.COMPLETED
        default_errors = 1 if status is JobStatus.FAILED else 0
        return cls(
            status,
            error_count=int(errors[1]) if errors else default_errors,
            seconds=float(seconds[1]) if seconds else JOB_SECONDS,
            is_first_only=keyword is not None and keyword[1] == "fails-once",
        )


# A letter may not follow, so that a file such as failsafe.mp4 completes.
_KEYWORD = re.compile(r"(completes|fails-once|fails|cancels)(?![A-Za-z])")
_ERRORS = re.compile(r"(?<![A-Za-z0-9])with-(\d{1,9})-errors?(?![A-Za-z0-9])")
_SECONDS = re.compile(r"(?<![A-Za-z0-9])after-(\d{1,9})-seconds?(?![A-Za-z0-9])")
_TERMINAL_STATUSES = {
    "completes": JobStatus.COMPLETED,
    "fails": JobStatus.FAILED,
    "fails-once": JobStatus.FAILED,
    "cancels": JobStatus.CANCELLED,
}
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"\S")]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Source(msgspec.Struct, rename="pascal", omit_defaults=True):
    """The location of the media file. Its keys are accepted, and not kept."""

    bucket: _Text
    object_key: _Text
    endpoint: str | None = None
    region: str | None = None
    provider: str | None = None
    access_key: str | None = None
    secret_key: str | None = None

    def __post_init__(self) -> None:
        self.access_key = self.secret_key = None

    @property
    def file(self) -> tuple[str, str]:
        """The bucket and the key."""
        return self.bucket, self.object_key


class Destination(msgspec.Struct, rename="pascal"):
    """The bucket for the result."""

    bucket: _Text
    region: _Text


class ServiceConfig(msgspec.Struct):
    """The settings of a service."""

    config: dict[str, Any]


class Definition(msgspec.Struct, rename="pascal", omit_defaults=True):
    """The body of ``POST /jobs``. Services are not restricted, because the documented list is an example."""

    name: _Name
    services: Annotated[dict[_Text, Literal[""] | ServiceConfig], msgspec.Meta(min_length=1)]
    source: Source
    destination: Destination
    priority: Annotated[int, msgspec.Meta(ge=1, le=10)] | None = None
    batch: Annotated[str, msgspec.Meta(max_length=256)] | None = None

    @classmethod
    def with_name(cls, name: str) -> Definition:
        """Return a definition for a job that was not submitted."""
        return cls(
            name=name[:256],
            services={"ocr": ""},
            source=Source(bucket="emulated-media", object_key=f"{name}.mp4"),
            destination=Destination(bucket="emulated-results", region="us-east-1"),
        )


class EmulatedJob(msgspec.Struct, frozen=True):
    """
    One job. Its status is computed from the time.

    :param job_id: the job's id.
    :param definition: what it was submitted with.
    :param outcome: how it ends.
    :param created_at: when it was submitted, in seconds since the epoch.
    :param speed: how many times faster than at speed 1 it runs.
    """

    job_id: str
    definition: Definition
    outcome: Outcome
    created_at: float
    speed: float

    def status(self, now: float) -> JobStatus:
        """Return the status at that time."""
        age = (now - self.created_at) * self.speed
        factor = min(1.0, self.outcome.seconds / JOB_SECONDS)
        if age >= self.outcome.seconds:
            return self.outcome.status
        if age >= IN_PROGRESS_AT_SECONDS * factor:
            return JobStatus.IN_PROGRESS
        return JobStatus.PREFLIGHT if age >= PREFLIGHT_AT_SECONDS * factor else JobStatus.SUBMITTED

    def error_count(self, now: float) -> int:
        """Return the error count at that time: 0 until the job has finished."""
        return self.outcome.error_count if self.status(now).is_terminal else 0

    def has_result(self, now: float, after_seconds: float = 0.0) -> bool:
        """Whether the location of the result is available: so many seconds, at speed 1, after the job has completed."""
        age = (now - self.created_at) * self.speed
        return self.outcome.status is JobStatus.COMPLETED and age >= self.outcome.seconds + after_seconds

    def list_record(self, now: float) -> dict[str, Any]:
        """Return the job as lists show it."""
        body: dict[str, Any] = msgspec.to_builtins(self.definition)
        del body["Services"]
        return {
            "Id": self.job_id,
            **body,
            "UserId": "arn:aws:iam::000000000000:user/emulator",
            "Created": _rfc3339(self.created_at),
            "Status": self.status(now).value,
            **(
                {"Completed": _rfc3339(self.created_at + self.outcome.seconds / self.speed)}
                if self.status(now).is_terminal
                else {}
            ),
        }

    def record(self, now: float) -> dict[str, Any]:
        """Return the job as ``GET /jobs/{Id}`` shows it."""
        return {**self.list_record(now), "Services": msgspec.to_builtins(self.definition.services)}

    def result_path(self, root: str = "s3://") -> str:
        """Return the location of the result: the bucket is the first part of the path below the root."""
        day = datetime.fromtimestamp(self.created_at, UTC).strftime("%Y_%m_%d")
        name = PurePosixPath(self.definition.source.object_key).stem
        return f"{root}{self.definition.destination.bucket}/jobs/{day}/{self.job_id}/{name}_metadata.json"


class EmulatedJobs:
    """
    All the jobs of the emulated account, oldest first.

    :param clock: returns the time in seconds since the epoch.
    :param speed: how many times faster than at speed 1 jobs run.
    """

    def __init__(self, clock: Callable[[], float], speed: float) -> None:
        self._clock = clock
        self._speed = speed
        self._jobs: dict[str, EmulatedJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[EmulatedJob]:
        return iter(self._jobs.values())

    def __reversed__(self) -> Iterator[EmulatedJob]:
        return reversed(self._jobs.values())

    def names(self) -> list[str]:
        """Return the names of all jobs. It may be called in any thread."""
        # A copy first, because another thread may create a job meanwhile.
        return [job.definition.name for job in list(self._jobs.values())]

    def find(self, job_id: str) -> EmulatedJob | None:
        """Return the job with that id, or None."""
        return self._jobs.get(job_id)

    def find_or_create(self, job_id: str) -> EmulatedJob | None:
        """Return the job with that id. If there is none and its id stands for an outcome, create it."""
        if job_id not in self._jobs and (outcome := Outcome.from_name(job_id)):
            return self._create(job_id, Definition.with_name(job_id), outcome)
        return self.find(job_id)

    def submit(self, definition: Definition) -> EmulatedJob:
        """Create a job. Its name controls its outcome, otherwise its file name. A job without any keyword completes."""
        return self._create(uuid.uuid4().hex, definition, self._choose_outcome(definition))

    def _choose_outcome(self, definition: Definition) -> Outcome:
        if outcome := Outcome.from_name(definition.name):
            is_repeated = outcome.is_first_only and definition.name in self.names()
        elif outcome := Outcome.from_name(PurePosixPath(definition.source.object_key).name):
            is_repeated = outcome.is_first_only and definition.source.file in [
                job.definition.source.file for job in self
            ]
        else:
            return Outcome()
        return Outcome(seconds=outcome.seconds) if is_repeated else outcome

    def _create(self, job_id: str, definition: Definition, outcome: Outcome) -> EmulatedJob:
        self._jobs[job_id] = EmulatedJob(job_id, definition, outcome, self._clock(), self._speed)
        return self._jobs[job_id]


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
