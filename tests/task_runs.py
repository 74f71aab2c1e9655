"""Runs of a submit task, workers that are killed, and scripted responses of the jobs endpoints."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import select
import signal
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import urllib3.connection
from loopback import Response, ServerConnection, json_response, response

from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator

FILE = {"bucket": "media", "object_key": "monday.mp4"}
RESULTS = {"bucket": "results", "region": "us-east-1"}
Job = dict[str, Any]


def submit_task(**arguments: Any) -> WasabiSubmitJobOperator:
    """Create the task, as each worker process does."""
    defaults = {"task_id": "submit", "source": FILE, "destination": RESULTS, "services": ["ocr"]}
    return WasabiSubmitJobOperator(**{**defaults, "poke_interval": 0.02, "timeout": 20, **arguments})


def execute(task: WasabiSubmitJobOperator, context: Any) -> Any:
    """Execute a task as Airflow does: without the guard that warns when other code calls ``execute``."""
    return inspect.unwrap(WasabiSubmitJobOperator.execute)(task, context)


@dataclass(frozen=True)
class TaskRun:
    """
    One task instance, as Airflow passes it in the context.

    :param xcom_file: file with the XComs, which outlives the process that pushes them.
    :param try_number: the number of the try, from 1.
    :param task_state_store: Airflow's state of the task instance across tries (Airflow 3.3 and later).
    """

    xcom_file: Path
    run_id: str = "manual__2026-01-01T00:00:00+00:00"
    map_index: int = -1
    dag_id: str = "media"
    task_id: str = "submit"
    task_state_store: Any = None
    try_number: int = 1

    @property
    def context(self) -> Any:
        return (
            {"ti": self} if self.task_state_store is None else {"ti": self, "task_state_store": self.task_state_store}
        )

    @property
    def xcoms(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.xcom_file.read_text()) if self.xcom_file.exists() else {}
        return result

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcom_file.write_text(json.dumps({**self.xcoms, key: value}))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)

    def clear_xcoms(self) -> None:
        self.xcom_file.unlink(missing_ok=True)

    def start_try(self, **arguments: Any) -> Any:
        """Start a try of the task, as a worker does."""
        self.clear_xcoms()
        result = execute(submit_task(**arguments), self.context)
        self.xcom_push("return_value", result)
        return result

    def resume_try(self, next_method: str, next_kwargs: dict[str, Any], **arguments: Any) -> Any:
        """Resume a deferred try of the task, as a worker does."""
        return submit_task(**arguments).resume_execution(next_method, next_kwargs, self.context)


def _kill_this_process(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_before(owner: type, name: str) -> None:
    setattr(owner, name, _kill_this_process)


def _kill_after(owner: type, name: str) -> None:
    original = getattr(owner, name)

    def call_and_be_killed(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        _kill_this_process()

    setattr(owner, name, call_and_be_killed)


def _kill_before_response() -> None:
    """Kill this process when the response to the POST arrives: the API has created the job, but its id is lost."""
    submit = WasabiJobsHook.submit_job

    def kill_when_response_arrives(connection: Any) -> None:
        select.select([connection.sock], [], [], 20)
        _kill_this_process()

    def submit_and_be_killed(*arguments: Any, **options: Any) -> Any:
        urllib3.connection.HTTPConnection.getresponse = kill_when_response_arrives
        return submit(*arguments, **options)

    WasabiJobsHook.submit_job = submit_and_be_killed


KILL_POINTS: dict[str, Callable[[], None]] = {
    "before the lookup": lambda: _kill_before(WasabiJobsHook, "list_jobs"),
    "before the POST": lambda: _kill_before(WasabiJobsHook, "submit_job"),
    "before the response to the POST": _kill_before_response,
    "before the XCom": lambda: _kill_before(TaskRun, "xcom_push"),
    "after the XCom": lambda: _kill_after(TaskRun, "xcom_push"),
    "before the first poll": lambda: _kill_before(WasabiJobsHook, "get_job_status"),
    "after the first poll": lambda: _kill_after(WasabiJobsHook, "get_job_status"),
}


def run_worker(run: TaskRun, connection_uri: str, *, killed_at: str | None = None, **arguments: Any) -> int:
    """
    Run one try in its own process, and return the exit code: minus the signal that killed the process.

    :param killed_at: where the process kills itself, one of :data:`KILL_POINTS`. Default: nowhere.
    """
    process = _processes.Process(target=_run_try, args=(run, connection_uri, killed_at, arguments))
    process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
    if (result := _error_file(run)).exists():
        raise AssertionError(result.read_text())
    assert process.exitcode is not None, "the worker did not end"
    return process.exitcode


# Fork from a process that has imported Airflow and has no other thread: importing Airflow takes seconds.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "airflow_wasabi_jobs.operators",
        "airflow_wasabi_jobs.hooks",
        "airflow_wasabi_jobs.submitting.batch_run",
        "airflow_wasabi_jobs.polling",
        "airflow_wasabi_jobs.emulator",
        "airflow.models.connection",
        "wait_runner",
    ]
)


def _error_file(run: TaskRun) -> Path:
    return run.xcom_file.with_suffix(".error")


def _run_try(run: TaskRun, connection_uri: str, killed_at: str | None, arguments: dict[str, Any]) -> None:
    os.environ["AIRFLOW_CONN_WASABI_DEFAULT"] = connection_uri
    if killed_at:
        KILL_POINTS[killed_at]()
    try:
        run.start_try(**arguments)
    except BaseException:
        _error_file(run).write_text(traceback.format_exc())
        raise


def make_job(name: str, status: str, source: dict[str, str] | None = None, **fields: Any) -> Job:
    """Build a job as the API returns it."""
    field_names = {"bucket": "Bucket", "object_key": "ObjectKey"}
    source_fields = {field_names[field]: value for field, value in (FILE if source is None else source).items()}
    return {"Id": uuid.uuid4().hex, "Name": name, "Status": status, "Source": source_fields, **fields}


class AccountResponses:
    """
    Responses of the jobs endpoints for a Loopback. An unfinished job completes after its status was requested once.

    :param jobs: the existing jobs, oldest first.
    :param post_responses: for each of the first POSTs: whether it creates the job, and the response.
    :param lookup_responses: responses to the first lookups by name.
    :param hidden_for: number of lookups that do not show a new job yet.
    :param initial_status: status of a new job.
    :ivar faults: responses to send from now on instead, by request such as ``GET /jobs/12345``.
    :ivar requests: the received requests, in this form.
    :ivar posted_bodies: the bodies of the POSTs.
    """

    def __init__(
        self,
        *jobs: Job,
        post_responses: tuple[tuple[bool, Response], ...] = (),
        lookup_responses: tuple[Response, ...] = (),
        hidden_for: int = 0,
        initial_status: str = "submitted",
    ) -> None:
        self.jobs = list(jobs)
        self.post_responses = list(post_responses)
        self.lookup_responses = list(lookup_responses)
        self.initial_status = initial_status
        self.faults: dict[str, Response] = {}
        self.requests: list[str] = []
        self.posted_bodies: list[Any] = []
        self._hidden_for = hidden_for

    def count(self, request: str) -> int:
        return self.requests.count(request)

    @property
    def polled_jobs(self) -> list[str]:
        """The ids of the jobs whose status was requested."""
        return [path.split("/")[2] for path in self.requests if path.endswith("/status")]

    def __call__(self, connection: ServerConnection) -> bytes | None:
        assert connection.request is not None
        path, _, query = connection.request.target.partition("?")
        self.requests.append(f"{connection.request.method} {path}")
        if fault := self.faults.get(self.requests[-1]):
            return _send(fault, connection)
        match connection.request.method, path.split("/")[2:]:
            case "POST", []:
                return self._submit(connection)
            case "GET", []:
                return self._list(dict(parse_qsl(query)), connection)
            case "GET", [job_id, *endpoint]:
                return self._job(job_id, endpoint)
        return response(405)

    def _submit(self, connection: ServerConnection) -> bytes | None:
        assert connection.request is not None
        body = json.loads(connection.request.body)
        self.posted_bodies.append(body)
        creates_job, job_response = self.post_responses.pop(0) if self.post_responses else (True, None)
        job = {"Id": uuid.uuid4().hex, "Status": self.initial_status, **body}
        if creates_job:
            self.jobs.append(job)
        if job_response is None:
            return json_response({"Job": job})
        return _send(job_response, connection)

    def _list(self, query: dict[str, str], connection: ServerConnection) -> bytes | None:
        if self.lookup_responses:
            return _send(self.lookup_responses.pop(0), connection)
        hidden = 0
        if self.posted_bodies and self._hidden_for:
            self._hidden_for -= 1
            hidden = 1
        visible = self.jobs[: len(self.jobs) - hidden]
        matching = [job for job in visible if job.get("Name", query["name"]) == query["name"]]
        if query["sortOrder"] == "Desc":
            matching.reverse()
        size, number = int(query["pageSize"]), int(query["pageNumber"])
        return json_response({"Records": matching[(number - 1) * size : number * size]})

    def _job(self, job_id: str, endpoint: list[str]) -> bytes:
        job = next((job for job in self.jobs if job["Id"] == job_id), None)
        if job is None:
            return json_response({"ErrorCode": "NOT_FOUND"}, 404)
        if not endpoint:
            return json_response(job)
        result = {"Id": job_id, "Status": job["Status"], "ErrorCount": job.get("ErrorCount", 0)}
        if endpoint == ["status"] and job["Status"] not in {"completed", "failed", "cancelled"}:
            job["Status"] = "completed"
        return json_response(result)


def _send(scripted: Response, connection: ServerConnection) -> bytes | None:
    return scripted if isinstance(scripted, bytes) else scripted(connection)
