"""The job trigger: serialization, poll intervals and events."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from loopback import Loopback, ServerConnection, delayed, json_response, response, status_response
from wait_runner import first_event, in_triggerer, serialized_and_loaded

from airflow_wasabi_jobs.api import exceptions
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.polling import Subscription
from airflow_wasabi_jobs.triggers import WasabiJobTrigger, intervals


@pytest.fixture
def poll_intervals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """Poll without delay; record each interval, and whether the poll is aligned with those of other waits."""
    recorded: list[tuple[float, bool]] = []
    poll = Subscription.poll

    async def poll_soon(
        subscription: Subscription, job_id: str, interval: float, *, align: bool, report_unchanged_after: float
    ) -> Any:
        recorded.append((interval, align))
        return await poll(subscription, job_id, 0.01, align=align, report_unchanged_after=report_unchanged_after)

    monkeypatch.setattr(Subscription, "poll", poll_soon)
    return recorded


def trigger(**arguments: Any) -> WasabiJobTrigger:
    return WasabiJobTrigger(
        **{"job_id": "12345", "wasabi_conn_id": "wasabi_default", "poke_interval": 0.02, **arguments}
    )


def run_trigger(job_trigger: WasabiJobTrigger) -> Any:
    return asyncio.run(asyncio.wait_for(first_event(job_trigger), 10)).payload


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_event_of_a_finished_job_is_its_report(set_connection: Any, status: str) -> None:
    with Loopback(
        status_response("submitted"), status_response("in_progress", 1), status_response(status, 2)
    ) as server:
        set_connection(server.url)
        assert run_trigger(trigger()) == {"job_id": "12345", "status": status, "error_count": 2}


def test_error_is_sent_as_an_event(set_connection: Any) -> None:
    with Loopback(json_response({"Error": "Who are you?", "ErrorCode": "UNAUTHORIZED"}, 401)) as server:
        set_connection(server.url)
        event = run_trigger(trigger())

    error = exceptions.deserialize_error(event["error"])
    assert event["job_id"] == "12345"
    assert type(error) is exceptions.AuthenticationError
    assert (error.status_code, error.error_code, error.text) == (401, "UNAUTHORIZED", "Who are you?")
    assert "'wasabi_default'" in str(error)


def test_trigger_fires_once(set_connection: Any) -> None:
    async def events() -> int:
        return len([event async for event in trigger().run()])

    with Loopback(status_response("completed")) as server:
        set_connection(server.url)
        assert asyncio.run(events()) == 1


def test_serialization_round_trip() -> None:
    job_trigger = trigger(poke_interval=7.5, exponential_backoff=True, max_wait=90.0)

    assert serialized_and_loaded(job_trigger).serialize() == job_trigger.serialize()
    assert "secret" not in str(job_trigger.serialize())


@pytest.mark.parametrize(
    "arguments", [{"poke_interval": 0}, {"poke_interval": -1}, {"poke_interval": 1, "max_wait": -1}]
)
def test_intervals_must_be_positive(arguments: Any) -> None:
    with pytest.raises(ValueError, match="0 seconds"):
        trigger(**arguments)


def test_trigger_polls_at_each_interval(set_connection: Any, poll_intervals: list[tuple[float, bool]]) -> None:
    with Loopback(*[status_response("in_progress")] * 3, status_response("completed")) as server:
        set_connection(server.url)
        run_trigger(trigger(poke_interval=60))

    assert poll_intervals == [(60, True)] * 4
    assert len(server.requests) == 4


@pytest.mark.parametrize("poke_interval", [0.5, 1, 7, 60])
@pytest.mark.parametrize("max_wait", [None, 0, 100])
def test_exponential_backoff_is_that_of_a_poking_sensor(
    set_connection: Any, poll_intervals: list[tuple[float, bool]], poke_interval: float, max_wait: float | None
) -> None:
    poll_count = 9
    with Loopback(*[status_response("in_progress")] * (poll_count - 1), status_response("completed")) as server:
        set_connection(server.url)
        run_trigger(trigger(poke_interval=poke_interval, exponential_backoff=True, max_wait=max_wait))

    sensor = BaseSensorOperator(
        task_id="wait", poke_interval=poke_interval, exponential_backoff=True, max_wait=max_wait, timeout=10**6
    )
    assert len(poll_intervals) == poll_count
    for poke_count, (interval, in_step) in enumerate(poll_intervals, start=1):
        # Airflow's jitter is between 1 and 2 times the interval, derived from a hash of the start time.
        expected = [sensor._get_next_poke_interval(started_at, lambda: 0.0, poke_count) for started_at in range(300)]
        assert min(expected) / 1.1 <= interval <= max(expected) * 1.1
        assert not in_step


def test_exponential_backoff_has_jitter() -> None:
    job_trigger = trigger(poke_interval=60, exponential_backoff=True)

    poll_intervals = {intervals.next_interval(job_trigger, 10) for _ in range(100)}
    assert max(poll_intervals) / min(poll_intervals) > 1.5


@pytest.fixture
def xcoms(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The XComs that the trigger pushes: with the event, or from Airflow 3 on before it."""
    xcoms: list[Any] = []

    async def push(_: Any, xcom: Any) -> None:
        xcoms.append(xcom)

    monkeypatch.setattr("airflow_wasabi_jobs.triggers.job._push_xcom", push)
    return xcoms


