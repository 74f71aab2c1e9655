"""What can be submitted, what can't and how that is said, and how much of it is known before templates are rendered."""

from __future__ import annotations

import json
import traceback
from collections import OrderedDict
from types import MappingProxyType

import pytest
from airflow_process import fresh_interpreter

from airflow_wasabi_jobs.api.submissions import as_far_as_known, checked, is_known

SECRET = "source/secret+key=0123456789"
SOURCE = {"bucket": "media", "object_key": "a.mp4"}
DESTINATION = {"bucket": "results", "region": "us-east-1"}


class Xcom:
    """What stands where the XCom of another task will be: of no kind that a field is of."""

    def __getitem__(self, key):
        return self

    def __bool__(self):
        raise AssertionError("nothing is known of it yet")

    def __str__(self):
        return "{{ task_instance.xcom_pull('another') }}"

    def __repr__(self):
        return "Xcom()"


def without_end():
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
        ("priority", None),
        ("priority", 1),
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
def test_what_can_be_submitted(field, value):
    assert checked(field, value) == value


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("source", {**SOURCE, "region": None, "endpoint": None}, SOURCE),
        ("source", MappingProxyType(SOURCE), SOURCE),
        ("services", ["ocr"], {"ocr": ""}),
        ("services", ("s2t", "ocr", "s2t"), {"s2t": "", "ocr": ""}),
        ("services", {"ocr", "face"}, {"ocr": "", "face": ""}),
        ("services", frozenset({"ocr"}), {"ocr": ""}),
        ("services", MappingProxyType({"ocr": ""}), {"ocr": ""}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_written_in_more_than_one_way(field, value, expected):
    sent = checked(field, value)
    assert sent == expected
    assert type(sent) is dict


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        # name
        ("name", None, "is None: a job needs a name"),
        ("name", "", "is '': a job needs a name"),
        ("name", " \n", r"is ' \n': a job needs a name"),
        ("name", "None", "is 'None': a job needs a name"),
        ("name", " None ", "is ' None ': a job needs a name"),
        ("name", 5, "is 5: a job needs a name"),
        ("name", ["a job"], "is ['a job']: a job needs a name"),
        ("name", 257 * "a", "has 257 characters, and 256 is the most"),
        # batch
        ("batch", "", "is '', and must be a text that is not empty"),
        ("batch", "\t", r"is '\t', and must be a text that is not empty"),
        ("batch", "None", "is 'None', and must be a text that is not empty"),
        ("batch", 5, "is 5, and must be a text that is not empty"),
        ("batch", False, "is False, and must be a text that is not empty"),
        ("batch", 257 * "a", "has 257 characters, and 256 is the most"),
        # priority
        *(
            ("priority", value, f"is {value!r}, and must be a whole number from 1 to 10")
            for value in (0, 11, -1, True, False, 1.5, 5.0, "5", "", "None", [5])
        ),
        # source and destination
        *(
            (field, value, f"is {kind}, and must be a dict with bucket, {other}")
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
        ("source", {}, "has no bucket, which a job needs"),
        ("source", {"object_key": "a.mp4"}, "has no bucket, which a job needs"),
        ("source", {"bucket": "media"}, "has no object_key, which a job needs"),
        ("source", {**SOURCE, "object_key": None}, "has no object_key, which a job needs"),
        ("destination", {"region": "us-east-1"}, "has no bucket, which a job needs"),
        ("destination", {"bucket": "results"}, "has no region, which a job needs"),
        ("destination", {**DESTINATION, "region": None}, "has no region, which a job needs"),
        *(
            (field, {**place, name: value}, f"has the {name} {value!r}, and must have a text there that is not empty")
            for field, place, names in (
                ("source", SOURCE, ("bucket", "object_key", "region", "endpoint")),
                ("destination", DESTINATION, ("bucket", "region")),
            )
            for name in names
            for value in ("", " ", "None", 5, True, ["a"], {})
        ),
        *(
            (field, {**place, name: "x"}, f"has {name}, but can only have {', '.join(known)}.")
            for field, place, known, unknown in (
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
        ("source", {**SOURCE, "b": "x", "a": "x", 1: "x"}, "has 1, a, b, but can only have"),
        # services
        *(
            ("services", value, "must be a list of services, or a dict of them")
            for value in (None, "ocr", "", 5, True, b"ocr", [None], ["ocr", 5], [["ocr"]], [{"ocr": ""}])
        ),
        *(("services", value, "names no service. There are: ocr, s2t, ") for value in ([], (), set(), {})),
        *(
            ("services", value, f"names {name!r}, which is no service. There are: ocr, s2t, nld, audiotag, face, logo")
            for name in ("OCR", "speech", " ocr", "")
            for value in ([name], ["ocr", name], {name: ""}, {"ocr": "", name: {"config": {}}})
        ),
        ("services", {5: ""}, "names 5, which is no service"),
        ("services", {None: ""}, "names None, which is no service"),
        *(
            ("services", {"ocr": "", "face": value}, f"has {value!r} for face, and must have")
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
            ("services", {"face": {"config": {"a": value}}}, "has settings for face that are no JSON")
            for value in (float("nan"), float("inf"), b"bytes", {1, 2}, object(), 1j, {(1, 2): 3}, MappingProxyType({}))
        ),
        ("services", {"face": without_end()}, "has settings for face that are no JSON"),
        ("services", {"face": nested(100_000)}, "has settings for face that are no JSON"),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, dict) else ", ".join(map(str, value)),
)
@pytest.mark.parametrize("of", ["", " of task 'submit'"])
def test_what_can_not_be_submitted(field, value, words, of):
    with pytest.raises(ValueError) as caught:
        checked(field, value, of=of)

    message = str(caught.value)
    assert message.startswith(f"{field}{of} {words}")
    assert message.endswith(".")
    assert "source_conn_id" not in message


@pytest.mark.parametrize("name", ["secret_key", "SecretKey", "access_key", "accessKey", "aws_secret_access_key"])
@pytest.mark.parametrize(("field", "place"), [("source", SOURCE), ("source", {}), ("destination", DESTINATION)])
def test_keys_do_not_belong_here(field, place, name):
    with pytest.raises(ValueError) as caught:
        checked(field, {**place, name: SECRET})

    assert f"{field} has {name}, but can only have bucket, " in str(caught.value)
    assert "belong into a connection, see source_conn_id" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_long_name_is_shown_from_its_beginning():
    with pytest.raises(ValueError) as caught:
        checked("name", "the beginning" + 300 * "x")

    assert "'the beginning" in str(caught.value)
    assert len(str(caught.value)) < 200


# As far as it is known

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
        {},
        SOURCE,
        {"logo": {"config": {"labels": ["a", {"b": None}]}}},
    ],
    ids=str,
)
def test_a_literal_is_known(value):
    assert is_known(value)
    assert as_far_as_known(value) is value


