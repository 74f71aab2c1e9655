"""The link from a task to the result of its job. That Airflow shows it, the tests of the examples check."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.providers.common.compat.sdk import TaskInstanceKey, XCom
from connections import SECRET_KEY
from task_runs import submit_task

from airflow_wasabi_jobs.links import WasabiResultLink, build_console_link
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.operators import WasabiSubmitBatchOperator
from airflow_wasabi_jobs.sensors import WasabiJobSensor

CONSOLE_URL = "https://console.example.com/{bucket}/{key}"
LOCATION = "s3://results/jobs/12345/monday_metadata.json"
LINK = "https://console.example.com/results/jobs/12345/monday_metadata.json"
REPORT = {"job_id": "12345", "status": "completed", "error_count": 0}
TI_KEY = TaskInstanceKey("media", "submit", "manual__1", 1, -1)


def test_labels() -> None:
    for task in (submit_task(), WasabiJobSensor(task_id="wait", job_id="12345")):
        assert [link.name for link in task.operator_extra_links] == ["Result"]


@pytest.mark.parametrize(
    ("location", "link"),
    [
        (LOCATION, LINK),
        ("https://s3.us-east-1.wasabisys.com/results/jobs/12345/monday_metadata.json", LINK),
        ("https://s3.wasabisys.com/results/jobs/12345/monday_metadata.json", LINK),
        ("https://results.s3.us-east-1.wasabisys.com/jobs/12345/monday_metadata.json", LINK),
        ("https://s3.us-east-1.wasabisys.com/results/jobs/12345/monday_metadata.json?X-Amz-Signature=0#top", LINK),
        ("http://127.0.0.1:9000/results/jobs/12345/monday_metadata.json", LINK),
        ("wasabi://results/jobs/12345/monday_metadata.json", LINK),
        ("s3://results/a", "https://console.example.com/results/a"),
        # The key of an s3:// location is not encoded, that of a URL is.
        ("s3://results/a b?#&+%41/ü.json", "https://console.example.com/results/a%20b%3F%23%26%2B%2541/%C3%BC.json"),
        (
            "https://s3.example.com/results/a%20b%3F+%2541.json",
            "https://console.example.com/results/a%20b%3F%2B%2541.json",
        ),
        ("s3://a&b{key}/{bucket}", "https://console.example.com/a%26b%7Bkey%7D/%7Bbucket%7D"),
    ],
)
def test_link_to_a_location(location: str, link: str) -> None:
    assert build_console_link(CONSOLE_URL, location) == link


def test_placeholders_anywhere_after_the_host() -> None:
    console_url = "https://console.example.com/#/files?key={key}&bucket={bucket}&parent={bucket}"

    expected = "https://console.example.com/#/files?key=a/b%26c&bucket=results&parent=results"
    assert build_console_link(console_url, "s3://results/a/b&c") == expected


@pytest.mark.parametrize(
    "location", ["", "s3://", "s3://results", "s3://results/", "results/key", "https://s3.example.com/"]
)
def test_location_of_no_object(location: str) -> None:
    with pytest.raises(ValueError, match="is not the location of an object"):
        build_console_link(CONSOLE_URL, location)


@pytest.mark.parametrize(
    ("results_path", "link"),
    [
        ("s3://conn_id@results/library.jsonl", "https://console.example.com/results/library.jsonl"),
        ("file:///tmp/library.jsonl", ""),
        (None, ""),
    ],
)
def test_link_to_a_results_file(
    monkeypatch: Any, set_connection: Any, caplog: Any, results_path: Any, link: str
) -> None:
    set_connection("https://air.example.com", console_url=CONSOLE_URL)
    monkeypatch.setattr(XCom, "get_value", lambda **_: {"batch": "b", "results_path": results_path})
    task = WasabiSubmitBatchOperator(
        task_id="submit", sources=[], destination={"bucket": "results", "region": "eu"}, services=["ocr"]
    )

    (results_link,) = task.operator_extra_links
    assert (results_link.name, results_link.get_link(task, ti_key=TI_KEY)) == ("Results", link)
    assert [record for record in caplog.records if record.name == LOG.name] == []


@pytest.fixture
def link_of(monkeypatch: Any) -> Any:
    """Return the link of a finished task with an XCom. A worker and a webserver read the XCom in different ways."""

    def link_of_task(xcom: Any, **arguments: Any) -> str:
        monkeypatch.setattr(XCom, "get_value", lambda *, ti_key, key: xcom if key == "return_value" else None)
        return WasabiResultLink().get_link(submit_task(**arguments), ti_key=TI_KEY)

    return link_of_task


@pytest.mark.parametrize("state", ["deferred", "failed"])
def test_unfinished_task_is_not_looked_up(monkeypatch: Any, state: str) -> None:
    monkeypatch.setattr(XCom, "get_value", lambda **_: pytest.fail("it has no XCom yet"))

    assert WasabiResultLink().get_link(submit_task(), ti_key=SimpleNamespace(state=state, task_id="submit")) == ""


def test_link_of_a_task(link_of: Any, set_connection: Any) -> None:
    set_connection("https://air.example.com", console_url=CONSOLE_URL)

    assert link_of(REPORT | {"metadata_path": LOCATION}) == LINK


@pytest.mark.parametrize(
    ("xcom", "extra"),
    [
        (None, {"console_url": CONSOLE_URL}),
        ("12345", {"console_url": CONSOLE_URL}),
        (REPORT, {"console_url": CONSOLE_URL}),
        (REPORT | {"metadata_path": LOCATION}, {}),
    ],
    ids=["no XCom", "only the id", "no metadata", "no console"],
)
def test_no_link(link_of: Any, set_connection: Any, caplog: Any, xcom: Any, extra: dict[str, str]) -> None:
    set_connection("https://air.example.com", **extra)

    assert link_of(xcom) == ""
    assert [record for record in caplog.records if record.name == LOG.name] == []


@pytest.mark.parametrize(
    ("location", "console_url", "message"),
    [
        ("results", CONSOLE_URL, "'results' is not the location of an object"),
        (LOCATION, f"https://console.example.com/{SECRET_KEY}", "'console_url' in the extra of connection"),
    ],
)
def test_error_is_logged(
    link_of: Any, set_connection: Any, caplog: Any, location: Any, console_url: str, message: str
) -> None:
    """Otherwise Airflow 3 would log a traceback, and the API of Airflow 2 respond with HTTP 500."""
    set_connection("https://air.example.com", console_url=console_url)

    assert link_of(REPORT | {"metadata_path": location}) == ""
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Task 'submit' has no link to its result: ")
    assert message in record.getMessage()
    assert SECRET_KEY not in caplog.text


def test_missing_connection_is_logged(link_of: Any, caplog: Any) -> None:
    assert link_of(REPORT | {"metadata_path": LOCATION}, wasabi_conn_id="missing") == ""
    assert "Connection 'missing' does not exist" in caplog.text


def test_templated_connection_in_the_webserver_of_airflow_2(
    link_of: Any, set_connection: Any, monkeypatch: Any
) -> None:
    rendered_fields: dict[str, str] | None = {"wasabi_conn_id": "wasabi_default"}
    monkeypatch.setattr(RenderedTaskInstanceFields, "get_templated_fields", lambda ti_key: rendered_fields)
    set_connection("https://air.example.com", console_url=CONSOLE_URL)

    template = "{{ params.conn_id }}"
    assert link_of(REPORT | {"metadata_path": LOCATION}, wasabi_conn_id=template) == LINK
    rendered_fields = None  # Airflow keeps those of the last runs
    assert link_of(REPORT | {"metadata_path": LOCATION}, wasabi_conn_id=template) == ""
