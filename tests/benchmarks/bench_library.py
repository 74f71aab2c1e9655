"""
Cost of a batch of 10,000 files, compared with 100 mapped tasks that submit one file each: ``make bench``.

The emulator runs in a process of its own with a latency of 50 ms, and so does each part of the task. No time limit
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow_wasabi_jobs.demo.standalone import free_port

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
POKE_INTERVAL = 5.0

MAPPED_DAG = """
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator

with DAG("mapped", schedule=None, start_date=datetime(2025, 1, 1)) as dag:
    WasabiSubmitJobOperator.partial(
        task_id="submit",
        destination={"bucket": "results", "region": "us-east-1"},
        services=["ocr"],
        deferrable=True,
        poke_interval=0.5,
    ).expand(source=[{"bucket": "media", "object_key": f"{number}.mp4"} for number in range(100)])
"""


class Emulator:
    """``wasabi-air-emulator`` in a process of its own."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        port = free_port()
        self.connection = json.dumps(
            {
                "conn_type": "wasabi",
                "host": f"http://127.0.0.1:{port}",
                "login": "emulator-access-key",
                "password": "emulator-secret-key",
            }
        )
        self._log = folder / "emulator.log"
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                [str(BIN / "wasabi-air-emulator"), "--port", str(port), "--latency-ms", "50", "--verbose", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        while "http://" not in self._log.read_text():
            time.sleep(0.1)

    def requests(self) -> list[str]:
        return re.findall(r"(?:GET|POST) /\S* (?:lost|\d+)", self._log.read_text())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def run_part(part: dict[str, Any], home: Path) -> dict[str, Any]:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }
    completed = subprocess.run(
        [sys.executable, str(HERE / "library_task.py")],
        input=json.dumps(part) + "\n",
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    line = next(line for line in completed.stdout.splitlines() if line.startswith("MEASURED"))
    result: dict[str, Any] = json.loads(line.removeprefix("MEASURED"))
    return result


def run_task(task: dict[str, Any], emulator: Emulator, home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the task to its end, and return its end and the costs."""
    part: dict[str, Any] = {"task": task, "connection": emulator.connection}
    started_at = time.monotonic()
    costs: dict[str, list[dict[str, float]]] = {"worker": [], "triggerer": []}
    first = True
    submission_seconds = 0.0
    while True:
        end = run_part(part, home)
        costs["worker"].append(end["cost"])
        if first:
            submission_seconds, first = end["cost"]["seconds"], False
        if "trigger" not in end:
            break
        event = run_part({"trigger": end["trigger"], "connection": emulator.connection}, home)
        costs["triggerer"].append(event["cost"])
        part = {
            "task": task,
            "connection": emulator.connection,
            "next_kwargs": {"event": event["event"], **end["kwargs"]},
        }
    figures = {
        "seconds": time.monotonic() - started_at,
        "submission s": submission_seconds,
        "CPU s": sum(cost["cpu"] for kind in costs.values() for cost in kind),
        "memory of the worker MB": max(cost["memory"] for cost in costs["worker"]) / 2**20,
        "memory of the triggerer MB": max([cost["memory"] for cost in costs["triggerer"]] or [0.0]) / 2**20,
        "triggerer s": sum(cost["seconds"] for cost in costs["triggerer"]),
    }
    return end, figures


def run_library(files: int, options: list[str], bad_files: int) -> dict[str, float]:
    """Run a batch, and then, if it has bad files, the same task a second time."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        names = [f"{'fails-once-' if number < bad_files else ''}{number:06}.mp4" for number in range(files)]
        (folder / "files.txt").write_text("\n".join(f"s3://media/{name}" for name in names))
        task = {"sources": f"file://{folder}/files.txt", "deferrable": True, "poke_interval": POKE_INTERVAL}
        emulator = Emulator(folder, options)
        try:
            end, figures = run_task(task, emulator, folder)
            requests = emulator.requests()
            if bad_files:
                assert "failure" in end, end
                end, _ = run_task(task, emulator, folder)
                second = emulator.requests()[len(requests) :]
                figures["submissions of a second run"] = sum(line.startswith("POST") for line in second)
        finally:
            emulator.stop()
    assert end["xcom"]["counts"] == {"completed": files}, end
    posts = [line for line in requests if line.startswith("POST")]
    polls = max(1.0, figures.pop("triggerer s") / POKE_INTERVAL)
    figures["jobs"] = sum(line.endswith((" 200", " lost")) for line in posts)
    figures["requests"] = len(requests)
    figures["GET requests"] = len(requests) - len(posts)
    figures["requests by status in each poll"] = sum("status=" in line for line in requests) / polls
    return figures


def run_mapped() -> dict[str, float]:
    """Run 100 mapped tasks in one process, without a scheduler, with ``dag.test()``."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        (folder / "dags").mkdir()
        (folder / "dags" / "mapped.py").write_text(MAPPED_DAG)
        # A mapped task of dag.test() runs after the other.
        emulator = Emulator(folder, ["--speed", "20"])
        environment = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW_CONN_WASABI_DEFAULT": emulator.connection,
        }
        script = (
            "import runpy, time\n"
            f"dag = runpy.run_path({str(folder / 'dags' / 'mapped.py')!r})['dag']\n"
            "cpu = time.process_time()\n"
            "state = dag.test().state\n"
            "print(f'MEASURED{time.process_time() - cpu} {state}')\n"
        )
        try:
            subprocess.run([str(BIN / "airflow"), "db", "migrate"], env=environment, capture_output=True, check=True)
            completed = subprocess.run(
                [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
            )
        finally:
            emulator.stop()
    cpu, state = re.findall(r"MEASURED(\S+) (\S+)", completed.stdout)[0]
    assert state == "success"
    return {"CPU s": float(cpu)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--bad-files", type=int, default=0)
    parser.add_argument("--without-yardstick", action="store_true")
    parser.add_argument("--emulator", default="", help="more options of wasabi-air-emulator")
    arguments = parser.parse_args()
    runs = [
        run_library(arguments.files, arguments.emulator.split(), arguments.bad_files) for _ in range(arguments.runs)
    ]
    print(f"\n{arguments.files} files, medians of {arguments.runs} runs {arguments.emulator}")
    for name in runs[0]:
        print(f"{name:40}{statistics.median(run[name] for run in runs):14.2f}")
    cpu_per_file = statistics.median(run["CPU s"] for run in runs) / arguments.files
    print(f"{'CPU ms for each file':40}{cpu_per_file * 1000:14.2f}")
    if not arguments.without_yardstick:
        mapped = run_mapped()["CPU s"] / 100
        print(f"{'CPU ms for each of 100 mapped tasks':40}{mapped * 1000:14.2f}")
        print(f"{'ratio':40}{mapped / cpu_per_file:14.0f}")


if __name__ == "__main__":
    main()
