"""A DAG that starts when jobs of a batch finish, on a connection that does not exist at first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_wasabi_jobs.triggers import WasabiJobsFinishedTrigger

try:
    from airflow.sdk import Asset, AssetWatcher
except ImportError:
    pass  # Airflow 2 has no watchers
else:
    finished = Asset(
        "e2e_finished",
        watchers=[
            AssetWatcher(
                name="finished",
                trigger=WasabiJobsFinishedTrigger(
                    wasabi_conn_id="wasabi_events", batch="e2e-events", poke_interval=4, lookback=0
                ),
            )
        ],
    )

    with DAG(
        dag_id="e2e_on_finished",
        schedule=[finished],
        start_date=datetime(2025, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=4,
    ) as dag:

        @task
        def collect(triggering_asset_events: Any = None) -> list[str]:
            return [event.extra["payload"]["job_id"] for event in triggering_asset_events[finished]]

        collect()
