"""
Run a sensor as scheduler, worker and triggerer do, in one process and without delays.

Only Airflow's scheduling is replaced: a wait calls the sensor's own ``execute`` and ``resume_execution``, each time on
a fresh copy of the sensor as in a new process, and runs the trigger after serializing and loading it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import pkgutil
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent

# Import before any wait starts: the first import takes longer than the shortest timeouts of the tests.
import airflow_wasabi_jobs.hooks  # noqa: F401 - imported for its side effect only
from airflow_wasabi_jobs.sensors import WasabiJobSensor

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

MODES = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
    "end_from_trigger": {"deferrable": True, "end_from_trigger": True},
}
TRIGGER_TIMEOUT = "Trigger timeout"


def run_wait(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    *,
    kind: type = WasabiJobSensor,
    timeout_message: str = TRIGGER_TIMEOUT,
    **arguments: Any,
) -> Any:
    """Run a wait in this mode until it ends; return its XCom or raise its exception."""
    started_at = datetime.now(UTC)
    _first_reschedule(monkeypatch, started_at)
    xcoms: list[Any] = []

    async def push(_: Any, xcom: Any) -> None:
        xcoms.append(xcom)

    monkeypatch.setattr("airflow_wasabi_jobs.triggers.job._push_xcom", push)
    context: Any = {"ti": SimpleNamespace(get_first_reschedule_date=lambda _: started_at, **_IDENTITY)}
    if kind is WasabiJobSensor:
        arguments = {"job_id": "12345", **arguments}
    sensor = kind(**{"task_id": "wait", "poke_interval": 0.05, "timeout": 60, **MODES[mode], **arguments})
    next_method, next_kwargs = None, None
    while True:
        process = copy.copy(sensor)
        try:
            if next_method is None:
                return process.execute(context)
            return process.resume_execution(next_method, next_kwargs, context)
        except AirflowRescheduleException:
            continue
        except TaskDeferred as deferred:
            next_method, next_kwargs = run_deferred_trigger(deferred, timeout_message)
            if next_method == "":
                return xcoms.pop()


def defer(sensor: WasabiJobSensor) -> TaskDeferred:
    """Execute a sensor that is expected to defer, and return the deferral."""
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute({})
    return caught.value


def serialized_and_loaded(trigger: Any) -> Any:
    """Return the trigger as the triggerer loads it from the database."""
    path, arguments = trigger.serialize()
    return pkgutil.resolve_name(path)(**json.loads(json.dumps(arguments)))


def in_triggerer(trigger: Any) -> Any:
    """Set the task instance of a trigger, as the triggerer does."""
    trigger.task_instance = SimpleNamespace(**_IDENTITY)
    return trigger


async def first_event(trigger: Any) -> Any:
    """Return the first event, and check that its payload can be stored as JSON."""
    async for event in trigger.run():
        json.dumps(event.payload)
        return event
    raise AssertionError("the trigger ended without an event")


_IDENTITY = {"dag_id": "dag", "task_id": "wait", "run_id": "run", "map_index": -1, "max_tries": 0}


def run_deferred_trigger(deferred: TaskDeferred, timeout_message: str = TRIGGER_TIMEOUT) -> tuple[str, dict[str, Any]]:
    """Run the trigger as the triggerer does, and return the method and the arguments with which the task resumes."""
    trigger = in_triggerer(serialized_and_loaded(deferred.trigger))

    async def run() -> Any:
        return await asyncio.wait_for(first_event(trigger), deferred.timeout.total_seconds())

    try:
        event = asyncio.run(run())
    except TimeoutError:
        return "__fail__", {"error": timeout_message}
    except Exception as error:  # noqa: BLE001 - the triggerer catches everything, too
        return "__fail__", {"error": "Trigger failure", "traceback": [repr(error)]}
    if isinstance(event, TaskSuccessEvent):
        return "", {}
    return deferred.method_name, {**(deferred.kwargs or {}), "event": json.loads(json.dumps(event.payload))}


def _first_reschedule(monkeypatch: pytest.MonkeyPatch, started_at: datetime) -> None:
    # In Airflow 2.11 the sensor queries the database itself.
    module = sys.modules[BaseSensorOperator.__module__]
    if hasattr(module, "_orig_start_date"):
        monkeypatch.setattr(module, "_orig_start_date", lambda **_: started_at)
