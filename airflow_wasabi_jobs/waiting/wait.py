"""The wait of a task for a job or a batch: each poll, and each event of a trigger, becomes an outcome or none yet."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api.exceptions import NotFoundError, WasabiApiError, deserialize_error
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.waiting.outcomes import XCom, batch_outcome, job_outcome
from airflow_wasabi_jobs.waiting.status_log import StatusLog, describe_job_status, log_start

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.batches import BatchCounter, BatchReport, FailedJob
    from airflow_wasabi_jobs.api.models import Job, JobErrors, JobMetadata, JobReport
    from airflow_wasabi_jobs.hooks import WasabiJobsHook

# Right after a job has completed, the location of its result may not be available yet.
RESULT_LOCATION_TIMEOUT_SECONDS, RESULT_LOCATION_POLL_SECONDS = 60.0, 2.0
MAX_DESCRIBED_FAILURES = 10
# OpenLineage waits 10 seconds for the lineage of a task by default. A request may take the first and twice the second.
LINEAGE_CONNECT_TIMEOUT_SECONDS, LINEAGE_READ_TIMEOUT_SECONDS = 1.0, 3.0

Result = TypeVar("Result")


class Wait(ABC):
    """
    A wait in a worker. Subclasses define what it waits for.

    :param hook: sends the requests.
    :param timeout: seconds until the wait times out.
    """

    def __init__(self, *, hook: WasabiJobsHook, timeout: float) -> None:
        self._hook = hook
        self._timeout = timeout
        self._status_log = StatusLog(self.subject)

    @property
    @abstractmethod
    def subject(self) -> str:
        """How log lines refer to it, such as ``Job '12345'``."""

    @abstractmethod
    def _poll(self) -> XCom | None:
        """Return the XCom if it has finished well, None if it has not finished. Raise its failure, or an API error."""

    @abstractmethod
    def _read_event(self, event: dict[str, Any]) -> XCom | None:
        """Return or raise the same for the event of a trigger."""

    def poll(self) -> XCom | None:
        """
        Poll once.

        :return: the XCom if the wait has succeeded, or None if it goes on, also after a transient error.
        :raises AirflowFailException: the failure of what it waits for.
        :raises WasabiApiError: a permanent error.
        """
        metrics.count("polls")
        return self._tolerate_transient_errors(self._poll)

    def read_event(self, event: dict[str, Any]) -> XCom | None:
        """
        Do for the event of a trigger what :meth:`poll` does.

        :param event: the payload.
        """
        return self._tolerate_transient_errors(lambda: self._read_event(event))

    def poll_until_finished(self, poke_interval: float, timeout_at: float) -> XCom:
        """
        Poll at each interval until the wait has succeeded. Raises what :meth:`poll` raises, and the timeout.

        :param poke_interval: seconds between two polls.
        :param timeout_at: when the wait times out, in seconds since the epoch.
        """
        self.log_start("a worker", poke_interval, timeout_at)
        while (xcom := self.poll()) is None:
            if time.time() > timeout_at:
                raise self.timeout_error()
            time.sleep(poke_interval)
        return xcom

    def poll_after_timeout(self, poll: Callable[[], Result]) -> Result:
        """
        Poll a last time after the trigger has timed out, as a sensor in poke mode does.

        :param poll: returns a true value if the wait has succeeded.
        :raises AirflowSensorTimeout: if the wait has not finished, or the poll fails.
        """
        result, cause = None, None
        try:
            result = poll()
        except (AirflowFailException, AirflowSkipException):
            raise
        except Exception as error:  # noqa: BLE001 - the wait has timed out in any case; this error is its cause
            cause = error
        if not result:
            raise self.timeout_error() from cause
        return result

    def log_start(self, place: str, poke_interval: float, timeout_at: float) -> None:
        """
        Log that the wait begins.

        :param place: where it polls, such as ``the triggerer``.
        :param poke_interval: seconds between two polls.
        :param timeout_at: when the wait times out, in seconds since the epoch.
        """
        log_start(self.subject, place, poke_interval, timeout_at)

    def log_silenced_error(self, error: Exception) -> None:
        """Log an error that does not end the wait because of ``silent_fail``."""
        self._status_log.last_error = error
        LOG.error("%s Still waiting because silent_fail is set.", error)

    def timeout_error(self) -> AirflowSensorTimeout:
        """Return the exception of a wait that has timed out."""
        status, error = self._status_log.status, self._status_log.last_error
        return AirflowSensorTimeout(
            f"{self._describe()} did not finish within timeout={self._timeout:.0f} s"
            + (f" (last status: {status}). " if status else ". ")
            + (f"The last poll failed: {error} " if error else "")
            + self._timeout_advice
        )

    @property
    def _timeout_advice(self) -> str:
        kind = self.subject.partition(" ")[0].lower()
        return f"The {kind} may still be running. Raise the timeout, or clear this task to resume waiting."

    def _describe(self) -> str:
        return f"{self.subject} ({self._connection})"

    @property
    def _connection(self) -> str:
        return f"connection {self._hook.wasabi_conn_id!r}"

    def _tolerate_transient_errors(self, poll: Callable[[], XCom | None]) -> XCom | None:
        try:
            return poll()
        except WasabiApiError as error:
            if not error.is_transient:
                self._status_log.last_error = error
                raise
            self._status_log.record_error(error)
            return None


class JobWait(Wait):
    """
    The wait for a job.

    :param job_id: the job's id.
    :param max_error_count: how many errors a completed job may have, or None for any number.
    :param fetch_metadata: whether the XCom includes the location of the result.
    :param resubmit_advice: how the user can submit a new job after a failure.
    :param file: the media file, ``bucket/key``, if it is known.
    :ivar job_id: the job's id.
    :ivar report: the last report of the job, or None if there was none yet.
    :ivar error_code: the error code of a job that failed, if it is known.
    :ivar result_path: the location of the result, if it was requested.
    """

    def __init__(
        self,
        job_id: str,
        *,
        max_error_count: int | None,
        fetch_metadata: bool,
        resubmit_advice: str,
        file: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.job_id = job_id
        self.report: JobReport | None = None
        self.error_code: str | None = None
        self.result_path: str | None = None
        self._max_error_count = max_error_count
        self._fetch_metadata = fetch_metadata
        self._resubmit_advice = resubmit_advice
        self._file = file
        self._job: Job | None = None
        super().__init__(**kwargs)

    @property
    def subject(self) -> str:
        """How log lines refer to it, such as ``Job '12345' (media/monday.mp4)``."""
        return f"Job {self.job_id!r}" + (f" ({self._file})" if self._file else "")

    def _describe(self) -> str:
        details = ", ".join(filter(None, (self._file, self._connection)))
        return f"Job {self.job_id!r} ({details})"

    def find_job(self) -> Job | None:
        """
        Return the job with what it was submitted with, or None if the API does not return it within a few seconds.

        For a job that has been polled: the API is known to respond.
        """
        import msgspec

        from airflow_wasabi_jobs.api import endpoints
        from airflow_wasabi_jobs.api.client import JobsClient

        if self._job or self.report is None:
            return self._job
        try:
            settings = self._hook.get_conn().settings
            options = msgspec.structs.replace(
                settings.options,
                connect_timeout=min(settings.options.connect_timeout, LINEAGE_CONNECT_TIMEOUT_SECONDS),
                read_timeout=min(settings.options.read_timeout, LINEAGE_READ_TIMEOUT_SECONDS),
                retries=0,
            )
            # A client of its own: OpenLineage calls this in a copy of the process, which shares the open connections.
            client = JobsClient(msgspec.structs.replace(settings, options=options), metrics.count_request)
            self._job = client.send(endpoints.get_job(self.job_id))
        except Exception as error:  # noqa: BLE001 - only the lineage lacks the file of the job
            LOG.warning("%s: could not retrieve its file for OpenLineage. %s", self.subject, error)
        return self._job

    def _poll(self) -> XCom | None:
        self.report = report = self._hook.get_job_status(self.job_id)
        self._status_log.record_status(report.status.value, describe_job_status(report.status, report.error_count))
        return self._finish(report) if report.status.is_terminal else None

    def _read_event(self, event: dict[str, Any]) -> XCom | None:
        import msgspec

        from airflow_wasabi_jobs.api.models import JobReport

        if "error" in event:
            raise deserialize_error(event["error"])
        return self._finish(msgspec.convert(event, JobReport))

    def _finish(self, report: JobReport) -> XCom:
        self.report = report
        if not report.has_succeeded(self._max_error_count):
            errors = None if report.status.value == "cancelled" else self._get_errors()
            self.error_code = errors.error_code if errors else None
            self._file = self._file or self._get_file()
        xcom = job_outcome(
            report,
            job=self._describe(),
            max_error_count=self._max_error_count,
            error_code=self.error_code,
            resubmit_advice=self._resubmit_advice,
        )
        if self._fetch_metadata:
            metadata = self._get_metadata()
            LOG.info("%s: the result is %s.", self.subject, metadata.path)
            self.result_path = metadata.path
            xcom |= metadata.to_xcom()
        return xcom

    def _get_errors(self) -> JobErrors | None:
        try:
            return self._hook.get_job_errors(self.job_id)
        except Exception as error:  # noqa: BLE001 - the job has failed in any case; only the reason is missing
            LOG.warning("%s: could not retrieve the failure reason. %s", self.subject, error)
            return None

    def _get_file(self) -> str | None:
        try:
            self._job = self._hook.get_job(self.job_id)
        except Exception as error:  # noqa: BLE001 - the job has failed in any case; only the name of its file is missing
            LOG.warning("%s: could not retrieve the name of its file. %s", self.subject, error)
            return None
        source = self._job.source
        return f"{source.bucket}/{source.object_key}" if source.bucket and source.object_key else None

    def _get_metadata(self) -> JobMetadata:
        deadline = time.monotonic() + RESULT_LOCATION_TIMEOUT_SECONDS
        while True:
            try:
                return self._hook.get_job_metadata(self.job_id)
            except NotFoundError:
                if time.monotonic() + RESULT_LOCATION_POLL_SECONDS > deadline:
                    raise
            time.sleep(RESULT_LOCATION_POLL_SECONDS)


class BatchWait(Wait):
    """
    The wait for a batch.

    :param batch: the name of the batch.
    :param expected_jobs: the number of jobs that the batch has at least, or None for one.
    :param max_failures: how many jobs may fail or be cancelled.
    :param fail_fast: whether the wait ends as soon as more jobs than that failed or were cancelled.
    :ivar report: the last report of the batch, or None if there was none yet.
    """

    def __init__(
        self, batch: str, *, expected_jobs: int | None, max_failures: int, fail_fast: bool, **kwargs: Any
    ) -> None:
        self._batch = batch
        self._expected_jobs = expected_jobs
        self._max_failures = max_failures
        self._fail_fast = fail_fast
        self._counter: BatchCounter | None = None
        self.report: BatchReport | None = None
        super().__init__(**kwargs)

    @property
    def subject(self) -> str:
        """How log lines refer to it, such as ``Batch 'a'``."""
        return f"Batch {self._batch!r}"

    def _poll(self) -> XCom | None:
        from airflow_wasabi_jobs.api import batches

        report = self._hook.get_batch_report(
            self._batch,
            expected_jobs=self._expected_jobs,
            max_failures=self._max_failures,
            fail_fast=self._fail_fast,
        )
        if report.needs_count and self._status_log.is_progress_due(report.status):
            self._counter = self._counter or batches.BatchCounter(self._batch)
            # The counts are for the log only: without them the line has what the poll found.
            with suppress(WasabiApiError):
                report = report.with_counts(batches.send_all(self._counter.count(), self._hook.get_conn().send))
        self.report = report
        self._status_log.record_progress(report.status, report.describe(self._expected_jobs))
        return self._finish(report) if report.is_finished else None

    def _read_event(self, event: dict[str, Any]) -> XCom | None:
        import msgspec

        from airflow_wasabi_jobs.api.batches import BatchReport

        if "error" in event:
            raise deserialize_error(event["error"])
        return self._finish(msgspec.convert(event, BatchReport))

    def _finish(self, report: BatchReport) -> XCom:
        import msgspec

        has_failed = report.failure_count > self._max_failures
        jobs = report.failed_jobs[:MAX_DESCRIBED_FAILURES] if has_failed else report.failed_jobs
        described = self._add_error_codes(jobs) if jobs else []
        self.report = msgspec.structs.replace(report, failed_jobs=[*described, *report.failed_jobs[len(jobs) :]])
        report = msgspec.structs.replace(
            report, failed_jobs=described, more_failures=report.failure_count - len(described)
        )
        return batch_outcome(report, batch=self._describe(), max_failures=self._max_failures)

    def _add_error_codes(self, jobs: list[FailedJob]) -> list[FailedJob]:
        import msgspec

        from airflow_wasabi_jobs.api import endpoints
        from airflow_wasabi_jobs.api.client import JobsClient

        try:
            settings = self._hook.get_conn().settings
        except Exception as error:  # noqa: BLE001 - the jobs have failed in any case; only the reasons are missing
            LOG.warning("%s: could not retrieve the failure reasons. %s", self.subject, error)
            return jobs

        def add_error_code(job: FailedJob) -> FailedJob:
            try:
                # A client for each request, because sessions of requests are not thread-safe.
                client = JobsClient(settings, metrics.count_request)
                errors = client.send(endpoints.get_job_errors(job.job_id))
            except Exception as error:  # noqa: BLE001 - the job has failed in any case; only the reason is missing
                LOG.warning("%s: could not retrieve the failure reason of job %r. %s", self.subject, job.job_id, error)
                return job
            return msgspec.structs.replace(job, error_code=errors.error_code)

        with ThreadPoolExecutor(max_workers=min(len(jobs), MAX_DESCRIBED_FAILURES)) as executor:
            return list(executor.map(add_error_code, jobs))

    def timeout_error(self) -> AirflowSensorTimeout:
        """Return the exception of a wait that has timed out. A batch without jobs may have the wrong name."""
        from airflow_wasabi_jobs.api.batches import NO_JOBS_FOUND

        if self._status_log.status != NO_JOBS_FOUND:
            return super().timeout_error()
        return AirflowSensorTimeout(
            f"No jobs were found in batch {self._batch!r} ({self._connection}) within timeout={self._timeout:.0f} s. "
            "Check the name of the batch, and that the task that submits its jobs has run."
        )
