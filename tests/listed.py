"""Jobs in lists, moved by a script: what a batch looks like from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback import Answer, Wire, json_answer

Jobs = dict[str, str]


class Listed:
    """
    An answer for a :class:`loopback.Loopback`: pages of jobs, and why each failed.

    :param stages: the jobs and their statuses, oldest first, one stage after the other. The next stage begins with
        the look after; the last one stays.
    :param batch: the batch of all jobs.
    :param others: jobs that the filter by batch lets through, though they are of another.
    :param trouble: what is answered instead, by the number of the request.
    """

    def __init__(
        self,
        *stages: Jobs,
        batch: str = "2026-11",
        others: Jobs | None = None,
        trouble: dict[int, Answer] | None = None,
        reasons: dict[str, Any] | None = None,
        moves: Callable[[int], Jobs | None] | None = None,
    ) -> None:
        self._stages = list(stages)
        self._batch = batch
        self._others = others or {}
        self._trouble = trouble or {}
        self._reasons = reasons or {}
        self._moves = moves
        self._lock = threading.Lock()
        self.asked: list[str] = []
        self.looks = 0

    def __call__(self, wire: Wire) -> bytes | None:
        with self._lock:
            assert wire.request is not None
            url = urlsplit(wire.request.target)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            number = len(self.asked)
            kind = url.path.rpartition("/")[2]
            self.asked.append(f"{kind} {query.get('status', 'all')} {query.get('pageNumber', '')}".strip())
            # Each look begins with the first page of what is submitted.
            if kind == "jobs" and query.get("status") == "submitted" and query["pageNumber"] == "1":
                self.looks += 1
                if self.looks > 1 and len(self._stages) > 1:
                    self._stages.pop(0)
            if number in self._trouble:
                what = self._trouble[number]
                return what if isinstance(what, bytes) else what(wire)
            if kind == "errors":
                job_id = url.path.split("/")[2]
                return json_answer({"Id": job_id, **self._reasons[job_id]}, 200)
            return json_answer({"Records": self._page(query)})

    def _page(self, query: dict[str, str]) -> list[dict[str, Any]]:
        jobs = self._moves and self._moves(len(self.asked) - 1)
        mine = {**self._stages[0], **(jobs or {})}
        records = [
            {"Id": job_id, "Status": status, "Batch": batch}
            for batch, listed in (("another", self._others), (self._batch, mine))
            for job_id, status in listed.items()
            if query.get("status") in {None, status}
        ]
        assert query["batch"] == self._batch
        first, size = int(query["pageNumber"]) - 1, int(query["pageSize"])
        return records[first * size : (first + 1) * size]
