"""Validation of ids. Imports no other package, because it runs while DAG files are parsed."""

from __future__ import annotations

from airflow_wasabi_jobs.api.rendered import to_text


def validate_id(value: object, kind: str = "job id") -> str:
    """
    Return an id without surrounding white space.

    :param value: a string, or an integer that stands for its digits.
    :param kind: what the id identifies, for the error message.
    :raises ValueError: if the value cannot be an id. The message continues after the name of the field.
    """
    text = (to_text(value) or "").strip()
    if text in {"", "None"}:
        raise ValueError(f"is {value!r}, but must be a {kind}")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"is {text!r}, which cannot be a {kind}: it is not valid Unicode")
    if text in {".", ".."}:
        raise ValueError(f"is {text!r}, which cannot be a {kind}: in a URL it points to another path")
    return text
