"""Waits and submissions while processes of Airflow, its database or the API are away."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from airflow_installation import (
    ACCESS_KEY,
    NEW_SECRET_KEY,
    SECRET_KEY,
    TRIGGERERS,
    WAITS,
    WITH_CELERY,
    WORKERS,
    Airflow,
    Emulator,
    until,
)
from cryptography.fernet import Fernet
from servers import PostgreSQL
from statsd_receiver import StatsdReceiver

CountTasks = Callable[..., Counter[Any]]
StartEmulator = Callable[..., Emulator]
with_celery = pytest.mark.skipif(
    not WITH_CELERY, reason="the workers of LocalExecutor cannot be killed without the scheduler"
)


def test_second_triggerer_takes_over(
    airflow: Airflow,
    postgresql: PostgreSQL,
    start_emulator: StartEmulator,
    count_tasks: CountTasks,
    callback_calls: Callable[[str], list[dict[str, Any]]],
) -> None:
    start_emulator("many_waits")
    run_id = airflow.trigger("e2e_many_waits")

    def waits_of_each_triggerer() -> list[int]:
        rows = postgresql.query("SELECT triggerer_id FROM trigger WHERE triggerer_id IS NOT NULL")
        return list(Counter(rows).values())

    until(lambda: len(waits := waits_of_each_triggerer()) == 2 and min(waits) >= WAITS / 4, "waits in each triggerer")
    airflow.processes["triggerer-1"].kill()
    airflow.finish("e2e_many_waits", run_id)
    airflow.restart("triggerer-1")

    assert count_tasks(run_id, "task_id", "state", "try_number") == {
        ("completed", "success", 1): WAITS,
        ("failed", "failed", 1): WAITS,
        ("cancelled", "failed", 1): WAITS,
        ("timed_out", "failed", 1): WAITS,
        ("soft_failed", "skipped", 1): WAITS,
    }
    # Each callback is called exactly once. The last ones may still be running.
    ended = ("completed", "failed", "cancelled", "timed_out")
    expected = Counter((task, number) for task in ended for number in range(WAITS))

    def called() -> Counter[tuple[str, int]]:
        return Counter((call["task"], call["map_index"]) for call in callback_calls(run_id) if call["task"] in ended)

    until(lambda: called() >= expected, "all callbacks called", 60)
    assert called() == expected


@with_celery
def test_killed_workers_and_errors_leave_one_job_for_each_task(
    airflow: Airflow, start_emulator: StartEmulator, count_tasks: CountTasks
) -> None:
    emulator = start_emulator("many_submits", "--error-rate", "0.03", "--lost-answers", "5")
    run_id = airflow.trigger("e2e_many_submits")

    for submissions, worker in zip((50, 120, 200), (*WORKERS, WORKERS[0]), strict=True):
        until(lambda minimum=submissions: emulator.count_submissions() >= minimum, f"{submissions} submissions")
        airflow.processes[worker].kill()
        airflow.restart(worker)
    assert airflow.finish("e2e_many_submits", run_id) == "success"

    assert Counter(emulator.files_of_batch(run_id)) == {f"{number:04}.mp4": 1 for number in range(300)}
    assert count_tasks(run_id, "state") == {"success": 300}
    # At least one task was interrupted.
    assert max(count_tasks(run_id, "try_number")) > 1


@with_celery
def test_killed_worker_and_triggerers_leave_one_job_for_each_file(
    airflow: Airflow, postgresql: PostgreSQL, start_emulator: StartEmulator, count_tasks: CountTasks
) -> None:
    emulator = start_emulator("large_library", "--latency-ms", "20")
    run_id = airflow.trigger("e2e_large_library")

    until(lambda: emulator.count_submissions() >= 300, "300 submissions")
    ((pid,),) = postgresql.query("SELECT pid FROM task_instance WHERE run_id = %s", run_id)
    (worker,) = [name for name in WORKERS if airflow.processes[name].contains(pid)]
    airflow.processes[worker].kill()
    airflow.restart(worker)
    interrupted_at = emulator.count_submissions()
    assert interrupted_at < 2000

    # One of them polls.
    for triggerer in TRIGGERERS:
        until(lambda: count_tasks(run_id, "state")["deferred"], "deferred")
        polls = emulator.count_polls()
        until(lambda minimum=polls: emulator.count_polls() > minimum, "polled", 60)
        airflow.processes[triggerer].kill()
        airflow.restart(triggerer)
    assert airflow.finish("e2e_large_library", run_id) == "success"

    files = emulator.files_of_batch(run_id)
    assert Counter(files) == {f"completes-after-60-seconds-{number:04}.mp4": 1 for number in range(2000)}
    assert count_tasks(run_id, "state", "try_number") == {("success", 2): 1}
    assert airflow.xcom("e2e_large_library", run_id, "library")["counts"] == {"completed": 2000}


class TestRestarts:
    def assert_all_succeed(self, airflow: Airflow, emulator: Emulator, count_tasks: CountTasks, run_id: str) -> None:
        assert airflow.finish("e2e_restarts", run_id) == "success"
        assert count_tasks(run_id, "task_id", "state") == {("wait", "success"): 30, ("submit", "success"): 30}
        assert Counter(emulator.files_of_batch(run_id)) == {f"{number:04}.mp4": 1 for number in range(30)}

    def test_schedulers_are_restarted(
        self, airflow: Airflow, start_emulator: StartEmulator, count_tasks: CountTasks
    ) -> None:
        emulator = start_emulator("schedulers")
        run_id = airflow.trigger("e2e_restarts", conn_id="schedulers")

        until(lambda: count_tasks(run_id, "state")["deferred"] >= 10, "ten deferred")
        airflow.processes["scheduler-1"].kill()
        airflow.processes["scheduler-2"].stop()
        for scheduler in ("scheduler-1", "scheduler-2"):
            airflow.restart(scheduler)

        self.assert_all_succeed(airflow, emulator, count_tasks, run_id)

    def test_postgresql_is_restarted(
        self, airflow: Airflow, postgresql: PostgreSQL, start_emulator: StartEmulator, count_tasks: CountTasks
    ) -> None:
        emulator = start_emulator("postgresql")
        run_id = airflow.trigger("e2e_restarts", conn_id="postgresql")

        until(lambda: count_tasks(run_id, "state")["deferred"] >= 10, "ten deferred")
        postgresql.stop()
        time.sleep(5)
        postgresql.start()
        # What a service manager does: schedulers, triggerers and the DAG processor end when they lose the database.
        ended: list[str] = []

        def all_finished() -> bool:
            for name in [name for name, process in airflow.processes.items() if not process.is_alive()]:
                ended.append(name)
                airflow.restart(name)
            return sum(count_tasks(run_id, "state")[state] for state in ("success", "failed")) == 60

        until(all_finished, lambda: f"finished: {count_tasks(run_id, 'state')}; {ended} were restarted")

        self.assert_all_succeed(airflow, emulator, count_tasks, run_id)


@pytest.fixture(scope="class")
def limited(start_emulator: StartEmulator) -> Emulator:
    return start_emulator("rate_limit", "--rate-limit-per-minute", "300")


@pytest.fixture(scope="class")
def limited_run_id(airflow: Airflow, limited: Emulator) -> str:
    return airflow.trigger("e2e_rate_limit")


class TestApi:
    WAITS = 40

    def start_waits(
        self, airflow: Airflow, emulator: Emulator, count_tasks: CountTasks, conn_id: str, deferred: int
    ) -> str:
        """Start waits, and return the id of their run when so many of them have been deferred, and some polled."""
        run_id = airflow.trigger("e2e_outage", conn_id=conn_id)
        until(lambda: count_tasks(run_id, "state")["deferred"] >= deferred, f"{deferred} deferred")
        polls = emulator.count_polls()
        until(lambda: emulator.count_polls() > polls, "polled", 30)
        return run_id

    def assert_all_succeed(
        self,
        airflow: Airflow,
        count_tasks: CountTasks,
        callback_calls: Callable[[str], list[dict[str, Any]]],
        run_id: str,
    ) -> None:
        assert airflow.finish("e2e_outage", run_id) == "success"
        assert count_tasks(run_id, "state", "try_number") == {("success", 1): self.WAITS}
        # Each callback is called exactly once.
        until(lambda: len(callback_calls(run_id)) >= self.WAITS, "all callbacks called", 60)
        assert sorted(call["map_index"] for call in callback_calls(run_id)) == list(range(self.WAITS))

    # The other run goes on during the outage.
    @pytest.mark.usefixtures("limited_run_id")
    def test_api_is_down_for_a_minute(
        self, airflow: Airflow, start_emulator: StartEmulator, count_tasks: CountTasks, callback_calls: Any
    ) -> None:
        emulator = start_emulator("outage")
        run_id = self.start_waits(airflow, emulator, count_tasks, "outage", deferred=20)

        emulator.process.kill()
        time.sleep(60)
        # The emulator creates the jobs again when their status is requested.
        emulator.start()

        self.assert_all_succeed(airflow, count_tasks, callback_calls, run_id)
        logs = [airflow.log("e2e_outage", run_id, "wait", map_index=number) for number in range(self.WAITS)]
        (log, *_) = [log for log in logs if "API not responding; still waiting." in log]
        assert log.find("API not responding; still waiting.") < log.find("API is responding again")

    def test_two_triggerers_share_a_rate_limit(
        self,
        airflow: Airflow,
        limited: Emulator,
        limited_run_id: str,
        count_tasks: CountTasks,
        statsd: StatsdReceiver,
    ) -> None:
        assert airflow.finish("e2e_rate_limit", limited_run_id) == "success"

        assert count_tasks(limited_run_id, "state", "try_number") == {("success", 1): 60}
        assert " 429" in limited.process.log.read_text()
        # Each triggerer has paused.
        statsd.receive()
        assert len(statsd.senders["rate_limit_pauses"]) == 2

    def test_keys_change_during_the_wait(
        self,
        airflow: Airflow,
        postgresql: PostgreSQL,
        start_emulator: StartEmulator,
        count_tasks: CountTasks,
        callback_calls: Any,
    ) -> None:
        emulator = start_emulator("new_keys")
        run_id = self.start_waits(airflow, emulator, count_tasks, "new_keys", deferred=20)
        arguments = trigger_arguments(airflow, postgresql)
        assert any("new_keys" in text for text in arguments)
        assert not any(key in text for text in arguments for key in (ACCESS_KEY, SECRET_KEY))

        airflow.add_connection("new_keys", emulator.url, NEW_SECRET_KEY)
        emulator.process.kill()
        emulator.start(NEW_SECRET_KEY)

        self.assert_all_succeed(airflow, count_tasks, callback_calls, run_id)
        # The first request of a triggerer had the old keys.
        assert " 401" in emulator.process.log.read_text()


def trigger_arguments(airflow: Airflow, postgresql: PostgreSQL) -> list[str]:
    """Return the decrypted arguments of all triggers from the database. The REST API does not show them."""
    key = airflow.command("config", "get-value", "core", "fernet_key").split()[-1]
    arguments = [text for (text,) in postgresql.query("SELECT kwargs FROM trigger")]
    return [text if text.startswith("{") else Fernet(key).decrypt(text.encode()).decode() for text in arguments]
