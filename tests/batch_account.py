"""Scripted responses of the jobs endpoints for a batch of files."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from loopback import Response, ServerConnection, json_response

Job = dict[str, Any]


class BatchAccount:
    """
    Responses for a :class:`loopback.Loopback`. A job completes, unless its file's name begins with ``fails`` or
    ``cancels``, when :attr:`polls_to_finish` polls for submitted jobs were received after its submission.

    :param jobs: the existing jobs, oldest first.
    :param post_response: returns another response to a POST from its number and its body, or None.
    :param polls_to_finish: how many polls show a job as submitted.
    :ivar requests: the received requests, such as ``GET /jobs``.
    :ivar max_unfinished: how many jobs were unfinished at the same time at most.
    """

    def __init__(
        self,
        *jobs: Job,
        post_response: Callable[[int, Any], Response | None] = lambda _number, _body: None,
        polls_to_finish: int = 1,
    ) -> None:
        self.jobs = list(jobs)
        self.post_response = post_response
        self.polls_to_finish = polls_to_finish
        self.requests: list[str] = []
        self.max_unfinished = 0
        self._polls = 0
        self._posts = 0
        self._lock = threading.Lock()

    @property
    def submitted(self) -> Counter[str]:
        """How many jobs each file has."""
        return Counter(job["Source"]["ObjectKey"] for job in self.jobs)

    def count(self, request: str) -> int:
        return self.requests.count(request)

    def __call__(self, connection: ServerConnection) -> bytes | None:
        assert connection.request is not None
        path, _, query = connection.request.target.partition("?")
        with self._lock:
            self.requests.append(f"{connection.request.method} {path}")
            if connection.request.method == "POST":
                scripted = self._submit(json.loads(connection.request.body))
            elif path == "/jobs":
                scripted = self._list(dict(parse_qsl(query)))
            else:
                scripted = self._job(*path.split("/")[2:])
        return scripted if isinstance(scripted, bytes) else scripted(connection)

    def _submit(self, body: Any) -> Response:
        self._posts += 1
        scripted = self.post_response(self._posts, body)
        if isinstance(scripted, bytes):
            return scripted
        job = {"Id": uuid.uuid4().hex, "_finishes_at": self._polls + self.polls_to_finish, **body}
        self.jobs.append(job)
        self.max_unfinished = max(self.max_unfinished, sum(self._status(job) == "submitted" for job in self.jobs))
        return scripted or json_response({"Job": self._record(job)})

    def _list(self, query: dict[str, str]) -> Response:
        if query.get("status") == "submitted" and query["pageNumber"] == "1":
            self._polls += 1
        matching = [
            self._record(job)
            for job in self.jobs
            if job["Batch"] == query["batch"] and query.get("status") in {None, self._status(job)}
        ]
        size, number = int(query["pageSize"]), int(query["pageNumber"])
        return json_response({"Records": matching[(number - 1) * size : number * size]})

    def _job(self, job_id: str, endpoint: str) -> Response:
        job = next(job for job in self.jobs if job["Id"] == job_id)
        report = {"Id": job_id, "Status": self._status(job), "ErrorCount": job.get("ErrorCount", 0)}
        if endpoint == "errors":
            report["ErrorCode"] = "INTERNAL_ERROR" if report["Status"] == "failed" else ""
        if endpoint == "metadata":
            return json_response({"Id": job_id, "DestinationPath": f"s3://results/{job_id}_metadata.json"})
        return json_response(report)

    def _record(self, job: Job) -> Job:
        return {name: value for name, value in job.items() if name[0] != "_"} | {"Status": self._status(job)}

    def _status(self, job: Job) -> str:
        if "Status" in job:
            return str(job["Status"])
        if self._polls < job["_finishes_at"]:
            return "submitted"
        name = job["Source"]["ObjectKey"]
        return "failed" if name.startswith("fails") else "cancelled" if name.startswith("cancels") else "completed"


def make_batch_job(file: str, status: str, batch: str, **fields: Any) -> Job:
    """Build the job of a file in the bucket ``media``, as the API returns it."""
    return {
        "Id": uuid.uuid4().hex,
        "Name": f"{batch}/media/{file}",
        "Status": status,
        "Batch": batch,
        "Source": {"Bucket": "media", "ObjectKey": file},
        **fields,
    }
