"""The logger of the package: a task keeps it when it moves between a worker and the triggerer."""

from __future__ import annotations

import logging

LOG = logging.getLogger("airflow_wasabi_jobs")
