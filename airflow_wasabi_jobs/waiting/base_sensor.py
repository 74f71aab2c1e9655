"""The base of both sensors: a wait has the same outcomes in all modes."""

from __future__ import annotations

import inspect
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_wasabi_jobs.api.submissions import is_literal
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.waiting.arguments import refuse_templates, validate_id_argument, validate_poke_interval
from airflow_wasabi_jobs.waiting.deferring import defer_until, is_trigger_timeout
from airflow_wasabi_jobs.waiting.status_log import log_failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg
    from airflow.triggers.base import BaseTrigger

    from airflow_wasabi_jobs.hooks import WasabiJobsHook
    from airflow_wasabi_jobs.waiting.wait import Wait

# The arguments of Airflow's sensors that change a wait. Airflow takes any text for true.
_AIRFLOW_ARGUMENTS = (
    "poke_interval",
    "timeout",
    "mode",
    "soft_fail",
    "never_fail",
    "silent_fail",
    "exponential_backoff",
    "max_wait",
)
# A factor of 2**62 exceeds any max_wait, and a float cannot hold many more.
_MAX_BACKOFF_POKES = 64


class WasabiBaseSensor(BaseSensorOperator):
    """
    Waits in any mode of a sensor. Subclasses define what it waits for.

    A failure of the job or batch (``AirflowFailException``) is final, and ``soft_fail`` skips it, as it does a timeout.
    A permanent error of the API fails the task with its retries, and ``soft_fail`` does not skip it. A transient error
    does not end the wait.

    :param wasabi_conn_id: id of the connection (str, templated).
    :param deferrable: whether to wait in the triggerer (bool).
    :param post_execute: what Airflow calls after ``execute`` (callable). Default: None.
    :raises ValueError: if an argument is invalid; for a templated argument when the task runs.
    """

    def __init__(
        self,
        *,
        wasabi_conn_id: str | XComArg,
        deferrable: bool,
        post_execute: Callable[..., None] | None = None,
        **kwargs: Any,
    ) -> None:
        given = {**(kwargs.get("default_args") or {}), **kwargs}
        arguments = {name: given[name] for name in _AIRFLOW_ARGUMENTS if name in given}
        refuse_templates(kwargs.get("task_id"), deferrable=deferrable, **arguments)
        super().__init__(post_execute=post_execute, **kwargs)
        # Airflow keeps the function in a private attribute.
        self.has_post_execute = post_execute is not None
        self.wasabi_conn_id: Any = wasabi_conn_id
        self.deferrable = deferrable
        # The event of the trigger, until a poke reads it.
        self._event: dict[str, Any] | None = None
        if is_literal(wasabi_conn_id):
            self._validate_id("wasabi_conn_id", wasabi_conn_id, "connection id")
        validate_poke_interval(self.poke_interval, deferrable=deferrable, task_id=self.task_id)

    @cached_property
    @abstractmethod
    def _wait(self) -> Wait:
        """What polls in a worker."""

    @abstractmethod
    def _create_trigger(self) -> BaseTrigger:
        """Return what polls in the triggerer."""

    def _validate_rendered(self) -> None:
        """Validate the templated arguments after they are rendered."""
        self.wasabi_conn_id = self._validate_id("wasabi_conn_id", self.wasabi_conn_id, "connection id")

    @cached_property
    def hook(self) -> WasabiJobsHook:
        """The hook of the connection."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        return WasabiJobsHook(self.wasabi_conn_id)

    def execute(self, context: Context) -> Any:
        """Wait, and return the XCom."""
        with self._skip_as_configured():
            self._validate_rendered()
            if self.deferrable:
                return self._poke_or_defer(context, time.time() + self.timeout)
        if not self.reschedule or _is_first_poke(context):
            place = "a worker, with a reschedule after each poll" if self.reschedule else "a worker"
            self._wait.log_start(place, self.poke_interval, time.time() + self.timeout)
        # Unwrapped, because Airflow warns of a call of execute() that is not its own.
        wait_in_worker = inspect.unwrap(BaseSensorOperator.execute)
        try:
            with log_failure():
                return wait_in_worker(self, context)
        except AirflowSensorTimeout as timeout:
            with self._skip_as_configured():
                raise self._wait.timeout_error() from timeout
        except AirflowTaskTimeout:
            # It may come between two pokes, where the base class does not handle it.
            with self._skip_as_configured():
                raise
        except AirflowSkipException as skip:
            *_, (frame, _) = traceback.walk_tb(skip.__traceback__)
            if frame.f_code is not wait_in_worker.__code__:
                # The poke of a subclass has raised it.
                raise
            # The base class does not say what it skips. Without a cause it is the timeout.
            reason = skip.__cause__ or self._wait.timeout_error()
            raise _skip(reason, self._skip_flag()) from skip.__cause__

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - Airflow passes it
        """
        Poll once. A task that resumes after the triggerer reads the trigger's event instead.

        In deferrable mode the task pokes before it defers, and when it resumes.

        :return: whether the wait has succeeded, and the XCom.
        """
        event, self._event = self._event, None
        xcom = self._wait.poll() if event is None else self._wait.read_event(event)
        return PokeReturnValue(is_done=xcom is not None, xcom_value=xcom)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the triggerer, with the event of the trigger or an error of the scheduler."""
        with self._skip_as_configured():
            self._validate_rendered()
            if is_trigger_timeout(next_method, next_kwargs):
                return _xcom(self._wait.poll_after_timeout(lambda: self.poke(context)))
            # Not that of BaseSensorOperator, which with soft_fail skips every error of the triggerer.
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)

    def execute_complete(self, context: Context, event: dict[str, Any], timeout_at: float | None = None) -> Any:
        """
        Return or raise the outcome of the trigger's event, by a poke that reads it.

        :param event: the payload of the event.
        :param timeout_at: when the wait times out, in seconds since the epoch.
        """
        self._event = event
        return self._poke_or_defer(context, timeout_at or time.time() + self.timeout)

    def _poke_or_defer(self, context: Context, timeout_at: float) -> Any:
        result: PokeReturnValue | bool = False
        try:
            result = self.poke(context)
        except (AirflowFailException, AirflowSensorTimeout, AirflowSkipException):
            raise
        except Exception as error:
            if not self.silent_fail:
                raise
            self._wait.log_silenced_error(error)
        if not result:
            trigger = self._create_trigger()
            defer_until(self, self._wait, trigger, poke_interval=self.poke_interval, timeout_at=timeout_at)
        return _xcom(result)

    def _get_next_poke_interval(self, started_at: Any, run_duration: Any, poke_count: int) -> float:
        # Airflow has no public way to limit the exponent. In 2.11 to 3.3 it overflows after about a thousand pokes.
        try:
            return float(super()._get_next_poke_interval(started_at, run_duration, min(poke_count, _MAX_BACKOFF_POKES)))
        except OverflowError:
            # In reschedule mode Airflow counts the pokes itself, by the time that has passed.
            return float(super()._get_next_poke_interval(started_at, lambda: 0.0, 1))

    @contextmanager
    def _skip_as_configured(self) -> Iterator[None]:
        """Do in every mode what ``BaseSensorOperator.execute`` does in poke mode for soft_fail and never_fail."""
        with log_failure():
            try:
                yield
            except (AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout) as outcome:
                if not (self.soft_fail or self.never_fail):
                    raise
                raise _skip(outcome, self._skip_flag()) from outcome
            except AirflowSkipException:
                raise
            except Exception as error:
                if not self.never_fail:
                    raise
                raise _skip(error, "never_fail") from error

    def _skip_flag(self) -> str:
        return "soft_fail" if self.soft_fail else "never_fail"

    def _validate_id(self, field: str, value: object, kind: str) -> str:
        return validate_id_argument(field, value, kind, task_id=self.task_id)


def _skip(reason: BaseException, flag: str) -> AirflowSkipException:
    message = f"{reason} Skipping because {flag} is set."
    LOG.warning("%s", message)
    return AirflowSkipException(message)


def _is_first_poke(context: Context) -> bool:
    # Airflow 2.11 offers no public way to find out.
    get_first_reschedule_date = getattr(context["ti"], "get_first_reschedule_date", None)
    return get_first_reschedule_date is not None and get_first_reschedule_date(context) is None


def _xcom(result: PokeReturnValue | bool) -> Any:
    return result.xcom_value if isinstance(result, PokeReturnValue) else None
