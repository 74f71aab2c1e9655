"""Run Airflow or Python in a new process, for tests that need a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def airflow_command(*arguments: str) -> Any:
    """Run an ``airflow`` command whose last output line is JSON, and return the parsed line."""
    return _last_json([str(Path(sys.executable).with_name("airflow")), *arguments])


def fresh_interpreter(code: str) -> Any:
    """Run Python code whose last output line is JSON, and return the parsed line."""
    return _last_json([sys.executable, "-c", code])


def _last_json(command: list[str]) -> Any:
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if completed.returncode:
        raise AssertionError(f"{command} ended with {completed.returncode}:\n{completed.stdout}\n{completed.stderr}")
    return json.loads(completed.stdout.splitlines()[-1])
