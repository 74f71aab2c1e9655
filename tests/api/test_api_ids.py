"""What can be an id, and how it is asked for."""

from __future__ import annotations

import pytest

from airflow_wasabi_jobs.api.ids import checked_id


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("67345137bcb6dce44b35a6a6281711e7", "67345137bcb6dce44b35a6a6281711e7"),
        (" 12345\n", "12345"),
        (12345, "12345"),
        (0, "0"),
        ("...", "..."),
        ("../x", "../x"),
        ("none", "none"),
        ("日本", "日本"),
    ],
)
def test_an_id(value, expected):
    assert checked_id(value) == expected


@pytest.mark.parametrize("value", [None, "", "  \n", "None", " None ", True, False, 1.0, b"12345", ["12345"], {}])
def test_no_id(value):
    with pytest.raises(ValueError, match="which is no id") as caught:
        checked_id(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [".", "..", " .. "])
def test_an_id_that_no_client_can_send(value):
    with pytest.raises(ValueError, match="can't be sent"):
        checked_id(value)
