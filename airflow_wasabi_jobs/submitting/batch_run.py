"""One try of a task that submits a batch: it submits the files without a job, and collects the results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import tenacity

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.client.retries import is_transient
from airflow_wasabi_jobs.api.exceptions import InvalidResponseError, NotFoundError, WasabiApiError
from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.api.pages import Pages
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.submitting.file_jobs import REJECTED, FileJob, FileJobs
from airflow_wasabi_jobs.waiting.progress import Progress
from airflow_wasabi_jobs.waiting.status_log import StatusLog

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.endpoints import Request
    from airflow_wasabi_jobs.api.models import Job, Source
    from airflow_wasabi_jobs.polling import Subscription

T = TypeVar("T")

_FAILURES = (JobStatus.FAILED, JobStatus.CANCELLED)
# How long transient errors are retried without any response in between, before the task fails and Airflow retries it.
RETRY_SECONDS = 300.0
# How long after a lost response the job would be listed.
SETTLING_SECONDS = 30.0
# How often a batch is listed at most until no job is on two pages.
MAX_LISTS = 3
# The responses that concern one file. Others concern all of them.
FILE_STATUS_CODES = frozenset({400, 404, 413, 422})
# So many equal rejections at the beginning mean that something else is wrong.
MAX_FIRST_REJECTIONS = 10
MAX_BACKOFF_SECONDS = 30.0
RETRY_LOG_SECONDS = 60.0
# Right after a job has completed, the location of its result may not be available yet.
RESULT_LOCATION_TIMEOUT_SECONDS, RESULT_LOCATION_POLL_SECONDS = 60.0, 2.0


class FileResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    The end of one file, a line of the results file.

    :param source: the URL of the file.
    :param job_id: the job's id, or None if the API did not accept the file.
    :param status: the status of the job, or ``rejected``.
    :param error_count: how many errors the analysis had, if it was requested.
    :param error_code: the code of the failure, or why the file was rejected.
    :param metadata_path: the URL of the result, if it was requested and the API has it.
    """

    source: str
    job_id: str | None
    status: str
    error_count: int | None = None
    error_code: str | None = None
    metadata_path: str | None = None

    def to_xcom(self) -> dict[str, Any]:
        """Return how the file failed as a plain dict, for an XCom."""
        return {
            "source": self.source,
            "job_id": self.job_id,
            "status": self.status,
            "error_code": self.error_code,
        }


class BatchResults(msgspec.Struct, frozen=True):
    """
    The end of a batch.

    :param files: the end of each file.
    :param failures: those of them that failed.
    :param results_path: the URL of the results file, or None if there is none.
    """

    files: list[FileResult]
    failures: list[FileResult]
    results_path: str | None


