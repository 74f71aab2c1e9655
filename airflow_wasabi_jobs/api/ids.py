"""What can be an id. Imports nothing, for it is asked while DAG files are parsed."""

from __future__ import annotations


def checked_id(value: object) -> str:
    """
    Return an id as it can be asked for, without the white space around it.

    :param value: a text, or a whole number that means its text.
    :raises ValueError: if it can't be an id. The message goes on after the name of the field.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value.strip() if isinstance(value, str) else None
    if text is None or text in {"", "None"}:
        raise ValueError(f"is {value!r}, which is no id")
    if text in {".", ".."}:
        raise ValueError(f"is {text!r}, which can't be sent: in a URL it means another path")
    return text
