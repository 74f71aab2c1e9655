"""A separate Airflow home for each test process. It must be set before anything imports Airflow."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import connections
import pytest

_HOME = Path(tempfile.mkdtemp(prefix="airflow-wasabi-jobs-"))
EXAMPLE_DAGS = Path(__file__).parent.parent / "example_dags"

os.environ.update(
    {
        "AIRFLOW_HOME": str(_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLE_DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(_HOME / "logs"),
    }
)
# Variables of the developer's machine would change certificates and proxies in the tests.
for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)


@pytest.fixture
def set_connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Point the default connection to a URL."""
    return functools.partial(connections.set_connection, monkeypatch)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while tests and modules are loaded: hardly any of it is garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Order the tests for pytest-xdist, whose processes each start with an equal part of the list.

    The DAG runs are at the start of the first part. The long tests, which mostly wait, are spread over the parts, and
    over the first half of each, so that no process runs one when the others have finished.
    """
    process_count = getattr(config, "workerinput", {}).get("workercount", 1)
    dag_runs = [item for item in items if item.get_closest_marker("dag_run")]
    long_tests = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if item not in dag_runs and item not in long_tests])
    order, end = dag_runs, 0
    for number in range(process_count):
        end += (len(items) - end) // (process_count - number)
        part = long_tests[number::process_count]
        distance = max(end - len(order), 0) // 2 // max(len(part), 1)
        for item in part:
            order += [item, *islice(others, distance)]
        order += islice(others, max(end - len(order), 0))
    items[:] = order


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
