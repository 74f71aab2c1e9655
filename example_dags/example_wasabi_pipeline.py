"""
Analyse files, read their results, and load them into a table of a database, with one row for each service.

The connection ``wasabi_default`` holds the base URL of the API and the keys, ``results_db`` the database: PostgreSQL,
SQLite, or another one with a provider. The results are read from Wasabi with the connection in ``storage_conn_id``. The
emulator (``wasabi-air-emulator --results file:///tmp/results``) needs none.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

# With Airflow 3 alone: from airflow.sdk import DAG, Param, task, task_group
from airflow.providers.common.compat.sdk import DAG, Param, task, task_group

from airflow_wasabi_jobs.operators import WasabiSubmitJobOperator

FILES = ["interviews/monday.mp4", "interviews/tuesday.mp4"]
TABLE = "wasabi_services"
KEY = ["job_id", "service"]
COLUMNS = [*KEY, "object_key", "started_at", "ended_at", "findings"]

with DAG(
    dag_id="example_wasabi_pipeline",
    description="Analyse files, read their results, and load them into a table",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
    catchup=False,
    tags=["example", "wasabi"],
    # A job that failed is not retried. A connection error, a wrong key, or a result that is not there yet is.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "storage_conn_id": Param(
            None,
            type=["null", "string"],
            description="Connection to the storage of the results, such as wasabi_s3. Not needed with the emulator.",
        ),
    },
) as dag:

    @task
    def create_table() -> None:
        """Create the table."""
        from airflow.providers.common.compat.sdk import BaseHook

        columns = ", ".join(f"{column} VARCHAR(1024) NOT NULL" for column in COLUMNS[:-1])
        BaseHook.get_hook("results_db").run(
            f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns}, findings TEXT, PRIMARY KEY ({', '.join(KEY)}))"
        )

    @task
    def load(report: dict[str, Any], params: dict[str, Any]) -> int:
        """Write the result of a job to the table, and return the number of rows."""
        import json

        from airflow.providers.common.compat.sdk import BaseHook

        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        result = WasabiJobsHook().get_job_result(report["job_id"], storage_conn_id=params["storage_conn_id"])
        object_key = result["message_payload"]["job_metadata"]["object_key"]
        rows = [
            (
                report["job_id"],
                service["service_name"],
                object_key,
                service["service_start"],
                service.get("service_end"),
                # The names of the findings differ from service to service.
                json.dumps({name: value for name, value in service.items() if not name.startswith("service_")}),
            )
            for service in result["message_payload"]["services"]
        ]
        # A retry replaces the rows of the first try.
        BaseHook.get_hook("results_db").insert_rows(TABLE, rows, COLUMNS, replace=True, replace_index=KEY)
        return len(rows)

    # One group for each file, so that a file that fails does not stop the others.
    @task_group
    def process(source: dict[str, str]) -> None:
        """Analyse a file, and load its result."""
        analyse = WasabiSubmitJobOperator(
            task_id="analyse",
            source=source,
            destination={"bucket": "results", "region": "us-east-1"},
            services=["ocr", "s2t"],
            deferrable=True,
            # For real media files, a minute and a few hours are good values.
            poke_interval=timedelta(seconds=2),
            timeout=timedelta(hours=6),
        )
        load(analyse.output)  # type: ignore[misc, call-arg, arg-type] # Airflow passes the report and the params

    create_table() >> process.expand(source=[{"bucket": "media", "object_key": key} for key in FILES])
