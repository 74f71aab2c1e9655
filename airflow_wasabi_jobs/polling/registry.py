"""The pollers and the connections that the waits of one event loop share."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import msgspec

from airflow_wasabi_jobs.api.exceptions import WasabiApiError
from airflow_wasabi_jobs.polling.poller import Poller

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.settings import Settings

    ReadSettings = Callable[[], Awaitable[Settings]]


class Registry:
    """The pollers and the connections of one event loop. It exists as long as there are subscriptions."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._pollers: dict[Settings, Poller] = {}

    @classmethod
    def of_running_loop(cls) -> Registry:
        """Return the registry of the running event loop."""
        loop = asyncio.get_running_loop()
        reference = _registries.get(loop)
        existing = reference() if reference else None
        registry = existing or cls()
        _registries[loop] = ref(registry)
        return registry

    def get_connection(self, conn_id: str, read_settings: ReadSettings) -> Connection:
        """Return the connection with that id."""
        return self._connections.setdefault(conn_id, Connection(conn_id, read_settings))

    def release_connection(self, connection: Connection) -> None:
        """End a subscription to a connection."""
        connection.subscriptions -= 1
        if not connection.subscriptions:
            del self._connections[connection.conn_id]
        if not self._connections:
            del _registries[asyncio.get_running_loop()]

    def acquire_poller(self, account: Settings) -> Poller:
        """Begin a subscription to the poller of an account."""
        poller = self._pollers.get(account)
        if poller is None or poller.failure is not None:
            poller = self._pollers[account] = Poller(account)
        poller.subscriptions += 1
        return poller

    async def release_poller(self, poller: Poller) -> None:
        """End a subscription to a poller. The last one closes it."""
        poller.subscriptions -= 1
        if not poller.subscriptions:
            if self._pollers.get(poller.account) is poller:
                del self._pollers[poller.account]
            await poller.close()


# Event loops of one process share nothing. Only subscriptions hold a registry, so that the registry of a loop that was
# closed during waits is released with it.
_registries: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[Registry]] = WeakKeyDictionary()


class Connection:
    """The settings of an Airflow connection, read once for all its waits, and once more after a 401."""

    def __init__(self, conn_id: str, read_settings: ReadSettings) -> None:
        self.conn_id = conn_id
        self.name = f"connection {conn_id!r}"
        self.subscriptions = 0
        self._read_settings = read_settings
        self._lock = asyncio.Lock()
        self._result: Settings | WasabiApiError | None = None
        self.version = 0
        self._read_started_at = self._read_ended_at = -math.inf

    async def get_settings(self, since: float) -> Settings:
        """Return the settings. A connection that could not be used is read again, unless it was read since then."""
        async with self._lock:
            is_failed = isinstance(self._result, WasabiApiError)
            if self._result is None or (is_failed and self._read_ended_at < since):
                await self._read()
            return self._unwrap_result()

    async def refresh_settings(self, rejected: Settings, version: int, sent_at: float) -> Settings:
        """
        Return the settings after a request with some of them was rejected.

        :param rejected: the settings of the request.
        :param version: their version. The connection is read again unless another wait has done that since then.
        :param sent_at: when the request was sent. A read before that may have found the keys that have become invalid.
        """
        async with self._lock:
            is_outdated = self._result == rejected and self._read_started_at < sent_at
            if self.version == version or is_outdated:
                await self._read()
            return self._unwrap_result()

    async def read_again(self, since: float) -> None:
        """Read the connection, unless it was read since then."""
        async with self._lock:
            if self._read_started_at < since:
                await self._read()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            self._result = await self._read_settings()
        except WasabiApiError as error:
            self._result = error
        self.version += 1
        self._read_started_at, self._read_ended_at = started_at, loop.time()

    def _unwrap_result(self) -> Settings:
        if isinstance(self._result, WasabiApiError):
            raise copy.copy(self._result)
        if self._result is None:
            raise RuntimeError(f"The {self.name} was not read.")
        return self._result


def account_of(settings: Settings) -> Settings:
    """Return the settings without their name: connections that differ in their ids only share a poller."""
    return msgspec.structs.replace(settings, name="")
