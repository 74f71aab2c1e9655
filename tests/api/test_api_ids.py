"""Validation of job ids."""

from __future__ import annotations

import pytest

from airflow_wasabi_jobs.api.ids import validate_id


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
def test_valid_id(value, expected):
    assert validate_id(value) == expected


@pytest.mark.parametrize("value", [None, "", "  \n", "None", " None ", True, False, 1.0, b"12345", ["12345"], {}])
def test_invalid_id(value):
    with pytest.raises(ValueError, match="but must be a job id") as caught:
        validate_id(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["\ud800", "job-\udfff-1"])
def test_unpaired_surrogate_is_not_a_valid_id(value):
    with pytest.raises(ValueError, match="not valid Unicode"):
        validate_id(value)


@pytest.mark.parametrize("value", [".", "..", " .. "])
def test_dot_segment_is_not_a_valid_id(value):
    with pytest.raises(ValueError, match="cannot be a job id: in a URL it points to another path"):
        validate_id(value)