class TestEndFromTrigger:
    @pytest.mark.parametrize("max_error_count", [None, 2])
    def test_completed_job_ends_the_task(
        self, set_connection: Any, xcoms: list[Any], max_error_count: int | None
    ) -> None:
        with Loopback(status_response("in_progress"), status_response("completed", 2)) as server:
            set_connection(server.url)
            job_trigger = trigger(end_from_trigger=True, max_error_count=max_error_count)
            event = asyncio.run(asyncio.wait_for(first_event(in_triggerer(serialized_and_loaded(job_trigger))), 10))

        assert isinstance(event, TaskSuccessEvent)
        assert xcoms == [{"job_id": "12345", "status": "completed", "error_count": 2}]

    def test_worker_ends_the_task_if_the_xcom_cannot_be_pushed(self, set_connection: Any, monkeypatch: Any) -> None:
        async def fail(*_: Any) -> None:
            raise RuntimeError("push failed")

        monkeypatch.setattr("airflow_wasabi_jobs.triggers.job._push_xcom", fail)
        with Loopback(status_response("completed", 2)) as server:
            set_connection(server.url)
            event = asyncio.run(asyncio.wait_for(first_event(in_triggerer(trigger(end_from_trigger=True))), 10))

        assert type(event) is TriggerEvent
        assert event.payload == {"job_id": "12345", "status": "completed", "error_count": 2}

    @pytest.mark.parametrize(
        "last_response",
        [status_response("completed", 3), status_response("failed"), status_response("cancelled"), response(404)],
        ids=["too-many-errors", "failed", "cancelled", "404"],
    )
    def test_worker_ends_the_task_for_every_other_outcome(self, set_connection: Any, last_response: bytes) -> None:
        with Loopback(last_response) as server:
            set_connection(server.url)
            job_trigger = trigger(end_from_trigger=True, max_error_count=2)
            event = asyncio.run(asyncio.wait_for(first_event(in_triggerer(job_trigger)), 10))

        assert type(event) is TriggerEvent


@pytest.mark.parametrize("error_response", [response(404), response(200, "<html>"), response(204)])
def test_every_api_error_is_sent_as_an_event(set_connection: Any, error_response: bytes) -> None:
    with Loopback(error_response) as server:
        set_connection(server.url)
        assert set(run_trigger(trigger())) == {"job_id", "error"}


def test_event_contains_no_null_character(set_connection: Any) -> None:
    with Loopback(response(400, b"\x1f\x8b\x00")) as server:
        set_connection(server.url)
        assert "\\u0000" not in json.dumps(run_trigger(trigger()))  # PostgreSQL rejects it, and the triggerer crashes


def test_trigger_logs_the_wait_and_reads_the_connection_once(
    set_connection: Any, monkeypatch: Any, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    connection_reads = []
    to_settings = WasabiJobsHook._to_settings
    monkeypatch.setattr(WasabiJobsHook, "_to_settings", lambda *args: connection_reads.append(1) or to_settings(*args))
    with Loopback(
        status_response("in_progress"), response(503), status_response("in_progress"), status_response("completed")
    ) as server:
        set_connection(server.url)
        run_trigger(trigger())

    lines = [record.getMessage()[:27] for record in caplog.records if record.name == LOG.name]
    assert lines == [
        "Job '12345': status in_prog",
        "Job '12345': API not respon",
        "Job '12345': API is respond",
        "Job '12345': status complet",
    ]
    assert connection_reads == [1]


def test_exponential_backoff_never_overflows() -> None:
    job_trigger = trigger(poke_interval=60, exponential_backoff=True, max_wait=3600.0)

    assert intervals.next_interval(job_trigger, 100_000) == 3600


def test_trigger_does_not_block_the_event_loop(set_connection: Any) -> None:
    received, released = threading.Event(), threading.Event()

    def hold_response(connection: ServerConnection) -> bytes | None:
        received.set()
        return status_response("completed") if released.wait(5) else None

    async def other_coroutine() -> None:
        task = asyncio.create_task(first_event(trigger()))
        while not received.is_set():  # noqa: ASYNC110 - set by the server's thread
            await asyncio.sleep(0.01)
        released.set()
        await task

    with Loopback(hold_response) as server:
        set_connection(server.url)
        asyncio.run(asyncio.wait_for(other_coroutine(), 30))

    assert len(server.requests) == 1


def test_log_that_is_full_does_not_block_the_event_loop(set_connection: Any, request: pytest.FixtureRequest) -> None:
    # The log of a triggerer is a socket. It is full while Airflow's other process waits for this event loop.
    blocked, released = threading.Event(), threading.Event()
    is_released = []

    class FullLog(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            blocked.set()
            is_released.append(released.wait(0.2))

    handler = FullLog()
    LOG.addHandler(handler)
    request.addfinalizer(lambda: LOG.removeHandler(handler))

    async def other_coroutine() -> None:
        task = asyncio.create_task(first_event(trigger()))
        while not blocked.is_set():  # noqa: ASYNC110 - set by the thread that logs
            await asyncio.sleep(0.01)
        released.set()
        await task

    with Loopback(response(status=503), status_response("completed")) as server:
        set_connection(server.url, retries=0)
        asyncio.run(asyncio.wait_for(other_coroutine(), 30))

    # The API does not respond, responds again, and the job has completed.
    assert is_released == [True, True, True]


@pytest.mark.filterwarnings("error")
def test_trigger_can_be_cancelled_at_any_time(set_connection: Any) -> None:
    async def cancel_after(seconds: float) -> None:
        task = asyncio.create_task(first_event(trigger()))
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with Loopback(delayed(status_response("completed"), 5)) as server:
        set_connection(server.url)
        for seconds in (0, 0.01, 0.1):
            asyncio.run(cancel_after(seconds))
