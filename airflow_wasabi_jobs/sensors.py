"""Sensors that wait for a Wasabi AiR job, or for a batch of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_wasabi_jobs.api import submissions
from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.links import WasabiResultLink
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.triggers import WasabiBatchTrigger, WasabiJobTrigger
from airflow_wasabi_jobs.waiting.arguments import (
    CHECK_UPSTREAM,
    refuse_templates,
    validate_integer,
    validate_optional_integer,
)
from airflow_wasabi_jobs.waiting.base_sensor import WasabiBaseSensor
from airflow_wasabi_jobs.waiting.ending import find_worker_features
from airflow_wasabi_jobs.waiting.wait import BatchWait, JobWait

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import XComArg
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.triggers.base import BaseTrigger


class WasabiJobSensor(WasabiBaseSensor):
    """
    Waits until a Wasabi AiR job has completed.

    The XCom is the report of the job: ``{"job_id": "12345", "status": "completed", "error_count": 0}``.

    A job that failed or was cancelled fails the task without a retry. A permanent error, such as wrong keys, an unknown
    job or an invalid connection, fails it with its retries. A transient error, such as a rate limit, a server error or
    a network problem, does not end the wait, which is bounded by ``timeout``. With ``soft_fail=True`` a job that failed
    or was cancelled, and a timeout, skip the task; a permanent error still fails it.

    :param job_id: id of the job (str, templated).
    :param wasabi_conn_id: id of the :ref:`connection <howto/connection:wasabi>` (str, templated). Default:
        ``wasabi_default``.
    :param max_error_count: how many errors a completed job may have (int, templated). Default: None, for any number.
    :param fetch_metadata: whether the XCom includes the location of the result (bool): ``{"metadata_path":
        "s3://…_metadata.json", "destination": {"bucket": "…", "region": "…"}}``. Right after a job has completed, the
        location may not be available yet: it is requested for up to a minute. Default: False.
    :param deferrable: whether to wait in the triggerer, without a worker (bool). ``mode`` is then ignored, and
        ``poke_interval`` must be more than 0. Default: ``[operators] default_deferrable``.
    :param end_from_trigger: whether a job that completes within ``max_error_count`` ends a deferred task in the
        triggerer, without a worker (bool). Every other outcome resumes in a worker, and so does a task that uses
        what Airflow does only there, such as ``outlets`` or ``on_success_callback``: see
        :ref:`howto/end_from_trigger`. Default: False.
    :param kwargs: arguments of Airflow's ``BaseSensorOperator``: ``poke_interval`` (seconds, default 60), ``timeout``
        (seconds, default 7 days), ``mode``, ``soft_fail``, ``never_fail``, ``silent_fail``, ``exponential_backoff``,
        ``max_wait`` and those of ``BaseOperator``.
    :raises ValueError: if an argument is invalid; for a templated argument when the task runs.
    """

    template_fields: Sequence[str] = ("job_id", "wasabi_conn_id", "max_error_count")
    ui_color = "#d2f4c3"
    operator_extra_links = (WasabiResultLink(),)

    def __init__(
        self,
        *,
        job_id: str | XComArg,
        wasabi_conn_id: str | XComArg = "wasabi_default",
        max_error_count: int | str | XComArg | None = None,
        fetch_metadata: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(wasabi_conn_id=wasabi_conn_id, deferrable=deferrable, **kwargs)
        # Templates and XComArgs until they are rendered.
        self.job_id: Any = job_id
        self.max_error_count: Any = max_error_count
        self.fetch_metadata = fetch_metadata
        # Not end_from_trigger: with a listener Airflow rejects each DAG that has a task with an attribute of this name.
        self._end_from_trigger = end_from_trigger
        if submissions.is_literal(job_id):
            self._validate_id("job_id", job_id, "job id")
        if submissions.is_literal(max_error_count):
            self._validate_max_error_count()
        refuse_templates(self.task_id, fetch_metadata=fetch_metadata, end_from_trigger=end_from_trigger)

    def _validate_rendered(self) -> None:
        super()._validate_rendered()
        self.job_id = self._validate_id("job_id", self.job_id, "job id")
        self._validate_max_error_count()

    def _validate_max_error_count(self) -> None:
        self.max_error_count = validate_optional_integer(
            "max_error_count", self.max_error_count, minimum=0, task_id=self.task_id
        )

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002 - OpenLineage passes it
        """
        Return the :ref:`lineage <reference/lineage>` of the task, also after a failure. OpenLineage calls this.

        :param task_instance: the task instance.
        """
        from airflow_wasabi_jobs import lineage

        return lineage.job_lineage(self._wait.find_job(), self._wait)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    @cached_property
    def _wait(self) -> JobWait:
        return JobWait(
            self.job_id,
            hook=self.hook,
            timeout=self.timeout,
            max_error_count=self.max_error_count,
            fetch_metadata=self.fetch_metadata,
            resubmit_advice="Clear the task that submits it, or submit a new job.",
        )

    def _create_trigger(self) -> BaseTrigger:
        return WasabiJobTrigger(
            job_id=self.job_id,
            wasabi_conn_id=self.wasabi_conn_id,
            poke_interval=self.poke_interval,
            exponential_backoff=self.exponential_backoff,
            max_wait=self.max_wait.total_seconds() if self.max_wait else None,
            end_from_trigger=self._end_from_trigger and not self._needs_worker(),
            max_error_count=self.max_error_count,
            fetch_metadata=self.fetch_metadata,
        )

    def _needs_worker(self) -> bool:
        features = find_worker_features(self, base=WasabiJobSensor)
        if self.fetch_metadata and self._has_console_url():
            features.append("a link to the result")
        if features:
            LOG.info(
                "Job %r: ends on a worker in spite of end_from_trigger, because it uses: %s.",
                self.job_id,
                ", ".join(features),
            )
        return bool(features)

    def _has_console_url(self) -> bool:
        try:
            return self.hook.get_conn().settings.options.console_url is not None
        except WasabiApiError:
            # The trigger meets the same error.
            return False


class WasabiBatchSensor(WasabiBaseSensor):
    """
    Waits until all jobs of a batch have finished.

    It succeeds when every job of the batch has finished, there are at least ``expected_jobs`` of them, and at most
    ``max_failures`` failed or were cancelled. The XCom is ``{"batch": "…", "counts": {"completed": 98, "failed": 2},
    "failures": [{"source": "s3://media/monday.mp4", "job_id": "12345", "status": "failed", "error_code": "…"}, …],
    "more_failures": 0}``, with at most 100 failures.

    Too many failures fail the task without a retry. Errors, timeouts and ``soft_fail`` are as in
    :class:`WasabiJobSensor`. The sensor keeps waiting while the batch has no jobs.

    :param batch: name of the batch that the jobs were submitted with (str, templated). It must match exactly.
    :param wasabi_conn_id: id of the :ref:`connection <howto/connection:wasabi>` (str, templated). Default:
        ``wasabi_default``.
    :param expected_jobs: number of jobs that the batch has at least (int, templated). Set it if jobs may be submitted
        after the first ones have finished. Default: None, for one job.
    :param max_failures: how many jobs may fail or be cancelled (int, templated). Default: 0.
    :param fail_fast: whether too many failures end the wait at once (bool), instead of after all jobs have finished.
        Default: True.
    :param deferrable: whether to wait in the triggerer, without a worker (bool). ``mode`` is then ignored, and
        ``poke_interval`` must be more than 0. Default: ``[operators] default_deferrable``.
    :param kwargs: arguments of Airflow's ``BaseSensorOperator``, as in :class:`WasabiJobSensor`.
    :raises ValueError: if an argument is invalid; for a templated argument when the task runs.
    """

    template_fields: Sequence[str] = ("batch", "wasabi_conn_id", "expected_jobs", "max_failures")
    ui_color = "#d2f4c3"

    def __init__(
        self,
        *,
        batch: str | XComArg,
        wasabi_conn_id: str | XComArg = "wasabi_default",
        expected_jobs: int | str | XComArg | None = None,
        max_failures: int | str | XComArg = 0,
        fail_fast: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(wasabi_conn_id=wasabi_conn_id, deferrable=deferrable, **kwargs)
        # Templates and XComArgs until they are rendered.
        self.batch: Any = batch
        self.expected_jobs: Any = expected_jobs
        self.max_failures: Any = max_failures
        self.fail_fast = fail_fast
        if submissions.is_literal(batch):
            self._validate_batch()
        if submissions.is_literal(expected_jobs):
            self._validate_expected_jobs()
        if submissions.is_literal(max_failures):
            self._validate_max_failures()
        refuse_templates(self.task_id, fail_fast=fail_fast)

    def _validate_rendered(self) -> None:
        super()._validate_rendered()
        self._validate_batch()
        self._validate_expected_jobs()
        self._validate_max_failures()

    def _validate_batch(self) -> None:
        owner = f" of task {self.task_id!r}"
        self.batch = submissions.validate_field("batch", self.batch, owner=owner)
        if self.batch is None:
            raise ValueError(f"batch{owner} is None, but must be a non-empty string. {CHECK_UPSTREAM}")

    def _validate_expected_jobs(self) -> None:
        self.expected_jobs = validate_optional_integer(
            "expected_jobs", self.expected_jobs, minimum=1, task_id=self.task_id
        )

    def _validate_max_failures(self) -> None:
        self.max_failures = validate_integer("max_failures", self.max_failures, minimum=0, task_id=self.task_id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002 - OpenLineage passes it
        """
        Return the :ref:`lineage <reference/lineage>` of the task, also after a failure. OpenLineage calls this.

        :param task_instance: the task instance.
        """
        from airflow_wasabi_jobs import lineage

        return lineage.batch_lineage(self.batch, self._wait.report)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    @cached_property
    def _wait(self) -> BatchWait:
        return BatchWait(
            self.batch,
            hook=self.hook,
            timeout=self.timeout,
            expected_jobs=self.expected_jobs,
            max_failures=self.max_failures,
            fail_fast=self.fail_fast,
        )

    def _create_trigger(self) -> BaseTrigger:
        return WasabiBatchTrigger(
            batch=self.batch,
            wasabi_conn_id=self.wasabi_conn_id,
            poke_interval=self.poke_interval,
            exponential_backoff=self.exponential_backoff,
            max_wait=self.max_wait.total_seconds() if self.max_wait else None,
            expected_jobs=self.expected_jobs,
            max_failures=self.max_failures,
            fail_fast=self.fail_fast,
        )
