"""
Waits for ten thousand jobs during an hour of faults at random: ``make soak``.

``SOAK_JOBS`` is the number of jobs, and ``SOAK_SEED`` repeats a sequence of faults.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow_installation import TRIGGERERS, WORKERS, Airflow, Emulator
from servers import PostgreSQL

JOBS = int(os.environ.get("SOAK_JOBS", "10000"))
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(10_000))
# How many tasks a run has, and the state in which they end. One of them waits for 200 jobs.
TASKS_OF_RUN = {
    ("ended_by_trigger", "success"): 240,
    ("failed", "failed"): 20,
    ("cancelled", "failed"): 10,
    ("soft_failed", "skipped"): 10,
    ("submit", "success"): 20,
    ("library", "success"): 1,
}
FILES_OF_LIBRARY, JOBS_OF_RUN = 200, 500
# The next run starts when fewer tasks have not ended.
MAX_UNFINISHED = 600
SECONDS_BETWEEN_FAULTS = (60, 150)
FINISHED = {"success", "failed", "skipped", "upstream_failed", "removed"}


class Faults:
    """What can fail, by its name. Each call returns when what failed has been started again."""

    def __init__(self, airflow: Airflow, postgresql: PostgreSQL, emulator: Emulator) -> None:
        self._airflow = airflow
        self._postgresql = postgresql
        self._emulator = emulator
        kill = self._kill
        self.by_name: dict[str, Callable[[], None]] = {
            **{f"{name} killed": lambda name=name: kill(name) for name in (*TRIGGERERS, *WORKERS)},
            **{f"{name} killed": lambda name=name: kill(name) for name in ("scheduler-1", "scheduler-2")},
            "both triggerers killed": lambda: kill(*TRIGGERERS),
            "PostgreSQL restarted": self._restart_postgresql,
            "API hangs": self._stop_api,
        }

    def _kill(self, *names: str) -> None:
        for name in names:
            self._airflow.processes[name].kill()
        for name in names:
            self._airflow.restart(name)

    def _restart_postgresql(self) -> None:
        self._postgresql.stop()
        time.sleep(5)
        self._postgresql.start()

    def _stop_api(self) -> None:
        self._emulator.process.send_signal(signal.SIGSTOP)
        time.sleep(40)
        self._emulator.process.send_signal(signal.SIGCONT)

    def restart_ended_processes(self) -> list[str]:
        """Do what a service manager does: some processes end when they lose the database."""
        ended = [name for name, process in self._airflow.processes.items() if not process.is_alive()]
        for name in ended:
            self._airflow.restart(name)
        return ended


@pytest.fixture
def emulator_with_errors(start_emulator: Callable[..., Emulator]) -> Emulator:
    return start_emulator("soak", "--error-rate", "0.02")


def test_no_wait_is_lost(
    airflow: Airflow, postgresql: PostgreSQL, emulator_with_errors: Emulator, count_tasks: Callable[..., Counter[Any]]
) -> None:
    source_of_faults = random.Random(SEED)
    print(f"\n{JOBS:,} jobs, seed {SEED}", flush=True)
    faults = Faults(airflow, postgresql, emulator_with_errors)
    happened: Counter[str] = Counter()
    run_ids: list[str] = []
    started_at = time.monotonic()

    def report(text: str) -> None:
        print(f"{time.monotonic() - started_at:6.0f} s  {text}", flush=True)

    def states() -> Counter[str]:
        return sum((count_tasks(run_id, "state") for run_id in run_ids), Counter())

    def unfinished() -> int:
        current = states()
        return len(run_ids) * sum(TASKS_OF_RUN.values()) - sum(current[state] for state in FINISHED)

    next_fault_at = started_at + SECONDS_BETWEEN_FAULTS[0]
    for _ in _until(lambda: len(run_ids) * JOBS_OF_RUN >= JOBS and not unfinished()):
        if len(run_ids) * JOBS_OF_RUN < JOBS and unfinished() < MAX_UNFINISHED:
            run_ids.append(airflow.trigger("e2e_soak", run=len(run_ids)))
        happened.update(f"{name} ended" for name in faults.restart_ended_processes())
        if time.monotonic() < next_fault_at:
            time.sleep(2)
            continue
        next_fault_at = time.monotonic() + source_of_faults.uniform(*SECONDS_BETWEEN_FAULTS)
        name = source_of_faults.choice(sorted(faults.by_name))
        report(f"{name}; {len(run_ids)} runs: {dict(states())}")
        faults.by_name[name]()
        happened[name] += 1

    report(f"all have ended: {dict(states())}")
    print("faults:", dict(sorted(happened.items())))
    tries = sum((count_tasks(run_id, "try_number") for run_id in run_ids), Counter())
    print("tasks by the number of their tries:", dict(sorted(tries.items())))
    print("requests:", emulator_with_errors.count_polls(), "GET,", emulator_with_errors.count_submissions(), "POST")
    for run_id in run_ids:
        assert count_tasks(run_id, "task_id", "state") == TASKS_OF_RUN, run_id
        for batch, count in ((run_id, TASKS_OF_RUN["submit", "success"]), (f"library-{run_id}", FILES_OF_LIBRARY)):
            files = Counter(emulator_with_errors.files_of_batch(batch))
            assert files == {f"completes-after-60-seconds-{number:04}.mp4": 1 for number in range(count)}, batch


def _until(condition: Callable[[], bool]) -> Iterator[None]:
    deadline = time.monotonic() + 60 * float(os.environ["E2E_MINUTES"])
    while not condition():
        assert time.monotonic() < deadline, "the waits have not ended"
        yield
