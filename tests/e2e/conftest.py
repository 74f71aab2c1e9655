"""One Airflow and one emulator for all the tests, and the search for secrets in all that they left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import installation
import pytest
from installation import (
    ACCESS_KEY,
    NEW_SECRET_KEY,
    SECRET_KEY,
    SOURCE_ACCESS_KEY,
    SOURCE_SECRET_KEY,
    Airflow,
    Emulator,
)
from secrets_search import places_of

import airflow_wasabi_jobs

DAGS = Path(__file__).parent / "dags"
LAST_LINES = {"processes": 60, "tasks": 15}
_FOLDER = pytest.StashKey[Path]()


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Show the last that each process and each task said, if something went wrong: elsewhere nobody will find it."""
    if not exitstatus or _FOLDER not in config.stash:
        return
    folder = config.stash[_FOLDER]
    logs = {log: "processes" for where in (folder, folder / "airflow") for log in sorted(where.glob("*.log"))}
    logs |= dict.fromkeys(sorted((folder / "airflow" / "logs").glob("dag_id=*/**/*.log")), "tasks")
    for log, kind in logs.items():
        terminalreporter.section(str(log.relative_to(folder)))
        said = log.read_text(errors="replace").splitlines()[-LAST_LINES[kind] :]
        terminalreporter.write("\n".join(said) + "\n")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """Where Airflow lives, and what it says is found: ``E2E_HOME`` says where."""
    given = os.environ.get("E2E_HOME")
    path = Path(given).resolve() if given else tmp_path_factory.mktemp("e2e")
    path.mkdir(parents=True, exist_ok=True)
    pytestconfig.stash[_FOLDER] = path
    return path


@pytest.fixture(scope="session")
def emulator(folder: Path) -> Iterator[Emulator]:
    emulator = Emulator(folder)
    yield emulator
    emulator.process.stop()


@pytest.fixture
def another_emulator(folder: Path) -> Iterator[Emulator]:
    emulator = Emulator(folder)
    yield emulator
    emulator.process.stop()


@pytest.fixture(scope="session")
def airflow(folder: Path, emulator: Emulator) -> Iterator[Airflow]:
    # What is tested is what users install, and not the source folder.
    assert installation.BIN.parent in Path(airflow_wasabi_jobs.__file__).parents
    assert "site-packages" in airflow_wasabi_jobs.__file__
    connection = {"conn_type": "wasabi", "host": emulator.url, "login": ACCESS_KEY, "password": SECRET_KEY}
    environment = {
        "AIRFLOW_CONN_WASABI_DEFAULT": json.dumps({**connection, "extra": {"retries": 0}}),
        "AIRFLOW_CONN_THE_SOURCE": json.dumps(
            {"conn_type": "aws", "login": SOURCE_ACCESS_KEY, "password": SOURCE_SECRET_KEY}
        ),
        "E2E_TOLD": str(folder / "told"),
    }
    with Airflow(folder / "airflow", DAGS, environment) as running:
        yield running
    where = folder, running.home / "airflow.db", running.answers
    secret_keys = [SECRET_KEY, NEW_SECRET_KEY, SOURCE_ACCESS_KEY, SOURCE_SECRET_KEY]
    assert places_of(ACCESS_KEY, secret_keys, *where) == []
    # It would have found them: what is known to be there is found.
    found = places_of("e2e_many", ["e2e_many"], *where)
    assert "dag.dag_id" in found
    assert any(str(running.home) in place for place in found)


@pytest.fixture(scope="session")
def told(folder: Path) -> Callable[[str], list[dict[str, Any]]]:
    """What the callbacks of a run were told so far."""

    def read(run_id: str) -> list[dict[str, Any]]:
        calls = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
        return [call for call in calls if call["run"] == run_id]

    return read
