"""Search for keys in the files, the database and the REST responses of an Airflow."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

# Airflow stores the login of a connection in plain text, also in its audit log.
SHOWS_LOGINS = {"connection.login", "log.extra"}
# Its cells are searched instead.
DATABASE = "postgresql"
# Celery stores the arguments of a task in Redis with this encoding.
BASE64_BODY = re.compile(rb'"body": "([A-Za-z0-9+/=]+)"')

Cells = Iterable[tuple[str, bytes]]


def find_keys(access_key: str, secret_keys: list[str], folder: Path, cells: Cells, responses: list[str]) -> list[str]:
    """
    Return the locations that contain one of the keys, plain or percent-encoded.

    :param cells: the name of the column and the value of each cell of the database.
    """
    secret, any_key = _pattern(secret_keys), _pattern([access_key, *secret_keys])
    locations = [
        f"response {number}: {text[:200]}" for number, text in enumerate(responses) if any_key.search(text.encode())
    ]
    locations += [str(path) for path in _files(folder) if any(map(any_key.search, _contents(path)))]
    locations += [
        column_name
        for column_name, value in cells
        if (secret if column_name in SHOWS_LOGINS else any_key).search(value)
    ]
    return locations


def _pattern(keys: list[str]) -> re.Pattern[bytes]:
    return re.compile("|".join(map(re.escape, {*keys, *(quote(key, safe="") for key in keys)})).encode())


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and DATABASE not in path.relative_to(folder).parts:
            yield path


def _contents(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    yield content
    yield from map(base64.b64decode, BASE64_BODY.findall(content))
