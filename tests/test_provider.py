"""The provider in Airflow: its metadata, the connection form, and the imports of a DAG file."""

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
from airflow.configuration import conf
from airflow.providers_manager import ProvidersManager
from airflow_process import airflow_command, fresh_interpreter

from airflow_wasabi_jobs import __version__
from airflow_wasabi_jobs.api.settings import Options
from airflow_wasabi_jobs.get_provider_info import get_provider_info
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator, WasabiSubmitJobOperator
from airflow_wasabi_jobs.sensors import WasabiJobSensor

AIRFLOW = tuple(map(int, airflow.__version__.split(".")[:2]))
(CONNECTION_TYPE,) = get_provider_info()["connection-types"]
FIELDS = CONNECTION_TYPE["conn-fields"]
BEHAVIOUR = {
    "hidden_fields": ["schema"],
    "relabeling": {"host": "Base URL", "login": "Access key", "password": "Secret key", "port": "Port"},
    "placeholders": {"host": "https://air.example.com", "port": "443 (required for Test on Airflow 3.3.1 and 3.3.2)"},
}


def schema_of(airflow_file):
    return json.loads((files("airflow") / airflow_file).read_text())


class TestProviderInfo:
    def test_matches_the_schema(self):
        jsonschema.validate(get_provider_info(), schema_of("provider_info.schema.json"))

    def test_connection_form_matches_the_schema(self):
        # From Airflow 3.2 on, the schema of provider.yaml describes the form.
        jsonschema.validate([CONNECTION_TYPE], schema_of("provider.yaml.schema.json")["properties"]["connection-types"])

    def test_package_name_and_version(self):
        info = get_provider_info()
        assert info["package-name"] == "airflow-wasabi-jobs"
        assert info["versions"] == [__version__] == [version("airflow-wasabi-jobs")]

    def test_each_call_returns_a_new_dict(self):
        get_provider_info()["connection-types"].clear()
        assert get_provider_info()["connection-types"] == [CONNECTION_TYPE]

    def test_airflow_knows_the_options(self):
        ProvidersManager().initialize_providers_configuration()
        assert conf.get("wasabi", "job_name_prefix") == ""  # without a fallback

    def test_listed_modules_exist(self):
        info = get_provider_info()
        modules = [
            module
            for component in ("hooks", "operators", "sensors", "triggers")
            for entry in info[component]
            for module in entry["python-modules"]
        ]
        assert modules == [f"airflow_wasabi_jobs.{name}" for name in ("hooks", "operators", "sensors", "triggers")]
        for module in modules:
            __import__(module)

    def test_links_of_the_tasks_are_listed(self):
        # Airflow 2 shows no link of a class that is not listed.
        links = {
            f"{type(link).__module__}.{type(link).__qualname__}"
            for task in (WasabiSubmitJobOperator, WasabiSubmitBatchOperator, WasabiJobSensor)
            for link in task.operator_extra_links
        }
        assert links == set(get_provider_info()["extra-links"])

    def test_connection_type_matches_the_hook(self):
        assert CONNECTION_TYPE["connection-type"] == WasabiJobsHook.conn_type
        assert CONNECTION_TYPE["hook-name"] == WasabiJobsHook.hook_name
        assert CONNECTION_TYPE["hook-class-name"] == f"{WasabiJobsHook.__module__}.{WasabiJobsHook.__qualname__}"

    def test_form_fields_are_the_options(self):
        assert tuple(FIELDS) == Options.__struct_fields__

    @pytest.mark.parametrize("name", FIELDS)
    def test_form_field_has_the_bounds_of_the_option(self, name):
        (definition,) = msgspec.json.schema(Options)["$defs"].values()
        option, field = definition["properties"][name], FIELDS[name]["schema"]
        bounds = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        assert {bound: field.get(bound) for bound in bounds} == {bound: option.get(bound) for bound in bounds}
        if name == "verify":  # a boolean or a path: a form has fields for text only
            assert field["type"] == ["string", "null"]
        else:
            types = {schema.get("type") for schema in option.get("anyOf", [option])} | {"null"}
            assert set(field["type"]) == types

    @pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "retries"])
    def test_description_names_the_default(self, name):
        assert FIELDS[name]["description"].endswith(f"Default: {getattr(Options(), name):g}.")

    def test_proxy_is_a_password_field(self):
        password_fields = [name for name, field in FIELDS.items() if field["schema"].get("format") == "password"]
        assert password_fields == ["proxy"]


