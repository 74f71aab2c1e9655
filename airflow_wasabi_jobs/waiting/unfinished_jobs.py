"""The wait until at most a given number of a batch's jobs are unfinished, in a worker and in the triggerer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api import batches
from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.waiting.progress import Progress
from airflow_wasabi_jobs.waiting.status_log import StatusLog

if TYPE_CHECKING:
    from airflow_wasabi_jobs.polling import Subscription

_UNFINISHED = tuple(status for status in JobStatus if not status.is_terminal)
_FAILURES = (JobStatus.FAILED, JobStatus.CANCELLED)


class UnfinishedJobs(msgspec.Struct, frozen=True, kw_only=True):
    """
    What to wait for.

    :param batch: the batch.
    :param max_unfinished_jobs: the wait ends when no more jobs of the batch are unfinished.
    :param failed_jobs: how many jobs of the batch had failed before the wait.
    :param max_failures: the wait ends when more jobs than that have failed since then, or None to wait on.
    :param files: the number of files of the batch, for the log.
    :param files_to_submit: how many of them are left to submit, for the log.
    """

    batch: str
    max_unfinished_jobs: int = 0
    failed_jobs: int = 0
    max_failures: int | None = None
    files: int = 0
    files_to_submit: int = 0


async def wait_for_unfinished_jobs(wait: UnfinishedJobs, subscription: Subscription, poke_interval: float) -> None:
    """
    Poll at each interval until at most ``max_unfinished_jobs`` jobs are unfinished, or too many have failed.

    :param wait: what to wait for.
    :param subscription: sends the requests.
    :param poke_interval: seconds between two polls. The first poll follows after one interval.
    :raises WasabiApiError: a permanent error.
    """
    status_log = StatusLog(f"Batch {wait.batch!r}")
    counter = batches.BatchCounter(wait.batch)
    progress = Progress(wait.files, "done")
    while True:
        await asyncio.sleep(poke_interval)
        metrics.count("polls")
        try:
            is_over = not await subscription.send_all(
                batches.has_more_unfinished_jobs(wait.batch, wait.max_unfinished_jobs)
            )
            failures = 0
            if not is_over and (wait.max_failures is not None or status_log.is_progress_due("running")):
                failed = await subscription.send_all(counter.count(_FAILURES))
                failures = max(0, sum(failed.values()) - wait.failed_jobs)
                is_over = wait.max_failures is not None and failures > wait.max_failures
            if not is_over and status_log.is_progress_due("running"):
                unfinished = sum((await subscription.send_all(counter.count(_UNFINISHED))).values())
                done = max(0, wait.files - wait.files_to_submit - unfinished)
                await asyncio.to_thread(status_log.record_progress, "running", progress.describe(done, failures))
        except WasabiApiError as error:
            if not error.is_transient:
                raise
            await asyncio.to_thread(status_log.record_error, error)
            continue
        if is_over:
            return
