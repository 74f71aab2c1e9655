"""Wait for Wasabi AiR jobs: for one, or for a batch of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_wasabi_jobs.api import errors, submissions
from airflow_wasabi_jobs.contract import LOOK_UPSTREAM, WasabiWait, Xcom, check_whole
from airflow_wasabi_jobs.exceptions import WasabiBatchFailed, WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.triggers import WasabiBatchTrigger, WasabiJobTrigger

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

    from airflow_wasabi_jobs.api.batches import BatchReport
    from airflow_wasabi_jobs.api.models import JobErrors, JobMetadata, JobReport

# For so many seconds a completed job may have no result yet, and it is asked for again after so many.
RESULT_PATIENCE, RESULT_PAUSE = 60.0, 2.0
# So many jobs are named, with the reason, when a batch fails.
NAMED_FAILURES = 10


class WasabiJobSensor(WasabiWait):
    """
    Waits until a Wasabi AiR job is completed, in any mode that a sensor has.

    The XCom is the job's report: ``{"job_id": "12345", "status": "completed", "error_count": 0}``.

    A job that failed or was cancelled fails the task, without a retry: the answer is final. An error
    that a person has to see (a wrong key, an unknown job, a bad connection) fails it with its retries.
    Trouble that may pass (too many requests, a server error, a broken network) fails nothing: the wait
    goes on, and ``timeout`` is its bound. With ``soft_fail=True`` a failed or cancelled job and a
    time-out skip the task, but an error still fails it.

    :param job_id: the id of the job to wait for (templated).
    :param wasabi_conn_id: the :ref:`connection <howto/connection:wasabi>` to ask with (templated).
    :param max_error_count: how many errors a completed job may have. Default: any number.
    :param fetch_metadata: whether the XCom also tells where the result lies:
        ``{"metadata_path": "s3://…_metadata.json", "destination": {"bucket": "…", "region": "…"}}``. Right after
        the completion the API may not know that yet: it is asked for a minute.
    :param deferrable: whether to wait in the triggerer, where a wait takes no worker. Default: what
        ``[operators] default_deferrable`` says. Then ``mode`` means nothing, and ``poke_interval`` must
        be more than 0.
    :param end_from_trigger: whether a job that completed within ``max_error_count`` ends a deferred task
        right in the triggerer, without a worker. What it costs: Airflow does not run the task's
        ``on_success_callback`` then. Every other outcome resumes on a worker, as always.
    :raises ValueError: if an argument can't be used; if it is templated, when the task runs.
    """

    template_fields: Sequence[str] = ("job_id", "wasabi_conn_id")
    ui_color = "#d2f4c3"

    def __init__(
        self,
        *,
        job_id: str,
        max_error_count: int | None = None,
        fetch_metadata: bool = False,
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.max_error_count = max_error_count
        self.fetch_metadata = fetch_metadata
        self.end_from_trigger = end_from_trigger
        if job_id is None or isinstance(job_id, str):
            self._checked_id("job_id", job_id)
        check_whole("max_error_count", max_error_count, least=0, task_id=self.task_id)

    def _subject(self) -> str:
        return f"Job {self.job_id!r}"

    def _check_rendered(self) -> None:
        super()._check_rendered()
        self.job_id = self._checked_id("job_id", self.job_id)

    def _trigger(self) -> BaseTrigger:
        return WasabiJobTrigger(
            job_id=self.job_id,
            wasabi_conn_id=self.wasabi_conn_id,
            poke_interval=self.poke_interval,
            exponential_backoff=self.exponential_backoff,
            max_wait=self.max_wait.total_seconds() if self.max_wait else None,
            # The trigger would push the XCom whatever the task says of that.
            end_from_trigger=self.end_from_trigger and self.do_xcom_push,
            max_error_count=self.max_error_count,
            fetch_metadata=self.fetch_metadata,
        )

    def _look(self) -> Xcom | None:
        report = self.hook.get_job_status(self.job_id)
        self._story.answered(report.status.value, f"errors: {report.error_count}")
        return self._end(report) if report.status.is_final else None

    def _outcome(self, event: dict[str, Any]) -> Xcom | None:
        import msgspec

        from airflow_wasabi_jobs.api.models import JobReport

        return self._end(msgspec.convert(event, JobReport))

    def _end(self, report: JobReport) -> Xcom:
        why = None
        if report.status.value != "cancelled" and not report.is_completed_within(self.max_error_count):
            why = self._errors()
        told = verdict(
            report,
            wasabi_conn_id=self.wasabi_conn_id,
            max_error_count=self.max_error_count,
            error_code=why.error_code if why else None,
        )
        return told | self._metadata().as_xcom() if self.fetch_metadata else told

    def _errors(self) -> JobErrors | None:
        try:
            return self.hook.get_job_errors(self.job_id)
        except Exception as error:  # noqa: BLE001 - the verdict stands, whatever is wrong with what explains it
            self.log.warning("%s: nobody can say why. %s", self._subject(), error)
            return None

    def _metadata(self) -> JobMetadata:
        patience_ends = time.monotonic() + RESULT_PATIENCE
        while True:
            try:
                return self.hook.get_job_metadata(self.job_id)
            except errors.NotFound:
                if time.monotonic() + RESULT_PAUSE > patience_ends:
                    raise
            time.sleep(RESULT_PAUSE)


class WasabiBatchSensor(WasabiWait):
    """
    Waits until all the jobs of a batch are over, in any mode that a sensor has.

    It ends well when every job of the batch is final, there are at least ``expected_jobs`` of them, and at most
    ``max_failures`` failed or were cancelled. The XCom then is ``{"batch": "…", "counts": {"completed": 98, "failed":
    2}, "failures": ["<job id>", "<job id>"], "more_failures": 0}``, with at most 100 ids.

    Too many failures fail the task, without a retry. What else can go wrong is as with :class:`WasabiJobSensor`.
    A batch that has no job yet is waited for.

    :param batch: the name of the batch, as the jobs were submitted with (templated). It is compared exactly.
    :param expected_jobs: how many jobs the batch has at least (templated). Give it if jobs may still be on their way
        into the batch when those in it are over. Default: at least one.
    :param max_failures: how many jobs may fail or be cancelled. Default: none.
    :param fail_fast: whether too many failures end the wait at once. Default: True. Else when all jobs are over.
    :param wasabi_conn_id: the :ref:`connection <howto/connection:wasabi>` to ask with (templated).
    :param deferrable: whether to wait in the triggerer, where a wait takes no worker. Default: what
        ``[operators] default_deferrable`` says. Then ``mode`` means nothing, and ``poke_interval`` must
        be more than 0.
    :raises ValueError: if an argument can't be used; if it is templated, when the task runs.
    """

    template_fields: Sequence[str] = ("batch", "expected_jobs", "wasabi_conn_id")
    ui_color = "#d2f4c3"

    def __init__(
        self,
        *,
        batch: str,
        expected_jobs: int | None = None,
        max_failures: int = 0,
        fail_fast: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.expected_jobs = expected_jobs
        self.max_failures = max_failures
        self.fail_fast = fail_fast
        if submissions.is_known(batch):
            self._check_batch(batch)
        if submissions.is_known(expected_jobs):
            check_whole("expected_jobs", expected_jobs, least=1, task_id=self.task_id)
        if max_failures is None:
            raise ValueError(f"max_failures of task {self.task_id!r} is None. It must be a whole number.")
        check_whole("max_failures", max_failures, least=0, task_id=self.task_id)

    def _check_batch(self, batch: object) -> None:
        of = f" of task {self.task_id!r}"
        if submissions.checked("batch", batch, of=of) is None:
            raise ValueError(f"batch{of} is None, and must be a text that is not empty. {LOOK_UPSTREAM}")

    def _subject(self) -> str:
        return f"Batch {self.batch!r}"

    def _check_rendered(self) -> None:
        super()._check_rendered()
        self._check_batch(self.batch)
        if isinstance(self.expected_jobs, str) and self.expected_jobs.strip().isdecimal():
            self.expected_jobs = int(self.expected_jobs)
        check_whole("expected_jobs", self.expected_jobs, least=1, task_id=self.task_id)

    def _trigger(self) -> BaseTrigger:
        return WasabiBatchTrigger(
            batch=self.batch,
            wasabi_conn_id=self.wasabi_conn_id,
            poke_interval=self.poke_interval,
            exponential_backoff=self.exponential_backoff,
            max_wait=self.max_wait.total_seconds() if self.max_wait else None,
            expected_jobs=self.expected_jobs,
            max_failures=self.max_failures,
            fail_fast=self.fail_fast,
        )

    def _look(self) -> Xcom | None:
        report = self.hook.get_batch_report(
            self.batch,
            expected_jobs=self.expected_jobs,
            max_failures=self.max_failures,
            fail_fast=self.fail_fast,
        )
        self._story.answered(report.state, report.counts_told())
        return self._end(report) if report.is_over else None

    def _outcome(self, event: dict[str, Any]) -> Xcom | None:
        import msgspec

        from airflow_wasabi_jobs.api.batches import BatchReport

        return self._end(msgspec.convert(event, BatchReport))

    def _end(self, report: BatchReport) -> Xcom:
        named: list[str] = []
        if report.failure_count > self.max_failures:
            named = [self._named(job_id) for job_id in report.failures[:NAMED_FAILURES]]
        return batch_verdict(report, wasabi_conn_id=self.wasabi_conn_id, max_failures=self.max_failures, named=named)

    def _named(self, job_id: str) -> str:
        try:
            why = self.hook.get_job_errors(job_id)
        except Exception as error:  # noqa: BLE001 - the verdict stands, whatever is wrong with what explains it
            self.log.warning("%s: nobody can say why job %r failed. %s", self._subject(), job_id, error)
            return job_id
        return f"{job_id} ({why.error_code or why.status.value})"


def verdict(
    report: JobReport, *, wasabi_conn_id: str, max_error_count: int | None, error_code: str | None = None
) -> Xcom:
    """
    Return the XCom of a wait for a job that is over, or raise what the wait ends with.

    :param report: the report of the job, whose status is final.
    :param wasabi_conn_id: the connection's id, for the message.
    :param max_error_count: how many errors a completed job may have, or None for any number.
    :param error_code: why the job failed, for the message, or None if that is not known.
    :raises WasabiJobFailed: if the job failed, or completed with too many errors.
    :raises WasabiJobCancelled: if the job was cancelled.
    """
    job = f"Job {report.job_id!r} on connection {wasabi_conn_id!r}"
    many = f"{report.error_count} error{'' if report.error_count == 1 else 's'}"
    code = f" ({error_code})" if error_code else ""
    advice = "That is final. To have it analysed after all, clear the task that submits it, or submit a new job."
    if report.is_completed_within(max_error_count):
        return report.as_xcom()
    match report.status.value:
        case "completed":
            raise WasabiJobFailed(
                f"{job} completed with {many}{code}, and max_error_count is {max_error_count}. Look at the job's "
                "errors: if its result is good enough, raise max_error_count; if not, submit a new job."
            )
        case "failed":
            raise WasabiJobFailed(f"{job} failed, with {many}{code}. {advice}")
        case "cancelled":
            raise WasabiJobCancelled(f"{job} was cancelled, with {many} by then. {advice}")
        case status:
            raise ValueError(f"{job} is {status}, which is no verdict: the wait should have gone on.")


def batch_verdict(report: BatchReport, *, wasabi_conn_id: str, max_failures: int, named: Sequence[str]) -> Xcom:
    """
    Return the XCom of a wait for a batch that is over, or raise what the wait ends with.

    :param report: the report of the batch.
    :param wasabi_conn_id: the connection's id, for the message.
    :param max_failures: how many jobs may fail or be cancelled.
    :param named: the first jobs that failed, with the reason, for the message.
    :raises WasabiBatchFailed: if too many jobs failed or were cancelled.
    """
    if report.failure_count <= max_failures:
        return report.as_xcom()
    count, more = report.failure_count, report.failure_count - len(named)
    raise WasabiBatchFailed(
        f"Batch {report.batch!r} on connection {wasabi_conn_id!r}: "
        f"{count} {'job failed or was' if count == 1 else 'jobs failed or were'} cancelled, and max_failures is "
        f"{max_failures}: {', '.join(named)}{f' and {more} more' if more else ''}. That is final: submit new jobs for "
        "these files in a new batch, or raise max_failures if the others will do."
    )
