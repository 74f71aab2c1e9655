"""Show a DAG that submits jobs and waits for what becomes of them: what it prints is for a person."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests

from airflow_wasabi_jobs.demo.airflow_run import DAG_FILE
from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY

TIME_LIMIT = 180.0
# Which end of each task is the right one: the class of its error, or none.
EXPECTED = {
    "analyse_interview": None,
    "submit_clips[0]": None,
    "submit_clips[1]": None,
    "wait_for_clips": "WasabiBatchFailed",
    "wait_for_archive": "WasabiJobCancelled",
}
INTRODUCTION = """\
A DAG submits Wasabi AiR jobs and waits for them, with Airflow {airflow} and an emulated API.
No account is needed. A job's name tells the emulator how it is to end. The tasks, one after another:

  analyse_interview  submits completes-interview, waits for it and finds its result
  submit_clips       submits completes-clip and fails-clip as a batch, without waiting
  wait_for_clips     waits for that batch
  wait_for_archive   waits for a job by its id, which is cancels-archive

Setting up a private Airflow, which takes some seconds ..."""
FINISH = """\
All went as it should: metadata_path in the XCom tells the next task where the result lies, and a job
that failed or was cancelled fails the task that waits for it at once, without a retry.

What to do next:
  - See it in Airflow's own pages, with a scheduler and a triggerer:  make airflow
  - Put it into a DAG, and use your own account:                      README.md, example_dags
  - Test your own DAGs on the emulator:                               {emulator} --help"""


def main() -> int:
    """Run the demo. Returns 0 only if each task ended as it should."""
    _say(INTRODUCTION.format(airflow=version("apache-airflow")))
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
            ends = _watch(airflow, emulator.url, home / "told")
        finally:
            airflow.kill()
            airflow.wait()
        if ends == EXPECTED:
            _say(FINISH.format(emulator=_path_of("wasabi-air-emulator")))
            return 0
        _say((home / "airflow.log").read_text(errors="replace"))
    _say("\nSomething broke: above is all that Airflow said.")
    for task, error in EXPECTED.items():
        end = ends.get(task, "no end")
        if end != error:
            _say(f"  {task}: expected {error or 'success'}, got {end or 'success'}")
    return 1


def _path_of(command: str) -> str:
    path = Path(sys.executable).with_name(command)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _environment(home: Path, emulator: AirEmulator) -> dict[str, str]:
    # Nothing of another Airflow on this machine: it is neither used nor touched.
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return {
        **mine,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAG_FILE.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW_CONN_WASABI_DEFAULT": emulator.connection_uri,
        "WASABI_DEMO_TOLD": str(home / "told"),
    }


def _watch(airflow: subprocess.Popen[bytes], url: str, told: Path) -> dict[str, str | None]:
    """Tell what happens while it happens, and return how each task ended."""
    ends: dict[str, str | None] = {}
    seen: dict[str, str] = {}
    lines = 0
    began = time.monotonic()
    deadline = began + TIME_LIMIT
    running = True
    while running and time.monotonic() < deadline:
        running = airflow.poll() is None
        # In this order: when a task's end is told, so is what ended it.
        events = told.read_text().splitlines() if told.exists() else []
        jobs = list(_jobs(url))
        began = began if seen or not jobs else time.monotonic()
        seconds = time.monotonic() - began
        happened: list[tuple[float, str]] = []
        for job in jobs:
            if seen.get(job["Id"]) != job["Status"]:
                at = 0.0 if job["Id"] in seen else datetime.fromisoformat(job["Created"]).timestamp()
                seen[job["Id"]] = job["Status"]
                happened.append((at, f"{seconds:6.1f} s  job   {job['Name']:<19}  {job['Status']}"))
        for event in map(json.loads, events[lines:]):
            if "ready" in event:
                _say(f"... done in {seconds:.0f} s. The first task begins in some seconds.\n")
            else:
                ends[event["task"]] = event["error"]
                happened.append((event["at"], _end(event, seconds)))
        lines = len(events)
        for _, line in sorted(happened):
            _say(line)
        time.sleep(0.1)
    return ends


def _jobs(url: str) -> Iterator[dict[str, Any]]:
    keys = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
    yield from requests.get(f"{url}/jobs", headers=keys, params={"pageSize": "100"}, timeout=5).json()["Records"]


def _end(event: dict[str, Any], seconds: float) -> str:
    end, why = "success", f"XCom: {event['xcom']}"
    if event["error"]:
        end, why = "failed", f"{event['error']}: {event['message']}"
    # A path or an id stays whole, to be copied.
    paragraph = textwrap.TextWrapper(width=100, break_long_words=False, break_on_hyphens=False)
    paragraph.initial_indent = paragraph.subsequent_indent = " " * 16
    return f"{seconds:6.1f} s  task  {event['task']:<19}  {end}\n{paragraph.fill(why)}\n"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it is what the demo is for


if __name__ == "__main__":
    sys.exit(main())
