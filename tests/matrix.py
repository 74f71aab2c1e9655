"""Run the tests on each Airflow and each Python that is there, and print a table: ``make matrix``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

PYTHONS = ["python3.11", "python3.12", "python3.13"]
# The first Python that an Airflow no longer knows.
TOO_NEW = {"lowest": "python3.13", "2.11": "python3.13", "3.0": "python3.13"}


def is_here(python: str) -> bool:
    if shutil.which(python) is None:
        return False
    # A name on the path may be a shim for a Python that is not installed.
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def outcome(airflow: str, python: str) -> str:
    if python >= TOO_NEW.get(airflow, "python4"):
        return "not allowed"
    if not is_here(python):
        return "not here"
    done = subprocess.run(
        ["make", "test"],
        env={**os.environ, "AIRFLOW": airflow, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )
    # All of it, if it did not go well: here is where one looks for the reason.
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
    told = re.findall(r"=+ (.*\d+ (?:passed|failed).*) in .* =+", done.stdout)
    result = ("" if done.returncode == 0 else "FAILED ") + (told[-1] if told else f"exit code {done.returncode}")
    print(f"Airflow {airflow}, {python}: {result}", flush=True)
    return result


def main(airflows: list[str]) -> int:
    results = {airflow: [outcome(airflow, python) for python in PYTHONS] for airflow in airflows}
    print("\n| Airflow | " + " | ".join(PYTHONS) + " |")
    print("| --- " * (len(PYTHONS) + 1) + "|")
    for airflow, outcomes in results.items():
        print(f"| {airflow} | " + " | ".join(outcomes) + " |")
    are_tested = all(any("passed" in outcome for outcome in outcomes) for outcomes in results.values())
    return int(not are_tested or any("FAILED" in outcome for outcomes in results.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
