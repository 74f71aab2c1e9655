"""What submits: a task's runs and tries, workers that are killed, and an account whose jobs a test sets up."""

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
from loopback import Answer, Wire, answer, json_answer

from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator

FILE = {"bucket": "media", "object_key": "monday.mp4"}
RESULTS = {"bucket": "results", "region": "us-east-1"}
Job = dict[str, Any]


def submitting(**arguments: Any) -> WasabiSubmitJobOperator:
    """Make the task, as each process that works on it makes it anew."""
    least = {"task_id": "submit", "source": FILE, "destination": RESULTS, "services": ["ocr"]}
    return WasabiSubmitJobOperator(**{**least, "poke_interval": 0.02, "timeout": 20, **arguments})


def execute(task: WasabiSubmitJobOperator, context: Any) -> Any:
    """Do what Airflow does with a task: past the guard against everybody else who calls ``execute``."""
    return inspect.unwrap(WasabiSubmitJobOperator.execute)(task, context)


@dataclass(frozen=True)
class TaskRun:
    """
    One run of the task, as Airflow hands it over.

    :param kept: the file where its XComs are, which outlives whatever process pushes them.
    :param store: what Airflow keeps of the task run over its tries, from 3.3 on.
    """

    kept: Path
    run_id: str = "manual__2026-01-01T00:00:00+00:00"
    map_index: int = -1
    dag_id: str = "media"
    task_id: str = "submit"
    store: Any = None

    @property
    def context(self) -> Any:
        return {"ti": self} if self.store is None else {"ti": self, "task_state_store": self.store}

    @property
    def xcoms(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        return told

    def xcom_push(self, key: str, value: Any) -> None:
        self.kept.write_text(json.dumps({**self.xcoms, key: value}))

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)

    def clear_xcoms(self) -> None:
        self.kept.unlink(missing_ok=True)

    def begin(self, **arguments: Any) -> Any:
        """Begin a try of the task, as a worker does."""
        self.clear_xcoms()
        told = execute(submitting(**arguments), self.context)
        self.xcom_push("return_value", told)
        return told

    def resume(self, next_method: str, next_kwargs: dict[str, Any], **arguments: Any) -> Any:
        """Go on with a try of the task that deferred, as a worker does."""
        return submitting(**arguments).resume_execution(next_method, next_kwargs, self.context)


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_before(owner: type, name: str) -> None:
    setattr(owner, name, _die)


def _die_after(owner: type, name: str) -> None:
    original = getattr(owner, name)

    def dying(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        _die()

    setattr(owner, name, dying)


def _die_unanswered() -> None:
    """Die when the answer to the POST is on its way: the API made the job, and this process can't know."""
    submit = WasabiJobsHook.submit_job

    def await_death(connection: Any) -> None:
        select.select([connection.sock], [], [], 20)
        _die()

    def unanswered(*arguments: Any, **options: Any) -> Any:
        urllib3.connection.HTTPConnection.getresponse = await_death
        return submit(*arguments, **options)

    WasabiJobsHook.submit_job = unanswered


DEATHS: dict[str, Callable[[], None]] = {
    "before the look-up": lambda: _die_before(WasabiJobsHook, "list_jobs"),
    "before the POST": lambda: _die_before(WasabiJobsHook, "submit_job"),
    "while the POST is under way": _die_unanswered,
    "before the XCom": lambda: _die_before(TaskRun, "xcom_push"),
    "after the XCom": lambda: _die_after(TaskRun, "xcom_push"),
    "before the first look": lambda: _die_before(WasabiJobsHook, "get_job_status"),
    "after the first look": lambda: _die_after(WasabiJobsHook, "get_job_status"),
}


def worker(run: TaskRun, connection_uri: str, *, dies: str | None = None, **arguments: Any) -> int:
    """
    Try the task in a process of its own, and return what the process ended with: minus the signal that killed it.

    :param dies: when it is to kill itself, one of :data:`DEATHS`. Default: never.
    """
    process = _processes.Process(target=_work, args=(run, connection_uri, dies, arguments))
    process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
    if (told := _told(run)).exists():
        raise AssertionError(told.read_text())
    assert process.exitcode is not None, "the worker did not end"
    return process.exitcode


# Forked from a process that has imported Airflow and has no other thread: to import it takes seconds.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["airflow_wasabi_jobs.operators", "airflow_wasabi_jobs.hooks", "airflow.models.connection"]
)


