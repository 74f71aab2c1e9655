"""The search for keys finds them in files, responses and database cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from secrets_search import find_keys


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
    (tmp_path / "task.log").write_text(content.get("file", ""))
    cells = [("log.extra", content.get("cell", "").encode())]

    locations = find_keys("login", ["se/cret"], tmp_path, cells, [content.get("response", "")])

    assert len(locations) == len(expected)
    assert all(name in place for name, place in zip(expected, locations, strict=True))
