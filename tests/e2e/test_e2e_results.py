"""From files to rows in a database, with results in a real S3 server."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from airflow_installation import Airflow
from statsd_receiver import StatsdReceiver


@pytest.fixture(scope="module")
def run_id(airflow: Airflow) -> str:
    return airflow.trigger("example_wasabi_pipeline", storage_conn_id="wasabi_s3")


def test_results_in_s3_become_rows_of_a_table(airflow: Airflow, run_id: str, folder: Path) -> None:
    state = airflow.finish("example_wasabi_pipeline", run_id)

    assert state == "success", airflow.states("example_wasabi_pipeline", run_id)
    job_ids = [airflow.xcom("example_wasabi_pipeline", run_id, "process.analyse", n)["job_id"] for n in range(2)]
    with closing(sqlite3.connect(folder / "results.db")) as database:
        rows = database.execute("SELECT job_id, object_key, service, findings FROM wasabi_services").fetchall()
    assert sorted(row[:3] for row in rows) == sorted(
        (job_id, key, service)
        for job_id, key in zip(job_ids, ["interviews/monday.mp4", "interviews/tuesday.mp4"], strict=True)
        for service in ("air_ocr", "air_s2t")
    )
    assert all(json.loads(row[3])["findings"][0]["text"] for row in rows)


def test_metrics_of_workers_and_triggerer(airflow: Airflow, run_id: str, statsd: StatsdReceiver) -> None:
    airflow.finish("example_wasabi_pipeline", run_id)
    statsd.receive()

    # From workers.
    assert statsd.counters["submissions"] >= 2
    assert statsd.counters["deferred_waits"] >= 2
    # From the triggerer.
    assert len(statsd.timings["deferred_wait.completed"]) >= 1
    assert statsd.counters["requests.succeeded"] > statsd.counters["submissions"]
