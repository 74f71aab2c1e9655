"""A batch of files whose worker is killed in the middle of its submissions, and one with a limit of unfinished jobs."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator
from airflow_wasabi_jobs.polling import Subscription

FILES = 300


class KilledOnceOperator(WasabiSubmitBatchOperator):
    """Kills the worker of its first try when half of the files are submitted."""

    def execute(self, context: Any) -> Any:
        if context["ti"].try_number == 1:
            send = Subscription.send
            posts = []

            async def send_and_kill(subscription: Any, request: Any) -> Any:
                if request.method == "POST":
                    posts.append(request)
                if len(posts) > FILES / 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return await send(subscription, request)

            Subscription.send = send_and_kill  # type: ignore[method-assign, assignment] # kills this process
        return super().execute(context)


with DAG(
    dag_id="e2e_library",
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1), "poke_interval": 6, "deferrable": True},
) as dag:
    common: dict[str, Any] = {
        "destination": {"bucket": "results", "region": "eu"},
        "services": ["ocr"],
        "source_conn_id": "the_source",
    }
    KilledOnceOperator(
        task_id="killed",
        sources=[f"s3://media/{number:03}.mp4" for number in range(FILES)],
        results_path="file://" + os.environ["E2E_CALLBACKS"] + ".{{ run_id | replace(':', '') }}.jsonl",
        fetch_metadata=True,
        **common,
    )
    WasabiSubmitBatchOperator(
        task_id="limited",
        sources=["s3://media/fails-0.mp4", *(f"s3://media/{number}.mp4" for number in range(1, 30))],
        max_unfinished_jobs=20,
        **common,
    )
