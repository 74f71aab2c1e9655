"""Whatever passing trouble is answered in between, and whatever the lists say: a wait ends as its job does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import pytest
from connecting import connect
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Answer, Loopback, Wire, answer, chunked, cut, gzipped, json_answer, report, reset
from waiting import first_event

from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.sensors import WasabiJobSensor
from airflow_wasabi_jobs.triggers import WasabiJobTrigger

# 500 jobs on a worker, and 1,800 in a triggerer, of which 30 are waited for together.
ON_A_WORKER, IN_A_TRIGGERER, TOGETHER = 500, 60, 30

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
STATUSES = ("submitted", "preflight", "in_progress")
ENDS = ("completed", "failed", "cancelled")
# What a list of jobs may be: of use, no list at all, or not what is true.
LISTS: dict[str, Answer | None] = {
    "as it is": None,
    "all of them run": None,
    "all of them are over": None,
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
    looks: tuple[str, ...]


def any_job(chance: Random) -> Job:
    looks: list[str] = []
    for status in STATUSES:
        for _ in range(chance.randint(0, 2)):
            looks += [*some_of(PASSING, 3, chance), status]
    end = chance.choice(ENDS)
    return Job(end, chance.choice([0, 1, 7]), (*looks, *some_of(PASSING, 3, chance), end))


def some_of(names: Iterable[str], most: int, chance: Random) -> list[str]:
    return chance.choices(sorted(names), k=chance.randint(0, most))


class Account:
    """The answers for the jobs of an example."""

    def begin(self, jobs: list[Job], lists: list[str]) -> None:
        self.jobs = {f"job-{number}": job for number, job in enumerate(jobs)}
        self.left = {job_id: list(job.looks) for job_id, job in self.jobs.items()}
        self.lists = list(lists)
        self.asked: Counter[str] = Counter()

    def __call__(self, wire: Wire) -> bytes | None:
        path, _, query = wire.request.target.partition("?")
        *_, job_id, kind = path.split("/")
        if kind == "jobs":
            return self._listed(self.lists.pop() if self.lists else "nothing", parse_qs(query)["status"][0], wire)
        if kind == "errors":
            return json_answer({"Id": job_id, "Status": self.jobs[job_id].end, "ErrorCode": "NO_MEDIA"})
        self.asked[job_id] += 1
        left = self.left[job_id]
        look = left.pop(0) if len(left) > 1 else left[0]
        if look in PASSING:
            return _said(PASSING[look], wire)
        return report(look, self.jobs[job_id].error_count, job_id)

    def _listed(self, kind: str, status: str, wire: Wire) -> bytes | None:
        if said := LISTS[kind]:
            return _said(said, wire)
        told = {"all of them run": status, "all of them are over": "completed"}.get(kind)
        states = {job_id: told or self._status(job_id) for job_id in self.jobs}
        return json_answer(
            {"Records": [{"Id": job_id, "Status": at} for job_id, at in states.items() if told or at == status]}
        )

    def _status(self, job_id: str) -> str:
        """Where a job stands: at what the next look that is answered will show."""
        return next(look for look in self.left[job_id] if look not in PASSING)


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


@pytest.mark.long
def test_on_a_worker(account: Account) -> None:
    seen = set()

    @settings(max_examples=ON_A_WORKER)
    @given(st.randoms(use_true_random=False))
    def check(chance: Random) -> None:
        job = any_job(chance)
        seen.add(job)
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

    check()
    assert len(seen) > 0.95 * ON_A_WORKER


@pytest.mark.long
def test_in_a_triggerer(account: Account) -> None:
    seen = set()

    @settings(max_examples=IN_A_TRIGGERER)
    @given(st.randoms(use_true_random=True))
    def check(chance: Random) -> None:
        account.begin([any_job(chance) for _ in range(TOGETHER)], some_of(LISTS, 30, chance))
        seen.update(account.jobs.values())

        async def ends() -> list[Any]:
            waits = [WasabiJobTrigger(job_id, "wasabi_default", poke_interval=0.001) for job_id in account.jobs]
            return await asyncio.gather(*map(first_event, waits))

        events = asyncio.run(asyncio.wait_for(ends(), 30))

        assert [event.payload for event in events] == [
            {"job_id": job_id, "status": job.end, "error_count": job.error_count}
            for job_id, job in account.jobs.items()
        ]
        assert account.asked == {job_id: len(job.looks) for job_id, job in account.jobs.items()}

    check()
    assert len(seen) > 0.95 * IN_A_TRIGGERER * TOGETHER
