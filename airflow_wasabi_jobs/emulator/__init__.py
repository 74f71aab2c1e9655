"""
A local AiR Jobs API for demos and for testing DAGs without an account.

In a test::

    with AirEmulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
        ...

From a shell: ``wasabi-air-emulator``.
"""

from __future__ import annotations

from airflow_wasabi_jobs.emulator.server import AirEmulator

__all__ = ["AirEmulator"]
