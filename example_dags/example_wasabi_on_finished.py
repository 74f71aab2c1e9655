"""
Start a DAG when jobs finish, no matter who submitted them: a media asset manager, the console, a script, another DAG.

For Airflow 3. The connection ``wasabi_default`` holds the base URL of the API and the keys. To try it with the emulator
(``wasabi-air-emulator``), submit a job with the batch ``ingest``.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

# With Airflow 3 alone: from airflow.sdk import DAG, Asset, AssetWatcher, task
from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.triggers import WasabiJobsFinishedTrigger

try:
    from airflow.sdk import Asset, AssetWatcher
except ImportError:
    pass  # Airflow 2 has no asset watchers, so this file has no DAG there.
else:
    # An event for each job of the batch that completes, fails or is cancelled.
    finished = Asset(
        "wasabi_jobs_ingest",
        watchers=[AssetWatcher(name="finished", trigger=WasabiJobsFinishedTrigger(batch="ingest"))],
    )
    # An event for each job of the account that does not complete. The lists are requested once for both triggers.
    not_completed = Asset(
        "wasabi_jobs_not_completed",
        watchers=[
            AssetWatcher(
                name="not_completed",
                trigger=WasabiJobsFinishedTrigger(statuses=["failed", "cancelled"]),
            )
        ],
    )

    with DAG(
        dag_id="example_wasabi_on_finished",
        description="Use the results of jobs when they finish",
        doc_md=__doc__,
        schedule=[finished],
        start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
        catchup=False,
        tags=["example", "wasabi"],
        default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    ) as dag:

        @task
        def find_results(triggering_asset_events: Any = None) -> dict[str, str]:
            """Return the location of each result. Several events can start one run."""
            payloads = [event.extra["payload"] for event in triggering_asset_events[finished]]
            return {each["job_id"]: each["metadata_path"] for each in payloads if each["status"] == "completed"}

        @task
        def use_result(item: tuple[str, str]) -> None:
            """Stands for what you do with a result."""
            job_id, location = item
            logging.getLogger(__name__).info("The result of job %s is in %s", job_id, location)

        use_result.expand(item=find_results())

    with DAG(
        dag_id="example_wasabi_on_failure",
        description="Report jobs that failed or were cancelled",
        doc_md=__doc__,
        schedule=[not_completed],
        start_date=datetime(2025, 1, 1),  # noqa: DTZ001 - Airflow takes it as UTC
        catchup=False,
        tags=["example", "wasabi"],
        default_args={"retries": 2},
    ) as failure_dag:

        @task
        def report(triggering_asset_events: Any = None) -> list[str]:
            """Return a line for each job. Several events can start one run."""
            lines = [
                "{name} ({job_id}): {status}".format(**event.extra["payload"])
                for event in triggering_asset_events[not_completed]
            ]
            for line in lines:
                logging.getLogger(__name__).warning(line)
            return lines

        report()
