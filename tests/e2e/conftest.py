"""One Airflow and one emulator for all the tests, and the search for secrets in all that they left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import installation
import pytest
from installation import ACCESS_KEY, NEW_SECRET_KEY, SECRET_KEY, Airflow, Emulator
from secrets_search import places_of

import airflow_wasabi_jobs

DAGS = Path(__file__).parent / "dags"
LAST_LINES = 60
_FOLDER = pytest.StashKey[Path]()


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Show the last that each process said, if something went wrong: elsewhere nobody will find it."""
    if exitstatus and _FOLDER in config.stash:
        for log in sorted(config.stash[_FOLDER].rglob("*.log")):
            if log.parent in {config.stash[_FOLDER], config.stash[_FOLDER] / "airflow"}:
                terminalreporter.section(str(log))
                terminalreporter.write("\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]) + "\n")


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
        "E2E_TOLD": str(folder / "told"),
    }
    with Airflow(folder / "airflow", DAGS, environment) as running:
        yield running
    secret_keys = [SECRET_KEY, NEW_SECRET_KEY]
    assert places_of(ACCESS_KEY, secret_keys, folder, running.home / "airflow.db", running.answers) == []


@pytest.fixture(scope="session")
def told(folder: Path) -> Path:
    """What the callbacks of the DAGs were told, a line of JSON each."""
    return folder / "told"
