"""The trigger: what it is made of, when it looks, and what it fires."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from loopback import Loopback, Wire, answer, json_answer, late, report
from waiting import first_event, sent_through_airflow

from airflow_wasabi_jobs import triggers
from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.triggers import WasabiJobTrigger
from airflow_wasabi_jobs.watch import Seat


@pytest.fixture
def intervals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """Let the intervals pass at once, and note how long they would have been, and whether in step with others."""
    taken: list[tuple[float, bool]] = []
    look = Seat.look

    async def look_soon(seat: Seat, job_id: str, interval: float, *, in_step: bool, quiet_for: float) -> Any:
        taken.append((interval, in_step))
        return await look(seat, job_id, 0.01, in_step=in_step, quiet_for=quiet_for)

    monkeypatch.setattr(Seat, "look", look_soon)
    return taken


def trigger(**arguments: Any) -> WasabiJobTrigger:
    return WasabiJobTrigger(
        **{"job_id": "12345", "wasabi_conn_id": "wasabi_default", "poke_interval": 0.02, **arguments}
    )


def fired(made: WasabiJobTrigger) -> Any:
    return asyncio.run(asyncio.wait_for(first_event(made), 10)).payload


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_final_job_is_its_report_whatever_the_status(connect: Any, status: str) -> None:
    with Loopback(report("submitted"), report("in_progress", 1), report(status, 2)) as server:
        connect(server.url)
        assert fired(trigger()) == {"job_id": "12345", "status": status, "error_count": 2}


def test_an_error_travels_as_an_event(connect: Any) -> None:
    with Loopback(json_answer({"Error": "Who are you?", "ErrorCode": "UNAUTHORIZED"}, 401)) as server:
        connect(server.url)
        event = fired(trigger())

    error = errors.from_event(event["error"])
    assert event["job_id"] == "12345"
    assert type(error) is errors.Unauthorized
    assert (error.status_code, error.error_code, error.text) == (401, "UNAUTHORIZED", "Who are you?")
    assert "'wasabi_default'" in str(error)


def test_it_fires_once(connect: Any) -> None:
    async def events() -> int:
        return len([event async for event in trigger().run()])

    with Loopback(report("completed")) as server:
        connect(server.url)
        assert asyncio.run(events()) == 1


def test_it_survives_the_database() -> None:
    made = trigger(poke_interval=7.5, exponential_backoff=True, max_wait=90.0)

    assert sent_through_airflow(made).serialize() == made.serialize()
    assert "secret" not in str(made.serialize())


@pytest.mark.parametrize(
    "arguments", [{"poke_interval": 0}, {"poke_interval": -1}, {"poke_interval": 1, "max_wait": -1}]
)
def test_intervals_must_be_positive(arguments: Any) -> None:
    with pytest.raises(ValueError, match="0 seconds"):
        trigger(**arguments)


def test_it_looks_at_each_interval(connect: Any, intervals: list[tuple[float, bool]]) -> None:
    with Loopback(*[report("in_progress")] * 3, report("completed")) as server:
        connect(server.url)
        fired(trigger(poke_interval=60))

    assert intervals == [(60, True)] * 4
    assert len(server.requests) == 4


@pytest.mark.parametrize("poke_interval", [0.5, 1, 7, 60])
@pytest.mark.parametrize("max_wait", [None, 0, 100])
def test_growing_intervals_are_those_of_a_poking_sensor(
    connect: Any, intervals: list[tuple[float, bool]], poke_interval: float, max_wait: float | None
) -> None:
    looks = 9
    with Loopback(*[report("in_progress")] * (looks - 1), report("completed")) as server:
        connect(server.url)
        fired(trigger(poke_interval=poke_interval, exponential_backoff=True, max_wait=max_wait))

    sensor = BaseSensorOperator(
        task_id="wait", poke_interval=poke_interval, exponential_backoff=True, max_wait=max_wait, timeout=10**6
    )
    assert len(intervals) == looks
    for poke_count, (interval, in_step) in enumerate(intervals, start=1):
        # Airflow's jitter is anything between a shortest interval and twice that, by a hash of when the wait began.
        airflow = [sensor._get_next_poke_interval(began, lambda: 0.0, poke_count) for began in range(300)]
        assert min(airflow) / 1.1 <= interval <= max(airflow) * 1.1
        assert not in_step


def test_growing_intervals_are_spread() -> None:
    made = trigger(poke_interval=60, exponential_backoff=True)

    intervals = {triggers._interval(made, 10) for _ in range(100)}
    assert max(intervals) / min(intervals) > 1.5


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What goes to Airflow's XComs: with the event, or from Airflow 3 on before it."""
    values: list[Any] = []

    async def push(_: Any, told: Any) -> None:
        values.append(told)

    monkeypatch.setattr("airflow_wasabi_jobs.triggers._pushed", push)
    return values


