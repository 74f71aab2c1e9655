"""Wait for Wasabi AiR jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.api.ids import checked_id
from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.story import Story
from airflow_wasabi_jobs.triggers import WasabiJobTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_wasabi_jobs.api.models import JobReport
    from airflow_wasabi_jobs.hooks import WasabiJobsHook

# What the scheduler says of a deferred task whose time is up: Airflow 3, and 2.11, which makes it a plain
# TaskDeferralError.
_TIME_IS_UP = {"Trigger timeout", "Trigger/execution timeout"}


class WasabiJobSensor(BaseSensorOperator):
    """
    Waits until a Wasabi AiR job is completed, in any mode that a sensor has.

    The XCom is the job's report: ``{"job_id": "12345", "status": "completed", "error_count": 0}``.

    A job that failed or was cancelled fails the task, without a retry: the answer is final. An error
    that a person has to see (a wrong key, an unknown job, a bad connection) fails it with its retries.
    Trouble that may pass (too many requests, a server error, a broken network) fails nothing: the wait
    goes on, and ``timeout`` is its bound. With ``soft_fail=True`` a failed or cancelled job and a
    time-out skip the task, but an error still fails it.

    :param job_id: the id of the job to wait for (templated).
    :param wasabi_conn_id: the :ref:`connection <howto/connection:wasabi>` to ask with (templated).
    :param max_error_count: how many errors a completed job may have. Default: any number.
    :param deferrable: whether to wait in the triggerer, where a wait takes no worker. Default: what
        ``[operators] default_deferrable`` says. Then ``mode`` means nothing, and ``poke_interval`` must
        be more than 0.
    :param end_from_trigger: whether a job that completed within ``max_error_count`` ends a deferred task
        right in the triggerer, without a worker. What it costs: Airflow does not run the task's
        ``on_success_callback`` then. Every other outcome resumes on a worker, as always.
    :raises ValueError: if an argument can't be used; if it is templated, when the task runs.
    """

    template_fields: Sequence[str] = ("job_id", "wasabi_conn_id")
    ui_color = "#d2f4c3"

    def __init__(
        self,
        *,
        job_id: str,
        wasabi_conn_id: str = "wasabi_default",
        max_error_count: int | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        end_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.wasabi_conn_id = wasabi_conn_id
        self.max_error_count = max_error_count
        self.deferrable = deferrable
        self.end_from_trigger = end_from_trigger
        self._check_arguments()

    @cached_property
    def hook(self) -> WasabiJobsHook:
        """The hook that asks with the keys of the connection."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        return WasabiJobsHook(self.wasabi_conn_id)

    def execute(self, context: Context) -> Any:
        """Wait, and return the report of the completed job."""
        with self._skipping_as_asked():
            self._check_rendered()
            if self.deferrable:
                return self._look_or_defer(time.time() + self.timeout)
        try:
            return super().execute(context)
        except AirflowSensorTimeout as time_out:
            with self._skipping_as_asked():
                raise self._timed_out() from time_out
        except AirflowSkipException as skip:
            # The base class does not say what it skips for; without a cause it is the time-out.
            raise AirflowSkipException(f"{skip.__cause__ or self._timed_out()} {skip}") from skip.__cause__

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - Airflow hands it over
        """Look once. Done, if the job completed as it should."""
        report = self._ask()
        if report is None or not report.status.is_final:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._verdict(report))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the triggerer, with what :class:`WasabiJobTrigger` or the scheduler has to say."""
        with self._skipping_as_asked():
            self._check_rendered()
            if next_method == "__fail__" and (next_kwargs or {}).get("error") in _TIME_IS_UP:
                return self._last_look()
            # Past BaseSensorOperator, which with soft_fail would skip whatever went wrong in the triggerer.
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)

    def execute_complete(self, context: Context, event: dict[str, Any] | str, until: float | None = None) -> Any:  # noqa: ARG002 - Airflow hands it over
        """
        Make of the trigger's event what a poke would have made of it.

        :param event: what :class:`WasabiJobTrigger` fired. Of one that ends the task by itself,
            ``dag.test()`` hands over a string only: the job is looked at again then.
        :param until: when the wait times out, in seconds since the epoch.
        """
        if isinstance(event, str):
            return self._look_or_defer(until or time.time() + self.timeout)
        if "error" in event:
            error = errors.from_event(event["error"])
            if not self.silent_fail:
                raise error
            self._say_silent(error)
            self._defer(until or time.time() + self.timeout)
        import msgspec

        from airflow_wasabi_jobs.api.models import JobReport

        return self._verdict(msgspec.convert(event, JobReport))

    def _look_or_defer(self, until: float) -> dict[str, Any]:
        report = self._look()
        if report is None:
            self._defer(until)
        return self._verdict(report)

    def _last_look(self) -> dict[str, Any]:
        """Look once more when the time is up, as the base class does when it pokes."""
        report, error = None, None
        try:
            report = self._look()
        except Exception as cause:  # noqa: BLE001 - the time is up all the same, and this is why nobody knows more
            error = cause
        if report is not None:
            return self._verdict(report)
        raise self._timed_out() from error

    def _look(self) -> JobReport | None:
        """Return the report of a job that is over, or None if the wait goes on."""
        try:
            report = self._ask()
        except Exception as error:
            if not self.silent_fail:
                raise
            self._say_silent(error)
            return None
        return report if report and report.status.is_final else None

    def _get_next_poke_interval(self, started_at: Any, run_duration: Any, poke_count: int) -> float:
        # Airflow doubles without end, and after a thousand pokes no float can hold that.
        return float(super()._get_next_poke_interval(started_at, run_duration, min(poke_count, 64)))

    def _ask(self) -> JobReport | None:
        """Return the job's report, or None if there is trouble that may pass."""
        try:
            report = self.hook.get_job_status(self.job_id)
        except errors.AirError as error:
            self._story.trouble = error
            if not error.is_passing:
                raise
            self._story.troubled(error)
            return None
        self._story.answered(report.status, report.error_count)
        return report

    def _defer(self, until: float) -> NoReturn:
        left = until - time.time()
        if left <= 0:
            raise self._timed_out()
        self.defer(
            trigger=WasabiJobTrigger(
                job_id=self.job_id,
                wasabi_conn_id=self.wasabi_conn_id,
                poke_interval=self.poke_interval,
                exponential_backoff=self.exponential_backoff,
                max_wait=self.max_wait.total_seconds() if self.max_wait else None,
                # The trigger would push the XCom whatever the task says of that.
                end_from_trigger=self.end_from_trigger and self.do_xcom_push,
                max_error_count=self.max_error_count,
            ),
            method_name="execute_complete",
            kwargs={"until": until},
            timeout=timedelta(seconds=left),
        )
        raise AssertionError("defer() does not return")

    @contextmanager
    def _skipping_as_asked(self) -> Iterator[None]:
        """Do for a deferrable sensor what ``BaseSensorOperator.execute`` does for one that pokes."""
        try:
            yield
        except (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout) as verdict:
            if not (self.soft_fail or self.never_fail):
                raise
            flag = "soft_fail" if self.soft_fail else "never_fail"
            raise AirflowSkipException(f"{verdict} Skipping, for {flag} is set.") from verdict
        except AirflowSkipException:
            raise
        except Exception as error:
            if not self.never_fail:
                raise
            raise AirflowSkipException(f"{error} Skipping, for never_fail is set.") from error

    @cached_property
    def _story(self) -> Story:
        return Story(self.log, self.job_id)

    def _say_silent(self, error: Exception) -> None:
        self._story.trouble = error
        self.log.error("%s The wait goes on, for silent_fail is set.", error)

    def _verdict(self, report: JobReport) -> dict[str, Any]:
        return verdict(report, wasabi_conn_id=self.wasabi_conn_id, max_error_count=self.max_error_count)

    def _timed_out(self) -> AirflowSensorTimeout:
        seen = f": when last seen it was {self._story.status}" if self._story.status else ""
        trouble = f"The last look failed: {self._story.trouble} If that lasts, mend it. " if self._story.trouble else ""
        return AirflowSensorTimeout(
            f"Job {self.job_id!r} on connection {self.wasabi_conn_id!r} was not over within the sensor's timeout of "
            f"{self.timeout:.0f} seconds{seen}. {trouble}"
            "It may go on at Wasabi: raise timeout, or clear this task to wait for it again."
        )

    def _check_arguments(self) -> None:
        """Refuse what can be refused when the DAG file is parsed: templates and XComs are not known yet."""
        for field, value in (("job_id", self.job_id), ("wasabi_conn_id", self.wasabi_conn_id)):
            if value is None or isinstance(value, str):
                self._checked(field, value)
        if self.max_error_count is not None and (
            not isinstance(self.max_error_count, int)
            or isinstance(self.max_error_count, bool)
            or self.max_error_count < 0
        ):
            raise ValueError(
                f"max_error_count of task {self.task_id!r} is {self.max_error_count!r}. "
                "It must be None or a whole number that is not negative."
            )
        if self.deferrable and self.poke_interval <= 0:
            raise ValueError(
                f"poke_interval of task {self.task_id!r} is {self.poke_interval!r} seconds. "
                "With deferrable=True it must be more than 0."
            )

    def _check_rendered(self) -> None:
        self.job_id = self._checked("job_id", self.job_id)
        self.wasabi_conn_id = self._checked("wasabi_conn_id", self.wasabi_conn_id)

    def _checked(self, field: str, value: object) -> str:
        try:
            return checked_id(value)
        except ValueError as error:
            raise ValueError(
                f"{field} of task {self.task_id!r} {error}. If it is templated or comes from an XCom, look at what "
                "the task upstream returned."
            ) from None


