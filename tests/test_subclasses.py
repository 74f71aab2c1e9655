"""Subclasses of the sensors and of the operator: what they override is called in every mode."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException, PokeReturnValue
from loopback import Loopback, json_response, status_response
from task_runs import submit_task
from wait_runner import MODES, run_wait

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor, WasabiJobSensor

REPORT = {"job_id": "12345", "status": "completed", "error_count": 0}
every_mode = pytest.mark.parametrize("mode", MODES)


class ThirdPoke(WasabiJobSensor):
    """Succeeds at the third poke that finds the job completed, as if it waited for the file with the result."""

    pokes: ClassVar[list[bool]] = []

    def poke(self, context: Any) -> PokeReturnValue:
        result = super().poke(context)
        self.pokes.append(result.is_done)
        return PokeReturnValue(result.is_done and self.pokes.count(True) == 3, {**REPORT, "found": True})


class BoolPoke(WasabiJobSensor):
    """Polls by itself, and returns a bool."""

    def poke(self, context: Any) -> bool:  # type: ignore[override] # Airflow accepts a bool
        return self.hook.get_job_status(self.job_id).status.value == "completed"


class SkippingPoke(WasabiJobSensor):
    def poke(self, context: Any) -> PokeReturnValue:
        if super().poke(context):
            raise AirflowSkipException("Nothing to do.")
        return PokeReturnValue(is_done=False)


class OwnEvent(WasabiJobSensor):
    def execute_complete(self, context: Any, event: dict[str, Any], timeout_at: float | None = None) -> Any:
        report = super().execute_complete(context, event, timeout_at)
        return {**report, "event": event["status"]}


class BatchPoke(WasabiBatchSensor):
    def poke(self, context: Any) -> PokeReturnValue:
        result = super().poke(context)
        return PokeReturnValue(result.is_done, result.xcom_value and result.xcom_value["batch"])


@pytest.fixture
def wait_for(set_connection: Any, monkeypatch: Any) -> Any:
    """Wait with a sensor of this class, in this mode, for these responses."""

    def run(kind: type, mode: str, *responses: Any, **arguments: Any) -> Any:
        ThirdPoke.pokes.clear()
        with Loopback(*responses) as server:
            set_connection(server.url)
            return run_wait(monkeypatch, mode, kind=kind, **arguments)

    return run


@every_mode
def test_poke_of_a_subclass_decides(wait_for: Any, mode: str) -> None:
    responses = [status_response("in_progress"), status_response("completed")]

    xcom = wait_for(ThirdPoke, mode, *responses, job_id="12345")

    assert xcom == {**REPORT, "found": True}
    assert ThirdPoke.pokes.count(True) == 3
    assert ThirdPoke.pokes[0] is False


@every_mode
def test_poke_of_a_subclass_may_return_a_bool(wait_for: Any, mode: str) -> None:
    responses = [status_response("in_progress"), status_response("completed")]

    assert wait_for(BoolPoke, mode, *responses, job_id="12345") is None


@every_mode
@pytest.mark.parametrize("silent_fail", [False, True])
def test_poke_of_a_subclass_may_skip(wait_for: Any, mode: str, silent_fail: bool) -> None:
    responses = [status_response("in_progress"), status_response("completed")]

    with pytest.raises(AirflowSkipException, match="Nothing to do"):
        wait_for(SkippingPoke, mode, *responses, job_id="12345", silent_fail=silent_fail)


@every_mode
def test_event_needs_no_further_request(wait_for: Any, mode: str, set_connection: Any, monkeypatch: Any) -> None:
    ThirdPoke.pokes[:] = [True, True]
    with Loopback(status_response("in_progress"), status_response("completed")) as server:
        set_connection(server.url)
        run_wait(monkeypatch, mode, kind=ThirdPoke, job_id="12345")

    assert len([request for request in server.requests if request.target.endswith("/status")]) == 2


@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
def test_poke_of_a_batch_sensor(wait_for: Any, mode: str) -> None:
    job = {"Id": "12345", "Status": "completed", "Batch": "b"}

    assert wait_for(BatchPoke, mode, json_response({"Records": [job]}), batch="b") == "b"


def test_poke_of_a_subclass_decides_when_the_trigger_has_timed_out(set_connection: Any) -> None:
    ThirdPoke.pokes[:] = [True]
    sensor = ThirdPoke(task_id="wait", job_id="12345", deferrable=True)
    with Loopback(status_response("completed")) as server:
        set_connection(server.url)
        with pytest.raises(AirflowSensorTimeout):
            sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {})
        xcom = sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {})

    assert xcom == {**REPORT, "found": True}


@pytest.mark.parametrize("mode", ["deferrable", "end_from_trigger"])
def test_execute_complete_of_a_sensor(wait_for: Any, mode: str) -> None:
    responses = [status_response("in_progress"), status_response("completed")]

    assert wait_for(OwnEvent, mode, *responses, job_id="12345") == {**REPORT, "event": "completed"}


def test_execute_complete_of_the_operator(set_connection: Any) -> None:
    class OwnSubmit(WasabiSubmitJobOperator):
        def execute_complete(self, context: Any, event: dict[str, Any], timeout_at: float | None = None) -> Any:
            return super().execute_complete(context, event, timeout_at)["status"]

    arguments = {name: getattr(submit_task(), name) for name in ("task_id", "source", "destination", "services")}
    task = OwnSubmit(**arguments, deferrable=True)

    assert task.resume_execution("execute_complete", {"event": REPORT}, {}) == "completed"
