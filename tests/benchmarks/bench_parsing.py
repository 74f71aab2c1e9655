"""Import time that the sensors and the operators add to a DAG file that already imports a sensor's base class."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

RUNS = 15
MEASURE = """
import time
from airflow.providers.common.compat.sdk import BaseSensorOperator
started_at = time.perf_counter()
import {module}
print("TOOK", time.perf_counter() - started_at)
"""
MODULES = [
    "airflow_wasabi_jobs.sensors",
    "airflow_wasabi_jobs.operators",
    "airflow.providers.standard.sensors.time",
    "airflow_wasabi_jobs.hooks",
]


def measure_import(module: str, home: str) -> float | None:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE.format(module=module)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AIRFLOW_HOME": home, "PYTHONDONTWRITEBYTECODE": ""},
    )
    lines = [line for line in process.stdout.splitlines() if line.startswith("TOOK")]
    return float(lines[0].split()[1]) * 1000 if lines else None


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        print(f"import, milliseconds, medians of {RUNS} fresh interpreters")
        for module in MODULES:
            # The first run writes the bytecode.
            times = [measure_import(module, home) for _ in range(RUNS + 1)][1:]
            valid_times = [time for time in times if time is not None]
            print(f"{module:44}{statistics.median(valid_times) if valid_times else float('nan'):10.1f}")


if __name__ == "__main__":
    main()
