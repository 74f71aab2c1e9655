"""One poller for all the waits on one account: what it shares, what it costs, and what it never gets wrong."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections import Counter
from typing import Any

import pytest
import steady
from account import Account, account
from aiohttp import web

from airflow_wasabi_jobs import watch
from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.api.models import JobReport
from airflow_wasabi_jobs.api.settings import Settings, check
from airflow_wasabi_jobs.watch import listing, pace, poller

pytestmark = pytest.mark.long

INTERVAL = 0.4


class Waits:
    """Waits on one connection of an account, as triggers do."""

    def __init__(self, api: Account, conn_id: str = "wasabi", interval: float = INTERVAL, **settings: Any) -> None:
        self.api = api
        self.interval = interval
        self.quiet_for = 600.0
        self.conn_id = conn_id
        self.changes = settings
        self.look_ups = 0
        self.told: list[Any] = []
        self.ends: dict[str, float] = {}

    async def read(self) -> Settings:
        self.look_ups += 1
        await asyncio.sleep(0)
        return self.api.settings(f"connection {self.conn_id!r}", **self.changes)

    async def wait(self, job_id: str) -> JobReport:
        async with watch.Seat(self.conn_id, self.read) as seat:
            while True:
                try:
                    seen = await seat.look(job_id, self.interval, in_step=True, quiet_for=self.quiet_for)
                except errors.AirError as error:
                    if not error.is_passing:
                        raise
                    continue
                self.told.append(seen)
                if isinstance(seen, JobReport) and seen.status.is_final:
                    self.ends[job_id] = asyncio.get_running_loop().time()
                    return seen

    def begin(self, *job_ids: str) -> list[asyncio.Task[JobReport]]:
        return [asyncio.create_task(self.wait(job_id)) for job_id in job_ids]


def running(count: int, status: str = "in_progress", prefix: str = "job") -> dict[str, str]:
    return {f"{prefix}-{number}": status for number in range(count)}


async def until(condition: Any) -> None:
    """Wait for something that must happen."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is the server's doing, and tells nobody
            await asyncio.sleep(0.01)


async def all_of(tasks: list[asyncio.Task[JobReport]]) -> list[JobReport]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*tasks)


