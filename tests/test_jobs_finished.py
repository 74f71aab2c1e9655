"""The event trigger: one event for each job that finishes, and what that costs."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import runpy
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jumping_clock
import pytest
from aiohttp import web
from airflow.triggers import base
from connections import SECRET_KEY, set_connection
from wait_runner import serialized_and_loaded
from watched_account import WatchedAccount, serve_watched_account, watching

from airflow_wasabi_jobs.triggers import WasabiJobsFinishedTrigger
from airflow_wasabi_jobs.watching import watcher

needs_airflow_3 = pytest.mark.skipif(not hasattr(base, "BaseEventTrigger"), reason="Airflow 2 has no event triggers")

KEYS = {"access_key": "AKIA-of-the-tests", "secret_key": SECRET_KEY}
Main = Callable[[WatchedAccount], Awaitable[None]]


def trigger(**arguments: Any) -> WasabiJobsFinishedTrigger:
    return WasabiJobsFinishedTrigger(**{"lookback": 0, **arguments})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test against an account in virtual time."""

    monkeypatch.setattr(WasabiJobsFinishedTrigger, "_log", logging.getLogger("trigger"))

    def run_main(main: Main, **behaviour: Any) -> None:
        async def serve() -> None:
            async with serve_watched_account(monkeypatch, **KEYS, **behaviour) as account:
                set_connection(monkeypatch, account.url)
                await main(account)

        jumping_clock.run(serve())

    return run_main


def ids(payloads: list[dict[str, Any]]) -> list[str]:
    return sorted(payload["job_id"] for payload in payloads)


