"""The emulated jobs: what time makes of them, and how their names steer it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from airflow_wasabi_jobs.api.models import JobStatus

# How many seconds a job takes at speed 1, and after how many it reaches the statuses before the last: sooner, if it
# is shorter, and no later, if it is longer.
SECONDS = 5.0
PREFLIGHT_AT, IN_PROGRESS_AT = 1.0, 2.0


class Fate(msgspec.Struct, frozen=True):
    """What becomes of a job: its last status, how many errors it has by then, and how many seconds it takes."""

    status: JobStatus
    error_count: int = 0
    seconds: float = SECONDS

    @classmethod
    def of(cls, name: str) -> Fate | None:
        """Read a job's fate from the beginning of its name or id, as from a test card's number."""
        told = re.match(r"(completes|fails|cancels)(?:-with-(\d{1,9})-errors?)?(?:-after-(\d{1,9})-seconds)?", name)
        if told is None:
            return None
        status, errors, seconds = told.groups()
        usual = 1 if status == "fails" else 0
        return cls(
            _ENDS[status],
            error_count=usual if errors is None else int(errors),
            seconds=SECONDS if seconds is None else float(seconds),
        )


_ENDS = {"completes": JobStatus.COMPLETED, "fails": JobStatus.FAILED, "cancels": JobStatus.CANCELLED}
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"\S")]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Source(msgspec.Struct, rename="pascal", omit_defaults=True):
    """Where the media file lies. Its keys are taken in, and never given out."""

    bucket: _Text
    object_key: _Text
    endpoint: str | None = None
    region: str | None = None
    provider: str | None = None
    access_key: str | None = None
    secret_key: str | None = None

    def __post_init__(self) -> None:
        self.access_key = self.secret_key = None


class Destination(msgspec.Struct, rename="pascal"):
    """Where the result goes."""

    bucket: _Text
    region: _Text


class ServiceConfig(msgspec.Struct):
    """A service with settings of its own."""

    config: dict[str, Any]


class Definition(msgspec.Struct, rename="pascal", omit_defaults=True):
    """What a job is submitted with: the body of ``POST /jobs``."""

    name: _Name
    services: Annotated[
        dict[Literal["ocr", "s2t", "nld", "audiotag", "face", "logo"], Literal[""] | ServiceConfig],
        msgspec.Meta(min_length=1),
    ]
    source: Source
    destination: Destination
    priority: Annotated[int, msgspec.Meta(ge=1, le=10)] | None = None
    batch: Annotated[str, msgspec.Meta(max_length=256)] | None = None

    @classmethod
    def named(cls, name: str) -> Definition:
        """Make up a definition for a job that nobody submitted."""
        return cls(
            name=name[:256],
            services={"ocr": ""},
            source=Source(bucket="emulated-media", object_key=f"{name}.mp4"),
            destination=Destination(bucket="emulated-results", region="us-east-1"),
        )


class EmulatedJob(msgspec.Struct, frozen=True):
    """
    One job. Its status is not kept but follows from the time.

    :param job_id: the job's id.
    :param definition: what it was submitted with.
    :param fate: what becomes of it.
    :param born: when it was submitted, in seconds since the epoch.
    :param speed: how many times faster than usual it runs.
    """

    job_id: str
    definition: Definition
    fate: Fate
    born: float
    speed: float

    def status(self, now: float) -> JobStatus:
        """Return where the job stands at that time."""
        age = (now - self.born) * self.speed
        pace = min(1.0, self.fate.seconds / SECONDS)
        if age >= self.fate.seconds:
            return self.fate.status
        if age >= IN_PROGRESS_AT * pace:
            return JobStatus.IN_PROGRESS
        return JobStatus.PREFLIGHT if age >= PREFLIGHT_AT * pace else JobStatus.SUBMITTED

    def error_count(self, now: float) -> int:
        """Return how many errors the job has had by then: they come at the end."""
        return self.fate.error_count if self.status(now).is_final else 0

    def has_result(self, now: float, after_seconds: float = 0.0) -> bool:
        """Whether the place of the job's result is known: so many seconds, at speed 1, after it completed."""
        age = (now - self.born) * self.speed
        return self.fate.status is JobStatus.COMPLETED and age >= self.fate.seconds + after_seconds

    def brief(self, now: float) -> dict[str, Any]:
        """Return the job as the API's list shows it."""
        body: dict[str, Any] = msgspec.to_builtins(self.definition)
        del body["Services"]
        return {
            "Id": self.job_id,
            **body,
            "UserId": "arn:aws:iam::000000000000:user/emulator",
            "Created": _rfc3339(self.born),
            "Status": self.status(now).value,
            **(
                {"Completed": _rfc3339(self.born + self.fate.seconds / self.speed)} if self.status(now).is_final else {}
            ),
        }

    def full(self, now: float) -> dict[str, Any]:
        """Return the job as the API shows it on its own."""
        return {**self.brief(now), "Services": msgspec.to_builtins(self.definition.services)}

    def result_path(self) -> str:
        """Return where the result lies."""
        day = datetime.fromtimestamp(self.born, UTC).strftime("%Y_%m_%d")
        name = self.definition.source.object_key.rpartition("/")[2]
        return f"s3://{self.definition.destination.bucket}/jobs/{day}/{self.job_id}/{name}_metadata.json"


class EmulatedJobs:
    """
    All the jobs of the emulated account, oldest first.

    :param clock: what tells the time, in seconds since the epoch.
    :param speed: how many times faster than usual jobs run.
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
        """Return the names of all the jobs. Any thread may ask."""
        # A copy first: another thread may begin a job meanwhile.
        return [job.definition.name for job in list(self._jobs.values())]

    def find(self, job_id: str) -> EmulatedJob | None:
        """Return the job with that id."""
        return self._jobs.get(job_id)

    def find_or_begin(self, job_id: str) -> EmulatedJob | None:
        """Return the job with that id. If there is none but its id tells a fate, it begins now."""
        if job_id not in self._jobs and (fate := Fate.of(job_id)):
            return self._begin(job_id, Definition.named(job_id), fate)
        return self.find(job_id)

    def submit(self, definition: Definition) -> EmulatedJob:
        """Begin a job. Its name may tell its fate; otherwise it completes."""
        return self._begin(uuid.uuid4().hex, definition, Fate.of(definition.name) or Fate(JobStatus.COMPLETED))

    def _begin(self, job_id: str, definition: Definition, fate: Fate) -> EmulatedJob:
        self._jobs[job_id] = EmulatedJob(job_id, definition, fate, self._clock(), self._speed)
        return self._jobs[job_id]


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
