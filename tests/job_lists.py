"""Scripted responses of the list endpoint: how the jobs of a batch change from poll to poll."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import Response, ServerConnection, json_response

Jobs = dict[str, str]


class JobListResponses:
    """
    A response for a :class:`loopback.Loopback`: pages of jobs, and the errors of each failed job.

    :param stages: the jobs and their statuses at each poll, oldest first. The last stage is repeated.
    :param batch: name of the batch of these jobs.
    :param other_jobs: jobs of another batch that the list contains in spite of the batch filter.
    :param faults: responses to send instead, by request number.
    :param error_reports: bodies of the errors endpoint, by job id.
    :param with_sources: whether each job has a media file, ``media/<job id>.mp4``.
    :param jobs_at: returns more jobs for a request number.
    """

    def __init__(
        self,
        *stages: Jobs,
        batch: str = "2026-11",
        other_jobs: Jobs | None = None,
        faults: dict[int, Response] | None = None,
        error_reports: dict[str, Any] | None = None,
        with_sources: bool = False,
        jobs_at: Callable[[int], Jobs | None] | None = None,
    ) -> None:
        self._stages = list(stages)
        self._batch = batch
        self._other_jobs = other_jobs or {}
        self._faults = faults or {}
        self._error_reports = error_reports or {}
        self._with_sources = with_sources
        self._jobs_at = jobs_at
        self._lock = threading.Lock()
        self.requests: list[str] = []
        self.polls = 0

    def __call__(self, connection: ServerConnection) -> bytes | None:
        with self._lock:
            assert connection.request is not None
            url = urlsplit(connection.request.target)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            number = len(self.requests)
            kind = url.path.rpartition("/")[2]
            self.requests.append(f"{kind} {query.get('status', 'all')} {query.get('pageNumber', '')}".strip())
            # Each poll begins with the first page of the submitted jobs.
            if kind == "jobs" and query.get("status") == "submitted" and query["pageNumber"] == "1":
                self.polls += 1
                if self.polls > 1 and len(self._stages) > 1:
                    self._stages.pop(0)
            if number in self._faults:
                fault = self._faults[number]
                return fault if isinstance(fault, bytes) else fault(connection)
            if kind == "errors":
                job_id = url.path.split("/")[2]
                no_code = {"Status": self._stages[0].get(job_id, "failed")}
                return json_response({"Id": job_id, **self._error_reports.get(job_id, no_code)})
            return json_response({"Records": self._page(query)})

    def _page(self, query: dict[str, str]) -> list[dict[str, Any]]:
        jobs = self._jobs_at and self._jobs_at(len(self.requests) - 1)
        mine = {**self._stages[0], **(jobs or {})}
        records = [
            {"Id": job_id, "Status": status, "Batch": batch, **self._source(job_id)}
            for batch, listed in (("another", self._other_jobs), (self._batch, mine))
            for job_id, status in listed.items()
            if query.get("status") in {None, status}
        ]
        assert query["batch"] == self._batch
        first, size = int(query["pageNumber"]) - 1, int(query["pageSize"])
        return records[first * size : (first + 1) * size]

    def _source(self, job_id: str) -> dict[str, Any]:
        return {"Source": {"Bucket": "media", "ObjectKey": f"{job_id}.mp4"}} if self._with_sources else {}
