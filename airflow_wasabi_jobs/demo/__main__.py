"""Run the DAGs of the demo against the emulator, and print what happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import requests

from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.demo.airflow_run import DAG_FILE
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY

TIMEOUT_SECONDS = 180.0
LIBRARY = "library"
# The expected exception of each task, or None for success.
EXPECTED_OUTCOMES = {
    "analyse_interview": None,
    "submit_clips[0]": None,
    "submit_clips[1]": None,
    "wait_for_clips": "WasabiBatchFailed",
    "wait_for_archive": "WasabiJobCancelled",
    "analyse_library": "WasabiBatchFailed",
    "analyse_library (cleared)": None,
}
INTRODUCTION = """\
This demo runs a DAG with Airflow {airflow}. The DAG submits Wasabi AiR jobs to an emulator and waits for them.
No account is needed. In the emulator, the name of a job controls how it ends. The tasks:

  analyse_interview  submits job completes-interview, waits for it and gets the location of its result
  submit_clips       submits jobs completes-clip and fails-clip as a batch, without waiting
  wait_for_clips     waits for the batch
  wait_for_archive   waits for job cancels-archive, which the emulator creates at the first request
  analyse_library    submits 200 files as a batch and waits for it; three of them fail the first time
                     Then the demo clears this task, which submits only these three files again

Setting up a temporary Airflow; this takes a few seconds ..."""
FINISH = """\
All tasks ended as expected. The XCom of analyse_interview contains the location of the result.
wait_for_clips and wait_for_archive failed at once, because a job that failed or was cancelled is not retried.
analyse_library submitted {library_jobs} jobs in all: one for each file, and one more for each of the three that failed.

Next steps:
  - See it in the Airflow UI:              make airflow
  - Run your own DAGs in it:               DAGS=path/to/dags make airflow
  - Connect to your account:               README.md
  - Test your own DAGs with the emulator:  {emulator} --help"""


def main() -> int:
    """Run the demo. Return 0 if each task ended as expected."""
    _print(INTRODUCTION.format(airflow=version("apache-airflow")))
    with tempfile.TemporaryDirectory(prefix="wasabi-demo-") as folder, AirEmulator() as emulator:
        home = Path(folder)
        with (home / "airflow.log").open("w") as log:
            airflow = subprocess.Popen(
                [sys.executable, "-m", "airflow_wasabi_jobs.demo.airflow_run"],
                env=_environment(home, emulator),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
            )
        try:
            outcomes = _print_progress(airflow, emulator.url, home / "events.jsonl")
        finally:
            airflow.kill()
            airflow.wait()
        if outcomes == EXPECTED_OUTCOMES:
            library_jobs = sum(name.startswith(f"{LIBRARY}/") for name in emulator.job_names)
            _print(FINISH.format(emulator=_path_of("wasabi-air-emulator"), library_jobs=library_jobs))
            return 0
        _print((home / "airflow.log").read_text(errors="replace"))
    _print("\nThe demo failed: not all tasks ended as expected. The output of Airflow is above.")
    for task, expected in EXPECTED_OUTCOMES.items():
        outcome = outcomes.get(task, "no outcome")
        if outcome != expected:
            _print(f"  {task}: expected {expected or 'success'}, got {outcome or 'success'}")
    return 1


def _path_of(command: str) -> str:
    path = Path(sys.executable).with_name(command)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _environment(home: Path, emulator: AirEmulator) -> dict[str, str]:
    # Without the settings of another Airflow on this machine.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return {
        **environment,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAG_FILE.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW_CONN_WASABI_DEFAULT": emulator.connection_uri,
        "WASABI_DEMO_EVENTS": str(home / "events.jsonl"),
    }


def _print_progress(airflow: subprocess.Popen[bytes], url: str, event_file: Path) -> dict[str, str | None]:
    """Print changes of jobs and tasks as they happen, and return the outcome of each task."""
    outcomes: dict[str, str | None] = {}
    statuses: dict[str, str] = {}
    library_before: Counter[str] = Counter()
    events_read = 0
    started_at = time.monotonic()
    deadline = started_at + TIMEOUT_SECONDS
    is_running = True
    while is_running and time.monotonic() < deadline:
        is_running = airflow.poll() is None
        # Events first: when the end of a task is printed, so is the end of its job.
        events = event_file.read_text().splitlines() if event_file.exists() else []
        jobs = list(_list_jobs(url))
        started_at = started_at if statuses or not jobs else time.monotonic()
        seconds = time.monotonic() - started_at
        lines: list[tuple[float, str]] = []
        library = Counter(job["Status"] for job in jobs if job.get("Batch") == LIBRARY)
        if library and library != library_before:
            lines.append((time.time(), f"{seconds:6.1f} s  jobs  {_describe_library(library)}"))
            library_before = library
        for job in jobs:
            if job.get("Batch") == LIBRARY:
                continue
            if statuses.get(job["Id"]) != job["Status"]:
                at = 0.0 if job["Id"] in statuses else datetime.fromisoformat(job["Created"]).timestamp()
                statuses[job["Id"]] = job["Status"]
                lines.append((at, f"{seconds:6.1f} s  job   {job['Name']:<19}  {job['Status']}"))
        for event in map(json.loads, events[events_read:]):
            if "ready" in event:
                _print(f"... done in {seconds:.0f} s. The first task starts in a few seconds.\n")
            else:
                outcomes[event["task"]] = event["error"]
                lines.append((event["at"], _describe_outcome(event, seconds)))
        events_read = len(events)
        for _, line in sorted(lines):
            _print(line)
        time.sleep(0.1)
    return outcomes


def _list_jobs(url: str) -> Iterator[dict[str, Any]]:
    keys = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
    for number in count(1):
        page = {"pageSize": "100", "pageNumber": str(number)}
        records = requests.get(f"{url}/jobs", headers=keys, params=page, timeout=5).json()["Records"]
        yield from records
        if len(records) < 100:
            return


def _describe_library(statuses: Counter[str]) -> str:
    counts = ", ".join(f"{statuses[status]} {status}" for status in JobStatus if statuses[status])
    return f"{LIBRARY:<19}  {counts}"


def _describe_outcome(event: dict[str, Any], seconds: float) -> str:
    outcome, details = "success", f"XCom: {event['xcom']}"
    if event["error"]:
        outcome, details = "failed", f"{event['error']}: {event['message']}"
    # Paths and ids are not broken, so that they can be copied.
    paragraph = textwrap.TextWrapper(width=100, break_long_words=False, break_on_hyphens=False)
    paragraph.initial_indent = paragraph.subsequent_indent = " " * 16
    return f"{seconds:6.1f} s  task  {event['task']:<19}  {outcome}\n{paragraph.fill(details)}\n"


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the output of the demo


if __name__ == "__main__":
    sys.exit(main())
