"""Validation of a submission's fields, before and after templates are rendered."""

from __future__ import annotations

import json
import traceback
from collections import OrderedDict
from types import MappingProxyType

import pytest
from airflow_process import fresh_interpreter

from airflow_wasabi_jobs.api.submissions import is_literal, replace_templates, validate_field

SECRET = "source/secret+key=0123456789"
SOURCE = {"bucket": "media", "object_key": "a.mp4"}
DESTINATION = {"bucket": "results", "region": "us-east-1"}


class LazyXcom:
    """Stands for the XCom of another task before the task runs."""

    def __getitem__(self, key):
        return self

    def __bool__(self):
        raise AssertionError("the value is not known yet")

    def __str__(self):
        return "{{ task_instance.xcom_pull('another') }}"

    def __repr__(self):
        return "LazyXcom()"


def recursive():
    config = {}
    config["again"] = config
    return {"config": config}


def nested(depth):
    config = {}
    for _ in range(depth):
        config = {"more": config}
    return {"config": config}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a"),
        ("name", 256 * "ü"),
        ("name", " with white space around "),
        ("name", "none"),
        ("name", "日本"),
        ("batch", None),
        ("batch", "a"),
        ("batch", 256 * "ü"),
        ("priority", 1),
        ("services", {"speech": "", "OCR": {"config": {}}, "brand-new_1": ""}),
        ("priority", 10),
        ("source", SOURCE),
        ("source", {**SOURCE, "region": "eu-1"}),
        ("source", {**SOURCE, "region": "eu-1", "endpoint": "https://s3.example.com"}),
        ("destination", DESTINATION),
        ("services", {"ocr": ""}),
        ("services", {"ocr": {"config": {}}}),
        ("services", {"ocr": "", "s2t": "", "nld": "", "audiotag": "", "face": "", "logo": ""}),
        ("services", {"logo": {"config": {"rec_confidence_threshold": 0.85, "labels": ["a", None, True]}}, "s2t": ""}),
        ("services", OrderedDict(ocr="")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_valid_field(field, value):
    assert validate_field(field, value) == value


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("source", {**SOURCE, "region": None, "endpoint": None}, SOURCE),
        ("source", MappingProxyType(SOURCE), SOURCE),
        # Native rendering of a template such as "{{ ds_nodash }}".
        ("name", 20260101, "20260101"),
        ("batch", 0, "0"),
        ("source", {"bucket": 2024, "object_key": -5}, {"bucket": "2024", "object_key": "-5"}),
        ("destination", {"bucket": 2024, "region": 1}, {"bucket": "2024", "region": "1"}),
        ("priority", "5", 5),
        ("priority", " 10\n", 10),
        ("services", ["ocr"], {"ocr": ""}),
        ("services", ("s2t", "ocr", "s2t"), {"s2t": "", "ocr": ""}),
        ("services", {"ocr", "face"}, {"ocr": "", "face": ""}),
        ("services", frozenset({"ocr"}), {"ocr": ""}),
        ("services", MappingProxyType({"ocr": ""}), {"ocr": ""}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equivalent_values(field, value, expected):
    sent = validate_field(field, value)
    assert sent == expected
    assert type(sent) is type(expected)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        # name
        ("name", None, "LABEL is None, but must be a non-empty string"),
        ("name", "", "LABEL is '', but must be a non-empty string"),
        ("name", " \n", r"LABEL is ' \n', but must be a non-empty string"),
        ("name", "None", "LABEL is 'None', but must be a non-empty string"),
        ("name", " None ", "LABEL is ' None ', but must be a non-empty string"),
        ("name", ["a job"], "LABEL is ['a job'], but must be a non-empty string"),
        ("name", 257 * "a", "LABEL has 257 characters, but at most 256 are allowed"),
        # batch
        ("batch", "", "LABEL is '', but must be a non-empty string"),
        ("batch", "\t", r"LABEL is '\t', but must be a non-empty string"),
        ("batch", "None", "LABEL is 'None', but must be a non-empty string"),
        ("batch", False, "LABEL is False, but must be a non-empty string"),
        ("batch", 257 * "a", "LABEL has 257 characters, but at most 256 are allowed"),
        # priority
        *(
            ("priority", value, f"LABEL is {value!r}, but must be an integer from 1 to 10")
            for value in (None, 0, 11, -1, True, False, 1.5, 5.0, "5.0", "11", "", "None", [5])
        ),
        # source and destination
        *(
            (field, value, f"LABEL is {kind}, but must be a dict with bucket, {other}")
            for field, other in (("source", "object_key, region, endpoint"), ("destination", "region"))
            for value, kind in (
                (None, "None"),
                ("", "a str"),
                ("s3://media/a.mp4", "a str"),
                ([], "a list"),
                (("bucket", "media"), "a tuple"),
                (5, "a int"),
            )
        ),
        ("source", {}, "LABEL has no bucket, but a job needs it"),
        ("source", {"object_key": "a.mp4"}, "LABEL has no bucket, but a job needs it"),
        ("source", {"bucket": "media"}, "LABEL has no object_key, but a job needs it"),
        ("source", {**SOURCE, "object_key": None}, "LABEL has no object_key, but a job needs it"),
        ("destination", {"region": "us-east-1"}, "LABEL has no bucket, but a job needs it"),
        ("destination", {"bucket": "results"}, "LABEL has no region, but a job needs it"),
        ("destination", {**DESTINATION, "region": None}, "LABEL has no region, but a job needs it"),
        *(
            (field, {**base, name: value}, f"{name} in LABEL is {value!r}, but must be a non-empty string")
            for field, base, field_names in (
                ("source", SOURCE, ("bucket", "object_key", "region", "endpoint")),
                ("destination", DESTINATION, ("bucket", "region")),
            )
            for name in field_names
            for value in ("", " ", "None", 1.5, True, ["a"], {})
        ),
        *(
            (field, {**base, name: "x"}, f"Unknown key {name!r} in LABEL. Allowed: {', '.join(known)}.")
            for field, base, known, unknown in (
                (
                    "source",
                    SOURCE,
                    ("bucket", "object_key", "region", "endpoint"),
                    ("Bucket", "ObjectKey", "key", "provider", ""),
                ),
                ("destination", DESTINATION, ("bucket", "region"), ("Region", "object_key", "endpoint", "path")),
            )
            for name in unknown
        ),
        ("source", {**SOURCE, "b": "x", "a": "x", 1: "x"}, "Unknown keys '1', 'a', 'b' in LABEL. Allowed: "),
        # services
        *(
            ("services", value, "LABEL must be a list of services, or a dict of services")
            for value in (None, "ocr", "", 5, True, b"ocr", [None], ["ocr", 5], [["ocr"]], [{"ocr": ""}])
        ),
        *(
            ("services", value, "LABEL is empty. Name one or more services, such as audiotag, face, ")
            for value in ([], (), set(), {})
        ),
        *(
            ("services", value, f"LABEL has the service {name!r}, but must have names of services")
            for name in (" ocr", "ocr ", "", " ", "None", "{{ params.service }}")
            for value in ([name], ["ocr", name], {name: ""}, {"ocr": "", name: {"config": {}}})
        ),
        ("services", {5: ""}, "LABEL has the service 5, but must have names of services"),
        ("services", {None: ""}, "LABEL has the service None, but must have names of services"),
        *(
            ("services", {"ocr": "", "face": value}, f"LABEL has {value!r} for face, but allowed are ")
            for value in (
                None,
                True,
                0,
                " ",
                "fast",
                "{}",
                [],
                {},
                {"config": None},
                {"config": ""},
                {"config": [1]},
                {"Config": {}},
                {"config": {}, "more": 1},
                {"threshold": 0.5},
            )
        ),
        *(
            ("services", {"face": {"config": {"a": value}}}, "LABEL has settings for face that are not JSON")
            for value in (float("nan"), float("inf"), b"bytes", {1, 2}, object(), 1j, {(1, 2): 3}, MappingProxyType({}))
        ),
        ("services", {"face": recursive()}, "LABEL has settings for face that are not JSON"),
        ("services", {"face": nested(100_000)}, "LABEL has settings for face that are not JSON"),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, dict) else ", ".join(map(str, value)),
)
@pytest.mark.parametrize("owner", ["", " of task 'submit'"])
def test_invalid_field(field, value, expected, owner):
    with pytest.raises(ValueError) as caught:
        validate_field(field, value, owner=owner)

    message = str(caught.value)
    assert message.startswith(expected.replace("LABEL", f"{field}{owner}"))
    assert message.endswith((".", "…"))
    assert "source_conn_id" not in message