@pytest.mark.parametrize("unknown", [TEMPLATE, STATEMENT, f"a-{TEMPLATE}-b", Xcom()], ids=repr)
@pytest.mark.parametrize(
    "within",
    [
        lambda value: value,
        lambda value: [value],
        lambda value: ["ocr", value],
        lambda value: ("ocr", value),
        lambda value: [["ocr"], [value]],
        lambda value: [{"ocr": value}],
    ],
    ids=["alone", "in a list", "among others", "in a tuple", "in a list of lists", "in a dict in a list"],
)
def test_of_what_is_rendered_later_nothing_is_known(within, unknown):
    assert not is_known(within(unknown))
    assert as_far_as_known(within(unknown)) is None


@pytest.mark.parametrize("unknown", [TEMPLATE, STATEMENT, Xcom(), [TEMPLATE], {"a": {"b": [Xcom()]}}], ids=repr)
@pytest.mark.parametrize(
    ("field", "place", "name"),
    [
        ("source", SOURCE, "bucket"),
        ("source", SOURCE, "object_key"),
        ("source", SOURCE, "region"),
        ("destination", DESTINATION, "region"),
    ],
)
def test_of_a_dict_the_rest_is_known(field, place, name, unknown):
    given = {**place, name: unknown}
    known = as_far_as_known(given)

    assert not is_known(given)
    assert {key: value for key, value in known.items() if key != name} == {
        key: value for key, value in place.items() if key != name
    }
    assert checked(field, known) == known
    assert given[name] is unknown


@pytest.mark.parametrize(
    ("field", "given", "words"),
    [
        ("source", {"bucket": TEMPLATE}, "has no object_key"),
        ("source", {"bucket": TEMPLATE, "object_key": ""}, "has the object_key ''"),
        ("source", {"bucket": Xcom(), "object_key": Xcom(), "secret_key": Xcom()}, "has secret_key"),
        ("destination", {"bucket": Xcom(), "region": None}, "has no region"),
    ],
)
def test_a_mistake_in_the_rest_is_found(field, given, words):
    with pytest.raises(ValueError, match=words):
        checked(field, as_far_as_known(given))


def test_the_name_in_a_dict_is_no_template():
    given = {TEMPLATE: "", "ocr": ""}
    assert is_known(given)
    with pytest.raises(ValueError, match="which is no service"):
        checked("services", as_far_as_known(given))


def test_a_real_xcom_is_not_known():
    from airflow.providers.common.compat.sdk import DAG, BaseOperator, XComArg

    with DAG("any", schedule=None):
        output = XComArg(BaseOperator(task_id="another"))
        for value in (output, output["bucket"], output.map(str), output.zip(output)):
            assert not is_known(value)
            assert as_far_as_known(value) is None
            assert as_far_as_known({**SOURCE, "bucket": value}) == {**SOURCE, "bucket": "later"}


# While DAG files are parsed


def test_what_is_asked_while_dag_files_are_parsed_is_cheap_to_import():
    dear = ("msgspec", "requests", "aiohttp", "yarl", "tenacity", "urllib3", "airflow")
    loaded = fresh_interpreter(
        "import json, sys\n"
        "import airflow_wasabi_jobs.api.submissions as it\n"
        "it.checked('services', {'logo': {'config': {'a': 1}}})\n"
        f"print(json.dumps([name for name in {dear} if name in sys.modules]))"
    )
    assert loaded == []


def test_a_field_that_there_is_not_is_a_mistake_of_the_caller():
    with pytest.raises(KeyError):
        checked("priorities", 5)


def test_an_error_says_what_is_wrong_and_not_how_it_was_found():
    with pytest.raises(ValueError) as caught:
        checked("services", {"face": {"config": {"a": json}}})

    assert "TypeError" not in "".join(traceback.format_exception(caught.value))
