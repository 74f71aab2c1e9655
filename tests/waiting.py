"""
What the scheduler, a worker and a triggerer do with a sensor, in one process and at once.

Nothing of Airflow is replaced but its clock-work: a wait goes through the sensor's own ``execute`` and
``resume_execution``, each time in a sensor made anew, as in a process of its own, and through the trigger
that was serialized on the way.
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

# Before the clock of any wait runs: the first import takes longer than the shortest time-outs of the tests.
import airflow_wasabi_jobs.hooks  # noqa: F401 - loaded here for that alone
from airflow_wasabi_jobs.sensors import WasabiJobSensor

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

MODES = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
    "ended by the trigger": {"deferrable": True, "end_from_trigger": True},
}
TIME_IS_UP = "Trigger timeout"


def wait(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    *,
    kind: type = WasabiJobSensor,
    time_is_up: str = TIME_IS_UP,
    **arguments: Any,
) -> Any:
    """Wait in that mode until the wait ends, and return the XCom or raise what it ends with."""
    began = datetime.now(UTC)
    _first_reschedule(monkeypatch, began)
    pushed: list[Any] = []

    async def push(_: Any, told: Any) -> None:
        pushed.append(told)

    monkeypatch.setattr("airflow_wasabi_jobs.triggers._pushed", push)
    context: Any = {"ti": SimpleNamespace(get_first_reschedule_date=lambda _: began, **_IDENTITY)}
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
            next_method, next_kwargs = _triggered(deferred, time_is_up)
            if next_method == "":
                return pushed.pop()


def deferred(sensor: WasabiJobSensor) -> TaskDeferred:
    """Execute a sensor that is to defer, and return with what it does."""
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute({})
    return caught.value


def sent_through_airflow(trigger: Any) -> Any:
    """Return the trigger as the triggerer makes it of what the database keeps."""
    path, arguments = trigger.serialize()
    return pkgutil.resolve_name(path)(**json.loads(json.dumps(arguments)))


async def first_event(trigger: Any) -> Any:
    """Return the first event, with what the database can keep of it."""
    async for event in trigger.run():
        json.dumps(event.payload)
        return event
    raise AssertionError("the trigger ended without an event")


_IDENTITY = {"dag_id": "dag", "task_id": "wait", "run_id": "run", "map_index": -1, "max_tries": 0}


def _triggered(deferred: TaskDeferred, time_is_up: str) -> tuple[str, dict[str, Any]]:
    async def run() -> Any:
        return await asyncio.wait_for(
            first_event(sent_through_airflow(deferred.trigger)), deferred.timeout.total_seconds()
        )

    try:
        event = asyncio.run(run())
    except TimeoutError:
        return "__fail__", {"error": time_is_up}
    except Exception as error:  # noqa: BLE001 - the triggerer, too, takes whatever a trigger raises
        return "__fail__", {"error": "Trigger failure", "traceback": [repr(error)]}
    if isinstance(event, TaskSuccessEvent):
        return "", {}
    return deferred.method_name, {**(deferred.kwargs or {}), "event": json.loads(json.dumps(event.payload))}


def _first_reschedule(monkeypatch: pytest.MonkeyPatch, began: datetime) -> None:
    # Airflow 2.11 has the sensor ask the database itself.
    module = sys.modules[BaseSensorOperator.__module__]
    if hasattr(module, "_orig_start_date"):
        monkeypatch.setattr(module, "_orig_start_date", lambda **_: began)
