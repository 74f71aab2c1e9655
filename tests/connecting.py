"""The connection that the tests ask with."""

from __future__ import annotations

import json
from typing import Any

import pytest

ACCESS_KEY, SECRET_KEY = "AKIA-of-the-tests", "secret/of-the-tests"


def connect(patch: pytest.MonkeyPatch, url: str, *, secret_key: str = SECRET_KEY, **extra: Any) -> None:
    """Point the default connection to a URL. Each look is one request: what passes is tried again by the next look."""
    connection = {"conn_type": "wasabi", "host": url, "login": ACCESS_KEY, "password": secret_key}
    extra = {"retries": 0, "read_timeout": 30, **extra}
    patch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", json.dumps({**connection, "extra": extra}))
