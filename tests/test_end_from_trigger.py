"""Which tasks with ``end_from_trigger`` end in the triggerer, and that Airflow parses their DAGs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, Asset, BaseOperatorLink, get_listener_manager, task
from loopback import Loopback, status_response
from wait_runner import defer

from airflow_wasabi_jobs.sensors import WasabiJobSensor

LOCATION = Asset("s3://results/report")


class WithDefaults(WasabiJobSensor):
    template_fields = ("job_id",)


class WithPoke(WasabiJobSensor):
    def poke(self, context: Any) -> Any:
        return super().poke(context)


class WithExecuteComplete(WasabiJobSensor):
    def execute_complete(self, context: Any, event: Any, timeout_at: float | None = None) -> Any:
        return super().execute_complete(context, event, timeout_at)


class WithResumeExecution(WasabiJobSensor):
    def resume_execution(self, next_method: str, next_kwargs: Any, context: Any) -> Any:
        return super().resume_execution(next_method, next_kwargs, context)


class WithPostExecute(WasabiJobSensor):
    def post_execute(self, context: Any, result: Any = None) -> None: ...


class Link(BaseOperatorLink):
    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return "https://example.com"


class WithLink(WasabiJobSensor):
    operator_extra_links = (Link(),)


class WithRenderedFields(WasabiJobSensor):
    overwrite_rtif_after_execution = True


class WithDagResult(WasabiJobSensor):
    returns_dag_result = True


class Listener:
    """What a plugin registers, as that of OpenLineage does."""


def create(kind: type[WasabiJobSensor] = WasabiJobSensor, **arguments: Any) -> WasabiJobSensor:
    return kind(**{"task_id": "wait", "job_id": "12345", "deferrable": True, "end_from_trigger": True, **arguments})


@pytest.fixture
def ends_in_triggerer(set_connection: Any, caplog: Any) -> Any:
    """Defer a sensor, and return whether its task can end in the triggerer."""
    caplog.set_level(logging.INFO)

    def defer_sensor(sensor: WasabiJobSensor, **extra: str) -> bool:
        with Loopback(status_response("in_progress")) as server:
            set_connection(server.url, **extra)
            return bool(defer(sensor).trigger.end_from_trigger)

    return defer_sensor


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        pytest.param(WasabiJobSensor, {}, id="plain"),
        pytest.param(WithDefaults, {}, id="subclass"),
        # Airflow does these before execute, or only for other outcomes, which resume on a worker anyway.
        pytest.param(
            WasabiJobSensor,
            {
                name: [print]
                for name in (
                    "on_execute_callback",
                    "on_failure_callback",
                    "on_retry_callback",
                    "on_skipped_callback",
                )
            },
            id="callbacks",
        ),
        pytest.param(WasabiJobSensor, {"retries": 2, "soft_fail": True}, id="failures"),
        pytest.param(WasabiJobSensor, {"pre_execute": print}, id="pre_execute"),
        pytest.param(WasabiJobSensor, {"max_error_count": 3}, id="arguments"),
    ],
)
def test_task_ends_in_the_triggerer(ends_in_triggerer: Any, kind: Any, arguments: Any, caplog: Any) -> None:
    assert ends_in_triggerer(create(kind, **arguments))
    assert "ends on a worker" not in caplog.text


def test_task_without_end_from_trigger_says_nothing(ends_in_triggerer: Any, caplog: Any) -> None:
    assert not ends_in_triggerer(create(end_from_trigger=False, outlets=[LOCATION]))
    assert "ends on a worker" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "arguments", "feature"),
    [
        (WasabiJobSensor, {"outlets": [LOCATION]}, "outlets"),
        (WasabiJobSensor, {"inlets": [LOCATION]}, "inlets"),
        (WasabiJobSensor, {"on_success_callback": print}, "on_success_callback"),
        (WasabiJobSensor, {"on_success_callback": [print]}, "on_success_callback"),
        (WasabiJobSensor, {"post_execute": print}, "post_execute"),
        (WasabiJobSensor, {"default_args": {"post_execute": print}}, "post_execute"),
        (WasabiJobSensor, {"map_index_template": "{{ task.job_id }}"}, "map_index_template"),
        (WasabiJobSensor, {"multiple_outputs": True}, "multiple_outputs=True"),
        (WasabiJobSensor, {"do_xcom_push": False}, "do_xcom_push=False"),
        (WithLink, {}, "operator_extra_links"),
        (WithRenderedFields, {}, "overwrite_rtif_after_execution"),
        (WithDagResult, {}, "the result of the DAG"),
        (WithPoke, {}, "its own poke"),
        (WithExecuteComplete, {}, "its own execute_complete"),
        (WithResumeExecution, {}, "its own resume_execution"),
        (WithPostExecute, {}, "its own post_execute"),
    ],
)
def test_task_ends_on_a_worker(ends_in_triggerer: Any, kind: Any, arguments: Any, feature: str, caplog: Any) -> None:
    assert not ends_in_triggerer(create(kind, **arguments))
    line = f"Job '12345': ends on a worker in spite of end_from_trigger, because it uses: {feature}."
    assert line in caplog.messages


@pytest.mark.parametrize("fetch_metadata", [False, True])
@pytest.mark.parametrize("console_url", [None, "https://console.example.com/{bucket}/{key}"])
def test_link_to_the_result_needs_a_worker(
    ends_in_triggerer: Any, fetch_metadata: bool, console_url: str | None
) -> None:
    extra = {} if console_url is None else {"console_url": console_url}
    ends_in_worker = fetch_metadata and console_url is not None

    assert ends_in_triggerer(create(fetch_metadata=fetch_metadata), **extra) is not ends_in_worker


def test_lineage_backend_of_airflow_2_needs_a_worker(ends_in_triggerer: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("AIRFLOW__LINEAGE__BACKEND", "example.Backend")

    assert not ends_in_triggerer(create())


@pytest.mark.parametrize("kind", ["task", "task group"])
def test_xcom_of_a_task_that_others_are_mapped_over_needs_a_worker(
    ends_in_triggerer: Any, kind: str, caplog: Any
) -> None:
    with DAG(dag_id="mapped_over", schedule=None, start_date=datetime(2026, 1, 1)):  # noqa: DTZ001 - Airflow takes it as UTC
        sensor = create()
        _map_over(sensor.output, kind)

    assert not ends_in_triggerer(sensor)
    assert "because it uses: a mapped task over its XCom." in caplog.text


def test_xcoms_of_a_mapped_sensor_need_no_worker(ends_in_triggerer: Any) -> None:
    with DAG(dag_id="mapped_over", schedule=None, start_date=datetime(2026, 1, 1)):  # noqa: DTZ001 - Airflow takes it as UTC
        mapped = WasabiJobSensor.partial(task_id="wait", deferrable=True, end_from_trigger=True).expand(
            job_id=["12345", "67890"]
        )
        _map_over(mapped.output, "task")

    assert ends_in_triggerer(mapped.unmap({"job_id": "12345"}))


def _map_over(output: Any, kind: str) -> None:
    from airflow.providers.common.compat.sdk import task_group

    @task
    def use(report: Any) -> Any:
        return report

    @task_group
    def use_all(report: Any) -> None:
        use(report)

    (use if kind == "task" else use_all).expand(report=output)


@pytest.fixture
def listener() -> Iterator[None]:
    """Register a listener where the DAG processor looks for it, and where the worker does."""
    from airflow.listeners.listener import get_listener_manager as get_listener_manager_of_core

    listener = Listener()
    managers = [get_listener_manager(), get_listener_manager_of_core()]
    for manager in managers:
        manager.add_listener(listener)
    yield
    for manager in managers:
        if manager.pm.is_registered(listener):
            manager.pm.unregister(listener)


@pytest.mark.usefixtures("listener")
def test_listener_needs_a_worker(ends_in_triggerer: Any, caplog: Any) -> None:
    assert not ends_in_triggerer(create())
    assert "because it uses: a listener." in caplog.text


DAG_FILE = """
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_wasabi_jobs.sensors import WasabiJobSensor

with DAG(dag_id="lineage", schedule=None, start_date=datetime(2026, 1, 1)):
    WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, end_from_trigger=True)
    WasabiJobSensor.partial(task_id="mapped", deferrable=True, end_from_trigger=True).expand(job_id=["12345"])
"""


@pytest.mark.usefixtures("listener")
def test_airflow_parses_the_dag_with_a_listener(tmp_path: Path) -> None:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:
        from airflow.models.dagbag import DagBag

    (tmp_path / "lineage.py").write_text(DAG_FILE)
    dag_bag = DagBag(dag_folder=tmp_path)

    assert not dag_bag.import_errors
    assert set(dag_bag.dags) == {"lineage"}
