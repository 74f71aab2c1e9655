"""The trigger that starts DAGs when jobs finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.triggers.lazy_modules import import_lazy_modules
from airflow_wasabi_jobs.watching import arguments

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2
    BaseEventTrigger = BaseTrigger  # type: ignore[misc,assignment] # a trigger of it raises

if TYPE_CHECKING:
    from airflow.triggers.shared_stream import SharedStreamProducer

    from airflow_wasabi_jobs.watching.polls import SharedPoll


class WasabiJobsFinishedTrigger(BaseEventTrigger):
    """
    Fires an event for each Wasabi AiR job that finishes, no matter who submitted it. For an ``AssetWatcher``, from
    Airflow 3 on.

    The payload is ``{"job_id", "status", "error_count", "name", "batch", "source", "created", "completed",
    "metadata_path", "destination"}``. The last two are None unless the job completed and the API provides the location
    of the result within 10 seconds. Any other but the first three is None if the API does not name it.

    It never raises: after an error it polls again, and it reads the connection before that. The last of several events
    comes 10 seconds after the others, because Airflow keeps all but the first of them until another event comes.

    :param wasabi_conn_id: id of the connection (str). Default: ``wasabi_default``.
    :param batch: only jobs of this batch, up to 256 characters (str). Default: None, for all.
    :param name_prefix: only jobs whose name begins with this, up to 256 characters (str). Default: None, for all.
    :param statuses: the statuses that fire an event: ``completed``, ``failed``, ``cancelled`` (list or tuple of str).
        Default: all three.
    :param poke_interval: seconds between two polls, more than 0 (float). Default: 60.
    :param lookback: at the first start, jobs that finished so many seconds before it fire an event, too (float).
        Before Airflow 3.3 at each start, because only from then on the trigger stores which jobs it has reported.
        Default: 3600.
    :raises ValueError: if an argument is invalid.
    :raises RuntimeError: on Airflow 2.
    """

    def __init__(
        self,
        *,
        wasabi_conn_id: str = "wasabi_default",
        batch: str | None = None,
        name_prefix: str | None = None,
        statuses: Sequence[str] = arguments.TERMINAL_STATUSES,
        poke_interval: float = 60,
        lookback: float = 3600,
    ) -> None:
        if BaseEventTrigger is BaseTrigger:
            raise RuntimeError("WasabiJobsFinishedTrigger needs Airflow 3: Airflow 2 has no AssetWatcher.")
        super().__init__()  # type: ignore[no-untyped-call] # untyped in Airflow
        arguments.validate_text("batch", batch)
        arguments.validate_text("name_prefix", name_prefix)
        arguments.validate_statuses(statuses)
        arguments.validate_seconds("poke_interval", poke_interval, is_zero_allowed=False)
        arguments.validate_seconds("lookback", lookback, is_zero_allowed=True)
        self.wasabi_conn_id = wasabi_conn_id
        self.batch = batch
        self.name_prefix = name_prefix
        self.statuses = sorted(set(statuses))
        self.poke_interval = poke_interval
        self.lookback = lookback

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class and the arguments of this trigger."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "wasabi_conn_id": self.wasabi_conn_id,
                "batch": self.batch,
                "name_prefix": self.name_prefix,
                "statuses": self.statuses,
                "poke_interval": self.poke_interval,
                "lookback": self.lookback,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll at each interval, and yield an event for each job that has finished. Before Airflow 3.3."""
        from airflow_wasabi_jobs.watching.polls import shared_polls

        async for event in self._events(shared_polls(self.poke_interval)):
            yield event

    def shared_stream_key(self) -> tuple[str, str, float]:
        """Return what the watchers that poll together have in common."""
        return type(self).__qualname__, self.wasabi_conn_id, self.poke_interval

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return what produces the polls, and learns when Airflow has stored their events."""
        from airflow_wasabi_jobs.watching.shared_stream import PollProducer

        return PollProducer(kwargs["poke_interval"])

    async def filter_shared_stream(self, shared_stream: AsyncIterator[SharedPoll]) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each job that has finished, at each poll of the stream. From Airflow 3.3 on."""
        async for event in self._events(shared_stream):
            yield event

    async def _events(self, polls: AsyncIterator[SharedPoll]) -> AsyncIterator[TriggerEvent]:
        await import_lazy_modules()
        from airflow_wasabi_jobs.hooks import WasabiJobsHook
        from airflow_wasabi_jobs.watching.selection import Selection
        from airflow_wasabi_jobs.watching.watcher import Watcher

        selection = Selection(self.wasabi_conn_id, self.batch, self.name_prefix, self.statuses)
        await asyncio.to_thread(LOG.info, "%s: polling every %g s.", selection.subject, self.poke_interval)
        async with Watcher(
            selection,
            read_settings=WasabiJobsHook(self.wasabi_conn_id).aread_settings,
            poke_interval=self.poke_interval,
            lookback=self.lookback,
            asset_state_store=getattr(self, "asset_state_store", None),
        ) as watcher:
            async for poll in polls:
                for payload in await watcher.poll(poll):
                    yield TriggerEvent(payload)
                # A trigger that ends before its last event has not reached this, so no event is lost.
                watcher.save_when_confirmed(poll)
