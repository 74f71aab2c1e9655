"""The results of emulated jobs: what they contain, and how they are written."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.api.redaction import excerpt, redact
from airflow_wasabi_jobs.emulator.jobs import IN_PROGRESS_AT_SECONDS, JOB_SECONDS, EmulatedJob

AIRTIME_SECONDS = 30.0
# Wasabi does not document the findings. These are samples, to try a DAG with.
_SAMPLES: dict[str, list[dict[str, Any]]] = {
    "ocr": [{"text": "Sample text on screen", "confidence": 0.97}],
    "s2t": [
        {"text": "This is a sample transcript.", "speaker": "speaker 1", "confidence": 0.94},
        {"text": "It has two sentences.", "speaker": "speaker 2", "confidence": 0.91},
    ],
    "nld": [{"text": "Sample description of a scene.", "confidence": 0.88}],
    "audiotag": [{"label": "sample sound", "confidence": 0.83}],
    "face": [{"label": "sample person", "box": {"x": 0.4, "y": 0.2, "width": 0.1, "height": 0.2}, "confidence": 0.9}],
    "logo": [{"label": "sample logo", "box": {"x": 0.1, "y": 0.1, "width": 0.2, "height": 0.1}, "confidence": 0.86}],
}
_OTHER_SAMPLES = [{"label": "sample", "confidence": 0.8}]

log = logging.getLogger(__name__)


def build_result(job: EmulatedJob, path: str) -> dict[str, Any]:
    """Return the content of the result of a completed job, whose location is ``path``."""
    factor = min(1.0, job.outcome.seconds / JOB_SECONDS)
    started_at = job.created_at + IN_PROGRESS_AT_SECONDS * factor / job.speed
    completed_at = job.created_at + job.outcome.seconds / job.speed
    source = job.definition.source
    return {
        "job_id": job.job_id,
        "message": "Processing successful",
        "message_payload": {
            "job_metadata": {
                "job_id": job.job_id,
                "name": job.definition.name,
                "batch": job.definition.batch,
                "object_key": source.object_key,
                "object_path": f"s3://{source.bucket}/{source.object_key}",
                "output_destination": job.definition.destination.bucket,
                "destination_path": path,
                "processing_date": _stamp(completed_at),
                "airtime_duration": AIRTIME_SECONDS,
                "status": JobStatus.COMPLETED.value,
                "engine_version": "emulator",
            },
            "services": [
                {
                    "service_name": f"air_{service}",
                    "service_version": "emulator",
                    "service_start": _stamp(started_at),
                    "service_end": _stamp(completed_at),
                    "is_sample": True,
                    "findings": _findings(service),
                }
                for service in job.definition.services
            ],
        },
    }


def _findings(service: str) -> list[dict[str, Any]]:
    samples = _SAMPLES.get(service, _OTHER_SAMPLES)
    seconds = AIRTIME_SECONDS / len(samples)
    return [
        {"is_sample": True, "start": number * seconds, "end": (number + 1) * seconds, **sample}
        for number, sample in enumerate(samples)
    ]


def _stamp(seconds: float) -> str:
    """Return a time with the nine fraction digits that results have."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}000Z"


def validate_url(url: str) -> None:
    """Raise a ValueError unless results can be written below that URL."""
    from fsspec import get_filesystem_class

    match = re.match(r"([a-z][a-z0-9+.-]*)://", url)
    if match is None or (match[1] == "file" and not url.startswith("file:///")):
        raise ValueError(f"results is {url!r}, but must be a URL such as file:///tmp/results or s3://")
    try:
        get_filesystem_class(match[1])
    except (ImportError, ValueError) as error:
        raise ValueError(f"results is {url!r}, which fsspec cannot write: {error}") from error


class ResultWriter:
    """
    Writes the results of completed jobs with fsspec, in threads.

    :param url: where to write. The destination bucket of a job is the first part of the path below it.
    :param storage_options: the arguments of the file system of fsspec.
    :param after_seconds: seconds at speed 1 from the completion of a job until its result is written.
    """

    def __init__(self, url: str, storage_options: dict[str, Any], after_seconds: float) -> None:
        self._root = url if url.endswith("/") else f"{url}/"
        self._storage_options = storage_options
        self._after_seconds = after_seconds
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._writes: dict[str, asyncio.Task[str | None]] = {}

    def path_of(self, job: EmulatedJob) -> str:
        """Return the location of the result of a job."""
        return job.result_path(self._root)

    def schedule(self, job: EmulatedJob, now: float) -> None:
        """Write the result of a job when it completes, if it does."""
        if job.outcome.status is JobStatus.COMPLETED and job.job_id not in self._timers:
            due_at = job.created_at + (job.outcome.seconds + self._after_seconds) / job.speed
            timer = asyncio.get_running_loop().call_later(due_at - now, self._start, job)
            self._timers[job.job_id] = timer

    async def write(self, job: EmulatedJob) -> str | None:
        """Write the result of a job unless it is written, and return why it cannot be written, or None."""
        return await asyncio.shield(self._start(job))

    async def close(self) -> None:
        """Finish what is being written, and write nothing more."""
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*self._writes.values())

    def _start(self, job: EmulatedJob) -> asyncio.Task[str | None]:
        write = self._writes.get(job.job_id)
        # What failed is tried again: the storage may be available now.
        if write is None or (write.done() and write.result()):
            write = self._writes[job.job_id] = asyncio.create_task(self._write(job))
        return write

    async def _write(self, job: EmulatedJob) -> str | None:
        path = self.path_of(job)
        try:
            await asyncio.to_thread(
                _write_file, path, msgspec.json.encode(build_result(job, path)), self._storage_options
            )
        except Exception as error:  # noqa: BLE001 - each file system of fsspec has errors of its own
            reason = excerpt(redact(f"{type(error).__name__}: {error}", _texts(self._storage_options)))
            log.error("The result of job %s cannot be written to %s. %s", job.job_id, path, reason)  # noqa: TRY400 - a traceback may show keys
            return f"The result cannot be written to {path}. {reason}"
        return None


def _write_file(url: str, body: bytes, storage_options: dict[str, Any]) -> None:
    from fsspec.core import url_to_fs

    if ".." in url.split("/"):
        raise ValueError("The path has a part '..'.")
    fs, path = url_to_fs(url, **storage_options)
    try:
        fs.pipe_file(path, body)
    except FileNotFoundError:
        # The folder, or the bucket, does not exist yet.
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, body)


def _texts(value: Any) -> Iterator[str]:
    """Yield all strings in the values of the storage options, which may be secrets."""
    match value:
        case str():
            yield value
        case dict():
            for member in value.values():
                yield from _texts(member)
        case list() | tuple():
            for member in value:
                yield from _texts(member)
