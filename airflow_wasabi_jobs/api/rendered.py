"""
Conversion of what a template renders to. Imports nothing, because it runs while DAG files are parsed.

A template renders to text. With ``render_template_as_native_obj=True`` it renders to the Python value that the text is
a literal of: ``2024`` becomes an integer, ``1.10`` a float and ``None`` is None.
"""

from __future__ import annotations

_NATIVE_RENDERING_ADVICE = (
    "If it comes from a template, the cause is render_template_as_native_obj=True. Put quotes into the template to get "
    "a string, such as \"'{{ … }}'\"."
)


def to_text(value: object) -> str | None:
    """Return a text, also of an integer, or None for any value whose original text is unknown."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def to_integer(value: object) -> int | None:
    """Return an integer, also from its text, or None for any other value."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text_advice(value: object) -> str:
    """Return what to do about a value that is not a string, or nothing if native rendering cannot be the cause."""
    return "" if value is None or isinstance(value, str) else f" {_NATIVE_RENDERING_ADVICE}"
