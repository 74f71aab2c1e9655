"""A separate Airflow home for each test process. It must be set before anything imports Airflow."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the long tests, which mostly wait, evenly over the run and its processes."""
    long_tests = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in long_tests]
    distance = len(items) // max(len(long_tests), 1) + 1
    for number, item in enumerate(long_tests):
        items.insert(number * distance, item)


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
