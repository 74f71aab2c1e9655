"""The Airflow of the demo, in a process of its own: a new database, and one run of the DAG."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

DAG_FILE = Path(__file__).parent / "dags" / "wasabi_demo.py"


def main() -> None:
    """Run the DAG to its end."""
    from airflow.utils.db import initdb

    initdb()
    with Path(os.environ["WASABI_DEMO_TOLD"]).open("a") as file:
        file.write(json.dumps({"ready": True}) + "\n")
    runpy.run_path(str(DAG_FILE))["dag"].test()


if __name__ == "__main__":
    main()
