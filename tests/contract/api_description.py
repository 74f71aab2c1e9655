"""The OpenAPI description of the API: generates valid payloads, and validates payloads."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from hypothesis import strategies as st

PATH = Path(__file__).with_name("air-jobs-api.yaml")
DESCRIPTION = yaml.safe_load(PATH.read_text())

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
# Job ids that a client can send.
IDS = st.sampled_from(["12345", "67345137bcb6dce44b35a6a6281711e7"]) | st.text(min_size=1, max_size=40).filter(
    lambda text: text == text.strip() and text not in {".", "..", "None"}
)
ZONES = st.integers(min_value=-14 * 60, max_value=14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
DATES = st.datetimes(timezones=st.just(UTC) | ZONES).map(lambda date: date.isoformat().replace("+00:00", "Z"))


@functools.cache
def payloads(name: str) -> st.SearchStrategy[Any]:
    """Generate JSON that is valid for this schema of the description."""
    return _generate({"$ref": f"#/components/schemas/{name}"})


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Return a validator for this schema of the description."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DESCRIPTION["components"]}
    return jsonschema.Draft202012Validator(schema, format_checker=_FORMATS)


@functools.cache
def lenient_validator(name: str, read: frozenset[str] | None = None) -> jsonschema.Draft202012Validator:
    """
    Return a validator that also accepts the deviations that the client tolerates.

    These are null for an absent field, a number as an id, any status and priority of a listed job, and any date.

    :param read: the fields that the client reads. Default: all.
    """
    return jsonschema.Draft202012Validator(_relax({"$ref": f"#/components/schemas/{name}"}, read))


def _relax(schema: dict[str, Any], read: frozenset[str] | None, *, inside: bool = False) -> dict[str, Any]:
    schema = _resolve(schema)
    match schema["type"]:
        case "array":
            return {"type": "array", "items": _relax(schema["items"], read, inside=True)}
        case "object":
            properties = schema.get("properties", {}).items()
            fields = {name: _relax(of, read, inside=True) for name, of in properties if read is None or name in read}
            if "Id" in fields:
                fields["Id"] = {"type": ["string", "integer"], "pattern": r"\S"}
            if "Status" in fields and inside:
                fields["Status"] = {"type": "string"}
            if "Priority" in fields:
                fields["Priority"] = {"type": "integer"}
            required = schema.get("required", [])
            for name in fields.keys() - set(required):
                fields[name] = {"anyOf": [fields[name], {"type": "null"}]}
            return {"type": "object", "required": required, "properties": fields}
    return schema


def _generate(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    schema = _resolve(schema)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object":
            return _generate_object(schema)
        case "array":
            return st.lists(_generate(schema["items"]), max_size=3)
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "string" if schema.get("format") == "date-time":
            return DATES
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True)
    return st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 40))


def _generate_object(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = schema.get("properties", {})
    fields_of = {name: IDS if name == "Id" else _generate(of) for name, of in fields.items()}
    required = {name: fields_of.pop(name) for name in schema.get("required", ())}
    # Unknown fields are allowed, too.
    others = st.dictionaries(st.text(max_size=8).filter(lambda name: name not in fields), JSON, max_size=2)
    return st.builds(lambda more, known: {**more, **known}, others, st.fixed_dictionaries(required, optional=fields_of))


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with its references resolved."""
    if "$ref" in schema:
        return _resolve(DESCRIPTION["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "allOf" not in schema:
        return schema
    parts = [_resolve(part) for part in schema["allOf"]]
    return {
        "type": "object",
        "required": [name for part in parts for name in part.get("required", ())],
        "properties": {name: of for part in parts for name, of in part["properties"].items()},
    }


_FORMATS = jsonschema.FormatChecker(formats=[])


@_FORMATS.checks("date-time", raises=ValueError)
def _is_date(value: Any) -> bool:
    shape = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
    return not isinstance(value, str) or bool(re.fullmatch(shape, value) and datetime.fromisoformat(value))
