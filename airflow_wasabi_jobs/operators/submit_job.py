"""The operator that submits one file and waits for its job."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import AirflowSensorTimeout, BaseOperator, conf

from airflow_wasabi_jobs.api import submissions
from airflow_wasabi_jobs.api.exceptions import InvalidResponseError, NotFoundError, WasabiApiError
from airflow_wasabi_jobs.links import WasabiResultLink
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.operators.default_name import default_name, default_name_template
from airflow_wasabi_jobs.triggers import WasabiJobTrigger
from airflow_wasabi_jobs.waiting.arguments import (
    refuse_templates,
    to_seconds,
    validate_id_argument,
    validate_optional_integer,
    validate_poke_interval,
    validate_seconds,
)
from airflow_wasabi_jobs.waiting.deferring import defer_until, is_trigger_timeout
from airflow_wasabi_jobs.waiting.status_log import log_failure
from airflow_wasabi_jobs.waiting.wait import JobWait

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_wasabi_jobs.api.models import Job
    from airflow_wasabi_jobs.hooks import WasabiJobsHook

# How long transient errors are retried before the task fails and Airflow retries it.
SUBMIT_RETRY_SECONDS = 300.0
# How long to look up a job after the response to its submission was lost, and how often.
LOOKUP_SECONDS, LOOKUP_INTERVAL_SECONDS = 30.0, 5.0
# How often a series of retries is logged.
RETRY_LOG_SECONDS = 60.0

_FIELDS = ("name", "source", "destination", "services", "priority", "batch")
# The other templated arguments.
_OTHER_FIELDS = ("source_conn_id", "wasabi_conn_id", "max_error_count", "if_exists")
_STATE_KEY = "wasabi_job"
_DEFAULT_NAME_ADVICE = (
    "The arguments of the task have changed since the run began, such as the list that it is mapped over: start a new "
    "run, or set name, for example to '{{ dag.dag_id }}/{{ run_id }}/{{ task.source.object_key }}'. If another Airflow "
    "uses the same account, set [wasabi] job_name_prefix in the configuration of one of them."
)


class WasabiSubmitJobOperator(BaseOperator):
    """
    Submits a Wasabi AiR job, one for each task run, and waits until it has completed.

    The XCom is the report of the job: ``{"job_id": "12345", "status": "completed", "error_count": 0}``. The XCom
    ``job_id`` holds the id of the job as soon as it is submitted.

    The API has no idempotency key: the same submission twice makes two jobs. So the operator identifies its job by the
    job's name. Before it submits, and after each response that leaves open whether the job was created, it looks for a
    job with exactly that name, and waits for an unfinished one. A retried task, or one whose worker was killed, creates
    no second job, unless ``if_exists="submit"`` asks for a new job after a completed one. The API cannot cancel a job:
    a submitted job continues, whatever happens to the task.

    The outcomes of the wait are those of :class:`~airflow_wasabi_jobs.sensors.WasabiJobSensor`.

    :param source: location of the media file (dict, templated): ``bucket`` and ``object_key``, optionally ``region``
        and ``endpoint``.
    :param destination: bucket for the result (dict, templated): ``bucket`` and ``region``.
    :param services: services that analyse the file (templated): a list such as ``["ocr", "s2t"]``, or a dict with
        ``""`` or ``{"config": {…}}`` for each service. Documented are ``ocr``, ``s2t``, ``nld``, ``audiotag``, ``face``
        and ``logo``; others are sent as given.
    :param name: name of the job, 1 to 256 characters, different for each file (str, templated). Default: made of
        ``[wasabi] job_name_prefix``, DAG id, task id, map index and run id, so that each task run has its own job.
    :param priority: 1 to 10 (int, templated). Default: 5.
    :param batch: batch of the job, up to 256 characters (str, templated). Default: none.
    :param source_conn_id: id of a connection with the keys of a source outside Wasabi (str, templated): the access key
        is its ``login``, the secret key its ``password``. Default: the source is in Wasabi.
    :param wasabi_conn_id: id of the :ref:`connection <howto/connection:wasabi>` (str, templated). Its user needs the
        IAM policies ``WasabiManageAiR`` and ``WasabiViewAiR``. Default: ``wasabi_default``.
    :param wait_for_completion: whether to wait (bool). If False, the XCom is the id of the job, for a sensor. Default:
        True.
    :param deferrable: whether to wait in the triggerer, without a worker (bool). Default: ``[operators]
        default_deferrable``.
    :param poke_interval: seconds between two polls (float or timedelta). Default: 60.
    :param timeout: seconds until the wait times out (float or timedelta). Default: ``[sensors] default_timeout``, which
        is 7 days.
    :param max_error_count: how many errors a completed job may have (int, templated). Default: None, for any number.
    :param fetch_metadata: whether the XCom includes the location of the result, as that of the sensor (bool). Default:
        False.
    :param if_exists: what to do if a job with this name has completed (str, templated): ``"reuse"`` its report, or
        ``"submit"`` a new job. A job that failed or was cancelled is always submitted again. Default: ``"reuse"``.
    :param kwargs: arguments of Airflow's ``BaseOperator``. With ``do_xcom_push=False`` there is no report, but still
        the XCom ``job_id``: a deferred task needs it to resume.
    :raises ValueError: if an argument is invalid; for a templated argument when the task runs.
    """

    template_fields: Sequence[str] = (
        "source",
        "destination",
        "services",
        "priority",
        "batch",
        "source_conn_id",
        "wasabi_conn_id",
        "max_error_count",
        "if_exists",
        # Last, so that its template can use the rendered fields: {{ task.source.object_key }}.
        "name",
    )
    template_fields_renderers = {"source": "json", "destination": "json", "services": "json"}  # noqa: RUF012 - as in Airflow
    ui_color = "#d2f4c3"
    operator_extra_links = (WasabiResultLink(),)

    def __init__(
        self,
        *,
        source: Mapping[str, str | XComArg] | str | XComArg,
        destination: Mapping[str, str | XComArg] | str | XComArg,
        services: Iterable[str | XComArg] | Mapping[str, Any] | str | XComArg,
        name: str | XComArg | None = None,
        priority: int | str | XComArg = 5,
        batch: str | XComArg | None = None,
        source_conn_id: str | XComArg | None = None,
        wasabi_conn_id: str | XComArg = "wasabi_default",
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float | None = None,
        max_error_count: int | str | XComArg | None = None,
        fetch_metadata: bool = False,
        if_exists: str | XComArg = "reuse",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Templates and XComArgs until they are rendered.
        self.name: Any = default_name_template() if name is None else name
        self.source: Any = source
        self.destination: Any = destination
        self.services: Any = services
        self.priority: Any = priority
        self.batch: Any = batch
        self.source_conn_id: Any = source_conn_id
        self.wasabi_conn_id: Any = wasabi_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poke_interval = poke_interval
        self.timeout = timeout
        self.max_error_count: Any = max_error_count
        self.fetch_metadata = fetch_metadata
        self.if_exists: Any = if_exists
        self._has_default_name = name is None
        self._wait: JobWait | None = None
        self._validate_literal_arguments()

    @cached_property
    def hook(self) -> WasabiJobsHook:
        """The hook of the connection."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        return WasabiJobsHook(self.wasabi_conn_id)

    def execute(self, context: Context) -> Any:
        """Submit the job unless it exists, and wait for it if ``wait_for_completion`` is set."""
        timeout_at = time.time() + self._timeout_seconds
        with log_failure():
            self._validate_rendered()
            submission = self._build_submission(context)
            job_id = self._find_stored_job(context, submission) or self._submit_before_timeout(submission)
            self._store_job(context, submission, job_id)
            context["ti"].xcom_push(key="job_id", value=job_id)
            wait = self._create_wait(job_id)
            if not self.wait_for_completion:
                return job_id
            if not self.deferrable:
                return wait.poll_until_finished(to_seconds(self.poke_interval), timeout_at)
            return wait.poll() or self._defer(wait, job_id, timeout_at)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the triggerer, with the event of the trigger or an error of the scheduler."""
        with log_failure():
            self._validate_rendered()
            if is_trigger_timeout(next_method, next_kwargs):
                wait = self._create_wait(self._find_deferred_job(context))
                return wait.poll_after_timeout(wait.poll)
            return super().resume_execution(next_method, next_kwargs, context)

    def execute_complete(
        self,
        context: Context,  # noqa: ARG002 - Airflow passes it
        event: dict[str, Any],
        timeout_at: float | None = None,
    ) -> Any:
        """
        Return or raise the outcome of the trigger's event.

        :param event: the payload of the event.
        :param timeout_at: when the wait times out, in seconds since the epoch.
        """
        job_id = str(event["job_id"])
        wait = self._create_wait(job_id)
        timeout_at = timeout_at or time.time() + self._timeout_seconds
        return wait.read_event(event) or self._defer(wait, job_id, timeout_at)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """
        Return the :ref:`lineage <reference/lineage>` of the task, also after a failure. OpenLineage calls this.

        :param task_instance: the task instance.
        """
        import msgspec

        from airflow_wasabi_jobs import lineage
        from airflow_wasabi_jobs.api.models import Submission

        try:
            fields = self._build_submission({"ti": task_instance})
        except ValueError:
            # The task has failed because of it.
            return lineage.job_lineage(None, self._wait)
        return lineage.job_lineage(msgspec.convert(fields, Submission), self._wait)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    @property
    def _timeout_seconds(self) -> float:
        return conf.getfloat("sensors", "default_timeout") if self.timeout is None else to_seconds(self.timeout)

    def _create_wait(self, job_id: str) -> JobWait:
        self._wait = JobWait(
            job_id,
            hook=self.hook,
            timeout=self._timeout_seconds,
            max_error_count=self.max_error_count,
            fetch_metadata=self.fetch_metadata,
            resubmit_advice="Clear this task to submit a new job.",
            file=_file(self.source),
        )
        return self._wait

    def _defer(self, wait: JobWait, job_id: str, timeout_at: float) -> NoReturn:
        poke_interval = to_seconds(self.poke_interval)
        trigger = WasabiJobTrigger(job_id=job_id, wasabi_conn_id=self.wasabi_conn_id, poke_interval=poke_interval)
        defer_until(self, wait, trigger, poke_interval=poke_interval, timeout_at=timeout_at)

    def _build_submission(self, context: Context) -> dict[str, Any]:
        fields = {field: getattr(self, field) for field in _FIELDS}
        if self._has_default_name:
            fields["name"] = default_name(context["ti"])
        elif isinstance(self.name, str) and (not submissions.is_literal(self.name) or "MappedArgument(" in self.name):
            raise ValueError(
                f"name of task {self.task_id!r} is {self.name!r}, which still contains a template after rendering."
            )
        return {field: self._validate_field(field, value) for field, value in fields.items()}

    def _submit_before_timeout(self, submission: dict[str, Any]) -> str:
        started_at = time.monotonic()
        timeout = self._timeout_seconds
        try:
            return self._submit_once(submission, started_at + min(SUBMIT_RETRY_SECONDS, timeout))
        except WasabiApiError as error:
            if not error.is_transient or timeout > SUBMIT_RETRY_SECONDS:
                raise
            raise AirflowSensorTimeout(
                f"Job name {submission['name']!r} ({_file(submission['source'])}, connection {self.wasabi_conn_id!r}) "
                f"could not be submitted within timeout={timeout:.0f} s. The last request failed: {error} "
                "Clear this task to submit it again."
            ) from error

    def _submit_once(self, submission: dict[str, Any], retry_until: float) -> str:
        """Return the id of the task run's job. Submit the job unless it exists."""
        jobs = self._list_jobs_with_retries(submission, retry_until)
        job_id = self._choose_job(submission, jobs)
        if job_id is None and jobs:
            LOG.info(
                "Earlier job %s (%s), name %r, is not reused; submitting a new job.",
                jobs[0].job_id,
                jobs[0].status or "unknown status",
                submission["name"],
            )
        while job_id is None:
            try:
                job = self.hook.submit_job(**submission, source_conn_id=self.source_conn_id)
                job_id = job.job_id
            except WasabiApiError as error:
                if not (error.is_transient or isinstance(error, InvalidResponseError)):
                    raise
                LOG.warning(
                    "Unclear whether job %r was submitted; looking it up by name. %s", submission["name"], error
                )
                known_ids = {job.job_id for job in jobs}
                lookup_until = min(retry_until, time.monotonic() + max(LOOKUP_SECONDS, error.retry_after or 0.0))
                job_id = self._look_up_new_job(submission, known_ids, lookup_until, retry_until)
                if job_id is None and (not error.is_transient or time.monotonic() > retry_until):
                    raise
            else:
                LOG.info(
                    "Submitted job %s (%s), name %r, services %s, destination %s (%s).",
                    job_id,
                    _file(submission["source"]),
                    submission["name"],
                    ", ".join(submission["services"]),
                    submission["destination"]["bucket"],
                    submission["destination"]["region"],
                )
                if job.name not in {None, submission["name"]}:
                    LOG.warning(
                        "Job %s was submitted with name %r, but the API stores it as %r. A retry cannot look it up by "
                        "its name. Use a name that the API does not change.",
                        job_id,
                        submission["name"],
                        job.name,
                    )
        return job_id

    def _look_up_new_job(
        self, submission: dict[str, Any], known_ids: set[str], lookup_until: float, retry_until: float
    ) -> str | None:
        """Look for a job that may have been created, until it would be listed."""
        while True:
            # A job that was not listed before is that of this task, even if it has finished.
            for job in self._list_jobs_with_retries(submission, retry_until):
                if job.job_id not in known_ids:
                    return self._reuse_job(submission, job)
            if time.monotonic() >= lookup_until:
                return None
            time.sleep(LOOKUP_INTERVAL_SECONDS)

    def _find_deferred_job(self, context: Context) -> str:
        """Return the id of the job that the trigger waited for."""
        ti = context["ti"]
        job_id = ti.xcom_pull(task_ids=ti.task_id, key="job_id", map_indexes=ti.map_index)
        if job_id is not None:
            return str(job_id)
        # The XCom is missing if somebody deleted it meanwhile.
        submission = self._build_submission(context)
        jobs = self._list_jobs_with_retries(submission, time.monotonic() + SUBMIT_RETRY_SECONDS)
        job = find_unfinished(jobs) or next(iter(jobs), None)
        if job is None:
            raise NotFoundError(
                f"Task {self.task_id!r} waited for a job named {submission['name']!r}, but connection "
                f"{self.wasabi_conn_id!r} has none. Clear this task to submit it again."
            )
        return self._reuse_job(submission, job)

    def _list_jobs_with_retries(self, submission: dict[str, Any], retry_until: float) -> list[Job]:
        import tenacity

        from airflow_wasabi_jobs.api.client.retries import is_transient

        logged_at = -math.inf

        def log_retry(state: tenacity.RetryCallState) -> None:
            nonlocal logged_at
            now = time.monotonic()
            if now - logged_at >= RETRY_LOG_SECONDS:
                logged_at = now
                LOG.warning(
                    "%s Retrying for up to %.0f more seconds.",
                    state.outcome and state.outcome.exception(),
                    max(0.0, retry_until - now),
                )

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_random_exponential(multiplier=LOOKUP_INTERVAL_SECONDS / 2, max=60),
            stop=tenacity.stop_after_delay(max(0.0, retry_until - time.monotonic())),
            before_sleep=log_retry,
            reraise=True,
        )
        jobs: list[Job] = retrying(self._list_jobs, submission)
        return jobs

    def _list_jobs(self, submission: dict[str, Any]) -> list[Job]:
        """Return the jobs with exactly that name, newest first. The filter of the API may let others through."""
        jobs = self.hook.list_jobs(name=submission["name"], newest_first=True)
        return [job for job in jobs if job.name == submission["name"] or _is_same_without_name(job, submission)]

    def _choose_job(self, submission: dict[str, Any], jobs: Iterable[Job]) -> str | None:
        job = choose_job(jobs, if_exists=self.if_exists)
        return None if job is None else self._reuse_job(submission, job)

    def _reuse_job(self, submission: dict[str, Any], job: Job) -> str:
        """Return the id of an existing job. Raise ``ValueError`` if it is not for what the task submits."""
        name = submission["name"]
        if difference := submissions.find_difference(submission, job):
            advice = (
                _DEFAULT_NAME_ADVICE if self._has_default_name else "Use a unique name for each file, or omit name."
            )
            raise ValueError(
                f"Job name {name!r} of task {self.task_id!r} (connection {self.wasabi_conn_id!r}) already belongs to "
                f"job {job.job_id} for {difference}. {advice}"
            )
        LOG.info("Reusing existing job %s (%s), name %r.", job.job_id, job.status or "unknown status", name)
        return job.job_id

    def _find_stored_job(self, context: Context, submission: dict[str, Any]) -> str | None:
        """Return the id of the job that an earlier try submitted, if Airflow stores it: from 3.3 on."""
        try:
            store: Any = context.get("task_state_store")
            stored = store and store.get(_STATE_KEY)
            if not stored or stored["name"] != submission["name"]:
                return None
            job = self.hook.get_job(stored["job_id"])
        except Exception as error:  # noqa: BLE001 - the stored id only saves a lookup by name
            LOG.info("Looking up the job by its name, because its stored id cannot be used: %s", error)
            return None
        # The API may return a job without its name.
        return self._choose_job(submission, [job] if job.name in {None, submission["name"]} else [])

    def _store_job(self, context: Context, submission: dict[str, Any], job_id: str) -> None:
        try:
            if store := context.get("task_state_store"):
                store.set(_STATE_KEY, {"name": submission["name"], "job_id": job_id})
        except Exception as error:  # noqa: BLE001 - a retry finds the job by its name
            LOG.info("Airflow could not store the job id; a retry looks up the job by its name: %s", error)

    def _validate_literal_arguments(self) -> None:
        """Validate what is known when the DAG file is parsed: not templates and XComArgs."""
        for field in _FIELDS:
            value = getattr(self, field)
            if isinstance(value, Mapping) and field != "services":
                value = submissions.replace_templates(value)
            if submissions.is_literal(value):
                self._validate_field(field, value)
        for field in _OTHER_FIELDS:
            if submissions.is_literal(getattr(self, field)):
                self._validate_other_field(field)
        refuse_templates(
            self.task_id,
            wait_for_completion=self.wait_for_completion,
            deferrable=self.deferrable,
            poke_interval=self.poke_interval,
            timeout=self.timeout,
            fetch_metadata=self.fetch_metadata,
        )
        validate_seconds("poke_interval", self.poke_interval, task_id=self.task_id)
        validate_poke_interval(to_seconds(self.poke_interval), deferrable=self.deferrable, task_id=self.task_id)
        if self.timeout is not None:
            validate_seconds("timeout", self.timeout, task_id=self.task_id)

    def _validate_rendered(self) -> None:
        """Validate the templated arguments that are not part of the submission, after they are rendered."""
        for field in _OTHER_FIELDS:
            self._validate_other_field(field)

    def _validate_other_field(self, field: str) -> None:
        value = getattr(self, field)
        match field:
            case "max_error_count":
                value = validate_optional_integer(field, value, minimum=0, task_id=self.task_id)
            case "if_exists":
                if value not in ("reuse", "submit"):
                    raise ValueError(f"{field} of task {self.task_id!r} is {value!r}, but must be 'reuse' or 'submit'.")
            case "source_conn_id" if value is None:
                pass
            case _:
                value = validate_id_argument(field, value, "connection id", task_id=self.task_id)
        setattr(self, field, value)

    def _validate_field(self, field: str, value: object) -> Any:
        return submissions.validate_field(field, value, owner=f" of task {self.task_id!r}")


def choose_job(jobs: Iterable[Job], *, if_exists: Literal["reuse", "submit"]) -> Job | None:
    """
    Return the job to wait for, or None to submit a new one.

    :param jobs: the jobs with the name of the submission, newest first.
    :param if_exists: whether a completed job is reused.
    """
    jobs = list(jobs)
    if unfinished := find_unfinished(jobs):
        return unfinished
    completed = (job for job in jobs if job.status is not None and job.status.value == "completed")
    return next(completed, None) if if_exists == "reuse" else None


def find_unfinished(jobs: Iterable[Job]) -> Job | None:
    """Return the first job that has not finished. One with an unknown status may not have finished."""
    return next((job for job in jobs if job.status is None or not job.status.is_terminal), None)


def _is_same_without_name(job: Job, submission: dict[str, Any]) -> bool:
    """Whether a job that the API returns without its name has the source and the batch of a submission."""
    source = submission["source"]
    return (
        job.name is None
        and (job.source.bucket, job.source.object_key) == (source["bucket"], source["object_key"])
        and job.batch == submission["batch"]
    )


def _file(source: Mapping[str, str]) -> str:
    return f"{source['bucket']}/{source['object_key']}"
