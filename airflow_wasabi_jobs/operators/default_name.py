"""The default name of a job or a batch."""

from __future__ import annotations

import hashlib
from typing import Any

from airflow.providers.common.compat.sdk import conf

from airflow_wasabi_jobs.api import submissions


def default_name_template() -> str:
    """Return a template that shows :func:`default_name` among the rendered fields in Airflow's UI."""
    return (
        f"{_prefix()}{{% if ti is defined %}}{{{{ ti.dag_id }}}}/{{{{ ti.task_id }}}}"
        "{% if ti.map_index is number and ti.map_index >= 0 %}[{{ ti.map_index }}]{% endif %}"
        "/{{ ti.run_id }}{% endif %}"
    )


def default_name(ti: Any) -> str:
    """
    Return a job name that no other task run has, with ``[wasabi] job_name_prefix`` in front of it.

    :param ti: the task instance.
    """
    # No DAG id or task id contains a slash or a bracket.
    map_index = "" if ti.map_index is None or ti.map_index < 0 else f"[{ti.map_index}]"
    name = f"{_prefix()}{ti.dag_id}/{ti.task_id}{map_index}/{ti.run_id}"
    if len(name) <= submissions.MAX_TEXT_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: submissions.MAX_TEXT_LENGTH - len(digest) - 1]}-{digest}"


def _prefix() -> str:
    return str(conf.get("wasabi", "job_name_prefix", fallback=""))
