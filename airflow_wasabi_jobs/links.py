"""Links from a task in Airflow's UI to the objects in its XCom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_wasabi_jobs.api.submissions import is_literal
from airflow_wasabi_jobs.log import LOG

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


class WasabiResultLink(BaseOperatorLink):
    """
    Links a task to the result of its job.

    The task needs ``fetch_metadata=True``, and its :ref:`connection <howto/connection:wasabi>` a ``console_url``.
    Without them Airflow shows no link.
    """

    name = "Result"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the URL of the result. Airflow 3 calls this in the worker when the task ends, Airflow 2 in the webserver.

        :param operator: the task.
        :param ti_key: identifies the task instance.
        :return: the URL, or an empty string if there is none.
        """
        return find_console_link(operator, ti_key, xcom_field="metadata_path")


class WasabiResultsFileLink(BaseOperatorLink):
    """
    Links a task to the results file of its batch.

    The task needs a ``results_path`` in a bucket, and its :ref:`connection <howto/connection:wasabi>` a
    ``console_url``. Without them Airflow shows no link.
    """

    name = "Results"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the URL of the file. Airflow 3 calls this in the worker when the task ends, Airflow 2 in the webserver.

        :param operator: the task.
        :param ti_key: identifies the task instance.
        :return: the URL, or an empty string if there is none.
        """
        return find_console_link(operator, ti_key, xcom_field="results_path")


def find_console_link(operator: BaseOperator, ti_key: TaskInstanceKey, *, xcom_field: str) -> str:
    """
    Return the URL in the console of an object whose location is in the XCom of a task.

    :param operator: the task.
    :param ti_key: identifies the task instance.
    :param xcom_field: the field of the XCom that holds the location.
    :return: the URL, or an empty string if there is none.
    """
    from airflow.providers.common.compat.sdk import XCom

    # The worker asks for the link whenever a task ends or defers, and a lookup without an XCom logs an error.
    if getattr(ti_key, "state", "success") != "success":
        return ""
    try:
        xcom = XCom.get_value(ti_key=ti_key, key="return_value")
        location = xcom.get(xcom_field) if isinstance(xcom, Mapping) else None
        if location is None or location.startswith("file:"):
            return ""
        console_url = _read_console_url(_find_conn_id(operator, ti_key))
        return build_console_link(console_url, location) if console_url else ""
    except Exception as error:  # noqa: BLE001 - the task has finished; only its link is missing
        LOG.warning("Task %r has no link to its result: %s", ti_key.task_id, error)
        return ""


def build_console_link(console_url: str, location: str) -> str:
    """
    Return the URL of an object in a console.

    :param console_url: the URL with the placeholders ``{bucket}`` and ``{key}``.
    :param location: the location of the object: ``s3://bucket/key``, or an S3 URL such as
        ``https://s3.us-east-1.wasabisys.com/bucket/key``.
    :raises ValueError: if the location has no bucket or no key.
    """
    bucket, key = split_location(location)
    return console_url.replace("{bucket}", quote(bucket, safe="")).replace("{key}", quote(key))


def split_location(location: str) -> tuple[str, str]:
    """
    Return the bucket and the key of an object.

    :param location: as for :func:`build_console_link`, with or without the id of a connection.
    :raises ValueError: if the location has no bucket or no key.
    """
    scheme, _, path = location.partition("://")
    if scheme.lower() in {"http", "https"}:
        url = urlsplit(location)
        path = unquote(url.path).removeprefix("/")
        # The bucket is the first part of the path, or of the host: https://bucket.s3.us-east-1.wasabisys.com/key.
        bucket, virtual_host, _ = (url.hostname or "").partition(".s3.")
        if virtual_host:
            path = f"{bucket}/{path}"
    bucket, _, key = path.partition("/")
    # Object storage of Airflow has the id of a connection in the URL: s3://conn_id@bucket/key.
    bucket = bucket.rpartition("@")[2]
    if not bucket or not key:
        raise ValueError(f"{location!r} is not the location of an object. Expected is s3://bucket/key.")
    return bucket, key


def _find_conn_id(operator: BaseOperator, ti_key: Any) -> str:
    conn_id: Any = getattr(operator, "wasabi_conn_id", None)
    if conn_id is None or not is_literal(conn_id):
        # The webserver of Airflow 2 has the task as it is in the DAG file, without the values of this run.
        from airflow.models.renderedtifields import RenderedTaskInstanceFields

        conn_id = (RenderedTaskInstanceFields.get_templated_fields(ti_key) or {}).get("wasabi_conn_id")
        if conn_id is None:
            raise ValueError("Airflow no longer has the connection id of this run.")
    return str(conn_id)


def _read_console_url(conn_id: str) -> str | None:
    from airflow_wasabi_jobs.hooks import WasabiJobsHook

    return WasabiJobsHook(conn_id).read_settings().options.console_url
