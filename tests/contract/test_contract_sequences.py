"""Whatever passing trouble comes in between, in whatever order: a wait ends as its job does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from connecting import connect
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from loopback import Answer, Loopback, Wire, answer, chunked, cut, gzipped, json_answer, report, reset
from waiting import first_event

from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.sensors import WasabiJobSensor
from airflow_wasabi_jobs.triggers import WasabiJobTrigger

# 500 jobs on a worker, and 1,560 in a triggerer, of which 30 are waited for together.
ON_A_WORKER, IN_A_TRIGGERER, TOGETHER = 500, 52, 30

DONE = report("completed")
PASSING: dict[str, Answer] = {
    "429": answer(429),
    "429 with a pause": answer(429, Retry_After="0"),
    "429 with a long pause": answer(429, Retry_After="1000000000"),
    "429 with nonsense": answer(429, Retry_After="soon"),
    "500": json_answer({"Error": "An unexpected error occurred.", "ErrorCode": "INTERNAL_ERROR"}, 500),
    "503 that lies": answer(503, DONE.partition(b"\r\n\r\n")[2]),
    "502 and the end": answer(502, "<html>", Connection="close"),
    "408": answer(408),
    "425": answer(425),
    "500 in gzip": gzipped(b"{}", status=500),
    "ended": cut(),
    "reset": reset(),
    "ended in the headers": cut(DONE[:40]),
    "ended in the body": cut(DONE[:-1]),
    "reset in the body": reset(DONE[:-1]),
    "ended between chunks": cut(chunked(DONE.partition(b"\r\n\r\n")[2], end=b"")),
    "ended in gzip": cut(gzipped(DONE.partition(b"\r\n\r\n")[2])[:-4]),
    "a 404 that ended": cut(answer(404, "No such job")[:-1]),
}
LISTS: dict[str, Answer] = {
    "nothing": json_answer({"Records": []}),
    "no time": answer(503),
    "not allowed": answer(403),
    "nonsense": answer(200, "<html>"),
    "the end": reset(),
}


class Job(NamedTuple):
    """
    What a job goes through, and what each look at it meets: a status, or trouble by its name.

    :param end: the status that it ends with.
    :param error_count: how many errors it has by then.
    """

    end: str
    error_count: int
    looks: list[str]


TROUBLE = st.lists(st.sampled_from(sorted(PASSING)), max_size=3)


@st.composite
def jobs(draw: Any) -> Job:
    end = draw(st.sampled_from(["completed", "failed", "cancelled"]))
    looks: list[str] = []
    for status in ("submitted", "preflight", "in_progress"):
        for _ in range(draw(st.integers(0, 1))):
            looks += [*draw(TROUBLE), status]
    return Job(end, draw(st.sampled_from([0, 1, 7])), [*looks, *draw(TROUBLE), end])


class Account:
    """The answers for the jobs of an example."""

    def __init__(self) -> None:
        self.lists: list[str] = []
        self.running: dict[str, Iterator[str]] = {}

    def begin(self, jobs: list[Job], lists: list[str]) -> None:
        self.jobs = {f"job-{number}": job for number, job in enumerate(jobs)}
        self.left = {job_id: list(job.looks) for job_id, job in self.jobs.items()}
        self.lists = list(lists)
        self.asked: Counter[str] = Counter()

    def __call__(self, wire: Wire) -> bytes | None:
        path = wire.request.target.partition("?")[0].split("/")
        if path[-1] == "jobs":
            return _said(LISTS[self.lists.pop() if self.lists else "nothing"], wire)
        job_id, kind = path[-2:]
        if kind == "errors":
            return json_answer({"Id": job_id, "Status": self.jobs[job_id].end, "ErrorCode": "NO_MEDIA"})
        self.asked[job_id] += 1
        left = self.left[job_id]
        look = left.pop(0) if len(left) > 1 else left[0]
        if look in PASSING:
            return _said(PASSING[look], wire)
        return report(look, self.jobs[job_id].error_count, job_id)


def _said(what: Answer, wire: Wire) -> bytes | None:
    return what if isinstance(what, bytes) else what(wire)


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    account = Account()
    with Loopback(account) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_wasabi_jobs.watch.pace.LONGEST_PAUSE", 0.001)
        # However busy the machine is, no good answer comes too late.
        connect(patch, server.url, read_timeout=30)
        yield account


@settings(max_examples=ON_A_WORKER)
@given(jobs())
def test_on_a_worker(account: Account, job: Job) -> None:
    account.begin([job], [])
    sensor = WasabiJobSensor(task_id="wait", job_id="job-0", poke_interval=0)
    verdict = {"completed": None, "failed": WasabiJobFailed, "cancelled": WasabiJobCancelled}[job.end]

    for _ in job.looks[:-1]:
        assert not sensor.poke({}).is_done
    if verdict is None:
        over = sensor.poke({})
        assert over.is_done
        assert over.xcom_value == {"job_id": "job-0", "status": "completed", "error_count": job.error_count}
    else:
        with pytest.raises(verdict, match=f"with {job.error_count} error"):
            sensor.poke({})

    assert account.asked == {"job-0": len(job.looks)}


@settings(max_examples=IN_A_TRIGGERER, phases=[Phase.generate])
@given(
    st.lists(jobs(), min_size=TOGETHER, max_size=TOGETHER),
    st.lists(st.sampled_from(sorted(LISTS)), max_size=9),
)
def test_in_a_triggerer(account: Account, jobs: list[Job], lists: list[str]) -> None:
    account.begin(jobs, lists)

    async def ends() -> list[Any]:
        waits = [WasabiJobTrigger(job_id, "wasabi_default", poke_interval=0.001) for job_id in account.jobs]
        return await asyncio.gather(*map(first_event, waits))

    events = asyncio.run(asyncio.wait_for(ends(), 30))

    assert [event.payload for event in events] == [
        {"job_id": job_id, "status": job.end, "error_count": job.error_count} for job_id, job in account.jobs.items()
    ]
    assert account.asked == {job_id: len(job.looks) for job_id, job in account.jobs.items()}
