"""
One Airflow and one emulator for all tests, and a final search for secrets in everything they wrote.

Airflow has PostgreSQL and two of each process. With Airflow 3.3 it has Celery workers and Redis.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import airflow_installation
import pytest
from airflow_installation import (
    ACCESS_KEY,
    NEW_SECRET_KEY,
    SECRET_KEY,
    SOURCE_ACCESS_KEY,
    SOURCE_SECRET_KEY,
    STORAGE_ACCESS_KEY,
    STORAGE_SECRET_KEY,
    TWO_OF_EACH,
    WAITS,
    WITH_CELERY,
    Airflow,
    Emulator,
    Storage,
    until,
)
from secrets_search import find_keys
from servers import PostgreSQL, Redis
from statsd_receiver import StatsdReceiver

import airflow_wasabi_jobs

DAGS = Path(__file__).parent / "dags"
EXAMPLE = Path(__file__).parent.parent.parent / "example_dags" / "example_wasabi_pipeline.py"
LINES_SHOWN = {"processes": 60, "tasks": 15}
MAX_TASK_LOGS_SHOWN = 150
_FOLDER = pytest.StashKey[Path]()


def pytest_configure() -> None:
    """Stop all processes after SIGTERM, as after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Show the last lines of each process log and each task log after a failure."""
    if not exitstatus or _FOLDER not in config.stash:
        return
    folder = config.stash[_FOLDER]
    logs = {log: "processes" for parent in (folder, folder / "airflow") for log in sorted(parent.glob("*.log"))}
    task_logs = sorted((folder / "airflow" / "logs").glob("dag_id=*/**/*.log"))
    logs |= dict.fromkeys(task_logs[:MAX_TASK_LOGS_SHOWN], "tasks")
    for log, kind in logs.items():
        terminalreporter.section(str(log.relative_to(folder)))
        lines = log.read_text(errors="replace").splitlines()[-LINES_SHOWN[kind] :]
        terminalreporter.write("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The folder of Airflow's home and logs: ``E2E_HOME``, or a temporary folder."""
    home = os.environ.get("E2E_HOME")
    path = Path(home).resolve() if home else tmp_path_factory.mktemp("e2e")
    path.mkdir(parents=True, exist_ok=True)
    pytestconfig.stash[_FOLDER] = path
    return path


@pytest.fixture(scope="session")
def storage(folder: Path) -> Iterator[Storage]:
    storage = Storage(folder)
    yield storage
    storage.process.stop()


@pytest.fixture(scope="session")
def emulator(folder: Path, storage: Storage) -> Iterator[Emulator]:
    emulator = Emulator(folder, storage)
    yield emulator
    emulator.process.stop()


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
def statsd() -> Iterator[StatsdReceiver]:
    with StatsdReceiver() as statsd:
        yield statsd


@pytest.fixture(scope="session")
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    postgresql = PostgreSQL(folder)
    yield postgresql
    postgresql.stop()


@pytest.fixture(scope="session")
def executor_environment(folder: Path, postgresql: PostgreSQL) -> Iterator[dict[str, str]]:
    """Configure the Celery executor, and start its message broker. Without Celery, configure the local executor."""
    if not WITH_CELERY:
        yield {"AIRFLOW__CORE__EXECUTOR": "LocalExecutor"}
        return
    redis = Redis(folder)
    yield {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": redis.url,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{postgresql.url}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "8",
        "AIRFLOW__CORE__PARALLELISM": "8",
    }
    redis.process.stop()


@pytest.fixture(scope="session", autouse=True)
def installed_package() -> None:
    """The tests use the installed package, not the source folder."""
    assert airflow_installation.BIN.parent in Path(airflow_wasabi_jobs.__file__).parents
    assert "site-packages" in airflow_wasabi_jobs.__file__


