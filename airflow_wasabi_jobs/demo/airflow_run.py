"""The Airflow of the demo, in a process of its own: a new database, and one run of the DAG."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from typing import Any

DAG_FILE = Path(__file__).parent / "dags" / "wasabi_demo.py"


def main() -> None:
    """Run the DAG to its end."""
    from airflow.utils.db import initdb

    initdb()
    _let_callbacks_see_the_error()
    with Path(os.environ["WASABI_DEMO_TOLD"]).open("a") as file:
        file.write(json.dumps({"ready": True}) + "\n")
    runpy.run_path(str(DAG_FILE))["dag"].test()


def _let_callbacks_see_the_error() -> None:
    """Do for a ``dag.test()`` of Airflow 3.0 to 3.2 what these do for tasks of their workers."""
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        return
    run = task_runner.run

    def run_and_tell(ti: Any, context: Any, log: Any) -> Any:
        state, message, error = run(ti, context, log)
        context["exception"] = error
        return state, message, error

    task_runner.run = run_and_tell


if __name__ == "__main__":
    main()
