"""A wait ends with the outcome of its job, whatever transient errors occur and whatever the lists contain."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import pytest
from connections import set_connection
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import (
    Loopback,
    Response,
    ServerConnection,
    chunked,
    cut,
    gzipped,
    json_response,
    reset,
    response,
    status_response,
)
from wait_runner import first_event

from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.sensors import WasabiJobSensor
from airflow_wasabi_jobs.triggers import WasabiJobTrigger

# 500 jobs on a worker, and 1,800 in a triggerer with 30 concurrent waits.
WORKER_EXAMPLES, TRIGGERER_EXAMPLES, CONCURRENT_WAITS = 500, 60, 30

COMPLETED_RESPONSE = status_response("completed")
TRANSIENT_FAULTS: dict[str, Response] = {
    "429": response(429),
    "429 with Retry-After 0": response(429, Retry_After="0"),
    "429 with a long Retry-After": response(429, Retry_After="1000000000"),
    "429 with an invalid Retry-After": response(429, Retry_After="soon"),
    "500": json_response({"Error": "An unexpected error occurred.", "ErrorCode": "INTERNAL_ERROR"}, 500),
    "503 with a completed status": response(503, COMPLETED_RESPONSE.partition(b"\r\n\r\n")[2]),
    "502 with Connection: close": response(502, "<html>", Connection="close"),
    "408": response(408),
    "425": response(425),
    "500 in gzip": gzipped(b"{}", status=500),
    "closed": cut(),
    "reset": reset(),
    "closed in the headers": cut(COMPLETED_RESPONSE[:40]),
    "closed in the body": cut(COMPLETED_RESPONSE[:-1]),
    "reset in the body": reset(COMPLETED_RESPONSE[:-1]),
    "closed between chunks": cut(chunked(COMPLETED_RESPONSE.partition(b"\r\n\r\n")[2], end=b"")),
    "closed in gzip": cut(gzipped(COMPLETED_RESPONSE.partition(b"\r\n\r\n")[2])[:-4]),
    "404 closed in the body": cut(response(404, "No such job")[:-1]),
}
RUNNING_STATUSES = ("submitted", "preflight", "in_progress")
FINAL_STATUSES = ("completed", "failed", "cancelled")
# Responses of the list endpoint: correct, wrong or an error.
LIST_RESPONSES: dict[str, Response | None] = {
    "correct": None,
    "all running": None,
    "all completed": None,
    "empty": json_response({"Records": []}),
    "503": response(503),
    "403": response(403),
    "html": response(200, "<html>"),
    "reset": reset(),
}


class Job(NamedTuple):
    """
    A job, and the response to each poll: a status, or the name of a transient fault.

    :param final_status: the status at the end.
    :param error_count: the number of errors at the end.
    """

    final_status: str
    error_count: int
    polls: tuple[str, ...]


def random_job(random: Random) -> Job:
    polls: list[str] = []
    for status in RUNNING_STATUSES:
        for _ in range(random.randint(0, 2)):
            polls += [*some_of(TRANSIENT_FAULTS, 3, random), status]
    final_status = random.choice(FINAL_STATUSES)
    return Job(final_status, random.choice([0, 1, 7]), (*polls, *some_of(TRANSIENT_FAULTS, 3, random), final_status))


def some_of(names: Iterable[str], at_most: int, random: Random) -> list[str]:
    return random.choices(sorted(names), k=random.randint(0, at_most))


class AccountScript:
    """Scripted responses for the jobs of one example."""

    def reset(self, jobs: list[Job], lists: list[str]) -> None:
        self.jobs = {f"job-{number}": job for number, job in enumerate(jobs)}
        self.remaining = {job_id: list(job.polls) for job_id, job in self.jobs.items()}
        self.lists = list(lists)
        self.poll_count: Counter[str] = Counter()

    def __call__(self, connection: ServerConnection) -> bytes | None:
        path, _, query = connection.request.target.partition("?")
        *_, job_id, kind = path.split("/")
        if job_id == "jobs":
            return json_response({"Id": kind, "Status": self.jobs[kind].final_status})
        if kind == "jobs":
            return self._list(self.lists.pop() if self.lists else "empty", parse_qs(query)["status"][0], connection)
        if kind == "errors":
            return json_response({"Id": job_id, "Status": self.jobs[job_id].final_status, "ErrorCode": "NO_MEDIA"})
        self.poll_count[job_id] += 1
        remaining = self.remaining[job_id]
        poll = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if poll in TRANSIENT_FAULTS:
            return _send(TRANSIENT_FAULTS[poll], connection)
        return status_response(poll, self.jobs[job_id].error_count, job_id)

    def _list(self, kind: str, status: str, connection: ServerConnection) -> bytes | None:
        if list_response := LIST_RESPONSES[kind]:
            return _send(list_response, connection)
        forced_status = {"all running": status, "all completed": "completed"}.get(kind)
        states = {job_id: forced_status or self._status(job_id) for job_id in self.jobs}
        return json_response(
            {
                "Records": [
                    {"Id": job_id, "Status": job_status}
                    for job_id, job_status in states.items()
                    if forced_status or job_status == status
                ]
            }
        )

    def _status(self, job_id: str) -> str:
        """Return the status that the next successful poll of the job will show."""
        return next(poll for poll in self.remaining[job_id] if poll not in TRANSIENT_FAULTS)


def _send(scripted: Response, connection: ServerConnection) -> bytes | None:
    return scripted if isinstance(scripted, bytes) else scripted(connection)


@pytest.fixture(scope="module")
def account() -> Iterator[AccountScript]:
    account = AccountScript()
    with Loopback(account) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_wasabi_jobs.polling.rate_limiter.MAX_PAUSE_SECONDS", 0.001)
        # Long enough that a valid response never times out on a slow machine.
        set_connection(patch, server.url, read_timeout=30)
        yield account


@pytest.mark.long
def test_wait_on_a_worker(account: AccountScript) -> None:
    seen_jobs = set()

    @settings(max_examples=WORKER_EXAMPLES)
    @given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        job = random_job(random)
        seen_jobs.add(job)
        account.reset([job], [])
        sensor = WasabiJobSensor(task_id="wait", job_id="job-0", poke_interval=0)
        exception = {"completed": None, "failed": WasabiJobFailed, "cancelled": WasabiJobCancelled}[job.final_status]

        for _ in job.polls[:-1]:
            assert not sensor.poke({}).is_done
        if exception is None:
            result = sensor.poke({})
            assert result.is_done
            assert result.xcom_value == {"job_id": "job-0", "status": "completed", "error_count": job.error_count}
        else:
            with pytest.raises(exception, match=rf"\({job.error_count} error"):
                sensor.poke({})

        assert account.poll_count == {"job-0": len(job.polls)}

    check()
    assert len(seen_jobs) > 0.95 * WORKER_EXAMPLES


@pytest.mark.long
def test_waits_in_a_triggerer(account: AccountScript) -> None:
    seen_jobs = set()

    @settings(max_examples=TRIGGERER_EXAMPLES)
    @given(st.randoms(use_true_random=True))
    def check(random: Random) -> None:
        account.reset([random_job(random) for _ in range(CONCURRENT_WAITS)], some_of(LIST_RESPONSES, 30, random))
        seen_jobs.update(account.jobs.values())

        async def run_triggers() -> list[Any]:
            triggers = [WasabiJobTrigger(job_id, "wasabi_default", poke_interval=0.001) for job_id in account.jobs]
            return await asyncio.gather(*map(first_event, triggers))

        events = asyncio.run(asyncio.wait_for(run_triggers(), 30))

        assert [event.payload for event in events] == [
            {"job_id": job_id, "status": job.final_status, "error_count": job.error_count}
            for job_id, job in account.jobs.items()
        ]
        assert account.poll_count == {job_id: len(job.polls) for job_id, job in account.jobs.items()}

    check()
    assert len(seen_jobs) > 0.95 * TRIGGERER_EXAMPLES * CONCURRENT_WAITS
