"""The connection form of Airflow before 3.2, which is built in Python, and what that form saves."""

from __future__ import annotations

import json
from typing import Any

from airflow_wasabi_jobs.get_provider_info import get_provider_info


def get_field_behaviour() -> dict[str, Any]:
    """Return which fields the connection form hides and renames."""
    behaviour = _connection_type()["ui-field-behaviour"]
    return {
        "hidden_fields": behaviour["hidden-fields"],
        "relabeling": behaviour["relabeling"],
        "placeholders": behaviour["placeholders"],
    }


def create_widgets() -> dict[str, Any]:
    """Return the form fields of the extra."""
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from flask_babel import lazy_gettext
    from wtforms import BooleanField, IntegerField, PasswordField, StringField
    from wtforms.validators import Optional

    def create_field(label: str, description: str, schema: dict[str, Any]) -> Any:
        texts = {"label": lazy_gettext(label), "description": description}
        match schema["type"][0], schema.get("format"):
            case "boolean", _:
                return BooleanField(**texts, default=schema["default"])
            case "integer", _:
                return IntegerField(**texts, validators=[Optional()], widget=BS3TextFieldWidget())
            case _, "password":
                return PasswordField(**texts, widget=BS3PasswordFieldWidget())
            case _:
                # Numbers, too: there is no field for a number with a fraction, and a string is accepted.
                return StringField(**texts, widget=BS3TextFieldWidget())

    return {name: create_field(**field) for name, field in _connection_type()["conn-fields"].items()}


def normalize_extra(extra: str | None) -> str | None:
    """
    Return the extra as Airflow saves it.

    The Test button of Airflow 2 sends the form before it is saved: each field of the extra is there a second time with
    a prefix, and a ticked box is a "y". Old tools save only the prefixed names.
    """
    prefix = f"extra__{_connection_type()['connection-type']}__"
    if not extra or f'"{prefix}' not in extra:
        return extra
    try:
        given = json.loads(extra)
        saved = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        saved |= {name: value for name, value in given.items() if not name.startswith(prefix)}
    except (ValueError, AttributeError, RecursionError):
        return extra
    for name, field in _connection_type()["conn-fields"].items():
        if "boolean" in field["schema"]["type"] and saved.get(name) == "y":
            saved[name] = True
    return json.dumps(saved)


def _connection_type() -> dict[str, Any]:
    (connection_type,) = get_provider_info()["connection-types"]
    return dict(connection_type)
