"""The logger of the package: a task keeps it when it moves between a worker and the triggerer."""

from __future__ import annotations

import logging

# Triggers log in a thread (``asyncio.to_thread``), because the log of a triggerer is a socket to another process of
# Airflow. If the event loop waited for that process while it waits for the event loop, the triggerer would hang.
# Below airflow.task, because Airflow 2 gives that logger a level and handlers of its own.
LOG = logging.getLogger("airflow.task.wasabi_jobs")
