"""The operator that submits a batch of files and waits for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSensorTimeout, BaseOperator, conf

from airflow_wasabi_jobs import metrics
from airflow_wasabi_jobs.api import submissions
from airflow_wasabi_jobs.api.exceptions import WasabiApiError, deserialize_error
from airflow_wasabi_jobs.exceptions import WasabiBatchFailed
from airflow_wasabi_jobs.links import WasabiResultsFileLink
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.operators.default_name import default_name, default_name_template
from airflow_wasabi_jobs.triggers import WasabiUnfinishedJobsTrigger
from airflow_wasabi_jobs.waiting.arguments import (
    CHECK_UPSTREAM,
    refuse_templates,
    to_seconds,
    validate_id_argument,
    validate_integer,
    validate_optional_integer,
    validate_poke_interval,
    validate_seconds,
)
from airflow_wasabi_jobs.waiting.deferring import is_trigger_timeout
from airflow_wasabi_jobs.waiting.status_log import log_failure, log_start

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_wasabi_jobs.hooks import WasabiJobsHook
    from airflow_wasabi_jobs.polling import Subscription
    from airflow_wasabi_jobs.submitting.batch_run import BatchResults, BatchRun, FileResult
    from airflow_wasabi_jobs.submitting.file_jobs import FileJobs
    from airflow_wasabi_jobs.waiting.unfinished_jobs import UnfinishedJobs

MAX_LISTED_FAILURES = 100
MAX_DESCRIBED_FAILURES = 10
# A deferred task resumes with the rejections that fit into its state; the other files are submitted and rejected again.
MAX_STORED_REJECTIONS = 1000

# The templated arguments that are not part of a submission.
_OTHER_FIELDS = (
    "source_conn_id",
    "wasabi_conn_id",
    "results_path",
    "max_unfinished_jobs",
    "max_failures",
    "max_error_count",
)


class WasabiSubmitBatchOperator(BaseOperator):
    """
    Submits a batch of files to Wasabi AiR, one job for each file, and waits until all of them have finished.

    The XCom is ``{"batch": "…", "files": 10000, "counts": {"completed": 9988, "failed": 12}, "failures": [{"source":
    "s3://media/monday.mp4", "job_id": "12345", "status": "failed", "error_code": "INTERNAL_ERROR"}, …],
    "more_failures": 0, "results_path": None}``, with at most 100 failures. The XCom ``batch`` holds the name of the
    batch before the first job is submitted.

    Each file gets exactly one job, whatever happens to the task: before it submits, the operator lists the batch, and
    submits only files without a job. After a response that was lost, it looks up the job before it submits the file
    again. A retried or cleared task continues where it stopped: it keeps completed jobs, waits for unfinished ones, and
    submits the files again whose job failed or was cancelled.

    A file that the API does not accept (400, 404, 413 or 422) counts as a failure, with the status ``rejected``, unless
    the first ten files are all rejected with the same response.

    :param sources: the files (templated): a list with a URL ``s3://bucket/key``, or a dict with ``bucket`` and
        ``object_key`` and optionally ``region`` and ``endpoint``, for each file; or the URL of a manifest (str), a text
        file with one URL or one such dict as JSON on each line, such as ``s3://conn_id@bucket/files.txt``. A file that
        is listed twice is submitted once.
    :param destination: bucket for the results (dict, templated): ``bucket`` and ``region``.
    :param services: services that analyse the files (templated), as in :class:`WasabiSubmitJobOperator`.
    :param batch: name of the batch, 1 to 256 characters (str, templated). Default: made of ``[wasabi]
        job_name_prefix``, DAG id, task id, map index and run id.
    :param priority: 1 to 10 (int, templated). Default: 5.
    :param source_conn_id: id of a connection with the keys of sources outside Wasabi (str, templated): the access key
        is its ``login``, the secret key its ``password``. Default: the sources are in Wasabi.
    :param wasabi_conn_id: id of the :ref:`connection <howto/connection:wasabi>` (str, templated). Its user needs the
        IAM policies ``WasabiManageAiR`` and ``WasabiViewAiR``. Default: ``wasabi_default``.
    :param max_unfinished_jobs: how many jobs of the batch may be unfinished at any time (int, templated). When half of
        them have finished, more files are submitted. Default: None, for any number.
    :param submit_concurrency: how many requests are in flight at most while the task submits (int). Default: 8.
    :param max_failures: how many files may fail (int, templated). Default: 0.
    :param fail_fast: whether more failures than that end the task at once (bool), instead of after all files are
        submitted and all jobs have finished. Default: False.
    :param resubmit_failed: whether a retried or cleared task submits files again whose job failed or was cancelled
        (bool). Default: True.
    :param max_error_count: how many errors a completed job may have before its file counts as a failure (int,
        templated). Default: None, for any number.
    :param fetch_metadata: whether the results file has the location of each result (bool). Needs ``results_path``.
        Default: False.
    :param results_path: URL of a file to write when the batch has finished (str, templated), also if it has failed,
        such as ``s3://conn_id@bucket/results.jsonl``. It has a line with a JSON object for each file: ``source``,
        ``job_id``, ``status``, ``error_count``, ``error_code`` and, with ``fetch_metadata``, ``metadata_path``.
        Default: None, for no file. Needs ``wait_for_completion``.
    :param wait_for_completion: whether to wait (bool). If False, the task ends when all files are submitted, and its
        XCom is ``{"batch": "…", "files": 10000}``. Only rejected files count as failures then. Default: True.
    :param deferrable: whether to wait in the triggerer, without a worker (bool). Default: ``[operators]
        default_deferrable``.
    :param poke_interval: seconds between two polls (float or timedelta). Default: 60.
    :param timeout: seconds until the task times out (float or timedelta), with the time that the submission takes.
        Default: ``[sensors] default_timeout``, which is 7 days.
    :param kwargs: arguments of Airflow's ``BaseOperator``.
    :raises ValueError: if an argument is invalid; for a templated argument when the task runs.
    """

    template_fields: Sequence[str] = (
        "sources",
        "destination",
        "services",
        "batch",
        "priority",
        "source_conn_id",
        "wasabi_conn_id",
        "results_path",
        "max_unfinished_jobs",
        "max_failures",
        "max_error_count",
    )
    template_fields_renderers = {"sources": "json", "destination": "json", "services": "json"}  # noqa: RUF012 - as in Airflow
    operator_extra_links = (WasabiResultsFileLink(),)
    ui_color = "#d2f4c3"

    def __init__(
        self,
        *,
        sources: Sequence[str | Mapping[str, str]] | str | XComArg,
        destination: Mapping[str, str] | str | XComArg,
        services: Sequence[str] | Mapping[str, Any] | str | XComArg,
        batch: str | XComArg | None = None,
        priority: int | str | XComArg = 5,
        source_conn_id: str | XComArg | None = None,
        wasabi_conn_id: str | XComArg = "wasabi_default",
        max_unfinished_jobs: int | str | XComArg | None = None,
        submit_concurrency: int = 8,
        max_failures: int | str | XComArg = 0,
        fail_fast: bool = False,
        resubmit_failed: bool = True,
        max_error_count: int | str | XComArg | None = None,
        fetch_metadata: bool = False,
        results_path: str | XComArg | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Templates and XComArgs until they are rendered.
        self.sources: Any = sources
        self.destination: Any = destination
        self.services: Any = services
        self.batch: Any = default_name_template() if batch is None else batch
        self.priority: Any = priority
        self.source_conn_id: Any = source_conn_id
        self.wasabi_conn_id: Any = wasabi_conn_id
        self.max_unfinished_jobs: Any = max_unfinished_jobs
        self.submit_concurrency = submit_concurrency
        self.max_failures: Any = max_failures
        self.fail_fast = fail_fast
        self.resubmit_failed = resubmit_failed
        self.max_error_count: Any = max_error_count
        self.fetch_metadata = fetch_metadata
        self.results_path: Any = results_path
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poke_interval = poke_interval
        self.timeout = timeout
        self._has_default_batch = batch is None
        self._file_jobs: FileJobs | None = None
        self._results: BatchResults | None = None
        self._validate_literal_arguments()

    @cached_property
    def hook(self) -> WasabiJobsHook:
        """The hook of the connection."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        return WasabiJobsHook(self.wasabi_conn_id)

    def execute(self, context: Context) -> Any:
        """Submit the files without a job, and wait for all of them if ``wait_for_completion`` is set."""
        with log_failure():
            timeout_at = time.time() + self._timeout_seconds
            batch = self._validate_rendered(context)
            context["ti"].xcom_push(key="batch", value=batch)
            if self.results_path is not None:
                from airflow_wasabi_jobs.submitting.results_file import check_results_path

                check_results_path(self.results_path, task_id=self.task_id)
            return self._run(self._create_file_jobs(batch), timeout_at, is_retry=context["ti"].try_number > 1)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the triggerer, with the event of the trigger or an error of the scheduler."""
        with log_failure():
            if is_trigger_timeout(next_method, next_kwargs):
                file_jobs = self._create_file_jobs(self._validate_rendered(context), min_job_count=0)
                return self._run(file_jobs, timeout_at=time.time())
            return super().resume_execution(next_method, next_kwargs, context)

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        timeout_at: float | None = None,
        *,
        newest_before_try: str | None = None,
        rejections: dict[str, str] | None = None,
        job_count: int = 0,
    ) -> Any:
        """
        Continue after the trigger's event: submit more files, wait on, or return or raise the outcome.

        :param event: the payload of the event.
        :param timeout_at: when the task times out, in seconds since the epoch.
        :param newest_before_try: when the newest job of the batch was created before this try of the task.
        :param rejections: why the API did not accept files, by the names of their jobs.
        :param job_count: how many jobs the files had when the task was deferred.
        """
        if "error" in event:
            raise deserialize_error(event["error"])
        file_jobs = self._create_file_jobs(
            self._validate_rendered(context),
            newest_before_try=datetime.fromisoformat(newest_before_try) if newest_before_try else None,
            rejections=rejections,
            min_job_count=job_count,
        )
        return self._run(file_jobs, timeout_at or time.time() + self._timeout_seconds)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002 - OpenLineage passes it
        """
        Return the :ref:`lineage <reference/lineage>` of the task, also after a failure. OpenLineage calls this.

        :param task_instance: the task instance.
        """
        from airflow_wasabi_jobs import lineage

        if self._file_jobs is None:
            return None
        manifest = self.sources if isinstance(self.sources, str) else None
        return lineage.files_lineage(self._file_jobs, self._results, manifest=manifest)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    @property
    def _timeout_seconds(self) -> float:
        return conf.getfloat("sensors", "default_timeout") if self.timeout is None else to_seconds(self.timeout)

    def _create_file_jobs(self, batch: str, **state: Any) -> FileJobs:
        from airflow_wasabi_jobs.submitting.file_jobs import FileJobs
        from airflow_wasabi_jobs.submitting.files import read_files

        submission = self.hook.build_submission(
            name=batch,
            # Each file replaces it.
            source={"bucket": "bucket", "object_key": "object_key"},
            destination=self.destination,
            services=self.services,
            priority=self.priority,
            batch=batch,
            source_conn_id=self.source_conn_id,
        )
        files = read_files(self.sources, task_id=self.task_id)
        self._file_jobs = FileJobs(
            files, submission, conn_id=self.wasabi_conn_id, resubmit_failed=self.resubmit_failed, **state
        )
        return self._file_jobs

    def _run(self, file_jobs: FileJobs, timeout_at: float, *, is_retry: bool = False) -> Any:
        """Submit and wait in an event loop, then return the XCom, defer, or raise the failure."""
        if not file_jobs.files:
            return self._finish(file_jobs, [])
        wait, results = asyncio.run(self._submit_and_wait(file_jobs, timeout_at, is_retry=is_retry))
        if wait is not None:
            self._defer(wait, file_jobs, timeout_at)
        return self._finish(file_jobs, results)

    async def _submit_and_wait(
        self, file_jobs: FileJobs, timeout_at: float, *, is_retry: bool
    ) -> tuple[UnfinishedJobs | None, list[FileResult]]:
        """Return what to wait for in the triggerer, or the results."""
        from airflow_wasabi_jobs.polling import Subscription
        from airflow_wasabi_jobs.submitting.batch_run import BatchRun

        async with Subscription(self.wasabi_conn_id, self.hook.aread_settings) as subscription:
            run = BatchRun(
                subscription,
                file_jobs,
                concurrency=self.submit_concurrency,
                max_unfinished_jobs=self.max_unfinished_jobs,
                max_rejections=self.max_failures if self.fail_fast else None,
                is_retry=is_retry,
            )
            wait = None
            try:
                async with asyncio.timeout(max(0.0, timeout_at - time.time())):
                    wait = await self._wait(run, file_jobs, subscription, timeout_at)
            except TimeoutError:
                await self._poll_after_timeout(run, file_jobs)
            if wait is not None:
                return wait, []
            if not self.wait_for_completion:
                return None, await run.collect_results(with_error_counts=False, with_locations=False, max_error_codes=0)
            return None, await run.collect_results(
                with_error_counts=self.results_path is not None or self.max_error_count is not None,
                with_locations=self.fetch_metadata,
                max_error_codes=len(file_jobs.files) if self.results_path is not None else MAX_LISTED_FAILURES,
            )

    async def _poll_after_timeout(self, run: BatchRun, file_jobs: FileJobs) -> None:
        """List the batch a last time. Raise unless all files are done."""
        try:
            await run.refresh()
        except WasabiApiError as error:
            if not error.is_transient:
                raise
            raise self._timeout_error(file_jobs) from error
        if file_jobs.missing() or (self.wait_for_completion and file_jobs.has_unfinished_files):
            raise self._timeout_error(file_jobs)

    async def _wait(
        self, run: BatchRun, file_jobs: FileJobs, subscription: Subscription, timeout_at: float
    ) -> UnfinishedJobs | None:
        """Return when all jobs have finished, or what to wait for in the triggerer."""
        from airflow_wasabi_jobs.waiting.unfinished_jobs import UnfinishedJobs, wait_for_unfinished_jobs

        while True:
            await run.submit_missing()
            files_to_submit = len(file_jobs.missing())
            if not self.wait_for_completion and not files_to_submit:
                return None
            if self.fail_fast and file_jobs.failure_count() > self.max_failures:
                return None
            if not files_to_submit and not file_jobs.has_unfinished_files:
                if await run.is_confirmed():
                    return None
                continue
            wait = UnfinishedJobs(
                batch=file_jobs.batch,
                max_unfinished_jobs=self._max_unfinished_to_resume if files_to_submit else 0,
                failed_jobs=run.listed_failures,
                max_failures=max(0, self.max_failures - file_jobs.failure_count()) if self.fail_fast else None,
                files=len(file_jobs.files),
                files_to_submit=files_to_submit,
            )
            if self.deferrable:
                return wait
            self._log_start("a worker", file_jobs, timeout_at)
            await wait_for_unfinished_jobs(wait, subscription, to_seconds(self.poke_interval))

    @property
    def _max_unfinished_to_resume(self) -> int:
        """When so few jobs are unfinished, more files are submitted: in large steps, because each takes a worker."""
        return (self.max_unfinished_jobs or 0) // 2

    def _defer(self, wait: UnfinishedJobs, file_jobs: FileJobs, timeout_at: float) -> None:
        import msgspec

        seconds_left = timeout_at - time.time()
        if seconds_left <= 0:
            raise self._timeout_error(file_jobs)
        self._log_start("the triggerer", file_jobs, timeout_at)
        metrics.count("deferred_waits")
        newest = file_jobs.newest_before_try
        self.defer(
            trigger=WasabiUnfinishedJobsTrigger(
                wasabi_conn_id=self.wasabi_conn_id,
                poke_interval=to_seconds(self.poke_interval),
                **msgspec.structs.asdict(wait),
            ),
            method_name="execute_complete",
            kwargs={
                "timeout_at": timeout_at,
                "newest_before_try": newest.isoformat() if newest else None,
                "rejections": file_jobs.rejections_by_name(MAX_STORED_REJECTIONS),
                "job_count": file_jobs.job_count,
            },
            timeout=timedelta(seconds=seconds_left),
        )

    def _log_start(self, place: str, file_jobs: FileJobs, timeout_at: float) -> None:
        log_start(f"Batch {file_jobs.batch!r}", place, to_seconds(self.poke_interval), timeout_at)

    def _finish(self, file_jobs: FileJobs, results: list[FileResult]) -> dict[str, Any]:
        """Write the results file, and return the XCom or raise the failure."""
        from airflow_wasabi_jobs.submitting.batch_run import BatchResults
        from airflow_wasabi_jobs.submitting.results_file import write_results

        if self.results_path is not None:
            write_results(self.results_path, results, with_locations=self.fetch_metadata)
            LOG.info("Batch %r: the results are in %s.", file_jobs.batch, self.results_path)
        failures = [result for result in results if self._is_failure(result)]
        self._results = BatchResults(results, failures, self.results_path)
        if len(failures) > self.max_failures:
            raise WasabiBatchFailed(self._describe_failures(file_jobs, failures))
        if not self.wait_for_completion:
            return {"batch": file_jobs.batch, "files": len(file_jobs.files)}
        return {
            "batch": file_jobs.batch,
            "files": len(file_jobs.files),
            "counts": file_jobs.counts(),
            "failures": [failure.to_xcom() for failure in failures[:MAX_LISTED_FAILURES]],
            "more_failures": max(0, len(failures) - MAX_LISTED_FAILURES),
            "results_path": self.results_path,
        }

    def _is_failure(self, result: FileResult) -> bool:
        if not self.wait_for_completion:
            return result.status == "rejected"
        if result.status in {"failed", "cancelled", "rejected"}:
            return True
        is_limited = self.max_error_count is not None and result.error_count is not None
        return is_limited and (result.error_count or 0) > (self.max_error_count or 0)

    def _describe_failures(self, file_jobs: FileJobs, failures: list[FileResult]) -> str:
        described = [
            f"{result.source.removeprefix('s3://')} ("
            + ", ".join(filter(None, (result.job_id and f"job {result.job_id}", _reason(result))))
            + ")"
            for result in failures[:MAX_DESCRIBED_FAILURES]
        ]
        more = len(failures) - len(described)
        results = f" All results are in {self.results_path}." if self.results_path is not None else ""
        return (
            f"Batch {file_jobs.batch!r} (connection {self.wasabi_conn_id!r}): {len(failures)} of "
            f"{len(file_jobs.files)} files failed, more than max_failures={self.max_failures}: {', '.join(described)}"
            f"{f' and {more} more' if more else ''}.{results} Not retried. Clear this task to submit these files "
            "again, or raise max_failures if the other results are enough."
        )

    def _timeout_error(self, file_jobs: FileJobs) -> AirflowSensorTimeout:
        return AirflowSensorTimeout(
            f"Batch {file_jobs.batch!r} (connection {self.wasabi_conn_id!r}) did not finish within "
            f"timeout={self._timeout_seconds:.0f} s ({file_jobs.finished_count():,} of {len(file_jobs.files):,} files "
            "done). Its jobs may still be running. Raise the timeout, or clear this task to continue."
        )

    def _validate_rendered(self, context: Context) -> str:
        """Validate the templated arguments after they are rendered, and return the name of the batch."""
        for field in _OTHER_FIELDS:
            self._validate_other_field(field)
        batch = self._validate_field("batch", default_name(context["ti"]) if self._has_default_batch else self.batch)
        if batch is None:
            raise ValueError(
                f"batch of task {self.task_id!r} is None, but must be a non-empty string. {CHECK_UPSTREAM}"
            )
        return str(batch)

    def _validate_literal_arguments(self) -> None:
        """Validate what is known when the DAG file is parsed: not templates and XComArgs."""
        for field in ("destination", "services", "batch", "priority"):
            value = getattr(self, field)
            if isinstance(value, Mapping) and field != "services":
                value = submissions.replace_templates(value)
            if submissions.is_literal(value):
                self._validate_field(field, value)
        self._validate_literal_sources()
        for field in _OTHER_FIELDS:
            if submissions.is_literal(getattr(self, field)):
                self._validate_other_field(field)
        refuse_templates(
            self.task_id,
            submit_concurrency=self.submit_concurrency,
            fail_fast=self.fail_fast,
            resubmit_failed=self.resubmit_failed,
            fetch_metadata=self.fetch_metadata,
            wait_for_completion=self.wait_for_completion,
            deferrable=self.deferrable,
            poke_interval=self.poke_interval,
            timeout=self.timeout,
        )
        validate_integer("submit_concurrency", self.submit_concurrency, minimum=1, task_id=self.task_id)
        if self.fetch_metadata and self.results_path is None:
            raise ValueError(
                f"fetch_metadata of task {self.task_id!r} needs results_path: the locations are in the results file."
            )
        if self.results_path is not None and not self.wait_for_completion:
            raise ValueError(
                f"results_path of task {self.task_id!r} needs wait_for_completion: there are no results before."
            )
        validate_seconds("poke_interval", self.poke_interval, task_id=self.task_id)
        validate_poke_interval(to_seconds(self.poke_interval), deferrable=self.deferrable, task_id=self.task_id)
        if self.timeout is not None:
            validate_seconds("timeout", self.timeout, task_id=self.task_id)

    def _validate_literal_sources(self) -> None:
        owner = f"of task {self.task_id!r}"
        if isinstance(self.sources, str):
            if submissions.is_literal(self.sources) and "://" not in self.sources:
                raise ValueError(f"sources {owner} is {self.sources!r}, but must be a list or the URL of a manifest.")
        elif self.sources is None or isinstance(self.sources, Mapping):
            raise ValueError(f"sources {owner} must be a list of files, or the URL of a manifest.")
        elif isinstance(self.sources, list | tuple):
            for number, entry in enumerate(self.sources):
                literal = submissions.replace_templates(entry) if isinstance(entry, Mapping) else entry
                if submissions.is_literal(literal) and not isinstance(literal, list | tuple):
                    submissions.parse_file(f"sources[{number}] {owner}", literal)

    def _validate_other_field(self, field: str) -> None:
        value = getattr(self, field)
        match field:
            case "max_failures":
                value = validate_integer(field, value, minimum=0, task_id=self.task_id)
            case "max_unfinished_jobs":
                value = validate_optional_integer(field, value, minimum=1, task_id=self.task_id)
            case "max_error_count":
                value = validate_optional_integer(field, value, minimum=0, task_id=self.task_id)
            case "results_path":
                if value is not None and (not isinstance(value, str) or "://" not in value):
                    raise ValueError(
                        f"results_path of task {self.task_id!r} is {value!r}, but must be the URL of a file."
                    )
            case "source_conn_id" if value is None:
                pass
            case _:
                value = validate_id_argument(field, value, "connection id", task_id=self.task_id)
        setattr(self, field, value)

    def _validate_field(self, field: str, value: object) -> Any:
        return submissions.validate_field(field, value, owner=f" of task {self.task_id!r}")


def _reason(result: FileResult) -> str:
    if result.status == "completed":
        return f"completed with {result.error_count} errors"
    if result.status == "rejected":
        return f"rejected: {result.error_code}"
    return result.error_code or result.status
