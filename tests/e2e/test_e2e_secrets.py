"""The search for keys finds them in files, responses and database cells."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from secrets_search import find_keys, sqlite_cells


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"file": "key: se/cret"}, ["task.log"]),
        ({"file": "?key=se%2Fcret"}, ["task.log"]),
        ({"file": "login"}, ["task.log"]),
        ({"file": '{"body": "bG9naW4="}'}, ["task.log"]),
        ({"response": '{"password": "se/cret"}'}, ["response 0"]),
        ({"cell": "se/cret"}, ["log.extra"]),
        ({"cell": '{"login": "login"}'}, []),
        ({"file": "secret"}, []),
    ],
)
def test_find_keys(tmp_path: Path, content: dict[str, str], expected: list[str]) -> None:
    folder, database = tmp_path / "home", tmp_path / "airflow.db"
    folder.mkdir()
    (folder / "task.log").write_text(content.get("file", ""))
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE log (extra TEXT)")
        db.execute("INSERT INTO log VALUES (?)", [content.get("cell", "")])
        db.commit()

    locations = find_keys("login", ["se/cret"], folder, sqlite_cells(database), [content.get("response", "")])

    assert len(locations) == len(expected)
    assert all(name in place for name, place in zip(expected, locations, strict=True))
