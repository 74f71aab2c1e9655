"""One Airflow and one emulator for all tests, and a final search for secrets in everything they wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
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
    Airflow,
    Emulator,
    Storage,
)
from secrets_search import find_keys, sqlite_cells
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
    if (folder / "airflow" / "airflow.db").exists():
        terminalreporter.section("state mismatches")
        with closing(sqlite3.connect(folder / "airflow" / "airflow.db")) as db:
            for row in db.execute("SELECT dttm, extra FROM log WHERE event = 'state mismatch'"):
                terminalreporter.write_line(" ".join(map(str, row)))


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


@pytest.fixture
def another_emulator(folder: Path) -> Iterator[Emulator]:
    emulator = Emulator(folder)
    yield emulator
    emulator.process.stop()


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsdReceiver]:
    with StatsdReceiver() as statsd:
        yield statsd


@pytest.fixture(scope="session", autouse=True)
def installed_package() -> None:
    """The tests use the installed package, not the source folder."""
    assert airflow_installation.BIN.parent in Path(airflow_wasabi_jobs.__file__).parents
    assert "site-packages" in airflow_wasabi_jobs.__file__


@pytest.fixture(scope="session")
def airflow(folder: Path, emulator: Emulator, storage: Storage, statsd: StatsdReceiver) -> Iterator[Airflow]:
    connection = {"conn_type": "wasabi", "host": emulator.url, "login": ACCESS_KEY, "password": SECRET_KEY}
    environment = {
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
        **statsd.environment,
    }
    dags = folder / "dags"
    shutil.copytree(DAGS, dags, dirs_exist_ok=True)
    shutil.copy(EXAMPLE, dags)
    with Airflow(folder / "airflow", dags, environment) as running:
        yield running
    searched = folder, list(sqlite_cells(running.home / "airflow.db")), running.responses
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
    locations = find_keys("e2e_many", ["e2e_many"], *searched)
    assert "dag.dag_id" in locations
    assert any(str(running.home) in location for location in locations)


@pytest.fixture(scope="session")
def callback_calls(folder: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Return the callback calls of a run so far."""

    def read(run_id: str) -> list[dict[str, Any]]:
        calls = [json.loads(line) for line in (folder / "callbacks").read_text().splitlines()]
        return [call for call in calls if call["run"] == run_id]

    return read
