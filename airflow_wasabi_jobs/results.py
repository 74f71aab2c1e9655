"""Reads the result of a job from its storage, with Airflow's ``ObjectStoragePath``."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from airflow_wasabi_jobs.api.redaction import excerpt, redact
from airflow_wasabi_jobs.exceptions import ResultReadError

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import JobMetadata

DEFAULT_MAX_BYTES = 100 * 1024**2

_WASABI_HOST = re.compile(r"s3(\.[a-z0-9-]+)?\.wasabisys\.com")


def read_result(
    metadata: JobMetadata,
    *,
    conn_id: str | None,
    secrets: Iterable[str | None],
    max_bytes: int,
    allow_local_files: bool,
) -> dict[str, Any]:
    """
    Read the result of a job.

    :param metadata: the location of the result.
    :param conn_id: the connection to the storage, or None for the credentials of the environment.
    :param secrets: what errors must not show.
    :param max_bytes: the largest file that is read.
    :param allow_local_files: whether the result may be a file of this machine.
    :raises ResultReadError: if it cannot be read.
    """
    known_secrets = [secret for secret in secrets if secret]
    subject = f"Job {metadata.job_id!r}: the result {metadata.path}"
    if urlsplit(metadata.path).scheme in {"file", "local"} and not allow_local_files:
        raise ResultReadError(
            f"{subject} is a file of this machine, which is read only for an API on this machine, such as the "
            "emulator. Check the host of the connection."
        )
    try:
        body = _read_bytes(to_storage_url(metadata.path), conn_id, max_bytes + 1)
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        reason = excerpt(redact(f"{type(error).__name__}: {error}", known_secrets))
        problem = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({reason})"
        chain = "".join(traceback.format_exception(error))
        is_safe = redact(chain, known_secrets) == chain
        message = f"{subject} {problem}. {_advice(metadata, conn_id)}"
        raise ResultReadError(message) from (error if is_safe else None)
    if len(body) > max_bytes:
        raise ResultReadError(
            f"{subject} is larger than max_bytes={max_bytes}. Raise max_bytes, or read the file in parts with "
            "ObjectStoragePath."
        )
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = excerpt(redact(str(error), known_secrets))
        raise ResultReadError(
            f"{subject} is not a JSON object ({reason}). Check what else writes to this bucket."
        ) from error


def to_storage_url(location: str) -> str:
    """Return the URL of a result for ``ObjectStoragePath``: ``s3://bucket/key`` for any file in Wasabi."""
    url = urlsplit(location)
    if url.scheme in {"http", "https"} and _WASABI_HOST.fullmatch(url.hostname or ""):
        return f"s3://{unquote(url.path).lstrip('/')}"
    # ObjectStoragePath takes a user in the URL for the id of a connection, which only the DAG may choose.
    return location.replace(f"//{url.netloc}", f"//{url.netloc.rpartition('@')[2]}", 1)


def _read_bytes(url: str, conn_id: str | None, max_bytes: int) -> bytes:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    with ObjectStoragePath(url, conn_id=conn_id).open("rb") as file:
        body: bytes = file.read(max_bytes)
        return body


def _advice(metadata: JobMetadata, conn_id: str | None) -> str:
    if not to_storage_url(metadata.path).startswith("s3://"):
        return "Check that the worker can read this storage."
    region = metadata.destination.region or "<region>"
    settings = f'"endpoint_url": "https://s3.{region}.wasabisys.com" and "region_name": "{region}" in its extra'
    package = "Reading from s3:// needs the package airflow-wasabi-jobs[s3]."
    if conn_id is None:
        return f"Set storage_conn_id to a connection of the type aws with {settings}. {package}"
    return (
        f"Check that connection {conn_id!r} (storage_conn_id) has the type aws, keys that may read the bucket, and "
        f"{settings}. {package}"
    )
