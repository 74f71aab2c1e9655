"""Airflow with PostgreSQL, Redis and Celery, and two schedulers, two triggerers and two workers."""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_installation import ACCESS_KEY, SECRET_KEY, Airflow, Emulator, until
from secrets_search import find_keys
from servers import PostgreSQL, Redis

DAGS = Path(__file__).parent / "dags"
# Without --pid, both workers use the same file.
COMPONENTS = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    **{f"scheduler-{n}": ["scheduler", "--skip-serve-logs"] for n in (1, 2)},
    **{f"triggerer-{n}": ["triggerer"] for n in (1, 2)},
    **{
        f"worker-{n}": ["celery", "worker", "--celery-hostname", f"worker-{n}@%h", "--pid", f"worker-{n}.pid"]
        for n in (1, 2)
    },
}


@pytest.fixture(scope="session")
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    postgresql = PostgreSQL(folder)
    yield postgresql
    postgresql.stop()


@pytest.fixture(scope="session")
def redis(folder: Path) -> Iterator[Redis]:
    redis = Redis(folder)
    yield redis
    redis.process.stop()


@pytest.fixture(scope="session")
def airflow(folder: Path, postgresql: PostgreSQL, redis: Redis) -> Iterator[Airflow]:
    environment = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{postgresql.url}",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
        "AIRFLOW__CORE__MAX_MAP_LENGTH": "2000",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "AIRFLOW__CELERY__BROKER_URL": redis.url,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{postgresql.url}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "4",
        # These settings say how soon Airflow sees that a process was killed, and starts its tasks again.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "10",
    }
    dags = folder / "dags"
    shutil.copytree(DAGS, dags)
    with Airflow(folder / "airflow", dags, environment, COMPONENTS) as running:
        until(lambda: len(running.triggerers()) == 2, "two triggerers", 60)
        yield running
        cells = list(postgresql.cells())
    # Now that all processes have stopped, their logs are complete.
    searched = folder, cells, running.responses
    assert find_keys(ACCESS_KEY, [SECRET_KEY], *searched) == []
    # Check the search itself: it finds a text that is known to exist.
    locations = find_keys("e2e_celery.py", ["e2e_celery.py"], *searched)
    assert "dag.fileloc" in locations
    for place in (running.home, redis.data):
        assert any(location.startswith(str(place)) for location in locations), place


@pytest.fixture(scope="class")
def start_emulator(folder: Path, airflow: Airflow) -> Iterator[Callable[..., Emulator]]:
    """Start an emulator with these options, and create a connection with this id to it."""
    emulators = []

    def start(conn_id: str, *options: str) -> Emulator:
        emulators.append(Emulator(folder, options=options))
        airflow.add_connection(conn_id, emulators[-1].url)
        return emulators[-1]

    yield start
    for emulator in emulators:
        emulator.process.stop()


@pytest.fixture(scope="session")
def count_tasks(postgresql: PostgreSQL) -> Callable[..., Counter[Any]]:
    """Count the task instances of a run by these columns."""

    def count(run_id: str, *columns: str) -> Counter[Any]:
        rows = postgresql.query(f"SELECT {', '.join(columns)} FROM task_instance WHERE run_id = %s", run_id)
        return Counter(row[0] if len(columns) == 1 else row for row in rows)

    return count
