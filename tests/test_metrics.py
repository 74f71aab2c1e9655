"""The metrics of the package, received from an Airflow with StatsD."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from loopback import ByPath, Loopback, cut, json_response, response, status_response
from statsd_receiver import StatsdReceiver

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api import endpoints, exceptions
from airflow_wasabi_jobs.api.client import JobsClient
from airflow_wasabi_jobs.api.settings import build_settings

PROCESS = """
import asyncio

try:
    # As the task runner and the triggerer of Airflow 3.2 and later do.
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
except ImportError:
    pass

from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.triggers import WasabiJobTrigger

hook = WasabiJobsHook()
job = hook.submit_job(
    name="talk",
    source={"bucket": "media", "object_key": "talk.mp4"},
    destination={"bucket": "results", "region": "us-east-1"},
    services=["ocr"],
)

async def wait():
    return [event async for event in WasabiJobTrigger(job.job_id, "wasabi_default", poke_interval=0.01).run()]

(event,) = asyncio.run(wait())
assert event.payload["status"] == "failed", event
"""


@pytest.mark.long
def test_statsd() -> None:
    with (
        StatsdReceiver() as statsd,
        Loopback(
            ByPath(
                jobs=[json_response({"Job": {"Id": "12345", "Status": "submitted"}}), json_response({"Records": []})],
                status=[response(429, Retry_After="0"), status_response("failed")],
            )
        ) as server,
    ):
        connection = {"conn_type": "wasabi", "host": server.url, "login": "key", "password": "secret"}
        subprocess.run(
            [sys.executable, "-c", PROCESS],
            env={**os.environ, **statsd.environment, "AIRFLOW_CONN_WASABI_DEFAULT": json.dumps(connection)},
            check=True,
        )
        statsd.receive()

    assert statsd.counters == {
        "submissions": 1,
        "requests.succeeded": 2,
        "requests.rate_limited": 1,
        "rate_limit_pauses": 1,
        "polls": 1,
    }
    ((name, (milliseconds,)),) = statsd.timings.items()
    assert name == "deferred_wait.failed"
    assert 0 < milliseconds < 10_000


def test_disabled() -> None:
    assert metrics.find_stats() is None
    metrics.count("polls")
    metrics.record_duration("deferred_wait.completed", 1.0)


@pytest.mark.parametrize(
    ("next_response", "outcome"),
    [
        (status_response("completed"), "succeeded"),
        (response(429), "rate_limited"),
        (response(503), "server_error"),
        (response(401), "rejected"),
        (cut(), "connection_failed"),
        (response(200, "<html>"), "invalid_response"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_outcome_of_a_request(next_response: Any, outcome: str) -> None:
    outcomes: list[str] = []
    with Loopback(next_response) as server:
        settings = build_settings(
            name="x", host=server.url, access_key="key", secret_key="secret", extra='{"retries": 0}'
        )
        client = JobsClient(settings, outcomes.append)
        try:
            client.send(endpoints.get_job_status("12345"))
        except exceptions.WasabiApiError:
            pass
        finally:
            client.close()

    assert outcomes == [outcome]