@pytest.mark.parametrize("name", ["secret_key", "SecretKey", "access_key", "accessKey", "aws_secret_access_key"])
@pytest.mark.parametrize(("field", "base"), [("source", SOURCE), ("source", {}), ("destination", DESTINATION)])
def test_keys_are_rejected_and_not_shown(field, base, name):
    with pytest.raises(ValueError) as caught:
        validate_field(field, {**base, name: SECRET})

    assert f"Unknown key {name!r} in {field}. Allowed: bucket, " in str(caught.value)
    assert "Put the keys of a source outside Wasabi in a connection: see source_conn_id." in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", [1.1, True, (1, 2), [1], {"a": 1}, {1}, b"a", 1j])
@pytest.mark.parametrize("field", ["name", "batch", "bucket", "object_key", "region", "endpoint"])
def test_value_of_native_rendering_that_is_not_its_text_is_explained(field, value):
    with pytest.raises(ValueError, match=r"but must be a non-empty string.*the cause is render_template_as_native_obj"):
        if field in {"name", "batch"}:
            validate_field(field, value)
        else:
            validate_field("source", {**SOURCE, field: value})


@pytest.mark.parametrize("value", ["", " ", "None"])
def test_empty_string_is_not_explained_by_native_rendering(value):
    with pytest.raises(ValueError) as caught:
        validate_field("batch", value)
    assert "native" not in str(caught.value)


