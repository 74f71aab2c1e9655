"""Forms in which a DAG passes arguments. Not run: ``make lint`` checks their types, as in the DAG file of a user."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import XComArg, task, task_group

from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiBatchSensor, WasabiJobSensor

FILE = {"bucket": "media", "object_key": "monday.mp4"}
RESULTS = {"bucket": "results", "region": "us-east-1"}

literal = WasabiSubmitJobOperator(
    task_id="literal",
    source=FILE,
    destination=RESULTS,
    services=["ocr", "s2t"],
    name="monday",
    priority=7,
    batch="nightly",
    source_conn_id="archive",
    wasabi_conn_id="wasabi_default",
    max_error_count=3,
    poke_interval=timedelta(minutes=1),
    timeout=3600,
    if_exists="submit",
    retries=2,
)
WasabiSubmitJobOperator(
    task_id="templated",
    source="{{ params.file }}",
    destination="{{ params.destination }}",
    services="{{ params.services }}",
    name="{{ task.source.object_key }}",
    priority="{{ params.priority }}",
    batch="{{ run_id }}",
    source_conn_id="{{ params.storage }}",
    wasabi_conn_id="{{ params.account }}",
    max_error_count="{{ params.errors }}",
    if_exists="{{ 'submit' if params.again else 'reuse' }}",
)
# Also literal.output["name"], which Airflow's own types do not know.
xcom: XComArg = literal.output
WasabiSubmitJobOperator(
    task_id="from_upstream",
    source=literal.output,
    destination=xcom,
    services=xcom,
    name=xcom,
    priority=xcom,
    batch=xcom,
    source_conn_id=xcom,
    wasabi_conn_id=xcom,
    max_error_count=xcom,
    if_exists=xcom,
)
WasabiSubmitJobOperator(
    task_id="fields_from_upstream",
    source={"bucket": "media", "object_key": xcom},
    destination={"bucket": "{{ params.bucket }}", "region": xcom},
    services=[xcom, "ocr"],
)
WasabiSubmitJobOperator(task_id="set", source=FILE, destination=RESULTS, services={"ocr", "face"})
WasabiSubmitJobOperator(
    task_id="settings", source=FILE, destination=RESULTS, services={"ocr": "", "logo": {"config": {"threshold": 0.8}}}
)

WasabiJobSensor(task_id="wait", job_id="12345", max_error_count=3, soft_fail=True, deferrable=True)
WasabiJobSensor(task_id="wait_template", job_id="{{ params.id }}", max_error_count="{{ params.errors }}")
WasabiJobSensor(task_id="wait_upstream", job_id=literal.output, max_error_count=xcom)
WasabiBatchSensor(task_id="batch", batch="nightly", expected_jobs=3, max_failures=1)
WasabiBatchSensor(
    task_id="batch_template",
    batch="{{ run_id }}",
    expected_jobs="{{ params.jobs }}",
    max_failures="{{ params.failures }}",
    wasabi_conn_id="{{ params.account }}",
)
WasabiBatchSensor(
    task_id="batch_upstream",
    batch=xcom,
    expected_jobs=xcom,
    max_failures=xcom,
)


@task
def find_files() -> list[dict[str, str]]:
    """Return the files."""
    return [FILE]


@task
def get_report(job_id: str) -> dict[str, Any]:
    """Return what the next task can read."""
    return WasabiJobsHook().get_job_status(job_id).to_xcom()


@task_group
def submit_and_wait(file: dict[str, str]) -> None:
    """Submit a file of the group, and wait for it."""
    submit = WasabiSubmitJobOperator(task_id="submit", source=file, destination=RESULTS, services=["ocr"])
    WasabiJobSensor(task_id="wait", job_id=submit.output)


WasabiSubmitJobOperator(task_id="task_flow", source=find_files(), destination=RESULTS, services=["ocr"])
WasabiSubmitJobOperator.partial(task_id="mapped", destination=RESULTS, services=["ocr"]).expand(source=find_files())
WasabiSubmitJobOperator.partial(task_id="mapped_kwargs", destination=RESULTS).expand_kwargs(
    [{"source": FILE, "services": ["ocr"], "priority": 1}]
)
WasabiJobSensor.partial(task_id="mapped_wait", poke_interval=timedelta(minutes=1)).expand(job_id=["1", "2"])

# Wrong forms. mypy refuses an ignore that nothing needs.
WasabiSubmitJobOperator(  # type: ignore[call-arg] # source is missing
    task_id="no_source", destination=RESULTS, services=["ocr"]
)
WasabiSubmitJobOperator(
    task_id="wrong",
    source=5,  # type: ignore[arg-type] # no dict
    destination={"bucket": "results", "region": 5},  # type: ignore[dict-item] # no string
    services=5,  # type: ignore[arg-type] # no list
    name=5,  # type: ignore[arg-type] # no string
    priority=1.5,  # type: ignore[arg-type] # no integer
    deferrable="{{ params.deferrable }}",  # type: ignore[arg-type] # not templated
    timeout="{{ params.timeout }}",  # type: ignore[arg-type] # not templated
)
WasabiJobSensor(
    task_id="wrong",
    job_id=None,  # type: ignore[arg-type] # no string
    max_error_count=1.5,  # type: ignore[arg-type] # no integer
    fetch_metadata="{{ params.metadata }}",  # type: ignore[arg-type] # not templated
)
WasabiBatchSensor(
    task_id="wrong",
    batch=5,  # type: ignore[arg-type] # no string
    expected_jobs=[3],  # type: ignore[arg-type] # no integer
    fail_fast="{{ params.fast }}",  # type: ignore[arg-type] # not templated
)
