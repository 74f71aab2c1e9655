"""Which jobs are still running, by the lists of an account's unfinished jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.api.models import JobStatus, JobSummary
from airflow_wasabi_jobs.api.pages import MIN_PAGE_LIMIT

SendPage = Callable[[endpoints.Request[list[JobSummary]]], Awaitable[list[JobSummary] | WasabiApiError]]

MAX_CONCURRENT_PAGES = 8
# Fewer jobs are requested one by one: the three lists alone take three requests.
MIN_LISTED_JOBS = 10
# A list is abandoned after so many pages in a row that showed at most one job that is waited for.
MAX_USELESS_PAGES = 2
# Lists that cost more than they saved are skipped for up to so many polls.
MAX_SKIPPED_POLLS = 64

# In the order of a job's life: a job that changes its status meanwhile is seen in a later list.
_UNFINISHED = (JobStatus.SUBMITTED, JobStatus.PREFLIGHT, JobStatus.IN_PROGRESS)
_STAGES = {status: stage for stage, status in enumerate(_UNFINISHED)}


class UnfinishedJobLists:
    """Finds running jobs by lists, as long as that takes fewer requests than one for each job."""

    def __init__(self) -> None:
        self._page_counts = dict.fromkeys(_UNFINISHED, 1)
        self._polls_to_skip, self._useless_polls = 0, 0
        self._jobs_of_useless_poll = 0
        self._max_page_length = MIN_PAGE_LIMIT

    async def find_running(
        self, last_statuses: dict[str, JobStatus | None], send: SendPage, timeout_seconds: float
    ) -> dict[str, JobStatus]:
        """
        Return those jobs that the lists show as running, with their statuses.

        :param last_statuses: the jobs that are due, and the last known status of each.
        :param send: sends a request.
        :param timeout_seconds: seconds that the lists may take.
        """
        if len(last_statuses) < MIN_LISTED_JOBS:
            return {}
        if len(last_statuses) >= 2 * self._jobs_of_useless_poll:
            # There are so many more jobs that the lists may be useful now, as in a triggerer that has just started.
            self._polls_to_skip = self._useless_polls = 0
        if self._polls_to_skip:
            self._polls_to_skip -= 1
            return {}
        running: dict[str, JobStatus] = {}
        requests = 0
        try:
            async with asyncio.timeout(timeout_seconds):
                for status in _UNFINISHED:
                    requests += await self._read_list(status, last_statuses, running, send, requests)
        except (TimeoutError, WasabiApiError):
            is_useful = False
        else:
            is_useful = len(running) > requests
        self._jobs_of_useless_poll = 0 if is_useful else len(last_statuses)
        self._useless_polls = 0 if is_useful else self._useless_polls + 1
        self._polls_to_skip = 0 if is_useful else min(2 ** (self._useless_polls - 1), MAX_SKIPPED_POLLS)
        return running

    async def _read_list(
        self,
        status: JobStatus,
        last_statuses: dict[str, JobStatus | None],
        running: dict[str, JobStatus],
        send: SendPage,
        requests_before: int,
    ) -> int:
        """Add the jobs of a list to those that are running, and return the number of requests."""
        # A job does not return to an earlier status, so one that was in progress is in no list before that.
        missing = {
            job_id
            for job_id, last in last_statuses.items()
            if job_id not in running and (last is None or _STAGES[last] <= _STAGES[status])
        }
        number = useless_pages = 0
        is_last = False
        while not is_last and useless_pages < MAX_USELESS_PAGES and len(missing) > 1:
            # As many pages at once as the list had the last time, then more and more of them, and never more than the
            # missing jobs can fill.
            count = min(
                MAX_CONCURRENT_PAGES,
                math.ceil(len(missing) / endpoints.MAX_PAGE_SIZE),
                max(self._page_counts[status] - number, number, 1),
                len(last_statuses) // 2 - requests_before - number,
            )
            if count < 1:
                break
            requests = [
                endpoints.list_job_summaries(status=status, page_number=number + step) for step in range(1, count + 1)
            ]
            number += count
            for page in await asyncio.gather(*map(send, requests)):
                if isinstance(page, WasabiApiError):
                    if not page.is_transient:
                        raise page
                    useless_pages += 1
                    continue
                found = {job.job_id: job.status for job in page if job.job_id in missing and job.status in _STAGES}
                running |= found
                missing -= found.keys()
                useless_pages = 0 if len(found) > 1 else useless_pages + 1
                # A server may have a smaller limit for the size of a page than the API documents.
                self._max_page_length = max(self._max_page_length, len(page))
                is_last = is_last or not page or len(page) < self._max_page_length
        self._page_counts[status] = number
        return number
