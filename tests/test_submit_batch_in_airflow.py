"""The batch operator in real runs of a DAG, and with files in S3."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from test_submit_batch import run_try, urls

from airflow_wasabi_jobs.emulator import AirEmulator

DAG_FILE = """
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator

DEFAULTS = {
    "destination": {"bucket": "results", "region": "us-east-1"},
    "services": ["ocr"],
    "poke_interval": 0.1,
    "deferrable": True,
}

with DAG("library", schedule=None, start_date=datetime(2025, 1, 1), params={"limit": 2, "manifest": ""}) as dag:

    @task
    def list_folder(folder):
        return [f"s3://media/{folder}/{number}.mp4" for number in range(3)]

    @task
    def list_file(name):
        return {"bucket": "media", "object_key": name}

    WasabiSubmitBatchOperator(task_id="xcom", sources=list_folder("one"), **DEFAULTS)
    WasabiSubmitBatchOperator(
        task_id="lists_of_mapped_tasks",
        sources=list_folder.override(task_id="list_folders").expand(folder=["a", "b"]),
        max_unfinished_jobs="{{ params.limit }}",
        **DEFAULTS,
    )
    WasabiSubmitBatchOperator(
        task_id="files_of_mapped_tasks", sources=list_file.expand(name=["a.mp4", "b.mp4"]), **DEFAULTS
    )
    WasabiSubmitBatchOperator(task_id="manifest", sources="{{ params.manifest }}", **DEFAULTS)
"""


@pytest.mark.dag_run
def test_sources_of_other_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from airflow.utils.db import initdb

    (tmp_path / "dags").mkdir()
    dag_file = tmp_path / "dags" / "library.py"
    dag_file.write_text(DAG_FILE)
    manifest = tmp_path / "files.txt"
    manifest.write_text("\n".join(urls("x.mp4", "y.mp4")))
    bundle = {"name": "library", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    bundles = [{**bundle, "kwargs": {"path": str(tmp_path / "dags"), "refresh_interval": 300}}]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    initdb()
    with AirEmulator(speed=20) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
        dag_run = runpy.run_path(str(dag_file))["dag"].test(run_conf={"manifest": manifest.as_uri()})
        names = sorted(emulator.job_names)

    assert dag_run.state == "success"
    files = {
        "xcom": ["one/0.mp4", "one/1.mp4", "one/2.mp4"],
        "lists_of_mapped_tasks": [f"{folder}/{number}.mp4" for folder in "ab" for number in range(3)],
        "files_of_mapped_tasks": ["a.mp4", "b.mp4"],
        "manifest": ["x.mp4", "y.mp4"],
    }
    assert names == sorted(
        f"library/{task_id}/{dag_run.run_id}/media/{file}" for task_id, listed in files.items() for file in listed
    )


def test_manifest_and_results_in_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("moto", reason="the set of the lowest versions has no S3")
    import fsspec
    import s3_server
    from task_runs import TaskRun

    with s3_server.serving_s3() as url, AirEmulator(speed=1e6) as emulator:
        fs = fsspec.filesystem("s3", **s3_server.storage_options(url))
        fs.mkdir("lists")
        fs.pipe_file("lists/files.txt", "\n".join(urls("a.mp4", "b.mp4")).encode())
        monkeypatch.setenv("AIRFLOW_CONN_LISTS", s3_server.connection(url))
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
        run_try(
            TaskRun(tmp_path / "xcoms.json"),
            sources="s3://lists@lists/files.txt",
            results_path="s3://lists@lists/new/results.jsonl",
        )
        lines = ObjectStoragePath("s3://lists@lists/new/results.jsonl").read_text().splitlines()
        assert fs.find("lists") == ["lists/files.txt", "lists/new/results.jsonl"]

    assert [json.loads(line)["source"] for line in lines] == urls("a.mp4", "b.mp4")
