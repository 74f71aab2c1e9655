"""Which tasks end on a worker, because Airflow does part of their work there after ``execute``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperator, conf

if TYPE_CHECKING:
    from airflow_wasabi_jobs.waiting.base_sensor import WasabiBaseSensor

_METHODS = ("poke", "execute_complete", "resume_execution", "post_execute")


def find_worker_features(sensor: WasabiBaseSensor, *, base: type[WasabiBaseSensor]) -> list[str]:
    """
    Return what a sensor uses that Airflow does only if the task ends on a worker.

    :param sensor: the sensor.
    :param base: the class of this package that the sensor is of, or is derived from.
    """
    from airflow.providers.common.compat.sdk import get_listener_manager

    features = {
        "outlets": sensor.outlets,
        "on_success_callback": sensor.on_success_callback,
        "post_execute": sensor.has_post_execute,
        "map_index_template": sensor.map_index_template,
        "multiple_outputs=True": sensor.multiple_outputs,
        "do_xcom_push=False": not sensor.do_xcom_push,
        "a mapped task over its XCom": _is_mapped_over(sensor),
        "operator_extra_links": type(sensor).operator_extra_links is not base.operator_extra_links,
        "overwrite_rtif_after_execution": getattr(sensor, "overwrite_rtif_after_execution", False),
        # New in Airflow 3.3.
        "the result of the DAG": getattr(sensor, "returns_dag_result", False),
        # Airflow 2 pushes them as an XCom.
        "inlets": sensor.inlets,
        "a lineage backend": conf.get("lineage", "backend", fallback=None),
        "a listener": get_listener_manager().has_listeners,
    }
    overridden = [method for method in _METHODS if getattr(type(sensor), method) is not getattr(base, method)]
    return [feature for feature, is_used in features.items() if is_used] + [f"its own {name}" for name in overridden]


def _is_mapped_over(sensor: WasabiBaseSensor) -> bool:
    """Whether a downstream task is mapped over the fields of the XCom, whose number the worker stores."""
    dag = sensor.get_dag()
    # The XComs of a mapped sensor are counted without it.
    if dag is None or not isinstance(dag.get_task(sensor.task_id), BaseOperator):
        return False
    return next(sensor.iter_mapped_dependants(), None) is not None
