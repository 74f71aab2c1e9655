"""The forms in which a DAG passes arguments to the operator and the sensors, in real runs of a DAG."""

from __future__ import annotations

import json
import runpy
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest

from airflow_wasabi_jobs.emulator import AirEmulator

DAG_FILE = """
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task, task_group

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator

DEFAULTS = {
    "destination": {"bucket": "results", "region": "us-east-1"},
    "services": ["ocr"],
    "wait_for_completion": False,
}
NAMED = {**DEFAULTS, "name": "{{ dag.dag_id }}/{{ task.task_id }}/{{ task.source.object_key }}"}


def file(key):
    return {"bucket": "media", "object_key": key}


def submit(task_id):
    return WasabiSubmitJobOperator.partial(task_id=task_id, **NAMED)


with DAG("forms", schedule=None, start_date=datetime(2025, 1, 1), params={"day": "monday"}) as dag:

    @task
    def find_keys():
        return ["a"]

    @task
    def find_files():
        return [file("a"), file("b")]

    @task(multiple_outputs=True)
    def find_one():
        return {"file": file("a"), "key": "b"}

    @task
    def find_arguments():
        return [{"source": file("a"), "priority": "2"}]

    @task_group
    def files(source):
        WasabiSubmitJobOperator(task_id="submit", source=source, **NAMED)

    @task_group
    def keys(bucket, key):
        WasabiSubmitJobOperator(task_id="submit", source={"bucket": bucket, "object_key": key}, **NAMED)

    keys_xcom, files_xcom, one = find_keys(), find_files(), find_one()

    submit("expand").expand(source=[file("a"), file("{{ params.day }}")])
    submit("expand_xcom").expand(source=files_xcom, priority=["1"])
    submit("expand_map").expand(source=keys_xcom.map(file))
    submit("expand_zip").expand(source=keys_xcom.zip(keys_xcom).map(lambda pair: file(pair[1])))
    submit("expand_kwargs").expand_kwargs([{"source": file("a"), "priority": 2}, {"source": file("{{ params.day }}")}])
    submit("expand_kwargs_xcom").expand_kwargs(find_arguments())
    submit("expand_kwargs_map").expand_kwargs(keys_xcom.map(lambda key: {"source": file(key)}))
    files.override(group_id="group").expand(source=[file("a"), file("b")])
    keys.override(group_id="group_fields").partial(bucket="media").expand(key=keys_xcom)
    keys.override(group_id="group_kwargs").expand_kwargs([{"bucket": "media", "key": "a"}])
    WasabiSubmitJobOperator(task_id="xcom", source=one["file"], **NAMED)
    WasabiSubmitJobOperator(task_id="xcom_field", source={"bucket": "media", "object_key": one["key"]}, **NAMED)

    WasabiSubmitJobOperator(task_id="unnamed", source=file("a"), do_xcom_push=False, **DEFAULTS)
    WasabiSubmitJobOperator.partial(task_id="unnamed_mapped", **DEFAULTS).expand(source=[file("a")])
"""


def run_dag(text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a DAG to its end, and return the run."""
    from airflow.utils.db import initdb

    dag_file = tmp_path / "dag_under_test.py"
    dag_file.write_text(text)
    bundle = {"name": "dags", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundles = [{**bundle, "kwargs": {"path": str(tmp_path), "refresh_interval": 300}}]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    initdb()
    return runpy.run_path(str(dag_file))["dag"].test()


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirEmulator]:
    with AirEmulator(speed=1e6) as running:
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", running.connection_uri)
        yield running


@pytest.mark.dag_run
@pytest.mark.skipif(
    version("apache-airflow").startswith("3.0."), reason="Airflow 3.0 renders task.source with its templates and XComs"
)
def test_forms(emulator: AirEmulator, tmp_path: Any, monkeypatch: Any) -> None:
    from airflow.models.renderedtifields import RenderedTaskInstanceFields

    dag_run = run_dag(DAG_FILE, tmp_path, monkeypatch)

    tis = {(ti.task_id, ti.map_index): ti for ti in dag_run.get_task_instances()}
    rendered_names = {
        key: RenderedTaskInstanceFields.get_templated_fields(ti)["name"]
        for key, ti in tis.items()
        if not ti.task_id.startswith("find")
    }
    keys = defaultdict(list)
    for name in emulator.job_names:
        _, task_id, key = name.split("/")
        keys[task_id].append(key)
    assert dag_run.state == "success"
    assert {task_id: sorted(found) for task_id, found in keys.items()} == {
        "expand": ["a", "monday"],
        "expand_xcom": ["a", "b"],
        "expand_map": ["a"],
        "expand_zip": ["a"],
        "expand_kwargs": ["a", "monday"],
        "expand_kwargs_xcom": ["a"],
        "expand_kwargs_map": ["a"],
        "group.submit": ["a", "b"],
        "group_fields.submit": ["a"],
        "group_kwargs.submit": ["a"],
        "xcom": ["a"],
        "xcom_field": ["b"],
        "unnamed": [dag_run.run_id],
        "unnamed_mapped[0]": [dag_run.run_id],
    }
    # Airflow shows the name of each job among the rendered fields of its task.
    assert set(rendered_names.values()) == set(emulator.job_names)
    assert rendered_names["unnamed", -1] == f"forms/unnamed/{dag_run.run_id}"
    assert rendered_names["unnamed_mapped", 0] == f"forms/unnamed_mapped[0]/{dag_run.run_id}"
    # Without do_xcom_push the id of the job is pushed nevertheless.
    ti = tis["unnamed", -1]
    assert ti.xcom_pull(task_ids="unnamed") is None
    assert ti.xcom_pull(task_ids="unnamed", key="job_id") is not None