class TestSharing:
    def test_waits_on_one_connection_share_one_look_up_and_its_lists(self) -> None:
        async def run() -> None:
            async with account(running(250)) as api:
                waits = Waits(api)
                tasks = waits.begin(*api.jobs)
                await until(lambda: api.count["list"] >= 9)
                api.jobs |= running(250, "completed")
                reports = await all_of(tasks)

            assert {report.job_id for report in reports} == set(api.jobs)
            assert waits.look_ups == 1
            assert api.count["status"] == 250  # the calls that end the waits, and no other

        steady.run(run())

    def test_connections_that_lead_to_one_account_share_its_watch(self) -> None:
        async def run() -> None:
            async with account(running(40)) as api:
                one, other = Waits(api, "one"), Waits(api, "other")
                tasks = one.begin(*list(api.jobs)[:20]) + other.begin(*list(api.jobs)[20:])
                await until(lambda: api.count["list"] >= 5)
                room = watch._rooms[asyncio.get_running_loop()]
                assert len(room._watches) == 1
                api.jobs |= running(40, "completed")
                await all_of(tasks)

            assert (one.look_ups, other.look_ups) == (1, 1)

        steady.run(run())

    def test_an_error_names_the_connection_of_its_own_wait(self) -> None:
        async def run() -> None:
            async with account({}) as api:
                for conn_id in ("one", "other"):
                    with pytest.raises(errors.NotFound, match=f"connection '{conn_id}'"):
                        await Waits(api, conn_id).wait("nowhere")

        steady.run(run())

    def test_two_accounts_share_nothing(self) -> None:
        async def run() -> None:
            async with account(running(15)) as one, account(running(15, "completed")) as other:
                other.secret_key = "another-secret"
                done = Waits(other, "other").begin(*other.jobs)
                waiting = Waits(one, "one").begin(*one.jobs)
                await all_of(done)
                one.refuse = web.Response(status=429, headers={"Retry-After": "900"})
                await until(lambda: one.asked)
                await all_of(Waits(other, "other").begin(*other.jobs))
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

        steady.run(run())

    def test_two_waits_for_one_job_are_one_call(self) -> None:
        async def run() -> None:
            async with account({"job": "completed"}) as api:
                reports = await all_of(Waits(api).begin("job", "job", "job"))

            assert len(reports) == 3
            assert api.count == {"status": 1}

        steady.run(run())

    def test_event_loops_do_not_mix(self) -> None:
        async def run() -> None:
            async with account(running(12)) as api:
                tasks = Waits(api).begin(*api.jobs)
                await until(lambda: api.count["list"] >= 3)
                api.jobs |= running(12, "completed")
                assert len(await all_of(tasks)) == 12

        threads = [threading.Thread(target=steady.run, args=(run(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)


async def _repeated(_: web.Request, page: Any) -> Any:
    return page + page[:50]


async def _every_other(_: web.Request, page: Any) -> Any:
    return page[::2]


async def _shifted(request: web.Request, page: Any) -> Any:
    return page[int(request.query["pageNumber"]) :]


async def _empty(*_: Any) -> Any:
    return []


async def _all_final(_: web.Request, page: Any) -> Any:
    return [{**record, "Status": "completed"} for record in page]


async def _odd(_: web.Request, page: Any) -> Any:
    return [{**record, "Status": "Paused"} for record in page]


async def _others(_: web.Request, page: Any) -> Any:
    return [{**record, "Id": f"other-{record['Id']}"} for record in page] or [
        {"Id": "x", "Status": "in_progress"}
    ] * 100


def _answering(status: int, text: str = "") -> Any:
    async def answer(*_: Any) -> web.Response:
        return web.Response(status=status, text=text)

    return answer


async def _slow(_: web.Request, page: Any) -> Any:
    await asyncio.sleep(INTERVAL * 5)
    return page


async def _cut(request: web.Request, _: Any) -> Any:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"Records": [')
    request.transport.abort()
    return response


MISBEHAVIOUR = {
    "right": None,
    "repeats": _repeated,
    "misses": _every_other,
    "shifts": _shifted,
    "empty": _empty,
    "all final": _all_final,
    "odd statuses": _odd,
    "other jobs": _others,
    "403": _answering(403),
    "404": _answering(404, "nothing here"),
    "500": _answering(500),
    "rubbish": _answering(200, "<html>Welcome</html>"),
    "not a list": _answering(200, "{}"),
    "slow": _slow,
    "cut": _cut,
}


@pytest.mark.parametrize("lists", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_a_list_changes_no_outcome_and_delays_none(lists: Any) -> None:
    async def run() -> None:
        fates = ["completed", "failed", "cancelled"]
        async with account(running(120), lists) as api:
            waits = Waits(api)
            tasks = waits.begin(*api.jobs)
            await until(lambda: len(api.asked) >= 3)
            for number, job_id in enumerate(list(api.jobs)):
                if number % 2:
                    api.jobs[job_id] = fates[number % 3]
            half_at = asyncio.get_running_loop().time()
            await until(lambda: len(waits.ends) == 60)
            assert max(waits.ends.values()) - half_at < 2 * INTERVAL
            assert all(api.jobs[job_id] != "in_progress" for job_id in waits.ends)
            for number, job_id in enumerate(list(api.jobs)):
                api.jobs[job_id] = fates[number % 3]
            reports = await all_of(tasks)

        assert [report.status for report in reports] == [fates[number % 3] for number in range(120)]

    steady.run(run())


def test_a_list_that_is_out_of_date_for_ever_delays_for_some_looks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LONGEST_HEARSAY", 4)
    monkeypatch.setattr(poller, "LONGEST_HEARSAY", 4)
    stale = [{"Id": job_id, "Status": "in_progress"} for job_id in running(30)]

    async def stale_list(*_: Any) -> Any:
        return stale

    async def run() -> None:
        async with account(running(30, "completed"), stale_list) as api:
            assert len(await all_of(Waits(api).begin(*api.jobs))) == 30

    steady.run(run())


class TestNews:
    def test_a_wait_is_told_what_changed_and_nothing_else(self) -> None:
        async def run() -> None:
            async with account(running(30, "submitted")) as api:
                waits = Waits(api)
                tasks = waits.begin(*api.jobs)
                for status in ("submitted", "in_progress"):
                    api.jobs |= running(30, status)
                    listed = api.count["list"]
                    await until(lambda listed=listed: api.count["list"] >= listed + 12)
                api.jobs |= running(30, "completed")
                await all_of(tasks)

            assert Counter(getattr(seen, "status", seen) for seen in waits.told) == {
                "submitted": 30,
                "in_progress": 30,
                "completed": 30,
            }

        steady.run(run())

    def test_a_wait_is_told_now_and_then_that_nothing_changed(self) -> None:
        async def run() -> None:
            async with account(running(30)) as api:
                waits = Waits(api)
                waits.quiet_for = 3 * INTERVAL
                tasks = waits.begin(*api.jobs)
                await until(lambda: len(waits.told) >= 90)
                looks = len({round((at - api.asked[0][0]) / INTERVAL) for at, _ in api.asked})
                assert looks >= 7
                api.jobs |= running(30, "completed")
                await all_of(tasks)

        steady.run(run())

    def test_keys_that_changed_long_after_the_last_news(self) -> None:
        async def run() -> None:
            async with account(running(30)) as api:
                waits = Waits(api)
                tasks = waits.begin(*api.jobs)
                for key in ("the-second", "the-third"):
                    listed = api.count["list"]
                    await until(lambda listed=listed: api.count["list"] >= listed + 9)
                    api.secret_key = f"secret-of-the-account-{key}"
                listed = api.count["list"]
                await until(lambda: api.count["list"] >= listed + 9)
                api.jobs |= running(30, "completed")
                assert {report.status for report in await all_of(tasks)} == {"completed"}

        steady.run(run())


class TestCost:
    def test_few_waits_are_asked_for_one_by_one(self) -> None:
        async def run() -> None:
            async with account(running(listing.WORTH_LISTING - 1)) as api:
                tasks = Waits(api).begin(*api.jobs)
                await until(lambda: api.count["status"] >= 3 * (listing.WORTH_LISTING - 1))
                assert api.count["list"] == 0
                api.jobs |= running(len(api.jobs), "completed")
                await all_of(tasks)

        steady.run(run())

    def test_a_thousand_waits_are_a_dozen_calls_a_look(self) -> None:
        async def run() -> None:
            async with account(running(300, "submitted") | running(700, prefix="older")) as api:
                tasks = Waits(api, interval=1.5).begin(*api.jobs)
                await until(lambda: api.count["list"] >= 30)
                assert api.count["status"] == 0
                looks = len({round((at - api.asked[0][0]) / 1.5) for at, _ in api.asked})
                assert api.count["list"] / looks <= 13
                for job_id in api.jobs:
                    api.jobs[job_id] = "completed"
                await all_of(tasks)
                assert api.count["status"] == 1000

        steady.run(run())

    @pytest.mark.parametrize("foreign", [0, 5000])
    @pytest.mark.parametrize("count", [10, 60, 300])
    def test_lists_never_cost_more_than_half_of_what_they_replace(self, count: int, foreign: int) -> None:
        looks = 6

        async def run() -> None:
            others = running(foreign, prefix="foreign")
            async with account({**running(count), **others}) as api:
                seen = []

                async def look(job_id: str) -> None:
                    async with watch.Seat("wasabi", Waits(api).read) as seat:
                        seen.extend([await seat.look(job_id, INTERVAL, in_step=True) for _ in range(looks)])

                await asyncio.gather(*(look(job_id) for job_id in running(count)))
                assert len(seen) == count * looks
                assert sum(api.count.values()) <= 1.5 * count * looks

                # Jobs of one's own at the end of a long list of others: not worth to be looked for.
                reordered = {**running(count), **others} if foreign else {}
                assert api.count["list"] <= (6 * looks if reordered else api.count["list"])

        steady.run(run())

    def test_calls_are_paced(self) -> None:
        async def run() -> None:
            async with account(running(300, "completed")) as api:
                api.latency = 0.01
                await all_of(Waits(api).begin(*api.jobs))
                assert api.most_in_flight <= poller.CALLS_AT_ONCE

        steady.run(run())


class TestPace:
    def test_429_pauses_all_waits(self) -> None:
        async def run() -> None:
            async with account(running(40)) as api:
                tasks = Waits(api).begin(*api.jobs)
                await until(lambda: api.count["list"] >= 3)
                api.refuse = web.Response(status=429, headers={"Retry-After": "1"})
                before = len(api.asked)
                await until(lambda: len(api.asked) > before)
                paused_at = asyncio.get_running_loop().time()
                await asyncio.sleep(0.2)  # what was under way arrives
                asked = len(api.asked)
                api.refuse = None
                api.jobs |= running(40, "completed")
                await all_of(tasks)

            assert api.asked[asked][0] - paused_at > 0.8

        steady.run(run())

    def test_a_look_is_not_in_the_first_instant_and_then_at_each_interval(self) -> None:
        async def run() -> None:
            async with account(running(3)) as api:
                began = asyncio.get_running_loop().time()
                first = Waits(api).begin("job-0")
                await asyncio.sleep(INTERVAL * 0.6)
                late = asyncio.get_running_loop().time()
                others = Waits(api).begin("job-1", "job-2")
                await until(lambda: len(api.asked) >= 10)
                times = [at for at, _ in api.asked]
                api.jobs |= running(3, "completed")
                await all_of(first + others)

            assert times[0] - began >= INTERVAL * 0.99
            assert times[1] - late >= INTERVAL / 2
            # In step: those of one look come together, and an interval after those of the look before.
            steps = [round((at - times[0]) / INTERVAL, 1) for at in times]
            assert all(abs(step - round(step)) <= 0.3 for step in steps)

        steady.run(run())

    @pytest.mark.parametrize(
        ("now", "first", "step"),
        [
            (0.0, True, 10.0),
            (4.0, True, 10.0),
            (6.0, True, 20.0),
            (10.1, False, 20.0),
            (19.9, False, 20.0),
            # This was the look of the next step: it came with what was due a little earlier, or by an early timer.
            (19.96, False, 30.0),
            (20.0 - 1e-9, False, 30.0),
        ],
    )
    def test_steps(self, monkeypatch: pytest.MonkeyPatch, now: float, first: bool, step: float) -> None:
        async def run() -> None:
            loop = asyncio.get_running_loop()
            made = poller.Watch(check(name="", host="air.example.com", access_key="a", secret_key="b"))
            monkeypatch.setattr(loop, "time", lambda: 100.0)
            made.next_step(10.0, first=True)
            monkeypatch.setattr(loop, "time", lambda: 100.0 + now)
            assert made.next_step(10.0, first=first) == pytest.approx(100.0 + step)
            monkeypatch.undo()

        steady.run(run())


class TestLeaving:
    @pytest.mark.filterwarnings("error")
    def test_the_last_one_closes_all(self) -> None:
        async def run() -> None:
            async with account(running(30)) as api:
                before = asyncio.all_tasks()
                for pause in (0.0, 0.01, INTERVAL * 1.2, INTERVAL * 2.5):
                    tasks = Waits(api).begin(*api.jobs)
                    await asyncio.sleep(pause)
                    for task in tasks:
                        task.cancel()
                    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
                    served = {task for task in asyncio.all_tasks() if "RequestHandler" in repr(task)}
                    assert asyncio.all_tasks() - served <= before
                assert asyncio.get_running_loop() not in watch._rooms

        threads = threading.active_count()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            steady.run(run())
            gc.collect()
        assert threading.active_count() == threads

    def test_one_that_leaves_lets_the_others_alone(self) -> None:
        async def run() -> None:
            async with account(running(30)) as api:
                tasks = Waits(api).begin(*api.jobs)
                for gone in (0, 7, 20):
                    await asyncio.sleep(INTERVAL / 2)
                    tasks[gone].cancel()
                api.jobs |= running(30, "completed")
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)

            assert [
                number for number, outcome in enumerate(outcomes) if isinstance(outcome, asyncio.CancelledError)
            ] == [0, 7, 20]
            assert sum(isinstance(outcome, JobReport) for outcome in outcomes) == 27

        steady.run(run())

    def test_after_the_last_one_all_begins_anew(self) -> None:
        async def run() -> None:
            async with account({"job": "completed"}) as api:
                waits = Waits(api)
                for look_ups in (1, 2):
                    await waits.wait("job")
                    assert waits.look_ups == look_ups

        steady.run(run())


class TestTrouble:
    def test_a_bug_reaches_every_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a bug")

        async def run() -> None:
            async with account(running(30)) as api:
                with monkeypatch.context() as patch:
                    patch.setattr(listing.Listing, "running", broken)
                    tasks = Waits(api).begin(*api.jobs)
                    async with asyncio.timeout(10):
                        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert {repr(outcome.__cause__) for outcome in outcomes} == {"RuntimeError('a bug')"}
                assert len({id(outcome) for outcome in outcomes}) == 30
                api.jobs |= running(30, "completed")
                assert len(await all_of(Waits(api).begin(*api.jobs))) == 30

        steady.run(run())

    def test_settings_that_can_not_be_used_reach_every_wait(self) -> None:
        async def run() -> None:
            async with account(running(12)) as api:
                waits = Waits(api)
                waits.read = lambda: _settings_with_a_missing_bundle(api)
                outcomes = await asyncio.gather(*waits.begin(*api.jobs), return_exceptions=True)

            assert {type(outcome) for outcome in outcomes} == {errors.InvalidSettings}

        steady.run(run())

    def test_a_connection_that_can_not_be_read_is_looked_up_once_for_all(self) -> None:
        async def run() -> None:
            async with account(running(50)) as api:
                waits = Waits(api)
                look_ups = 0

                async def gone() -> Settings:
                    nonlocal look_ups
                    look_ups += 1
                    await asyncio.sleep(0.01)
                    raise errors.InvalidSettings("There is no such connection.")

                waits.read = gone
                outcomes = await asyncio.gather(*waits.begin(*api.jobs), return_exceptions=True)

            assert {type(outcome) for outcome in outcomes} == {errors.InvalidSettings}
            assert look_ups == 1
            assert not api.asked

        steady.run(run())

    def test_wrong_keys_are_one_more_look_up_for_all(self) -> None:
        async def run() -> None:
            async with account(running(50)) as api:
                waits = Waits(api, secret_key="wrong")
                outcomes = await asyncio.gather(*waits.begin(*api.jobs), return_exceptions=True)

            assert {type(outcome) for outcome in outcomes} == {errors.Unauthorized}
            assert waits.look_ups == 2

        steady.run(run())

    def test_keys_that_change_are_picked_up_by_all(self) -> None:
        async def run() -> None:
            async with account(running(50)) as api:
                waits = Waits(api)
                tasks = waits.begin(*api.jobs)
                await until(lambda: api.count["list"] >= 3)
                api.secret_key = "a-new-secret"
                await asyncio.sleep(INTERVAL * 2)
                api.jobs |= running(50, "completed")
                reports = await all_of(tasks)

            assert len(reports) == 50
            assert waits.look_ups == 2

        steady.run(run())

    def test_trouble_that_passes_ends_nothing(self) -> None:
        async def run() -> None:
            async with account(running(30)) as api:
                tasks = Waits(api).begin(*api.jobs)
                api.refuse = web.Response(status=503)
                await until(lambda: api.count["status"] >= 60)
                api.refuse = None
                api.jobs |= running(30, "completed")
                assert len(await all_of(tasks)) == 30

        steady.run(run())


async def _settings_with_a_missing_bundle(api: Account) -> Settings:
    import msgspec

    settings = api.settings()
    options = msgspec.structs.replace(settings.options, verify="/no/such/file")
    return msgspec.structs.replace(settings, options=options)


def test_pauses_without_a_word_from_the_server_grow() -> None:
    async def run() -> None:
        paced = pace.Pace()
        loop = asyncio.get_running_loop()
        pauses = []
        for _ in range(12):
            paced._open.set()
            paced._opens_at = 0.0
            paced.heed(errors.TooManyRequests("too many"))
            pauses.append(round(paced._opens_at - loop.time()))
        assert pauses[:4] == [5, 10, 20, 40]
        assert pauses[-1] == pace.LONGEST_PAUSE
        paced.ease()
        paced._open.set()
        paced._opens_at = 0.0
        paced.heed(errors.TooManyRequests("too many"))
        assert round(paced._opens_at - loop.time()) == 5

    steady.run(run())


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (errors.TooManyRequests("", retry_after=30), 30),
        (errors.TooManyRequests("", retry_after=1e9), pace.LONGEST_PAUSE),
        (errors.ServerTrouble("", retry_after=30), 30),
        (errors.ServerTrouble(""), None),
        (errors.NotFound("", retry_after=30), None),
    ],
)
def test_what_pauses(error: errors.AirError, pause: float | None) -> None:
    async def run() -> None:
        paced = pace.Pace()
        paced.heed(error)
        if pause is None:
            await asyncio.wait_for(paced.turn(), 1)
        else:
            assert paced._opens_at - asyncio.get_running_loop().time() == pytest.approx(pause, abs=1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(paced.turn(), 0.01)

    steady.run(run())