class TestInAirflow:
    def test_provider_is_listed(self):
        providers = airflow_command("providers", "list", "--output", "json")
        (provider,) = [entry for entry in providers if entry["package_name"] == "airflow-wasabi-jobs"]
        assert provider["version"] == __version__
        assert provider["description"] == "Submit media files to Wasabi AiR for AI analysis, and wait for the results"

    def test_links_are_registered(self):
        # The same data as `airflow providers links`.
        links = ProvidersManager().extra_links_class_names
        assert [link for link in links if "wasabi" in link] == get_provider_info()["extra-links"]

    def test_hook_is_registered(self):
        # The same data as `airflow providers hooks`.
        hook = ProvidersManager().hooks["wasabi"]
        assert hook.hook_class_name == CONNECTION_TYPE["hook-class-name"]
        assert hook.connection_id_attribute_name == "wasabi_conn_id"
        assert hook.package_name == "airflow-wasabi-jobs"
        assert hook.hook_name == "Wasabi AiR"
        assert hook.connection_testable

    @pytest.mark.skipif(
        AIRFLOW < (3, 1), reason="Airflow 3.0 shows extras as JSON unless FAB is installed; 2.11 has FAB"
    )
    def test_connection_form_of_airflow_3(self):
        form = fresh_interpreter(
            "from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService\n"
            "(own,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == 'wasabi']\n"
            "print(own.model_dump_json())"
        )
        assert form["hook_name"] == "Wasabi AiR"
        assert {
            name: (field["hidden"], field["title"], field["placeholder"])
            for name, field in form["standard_fields"].items()
            if field
        } == {
            "url_schema": (True, None, None),
            "port": (False, "Port", "443 (required for Test on Airflow 3.3.1 and 3.3.2)"),
            "host": (False, "Base URL", "https://air.example.com"),
            "login": (False, "Access key", None),
            "password": (False, "Secret key", None),
        }
        assert {
            name: (field["schema"]["title"], field["description"], field["schema"].get("format"), field["value"])
            for name, field in form["extra_fields"].items()
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
    def test_connection_form_of_airflow_2(self):
        manager = ProvidersManager()
        assert manager.field_behaviours["wasabi"] == BEHAVIOUR
        form = {
            widget.field_name: (
                str(widget.field.kwargs["label"]),
                widget.field.kwargs["description"],
                widget.is_sensitive,
            )
            for widget in manager.connection_form_widgets.values()
            if widget.package_name == "airflow-wasabi-jobs"
        }
        assert form == {name: (field["label"], field["description"], name == "proxy") for name, field in FIELDS.items()}


class TestFormMethodsOfTheHook:
    """The methods with which Airflow before 3.2 builds the connection form."""

    def test_behaviour(self):
        behaviour = WasabiJobsHook.get_ui_field_behaviour()
        assert behaviour == BEHAVIOUR
        jsonschema.validate(behaviour, schema_of("customized_form_field_behaviours.schema.json"))

    def test_behaviour_matches_the_provider_info(self):
        behaviour = {name.replace("_", "-"): value for name, value in WasabiJobsHook.get_ui_field_behaviour().items()}
        assert behaviour == CONNECTION_TYPE["ui-field-behaviour"]

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
            "console_url": wtforms.StringField,
        }
        assert isinstance(fields["proxy"].kwargs["widget"], widgets.BS3PasswordFieldWidget)

    def test_empty_form_with_fab_is_valid(self):
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
            "console_url": "",
        }

    def test_fields_without_fab(self, monkeypatch):
        connections = pytest.importorskip(
            "airflow.api_fastapi.core_api.services.ui.connections", reason="Airflow 3 replaces FAB"
        )
        hook_meta_service = connections.HookMetaService
        fake_modules = {
            "flask_appbuilder": {},
            "flask_appbuilder.fieldwidgets": {
                "BS3PasswordFieldWidget": hook_meta_service.MockAnyWidget,
                "BS3TextFieldWidget": hook_meta_service.MockAnyWidget,
            },
            "flask_babel": {"lazy_gettext": str},
            "wtforms": {
                "BooleanField": hook_meta_service.MockBooleanField,
                "IntegerField": hook_meta_service.MockIntegerField,
                "PasswordField": hook_meta_service.MockPasswordField,
                "StringField": hook_meta_service.MockStringField,
            },
            "wtforms.validators": {"Optional": hook_meta_service.MockOptional},
        }
        for name, content in fake_modules.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        form = {name: field.param.dump() for name, field in WasabiJobsHook.get_connection_form_widgets().items()}
        types = {name: field["schema"]["type"] for name, field in FIELDS.items()}
        # There is no form field for a float.
        types["connect_timeout"] = types["read_timeout"] = ["string", "null"]
        assert {name: field["schema"]["type"] for name, field in form.items()} == types
        for name, field in form.items():
            assert field["schema"]["title"] == FIELDS[name]["label"]
            assert field["description"] == FIELDS[name]["description"]
            assert field["value"] == FIELDS[name]["schema"].get("default")
            assert field["schema"].get("format") == FIELDS[name]["schema"].get("format")


def test_dag_file_does_not_import_the_http_libraries():
    """The scheduler parses every DAG file repeatedly; the HTTP libraries are imported when a task runs."""
    new_modules = fresh_interpreter(
        "import json, sys\n"
        "from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator\n"
        "import airflow.triggers.base\n"
        "before = set(sys.modules)\n"
        "import airflow_wasabi_jobs.operators, airflow_wasabi_jobs.sensors\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert {"airflow_wasabi_jobs.operators", "airflow_wasabi_jobs.sensors"} <= set(new_modules)
    assert {name.partition(".")[0] for name in new_modules} & {"requests", "aiohttp", "msgspec", "tenacity"} == set()
    assert not {"airflow_wasabi_jobs.hooks", "airflow_wasabi_jobs.api.client"} & set(new_modules)