def _told(run: TaskRun) -> Path:
    return run.kept.with_suffix(".error")


def _work(run: TaskRun, connection_uri: str, dies: str | None, arguments: dict[str, Any]) -> None:
    os.environ["AIRFLOW_CONN_WASABI_DEFAULT"] = connection_uri
    if dies:
        DEATHS[dies]()
    try:
        run.begin(**arguments)
    except BaseException:
        _told(run).write_text(traceback.format_exc())
        raise


def a_job(name: str, status: str, source: dict[str, str] | None = None, **fields: Any) -> Job:
    """Make a job as the API shows it."""
    named = {"bucket": "Bucket", "object_key": "ObjectKey"}
    place = {named[field]: value for field, value in (FILE if source is None else source).items()}
    return {"Id": uuid.uuid4().hex, "Name": name, "Status": status, "Source": place, **fields}


class Account:
    """
    An account's jobs, for a Loopback to serve, oldest first. The status of an unfinished one is told once; then it
    completes.

    :param jobs: the jobs that are there.
    :param posts: what happens to the first POSTs: whether the job is made, and the answer.
    :param looks: the answers to the first look-ups.
    :param unseen_for: how many look-ups do not show a new job yet.
    :param born: the status of a new job.
    :ivar troubles: what is answered from now on to a request such as ``GET /jobs/12345``.
    :ivar asked: the requests that came, in this form.
    :ivar posted: the bodies of the POSTs.
    """

    def __init__(
        self,
        *jobs: Job,
        posts: tuple[tuple[bool, Answer], ...] = (),
        looks: tuple[Answer, ...] = (),
        unseen_for: int = 0,
        born: str = "submitted",
    ) -> None:
        self.jobs = list(jobs)
        self.posts = list(posts)
        self.looks = list(looks)
        self.born = born
        self.troubles: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.posted: list[Any] = []
        self._unseen_for = unseen_for

    def count(self, request: str) -> int:
        return self.asked.count(request)

    @property
    def waited_for(self) -> list[str]:
        """The ids of the jobs whose status was asked for."""
        return [path.split("/")[2] for path in self.asked if path.endswith("/status")]

    def __call__(self, wire: Wire) -> bytes | None:
        assert wire.request is not None
        path, _, query = wire.request.target.partition("?")
        self.asked.append(f"{wire.request.method} {path}")
        if trouble := self.troubles.get(self.asked[-1]):
            return _sent(trouble, wire)
        match wire.request.method, path.split("/")[2:]:
            case "POST", []:
                return self._submit(wire)
            case "GET", []:
                return self._list(dict(parse_qsl(query)), wire)
            case "GET", [job_id, *call]:
                return self._job(job_id, call)
        return answer(405)

    def _submit(self, wire: Wire) -> bytes | None:
        assert wire.request is not None
        body = json.loads(wire.request.body)
        self.posted.append(body)
        is_made, what = self.posts.pop(0) if self.posts else (True, None)
        job = {"Id": uuid.uuid4().hex, "Status": self.born, **body}
        if is_made:
            self.jobs.append(job)
        if what is None:
            return json_answer({"Job": job})
        return _sent(what, wire)

    def _list(self, query: dict[str, str], wire: Wire) -> bytes | None:
        if self.looks:
            return _sent(self.looks.pop(0), wire)
        hidden = 0
        if self.posted and self._unseen_for:
            self._unseen_for -= 1
            hidden = 1
        seen = self.jobs[: len(self.jobs) - hidden]
        matching = [job for job in seen if job["Name"] == query["name"]]
        if query["sortOrder"] == "Desc":
            matching.reverse()
        size, number = int(query["pageSize"]), int(query["pageNumber"])
        return json_answer({"Records": matching[(number - 1) * size : number * size]})

    def _job(self, job_id: str, call: list[str]) -> bytes:
        job = next((job for job in self.jobs if job["Id"] == job_id), None)
        if job is None:
            return json_answer({"ErrorCode": "NOT_FOUND"}, 404)
        if not call:
            return json_answer(job)
        told = {"Id": job_id, "Status": job["Status"], "ErrorCount": job.get("ErrorCount", 0)}
        if call == ["status"] and job["Status"] not in {"completed", "failed", "cancelled"}:
            job["Status"] = "completed"
        return json_answer(told)


def _sent(what: Answer, wire: Wire) -> bytes | None:
    return what if isinstance(what, bytes) else what(wire)