def test_long_name_is_truncated_in_the_message():
    with pytest.raises(ValueError) as caught:
        validate_field("name", "the beginning" + 300 * "x")

    assert "'the beginning" in str(caught.value)
    assert len(str(caught.value)) < 200


# Partial validation before templates are rendered

TEMPLATE = "{{ params.bucket }}"
STATEMENT = "{% if params.bucket %}a{% endif %}"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "a { b } {c}",
        "100 %} of }}",
        0,
        5,
        1.5,
        True,
        [],
        ["ocr", "s2t"],
        ("ocr",),
        {"ocr"},
        frozenset({"ocr"}),
        {},
        SOURCE,
        {"logo": {"config": {"labels": ["a", {"b": None}]}}},
    ],
    ids=str,
)
def test_literal_is_literal(value):
    assert is_literal(value)
    assert replace_templates(value) is value


@pytest.mark.parametrize("unknown", [TEMPLATE, STATEMENT, f"a-{TEMPLATE}-b", LazyXcom()], ids=repr)
@pytest.mark.parametrize(
    "within",
    [
        lambda value: value,
        lambda value: [value],
        lambda value: ["ocr", value],
        lambda value: ("ocr", value),
        lambda value: {"ocr", value},
        lambda value: [["ocr"], [value]],
        lambda value: [{"ocr": value}],
    ],
    ids=["value", "list", "list with a literal", "tuple", "set", "nested lists", "dict in a list"],
)
def test_template_is_not_literal(within, unknown):
    assert not is_literal(within(unknown))
    assert replace_templates(within(unknown)) is None


@pytest.mark.parametrize("unknown", [TEMPLATE, STATEMENT, LazyXcom(), [TEMPLATE], {"a": {"b": [LazyXcom()]}}], ids=repr)
@pytest.mark.parametrize(
    ("field", "base", "name"),
    [
        ("source", SOURCE, "bucket"),
        ("source", SOURCE, "object_key"),
        ("source", SOURCE, "region"),
        ("destination", DESTINATION, "region"),
    ],
)
def test_literal_fields_of_a_dict_are_literal(field, base, name, unknown):
    argument = {**base, name: unknown}
    known = replace_templates(argument)

    assert not is_literal(argument)
    assert {key: value for key, value in known.items() if key != name} == {
        key: value for key, value in base.items() if key != name
    }
    assert validate_field(field, known) == known
    assert argument[name] is unknown


@pytest.mark.parametrize(
    ("field", "argument", "message"),
    [
        ("source", {"bucket": TEMPLATE}, "has no object_key"),
        ("source", {"bucket": TEMPLATE, "object_key": ""}, "object_key in source is ''"),
        (
            "source",
            {"bucket": LazyXcom(), "object_key": LazyXcom(), "secret_key": LazyXcom()},
            "Unknown key 'secret_key' in source",
        ),
        ("destination", {"bucket": LazyXcom(), "region": None}, "has no region"),
    ],
)
def test_invalid_literal_field_is_found(field, argument, message):
    with pytest.raises(ValueError, match=message):
        validate_field(field, replace_templates(argument))


def test_dict_keys_are_not_templates():
    argument = {TEMPLATE: "", "ocr": ""}
    assert is_literal(argument)
    with pytest.raises(ValueError, match="has the service"):
        validate_field("services", replace_templates(argument))


def test_xcom_of_airflow_is_not_literal():
    from airflow.providers.common.compat.sdk import DAG, BaseOperator, XComArg

    with DAG("any", schedule=None):
        output = XComArg(BaseOperator(task_id="another"))
        for value in (output, output["bucket"], output.map(str), output.zip(output)):
            assert not is_literal(value)
            assert replace_templates(value) is None
            assert replace_templates({**SOURCE, "bucket": value}) == {**SOURCE, "bucket": "placeholder"}


# Parsing of DAG files


def test_validation_imports_no_slow_modules():
    slow_imports = ("msgspec", "requests", "aiohttp", "yarl", "tenacity", "urllib3", "airflow")
    loaded = fresh_interpreter(
        "import json, sys\n"
        "import airflow_wasabi_jobs.api.submissions as it\n"
        "it.validate_field('services', {'logo': {'config': {'a': 1}}})\n"
        f"print(json.dumps([name for name in {slow_imports} if name in sys.modules]))"
    )
    assert loaded == []


def test_unknown_field_is_a_key_error():
    with pytest.raises(KeyError):
        validate_field("priorities", 5)


def test_traceback_does_not_show_the_internal_error():
    with pytest.raises(ValueError) as caught:
        validate_field("services", {"face": {"config": {"a": json}}})

    assert "TypeError" not in "".join(traceback.format_exception(caught.value))
