"""A DAG that starts when jobs finish, in a real Airflow: wrong connections, and triggerers that are killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests
from airflow_installation import ACCESS_KEY, NEW_SECRET_KEY, TRIGGERERS, Airflow, Emulator, until
from packaging.version import Version

pytestmark = pytest.mark.skipif(
    Version(version("apache-airflow")) < Version("3.3"), reason="earlier versions do not store the cursor"
)

DAG_ID, BATCH, CONN_ID = "e2e_on_finished", "e2e-events", "wasabi_events"
SECONDS_DOWN = 30


@pytest.fixture
def another_emulator(folder: Path) -> Iterator[Emulator]:
    emulator = Emulator(folder)
    yield emulator
    emulator.process.stop()


def submit(emulator: Emulator, seconds: int, name: str) -> str:
    """Submit a job as another system does, and return its id."""
    response = requests.post(
        f"{emulator.url}/jobs",
        headers={"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": emulator.secret_key},
        json={
            "Name": f"completes-after-{seconds}-seconds-{name}",
            "Services": {"ocr": ""},
            "Source": {"Bucket": "media", "ObjectKey": f"{name}.mp4"},
            "Destination": {"Bucket": "results", "Region": "us-east-1"},
            "Batch": BATCH,
        },
        timeout=10,
    )
    return str(response.json()["Job"]["Id"])


def payloads(airflow: Airflow) -> list[dict[str, Any]]:
    """Return the payloads of all events of the asset."""
    response = airflow.request("GET", "/assets/events", keep=False, params={"limit": 100})
    return [event["extra"]["payload"] for event in response["asset_events"] if "payload" in event["extra"]]


def collected(airflow: Airflow) -> Counter[str]:
    """Return the jobs that the runs of the DAG have received."""
    runs = airflow.request("GET", f"/dags/{DAG_ID}/dagRuns", keep=False, params={"limit": 100})["dag_runs"]
    ids = [airflow.xcom(DAG_ID, run["dag_run_id"], "collect") or [] for run in runs if run["state"] == "success"]
    return Counter(job_id for of_run in ids for job_id in of_run)


def test_each_job_makes_one_event(airflow: Airflow, another_emulator: Emulator) -> None:
    log = another_emulator.process.log
    until(lambda: airflow.request("GET", f"/dags/{DAG_ID}"), f"a DAG {DAG_ID}", 120)
    airflow.add_connection(CONN_ID, another_emulator.url, NEW_SECRET_KEY, retries=0)
    until(lambda: " 401" in log.read_text(), "polled with wrong keys", 120)
    airflow.add_connection(CONN_ID, another_emulator.url, retries=0)
    until(lambda: "status=in_progress" in log.read_text(), "polled with the right keys", 120)

    first = [submit(another_emulator, 5, f"first-{number}") for number in range(10)]
    pending = [submit(another_emulator, 30 + number, f"pending-{number}") for number in range(10)]
    until(lambda: len(payloads(airflow)) == 10, lambda: f"10 events: {payloads(airflow)}", 60)
    time.sleep(5)  # until the cursor is stored
    for triggerer in TRIGGERERS:
        airflow.processes[triggerer].kill()
    meanwhile = [submit(another_emulator, 5, f"meanwhile-{number}") for number in range(10)]
    time.sleep(SECONDS_DOWN)
    for triggerer in TRIGGERERS:
        airflow.restart(triggerer)

    expected = Counter(first + pending + meanwhile)
    until(lambda: expected.keys() <= {each["job_id"] for each in payloads(airflow)}, "all events", 120)
    time.sleep(10)
    counts = Counter(payload["job_id"] for payload in payloads(airflow))
    assert counts == expected
    until(lambda: collected(airflow) == expected, lambda: f"received once: {collected(airflow)}", 120)
    payload = next(each for each in payloads(airflow) if each["job_id"] == first[0])
    assert payload["status"] == "completed"
    assert payload["batch"] == BATCH
    assert payload["metadata_path"].endswith(f"/{first[0]}/first-0_metadata.json")
