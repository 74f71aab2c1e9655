"""What tasks tell OpenLineage, read by the extractor of its provider from the task that has run."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import connections
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from loopback import ByPath, Loopback, hang, json_response, status_response
from task_runs import RESULTS, TaskRun, submit_task
from wait_runner import run_deferred_trigger

from airflow_wasabi_jobs import lineage
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor, WasabiJobSensor
from airflow_wasabi_jobs.waiting import wait

MODES = {"worker": {"deferrable": False}, "deferrable": {"deferrable": True}}
every_mode = pytest.mark.parametrize("mode", MODES)
BATCH = "2026-11"


@pytest.fixture
def emulator(set_connection: Any) -> Iterator[AirEmulator]:
    with AirEmulator(access_key=connections.ACCESS_KEY, secret_key=connections.SECRET_KEY, speed=100) as running:
        set_connection(running.url)
        yield running


NO_OPENLINEAGE = "the set of the lowest versions has no OpenLineage"


@pytest.fixture
def run(tmp_path: Path) -> TaskRun:
    return TaskRun(tmp_path / "xcoms.json")


@pytest.fixture
def lineage_of(run: TaskRun) -> Callable[..., Any]:
    """Run a task to its end, each time it resumes as a new object, and return what OpenLineage extracts from it."""
    base = pytest.importorskip("airflow.providers.openlineage.extractors.base", reason=NO_OPENLINEAGE)
    serde = pytest.importorskip("openlineage.client.serde", reason=NO_OPENLINEAGE)

    def run_to_the_end(create_task: Callable[[], Any], *, fails: bool = False) -> Any:
        task, error = run_task(create_task, run.context)
        assert (error is not None) is fails, error
        extractor = base.DefaultExtractor(task)
        extracted = extractor.extract_on_failure(run) if fails else extractor.extract_on_complete(run)
        text = serde.Serde.to_json(extracted)
        assert connections.ACCESS_KEY not in text
        assert connections.SECRET_KEY not in text
        return json.loads(text)

    return run_to_the_end


def run_task(create_task: Callable[[], Any], context: Any) -> tuple[Any, Exception | None]:
    """Return the object on which the task ends, and its failure."""
    next_method, next_kwargs = None, None
    while True:
        task = create_task()
        try:
            if next_method is None:
                inspect.unwrap(type(task).execute)(task, context)
            else:
                task.resume_execution(next_method, next_kwargs, context)
        except TaskDeferred as deferred:
            next_method, next_kwargs = run_deferred_trigger(deferred)
        except Exception as error:  # noqa: BLE001 - the task fails
            return task, error
        else:
            return task, None


def submit(file: str, **fields: Any) -> str:
    """Submit a job as another task does, and return its id."""
    arguments = {"source": {"bucket": "media", "object_key": file}, "destination": RESULTS, "services": ["ocr"]}
    return WasabiJobsHook().submit_job(**{"name": file, **arguments, **fields}).job_id


def job_sensor(job_id: str, **arguments: Any) -> WasabiJobSensor:
    return WasabiJobSensor(**{"task_id": "wait", "job_id": job_id, "poke_interval": 0.02, "timeout": 20, **arguments})


def batch_sensor(**arguments: Any) -> WasabiBatchSensor:
    return WasabiBatchSensor(**{"task_id": "wait", "batch": BATCH, "poke_interval": 0.02, "timeout": 20, **arguments})


def batch_task(**arguments: Any) -> WasabiSubmitBatchOperator:
    defaults = {"task_id": "submit", "destination": RESULTS, "services": ["ocr"], "batch": BATCH, "poke_interval": 0.02}
    return WasabiSubmitBatchOperator(**{**defaults, "timeout": 20, **arguments})


def datasets(extracted: Any, direction: str) -> list[str]:
    return [f"{dataset['namespace']} {dataset['name']}" for dataset in extracted[direction]]


def facet(extracted: Any, name: str, kind: str = "run_facets") -> dict[str, Any]:
    return {field: value for field, value in extracted[kind][name].items() if field[0] != "_"}


# The operator for one file


@every_mode
def test_submitted_job_that_completes(emulator: AirEmulator, run: TaskRun, lineage_of: Any, mode: str) -> None:
    arguments = {"services": {"ocr": "", "logo": {"config": {}}}, "batch": BATCH, "fetch_metadata": True, **MODES[mode]}

    extracted = lineage_of(lambda: submit_task(**arguments))

    job_id = run.xcoms["job_id"]
    assert datasets(extracted, "inputs") == ["s3://media monday.mp4"]
    (result,) = datasets(extracted, "outputs")
    assert result.startswith("s3://results jobs/")
    assert result.endswith(f"/{job_id}/monday_metadata.json")
    assert facet(extracted, "wasabi_job") == {
        "job_id": job_id,
        "batch": BATCH,
        "status": "completed",
        "error_count": 0,
    }
    assert facet(extracted, "wasabi_services", "job_facets") == {"services": ["ocr", "logo"]}


@every_mode
@pytest.mark.parametrize(
    ("file", "end"),
    [
        ("fails.mp4", {"status": "failed", "error_count": 1, "error_code": "INTERNAL_ERROR"}),
        ("cancels.mp4", {"status": "cancelled", "error_count": 0}),
    ],
)
def test_submitted_job_that_fails(
    emulator: AirEmulator, run: TaskRun, lineage_of: Any, mode: str, file: str, end: Any
) -> None:
    source = {"bucket": "media", "object_key": file}

    extracted = lineage_of(lambda: submit_task(source=source, name="a", **MODES[mode]), fails=True)

    assert datasets(extracted, "inputs") == [f"s3://media {file}"]
    assert datasets(extracted, "outputs") == []
    assert facet(extracted, "wasabi_job") == {"job_id": run.xcoms["job_id"], **end}


def test_job_for_a_sensor(emulator: AirEmulator, run: TaskRun, lineage_of: Any) -> None:
    extracted = lineage_of(lambda: submit_task(wait_for_completion=False))

    assert datasets(extracted, "inputs") == ["s3://media monday.mp4"]
    assert facet(extracted, "wasabi_job") == {"job_id": run.xcoms["job_id"]}


def test_location_of_the_result_is_not_requested_for_the_lineage(emulator: AirEmulator, lineage_of: Any) -> None:
    extracted = lineage_of(submit_task)

    assert datasets(extracted, "outputs") == []


def test_submission_that_is_rejected(set_connection: Any, lineage_of: Any) -> None:
    with AirEmulator() as emulator:
        set_connection(emulator.url)
        extracted = lineage_of(submit_task, fails=True)

    assert datasets(extracted, "inputs") == ["s3://media monday.mp4"]
    assert facet(extracted, "wasabi_job") == {}


def test_keys_of_the_source(emulator: AirEmulator, lineage_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"login": "AKIA-of-the-source", "password": "secret/of-the-source"}
    monkeypatch.setenv("AIRFLOW_CONN_THE_SOURCE", json.dumps({"conn_type": "aws", **keys}))

    of_a_job = lineage_of(lambda: submit_task(source_conn_id="the_source"))
    of_a_batch = lineage_of(lambda: batch_task(sources=["s3://media/a.mp4"], source_conn_id="the_source"))

    assert datasets(of_a_job, "inputs") == ["s3://media monday.mp4"]
    assert datasets(of_a_batch, "inputs") == ["s3://media a.mp4"]
    assert "of-the-source" not in json.dumps([of_a_job, of_a_batch])


def test_arguments_that_are_invalid(lineage_of: Any) -> None:
    extracted = lineage_of(lambda: submit_task(source="{{ 0 }}"), fails=True)

    assert datasets(extracted, "inputs") == []


# The sensor for one job


@every_mode
def test_job_that_completes(emulator: AirEmulator, lineage_of: Any, mode: str) -> None:
    job_id = submit("talks/monday.mp4", batch=BATCH)

    extracted = lineage_of(lambda: job_sensor(job_id, fetch_metadata=True, **MODES[mode]))

    assert datasets(extracted, "inputs") == ["s3://media talks/monday.mp4"]
    (result,) = datasets(extracted, "outputs")
    assert result.endswith(f"/{job_id}/monday_metadata.json")
    assert facet(extracted, "wasabi_job") == {
        "job_id": job_id,
        "batch": BATCH,
        "status": "completed",
        "error_count": 0,
    }
    assert facet(extracted, "wasabi_services", "job_facets") == {"services": ["ocr"]}


@every_mode
@pytest.mark.parametrize(
    ("file", "end"),
    [
        ("fails.mp4", {"status": "failed", "error_count": 1, "error_code": "INTERNAL_ERROR"}),
        ("cancels.mp4", {"status": "cancelled", "error_count": 0}),
    ],
)
def test_job_that_fails(emulator: AirEmulator, lineage_of: Any, mode: str, file: str, end: Any) -> None:
    job_id = submit(file)

    extracted = lineage_of(lambda: job_sensor(job_id, **MODES[mode]), fails=True)

    assert datasets(extracted, "inputs") == [f"s3://media {file}"]
    assert facet(extracted, "wasabi_job") == {"job_id": job_id, **end}


def test_job_whose_file_cannot_be_retrieved(
    set_connection: Any, lineage_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Loopback(ByPath(status=[status_response("completed")], **{"12345": [json_response({}, 500)]})) as server:
        set_connection(server.url)
        extracted = lineage_of(lambda: job_sensor("12345"))

    assert datasets(extracted, "inputs") == []
    assert facet(extracted, "wasabi_job") == {"job_id": "12345", "status": "completed", "error_count": 0}
    assert "Job '12345': could not retrieve its file for OpenLineage. " in caplog.text


def test_file_is_requested_for_a_few_seconds_only(
    set_connection: Any, lineage_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "LINEAGE_READ_TIMEOUT_SECONDS", 0.05)
    with Loopback(ByPath(status=[status_response("completed")], **{"12345": [hang()]})) as server:
        set_connection(server.url, read_timeout=30, retries=10)
        extracted = lineage_of(lambda: job_sensor("12345"))

        assert datasets(extracted, "inputs") == []
        assert len(server.requests) == 2


def test_sensor_that_never_polled_requests_nothing(set_connection: Any, lineage_of: Any) -> None:
    def create_sensor() -> WasabiJobSensor:
        sensor = job_sensor("{{ ti.xcom_pull('submit') }}")
        sensor.job_id = None
        return sensor

    with Loopback() as server:
        set_connection(server.url)
        extracted = lineage_of(create_sensor, fails=True)

    assert server.requests == []
    assert facet(extracted, "wasabi_job") == {}


# The sensor for a batch


@every_mode
def test_batch_that_completes(emulator: AirEmulator, lineage_of: Any, mode: str) -> None:
    for file in ("monday.mp4", "fails.mp4", "tuesday.mp4"):
        submit(file, batch=BATCH)

    extracted = lineage_of(lambda: batch_sensor(max_failures=1, **MODES[mode]))

    assert datasets(extracted, "inputs") == ["s3://media fails.mp4"]
    assert datasets(extracted, "outputs") == []
    description = facet(extracted, "wasabi_batch")
    (failure,) = description.pop("failures")
    assert description == {"batch": BATCH, "counts": {"completed": 2, "failed": 1}, "more_failures": 0}
    assert (failure["source"], failure["error_code"]) == ("s3://media/fails.mp4", "INTERNAL_ERROR")


@every_mode
def test_batch_that_fails_lists_more_failures_than_the_message(
    emulator: AirEmulator, lineage_of: Any, mode: str
) -> None:
    for number in range(12):
        submit(f"fails-{number:02}.mp4", batch=BATCH)

    extracted = lineage_of(lambda: batch_sensor(fail_fast=False, **MODES[mode]), fails=True)

    assert datasets(extracted, "inputs") == [f"s3://media fails-{number:02}.mp4" for number in range(12)]
    assert facet(extracted, "wasabi_batch")["counts"] == {"failed": 12}
    assert facet(extracted, "wasabi_batch")["more_failures"] == 0


# The operator for many files


@every_mode
def test_files_and_their_results(
    emulator: AirEmulator, lineage_of: Any, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "MAX_DATASETS", 2)
    manifest, results = tmp_path / "files.txt", tmp_path / "results.jsonl"
    manifest.write_text("s3://media/a.mp4\ns3://media/fails.mp4\ns3://media/c.mp4\n")
    arguments = {"sources": manifest.as_uri(), "results_path": results.as_uri(), "fetch_metadata": True}

    extracted = lineage_of(lambda: batch_task(**arguments, **MODES[mode]), fails=True)

    assert datasets(extracted, "inputs") == [f"file {manifest}", "s3://media a.mp4", "s3://media fails.mp4"]
    file, *others = datasets(extracted, "outputs")
    assert file == f"file {results}"
    assert [other.rpartition("/")[2] for other in others] == ["a_metadata.json", "c_metadata.json"]
    description = facet(extracted, "wasabi_batch")
    (failure,) = description.pop("failures")
    assert description == {
        "batch": BATCH,
        "files": 3,
        "counts": {"completed": 2, "failed": 1},
        "more_failures": 0,
    }
    assert (failure["source"], failure["error_code"]) == ("s3://media/fails.mp4", "INTERNAL_ERROR")
    assert facet(extracted, "wasabi_services", "job_facets") == {"services": ["ocr"]}


def test_files_that_complete(emulator: AirEmulator, lineage_of: Any) -> None:
    extracted = lineage_of(lambda: batch_task(sources=["s3://media/a.mp4", "s3://media/b.mp4"]))

    assert datasets(extracted, "inputs") == ["s3://media a.mp4", "s3://media b.mp4"]
    assert datasets(extracted, "outputs") == []
    assert facet(extracted, "wasabi_batch")["counts"] == {"completed": 2}


def test_files_that_are_only_submitted(emulator: AirEmulator, lineage_of: Any) -> None:
    extracted = lineage_of(lambda: batch_task(sources=["s3://media/a.mp4"], wait_for_completion=False))

    assert datasets(extracted, "inputs") == ["s3://media a.mp4"]
    assert facet(extracted, "wasabi_batch")["files"] == 1


def test_manifest_that_cannot_be_read(emulator: AirEmulator, run: TaskRun, tmp_path: Path) -> None:
    task, error = run_task(lambda: batch_task(sources=(tmp_path / "none.txt").as_uri()), run.context)

    assert isinstance(error, ValueError)
    assert task.get_openlineage_facets_on_failure(run) is None


# Names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://media/a b/Überblick?#1.mp4", ("s3://media", "a b/Überblick?#1.mp4")),
        ("s3://conn_id@results/2026/results.jsonl", ("s3://results", "2026/results.jsonl")),
        ("https://s3.us-east-1.wasabisys.com/results/a%20b.json?X-Sig=abc", ("s3://results", "a b.json")),
        ("https://results.s3.us-east-1.wasabisys.com/a.json", ("s3://results", "a.json")),
        ("gs://media/a.mp4", ("gs://media", "a.mp4")),
        ("file:///tmp/a%20b.json", ("file", "/tmp/a b.json")),
    ],
)
def test_name_of_a_dataset(url: str, name: tuple[str, str]) -> None:
    assert lineage.dataset_name(url) == name


# Without OpenLineage

DAG_FILE = """
import sys

class NoOpenLineage:
    def find_spec(self, name, path=None, target=None):
        if f"{name}.".startswith(("openlineage.", "airflow.providers.openlineage.extractors.")):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoOpenLineage())

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator, WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor, WasabiJobSensor

assert "airflow_wasabi_jobs.lineage" not in sys.modules
import airflow_wasabi_jobs.lineage
"""


def test_nothing_of_openlineage_is_imported_with_a_dag() -> None:
    subprocess.run([sys.executable, "-c", DAG_FILE], check=True)
