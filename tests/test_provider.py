"""The provider as Airflow sees it: its card, the connection form, and what parsing a DAG file costs."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from importlib.resources import files
from types import ModuleType

import airflow
import jsonschema
import msgspec
import pytest
from airflow.providers_manager import ProvidersManager
from airflow_process import airflow_command, fresh_interpreter

from airflow_wasabi_jobs import __version__, get_provider_info
from airflow_wasabi_jobs.api.settings import Options
from airflow_wasabi_jobs.hooks import WasabiJobsHook

AIRFLOW = tuple(map(int, airflow.__version__.split(".")[:2]))
(CARD,) = get_provider_info()["connection-types"]
FIELDS = CARD["conn-fields"]
BEHAVIOUR = {
    "hidden_fields": ["schema"],
    "relabeling": {"host": "Base URL", "login": "Access key", "password": "Secret key", "port": "Port"},
    "placeholders": {"host": "https://air.example.com", "port": "443, or the one in the Base URL"},
}


def schema_of(airflows_file):
    return json.loads((files("airflow") / airflows_file).read_text())


class TestCard:
    def test_is_valid(self):
        jsonschema.validate(get_provider_info(), schema_of("provider_info.schema.json"))

    def test_describes_the_form_in_a_way_that_is_valid(self):
        # The schema for a provider's source is the one that knows the form, from Airflow 3.2 on.
        jsonschema.validate([CARD], schema_of("provider.yaml.schema.json")["properties"]["connection-types"])

    def test_names_the_package_and_its_version(self):
        info = get_provider_info()
        assert info["package-name"] == "airflow-wasabi-jobs"
        assert info["versions"] == [__version__] == [version("airflow-wasabi-jobs")]

    def test_is_a_fresh_one_for_each_who_asks(self):
        get_provider_info()["connection-types"].clear()
        assert get_provider_info()["connection-types"] == [CARD]

    def test_names_modules_that_are_there(self):
        info = get_provider_info()
        named = [
            module
            for kind in ("hooks", "operators", "sensors", "triggers")
            for each in info[kind]
            for module in each["python-modules"]
        ]
        assert named == [f"airflow_wasabi_jobs.{name}" for name in ("hooks", "operators", "sensors", "triggers")]
        for module in named:
            __import__(module)

    def test_agrees_with_the_hook(self):
        assert CARD["connection-type"] == WasabiJobsHook.conn_type
        assert CARD["hook-name"] == WasabiJobsHook.hook_name
        assert CARD["hook-class-name"] == f"{WasabiJobsHook.__module__}.{WasabiJobsHook.__qualname__}"

    def test_offers_exactly_the_options(self):
        assert tuple(FIELDS) == Options.__struct_fields__

    @pytest.mark.parametrize("name", FIELDS)
    def test_has_the_bounds_of_the_option(self, name):
        (definition,) = msgspec.json.schema(Options)["$defs"].values()
        option, field = definition["properties"][name], FIELDS[name]["schema"]
        bounds = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        assert {bound: field.get(bound) for bound in bounds} == {bound: option.get(bound) for bound in bounds}
        if name == "verify":  # a boolean or a path: a form has fields for text only
            assert field["type"] == ["string", "null"]
        else:
            kinds = {kind.get("type") for kind in option.get("anyOf", [option])} | {"null"}
            assert set(field["type"]) == kinds

    @pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "retries"])
    def test_tells_the_default_of_the_option(self, name):
        assert FIELDS[name]["description"].endswith(f"Default {getattr(Options(), name):g}.")

    def test_keeps_the_proxy_secret(self):
        secret = [name for name, field in FIELDS.items() if field["schema"].get("format") == "password"]
        assert secret == ["proxy"]


class TestInAirflow:
    def test_the_provider_is_listed(self):
        listed = airflow_command("providers", "list", "--output", "json")
        (own,) = [each for each in listed if each["package_name"] == "airflow-wasabi-jobs"]
        assert own["version"] == __version__
        assert own["description"].startswith("Submit and wait for Wasabi AiR")

    def test_the_hook_is_known(self):
        # What `airflow providers hooks` prints.
        hook = ProvidersManager().hooks["wasabi"]
        assert hook.hook_class_name == CARD["hook-class-name"]
        assert hook.connection_id_attribute_name == "wasabi_conn_id"
        assert hook.package_name == "airflow-wasabi-jobs"
        assert hook.hook_name == "Wasabi AiR"
        assert hook.connection_testable

    @pytest.mark.skipif(
        AIRFLOW < (3, 1), reason="Airflow 3.0 shows extras as JSON unless FAB is installed; 2.11 has FAB"
    )
    def test_the_form_of_airflow_3(self):
        shown = fresh_interpreter(
            "from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService\n"
            "(own,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == 'wasabi']\n"
            "print(own.model_dump_json())"
        )
        assert shown["hook_name"] == "Wasabi AiR"
        assert {
            name: (field["hidden"], field["title"], field["placeholder"])
            for name, field in shown["standard_fields"].items()
            if field
        } == {
            "url_schema": (True, None, None),
            "port": (False, "Port", "443, or the one in the Base URL"),
            "host": (False, "Base URL", "https://air.example.com"),
            "login": (False, "Access key", None),
            "password": (False, "Secret key", None),
        }
        assert {
            name: (field["schema"]["title"], field["description"], field["schema"].get("format"), field["value"])
            for name, field in shown["extra_fields"].items()
        } == {
            name: (
                field["label"],
                field["description"],
                field["schema"].get("format"),
                field["schema"].get("default"),
            )
            for name, field in FIELDS.items()
        }

    @pytest.mark.skipif(AIRFLOW >= (3, 0), reason="Airflow 2 has the form of FAB")
    def test_the_form_of_airflow_2(self):
        manager = ProvidersManager()
        assert manager.field_behaviours["wasabi"] == BEHAVIOUR
        shown = {
            widget.field_name: (
                str(widget.field.kwargs["label"]),
                widget.field.kwargs["description"],
                widget.is_sensitive,
            )
            for widget in manager.connection_form_widgets.values()
            if widget.package_name == "airflow-wasabi-jobs"
        }
        assert shown == {
            name: (field["label"], field["description"], name == "proxy") for name, field in FIELDS.items()
        }


class TestTheFormOfTheHook:
    """What Airflow before 3.2 asks the hook for."""

    def test_behaviour(self):
        behaviour = WasabiJobsHook.get_ui_field_behaviour()
        assert behaviour == BEHAVIOUR
        jsonschema.validate(behaviour, schema_of("customized_form_field_behaviours.schema.json"))

    def test_behaviour_says_what_the_card_says(self):
        said = {name.replace("_", "-"): value for name, value in WasabiJobsHook.get_ui_field_behaviour().items()}
        assert said == CARD["ui-field-behaviour"]

    def test_fields_with_fab(self):
        wtforms = pytest.importorskip("wtforms", reason="comes with FAB")
        widgets = pytest.importorskip("flask_appbuilder.fieldwidgets", reason="FAB comes with Airflow 2")
        fields = WasabiJobsHook.get_connection_form_widgets()
        assert {name: field.field_class for name, field in fields.items()} == {
            "connect_timeout": wtforms.StringField,
            "read_timeout": wtforms.StringField,
            "retries": wtforms.IntegerField,
            "verify": wtforms.StringField,
            "allow_http": wtforms.BooleanField,
            "proxy": wtforms.PasswordField,
        }
        assert isinstance(fields["proxy"].kwargs["widget"], widgets.BS3PasswordFieldWidget)

    def test_a_form_with_fab_that_nobody_filled_in(self):
        wtforms = pytest.importorskip("wtforms", reason="comes with FAB")
        pytest.importorskip("flask_appbuilder", reason="FAB comes with Airflow 2")
        from werkzeug.datastructures import MultiDict

        form = type("Form", (wtforms.Form,), WasabiJobsHook.get_connection_form_widgets())
        empty = form(MultiDict(dict.fromkeys(set(FIELDS) - {"allow_http"}, "")))
        assert empty.validate(), empty.errors
        assert empty.data == {
            "connect_timeout": "",
            "read_timeout": "",
            "retries": None,
            "verify": "",
            "allow_http": False,
            "proxy": "",
        }

    def test_fields_without_fab(self, monkeypatch):
        connections = pytest.importorskip(
            "airflow.api_fastapi.core_api.services.ui.connections", reason="Airflow 3 stands in for FAB"
        )
        fake = connections.HookMetaService
        stand_ins = {
            "flask_appbuilder": {},
            "flask_appbuilder.fieldwidgets": {
                "BS3PasswordFieldWidget": fake.MockAnyWidget,
                "BS3TextFieldWidget": fake.MockAnyWidget,
            },
            "flask_babel": {"lazy_gettext": str},
            "wtforms": {
                "BooleanField": fake.MockBooleanField,
                "IntegerField": fake.MockIntegerField,
                "PasswordField": fake.MockPasswordField,
                "StringField": fake.MockStringField,
            },
            "wtforms.validators": {"Optional": fake.MockOptional},
        }
        for name, content in stand_ins.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        shown = {name: field.param.dump() for name, field in WasabiJobsHook.get_connection_form_widgets().items()}
        types = {name: field["schema"]["type"] for name, field in FIELDS.items()}
        # There is no field for a number with a fraction.
        types["connect_timeout"] = types["read_timeout"] = ["string", "null"]
        assert {name: field["schema"]["type"] for name, field in shown.items()} == types
        for name, field in shown.items():
            assert field["schema"]["title"] == FIELDS[name]["label"]
            assert field["description"] == FIELDS[name]["description"]
            assert field["value"] == FIELDS[name]["schema"].get("default")
            assert field["schema"].get("format") == FIELDS[name]["schema"].get("format")


def test_a_dag_file_that_imports_all_pays_for_nothing_more():
    """The scheduler parses every file again and again; what carries the calls is imported when a task runs."""
    dear = fresh_interpreter(
        "import json, sys\n"
        "from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator\n"
        "import airflow.triggers.base\n"
        "paid = set(sys.modules)\n"
        "import airflow_wasabi_jobs.operators, airflow_wasabi_jobs.sensors\n"
        "print(json.dumps(sorted(set(sys.modules) - paid)))"
    )
    assert {"airflow_wasabi_jobs.operators", "airflow_wasabi_jobs.sensors"} <= set(dear)
    assert {name.partition(".")[0] for name in dear} & {"requests", "aiohttp", "msgspec", "tenacity"} == set()
    assert not {"airflow_wasabi_jobs.hooks", "airflow_wasabi_jobs.api.client"} & set(dear)
