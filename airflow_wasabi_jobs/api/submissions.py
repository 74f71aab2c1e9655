"""
Validation of submissions. Imports no other package, because it runs while DAG files are parsed.

The rules are those of the documentation of *Submit job*.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_wasabi_jobs.api.rendered import text_advice, to_integer, to_text

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.models import Job

KNOWN_SERVICES = frozenset({"ocr", "s2t", "nld", "audiotag", "face", "logo"})
MAX_TEXT_LENGTH = 256


def validate_field(field: str, value: object, *, owner: str = "") -> Any:
    """
    Return a field of a submission in the form in which it is sent.

    :param field: ``name``, ``source``, ``destination``, ``services``, ``priority`` or ``batch``.
    :param value: the value of the field.
    :param owner: what the field belongs to, for the message, such as `` of task 'submit'``.
    :raises ValueError: if the value is invalid.
    """
    return _VALIDATORS[field](field + owner, value)


def parse_file(label: str, value: object) -> dict[str, str]:
    """
    Return the location of a file of a batch: ``bucket``, ``object_key`` and optionally ``region`` and ``endpoint``.

    :param label: how messages refer to the value.
    :param value: a URL such as ``s3://bucket/key``, or the location.
    :raises ValueError: if the value is invalid.
    """
    if isinstance(value, Mapping):
        return _validate_source(label, value)
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 - bad input is a ValueError
            f"{label} is {_describe_type(value)}, but must be a URL such as 's3://bucket/key', or a dict with bucket "
            "and object_key."
        )
    scheme, _, location = value.strip().partition("://")
    bucket, _, object_key = location.partition("/")
    if scheme != "s3" or not bucket or not object_key:
        raise ValueError(f"{label} is {value!r}, but must be a URL with a bucket and a key, such as 's3://bucket/key'.")
    return {"bucket": bucket, "object_key": object_key}


def is_literal(value: object) -> bool:
    """Whether a value is complete when a DAG file is parsed: it has no template and is no XComArg."""
    match value:
        case str():
            return "{{" not in value and "{%" not in value
        case Mapping():
            return all(map(is_literal, value.values()))
        case list() | tuple() | set() | frozenset():
            return all(map(is_literal, value))
        case _:
            return value is None or isinstance(value, bool | int | float)


def replace_templates(value: object) -> Any:
    """
    Return a value with a placeholder for whatever is not literal in it, to validate the rest of it.

    :return: the value, or None if nothing of it is literal.
    """
    if is_literal(value):
        return value
    if isinstance(value, Mapping):
        return {name: inner if is_literal(inner) else "placeholder" for name, inner in value.items()}
    return None


def find_difference(submission: Mapping[str, Any], job: Job) -> str | None:
    """
    Return how a job differs from a submission with the same name, such as ``destination a, not b``.

    What the API does not return is not compared. Of the services only the names are: the API may add settings.

    :param submission: the fields of the submission.
    :param job: the job.
    :return: the difference, or None if the job belongs to the submission.
    """
    source, destination = submission["source"], submission["destination"]
    compared = {
        "file": (_join(job.source.bucket, job.source.object_key), _join(source["bucket"], source["object_key"])),
        "destination": (
            _join(job.destination.bucket, job.destination.region),
            _join(destination["bucket"], destination["region"]),
        ),
        "batch": (job.batch or None, submission["batch"] or ""),
        "services": (_sorted_names(job.services), _sorted_names(submission["services"])),
    }
    for field, (actual, expected) in compared.items():
        if actual is not None and actual != expected:
            return f"{field} {actual}, not {expected or 'none'}"
    return None


def _join(*parts: str | None) -> str | None:
    return None if None in parts else "/".join(filter(None, parts))


def _sorted_names(services: Mapping[str, Any] | None) -> str | None:
    return None if services is None else ", ".join(sorted(services))


def _validate_text(label: str, value: object) -> str:
    text = to_text(value)
    if text is None or text.strip() in {"", "None"}:
        raise ValueError(f"{label} is {value!r}, but must be a non-empty string.{text_advice(value)}")
    return text


def _validate_name(label: str, value: object) -> str:
    return _validate_length(label, _validate_text(label, value))


def _validate_batch(label: str, value: object) -> str | None:
    return None if value is None else _validate_name(label, value)


def _validate_length(label: str, value: str) -> str:
    if len(value) > MAX_TEXT_LENGTH:
        raise ValueError(
            f"{label} has {len(value)} characters, but at most {MAX_TEXT_LENGTH} are allowed: {value[:40]!r}…"
        )
    return value


def _validate_priority(label: str, value: object) -> int:
    number = to_integer(value)
    if number is None or not 1 <= number <= 10:
        raise ValueError(f"{label} is {value!r}, but must be an integer from 1 to 10.")
    return number


def _validate_source(label: str, value: object) -> dict[str, str]:
    return _validate_location(label, value, required=("bucket", "object_key"), optional=("region", "endpoint"))


def _validate_destination(label: str, value: object) -> dict[str, str]:
    return _validate_location(label, value, required=("bucket", "region"), optional=())


def _validate_location(
    label: str, value: object, required: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, str]:
    allowed = required + optional
    if not isinstance(value, Mapping):
        raise ValueError(f"{label} is {_describe_type(value)}, but must be a dict with {', '.join(allowed)}.")  # noqa: TRY004 - bad input is a ValueError
    # Without the values, because one of them may be a secret.
    if unknown := sorted(str(name) for name in value if name not in allowed):
        is_secret = any(word in name.lower() for name in unknown for word in ("access", "secret"))
        advice = " Put the keys of a source outside Wasabi in a connection: see source_conn_id." if is_secret else ""
        keys = f"key{'' if len(unknown) == 1 else 's'} {', '.join(map(repr, unknown))}"
        raise ValueError(f"Unknown {keys} in {label}. Allowed: {', '.join(allowed)}.{advice}")
    location = {name: inner for name, inner in value.items() if inner is not None}
    for name in required:
        if name not in location:
            raise ValueError(f"{label} has no {name}, but a job needs it.")
    return {name: _validate_text(f"{name} in {label}", inner) for name, inner in location.items()}


def _validate_services(label: str, value: object) -> dict[str, Any]:
    if isinstance(value, list | tuple | set | frozenset):
        value = dict.fromkeys(value, "") if all(isinstance(name, str) for name in value) else None
    if not isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004 - bad input is a ValueError
            f"{label} must be a list of services, or a dict of services with their settings, "
            'such as ["ocr"] or {"ocr": "", "logo": {"config": {…}}}.'
        )
    if not value:
        raise ValueError(f"{label} is empty. Name one or more services, such as {', '.join(sorted(KNOWN_SERVICES))}.")
    for name, settings in value.items():
        if not isinstance(name, str) or name in {"", "None"} or name != name.strip() or not is_literal(name):
            raise ValueError(f"{label} has the service {name!r}, but must have names of services, such as 'ocr'.")
        if isinstance(settings, str) and settings == "":
            continue
        if not isinstance(settings, Mapping) or not isinstance(settings.get("config"), Mapping) or len(settings) > 1:
            raise ValueError(f'{label} has {settings!r} for {name}, but allowed are "" and {{"config": {{…}}}}.')
        try:
            json.dumps(settings, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{label} has settings for {name} that are not JSON: {error}.") from None
    return dict(value)


def _describe_type(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


_VALIDATORS: dict[str, Callable[[str, object], Any]] = {
    "name": _validate_name,
    "source": _validate_source,
    "destination": _validate_destination,
    "services": _validate_services,
    "priority": _validate_priority,
    "batch": _validate_batch,
}