def verdict(report: JobReport, *, wasabi_conn_id: str, max_error_count: int | None) -> dict[str, Any]:
    """
    Return the XCom of a wait for a job that is over, or raise what the wait ends with.

    :param report: the report of the job, whose status is final.
    :param wasabi_conn_id: the connection's id, for the message.
    :param max_error_count: how many errors a completed job may have, or None for any number.
    :raises WasabiJobFailed: if the job failed, or completed with too many errors.
    :raises WasabiJobCancelled: if the job was cancelled.
    """
    job = f"Job {report.job_id!r} on connection {wasabi_conn_id!r}"
    many = f"{report.error_count} error{'' if report.error_count == 1 else 's'}"
    advice = "That is final: to have it analysed after all, submit a new job and wait for that one."
    if report.is_completed_within(max_error_count):
        return report.as_xcom()
    match report.status.value:
        case "completed":
            raise WasabiJobFailed(
                f"{job} completed with {many}, and max_error_count is {max_error_count}. Look at the job's errors: "
                "if its result is good enough, raise max_error_count; if not, submit a new job."
            )
        case "failed":
            raise WasabiJobFailed(f"{job} failed, with {many}. {advice}")
        case "cancelled":
            raise WasabiJobCancelled(f"{job} was cancelled, with {many} by then. {advice}")
        case status:
            raise ValueError(f"{job} is {status}, which is no verdict: the wait should have gone on.")
