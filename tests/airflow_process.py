"""Airflow in a process of its own, for what a process that has imported half of it already can't show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def airflow_command(*arguments: str) -> Any:
    """Run an ``airflow`` command that prints JSON as the last line of its output, and return what it printed."""
    return _last_json([str(Path(sys.executable).with_name("airflow")), *arguments])


def fresh_interpreter(code: str) -> Any:
    """Run Python code that prints JSON as the last line of its output, and return what it printed."""
    return _last_json([sys.executable, "-c", code])


def _last_json(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
