"""
What can be submitted. Imports nothing but Python's own, for it is asked while DAG files are parsed.

The rules are those of the documentation of *Submit job*. What breaks one is a ``ValueError``, whose message
goes on after the name of the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

SERVICES = ("ocr", "s2t", "nld", "audiotag", "face", "logo")
LONGEST_TEXT = 256


def checked(field: str, value: object, *, of: str = "") -> Any:
    """
    Return a field of a submission as it can be sent.

    :param field: ``name``, ``source``, ``destination``, ``services``, ``priority`` or ``batch``.
    :param value: what somebody put there.
    :param of: whose field it is, for the message, such as `` of task 'submit'``.
    :raises ValueError: if it can't be sent.
    """
    try:
        return _CHECKS[field](value)
    except ValueError as error:
        raise ValueError(f"{field}{of} {error}.") from None


def as_far_as_known(value: object) -> Any:
    """
    Return a field as far as it is known before templates are rendered, with a stand-in for the rest.

    :param value: what somebody put there.
    :return: the field, or None if nothing is known of it.
    """
    if is_known(value):
        return value
    if isinstance(value, Mapping):
        return {name: inner if is_known(inner) else "later" for name, inner in value.items()}
    return None


def is_known(value: object) -> bool:
    """Whether a field is known before templates are rendered and XComs are there."""
    match value:
        case str():
            return "{{" not in value and "{%" not in value
        case Mapping():
            return all(map(is_known, value.values()))
        case list() | tuple():
            return all(map(is_known, value))
        case _:
            # What is neither is an XCom that another task has yet to push.
            return value is None or isinstance(value, bool | int | float)


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or value.strip() == "None":
        raise ValueError(f"is {value!r}: a job needs a name")
    return _not_too_long(value)


def _batch(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or value.strip() == "None":
        raise ValueError(f"is {value!r}, and must be a text that is not empty")
    return _not_too_long(value)


def _not_too_long(value: str) -> str:
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"has {len(value)} characters, and {LONGEST_TEXT} is the most: {value[:40]!r}…")
    return value


def _priority(value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10):
        raise ValueError(f"is {value!r}, and must be a whole number from 1 to 10")
    return value


def _source(value: object) -> dict[str, str]:
    return _place(value, needed=("bucket", "object_key"), optional=("region", "endpoint"))


def _destination(value: object) -> dict[str, str]:
    return _place(value, needed=("bucket", "region"), optional=())


def _place(value: object, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, str]:
    known = needed + optional
    if not isinstance(value, Mapping):
        kind = "None" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"is {kind}, and must be a dict with {', '.join(known)}")  # noqa: TRY004 - a mistake is a ValueError
    # Without the values: one of them may be a key that somebody put there.
    if unknown := sorted(str(name) for name in value if name not in known):
        secret = any(word in name.lower() for name in unknown for word in ("access", "secret"))
        advice = "; keys of a source outside Wasabi belong into a connection, see source_conn_id" if secret else ""
        raise ValueError(f"has {', '.join(unknown)}, but can only have {', '.join(known)}{advice}")
    place = {name: inner for name, inner in value.items() if inner is not None}
    for name in known:
        if name not in place:
            if name in needed:
                raise ValueError(f"has no {name}, which a job needs")
        elif not isinstance(place[name], str) or not place[name].strip() or place[name].strip() == "None":
            raise ValueError(f"has the {name} {place[name]!r}, and must have a text there that is not empty")
    return place


def _services(value: object) -> dict[str, Any]:
    if isinstance(value, list | tuple | set | frozenset):
        value = dict.fromkeys(value, "") if all(isinstance(name, str) for name in value) else None
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004 - a mistake is a ValueError
            "must be a list of services, or a dict of them with their settings, "
            'like ["ocr"] or {"ocr": "", "logo": {"config": {…}}}'
        )
    if not value:
        raise ValueError(f"names no service. There are: {', '.join(SERVICES)}")
    for name, settings in value.items():
        if name not in SERVICES:
            raise ValueError(f"names {name!r}, which is no service. There are: {', '.join(SERVICES)}")
        if settings == "" and isinstance(settings, str):
            continue
        if not isinstance(settings, Mapping) or not isinstance(settings.get("config"), Mapping) or len(settings) > 1:
            raise ValueError(f'has {settings!r} for {name}, and must have "" or {{"config": {{…}}}} there')
        try:
            json.dumps(settings, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"has settings for {name} that are no JSON: {error}") from None
    return dict(value)


_CHECKS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "source": _source,
    "destination": _destination,
    "services": _services,
    "priority": _priority,
    "batch": _batch,
}