@pytest.fixture(scope="session")
def airflow(
    folder: Path,
    postgresql: PostgreSQL,
    executor_environment: dict[str, str],
    emulator: Emulator,
    storage: Storage,
    statsd: StatsdReceiver,
) -> Iterator[Airflow]:
    connection = {"conn_type": "wasabi", "host": emulator.url, "login": ACCESS_KEY, "password": SECRET_KEY}
    environment = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{postgresql.url}",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
        "AIRFLOW__CORE__MAX_MAP_LENGTH": "2000",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        # These settings say how soon Airflow sees that a process was killed, and starts its tasks again.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "10",
        # The names of two of them in Airflow 2.
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "20",
        "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "5",
        "AIRFLOW_CONN_WASABI_DEFAULT": json.dumps({**connection, "extra": {"retries": 0}}),
        "AIRFLOW_CONN_THE_SOURCE": json.dumps(
            {"conn_type": "aws", "login": SOURCE_ACCESS_KEY, "password": SOURCE_SECRET_KEY}
        ),
        "AIRFLOW_CONN_WASABI_S3": json.dumps(
            {
                "conn_type": "aws",
                "login": STORAGE_ACCESS_KEY,
                "password": STORAGE_SECRET_KEY,
                "extra": {"endpoint_url": storage.url, "region_name": "us-east-1"},
            }
        ),
        "AIRFLOW_CONN_RESULTS_DB": json.dumps({"conn_type": "sqlite", "host": str(folder / "results.db")}),
        "E2E_CALLBACKS": str(folder / "callbacks"),
        "E2E_WAITS": str(WAITS),
        **executor_environment,
        **statsd.environment,
    }
    dags = folder / "dags"
    shutil.copytree(DAGS, dags, dirs_exist_ok=True)
    shutil.copy(EXAMPLE, dags)
    with Airflow(folder / "airflow", dags, environment, TWO_OF_EACH) as running:
        triggerers = "SELECT id FROM job WHERE job_type = 'TriggererJob' AND state = 'running'"
        until(lambda: len(postgresql.query(triggerers)) == 2, "two triggerers", 60)
        yield running
        cells = list(postgresql.cells())
        # Airflow fails a task whose end it reads too late. After a failure, this is shown with the other logs.
        mismatches = postgresql.query("SELECT dttm, extra FROM log WHERE event = 'state mismatch' ORDER BY id")
        (folder / "state-mismatches.log").write_text("\n".join(" ".join(map(str, row)) for row in mismatches))
    # Now that all processes have stopped, their logs are complete.
    searched = folder, cells, running.responses
    secret_keys = [
        SECRET_KEY,
        NEW_SECRET_KEY,
        SOURCE_ACCESS_KEY,
        SOURCE_SECRET_KEY,
        STORAGE_ACCESS_KEY,
        STORAGE_SECRET_KEY,
    ]
    assert find_keys(ACCESS_KEY, secret_keys, *searched) == []
    # Check the search itself: it finds a text that is known to exist.
    locations = find_keys("e2e_", ["e2e_"], *searched)
    assert "dag.dag_id" in locations
    for place in [running.home, *([folder / "redis"] if WITH_CELERY else [])]:
        assert any(location.startswith(str(place)) for location in locations), place


@pytest.fixture(scope="session")
def count_tasks(postgresql: PostgreSQL) -> Callable[..., Counter[Any]]:
    """Count the task instances of a run by these columns."""

    def count(run_id: str, *columns: str) -> Counter[Any]:
        rows = postgresql.query(f"SELECT {', '.join(columns)} FROM task_instance WHERE run_id = %s", run_id)
        return Counter(row[0] if len(columns) == 1 else row for row in rows)

    return count


@pytest.fixture(scope="session")
def callback_calls(folder: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Return the callback calls of a run so far."""

    def read(run_id: str) -> list[dict[str, Any]]:
        file = folder / "callbacks"
        calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [call for call in calls if call["run"] == run_id]

    return read
