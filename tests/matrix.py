"""Run the tests on each Airflow with each installed Python, and print a table: ``make matrix``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

PYTHONS = ["python3.11", "python3.12", "python3.13"]
# The first Python version that an Airflow does not support.
TOO_NEW = {"lowest": "python3.13", "2.11": "python3.13", "3.0": "python3.13"}


def is_installed(python: str) -> bool:
    if shutil.which(python) is None:
        return False
    # The command may be a shim for a Python that is not installed.
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def run_tests(airflow: str, python: str) -> str:
    if python >= TOO_NEW.get(airflow, "python4"):
        return "not supported"
    if not is_installed(python):
        return "not installed"
    completed = subprocess.run(
        ["make", "test"],
        env={**os.environ, "AIRFLOW": airflow, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    # Print the complete output of a failed run.
    if completed.returncode:
        print(completed.stdout, completed.stderr, sep="\n")
    summaries = re.findall(r"=+ (.*\d+ (?:passed|failed).*) in .* =+", completed.stdout)
    result = ("" if completed.returncode == 0 else "FAILED ") + (
        summaries[-1] if summaries else f"exit code {completed.returncode}"
    )
    print(f"Airflow {airflow}, {python}: {result}", flush=True)
    return result


def main(airflows: list[str]) -> int:
    results = {airflow: [run_tests(airflow, python) for python in PYTHONS] for airflow in airflows}
    print("\n| Airflow | " + " | ".join(PYTHONS) + " |")
    print("| --- " * (len(PYTHONS) + 1) + "|")
    for airflow, outcomes in results.items():
        print(f"| {airflow} | " + " | ".join(outcomes) + " |")
    are_tested = all(any("passed" in outcome for outcome in outcomes) for outcomes in results.values())
    return int(not are_tested or any("FAILED" in outcome for outcomes in results.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
