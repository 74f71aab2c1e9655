"""Which jobs a watcher selects."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import Job


class Selection(msgspec.Struct, frozen=True):
    """
    The jobs that a watcher selects.

    :param wasabi_conn_id: id of the connection to their account.
    :param batch: the batch of the jobs, or None for all.
    :param name_prefix: the beginning of their names, or None for all.
    :param statuses: the terminal statuses that get an event, sorted.
    """

    wasabi_conn_id: str
    batch: str | None
    name_prefix: str | None
    statuses: list[str]

    def has(self, job: Job) -> bool:
        """Whether a job is selected, whatever its status is."""
        is_in_batch = self.batch is None or job.batch == self.batch
        return is_in_batch and (self.name_prefix is None or (job.name or "").startswith(self.name_prefix))

    @property
    def subject(self) -> str:
        """How log lines refer to the watcher."""
        filters = {"connection": self.wasabi_conn_id, "batch": self.batch, "name prefix": self.name_prefix}
        described = ", ".join(f"{name} {value!r}" for name, value in filters.items() if value is not None)
        return f"Watcher of finished jobs ({described})"

    @property
    def key(self) -> str:
        """What distinguishes the watcher from others of the same asset, in Airflow's store."""
        identity = json.dumps([self.wasabi_conn_id, self.batch, self.name_prefix, self.statuses])
        return f"wasabi_jobs_finished/{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
