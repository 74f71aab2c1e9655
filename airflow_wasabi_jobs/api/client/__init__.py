"""
The two clients: requests for workers, which may block, and aiohttp for the triggerer, which may not.

Both send the same requests with the same retry policy and the same limits, so that a wait has the same outcome.
"""

from __future__ import annotations

from airflow_wasabi_jobs.api.client.asynchronous import AsyncJobsClient
from airflow_wasabi_jobs.api.client.synchronous import JobsClient

__all__ = ["AsyncJobsClient", "JobsClient"]
