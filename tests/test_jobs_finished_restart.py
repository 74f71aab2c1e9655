"""The event trigger on Airflow 3.3: what a restart of the triggerer repeats or loses."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import jumping_clock
import pytest
from aiohttp import web
from connections import SECRET_KEY, set_connection
from watched_account import MemoryStore, WatchedAccount, serve_watched_account

from airflow_wasabi_jobs.triggers import WasabiJobsFinishedTrigger
from airflow_wasabi_jobs.watching import cursor as cursors

pytest.importorskip("airflow.triggers.shared_stream", reason="Airflow before 3.3 has no shared streams")

from triggerer import Triggerer

KEYS = {"access_key": "AKIA-of-the-tests", "secret_key": SECRET_KEY}


class World:
    """An account, and the triggerers that watch it one after the other."""

    def __init__(self, account: WatchedAccount) -> None:
        self.account = account
        self.store = MemoryStore()
        self.database: list[dict[str, Any]] = []
        self.triggerer = Triggerer(self.database)

    def start(self, *, store: MemoryStore | None = None, **arguments: Any) -> None:
        self.triggerer.start(WasabiJobsFinishedTrigger(**{"lookback": 0, **arguments}), store or self.store)

    async def kill(self) -> None:
        await self.triggerer.kill()
        self.triggerer = Triggerer(self.database)

    def event_counts(self) -> Counter[str]:
        return Counter(payload["job_id"] for payload in self.database)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a test in virtual time."""
    monkeypatch.setattr(WasabiJobsFinishedTrigger, "_log", logging.getLogger("trigger"))

    def run_main(main: Any, **behaviour: Any) -> None:
        async def serve() -> None:
            async with serve_watched_account(monkeypatch, **KEYS, **behaviour) as account:
                set_connection(monkeypatch, account.url)
                world = World(account)
                try:
                    await main(world)
                    world.triggerer.check()
                finally:
                    await world.kill()

        jumping_clock.run(serve())

    return run_main


def once(*job_ids: str) -> Counter[str]:
    return Counter(dict.fromkeys(job_ids, 1))


def test_jobs_that_finish_while_the_triggerer_is_down_make_one_event_each(run: Any) -> None:
    async def main(world: World) -> None:
        account = world.account
        account.add("before", seconds=20)
        account.add("meanwhile", seconds=200)
        account.add("after", seconds=500)
        world.start()
        await asyncio.sleep(130)
        await world.kill()
        await asyncio.sleep(30)
        account.add("short", seconds=5)
        account.add("new", seconds=100)
        await asyncio.sleep(150)
        world.start()
        await asyncio.sleep(400)

        assert world.event_counts() == once("before", "meanwhile", "short", "new", "after")

    run(main)


# A poll is due at 1080: its events come at once, are stored within a second, and are confirmed a second later.
@pytest.mark.parametrize("seconds", [79.9, 80.5, 81.5, 82.5, 83.5, 92.5])
def test_a_kill_at_any_time_loses_nothing_and_repeats_only_unconfirmed_events(run: Any, seconds: float) -> None:
    async def main(world: World) -> None:
        for number in range(30):
            world.account.add(f"job-{number}", seconds=70)
        world.start()
        await asyncio.sleep(seconds)
        stored = len(world.database)
        await world.kill()
        await asyncio.sleep(180)
        world.start()
        await asyncio.sleep(200)

        repeated = len(world.database) - 30
        assert len(world.event_counts()) == 30
        assert repeated in {0, stored}
        if not 80.9 < seconds < 83:
            assert repeated == 0

    run(main)


# Airflow puts the other events into a run only if another event comes after the first one has started a run.
@pytest.mark.parametrize(("interval", "seconds"), [(60, 10), (15, 15), (4, 8)])
def test_the_last_of_several_events_comes_a_little_later(run: Any, interval: float, seconds: float) -> None:
    async def main(world: World) -> None:
        world.start(poke_interval=interval)
        await asyncio.sleep(1)
        world.account.add("a", seconds=10)
        world.account.add("b", seconds=10)
        world.account.add("c", seconds=60)
        while not world.database:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.5)
        assert len(world.database) == 1
        await asyncio.sleep(seconds - 2)
        assert len(world.database) == 1
        await asyncio.sleep(4)
        assert world.event_counts() == once("a", "b")
        await asyncio.sleep(100)
        assert world.event_counts() == once("a", "b", "c")
        assert world.account.request_counts()["status"] == 3

    run(main)


def test_the_cursor_is_stored_only_after_the_events(run: Any) -> None:
    async def main(world: World) -> None:
        world.account.add("a", seconds=70)
        world.start()
        await asyncio.sleep(75)
        world.triggerer.is_storing = False
        writes = world.store.writes
        await asyncio.sleep(250)

        assert world.database == []
        assert world.store.writes == writes

    run(main)


def test_a_trigger_that_is_cancelled_between_two_events_loses_none(run: Any) -> None:
    async def main(world: World) -> None:
        for number in range(3):
            world.account.add(f"job-{number}", seconds=70)
        world.start()
        world.start(name_prefix="other", store=MemoryStore())
        world.triggerer.is_cancelling = True
        await asyncio.sleep(100)
        assert world.event_counts().total() == 1
        await world.kill()
        world.start()
        await asyncio.sleep(100)

        assert world.event_counts().keys() == {"job-0", "job-1", "job-2"}

    run(main)


