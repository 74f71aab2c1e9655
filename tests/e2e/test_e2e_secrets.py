"""The search for the keys finds them, wherever they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from secrets_search import places_of


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"file": "key: se/cret"}, ["said.log"]),
        ({"file": "?key=se%2Fcret"}, ["said.log"]),
        ({"file": "login"}, ["said.log"]),
        ({"answer": '{"password": "se/cret"}'}, ["answer 0"]),
        ({"cell": "se/cret"}, ["log.extra"]),
        ({"cell": '{"login": "login"}'}, []),
        ({"file": "secret"}, []),
    ],
)
def test_where_a_key_is_found(tmp_path: Path, written: dict[str, str], found: list[str]) -> None:
    folder, database = tmp_path / "home", tmp_path / "airflow.db"
    folder.mkdir()
    (folder / "said.log").write_text(written.get("file", ""))
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE log (extra TEXT)")
        db.execute("INSERT INTO log VALUES (?)", [written.get("cell", "")])
        db.commit()

    places = places_of("login", ["se/cret"], folder, database, [written.get("answer", "")])

    assert len(places) == len(found)
    assert all(name in place for name, place in zip(found, places, strict=True))
