"""When a list of jobs is complete."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class _HasId(Protocol):
    @property
    def job_id(self) -> str: ...


# A server that allows fewer jobs on a page is not expected, and small lists should take one request.
MIN_PAGE_LIMIT = 10

J = TypeVar("J", bound=_HasId)


class Pages(Generic[J]):
    """
    The pages of a list, in order.

    The API documents that the last page has fewer jobs than requested, 100. A server with a smaller limit would hide
    jobs, so the last page is the first one that is shorter than the longest so far, or that has fewer than 10 jobs. A
    page without a new job ends the list, too: some servers repeat their last page forever.

    :param max_repeated_pages: so many pages in a row without a new job do not end the list. If the newest job comes
        first, jobs that are created meanwhile move others to where they are seen twice. Default: 0.
    """

    def __init__(self, max_repeated_pages: int = 0) -> None:
        self.next_number = 1
        self.is_complete = False
        self._max_repeated_pages = max_repeated_pages
        self._repeated_pages = 0
        self._ids: set[str] = set()
        self._max_length = MIN_PAGE_LIMIT

    def add(self, page: list[J]) -> list[J]:
        """Add the next page, and return its jobs that were on no page before."""
        new = {job.job_id: job for job in page if job.job_id not in self._ids}
        self._ids |= new.keys()
        self._max_length = max(self._max_length, len(page))
        self._repeated_pages = 0 if new else self._repeated_pages + 1
        self.is_complete = self._repeated_pages > self._max_repeated_pages or len(page) < self._max_length
        self.next_number += 1
        return list(new.values())
