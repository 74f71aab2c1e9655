"""The file with the result of each file of a batch, as JSON Lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from airflow_wasabi_jobs.submitting.batch_run import FileResult


def check_results_path(url: str, *, task_id: str) -> None:
    """
    Write an empty file beside the results file and remove it.

    :raises ValueError: if that fails.
    """
    try:
        temporary = _open_path(url, ".writing")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"")
        temporary.unlink()
    except Exception as error:
        raise ValueError(
            f"results_path of task {task_id!r} cannot be written: {url!r} ({type(error).__name__}: {error}). Check the "
            "URL, the connection in it, and that the package for this storage is installed."
        ) from error


def write_results(url: str, results: Iterable[FileResult], *, with_locations: bool) -> None:
    """
    Write one line for each file. A reader sees the complete file or none: other storage replaces an object at once, and
    a local file is renamed.

    :param url: the URL of the results file.
    :param results: the results.
    :param with_locations: whether the lines have ``metadata_path``.
    """
    encoder = msgspec.json.Encoder()
    content = bytearray()
    for result in results:
        line = msgspec.to_builtins(result)
        if not with_locations:
            del line["metadata_path"]
        content += encoder.encode(line) + b"\n"
    path = _open_path(url)
    if path.protocol in {"file", "local", ""}:
        temporary = _open_path(url, ".writing")
        temporary.write_bytes(bytes(content))
        temporary.replace(path)
    else:
        path.write_bytes(bytes(content))


def _open_path(url: str, suffix: str = "") -> Any:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStoragePath(url + suffix)
