"""The wait of a task for a job or a batch: each poll, and each event of a trigger, becomes an outcome or none yet."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api.exceptions import NotFoundError, WasabiApiError, deserialize_error
from airflow_wasabi_jobs.waiting.outcomes import XCom, batch_outcome, job_outcome
from airflow_wasabi_jobs.waiting.status_log import StatusLog, describe_job_status

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.batches import BatchReport, FailedJob
    from airflow_wasabi_jobs.api.models import JobErrors, JobMetadata, JobReport
    from airflow_wasabi_jobs.hooks import WasabiJobsHook

# Right after a job has completed, the location of its result may not be available yet.
RESULT_LOCATION_TIMEOUT_SECONDS, RESULT_LOCATION_POLL_SECONDS = 60.0, 2.0
MAX_DESCRIBED_FAILURES = 10


class Wait(ABC):
    """
    A wait in a worker. Subclasses define what it waits for.

    :param hook: sends the requests.
    :param log: the logger of the task.
    :param timeout: seconds until the wait times out.
    """

    def __init__(self, *, hook: WasabiJobsHook, log: Any, timeout: float) -> None:
        self._hook = hook
        self._log = log
        self._timeout = timeout
        self._status_log = StatusLog(log, self.subject)

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

    def read_event(self, event: dict[str, Any] | str) -> XCom | None:
        """
        Do for the event of a trigger what :meth:`poll` does.

        :param event: the payload. For an event that ends the task in the triggerer, ``dag.test()`` passes a string, and
            the wait polls instead.
        """
        if isinstance(event, str):
            return self.poll()
        return self._tolerate_transient_errors(lambda: self._read_event(event))

    def poll_until_finished(self, poke_interval: float) -> XCom:
        """Poll at each interval until the wait has succeeded. Raises what :meth:`poll` raises, and the timeout."""
        started_at = time.monotonic()
        while (xcom := self.poll()) is None:
            if time.monotonic() - started_at > self._timeout:
                raise self.timeout_error()
            time.sleep(poke_interval)
        return xcom

    def poll_after_timeout(self) -> XCom:
        """
        Poll a last time after the trigger has timed out, as a sensor in poke mode does.

        :raises AirflowSensorTimeout: if the wait has not finished, or the poll fails.
        """
        xcom, cause = None, None
        try:
            xcom = self.poll()
        except AirflowFailException:
            raise
        except Exception as error:  # noqa: BLE001 - the wait has timed out in any case; this error is its cause
            cause = error
        if xcom is None:
            raise self.timeout_error() from cause
        return xcom

    def log_silenced_error(self, error: Exception) -> None:
        """Log an error that does not end the wait because of ``silent_fail``."""
        self._status_log.last_error = error
        self._log.error("%s Still waiting because silent_fail is set.", error)

    def timeout_error(self) -> AirflowSensorTimeout:
        """Return the exception of a wait that has timed out."""
        status, error = self._status_log.status, self._status_log.last_error
        return AirflowSensorTimeout(
            f"{self._describe()} did not finish within timeout={self._timeout:.0f} s"
            + (f" (last status: {status}). " if status else ". ")
            + (f"The last poll failed: {error} " if error else "")
            + f"The {self.subject.partition(' ')[0].lower()} may still be running. "
            "Raise the timeout, or clear this task to resume waiting."
        )

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
        self._job_id = job_id
        self._max_error_count = max_error_count
        self._fetch_metadata = fetch_metadata
        self._resubmit_advice = resubmit_advice
        self._file = file
        super().__init__(**kwargs)

    @property
    def subject(self) -> str:
        """How log lines refer to it, such as ``Job '12345' (media/monday.mp4)``."""
        return f"Job {self._job_id!r}" + (f" ({self._file})" if self._file else "")

    def _describe(self) -> str:
        details = ", ".join(filter(None, (self._file, self._connection)))
        return f"Job {self._job_id!r} ({details})"

    def _poll(self) -> XCom | None:
        report = self._hook.get_job_status(self._job_id)
        self._status_log.record_status(report.status.value, describe_job_status(report.status, report.error_count))
        return self._finish(report) if report.status.is_terminal else None

    def _read_event(self, event: dict[str, Any]) -> XCom | None:
        import msgspec

        from airflow_wasabi_jobs.api.models import JobReport

        if "error" in event:
            raise deserialize_error(event["error"])
        return self._finish(msgspec.convert(event, JobReport))

    def _finish(self, report: JobReport) -> XCom:
        errors = None
        if report.status.value != "cancelled" and not report.has_succeeded(self._max_error_count):
            errors = self._get_errors()
        xcom = job_outcome(
            report,
            job=self._describe(),
            max_error_count=self._max_error_count,
            error_code=errors.error_code if errors else None,
            resubmit_advice=self._resubmit_advice,
        )
        return xcom | self._get_metadata().to_xcom() if self._fetch_metadata else xcom

    def _get_errors(self) -> JobErrors | None:
        try:
            return self._hook.get_job_errors(self._job_id)
        except Exception as error:  # noqa: BLE001 - the job has failed in any case; only the reason is missing
            self._log.warning("%s: could not retrieve the failure reason. %s", self.subject, error)
            return None

    def _get_metadata(self) -> JobMetadata:
        deadline = time.monotonic() + RESULT_LOCATION_TIMEOUT_SECONDS
        while True:
            try:
                return self._hook.get_job_metadata(self._job_id)
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
    """

    def __init__(
        self, batch: str, *, expected_jobs: int | None, max_failures: int, fail_fast: bool, **kwargs: Any
    ) -> None:
        self._batch = batch
        self._expected_jobs = expected_jobs
        self._max_failures = max_failures
        self._fail_fast = fail_fast
        super().__init__(**kwargs)

    @property
    def subject(self) -> str:
        """How log lines refer to it, such as ``Batch 'a'``."""
        return f"Batch {self._batch!r}"

    def _poll(self) -> XCom | None:
        report = self._hook.get_batch_report(
            self._batch,
            expected_jobs=self._expected_jobs,
            max_failures=self._max_failures,
            fail_fast=self._fail_fast,
        )
        self._status_log.record_status(report.status, report.description)
        return self._finish(report) if report.is_finished else None

    def _read_event(self, event: dict[str, Any]) -> XCom | None:
        import msgspec

        from airflow_wasabi_jobs.api.batches import BatchReport

        if "error" in event:
            raise deserialize_error(event["error"])
        return self._finish(msgspec.convert(event, BatchReport))

    def _finish(self, report: BatchReport) -> XCom:
        failures: list[str] = []
        if report.failure_count > self._max_failures:
            failures = self._describe_failures(report.failed_jobs[:MAX_DESCRIBED_FAILURES])
        return batch_outcome(report, batch=self._describe(), max_failures=self._max_failures, failures=failures)

    def _describe_failures(self, jobs: list[FailedJob]) -> list[str]:
        from airflow_wasabi_jobs.api import endpoints
        from airflow_wasabi_jobs.api.client import JobsClient

        try:
            settings = self._hook.get_conn().settings
        except Exception as error:  # noqa: BLE001 - the jobs have failed in any case; only the reasons are missing
            return [self._describe_failure(job, error) for job in jobs]

        def get_errors(job: FailedJob) -> JobErrors | Exception:
            try:
                # A client for each thread, because sessions of requests are not thread-safe.
                return JobsClient(settings, metrics.count_request).send(endpoints.get_job_errors(job.job_id))
            except Exception as error:  # noqa: BLE001 - the job has failed in any case; only the reason is missing
                return error

        # At the same time, so that all of them take no longer than one request.
        with ThreadPoolExecutor(max_workers=len(jobs)) as executor:
            return [
                self._describe_failure(job, errors)
                for job, errors in zip(jobs, executor.map(get_errors, jobs), strict=True)
            ]

    def _describe_failure(self, job: FailedJob, errors: JobErrors | Exception) -> str:
        reason = None
        if isinstance(errors, Exception):
            self._log.warning(
                "%s: could not retrieve the failure reason of job %r. %s", self.subject, job.job_id, errors
            )
        else:
            reason = errors.error_code or errors.status.value
        details = ", ".join(filter(None, (f"job {job.job_id}", reason)))
        if job.source:
            return f"{job.source} ({details})"
        return f"job {job.job_id}" + (f" ({reason})" if reason else "")