class BatchRun:
    """
    Submits the files of a batch, each once.

    :param subscription: sends the requests.
    :param file_jobs: which job each file has.
    :param concurrency: how many requests are in flight at most.
    :param max_unfinished_jobs: how many jobs of the batch may be unfinished, or None for any number.
    :param max_rejections: the submission ends when the API did not accept more files, or None to submit the others.
    :param is_retry: whether an earlier try of the task may have submitted jobs that the batch does not list yet.
    :ivar listed_failures: how many jobs that failed or were cancelled the API listed last, also those of other files.
    """

    def __init__(
        self,
        subscription: Subscription,
        file_jobs: FileJobs,
        *,
        concurrency: int,
        max_unfinished_jobs: int | None,
        max_rejections: int | None = None,
        is_retry: bool = False,
    ) -> None:
        self._subscription = subscription
        self._file_jobs = file_jobs
        self._concurrency = concurrency
        self._max_unfinished_jobs = max_unfinished_jobs
        self._max_rejections = max_rejections
        self._is_retry = is_retry
        self.listed_failures = 0
        self._can_read_error_codes = True
        self._unclear: set[int] = set()
        self._first_rejections: list[tuple[int | None, str | None, str]] | None = []
        self._failures_in_a_row = 0
        self._responded_at = time.monotonic()
        self._status_log = StatusLog(f"Batch {file_jobs.batch!r}")
        self._progress = Progress(len(file_jobs.files), "submitted")

    async def refresh(self) -> None:
        """
        List the batch, oldest job first, so that a job that is created meanwhile moves no other.

        The order of jobs that were created at the same time may differ from page to page: if a job is on two pages,
        another one may be on none.
        """
        batch = self._file_jobs.batch
        jobs: dict[str, Job] = {}
        for _ in range(MAX_LISTS):
            is_repeated = False
            pages: Pages[Job] = Pages()
            while not pages.is_complete:
                request = endpoints.list_jobs(batch=batch, newest_first=False, page_number=pages.next_number)
                page = await self._send_with_retries(request)
                new = pages.add(page)
                is_repeated |= 0 < len(new) < len(page)
                jobs |= {job.job_id: job for job in new}
            if not is_repeated:
                break
        self.listed_failures = sum(job.status in _FAILURES for job in jobs.values())
        # A list may leave out the batch, which is part of the name of a job, too.
        self._file_jobs.update(
            [job for job in jobs.values() if job.batch == batch or (job.batch is None and job.name is not None)]
        )

    async def submit_missing(self) -> None:
        """
        Submit the files without a job, as many as may be unfinished.

        After a lost response, a file is submitted again only if the batch does not list its job after a while.
        """
        is_responding = True
        while True:
            await self._refresh_until_complete()
            missing = self._file_jobs.missing()
            if self._max_unfinished_jobs is not None:
                missing = missing[: max(0, self._max_unfinished_jobs - self._file_jobs.unfinished_count)]
            if not missing:
                return
            if self._file_jobs.job_count:
                self._first_rejections = None
            rejected_before = len(self._file_jobs.rejections)
            self._unclear.clear()
            if is_responding:
                self._responded_at = time.monotonic()
            await _run_concurrently(self._concurrency, missing, self._submit)
            self._record_progress(is_last=True)
            is_responding = len(self._unclear) < len(missing)
            if not self._unclear:
                # More jobs may be unfinished then, because a rejected file has none.
                if self._max_unfinished_jobs is None or len(self._file_jobs.rejections) == rejected_before:
                    return
                continue
            LOG.warning(
                "Batch %r: unclear whether %d files were submitted; looking them up in %.0f s.",
                self._file_jobs.batch,
                len(self._unclear),
                SETTLING_SECONDS,
            )
            await asyncio.sleep(SETTLING_SECONDS)

    async def _refresh_until_complete(self) -> None:
        """List the batch until it has the jobs that were submitted before: a list may be late by some seconds."""
        batch, expected = self._file_jobs.batch, self._file_jobs.min_job_count
        await self.refresh()
        if self._is_retry and self._file_jobs.missing():
            LOG.info(
                "Batch %r: listing it again in %.0f s, because it may not list all jobs of an earlier try yet.",
                batch,
                SETTLING_SECONDS,
            )
            await asyncio.sleep(SETTLING_SECONDS)
            await self.refresh()
        self._is_retry = False
        deadline = time.monotonic() + SETTLING_SECONDS
        while self._file_jobs.job_count < expected:
            # A long list takes longer than that.
            is_last = time.monotonic() > deadline
            await asyncio.sleep(SETTLING_SECONDS / 10)
            await self.refresh()
            if is_last and self._file_jobs.job_count < expected:
                raise InvalidResponseError(
                    f"Batch {batch!r} lists {self._file_jobs.job_count} jobs of these files, but there were {expected} "
                    "before this task was deferred. It submits no more jobs, so that no file gets a second one. If "
                    "files were removed from the manifest, clear this task to continue."
                )

    async def is_confirmed(self) -> bool:
        """List the batch again, and return whether that shows the same."""
        before = self._file_jobs.statuses()
        await self.refresh()
        return self._file_jobs.statuses() == before

    async def collect_results(
        self, *, with_error_counts: bool, with_locations: bool, max_error_codes: int
    ) -> list[FileResult]:
        """
        Return the end of each file.

        :param with_error_counts: whether to request the error count of each completed job.
        :param with_locations: whether to request the location of each result.
        :param max_error_codes: for how many failed jobs to request the error code.
        """
        results: list[FileResult] = []
        codes_left = max_error_codes
        # All jobs have finished.
        locations_until = time.monotonic() + RESULT_LOCATION_TIMEOUT_SECONDS
        jobs: list[tuple[int, FileJob, bool]] = []
        for number, (file, job, status) in enumerate(self._file_jobs):
            results.append(
                FileResult(
                    source=file.url,
                    job_id=job.job_id if job else None,
                    status=status,
                    error_code=self._file_jobs.rejection_of(number) if status == REJECTED else None,
                )
            )
            if job is None or job.is_unfinished:
                continue
            needs_code = job.has_failed and codes_left > 0
            codes_left -= needs_code
            if needs_code or (not job.has_failed and (with_error_counts or with_locations)):
                jobs.append((number, job, job.has_failed))

        async def add_details(entry: tuple[int, FileJob, bool]) -> None:
            number, job, has_failed = entry
            details: dict[str, Any] = {}
            if has_failed:
                details = await self._get_error_code(job.job_id)
            else:
                if with_error_counts:
                    report = await self._send_with_retries(endpoints.get_job_status(job.job_id))
                    details["error_count"] = report.error_count
                if with_locations:
                    details["metadata_path"] = await self._get_location(job.job_id, locations_until)
            results[number] = msgspec.structs.replace(results[number], **details)

        await _run_concurrently(self._concurrency, jobs, add_details)
        return results

    async def _submit(self, number: int) -> None:
        if self._max_rejections is not None and len(self._file_jobs.rejections) > self._max_rejections:
            return
        submission = self._file_jobs.submission_of(number)
        try:
            job = await self._subscription.send(endpoints.submit_job(submission))
        except WasabiApiError as error:
            if error.is_transient:
                await self._back_off(number, error)
                return
            self._record_response()
            if error.status_code not in FILE_STATUS_CODES:
                raise
            self._reject(number, submission.source, submission.name, error)
            return
        self._record_response()
        self._first_rejections = None
        metrics.count("submissions")
        self._file_jobs.record_submission(number, job)
        if job.name not in {None, submission.name}:
            raise InvalidResponseError(
                f"Job {job.job_id} was submitted with name {submission.name!r}, but the API stores it as {job.name!r}. "
                "A job that cannot be looked up by its name would be submitted again. Use a batch and object keys that "
                "the API does not change."
            )
        self._record_progress()

    def _reject(self, number: int, file: Source, name: str, error: WasabiApiError) -> None:
        text = error.text or ""
        if self._first_rejections is not None:
            general_text = text.replace(name, "").replace(file.object_key or "", "")
            self._first_rejections.append((error.status_code, error.error_code, general_text))
            if len(self._first_rejections) >= MAX_FIRST_REJECTIONS:
                if len(set(self._first_rejections)) == 1:
                    raise error
                self._first_rejections = None
        self._file_jobs.rejections[number] = f"HTTP {error.status_code}" + (f": {text}" if text else "")
        if len(self._file_jobs.rejections) <= MAX_FIRST_REJECTIONS:
            LOG.error("%s/%s was not accepted. %s", file.bucket, file.object_key, error)

    async def _back_off(self, number: int, error: WasabiApiError) -> None:
        self._unclear.add(number)
        self._failures_in_a_row += 1
        if time.monotonic() - self._responded_at > RETRY_SECONDS:
            raise error
        if self._failures_in_a_row == 1:
            self._status_log.record_error(error)
        # Not after a single error, because other requests may succeed meanwhile.
        if self._failures_in_a_row > self._concurrency:
            exponent = min(self._failures_in_a_row // self._concurrency, 10)
            await asyncio.sleep(min(0.25 * 2**exponent, MAX_BACKOFF_SECONDS))

    def _record_response(self) -> None:
        self._failures_in_a_row = 0
        self._responded_at = time.monotonic()

    def _record_progress(self, *, is_last: bool = False) -> None:
        if is_last or self._status_log.is_progress_due("submitting"):
            submitted = len(self._file_jobs.files) - len(self._file_jobs.missing())
            failed = len(self._file_jobs.rejections)
            self._status_log.record_progress("submitting", self._progress.describe(submitted, failed))

    async def _get_error_code(self, job_id: str) -> dict[str, Any]:
        if not self._can_read_error_codes:
            return {}
        try:
            errors = await self._send_with_retries(endpoints.get_job_errors(job_id))
        except WasabiApiError as error:
            # Other errors concern all jobs, and some are retried for minutes.
            self._can_read_error_codes = error.status_code in FILE_STATUS_CODES
            LOG.warning(
                "Batch %r: could not retrieve the failure reason of job %r. %s", self._file_jobs.batch, job_id, error
            )
            return {}
        return {"error_code": errors.error_code, "error_count": errors.error_count}

    async def _get_location(self, job_id: str, retry_until: float) -> str | None:
        while True:
            try:
                return (await self._send_with_retries(endpoints.get_job_metadata(job_id))).path
            except NotFoundError as error:
                if time.monotonic() + RESULT_LOCATION_POLL_SECONDS > retry_until:
                    LOG.warning(
                        "Batch %r: the result of job %r has no location. %s", self._file_jobs.batch, job_id, error
                    )
                    return None
            await asyncio.sleep(RESULT_LOCATION_POLL_SECONDS)

    async def _send_with_retries(self, request: Request[T]) -> T:
        logged_at = -RETRY_LOG_SECONDS

        def log_retry(state: tenacity.RetryCallState) -> None:
            nonlocal logged_at
            if time.monotonic() - logged_at >= RETRY_LOG_SECONDS:
                logged_at = time.monotonic()
                left = RETRY_SECONDS - (state.seconds_since_start or 0.0)
                LOG.warning(
                    "%s Retrying for up to %.0f more seconds.", state.outcome and state.outcome.exception(), left
                )

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_random_exponential(multiplier=2.5, max=60),
            stop=tenacity.stop_after_delay(RETRY_SECONDS),
            before_sleep=log_retry,
            reraise=True,
        )
        result: T = await retrying(self._subscription.send, request)
        return result


async def _run_concurrently(
    concurrency: int, items: Iterable[T], function: Callable[[T], Coroutine[Any, Any, None]]
) -> None:
    """Call a function for all items, some of them at the same time. The first error ends all of them."""
    # The workers share the iterator, so that each item is taken once.
    iterator: Iterator[T] = iter(items)

    async def work() -> None:
        for item in iterator:
            await function(item)

    workers = [asyncio.create_task(work()) for _ in range(concurrency)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
            worker.result()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
