"""Waits and submissions while processes of Airflow, its database or the API are away."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from airflow_installation import Airflow, Emulator, until
from servers import PostgreSQL

RUN_TIMEOUT = 600.0


class TestWaits:
    def test_second_triggerer_takes_over(
        self,
        airflow: Airflow,
        postgresql: PostgreSQL,
        start_emulator: Callable[..., Emulator],
        count_tasks: Callable[..., Counter[Any]],
    ) -> None:
        start_emulator("celery_waits")
        run_id = airflow.trigger("celery_waits")

        def waits_of_each_triggerer() -> list[int]:
            rows = postgresql.query("SELECT triggerer_id FROM trigger WHERE triggerer_id IS NOT NULL")
            return list(Counter(rows).values())

        until(lambda: len(waits := waits_of_each_triggerer()) == 2 and min(waits) >= 10, "ten waits in each triggerer")
        airflow.processes["triggerer-1"].kill()
        airflow.finish("celery_waits", run_id, RUN_TIMEOUT)
        airflow.restart("triggerer-1")

        assert count_tasks(run_id, "task_id", "state", "try_number") == {
            ("completed", "success", 1): 40,
            ("failed", "failed", 1): 40,
            ("cancelled", "failed", 1): 40,
            ("timed_out", "failed", 1): 40,
            ("soft_failed", "skipped", 1): 40,
        }


class TestSubmissions:
    def test_one_job_for_each_task_with_killed_workers_and_errors(
        self, airflow: Airflow, start_emulator: Callable[..., Emulator], count_tasks: Callable[..., Counter[Any]]
    ) -> None:
        emulator = start_emulator("celery_submits", "--error-rate", "0.03", "--lost-answers", "5")
        run_id = airflow.trigger("celery_submits")

        for submissions, worker in ((20, "worker-1"), (50, "worker-2"), (80, "worker-1")):
            until(lambda minimum=submissions: emulator.count_submissions() >= minimum, f"{submissions} submissions")
            airflow.processes[worker].kill()
            airflow.restart(worker)
        assert airflow.finish("celery_submits", run_id, RUN_TIMEOUT) == "success"

        assert Counter(emulator.files_of_batch(run_id)) == {f"{number:04}.mp4": 1 for number in range(120)}
        assert count_tasks(run_id, "state") == {"success": 120}
        # At least one task was interrupted.
        assert max(count_tasks(run_id, "try_number")) > 1


class TestLibrary:
    def test_one_job_for_each_file_with_killed_worker_and_triggerers(
        self,
        airflow: Airflow,
        postgresql: PostgreSQL,
        start_emulator: Callable[..., Emulator],
        count_tasks: Callable[..., Counter[Any]],
    ) -> None:
        emulator = start_emulator("celery_library", "--latency-ms", "20")
        run_id = airflow.trigger("celery_library")

        until(lambda: emulator.count_submissions() >= 300, "300 submissions")
        ((pid,),) = postgresql.query("SELECT pid FROM task_instance WHERE run_id = %s", run_id)
        (worker,) = [name for name, process in airflow.processes.items() if process.contains(pid)]
        airflow.processes[worker].kill()
        airflow.restart(worker)
        interrupted_at = emulator.count_submissions()
        assert interrupted_at < 2000

        # One of them polls.
        for triggerer in ("triggerer-1", "triggerer-2"):
            until(lambda: count_tasks(run_id, "state")["deferred"], "deferred")
            polls = emulator.count_polls()
            until(lambda minimum=polls: emulator.count_polls() > minimum, "polled", 60)
            airflow.processes[triggerer].kill()
            airflow.restart(triggerer)
        assert airflow.finish("celery_library", run_id, RUN_TIMEOUT) == "success"

        files = emulator.files_of_batch(run_id)
        assert Counter(files) == {f"completes-after-60-seconds-{number:04}.mp4": 1 for number in range(2000)}
        assert count_tasks(run_id, "state", "try_number") == {("success", 2): 1}
        assert airflow.xcom("celery_library", run_id, "library")["counts"] == {"completed": 2000}


class TestRestarts:
    def assert_all_succeed(
        self, airflow: Airflow, emulator: Emulator, count_tasks: Callable[..., Counter[Any]], run_id: str
    ) -> None:
        assert airflow.finish("celery_restarts", run_id, RUN_TIMEOUT) == "success"
        assert count_tasks(run_id, "task_id", "state") == {("wait", "success"): 30, ("submit", "success"): 30}
        assert Counter(emulator.files_of_batch(run_id)) == {f"{number:04}.mp4": 1 for number in range(30)}

    def test_schedulers_are_restarted(
        self, airflow: Airflow, start_emulator: Callable[..., Emulator], count_tasks: Callable[..., Counter[Any]]
    ) -> None:
        emulator = start_emulator("celery_schedulers")
        run_id = airflow.trigger("celery_restarts", conn_id="celery_schedulers")

        until(lambda: count_tasks(run_id, "state")["deferred"] >= 10, "ten deferred")
        airflow.processes["scheduler-1"].kill()
        airflow.processes["scheduler-2"].stop()
        for scheduler in ("scheduler-1", "scheduler-2"):
            airflow.restart(scheduler)

        self.assert_all_succeed(airflow, emulator, count_tasks, run_id)

    def test_postgresql_is_restarted(
        self,
        airflow: Airflow,
        postgresql: PostgreSQL,
        start_emulator: Callable[..., Emulator],
        count_tasks: Callable[..., Counter[Any]],
    ) -> None:
        emulator = start_emulator("celery_postgresql")
        run_id = airflow.trigger("celery_restarts", conn_id="celery_postgresql")

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

        until(all_finished, lambda: f"finished: {count_tasks(run_id, 'state')}; {ended} were restarted", RUN_TIMEOUT)

        self.assert_all_succeed(airflow, emulator, count_tasks, run_id)


@pytest.fixture(scope="class")
def limited(start_emulator: Callable[..., Emulator]) -> Emulator:
    return start_emulator("celery_rate_limit", "--rate-limit-per-minute", "300")


@pytest.fixture(scope="class")
def limited_run_id(airflow: Airflow, limited: Emulator) -> str:
    return airflow.trigger("celery_rate_limit")


class TestApi:
    # The other run goes on during the outage.
    @pytest.mark.usefixtures("limited_run_id")
    def test_api_is_down_for_a_minute(
        self, airflow: Airflow, start_emulator: Callable[..., Emulator], count_tasks: Callable[..., Counter[Any]]
    ) -> None:
        emulator = start_emulator("celery_outage")
        run_id = airflow.trigger("celery_outage")

        until(lambda: count_tasks(run_id, "state")["deferred"] >= 20, "twenty deferred")
        emulator.process.kill()
        time.sleep(60)
        # The emulator creates the jobs again when their status is requested.
        emulator.start()

        assert airflow.finish("celery_outage", run_id, RUN_TIMEOUT) == "success"
        assert count_tasks(run_id, "state", "try_number") == {("success", 1): 40}

    def test_two_triggerers_share_a_rate_limit(
        self, airflow: Airflow, limited: Emulator, limited_run_id: str, count_tasks: Callable[..., Counter[Any]]
    ) -> None:
        assert airflow.finish("celery_rate_limit", limited_run_id, RUN_TIMEOUT) == "success"

        assert count_tasks(limited_run_id, "state", "try_number") == {("success", 1): 60}
        assert " 429" in limited.process.log.read_text()
