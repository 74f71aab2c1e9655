"""The Airflow of the demo: a new database, and one run of the DAG, in a separate process."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from typing import Any

DAG_FILE = Path(__file__).parent / "dags" / "wasabi_demo.py"


def main() -> None:
    """Run the DAG once."""
    from airflow.utils.db import initdb

    initdb()
    _pass_exceptions_to_callbacks()
    with Path(os.environ["WASABI_DEMO_EVENTS"]).open("a") as file:
        file.write(json.dumps({"ready": True}) + "\n")
    runpy.run_path(str(DAG_FILE))["dag"].test()


def _pass_exceptions_to_callbacks() -> None:
    """Do in ``dag.test()`` what a worker does: in Airflow 3.0 to 3.2 it does not pass the exception to callbacks."""
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        return
    run = task_runner.run

    def run_and_pass_exception(ti: Any, context: Any, log: Any) -> Any:
        state, message, error = run(ti, context, log)
        context["exception"] = error
        return state, message, error

    task_runner.run = run_and_pass_exception


if __name__ == "__main__":
    main()
