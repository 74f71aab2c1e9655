"""The Airflow of the demo: a new database, and the runs of its DAGs, in a separate process."""

from __future__ import annotations

import json
import os
import runpy
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARY_DATE = datetime(2025, 1, 1, tzinfo=UTC)
DAG_FILE = Path(__file__).parent / "dags" / "wasabi_demo.py"


def main() -> None:
    """Run the first DAG once, and the second one again after it was cleared."""
    from airflow.utils.db import initdb

    initdb()
    _pass_exceptions_to_callbacks()
    with Path(os.environ["WASABI_DEMO_EVENTS"]).open("a") as file:
        file.write(json.dumps({"ready": True}) + "\n")
    dags = runpy.run_path(str(DAG_FILE))
    os.environ["WASABI_DEMO_RUN"] = ""
    dags["dag"].test()
    # A run of the same date clears the tasks of the first one.
    date = {"execution_date" if version("apache-airflow").startswith("2.") else "logical_date": LIBRARY_DATE}
    dags["library_dag"].test(**date)
    os.environ["WASABI_DEMO_RUN"] = " (cleared)"
    dags["library_dag"].test(**date)


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
