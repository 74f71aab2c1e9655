"""What the triggerer of Airflow 3.3 does with event triggers, in the test's own event loop, and how it dies."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow.triggers.shared_stream import SharedStreamManager
from wait_runner import serialized_and_loaded
from watched_account import MemoryStore

# How often the process that runs the triggers sends their events to the one that stores them.
SYNC_SECONDS = 1.0


class Triggerer:
    """
    Runs event triggers through Airflow's own shared streams.

    :param database: receives the payloads of the events when they are stored.
    """

    def __init__(self, database: list[dict[str, Any]]) -> None:
        self._database = database
        self._manager = SharedStreamManager()
        self._tasks: list[asyncio.Task[None]] = []
        self._stores: list[_Store] = []
        self.is_storing = True
        # Whether a trigger ends after its first event, as if it was moved to another triggerer.
        self.is_cancelling = False

    def start(self, trigger: Any, store: MemoryStore | None) -> None:
        """Run a trigger with the store of its asset."""
        loaded = serialized_and_loaded(trigger)
        if store is not None:
            loaded.asset_state_store = _Store(store)
            self._stores.append(loaded.asset_state_store)
        self._tasks.append(asyncio.create_task(self._run(len(self._tasks), loaded)))

    async def kill(self) -> None:
        """End at once: what has not been stored by now is never stored."""
        self.is_storing = False
        for store in self._stores:
            store.is_dead = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._manager.stop_all()

    def check(self) -> None:
        """Raise the exception of a trigger that has ended."""
        for task in self._tasks:
            assert not task.done(), task.exception()

    async def _run(self, trigger_id: int, trigger: Any) -> None:
        key = trigger.shared_stream_key()
        try:
            stream = self._manager.subscribe(trigger_id=trigger_id, trigger=trigger, key=key)
            async for event in trigger.filter_shared_stream(stream):
                await asyncio.sleep(0)  # Airflow logs the event
                seq = self._manager.bind_pending_event(trigger_id=trigger_id, key=key)
                asyncio.get_running_loop().call_later(SYNC_SECONDS, self._store_event, event, seq)
                if self.is_cancelling:
                    self._tasks[trigger_id].cancel()
        finally:
            await self._manager.unsubscribe(trigger_id, key)

    def _store_event(self, event: Any, seq: int | None) -> None:
        if self.is_storing:
            self._database.append(event.payload)
            if seq is not None:
                asyncio.get_running_loop().call_later(SYNC_SECONDS, self._manager.confirm_persisted, [seq])


class _Store:
    """The store of an asset, for as long as the triggerer lives."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.is_dead = False

    async def aget(self, key: str, default: Any = None) -> Any:
        return await self._store.aget(key, default)

    async def aset(self, key: str, value: Any) -> None:
        if not self.is_dead:
            await self._store.aset(key, value)
