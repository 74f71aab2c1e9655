"""The stream of polls that Airflow shares among the watchers of a triggerer, from Airflow 3.3 on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from airflow_wasabi_jobs.watching.polls import SharedPoll, shared_polls

# Airflow ends a watcher that does not finish a poll in time, so no more than this are waiting for it.
MAX_UNFINISHED_POLLS = 3


class PollProducer(SharedStreamProducer):
    """
    Produces the polls, and lets the watchers store their cursors when Airflow has stored the events of a poll.

    :param poke_interval: seconds between two polls.
    """

    def __init__(self, poke_interval: float) -> None:
        self._poke_interval = poke_interval
        self._unfinished = 0

    async def open_stream(self) -> AsyncIterator[tuple[SharedPoll, SharedPoll]]:
        """Yield each poll when it is due."""
        async for poll in shared_polls(self._poke_interval):
            if self._unfinished < MAX_UNFINISHED_POLLS:
                self._unfinished += 1
                yield poll, poll

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Store the cursors of polls whose events are stored. If a watcher has failed, the next poll stores them."""
        for item in batch:
            self._unfinished -= 1
            if item.outcome.is_clean:
                await item.broker_payload.confirm()
