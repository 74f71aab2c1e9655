"""Waits in a real Airflow: every outcome in every mode, checked through the REST API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from airflow_installation import ACCESS_KEY, IS_AIRFLOW_2, NEW_SECRET_KEY, SECRET_KEY, Airflow, Emulator, Process, until

# On SQLite Airflow 2 runs one task at a time, so there are fewer of them.
MODES = ["poke", "deferred"] if IS_AIRFLOW_2 else ["poke", "reschedule", "deferred", "ended_by_trigger"]
on_airflow_3 = pytest.mark.skipif(IS_AIRFLOW_2, reason="with SQLite it runs one task at a time, and these are many")
# For each task: its state, its number of tries, and the callback calls.
OUTCOMES = {
    "completes": ("success", 1, [("success", None)]),
    "fails": ("failed", 1, [("failure", "WasabiJobFailed")]),
    "cancels": ("failed", 1, [("failure", "WasabiJobCancelled")]),
    "too_many_errors": ("failed", 1, [("failure", "WasabiJobFailed")]),
    "skips": ("skipped", 1, []),
    "times_out": ("failed", 1, [("failure", "AirflowSensorTimeout")]),
    "timeout_skips": ("skipped", 1, []),
    "not_found": ("failed", 2, [("retry", "NotFoundError"), ("failure", "NotFoundError")]),
    "not_found_is_not_skipped": ("failed", 2, [("retry", "NotFoundError"), ("failure", "NotFoundError")]),
}


@pytest.fixture(scope="module")
def runs(airflow: Airflow) -> dict[str, str]:
    """Start one run for each mode."""
    return {mode: airflow.trigger(f"e2e_waits_{mode}") for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_every_outcome(airflow: Airflow, runs: dict[str, str], callback_calls: Any, mode: str) -> None:
    dag_id, run_id = f"e2e_waits_{mode}", runs[mode]
    assert airflow.finish(dag_id, run_id) == "failed"

    actual = {task["task_id"]: (task["state"], task["try_number"]) for task in airflow.tasks(dag_id, run_id)}
    assert actual == {outcome: expected_outcome[:2] for outcome, expected_outcome in OUTCOMES.items()}

    xcom = airflow.xcom(dag_id, run_id, "completes")
    assert xcom == {"job_id": f"completes-with-1-error-completes-{run_id}", "status": "completed", "error_count": 1}

    expected = {outcome: expected_outcome[2] for outcome, expected_outcome in OUTCOMES.items()}
    if mode == "ended_by_trigger":
        expected["completes"] = []  # it has no callback
    if IS_AIRFLOW_2:
        # Airflow 2 calls the success callback for a skipped task.
        expected |= {
            outcome: [("success", None)]
            for outcome, expected_outcome in OUTCOMES.items()
            if expected_outcome[0] == "skipped"
        }

    # The last callbacks may still be running.
    until(lambda: len(callback_calls(run_id)) >= sum(map(len, expected.values())), "all callbacks called", 60)
    calls = [(call["task"], call["kind"], call["error"]) for call in callback_calls(run_id)]
    assert {outcome: [call[1:] for call in calls if call[0] == outcome] for outcome in OUTCOMES} == expected


@pytest.mark.parametrize("mode", MODES)
def test_log_of_a_wait(airflow: Airflow, runs: dict[str, str], mode: str) -> None:
    dag_id, run_id = f"e2e_waits_{mode}", runs[mode]
    airflow.finish(dag_id, run_id)

    failed = airflow.log(dag_id, run_id, "fails")
    described = f"Job 'fails-fails-{run_id}' (emulated-media/fails-fails-{run_id}.mp4, connection 'wasabi_default')"
    assert f"{described} failed: INTERNAL_ERROR (1 error)." in failed
    assert failed.count(": status submitted, 0 errors") == 1
    # A deferred wait logs this in the trigger, and Airflow adds it to the task log.
    assert f"Job 'completes-with-1-error-completes-{run_id}': status completed, 1 error" in airflow.log(
        dag_id, run_id, "completes"
    )
    timed_out = airflow.log(dag_id, run_id, "times_out")
    assert "did not finish within timeout=10 s (last status: " in timed_out


@on_airflow_3
def test_end_from_trigger_needs_no_second_worker(airflow: Airflow, runs: dict[str, str]) -> None:
    for mode in ("deferred", "ended_by_trigger"):
        airflow.finish(f"e2e_waits_{mode}", runs[mode])
    resumed, ended = (
        airflow.log(f"e2e_waits_{mode}", runs[mode], "completes") for mode in ("deferred", "ended_by_trigger")
    )

    # Airflow logs this line when a worker starts.
    worker_start = "DAG bundles loaded"
    assert "status completed, 1 error" in ended
    assert (resumed.count(worker_start), ended.count(worker_start)) == (2, 1)


def count_deferred(airflow: Airflow, run_id: str) -> int:
    return list(airflow.states("e2e_many", run_id).values()).count("deferred")


@on_airflow_3
def test_fifty_deferred_waits_at_once(airflow: Airflow) -> None:
    run_id = airflow.trigger("e2e_many", count=50, seconds=60, conn_id="wasabi_default")
    until(lambda: count_deferred(airflow, run_id) == 50, "fifty deferred at once", 120)
    assert airflow.finish("e2e_many", run_id) == "success"

    tasks = [task for task in airflow.tasks("e2e_many", run_id) if task["task_id"] == "wait"]
    assert [(task["state"], task["try_number"]) for task in tasks] == [("success", 1)] * 50
    assert airflow.xcom("e2e_many", run_id, "count") == 50


class TestFaults:
    COUNT = 5 if IS_AIRFLOW_2 else 20

    @pytest.fixture
    def deferred(self, airflow: Airflow, another_emulator: Emulator, request: pytest.FixtureRequest) -> Any:
        """Deferred waits on a separate connection and emulator, which have been polled at least once."""
        conn_id = f"wasabi_{request.node.name}"
        airflow.add_connection(conn_id, another_emulator.url)
        run_id = airflow.trigger("e2e_many", count=self.COUNT, seconds=45, conn_id=conn_id)
        until(lambda: count_deferred(airflow, run_id) == self.COUNT, "all deferred", 120)
        polls = another_emulator.count_polls()
        until(lambda: another_emulator.count_polls() > polls, "polled", 30)
        return conn_id, run_id

    def assert_all_succeed(self, airflow: Airflow, callback_calls: Any, run_id: str) -> None:
        assert airflow.finish("e2e_many", run_id) == "success"
        tasks = [task for task in airflow.tasks("e2e_many", run_id) if task["task_id"] == "wait"]
        assert [(task["state"], task["try_number"]) for task in tasks] == [("success", 1)] * self.COUNT
        assert airflow.xcom("e2e_many", run_id, "count") == self.COUNT
        # Each callback is called exactly once.
        until(lambda: len(callback_calls(run_id)) >= self.COUNT, "all callbacks called", 60)
        assert sorted(call["map_index"] for call in callback_calls(run_id)) == list(range(self.COUNT))

    def test_triggerer_is_killed_and_restarted(self, airflow: Airflow, callback_calls: Any, deferred: Any) -> None:
        airflow.processes["triggerer"].kill()
        airflow.start("triggerer")

        self.assert_all_succeed(airflow, callback_calls, deferred[1])

    @pytest.fixture
    def second_triggerer(self, airflow: Airflow) -> Iterator[Process]:
        """A second triggerer. The capacity of each triggerer is less than the number of waits."""
        airflow.processes["triggerer"].stop()
        before = airflow.triggerers()
        airflow.start("triggerer", "--capacity", "12")
        second = airflow.start("triggerer", "--capacity", "12", name="second-triggerer")
        until(lambda: len(airflow.triggerers() - before) == 2, "two triggerers", 120)
        yield second
        second.stop()
        del airflow.processes["second-triggerer"]
        airflow.processes["triggerer"].stop()
        airflow.start("triggerer")

    @on_airflow_3
    @pytest.mark.usefixtures("second_triggerer")
    def test_two_triggerers_share_the_waits(self, airflow: Airflow, callback_calls: Any, deferred: Any) -> None:
        def triggerers_in_use() -> set[int]:
            tasks = airflow.tasks("e2e_many", deferred[1])
            return {task["triggerer_job"]["id"] for task in tasks if task["triggerer_job"]}

        until(lambda: len(triggerers_in_use()) == 2, "shared", 30)
        self.assert_all_succeed(airflow, callback_calls, deferred[1])

    @on_airflow_3
    def test_second_triggerer_takes_over(
        self, airflow: Airflow, callback_calls: Any, second_triggerer: Process, deferred: Any
    ) -> None:
        second_triggerer.kill()

        self.assert_all_succeed(airflow, callback_calls, deferred[1])

    @on_airflow_3
    def test_api_is_down_for_30_seconds(
        self, airflow: Airflow, another_emulator: Emulator, callback_calls: Any, deferred: Any
    ) -> None:
        another_emulator.process.kill()
        time.sleep(30)
        # The emulator creates the jobs again when their status is requested.
        another_emulator.start()

        self.assert_all_succeed(airflow, callback_calls, deferred[1])
        log = airflow.log("e2e_many", deferred[1], "wait", 1, 0)
        assert 0 < log.find("API not responding; still waiting.") < log.find("API is responding again")

    def test_keys_change_during_the_wait(
        self, airflow: Airflow, another_emulator: Emulator, callback_calls: Any, deferred: Any
    ) -> None:
        conn_id, run_id = deferred
        trigger_arguments = airflow.trigger_arguments()
        assert any(conn_id in arguments for arguments in trigger_arguments)
        assert not any(key in arguments for arguments in trigger_arguments for key in (ACCESS_KEY, SECRET_KEY))
        airflow.add_connection(conn_id, another_emulator.url, NEW_SECRET_KEY)
        another_emulator.process.kill()
        another_emulator.start(NEW_SECRET_KEY)

        self.assert_all_succeed(airflow, callback_calls, run_id)
        # The first request of the triggerer had the old keys.
        assert " 401" in another_emulator.process.log.read_text()
