"""
The verdicts that end a wait badly.

All are final, for the status of such a job never changes again: Airflow does not retry them, and with
``soft_fail=True`` the task is skipped. What goes wrong while asking is not a verdict: see
:mod:`airflow_wasabi_jobs.api.errors`.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowFailException


class WasabiJobFailed(AirflowFailException):
    """The job failed, or completed with more errors than ``max_error_count`` allows."""


class WasabiJobCancelled(AirflowFailException):
    """Somebody cancelled the job."""


class WasabiBatchFailed(AirflowFailException):
    """More jobs of the batch failed or were cancelled than ``max_failures`` allows."""
