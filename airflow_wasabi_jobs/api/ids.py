"""Validation of ids. Imports nothing, because it runs while DAG files are parsed."""

from __future__ import annotations


def validate_id(value: object, kind: str = "job id") -> str:
    """
    Return an id without surrounding white space.

    :param value: a string, or an integer that stands for its digits.
    :param kind: what the id identifies, for the error message.
    :raises ValueError: if the value cannot be an id. The message continues after the name of the field.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value.strip() if isinstance(value, str) else None
    if text is None or text in {"", "None"}:
        raise ValueError(f"is {value!r}, but must be a {kind}")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"is {text!r}, which cannot be a {kind}: it is not valid Unicode")
    if text in {".", ".."}:
        raise ValueError(f"is {text!r}, which cannot be a {kind}: in a URL it points to another path")
    return text
