"""
The events that OpenLineage writes to a file when it asks each task for its lineage.

In an Airflow of its own: a listener changes where sensors of the other tests end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_installation import ACCESS_KEY, SECRET_KEY, Airflow, Emulator, until

DAGS = Path(__file__).parent / "lineage_dags"
# Some are mapped.
TASKS = Counter(completes=1, fails=1, cancels=1, submit=2, wait=2, library=1, wait_for_library=1)


@pytest.fixture(scope="module")
def home(folder: Path) -> Path:
    home = folder / "lineage"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="module")
def events(home: Path, emulator: Emulator) -> Iterator[list[dict[str, Any]]]:
    """The events of the tasks that have ended."""
    file = home / "events.jsonl"
    connection = {"conn_type": "wasabi", "host": emulator.url, "login": ACCESS_KEY, "password": SECRET_KEY}
    environment = {
        "AIRFLOW_CONN_WASABI_DEFAULT": json.dumps(connection),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(file), "append": True}),
        "E2E_RESULTS": str(home / "results.jsonl"),
    }

    def read() -> list[dict[str, Any]]:
        # The last line may be incomplete.
        lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
        read_events = [json.loads(line) for line in lines]
        return [event for event in read_events if event["eventType"] in {"COMPLETE", "FAIL"}]

    with Airflow(home, DAGS, environment) as airflow:
        run_id = airflow.trigger("e2e_lineage")
        airflow.finish("e2e_lineage", run_id)
        # Airflow 3 calls listeners after it has stored the state of the task.
        until(lambda: Counter(map(name_of, read())) >= TASKS, "the events of all tasks", 60)
        yield read()


def name_of(event: dict[str, Any]) -> str:
    return str(event["job"]["name"]).removeprefix("e2e_lineage.")


def find(events: list[dict[str, Any]], task_id: str, event_type: str) -> dict[str, Any]:
    (event,) = (event for event in events if (name_of(event), event["eventType"]) == (task_id, event_type))
    return event


def datasets(event: dict[str, Any], direction: str) -> list[str]:
    return [f"{dataset['namespace']} {dataset['name']}" for dataset in event[direction]]


def facet(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {field: value for field, value in event["run"]["facets"][name].items() if field[0] != "_"}


def test_submitted_job(events: list[dict[str, Any]]) -> None:
    event = find(events, "completes", "COMPLETE")

    job = facet(event, "wasabi_job")
    assert datasets(event, "inputs") == ["s3://media monday.mp4"]
    (result,) = datasets(event, "outputs")
    assert result.startswith("s3://results jobs/")
    assert result.endswith(f"/{job['job_id']}/monday_metadata.json")
    assert (job["status"], job["error_count"]) == ("completed", 0)
    assert event["job"]["facets"]["wasabi_services"]["services"] == ["ocr", "s2t"]


def test_submitted_job_that_fails(events: list[dict[str, Any]]) -> None:
    event = find(events, "fails", "FAIL")

    job = facet(event, "wasabi_job")
    assert datasets(event, "inputs") == ["s3://media fails.mp4"]
    assert (job["status"], job["error_count"], job["error_code"]) == ("failed", 1, "INTERNAL_ERROR")
    assert "INTERNAL_ERROR" in event["run"]["facets"]["errorMessage"]["message"]


def test_submitted_job_that_is_cancelled(events: list[dict[str, Any]]) -> None:
    event = find(events, "cancels", "FAIL")

    assert datasets(event, "inputs") == ["s3://media cancels.mp4"]
    assert facet(event, "wasabi_job")["status"] == "cancelled"


def test_job_of_a_sensor(events: list[dict[str, Any]]) -> None:
    completed, failed = find(events, "wait", "COMPLETE"), find(events, "wait", "FAIL")

    assert datasets(completed, "inputs") == ["s3://media completes-after-30-seconds.mp4"]
    assert facet(completed, "wasabi_job")["status"] == "completed"
    assert datasets(failed, "inputs") == ["s3://media fails-after-30-seconds.mp4"]
    assert facet(failed, "wasabi_job")["error_code"] == "INTERNAL_ERROR"


def test_files_of_a_batch(events: list[dict[str, Any]], home: Path) -> None:
    event = find(events, "library", "COMPLETE")

    assert datasets(event, "inputs") == ["s3://media a.mp4", "s3://media fails-b.mp4", "s3://media c.mp4"]
    file, *results = datasets(event, "outputs")
    assert file == f"file {home / 'results.jsonl'}"
    assert [result.rpartition("/")[2] for result in results] == ["a_metadata.json", "c_metadata.json"]
    batch = facet(event, "wasabi_batch")
    assert (batch["files"], batch["counts"]) == (3, {"completed": 2, "failed": 1})
    assert [failure["error_code"] for failure in batch["failures"]] == ["INTERNAL_ERROR"]


def test_batch_of_a_sensor(events: list[dict[str, Any]]) -> None:
    event = find(events, "wait_for_library", "FAIL")

    assert datasets(event, "inputs") == ["s3://media fails-b.mp4"]
    assert facet(event, "wasabi_batch")["counts"] == {"completed": 2, "failed": 1}


def test_events_have_no_keys(events: list[dict[str, Any]], home: Path) -> None:
    text = (home / "events.jsonl").read_text()

    assert "e2e_lineage" in text
    assert ACCESS_KEY not in text
    assert SECRET_KEY not in text