class TestEndFromTrigger:
    @pytest.mark.parametrize("max_error_count", [None, 2])
    def test_a_job_that_completed_well_ends_the_task(
        self, connect: Any, pushed: list[Any], max_error_count: int | None
    ) -> None:
        with Loopback(report("in_progress"), report("completed", 2)) as server:
            connect(server.url)
            made = trigger(end_from_trigger=True, max_error_count=max_error_count)
            event = asyncio.run(asyncio.wait_for(first_event(sent_through_airflow(made)), 10))

        assert isinstance(event, TaskSuccessEvent)
        assert pushed == [{"job_id": "12345", "status": "completed", "error_count": 2}]

    def test_without_a_way_to_push_it_is_for_a_worker(self, connect: Any, monkeypatch: Any) -> None:
        async def broken(*_: Any) -> None:
            raise RuntimeError("no way")

        monkeypatch.setattr("airflow_wasabi_jobs.triggers._pushed", broken)
        with Loopback(report("completed", 2)) as server:
            connect(server.url)
            event = asyncio.run(asyncio.wait_for(first_event(trigger(end_from_trigger=True)), 10))

        assert type(event) is TriggerEvent
        assert event.payload == {"job_id": "12345", "status": "completed", "error_count": 2}

    @pytest.mark.parametrize(
        "last", [report("completed", 3), report("failed"), report("cancelled"), answer(404)], ids=["3", "f", "c", "404"]
    )
    def test_every_other_outcome_is_for_a_worker(self, connect: Any, last: bytes) -> None:
        with Loopback(last) as server:
            connect(server.url)
            made = trigger(end_from_trigger=True, max_error_count=2)
            event = asyncio.run(asyncio.wait_for(first_event(made), 10))

        assert type(event) is TriggerEvent


@pytest.mark.parametrize("what", [answer(404), answer(200, "<html>"), answer(204)])
def test_each_kind_of_error_is_an_event(connect: Any, what: bytes) -> None:
    with Loopback(what) as server:
        connect(server.url)
        assert set(fired(trigger())) == {"job_id", "error"}


def test_an_event_can_be_stored_in_any_database(connect: Any) -> None:
    with Loopback(answer(400, b"\x1f\x8b\x00")) as server:
        connect(server.url)
        assert "\\u0000" not in json.dumps(fired(trigger()))  # which PostgreSQL refuses, and the triggerer ends


def test_it_tells_its_story_and_reads_the_connection_once(connect: Any, monkeypatch: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(WasabiJobTrigger, "_log", logging.getLogger("trigger"))
    looked_up = []
    settings_of = WasabiJobsHook._settings_of
    monkeypatch.setattr(WasabiJobsHook, "_settings_of", lambda *of: looked_up.append(1) or settings_of(*of))
    with Loopback(report("in_progress"), answer(503), report("in_progress"), report("completed")) as server:
        connect(server.url)
        fired(trigger())

    told = [record.getMessage()[:27] for record in caplog.records if record.name == "trigger"]
    assert told == [
        "Job '12345': in_progress (e",
        "Job '12345': no answer at t",
        "Job '12345': the API answer",
        "Job '12345': completed (err",
    ]
    assert looked_up == [1]


def test_growing_intervals_never_overflow() -> None:
    made = trigger(poke_interval=60, exponential_backoff=True, max_wait=3600.0)

    assert triggers._interval(made, 100_000) == 3600


def test_nothing_blocks_the_event_loop(connect: Any) -> None:
    asked, released = threading.Event(), threading.Event()

    def held(wire: Wire) -> bytes | None:
        asked.set()
        return report("completed") if released.wait(5) else None

    async def others_go_on() -> None:
        waiting = asyncio.create_task(first_event(trigger()))
        while not asked.is_set():  # noqa: ASYNC110 - set by the server's thread
            await asyncio.sleep(0.01)
        released.set()
        await waiting

    with Loopback(held) as server:
        connect(server.url)
        asyncio.run(asyncio.wait_for(others_go_on(), 30))

    assert len(server.requests) == 1


@pytest.mark.filterwarnings("error")
def test_it_can_be_cancelled_at_any_time(connect: Any) -> None:
    async def cancelled_while(seconds: float) -> None:
        waiting = asyncio.create_task(first_event(trigger()))
        await asyncio.sleep(seconds)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with Loopback(late(report("completed"), 5)) as server:
        connect(server.url)
        for seconds in (0, 0.01, 0.1):
            asyncio.run(cancelled_while(seconds))