def test_watchers_of_a_triggerer_share_the_requests_and_keep_their_own_cursors(run: Any) -> None:
    async def main(world: World) -> None:
        for number in range(20):
            world.account.add(f"a-{number}", seconds=150)
            world.account.add(f"b-{number}", seconds=400, batch="other")
        world.start(batch="ingest")
        world.start(batch="other", store=MemoryStore())
        world.start(name_prefix="a-1")
        await asyncio.sleep(130)
        # The newest jobs, three lists, and an empty second page of the two that have 40 jobs.
        assert world.account.request_counts() == {"list": 3 * (4 + 2)}
        await asyncio.sleep(120)
        await world.kill()
        world.start(batch="ingest")
        world.start(name_prefix="a-1")
        await asyncio.sleep(100)

        expected = once(*(f"a-{number}" for number in range(20)))
        expected.update(f"a-{number}" for number in (1, *range(10, 20)))
        assert world.event_counts() == expected
        assert world.account.request_counts()["status"] == 20
        assert len(world.store.values) == 2

    run(main)


def test_long_poll_goes_on_while_others_are_due(run: Any, monkeypatch: Any) -> None:
    """Airflow would end a trigger that does not take the polls of its stream."""

    async def main(world: World) -> None:
        world.account.add("a", seconds=100)
        set_connection(monkeypatch, world.account.url, retries=3)
        world.start(poke_interval=10)
        await asyncio.sleep(90)
        world.account.fault = lambda _: web.Response(status=429, headers={"Retry-After": "800"})
        await asyncio.sleep(10)
        world.account.fault = lambda _: None
        await asyncio.sleep(1000)
        world.triggerer.check()

        assert world.event_counts() == once("a")

    run(main)


def test_store_that_fails_delays_nothing(run: Any, caplog: Any) -> None:
    async def main(world: World) -> None:
        world.account.add("a", seconds=100)
        world.account.add("b", seconds=300)
        world.start()
        await asyncio.sleep(70)
        world.store.error = OSError("database is locked")
        await asyncio.sleep(130)
        assert world.event_counts() == once("a")
        world.store.error = None
        await asyncio.sleep(70)
        await world.kill()
        await asyncio.sleep(180)
        world.start()
        await asyncio.sleep(100)

        assert world.event_counts() == once("a", "b")

    run(main)
    assert caplog.text.count("could not store the cursor") == 1


def test_cursor_that_cannot_be_read_is_waited_for(run: Any) -> None:
    async def main(world: World) -> None:
        world.account.add("a", seconds=100)
        world.start()
        await asyncio.sleep(70)
        await world.kill()
        await asyncio.sleep(180)
        world.store.error = OSError("database is locked")
        world.start()
        await asyncio.sleep(100)
        world.store.error = None
        await asyncio.sleep(400)

        assert world.event_counts() == once("a")

    run(main)


@pytest.mark.parametrize("content", [[], {"pending": 7}, {"horizon": "x", "pending": [], "finished": []}])
def test_stored_cursor_that_is_not_one_begins_anew(run: Any, content: Any, caplog: Any) -> None:
    async def main(world: World) -> None:
        world.account.add("a", seconds=100)
        world.start()
        await asyncio.sleep(70)
        await world.kill()
        world.store.values = dict.fromkeys(world.store.values, content)
        world.start(lookback=3600)
        await asyncio.sleep(100)

        assert world.event_counts() == once("a")

    run(main)
    assert "the stored cursor cannot be used" in caplog.text


def test_trigger_of_two_assets_says_that_it_cannot_store_its_cursor(run: Any, caplog: Any) -> None:
    async def main(world: World) -> None:
        world.account.add("a", seconds=100)
        world.store.error = ValueError("Task has 2 concrete inlets and outlets")
        world.start()
        await asyncio.sleep(200)

        assert world.event_counts() == once("a")

    run(main)
    assert caplog.text.count("more than one asset has this trigger") == 1


class TestSizeOfTheCursor:
    def test_it_does_not_grow_with_the_jobs_that_have_finished(self, run: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(cursors, "MAX_RECENT_JOBS", 10)

        async def main(world: World) -> None:
            world.start()
            sizes = []
            for hour in range(5):
                for number in range(20):
                    world.account.add(f"job-{hour}-{number + 10}", seconds=30)
                await asyncio.sleep(240)
                sizes.append(len(json.dumps(world.store.values)))

            assert len(world.event_counts()) == len(world.database) == 100
            assert sizes[1:] == [sizes[1]] * 4

        run(main)

    def test_it_fits_into_the_store(self) -> None:
        created = datetime(2026, 1, 1, tzinfo=UTC)
        times = {str(uuid.uuid4()): created for _ in range(5000)}

        assert len(json.dumps(cursors.Cursor(created, times, times).to_store())) < 65_535

    def test_more_unfinished_jobs_than_it_holds_are_found_by_their_time(self, run: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(cursors, "MAX_STORED_PENDING", 50)

        async def main(world: World) -> None:
            for number in range(200):
                world.account.add(f"job-{number}", seconds=400, age=200 - number)
            world.start()
            await asyncio.sleep(70)
            await world.kill()
            await asyncio.sleep(180)
            (stored,) = world.store.values.values()
            assert len(stored["pending"]) == 50
            await asyncio.sleep(180)
            world.start()
            await asyncio.sleep(100)

            assert world.event_counts() == once(*(f"job-{number}" for number in range(200)))

        run(main)
