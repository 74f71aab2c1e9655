"""How waits end in a real Airflow: each mode, each outcome, read back as a client reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from installation import ACCESS_KEY, IS_AIRFLOW_2, NEW_SECRET_KEY, SECRET_KEY, Airflow, Emulator, Process, until

# On SQLite Airflow 2 runs one task at a time, so there are fewer of them.
MODES = ["poke", "deferred"] if IS_AIRFLOW_2 else ["poke", "reschedule", "deferred", "ended_by_trigger"]
on_airflow_3 = pytest.mark.skipif(IS_AIRFLOW_2, reason="with SQLite it runs one task at a time, and these are many")
# The state, how many tries it took, and what the callbacks were told.
ENDS = {
    "completes": ("success", 1, [("success", None)]),
    "fails": ("failed", 1, [("failure", "WasabiJobFailed")]),
    "cancels": ("failed", 1, [("failure", "WasabiJobCancelled")]),
    "too_many_errors": ("failed", 1, [("failure", "WasabiJobFailed")]),
    "skips": ("skipped", 1, []),
    "times_out": ("failed", 1, [("failure", "AirflowSensorTimeout")]),
    "time_out_skips": ("skipped", 1, []),
    "is_missing": ("failed", 2, [("retry", "NotFound"), ("failure", "NotFound")]),
    "is_missing_and_not_skipped": ("failed", 2, [("retry", "NotFound"), ("failure", "NotFound")]),
}


@pytest.fixture(scope="module")
def runs(airflow: Airflow) -> dict[str, str]:
    """All modes at once."""
    return {mode: airflow.trigger(f"e2e_waits_{mode}") for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_each_outcome(airflow: Airflow, runs: dict[str, str], told: Any, mode: str) -> None:
    dag_id, run_id = f"e2e_waits_{mode}", runs[mode]
    assert airflow.finish(dag_id, run_id) == "failed"

    ends = {task["task_id"]: (task["state"], task["try_number"]) for task in airflow.tasks(dag_id, run_id)}
    assert ends == {outcome: end[:2] for outcome, end in ENDS.items()}

    xcom = airflow.xcom(dag_id, run_id, "completes")
    assert xcom == {"job_id": f"completes-with-1-error-completes-{run_id}", "status": "completed", "error_count": 1}

    expected = {outcome: end[2] for outcome, end in ENDS.items()}
    if mode == "ended_by_trigger":
        expected["completes"] = []  # which is what it costs
    if IS_AIRFLOW_2:
        # It takes a task that is skipped for a success.
        expected |= {outcome: [("success", None)] for outcome, end in ENDS.items() if end[0] == "skipped"}

    # The last of them may still be on their way.
    until(lambda: len(told(run_id)) >= sum(map(len, expected.values())), "told all callbacks", 60)
    calls = [(call["task"], call["kind"], call["error"]) for call in told(run_id)]
    assert {outcome: [call[1:] for call in calls if call[0] == outcome] for outcome in ENDS} == expected


@pytest.mark.parametrize("mode", MODES)
def test_the_log_tells_what_happened(airflow: Airflow, runs: dict[str, str], mode: str) -> None:
    dag_id, run_id = f"e2e_waits_{mode}", runs[mode]
    airflow.finish(dag_id, run_id)

    failed = airflow.log(dag_id, run_id, "fails")
    assert f"Job 'fails-fails-{run_id}' on connection 'wasabi_default' failed, with 1 error (INTERNAL_ERROR)" in failed
    assert failed.count(": submitted (errors: 0)") == 1
    # Deferred, it is the trigger that tells this, and Airflow puts it into the log of its task.
    assert f"Job 'completes-with-1-error-completes-{run_id}': completed (errors: 1)" in airflow.log(
        dag_id, run_id, "completes"
    )
    timed_out = airflow.log(dag_id, run_id, "times_out")
    assert "was not over within the sensor's timeout of 5 seconds" in timed_out
    assert "when last seen it was " in timed_out


@on_airflow_3
def test_what_ended_in_the_triggerer_took_no_second_worker(airflow: Airflow, runs: dict[str, str]) -> None:
    for mode in ("deferred", "ended_by_trigger"):
        airflow.finish(f"e2e_waits_{mode}", runs[mode])
    resumed, ended = (
        airflow.log(f"e2e_waits_{mode}", runs[mode], "completes") for mode in ("deferred", "ended_by_trigger")
    )

    # Each worker tells that it begins, in words that are Airflow's own.
    begins = "DAG bundles loaded"
    assert "completed (errors: 1)" in ended
    assert (resumed.count(begins), ended.count(begins)) == (2, 1)


def deferred_of(airflow: Airflow, run_id: str) -> int:
    return list(airflow.states("e2e_many", run_id).values()).count("deferred")


@on_airflow_3
def test_fifty_deferred_waits_at_once(airflow: Airflow) -> None:
    run_id = airflow.trigger("e2e_many", count=50, seconds=60, conn_id="wasabi_default")
    until(lambda: deferred_of(airflow, run_id) == 50, "fifty deferred at once", 120)
    assert airflow.finish("e2e_many", run_id) == "success"

    tasks = [task for task in airflow.tasks("e2e_many", run_id) if task["task_id"] == "wait"]
    assert [(task["state"], task["try_number"]) for task in tasks] == [("success", 1)] * 50
    assert airflow.xcom("e2e_many", run_id, "count") == 50


class TestFaults:
    COUNT = 5 if IS_AIRFLOW_2 else 20

    @pytest.fixture
    def deferred(self, airflow: Airflow, another_emulator: Emulator, request: pytest.FixtureRequest) -> Any:
        """Twenty waits in the triggerer, on a connection and an emulator of their own, and some looks at them."""
        conn_id = f"wasabi_{request.node.name}"
        airflow.add_connection(conn_id, another_emulator.url)
        run_id = airflow.trigger("e2e_many", count=self.COUNT, seconds=45, conn_id=conn_id)
        until(lambda: deferred_of(airflow, run_id) == self.COUNT, "all deferred", 120)
        looks = another_emulator.looks()
        until(lambda: another_emulator.looks() > looks, "looked at", 30)
        return conn_id, run_id

    def all_end_well(self, airflow: Airflow, told: Any, run_id: str) -> None:
        assert airflow.finish("e2e_many", run_id) == "success"
        tasks = [task for task in airflow.tasks("e2e_many", run_id) if task["task_id"] == "wait"]
        assert [(task["state"], task["try_number"]) for task in tasks] == [("success", 1)] * self.COUNT
        assert airflow.xcom("e2e_many", run_id, "count") == self.COUNT
        # Nothing is lost, and nothing comes twice.
        until(lambda: len(told(run_id)) >= self.COUNT, "told all callbacks", 60)
        assert sorted(call["map_index"] for call in told(run_id)) == list(range(self.COUNT))

    def test_the_triggerer_is_killed_and_started_again(self, airflow: Airflow, told: Any, deferred: Any) -> None:
        airflow.processes["triggerer"].kill()
        airflow.start("triggerer")

        self.all_end_well(airflow, told, deferred[1])

    @pytest.fixture
    def second_triggerer(self, airflow: Airflow) -> Iterator[Process]:
        """A second triggerer beside the first. Neither takes all twenty waits."""
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
    def test_two_triggerers_share_the_waits(self, airflow: Airflow, told: Any, deferred: Any) -> None:
        def sharing() -> set[int]:
            tasks = airflow.tasks("e2e_many", deferred[1])
            return {task["triggerer_job"]["id"] for task in tasks if task["triggerer_job"]}

        until(lambda: len(sharing()) == 2, "shared", 30)
        self.all_end_well(airflow, told, deferred[1])

    @on_airflow_3
    def test_a_second_triggerer_takes_over(
        self, airflow: Airflow, told: Any, second_triggerer: Process, deferred: Any
    ) -> None:
        second_triggerer.kill()

        self.all_end_well(airflow, told, deferred[1])

    @on_airflow_3
    def test_the_api_is_away_for_half_a_minute(
        self, airflow: Airflow, another_emulator: Emulator, told: Any, deferred: Any
    ) -> None:
        another_emulator.process.kill()
        time.sleep(30)
        # Its jobs are born again when they are first asked for.
        another_emulator.start()

        self.all_end_well(airflow, told, deferred[1])
        log = airflow.log("e2e_many", deferred[1], "wait", 1, 0)
        assert 0 < log.find("no answer at the moment, and the wait goes on") < log.find("the API answers again")

    def test_the_keys_are_changed(self, airflow: Airflow, another_emulator: Emulator, told: Any, deferred: Any) -> None:
        conn_id, run_id = deferred
        held = airflow.trigger_arguments()
        assert any(conn_id in arguments for arguments in held)
        assert not any(key in arguments for arguments in held for key in (ACCESS_KEY, SECRET_KEY))
        airflow.add_connection(conn_id, another_emulator.url, NEW_SECRET_KEY)
        another_emulator.process.kill()
        another_emulator.start(NEW_SECRET_KEY)

        self.all_end_well(airflow, told, run_id)
        # The triggerer asked with the old keys first.
        assert " 401" in another_emulator.process.log.read_text()
