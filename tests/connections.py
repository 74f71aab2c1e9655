"""The Airflow connection that the tests use."""

from __future__ import annotations

import json
from typing import Any

import pytest

ACCESS_KEY, SECRET_KEY = "AKIA-of-the-tests", "secret/of-the-tests"


def set_connection(patch: pytest.MonkeyPatch, url: str, *, secret_key: str = SECRET_KEY, **extra: Any) -> None:
    """Point the default connection to a URL, without retries: each poll is exactly one request."""
    connection = {"conn_type": "wasabi", "host": url, "login": ACCESS_KEY, "password": secret_key}
    extra = {"retries": 0, "read_timeout": 30, **extra}
    patch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", json.dumps({**connection, "extra": extra}))