@needs_airflow_3
class TestEvents:
    def test_each_job_that_finishes_makes_one_event(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("old", seconds=5, age=600)
            account.add("running", seconds=200)
            async with watching(trigger()) as payloads:
                await asyncio.sleep(100)
                account.add("new", seconds=100)
                account.add("short", seconds=5)
                account.add("failed", seconds=100, status="failed", error_count=2)
                account.add("cancelled", seconds=100, status="cancelled")
                await asyncio.sleep(600)

            assert ids(payloads) == ["cancelled", "failed", "new", "running", "short"]
            statuses = {payload["job_id"]: (payload["status"], payload["error_count"]) for payload in payloads}
            assert statuses["failed"] == ("failed", 2)
            assert statuses["cancelled"] == ("cancelled", 0)
            assert statuses["short"] == ("completed", 0)

        run(main)

    def test_payload(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("job-1", seconds=30, name="Monday", error_count=1)
            account.add("job-2", seconds=30, status="failed")
            async with watching(trigger()) as payloads:
                await asyncio.sleep(100)

            completed, failed = sorted(payloads, key=lambda payload: str(payload["job_id"]))
            assert completed == {
                "job_id": "job-1",
                "status": "completed",
                "error_count": 1,
                "name": "Monday",
                "batch": "ingest",
                "source": {"bucket": "media", "object_key": "job-1.mp4"},
                "created": "2026-01-01T00:16:40+00:00",
                "completed": "2026-01-01T00:17:10+00:00",
                "metadata_path": "s3://results/jobs/2026_01_01/job-1/job-1_metadata.json",
                "destination": {"bucket": "results", "region": "us-east-1"},
            }
            assert (failed["metadata_path"], failed["destination"]) == (None, None)
            json.dumps(payloads)

        run(main)

    def test_filters(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("a", name="news-1", batch="ingest")
            account.add("b", name="news-2", batch="ingest-2")
            account.add("c", name="film", batch=None)
            account.add("d", name="news-3", batch="ingest", status="failed")
            async with (
                watching(trigger(batch="ingest")) as of_batch,
                watching(trigger(name_prefix="news-")) as of_name,
                watching(trigger(statuses=["failed", "cancelled"])) as failures,
            ):
                await asyncio.sleep(200)

            assert (ids(of_batch), ids(of_name), ids(failures)) == (["a", "d"], ["a", "b", "d"], ["d"])

        run(main)

    def test_lookback_reports_jobs_that_finished_shortly_before_the_start(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("long ago", seconds=10, age=9000)
            account.add("took long", seconds=8000, age=9000)
            for number in range(120):
                account.add(f"short-{number}", seconds=1, age=2000 - number)
            account.add("just now", seconds=20, age=30)
            async with watching(trigger(lookback=3600)) as payloads:
                await asyncio.sleep(300)

            assert ids(payloads) == sorted(["took long", "just now", *(f"short-{number}" for number in range(120))])

        run(main)

    def test_many_jobs_that_finish_together_take_several_polls(self, run: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(watcher, "MAX_CHECKS_PER_POLL", 5)

        async def main(account: WatchedAccount) -> None:
            for number in range(12):
                account.add(f"job-{number:02}", seconds=10)
            async with watching(trigger(lookback=3600)) as payloads:
                await asyncio.sleep(60)
                assert len(payloads) == 5
                await asyncio.sleep(200)

            assert ids(payloads) == [f"job-{number:02}" for number in range(12)]

        run(main)

    def test_location_of_the_result_is_waited_for_a_few_seconds(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("soon", seconds=59)
            async with watching(trigger()) as payloads:
                await asyncio.sleep(150)

            assert payloads[0]["metadata_path"] is not None

        run(main, result_after_seconds=6)

    def test_event_has_no_location_if_it_is_late(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("late", seconds=50)
            async with watching(trigger()) as payloads:
                await asyncio.sleep(150)

            assert [(payload["job_id"], payload["metadata_path"]) for payload in payloads] == [("late", None)]

        run(main, result_after_seconds=600)

    def test_null_characters_are_replaced(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("a", name="na\0me", batch="in\0gest")
            async with watching(trigger()) as payloads:
                await asyncio.sleep(100)

            assert (payloads[0]["name"], payloads[0]["batch"]) == ("na\ufffdme", "in\ufffdgest")

        run(main)


@needs_airflow_3
class TestLists:
    """A list decides nothing alone."""

    def test_job_that_a_list_omits_has_not_finished(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=500)
            async with watching(trigger()) as payloads:
                await asyncio.sleep(100)
                account.fault = lambda request: (
                    web.json_response({"Records": []}) if "status=" in request.query_string else None
                )
                await asyncio.sleep(200)
                assert payloads == []
                await asyncio.sleep(400)

            assert ids(payloads) == ["a"]

        run(main)

    def test_finished_job_that_a_list_shows_as_unfinished_makes_no_second_event(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=100)
            record = account.jobs.find("a").list_record(account.clock())
            async with watching(trigger()) as payloads:
                await asyncio.sleep(200)
                assert ids(payloads) == ["a"]
                account.fault = lambda request: (
                    web.json_response({"Records": [record]}) if "status=submitted" in request.query_string else None
                )
                await asyncio.sleep(100)
                account.fault = lambda _: None
                await asyncio.sleep(200)

            assert ids(payloads) == ["a"]

        run(main)

    def test_job_that_a_list_shows_late_makes_an_event(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            async with watching(trigger()) as payloads:
                await asyncio.sleep(100)
                account.add("newer", seconds=1)
                await asyncio.sleep(60)
                account.add("late", seconds=1, age=50)
                await asyncio.sleep(100)

            assert ids(payloads) == ["late", "newer"]

        run(main)

    def test_many_jobs_that_are_created_between_two_pages_hide_none(self, run: Any) -> None:
        def submit_more(account: WatchedAccount, request: web.Request) -> None:
            if request.query["pageNumber"] == "2" and "status" not in request.query:
                account.fault = lambda _: None
                for number in range(100):
                    account.add(f"more-{number}", seconds=1)

        async def main(account: WatchedAccount) -> None:
            async with watching(trigger(poke_interval=300)) as payloads:
                await asyncio.sleep(1)
                for number in range(150):
                    account.add(f"job-{number}", seconds=1)
                account.fault = lambda request: submit_more(account, request)
                await asyncio.sleep(900)

            assert len(set(ids(payloads))) == len(payloads) == 250

        run(main)

    def test_job_that_does_not_exist_any_longer_is_given_up(self, run: Any, caplog: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=500)
            async with watching(trigger()) as payloads:
                await asyncio.sleep(100)
                del account.jobs._jobs["a"]
                await asyncio.sleep(600)

            assert payloads == []
            assert account.request_counts()["status"] == 3

        run(main)
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(lines) == 2
        assert "polling 1 finished job failed; retrying at each poll" in lines[0]
        assert lines[1].startswith("Job 'a' is not watched any longer. Job 'a' (connection 'wasabi_default'): HTTP 404")

    def test_job_with_an_unknown_status_delays_no_other(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("odd", seconds=50)
            account.add("a", seconds=250)
            account.fault = lambda request: (
                web.json_response({"Id": "odd", "Status": "paused"}) if request.path == "/jobs/odd/status" else None
            )
            async with watching(trigger()) as payloads:
                await asyncio.sleep(500)
                assert ids(payloads) == ["a"]
                account.fault = lambda _: None
                await asyncio.sleep(100)

            assert ids(payloads) == ["a", "odd"]

        run(main)


@needs_airflow_3
class TestCosts:
    def test_watchers_share_the_lists_and_the_status_requests(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            for number in range(250):
                account.add(f"job-{number}", seconds=310)
            filters = [{"batch": "ingest"}, {"name_prefix": "job-1"}, {}, {"poke_interval": 30}]
            async with watching(*(trigger(**arguments) for arguments in filters)) as payloads:
                await asyncio.sleep(100)
                before = asyncio.get_running_loop().time()
                await asyncio.sleep(60)
                # Of the poll of all four, and that of the one with the shorter interval: the page of the newest jobs,
                # three pages of jobs in progress and the two other lists.
                assert account.request_counts(before) == {"list": 2 * (1 + 3 + 2)}
                await asyncio.sleep(300)

            assert account.request_counts()["status"] == 250
            assert account.request_counts()["metadata"] == 250
            assert Counter(ids(payloads))["job-1"] == 4

        run(main)

    @pytest.mark.parametrize("old_jobs", [50, 5000])
    def test_old_jobs_cost_nothing(self, run: Any, old_jobs: int) -> None:
        async def main(account: WatchedAccount) -> None:
            for number in range(old_jobs):
                account.add(f"old-{number}", seconds=1, age=10 * 24 * 3600 - number)
            account.add("a", seconds=100)
            async with watching(trigger(lookback=3600)) as payloads:
                await asyncio.sleep(400)

            polls, pages_for_lookback = 8, 1
            assert ids(payloads) == ["a"]
            assert account.request_counts() == {"list": 4 * polls + pages_for_lookback, "status": 1, "metadata": 1}

        run(main)

    def test_jobs_of_one_time_are_listed_once(self, run: Any) -> None:
        async def main(account: WatchedAccount) -> None:
            for number in range(1000):
                account.add(f"old-{number}", seconds=1, age=10 * 24 * 3600)
            async with watching(*(trigger(lookback=number) for number in range(3))) as payloads:
                await asyncio.sleep(70)
                before = asyncio.get_running_loop().time()
                await asyncio.sleep(60)
                assert account.request_counts(before) == {"list": 4}
                for number in range(100):
                    account.add(f"new-{number}", seconds=30)
                await asyncio.sleep(300)

            assert len(payloads) == 300
            assert {job_id.partition("-")[0] for job_id in ids(payloads)} == {"new"}

        run(main)


@needs_airflow_3
class TestErrors:
    def test_transient_error_is_retried_with_backoff_and_loses_nothing(self, run: Any, caplog: Any) -> None:
        caplog.set_level(logging.INFO)

        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=100)
            async with watching(trigger()) as payloads:
                await asyncio.sleep(70)
                account.fault = lambda _: web.Response(status=503)
                await asyncio.sleep(1000)
                failed_at = [at for at, _ in account.requests if at > 1070]
                account.fault = lambda _: None
                await asyncio.sleep(400)

            assert ids(payloads) == ["a"]
            intervals = [after - before for before, after in itertools.pairwise(failed_at[:5])]
            assert intervals == pytest.approx([60, 120, 240, 300], abs=1)

        run(main)
        lines = [record.getMessage() for record in caplog.records if "Watcher of" in record.getMessage()]
        assert [line.partition("): ")[2][:22] for line in lines] == [
            "polling every 60 s.",
            "API not responding; st",
            "API is responding agai",
        ]

    def test_permanent_error_is_logged_once_and_ends_when_the_connection_is_fixed(
        self, run: Any, caplog: Any, monkeypatch: Any
    ) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=100)
            set_connection(monkeypatch, account.url, secret_key="wrong")
            async with watching(trigger(lookback=3600)) as payloads:
                await asyncio.sleep(3600)
                assert account.request_counts()["list"] == 13  # every 5 minutes
                set_connection(monkeypatch, account.url)
                await asyncio.sleep(400)

            assert ids(payloads) == ["a"]

        run(main)
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == 1
        assert "HTTP 401" in errors[0]
        assert "retrying every 300 s" in errors[0]
        assert "wrong" not in errors[0]

    @pytest.mark.parametrize("host", [None, "http://127.0.0.1:1"], ids=["no connection", "wrong port"])
    def test_connection_is_read_again_after_an_error(self, run: Any, monkeypatch: Any, host: str | None) -> None:
        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=100)
            if host is None:
                monkeypatch.delenv("AIRFLOW_CONN_WASABI_DEFAULT")
            else:
                set_connection(monkeypatch, host)
            async with watching(trigger(), trigger(name_prefix="a")) as payloads:
                await asyncio.sleep(50)
                set_connection(monkeypatch, account.url)
                await asyncio.sleep(700)

            assert ids(payloads) == ["a", "a"]

        run(main)

    def test_bug_does_not_end_the_trigger(self, run: Any, monkeypatch: Any, caplog: Any) -> None:
        from airflow_wasabi_jobs.watching import account as lists

        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=100)
            with monkeypatch.context() as patch:
                patch.setattr(lists, "list_newest", None)
                async with watching(trigger()) as payloads:
                    await asyncio.sleep(50)
                    patch.undo()
                    await asyncio.sleep(400)

            assert ids(payloads) == ["a"]

        run(main)
        assert "polling failed" in caplog.text

    def test_trigger_can_be_cancelled_at_any_time(self, run: Any) -> None:
        def own_tasks() -> int:
            files = [task.get_coro().cr_code.co_filename for task in asyncio.all_tasks()]
            return sum("/airflow_wasabi_jobs/polling/" in file or "/watching/" in file for file in files)

        async def main(account: WatchedAccount) -> None:
            account.add("a", seconds=1)
            for seconds in (0, 0.001, 0.01, 1, 100):
                async with watching(trigger(), trigger(batch="ingest")):
                    await asyncio.sleep(seconds)
                    assert own_tasks() > 0 or not seconds
                assert own_tasks() == 0

        run(main)


@needs_airflow_3
class TestArguments:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("batch", "b" * 257),
            ("batch", ""),
            ("batch", 7),
            ("name_prefix", "n" * 257),
            ("statuses", ["running"]),
            ("statuses", "failed"),
            ("statuses", []),
            ("statuses", ["in_progress"]),
            ("poke_interval", 0),
            ("poke_interval", -1),
            ("poke_interval", float("inf")),
            ("poke_interval", "60"),
            ("lookback", -1),
            ("lookback", None),
        ],
    )
    def test_invalid_argument_is_a_value_error_that_names_it(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf"^{name} is "):
            WasabiJobsFinishedTrigger(**{name: value})

    def test_serialization_round_trip(self) -> None:
        event_trigger = trigger(batch="ingest", name_prefix="a", statuses=("failed",), poke_interval=7.5, lookback=10)

        assert serialized_and_loaded(event_trigger).serialize() == event_trigger.serialize()

    def test_watcher_of_an_asset(self) -> None:
        from airflow.sdk import Asset, AssetWatcher

        watcher = AssetWatcher(name="finished", trigger=WasabiJobsFinishedTrigger(batch="ingest"))

        assert Asset("wasabi_jobs", watchers=[watcher]).watchers == [watcher]


@needs_airflow_3
def test_example_reads_the_payloads() -> None:
    example = runpy.run_path(str(Path(__file__).parent.parent / "example_dags" / "example_wasabi_on_finished.py"))
    payload = {"job_id": "12345", "name": "monday", "status": "failed", "metadata_path": None}
    other = {"job_id": "67890", "name": "tuesday", "status": "completed", "metadata_path": "s3://results/x.json"}
    events = [SimpleNamespace(extra={"from_trigger": True, "payload": each}) for each in (payload, other)]

    find_results, report = example["find_results"].function, example["report"].function
    results = find_results(EventsOf(example["finished"], events))
    assert results == {"67890": "s3://results/x.json"}
    assert report(EventsOf(example["not_completed"], events[:1])) == ["monday (12345): failed"]


class EventsOf:
    """The events of one asset, which cannot be the key of a dict in Airflow 3.0."""

    def __init__(self, asset: Any, events: list[Any]) -> None:
        self._asset, self._events = asset, events

    def __getitem__(self, asset: Any) -> list[Any]:
        assert asset == self._asset
        return self._events


@pytest.mark.skipif(hasattr(base, "BaseEventTrigger"), reason="Airflow 3 has event triggers")
def test_airflow_2_is_refused() -> None:
    with pytest.raises(RuntimeError, match="needs Airflow 3"):
        WasabiJobsFinishedTrigger()
