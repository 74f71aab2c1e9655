"""The search for the keys in all that an Airflow left behind."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

# Airflow keeps the login of a connection as it is, also in what its audit log says of a request that made one.
SHOWS_LOGINS = {"connection.login", "log.extra"}


def places_of(access_key: str, secret_keys: list[str], folder: Path, database: Path, answers: list[str]) -> list[str]:
    """Return the places where one of the keys is written down, plain or encoded for a URL."""
    secret, any_key = _pattern(secret_keys), _pattern([access_key, *secret_keys])
    places = [f"answer {number}: {text[:200]}" for number, text in enumerate(answers) if any_key.search(text.encode())]
    places += [str(path) for path in _files(folder) if any_key.search(path.read_bytes())]
    places += [
        where for where, value in _cells(database) if (secret if where in SHOWS_LOGINS else any_key).search(value)
    ]
    return places


def _pattern(keys: list[str]) -> re.Pattern[bytes]:
    return re.compile("|".join(map(re.escape, {*keys, *(quote(key, safe="") for key in keys)})).encode())


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("airflow.db"):
            yield path


def _cells(database: Path) -> Iterator[tuple[str, bytes]]:
    with closing(sqlite3.connect(database)) as db:
        db.text_factory = bytes
        tables = [name.decode() for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = db.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    yield f"{table}.{column}", value if isinstance(value, bytes) else str(value).encode()
