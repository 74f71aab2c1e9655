"""Which job each file of a batch has, and which files are left to submit. Nothing is sent from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_wasabi_jobs.api import submissions
from airflow_wasabi_jobs.submitting.files import job_name

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import Job, JobStatus, Source, Submission

REJECTED = "rejected"


class FileJob(msgspec.Struct, frozen=True):
    """
    The job of a file.

    :param job_id: the job's id.
    :param status: the status when the job was listed last, or None if it is unknown.
    :param created: when the job was submitted, if the API returns it.
    """

    job_id: str
    status: JobStatus | None
    created: datetime | None = None

    @property
    def is_unfinished(self) -> bool:
        """Whether the job may still be running. One with an unknown status may."""
        return self.status is None or not self.status.is_terminal

    @property
    def has_failed(self) -> bool:
        """Whether the job failed or was cancelled."""
        return not self.is_unfinished and self.status is not None and self.status.value != "completed"


class FileJobs:
    """
    The jobs of the files of a batch. Of several jobs of a file an unfinished one counts, then a completed one, then one
    that failed in this try of the task, then the latest.

    :param files: the files.
    :param submission: what every job of the batch is submitted with, except for its name and its source.
    :param conn_id: the id of the connection, for errors.
    :param resubmit_failed: whether a file is left to submit if its job failed before this try of the task.
    :param newest_before_try: when the newest job of the batch was created before this try began, if the try was
        deferred since then.
    :param rejections: why the API did not accept a file, by the name of its job, if the try was deferred since then.
    :param min_job_count: how many jobs the files had when the try was deferred, or None if it was not deferred.
    """

    def __init__(
        self,
        files: Sequence[Source],
        submission: Submission,
        *,
        conn_id: str,
        resubmit_failed: bool = True,
        newest_before_try: datetime | None = None,
        rejections: Mapping[str, str] | None = None,
        min_job_count: int | None = None,
    ) -> None:
        self.files = files
        self.batch = submission.batch or ""
        self._submission = submission
        self._conn_id = conn_id
        # Without the keys, which a traceback may show.
        self._expected: dict[str, Any] = {
            "destination": msgspec.to_builtins(submission.destination),
            "services": submission.services,
            "batch": submission.batch,
        }
        self._resubmit_failed = resubmit_failed
        self.newest_before_try = newest_before_try
        self.min_job_count = min_job_count or 0
        self._is_try_known = min_job_count is not None
        self._numbers = {job_name(self.batch, file): number for number, file in enumerate(files)}
        self._numbers_by_source = {(file.bucket, file.object_key): number for number, file in enumerate(files)}
        self._jobs: list[FileJob | None] = [None] * len(files)
        self._failed_before_try: set[str] = set()
        self._job_ids: set[str] = set()
        self._unfinished: set[str] = set()
        # A manifest may have changed meanwhile, and with it the numbers of the files.
        self.rejections = {
            self._numbers[name]: why for name, why in (rejections or {}).items() if name in self._numbers
        }

    @property
    def services(self) -> list[str]:
        """The services that analyse the files."""
        return list(self._submission.services)

    def submission_of(self, number: int) -> Submission:
        """Return the submission of a file."""
        file = self.files[number]
        return msgspec.structs.replace(self._submission, name=job_name(self.batch, file), source=file)

    def update(self, listed: Sequence[Job]) -> None:
        """
        Take over a complete list of the batch, oldest job first.

        :raises ValueError: if a job with the name of a file is for something else.
        """
        self._unfinished.clear()
        newest: datetime | None = None
        for job in listed:
            file_job = FileJob(job.job_id, job.status, job.created)
            number = self._number_of(job)
            if number is not None:
                self._job_ids.add(job.job_id)
                self._add(number, file_job)
            if file_job.is_unfinished:
                self._unfinished.add(job.job_id)
            if job.created is not None:
                newest = job.created if newest is None else max(newest, job.created)
        if not self._is_try_known:
            self._is_try_known = True
            self.newest_before_try = newest
            self._failed_before_try = {job.job_id for job in self._jobs if job is not None and job.has_failed}
        # A list may not show the newest jobs yet.
        self._unfinished |= {job.job_id for job in self._jobs if job is not None and job.is_unfinished}

    def record_submission(self, number: int, job: Job) -> None:
        """Take over the response to a submission."""
        file_job = self._jobs[number] = FileJob(job.job_id, job.status, job.created)
        self._job_ids.add(job.job_id)
        if file_job.is_unfinished:
            self._unfinished.add(job.job_id)
        self.rejections.pop(number, None)

    def missing(self) -> list[int]:
        """Return the numbers of the files that are left to submit."""
        return [
            number
            for number, job in enumerate(self._jobs)
            if number not in self.rejections and (job is None or self._is_resubmitted(job))
        ]

    @property
    def unfinished_count(self) -> int:
        """The number of unfinished jobs of the batch, also of those for other files."""
        return len(self._unfinished)

    @property
    def job_count(self) -> int:
        """The number of jobs of the files: more than one for a file that was submitted again."""
        return len(self._job_ids)

    @property
    def has_unfinished_files(self) -> bool:
        """Whether the job of a file may still be running."""
        return any(job is not None and job.is_unfinished for job in self._jobs)

    def failure_count(self) -> int:
        """Return the number of files that were not accepted, or whose last job failed or was cancelled."""
        return len(self.rejections) + sum(
            job is not None and job.has_failed and number not in self.rejections and not self._is_resubmitted(job)
            for number, job in enumerate(self._jobs)
        )

    def finished_count(self) -> int:
        """Return the number of files whose job has finished."""
        return len(self.files) - len(self.missing()) - sum(job is not None and job.is_unfinished for job in self._jobs)

    def statuses(self) -> dict[str, str]:
        """Return the status of each job by its id."""
        return {job.job_id: str(job.status) for job in self._jobs if job is not None}

    def counts(self) -> dict[str, int]:
        """Return the number of files by the status of their job."""
        return dict(Counter(status for _, _, status in self))

    def __iter__(self) -> Iterator[tuple[Source, FileJob | None, str]]:
        """Iterate over the files, with their job and its status."""
        for number, (file, job) in enumerate(zip(self.files, self._jobs, strict=True)):
            if number in self.rejections:
                yield file, None, REJECTED
            elif job is not None and job.status is not None:
                yield file, job, job.status.value
            else:
                yield file, job, "unknown" if job else "missing"

    def rejections_by_name(self, limit: int) -> dict[str, str]:
        """Return why the API did not accept files, by the names of their jobs, for at most so many of them."""
        return {self.submission_of(number).name: why for number, why in list(self.rejections.items())[:limit]}

    def rejection_of(self, number: int) -> str | None:
        """Return why the API did not accept a file."""
        return self.rejections.get(number)

    def _number_of(self, job: Job) -> int | None:
        number = (
            self._numbers_by_source.get((job.source.bucket, job.source.object_key))
            if job.name is None
            else self._numbers.get(job.name)
        )
        if number is None:
            return None
        file = self.files[number]
        if difference := submissions.find_difference(self._expected | {"source": msgspec.to_builtins(file)}, job):
            raise ValueError(
                f"Job name {job_name(self.batch, file)!r} (connection {self._conn_id!r}) already belongs to job "
                f"{job.job_id} for {difference}. Use another batch, or the arguments with which the jobs of this batch "
                "were submitted."
            )
        return number

    def _add(self, number: int, job: FileJob) -> None:
        current = self._jobs[number]
        if current is None or current.job_id == job.job_id or self._rank(job) >= self._rank(current):
            self._jobs[number] = job

    def _is_resubmitted(self, job: FileJob) -> bool:
        if not self._resubmit_failed or not job.has_failed:
            return False
        is_older = (
            job.created is not None and self.newest_before_try is not None and job.created <= self.newest_before_try
        )
        return job.job_id in self._failed_before_try or is_older

    def _rank(self, job: FileJob) -> int:
        if job.is_unfinished:
            return 3
        if not job.has_failed:
            return 2
        return 0 if self._is_resubmitted(job) else 1
