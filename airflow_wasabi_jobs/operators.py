"""Submit Wasabi AiR jobs."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_wasabi_jobs.api import errors, submissions
from airflow_wasabi_jobs.api.ids import checked_id
from airflow_wasabi_jobs.contract import LOOK_UPSTREAM, check_poke_interval, check_whole
from airflow_wasabi_jobs.sensors import WasabiJobSensor

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_wasabi_jobs.api.models import Job
    from airflow_wasabi_jobs.hooks import WasabiJobsHook

# For so many seconds trouble that may pass is borne with before the task fails and Airflow retries it.
PATIENCE = 300.0
# For so many seconds a job whose submission was not answered is looked for, and it is looked for after so many.
SETTLING, PAUSE = 30.0, 5.0

_FIELDS = ("name", "source", "destination", "services", "priority", "batch")
_KEPT = "wasabi_job"
_SHIFTED = (
    "What the task is made of has changed since that run began, perhaps the list that it is mapped over: start a new "
    "run, or have the files name the jobs, like name='{{ dag.dag_id }}/{{ run_id }}/{{ task.source.object_key }}'."
)


class WasabiSubmitJobOperator(BaseOperator):
    """
    Submits a Wasabi AiR job, once for each task run, and waits until it is completed.

    The XCom is the job's report: ``{"job_id": "12345", "status": "completed", "error_count": 0}``. The job's id
    alone is there as XCom ``job_id`` as soon as the job is submitted.

    The API can't tell a submission from its repetition, so the job's name is what tells: before the task submits,
    and after any answer that leaves it unknown whether the job was made, it looks for a job of exactly that name.
    One that is unfinished is waited for. So a task that is retried, or whose worker is killed, makes no second
    job, unless ``if_exists="submit"`` has it do a job again that completed meanwhile. No call of the API cancels a
    job: one that was submitted goes on, whatever becomes of the task.

    The wait is that of :class:`~airflow_wasabi_jobs.sensors.WasabiJobSensor`.

    :param source: where the media file lies: ``{"bucket": "…", "object_key": "…"}``, and maybe ``region`` and
        ``endpoint`` (templated).
    :param destination: where the result goes: ``{"bucket": "…", "region": "…"}`` (templated).
    :param services: what analyses the file: a list of ``ocr``, ``s2t``, ``nld``, ``audiotag``, ``face`` and ``logo``,
        or a dict of them with ``""`` or ``{"config": {…}}`` (templated).
    :param name: the job's name, 1 to 256 characters (templated). Give each file a name of its own. Default: made of
        DAG id, task id, map index and run id, so that each task run has its own job.
    :param priority: 1 to 10. Default: the API's.
    :param batch: the batch that the job belongs to, up to 256 characters (templated). Default: none.
    :param source_conn_id: the connection with the keys of a source outside Wasabi (templated): the access key is its
        ``login``, the secret key its ``password``. Default: the source is in Wasabi.
    :param wasabi_conn_id: the :ref:`connection <howto/connection:wasabi>` to submit with (templated). Its user needs
        the IAM policies ``WasabiManageAiR`` and ``WasabiViewAiR``.
    :param wait_for_completion: whether to wait. Default: True. Else the XCom is the job's id, for a sensor, and what
        is said below about the wait is that sensor's business.
    :param deferrable: whether to wait in the triggerer, where a wait takes no worker. Default: what
        ``[operators] default_deferrable`` says.
    :param poke_interval: seconds, or a timedelta, between two looks at the job. Default: 60.
    :param timeout: seconds, or a timedelta, until the wait is given up. Default: ``[sensors] default_timeout``.
    :param max_error_count: how many errors a completed job may have. Default: any number.
    :param fetch_metadata: whether the XCom also tells where the result lies, as the sensor's does.
    :param if_exists: what to do about a completed job of that name: ``"reuse"`` its report, or ``"submit"`` another
        job. One that failed or was cancelled is always submitted again. Default: ``"reuse"``.
    :raises ValueError: if an argument can't be used; if it is templated, when the task runs.
    """

    template_fields: Sequence[str] = (
        "name",
        "source",
        "destination",
        "services",
        "batch",
        "source_conn_id",
        "wasabi_conn_id",
    )
    template_fields_renderers = {"source": "json", "destination": "json", "services": "json"}  # noqa: RUF012 - as Airflow's own
    ui_color = "#d2f4c3"

    def __init__(
        self,
        *,
        source: Mapping[str, str],
        destination: Mapping[str, str],
        services: Sequence[str] | Mapping[str, Any],
        name: str | None = None,
        priority: int | None = None,
        batch: str | None = None,
        source_conn_id: str | None = None,
        wasabi_conn_id: str = "wasabi_default",
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float | None = None,
        max_error_count: int | None = None,
        fetch_metadata: bool = False,
        if_exists: Literal["reuse", "submit"] = "reuse",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.source = source
        self.destination = destination
        self.services = services
        self.priority = priority
        self.batch = batch
        self.source_conn_id = source_conn_id
        self.wasabi_conn_id = wasabi_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poke_interval = poke_interval
        self.timeout = timeout
        self.max_error_count = max_error_count
        self.fetch_metadata = fetch_metadata
        self.if_exists = if_exists
        self._check_arguments()

    @cached_property
    def hook(self) -> WasabiJobsHook:
        """The hook that submits with the keys of the connection."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        return WasabiJobsHook(self.wasabi_conn_id)

    def execute(self, context: Context) -> Any:
        """Submit the job unless it is there already, and wait for it if asked."""
        self._check_connection()
        submission = self._submission(context)
        job_id = self._recall(context, submission) or self._submit_once(submission)
        self._remember(context, submission, job_id)
        context["ti"].xcom_push(key="job_id", value=job_id)
        return self._sensor(job_id).wait(context) if self.wait_for_completion else job_id

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the triggerer. The wait is the sensor's."""
        ti = context["ti"]
        job_id = ti.xcom_pull(task_ids=ti.task_id, key="job_id", map_indexes=ti.map_index)
        if job_id is None:
            job_id = self._waited_for(self._submission(context), next_kwargs)
        return self._sensor(job_id).resume_execution(next_method, next_kwargs, context)

    def _submission(self, context: Context) -> dict[str, Any]:
        given = {field: getattr(self, field) for field in _FIELDS}
        if self.name is None:
            given["name"] = default_name(context["ti"])
        return {field: self._checked(field, value) for field, value in given.items()}

    def _submit_once(self, submission: dict[str, Any]) -> str:
        """Return the id of the task run's job, which is submitted unless it is there."""
        give_up_at = time.monotonic() + PATIENCE
        jobs = self._patiently_listed(submission)
        found = self._chosen(submission, jobs)
        while found is None:
            try:
                found = self.hook.submit_job(**submission, source_conn_id=self.source_conn_id).job_id
            except errors.AirError as error:
                is_unknown = error.is_passing or isinstance(error, errors.UnexpectedAnswer)
                if not is_unknown:
                    raise
                self.log.warning(
                    "Job %r may have been submitted or not, and is looked for now. %s", submission["name"], error
                )
                found = self._settled(submission, {job.job_id for job in jobs}, error.retry_after or 0.0)
                if found is None and (not error.is_passing or time.monotonic() > give_up_at):
                    raise
            else:
                self.log.info("Job %r is submitted. Its id is %s.", submission["name"], found)
        return found

    def _settled(self, submission: dict[str, Any], before: set[str], retry_after: float) -> str | None:
        """Look for a job that may be about to appear, until it must have appeared."""
        settled_at = time.monotonic() + min(max(SETTLING, retry_after), PATIENCE)
        while True:
            # One that was not there before is this task's, even if it is over by now.
            for job in self._patiently_listed(submission):
                if job.job_id not in before:
                    return self._told(submission, job)
            if time.monotonic() >= settled_at:
                return None
            time.sleep(PAUSE)

    def _waited_for(self, submission: dict[str, Any], next_kwargs: dict[str, Any] | None) -> str:
        """Return the id of the job that the trigger waited for, when its XCom is gone."""
        event = (next_kwargs or {}).get("event")
        if isinstance(event, Mapping):
            return str(event["job_id"])
        jobs = self._patiently_listed(submission)
        job = chosen(jobs, if_exists="submit") or next(iter(jobs), None)
        if job is None:
            raise errors.NotFound(
                f"Task {self.task_id!r} waited for a job named {submission['name']!r}, and there is none on connection "
                f"{self.wasabi_conn_id!r}. A retry, or clearing the task, submits it again."
            )
        return self._told(submission, job)

    def _patiently_listed(self, submission: dict[str, Any]) -> list[Job]:
        import tenacity

        look = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, errors.AirError) and error.is_passing),
            wait=tenacity.wait_random_exponential(multiplier=PAUSE / 2, max=60),
            stop=tenacity.stop_after_delay(PATIENCE),
            before_sleep=lambda state: self.log.warning(
                "%s The task tries again, %.0f seconds longer.",
                state.outcome and state.outcome.exception(),
                PATIENCE - (state.seconds_since_start or 0.0),
            ),
            reraise=True,
        )
        listed: list[Job] = look(self._listed, submission)
        return listed

    def _listed(self, submission: dict[str, Any]) -> list[Job]:
        """Return the jobs of exactly that name, newest first."""
        name = submission["name"]
        # The API's filter may let others through.
        return [job for job in self.hook.list_jobs(name=name, newest_first=True) if job.name == name]

    def _chosen(self, submission: dict[str, Any], jobs: Iterable[Job]) -> str | None:
        """Return the id of the job to wait for, or None if one is to be submitted."""
        job = chosen(jobs, if_exists=self.if_exists)
        return None if job is None else self._told(submission, job)

    def _told(self, submission: dict[str, Any], job: Job) -> str:
        """Return the id of a job that is there already, and say so."""
        name, file = submission["name"], (submission["source"]["bucket"], submission["source"]["object_key"])
        other = (job.source.bucket, job.source.object_key)
        if None not in other and other != file:
            raise ValueError(
                f"name of task {self.task_id!r} is {name!r}, and job {job.job_id!r} of that name analyses "
                f"{'/'.join(map(str, other))}, not {'/'.join(file)}. "
                f"{_SHIFTED if self.name is None else 'Give each file a name of its own, or leave name out.'}"
            )
        state = job.status or "of unknown status"
        self.log.info("Job %r is there already: %s, %s.", name, job.job_id, state)
        return job.job_id

    def _recall(self, context: Context, submission: dict[str, Any]) -> str | None:
        """Return the id of the job that an earlier try submitted, if Airflow kept it: from 3.3 on."""
        try:
            store: Any = context.get("task_state_store")
            kept = store and store.get(_KEPT)
            if not kept or kept["name"] != submission["name"]:
                return None
            job = self.hook.get_job(kept["job_id"])
        except Exception as error:  # noqa: BLE001 - what Airflow keeps saves a search, and nothing more
            self.log.info("The job is looked for by its name, for what Airflow kept of it is of no use: %s", error)
            return None
        # A job may be told without its name.
        return self._chosen(submission, [job] if job.name in {None, submission["name"]} else [])

    def _remember(self, context: Context, submission: dict[str, Any], job_id: str) -> None:
        try:
            if store := context.get("task_state_store"):
                store.set(_KEPT, {"name": submission["name"], "job_id": job_id})
        except Exception as error:  # noqa: BLE001 - a retry finds the job without it
            self.log.info("Airflow did not keep the job's id, so a retry will look for it by its name: %s", error)

    def _sensor(self, job_id: str) -> WasabiJobSensor:
        # Before Airflow 3.3 a sensor takes no None for its default.
        timeout: dict[str, Any] = {} if self.timeout is None else {"timeout": self.timeout}
        return WasabiJobSensor(
            task_id=self.task_id,
            job_id=job_id,
            wasabi_conn_id=self.wasabi_conn_id,
            deferrable=self.deferrable,
            poke_interval=self.poke_interval,
            max_error_count=self.max_error_count,
            fetch_metadata=self.fetch_metadata,
            **timeout,
        )

    def _check_arguments(self) -> None:
        """Refuse what can be refused when the DAG file is parsed: templates and XComs are not known yet."""
        for field in _FIELDS:
            value = getattr(self, field)
            if isinstance(value, Mapping) and field != "services":
                value = submissions.as_far_as_known(value)
            if submissions.is_known(value) and not (field == "name" and value is None):
                self._checked(field, value)
        if submissions.is_known(self.wasabi_conn_id):
            self._check_connection()
        if self.if_exists not in {"reuse", "submit"}:
            raise ValueError(
                f"if_exists of task {self.task_id!r} is {self.if_exists!r}. It must be 'reuse' or 'submit'."
            )
        check_whole("max_error_count", self.max_error_count, least=0, task_id=self.task_id)
        for field in ("poke_interval", "timeout"):
            value = getattr(self, field)
            if isinstance(value, timedelta):
                value = value.total_seconds()
            if value is None and field == "timeout":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f"{field} of task {self.task_id!r} is {value!r}, and must be a number of seconds.")
            if field == "poke_interval":
                check_poke_interval(value, deferrable=self.deferrable, task_id=self.task_id)

    def _check_connection(self) -> None:
        try:
            self.wasabi_conn_id = checked_id(self.wasabi_conn_id)
        except ValueError as error:
            raise ValueError(f"wasabi_conn_id of task {self.task_id!r} {error}. {LOOK_UPSTREAM}") from None

    def _checked(self, field: str, value: object) -> Any:
        return submissions.checked(field, value, of=f" of task {self.task_id!r}")


def chosen(jobs: Iterable[Job], *, if_exists: Literal["reuse", "submit"]) -> Job | None:
    """
    Return the job to wait for, of those that were submitted by one name, or None to submit another.

    :param jobs: the jobs of that name, newest first.
    :param if_exists: whether a completed one will do.
    """
    completed = None
    for job in jobs:
        # What nobody knows is unfinished: to wait for it finds out.
        if job.status is None or not job.status.is_final:
            return job
        if job.status.value == "completed" and if_exists == "reuse":
            completed = completed or job
    return completed


def default_name(ti: Any) -> str:
    """
    Return the name of a task run's job, that no other task run has.

    :param ti: the task instance.
    """
    # No id of a DAG or a task has a slash or a bracket.
    mapped = "" if ti.map_index is None or ti.map_index < 0 else f"[{ti.map_index}]"
    name = f"{ti.dag_id}/{ti.task_id}{mapped}/{ti.run_id}"
    if len(name) <= submissions.LONGEST_TEXT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: submissions.LONGEST_TEXT - len(digest) - 1]}-{digest}"
