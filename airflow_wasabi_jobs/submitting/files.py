"""The files of a batch: from a list, from XComs or from a manifest, each file once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow_wasabi_jobs.api import submissions
from airflow_wasabi_jobs.api.models import Source
from airflow_wasabi_jobs.log import LOG

MAX_LOGGED_DUPLICATES = 10
_DIGEST_LENGTH = 16


def read_files(sources: object, *, task_id: str) -> list[Source]:
    """
    Return the files, each once, in their order.

    :param sources: files, or the URL of a manifest.
    :param task_id: the task, for messages.
    :raises ValueError: if an entry is invalid, with its index or its line.
    """
    if isinstance(sources, str) and not re.match(r"\s*[\w+.-]+://", sources):
        raise ValueError(
            f"sources of task {task_id!r} is {sources[:80]!r}, but must be a list or the URL of a manifest. A template "
            "renders a list to text: pass the output of the upstream task instead."
        )
    entries = (
        read_manifest(sources, task_id=task_id) if isinstance(sources, str) else _read_entries(sources, task_id=task_id)
    )
    files: dict[Source, None] = {}
    duplicates: list[str] = []
    for label, entry in entries:
        file = Source(**submissions.parse_file(label, entry))
        if file in files:
            duplicates.append(file.url)
        files[file] = None
    if duplicates:
        more = f" and {len(duplicates) - MAX_LOGGED_DUPLICATES} more" if len(duplicates) > MAX_LOGGED_DUPLICATES else ""
        LOG.warning(
            "%d of the sources are duplicates, and each file is submitted once: %s%s.",
            len(duplicates),
            ", ".join(duplicates[:MAX_LOGGED_DUPLICATES]),
            more,
        )
    return list(files)


def read_manifest(url: str, *, task_id: str) -> Iterator[tuple[str, object]]:
    """
    Return the entries of a manifest: URLs, or JSON objects, one on each line.

    :param url: the URL of the manifest, such as ``s3://conn_id@bucket/files.txt``.
    :param task_id: the task, for messages.
    :raises ValueError: if the manifest cannot be read, or is not text.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    owner = f"the manifest {url!r} (sources of task {task_id!r})"
    try:
        content = ObjectStoragePath(url).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{owner[0].upper()}{owner[1:]} does not exist. Check its URL.") from error
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"{owner[0].upper()}{owner[1:]} cannot be read: {error} Check its URL, and that the package for this "
            "storage is installed."
        ) from error
    for number, line in enumerate(content.splitlines(), start=1):
        label = f"Line {number} of {owner}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{label} is not UTF-8 text.") from error
        if not text:
            continue
        entry: object = text
        if text.startswith("{"):
            try:
                entry = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{label} is not valid JSON: {error}.") from error
        yield label, entry


def job_name(batch: str, file: Source) -> str:
    """
    Return the name of the job of a file: readable, at most 256 characters, and no other file of the batch has it.

    :param batch: the batch.
    :param file: the file.
    """
    name = f"{batch}/{file.bucket}/{file.object_key}"
    is_in_default_location = file.region is None and file.endpoint is None
    if is_in_default_location and len(name) <= submissions.MAX_TEXT_LENGTH:
        return name
    identity = json.dumps([batch, file.bucket, file.object_key, file.region, file.endpoint])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{name[: submissions.MAX_TEXT_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"


def _read_entries(sources: object, *, task_id: str) -> Iterator[tuple[str, Any]]:
    if isinstance(sources, Mapping) or not isinstance(sources, Iterable):
        raise ValueError(  # noqa: TRY004 - bad input is a ValueError
            f"sources of task {task_id!r} is {type(sources).__name__}, but must be a list of files or the URL of a "
            "manifest."
        )
    for number, entry in enumerate(sources):
        label = f"sources[{number}]"
        # A mapped task upstream may return one file, or a list of them.
        if isinstance(entry, list | tuple):
            for inner_number, inner in enumerate(entry):
                yield f"{label}[{inner_number}] of task {task_id!r}", inner
        else:
            yield f"{label} of task {task_id!r}", entry
