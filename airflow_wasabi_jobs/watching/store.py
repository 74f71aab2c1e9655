"""Where a watcher keeps its cursor over restarts of the triggerer: in Airflow's store of the asset, from 3.3 on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.watching.cursor import Cursor


class CursorStore:
    """
    Loads and saves the cursor of one watcher.

    :param asset_state_store: Airflow's store of the asset, or None before Airflow 3.3.
    :param key: the key of the watcher in the store.
    :param subject: how log lines refer to the watcher.
    """

    def __init__(self, asset_state_store: Any, *, key: str, subject: str) -> None:
        self._asset_state_store = asset_state_store
        self._key = key
        self._subject = subject
        self._saved: Any = None
        self._is_failing = False

    async def load(self) -> Cursor | None:
        """Return the stored cursor, or None if there is none. Raises what Airflow raises if it cannot be read."""
        if self._asset_state_store is None:
            return None
        try:
            self._saved = await self._asset_state_store.aget(self._key)
        except ValueError:
            self._asset_state_store = None
            await asyncio.to_thread(
                LOG.warning,
                "%s: more than one asset has this trigger, so Airflow cannot store which events it has had, and a "
                "restart may repeat events. Give each asset a trigger with different arguments.",
                self._subject,
            )
        try:
            return None if self._saved is None else Cursor.from_store(self._saved)
        except msgspec.ValidationError as error:
            message = "%s: the stored cursor cannot be used, and a new one begins. %s"
            await asyncio.to_thread(LOG.warning, message, self._subject, error)
            return None

    async def save(self, cursor: Cursor) -> None:
        """Store a cursor. If that fails, the next one is stored."""
        content = cursor.to_store()
        if self._asset_state_store is None or content == self._saved:
            return
        try:
            await self._asset_state_store.aset(self._key, content)
        except Exception as error:  # noqa: BLE001 - whatever the error is, the watcher goes on
            if not self._is_failing:
                message = "%s: Airflow could not store the cursor; a restart may repeat events. %s"
                await asyncio.to_thread(LOG.warning, message, self._subject, error)
            self._is_failing = True
        else:
            self._saved, self._is_failing = content, False
