"""The outcome of a wait: the XCom of a success, or the exception of a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_wasabi_jobs.exceptions import WasabiBatchFailed, WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.waiting.status_log import describe_error_count

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.batches import BatchReport, FailedJob
    from airflow_wasabi_jobs.api.models import JobReport

XCom = dict[str, Any]


def job_outcome(
    report: JobReport, *, job: str, max_error_count: int | None, error_code: str | None, resubmit_advice: str
) -> XCom:
    """
    Return the XCom of a wait for a job that has finished, or raise its failure.

    :param report: the report of the job, whose status is terminal.
    :param job: how messages refer to the job, such as ``Job '12345' (connection 'wasabi_default')``.
    :param max_error_count: how many errors a completed job may have, or None for any number.
    :param error_code: the error code of a job that failed, or None if it is unknown.
    :param resubmit_advice: how to submit a new job, such as ``Clear this task to submit a new job.``
    :raises WasabiJobFailed: if the job failed, or completed with too many errors.
    :raises WasabiJobCancelled: if the job was cancelled.
    """
    if report.has_succeeded(max_error_count):
        return report.to_xcom()
    errors = describe_error_count(report.error_count)
    match report.status.value:
        case "completed":
            code = f" ({error_code})" if error_code else ""
            raise WasabiJobFailed(
                f"{job} completed with {errors}{code}, more than max_error_count={max_error_count}. Not retried. Raise "
                f"max_error_count if the result is good enough. {resubmit_advice}"
            )
        case "failed":
            reason = f"failed: {error_code}" if error_code else "failed"
            raise WasabiJobFailed(f"{job} {reason} ({errors}). Not retried. {resubmit_advice}")
        case "cancelled":
            raise WasabiJobCancelled(f"{job} was cancelled ({errors}). Not retried. {resubmit_advice}")
        case status:
            raise ValueError(f"{job} has not finished: its status is {status}.")


def batch_outcome(report: BatchReport, *, batch: str, max_failures: int) -> XCom:
    """
    Return the XCom of a wait for a batch that has finished, or raise its failure.

    :param report: the report of the batch.
    :param batch: how messages refer to the batch, such as ``Batch 'a' (connection 'wasabi_default')``.
    :param max_failures: how many jobs may fail or be cancelled.
    :raises WasabiBatchFailed: if too many jobs failed or were cancelled.
    """
    count, total = report.failure_count, sum(report.counts.values())
    if count <= max_failures:
        return report.to_xcom()
    number = f"{count} of {total}" if report.is_counted else f"{count}"
    failures = [_describe_failed_job(job) for job in report.failed_jobs]
    more = count - len(failures)
    raise WasabiBatchFailed(
        f"{batch}: {number} {'job' if total == 1 else 'jobs'} failed or {'was' if count == 1 else 'were'} cancelled, "
        f"more than max_failures={max_failures}: {', '.join(failures)}{f' and {more} more' if more else ''}. "
        "Not retried. Submit these files in a new batch, or raise max_failures if the other results are enough."
    )


def _describe_failed_job(job: FailedJob) -> str:
    reason = job.error_code or job.status.value
    if job.source:
        return f"{job.source.removeprefix('s3://')} (job {job.job_id}, {reason})"
    return f"job {job.job_id} ({reason})"
