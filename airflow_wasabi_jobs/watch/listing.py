"""Which jobs still run, by the lists of an account's unfinished jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.models import JobState, JobStatus

AskForPage = Callable[[calls.Call[list[JobState]]], Awaitable[list[JobState] | errors.AirError]]

PAGES_AT_ONCE = 8
# Fewer waits are asked for one by one: the three lists alone are three requests.
WORTH_LISTING = 10
# A list is given up after so many pages in a row that brought less than they cost.
BARREN_PAGES = 2
# A listing that was not worth it is not tried again for up to so many looks.
LONGEST_REST = 64

# In the order that a job goes: one that moves on while the lists are read is seen in a later one.
_UNFINISHED = (JobStatus.SUBMITTED, JobStatus.PREFLIGHT, JobStatus.IN_PROGRESS)
_STAGE = {status: stage for stage, status in enumerate(_UNFINISHED)}


class Listing:
    """Finds out by lists which jobs still run, for as long as that costs less than to ask for each of them."""

    def __init__(self) -> None:
        self._pages = dict.fromkeys(_UNFINISHED, 1)
        self._rest, self._rests = 0, 0
        self._spent = 0

    async def running(self, last: dict[str, JobStatus | None], ask: AskForPage, limit: float) -> dict[str, JobStatus]:
        """
        Return those of the jobs that the lists show as running.

        :param last: the jobs that are due, and where each of them stood when it was last seen.
        :param ask: carries a call.
        :param limit: seconds that the lists may take.
        """
        if len(last) < WORTH_LISTING:
            return {}
        if self._rest:
            self._rest -= 1
            return {}
        found: dict[str, JobStatus] = {}
        self._spent = 0
        try:
            async with asyncio.timeout(limit):
                for status in _UNFINISHED:
                    await self._read(status, last, found, ask)
        except (TimeoutError, errors.AirError):
            worth_it = False
        else:
            worth_it = len(found) > self._spent
        self._rests = 0 if worth_it else self._rests + 1
        self._rest = 0 if worth_it else min(2 ** (self._rests - 1), LONGEST_REST)
        return found

    async def _read(
        self, status: JobStatus, last: dict[str, JobStatus | None], found: dict[str, JobStatus], ask: AskForPage
    ) -> None:
        # A job never goes back: one that was in progress is not in the list of those before.
        missing = {
            job_id
            for job_id, stood in last.items()
            if job_id not in found and (stood is None or _STAGE[stood] <= _STAGE[status])
        }
        number = barren = 0
        is_last = False
        while not is_last and barren < BARREN_PAGES and len(missing) > 1:
            # No page is asked for that could not be needed: the list is read as far as it was the last time,
            # and then in growing strides, never further than the missing jobs can reach.
            stride = min(
                PAGES_AT_ONCE,
                math.ceil(len(missing) / calls.LONGEST_PAGE),
                max(self._pages[status] - number, number, 1),
                len(last) // 2 - self._spent,
            )
            if stride < 1:
                break
            asked = [calls.list_states(status=status, page_number=number + step) for step in range(1, stride + 1)]
            self._spent += stride
            number += stride
            for page in await asyncio.gather(*map(ask, asked)):
                if isinstance(page, errors.AirError):
                    if not page.is_passing:
                        raise page
                    barren += 1
                    continue
                new = {job.job_id: job.status for job in page if job.job_id in missing and job.status in _STAGE}
                found |= new
                missing -= new.keys()
                barren = 0 if len(new) > 1 else barren + 1
                is_last = is_last or len(page) < calls.LONGEST_PAGE
        self._pages[status] = number
