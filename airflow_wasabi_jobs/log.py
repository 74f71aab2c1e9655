"""The logger of the package: a task keeps it when it moves between a worker and the triggerer."""

from __future__ import annotations

import logging

# Below airflow.task, because Airflow 2 gives that logger a level and handlers of its own.
LOG = logging.getLogger("airflow.task.wasabi_jobs")
