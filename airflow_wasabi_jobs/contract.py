"""The contract of a wait: how it ends, the same in all modes, whatever is waited for."""

from __future__ import annotations

import inspect
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
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
from airflow_wasabi_jobs.story import Story

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.triggers.base import BaseTrigger

    from airflow_wasabi_jobs.hooks import WasabiJobsHook

# What the scheduler says of a deferred task whose time is up: Airflow 3, and 2.11, which makes it a plain
# TaskDeferralError.
_TIME_IS_UP = {"Trigger timeout", "Trigger/execution timeout"}

Xcom = dict[str, Any]


class WasabiWait(BaseSensorOperator):
    """
    A sensor that keeps the contract of a wait. What it waits for, its subclasses say.

    A verdict (``AirflowFailException``) ends it without a retry, and skips it with ``soft_fail``; so does a
    time-out. An error that a person has to see fails it with its retries, and is never skipped by
    ``soft_fail``. Trouble that may pass ends nothing.

    :param wasabi_conn_id: the connection to ask with (templated).
    :param deferrable: whether to wait in the triggerer. Default: ``[operators] default_deferrable``.
    :raises ValueError: if an argument can't be used; if it is templated, when the task runs.
    """

    def __init__(
        self,
        *,
        wasabi_conn_id: str = "wasabi_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.wasabi_conn_id = wasabi_conn_id
        self.deferrable = deferrable
        if wasabi_conn_id is None or isinstance(wasabi_conn_id, str):
            self._checked_id("wasabi_conn_id", wasabi_conn_id)
        check_poke_interval(self.poke_interval, deferrable=deferrable, task_id=self.task_id)

    @abstractmethod
    def _look(self) -> Xcom | None:
        """Return the XCom if what is waited for is over, or None. Raise a verdict or what went wrong in asking."""

    @abstractmethod
    def _outcome(self, event: dict[str, Any]) -> Xcom | None:
        """Make the same of the trigger's event."""

    @abstractmethod
    def _trigger(self) -> BaseTrigger:
        """Return what waits in the triggerer."""

    @abstractmethod
    def _subject(self) -> str:
        """Return what is waited for, as the log calls it, such as ``Job 12345``."""

    def _check_rendered(self) -> None:
        self.wasabi_conn_id = self._checked_id("wasabi_conn_id", self.wasabi_conn_id)

    @cached_property
    def hook(self) -> WasabiJobsHook:
        """The hook that asks with the keys of the connection."""
        from airflow_wasabi_jobs.hooks import WasabiJobsHook

        return WasabiJobsHook(self.wasabi_conn_id)

    def execute(self, context: Context) -> Any:
        """Wait, and return the XCom."""
        return self.wait(context)

    def wait(self, context: Context) -> Any:
        """Do what ``execute`` does, which Airflow lets nobody else call than itself."""
        with self._skipping_as_asked():
            self._check_rendered()
            if self.deferrable:
                return self._over_or_defer(self._look, time.time() + self.timeout)
        try:
            return inspect.unwrap(BaseSensorOperator.execute)(self, context)
        except AirflowSensorTimeout as time_out:
            with self._skipping_as_asked():
                raise self._timed_out() from time_out
        except AirflowSkipException as skip:
            # The base class does not say what it skips for; without a cause it is the time-out.
            raise AirflowSkipException(f"{skip.__cause__ or self._timed_out()} {skip}") from skip.__cause__

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - Airflow hands it over
        """Look once."""
        xcom = self._patiently(self._look)
        return PokeReturnValue(is_done=xcom is not None, xcom_value=xcom)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after the triggerer, with what the trigger or the scheduler has to say."""
        with self._skipping_as_asked():
            self._check_rendered()
            if next_method == "__fail__" and (next_kwargs or {}).get("error") in _TIME_IS_UP:
                return self._last_look()
            # Past BaseSensorOperator, which with soft_fail would skip whatever went wrong in the triggerer.
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)

    def execute_complete(self, context: Context, event: dict[str, Any] | str, until: float | None = None) -> Any:  # noqa: ARG002 - Airflow hands it over
        """
        Make of the trigger's event what a poke would have made of it.

        :param event: what the trigger fired. Of one that ends the task by itself, ``dag.test()`` hands over a
            string only: it is looked again then.
        :param until: when the wait times out, in seconds since the epoch.
        """

        def told() -> Xcom | None:
            if isinstance(event, str):
                return self._look()
            if "error" in event:
                raise errors.from_event(event["error"])
            return self._outcome(event)

        return self._over_or_defer(told, until or time.time() + self.timeout)

    def _over_or_defer(self, look: Callable[[], Xcom | None], until: float) -> Xcom:
        try:
            xcom = self._patiently(look)
        except AirflowFailException:
            raise
        except Exception as error:
            if not self.silent_fail:
                raise
            self._say_silent(error)
            xcom = None
        if xcom is None:
            self._defer(until)
        return xcom

    def _last_look(self) -> Xcom:
        """Look once more when the time is up, as the base class does when it pokes."""
        xcom, error = None, None
        try:
            xcom = self._patiently(self._look)
        except AirflowFailException:
            raise
        except Exception as cause:  # noqa: BLE001 - the time is up all the same, and this is why nobody knows more
            error = cause
        if xcom is None:
            raise self._timed_out() from error
        return xcom

    def _patiently(self, look: Callable[[], Xcom | None]) -> Xcom | None:
        """Look, and take trouble that may pass for not being over yet."""
        try:
            return look()
        except errors.AirError as error:
            self._story.trouble = error
            if not error.is_passing:
                raise
            self._story.troubled(error)
            return None

    def _get_next_poke_interval(self, started_at: Any, run_duration: Any, poke_count: int) -> float:
        # Airflow doubles without end, and after a thousand pokes no float can hold that.
        return float(super()._get_next_poke_interval(started_at, run_duration, min(poke_count, 64)))

    def _defer(self, until: float) -> NoReturn:
        left = until - time.time()
        if left <= 0:
            raise self._timed_out()
        self.defer(
            trigger=self._trigger(),
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
        return Story(self.log, self._subject())

    def _say_silent(self, error: Exception) -> None:
        self._story.trouble = error
        self.log.error("%s The wait goes on, for silent_fail is set.", error)

    def _timed_out(self) -> AirflowSensorTimeout:
        seen = f": when last seen it was {self._story.state}" if self._story.state else ""
        trouble = f"The last look failed: {self._story.trouble} If that lasts, mend it. " if self._story.trouble else ""
        return AirflowSensorTimeout(
            f"{self._subject()} on connection {self.wasabi_conn_id!r} was not over within the sensor's timeout of "
            f"{self.timeout:.0f} seconds{seen}. {trouble}"
            "It may go on at Wasabi: raise timeout, or clear this task to wait for it again."
        )

    def _checked_id(self, field: str, value: object) -> str:
        try:
            return checked_id(value)
        except ValueError as error:
            raise ValueError(f"{field} of task {self.task_id!r} {error}. {LOOK_UPSTREAM}") from None


def check_whole(field: str, value: object, *, least: int, task_id: str) -> None:
    """Refuse what is neither None nor a whole number that is large enough."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise ValueError(
            f"{field} of task {task_id!r} is {value!r}. It must be None or a whole number of at least {least}."
        )


def check_poke_interval(seconds: float, *, deferrable: bool, task_id: str) -> None:
    """Refuse an interval that a trigger can't keep."""
    if deferrable and seconds <= 0:
        raise ValueError(
            f"poke_interval of task {task_id!r} is {seconds!r} seconds. With deferrable=True it must be more than 0."
        )


LOOK_UPSTREAM = "If it is templated or comes from an XCom, look at what the task upstream returned."
