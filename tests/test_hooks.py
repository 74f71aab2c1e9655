"""The hook: an Airflow connection becomes a client. Real HTTP on the loopback, real connections of Airflow."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import traceback
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException, BaseHook, redact
from loopback import Loopback, answer, cut, hang, json_answer, refusing, report, reset

from airflow_wasabi_jobs import hooks
from airflow_wasabi_jobs.api import calls, errors
from airflow_wasabi_jobs.api.models import Destination, Job, JobErrors, JobMetadata, JobReport, JobStatus, Source
from airflow_wasabi_jobs.api.settings import Options
from airflow_wasabi_jobs.hooks import WasabiJobsHook

ACCESS_KEY, SECRET_KEY = "the-access-key", "the-secret-key"
NEW_ACCESS_KEY, NEW_SECRET_KEY = "a-new-access-key", "a-new-secret-key"
SOURCE_ACCESS_KEY, SOURCE_SECRET_KEY = "the-source's-access+key", "the/source's-secret+key="
RUNNING = JobReport("12345", JobStatus.IN_PROGRESS)
UNAUTHORIZED = json_answer({"Error": "Unauthorized", "ErrorCode": "UNAUTHORIZED"}, 401)


def ask(hook, job_id="12345"):
    return hook.get_job_status(job_id)


def aask(hook, job_id="12345"):
    return asyncio.run(hook.aget_job_status(job_id))


both_ways = pytest.mark.parametrize("ask", [pytest.param(ask, id="sync"), pytest.param(aask, id="async")])


@pytest.fixture
def connect(monkeypatch):
    """Write a connection down where Airflow looks first."""

    def write(conn_id="wasabi_default", **fields):
        fields = {"conn_type": "wasabi", "login": ACCESS_KEY, "password": SECRET_KEY, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return write


@pytest.fixture
def look_ups(monkeypatch):
    """Collect the ids of the connections that Airflow is asked for."""
    seen = []
    get_connection = BaseHook.get_connection

    def counting(conn_id):
        seen.append(conn_id)
        return get_connection(conn_id)

    monkeypatch.setattr(BaseHook, "get_connection", staticmethod(counting))
    if hasattr(BaseHook, "aget_connection"):
        aget_connection = BaseHook.aget_connection

        async def acounting(conn_id):
            seen.append(conn_id)
            return await aget_connection(conn_id)

        monkeypatch.setattr(BaseHook, "aget_connection", staticmethod(acounting))
    return seen


@pytest.fixture
def log(monkeypatch):
    """Collect what the hook logs, whichever kind of logger this Airflow would give it."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.Logger("of the hook")  # noqa: LOG001 - one that no other logger hears of
    logger.addHandler(handler)
    monkeypatch.setattr(WasabiJobsHook, "log", logger)
    return records


def keys_of(request):
    return request.headers["x-amz-access-key"], request.headers["x-amz-secret-key"]


@both_ways
class TestConnection:
    def test_as_json(self, connect, ask):
        with Loopback(report("completed", 3)) as server:
            connect(host=server.url)
            assert ask(WasabiJobsHook()) == JobReport("12345", JobStatus.COMPLETED, 3)
        (request,) = server.requests
        assert (request.method, request.target) == ("GET", "/jobs/12345/status")
        assert keys_of(request) == (ACCESS_KEY, SECRET_KEY)

    def test_as_json_field_by_field(self, connect, ask):
        with Loopback(report("in_progress")) as server:
            connect(host="http://127.0.0.1", port=server.port, schema="a/prefix", extra={"retries": 0})
            assert ask(WasabiJobsHook()) == RUNNING
        assert server.requests[0].target == "/a/prefix/jobs/12345/status"

    @pytest.mark.parametrize(
        ("uri", "target"),
        [
            ("wasabi://{keys}@{url}", "/jobs/12345/status"),
            ("wasabi://{keys}@{url}/prefix?retries=0", "/prefix/jobs/12345/status"),
            ("wasabi://{keys}@{url}%2Fa/b%20c", "/a/b%20c/jobs/12345/status"),
            ("wasabi://{keys}@http%3A%2F%2F127.0.0.1:{port}/prefix", "/prefix/jobs/12345/status"),
        ],
    )
    def test_as_uri(self, monkeypatch, ask, uri, target):
        with Loopback(report("in_progress")) as server:
            uri = uri.format(keys=f"{ACCESS_KEY}:{SECRET_KEY}", url=quote(server.url, safe=""), port=server.port)
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", uri)
            assert ask(WasabiJobsHook()) == RUNNING
        assert server.requests[0].target == target

    def test_as_uri_of_a_host_beyond_this_machine(self, monkeypatch, ask):
        with Loopback(report("in_progress")) as proxy:
            uri = f"wasabi://{ACCESS_KEY}:{SECRET_KEY}@http%3A%2F%2Fair.example.com?proxy={quote(proxy.url, safe='')}"
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", uri)
            with pytest.raises(errors.InvalidSettings, match="plain http"):
                ask(WasabiJobsHook())
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", f"{uri}&allow_http=true")
            assert ask(WasabiJobsHook()) == RUNNING
        assert proxy.requests[0].target == "http://air.example.com/jobs/12345/status"

    def test_odd_keys_in_a_uri(self, monkeypatch, ask):
        keys = ("a/b:c@d", "50%+&?#")
        with Loopback(report("in_progress")) as server:
            quoted = ":".join(quote(key, safe="") for key in keys)
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", f"wasabi://{quoted}@{quote(server.url, safe='')}")
            ask(WasabiJobsHook())
        assert keys_of(server.requests[0]) == keys

    def test_of_another_name(self, connect, ask):
        with Loopback(report("in_progress")) as server:
            connect("my_air", host=server.url)
            assert ask(WasabiJobsHook("my_air")) == RUNNING
            assert ask(WasabiJobsHook(wasabi_conn_id="my_air")) == RUNNING

    def test_that_does_not_exist(self, ask):
        with pytest.raises(errors.InvalidSettings) as told:
            ask(WasabiJobsHook("nobody_wrote_it"))
        assert not isinstance(told.value, AirflowException)  # or soft_fail would skip it
        assert isinstance(told.value.__cause__, AirflowNotFoundException)
        assert "There is no connection 'nobody_wrote_it'" in str(told.value)
        assert "AIRFLOW_CONN_NOBODY_WROTE_IT" in str(told.value)

    @pytest.mark.parametrize(
        "written",
        [
            "wasabi://the-access-key:qu/artz@air.example.com/",
            "wasabi://the-access-key:qu%2Fartz@http://air.example.com/",
            '{"conn_type": "wasabi", "password": "qu/artz"',
        ],
    )
    def test_that_airflow_can_not_read(self, monkeypatch, ask, written):
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", written)
        with pytest.raises(errors.InvalidSettings) as told:
            ask(WasabiJobsHook())
        assert "Airflow can't read connection 'wasabi_default'" in str(told.value)
        assert "AIRFLOW_CONN_WASABI_DEFAULT" in str(told.value)
        assert "artz" not in "".join(traceback.format_exception(told.value))

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"host": ""}, "no host"),
            ({"login": ""}, "no access key (login)"),
            ({"password": None}, "no secret key (password)"),
            ({"host": "http://air.example.com"}, "plain http"),
            ({"extra": {"retires": 1}}, "unknown key 'retires'"),
            ({"extra": {"retries": -1}}, "'retries'"),
        ],
    )
    def test_that_cannot_be_used(self, connect, ask, fields, words):
        connect(**{"host": "https://air.example.com"} | fields)
        with pytest.raises(errors.InvalidSettings) as told:
            ask(WasabiJobsHook())
        assert words in str(told.value)
        assert "onnection 'wasabi_default'" in str(told.value)
        assert ACCESS_KEY not in str(told.value)
        assert SECRET_KEY not in str(told.value)

    def test_of_another_type_is_only_warned_about(self, connect, ask, log):
        with Loopback(report("in_progress")) as server:
            connect(conn_type="http", host=server.url)
            assert ask(WasabiJobsHook()) == RUNNING
        (record,) = log
        assert record.levelname == "WARNING"
        assert "'wasabi_default' is of type 'http'" in record.getMessage()
        assert "type 'wasabi'" in record.getMessage()

    @pytest.mark.parametrize("conn_type", ["wasabi", None, ""])
    def test_of_the_right_type_or_none_is_not(self, monkeypatch, ask, log, conn_type):
        with Loopback(report("in_progress")) as server:
            connection = Connection(host=server.url, login=ACCESS_KEY, password=SECRET_KEY)
            connection.conn_type = conn_type

            async def aget_connection(conn_id):
                return connection

            monkeypatch.setattr(BaseHook, "get_connection", staticmethod(lambda conn_id: connection))
            monkeypatch.setattr(BaseHook, "aget_connection", staticmethod(aget_connection), raising=False)
            ask(WasabiJobsHook())
        assert log == []

    def test_is_looked_up_once_for_many_calls(self, connect, ask, look_ups):
        with Loopback(report("in_progress")) as server:
            connect(host=server.url)
            hook = WasabiJobsHook()
            assert look_ups == []
            for _ in range(3):
                ask(hook)
        assert look_ups == ["wasabi_default"]
        assert len(server.requests) == 3

    def test_that_was_put_right_is_read_again(self, connect, ask):
        hook = WasabiJobsHook()
        with Loopback(report("in_progress")) as server:
            connect(host=server.url, login="")
            with pytest.raises(errors.InvalidSettings):
                ask(hook)
            connect(host=server.url)
            assert ask(hook) == RUNNING


EXTRAS = {
    "connect_timeout": (7, "7.5"),
    "read_timeout": (60, "60"),
    "retries": (0, "0"),
    "verify": (False, "false"),
    "allow_http": (True, "true"),
    "proxy": ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
}


def options_of(hook):
    return hook.get_conn().settings.options


class TestExtra:
    def test_every_option_is_here(self):
        assert set(EXTRAS) == set(Options.__struct_fields__)

    @pytest.mark.parametrize("name", EXTRAS)
    def test_as_json(self, connect, name):
        value, _ = EXTRAS[name]
        connect(host="https://air.example.com", extra={name: value})
        assert options_of(WasabiJobsHook()) == Options(**{name: value})

    @pytest.mark.parametrize("name", EXTRAS)
    def test_as_the_text_of_a_uri(self, monkeypatch, name):
        _, text = EXTRAS[name]
        uri = f"wasabi://{ACCESS_KEY}:{SECRET_KEY}@air.example.com?{name}={quote(text, safe='')}"
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", uri)
        assert options_of(WasabiJobsHook()) == Options(**{name: 7.5 if name == "connect_timeout" else EXTRAS[name][0]})

    def test_as_a_form_stores_what_nobody_filled_in(self, connect):
        empty = {"connect_timeout": "", "read_timeout": None, "retries": None, "verify": "", "proxy": ""}
        connect(host="https://air.example.com", extra=empty | {"allow_http": False})
        assert options_of(WasabiJobsHook()) == Options()

    @both_ways
    def test_the_proxy_is_gone_through(self, connect, ask):
        with Loopback(report("in_progress")) as proxy:
            connect(host="http://air.example.com", extra={"proxy": proxy.url, "allow_http": True})
            assert ask(WasabiJobsHook()) == RUNNING
        assert proxy.requests[0].target == "http://air.example.com/jobs/12345/status"


@both_ways
class TestUnauthorized:
    """A 401 may mean that the keys were changed meanwhile. It is asked for once."""

    def test_keys_that_are_wrong(self, connect, ask, look_ups, log):
        with Loopback(UNAUTHORIZED) as server:
            connect(host=server.url)
            with pytest.raises(errors.Unauthorized, match="Check the access key"):
                ask(WasabiJobsHook())
        assert len(server.requests) == 1
        assert len(look_ups) == 2
        assert log == []

    def test_keys_that_were_changed(self, connect, ask, look_ups, log):
        def refuse_and_change(_):
            connect(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(refuse_and_change, report("in_progress")) as server:
            connect(host=server.url)
            hook = WasabiJobsHook()
            assert ask(hook) == RUNNING
            assert ask(hook) == RUNNING
        new = (NEW_ACCESS_KEY, NEW_SECRET_KEY)
        assert [keys_of(request) for request in server.requests] == [(ACCESS_KEY, SECRET_KEY), new, new]
        assert len(look_ups) == 2
        (record,) = log
        assert "Connection 'wasabi_default' was changed" in record.getMessage()

    def test_keys_that_were_changed_and_are_wrong_still(self, connect, ask, look_ups):
        def refuse_and_change(_):
            connect(host=server.url, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(refuse_and_change, UNAUTHORIZED) as server:
            connect(host=server.url)
            with pytest.raises(errors.Unauthorized):
                ask(WasabiJobsHook())
        assert len(server.requests) == 2
        assert len(look_ups) == 2

    def test_keys_that_are_changed_twice(self, connect, ask):
        with Loopback(UNAUTHORIZED, report("in_progress"), UNAUTHORIZED, report("in_progress")) as server:
            passwords = iter(["first", "second", "third"])
            connect(host=server.url, password=next(passwords))
            hook = WasabiJobsHook()
            hook_reads = hook._settings_of

            def settings_of(*args):
                settings = hook_reads(*args)
                connect(host=server.url, password=next(passwords, "none"))
                return settings

            hook._settings_of = settings_of
            assert [ask(hook), ask(hook)] == [RUNNING, RUNNING]
        assert [request.headers["x-amz-secret-key"] for request in server.requests] == [
            "first", "second", "second", "third",
        ]  # fmt: skip

    def test_a_connection_that_is_gone(self, connect, ask):
        def refuse_and_delete(_):
            del os.environ["AIRFLOW_CONN_GONE"]
            return UNAUTHORIZED

        with Loopback(refuse_and_delete) as server:
            connect("gone", host=server.url)
            with pytest.raises(errors.InvalidSettings, match="There is no connection 'gone'"):
                ask(WasabiJobsHook("gone"))

    @pytest.mark.parametrize(("status", "error"), [(403, errors.Forbidden), (404, errors.NotFound)])
    def test_another_refusal_reads_nothing_again(self, connect, ask, look_ups, status, error):
        with Loopback(answer(status)) as server:
            connect(host=server.url)
            with pytest.raises(error):
                ask(WasabiJobsHook())
        assert len(server.requests) == 1
        assert len(look_ups) == 1


@pytest.mark.parametrize(("first", "then"), [(ask, aask), (aask, ask)], ids=["sync first", "async first"])
def test_keys_that_were_changed_reach_both_ways(connect, first, then):
    def fussy(wire):
        return report("in_progress") if keys_of(wire.request) == right else UNAUTHORIZED

    right = (ACCESS_KEY, SECRET_KEY)
    with Loopback(fussy) as server:
        connect(host=server.url)
        hook = WasabiJobsHook()
        assert [first(hook), then(hook)] == [RUNNING, RUNNING]
        right = (NEW_ACCESS_KEY, NEW_SECRET_KEY)
        connect(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
        assert [first(hook), then(hook)] == [RUNNING, RUNNING]


@both_ways
class TestJobId:
    @pytest.mark.parametrize("job_id", [None, "", "  ", "None", ".", "..", True, 1.5, ["12345"]])
    def test_that_cannot_be_is_named_before_anything_is_asked(self, ask, look_ups, job_id):
        with pytest.raises(ValueError, match=r"^job_id is .*\.$") as told:
            ask(WasabiJobsHook("nobody_wrote_it"), job_id)
        assert not isinstance(told.value, errors.AirError)
        assert look_ups == []

    @pytest.mark.parametrize("method", ["get_job", "get_job_errors", "get_job_metadata"])
    @pytest.mark.parametrize("job_id", [None, "", "None", ".."])
    def test_is_checked_whatever_is_asked_of_the_job(self, ask, look_ups, method, job_id):
        with pytest.raises(ValueError, match=r"^job_id is .*\.$"):
            getattr(WasabiJobsHook("nobody_wrote_it"), method)(job_id)
        assert look_ups == []

    @pytest.mark.parametrize(
        ("job_id", "asked"),
        [
            (12345, "12345"),
            (" 12345\n", "12345"),
            ("a/b?c", "a%2Fb%3Fc"),
            ("../x", "..%2Fx"),
            ("ü", "%C3%BC"),
        ],
    )
    def test_that_can_be(self, connect, ask, job_id, asked):
        text = str(job_id).strip()
        with Loopback(report("in_progress", job_id=text)) as server:
            connect(host=server.url)
            assert ask(WasabiJobsHook(), job_id) == JobReport(text, JobStatus.IN_PROGRESS)
        assert server.requests[0].target == f"/jobs/{asked}/status"


@both_ways
def test_passing_trouble_is_told_as_such(connect, ask):
    with Loopback(answer(503)) as server:
        connect(host=server.url, extra={"retries": 0})
        with pytest.raises(errors.ServerTrouble) as told:
            ask(WasabiJobsHook())
    assert told.value.is_passing


def test_the_client_takes_the_other_calls_too(connect):
    with Loopback(json_answer({"Records": [{"Id": "12345", "Status": "failed"}]})) as server:
        connect(host=server.url)
        hook = WasabiJobsHook()
        assert hook.get_conn().send(calls.list_jobs()) == [Job("12345", "failed")]
        assert hook.get_conn() is hook.get_conn()


class TestWhatElseIsAskedOfAJob:
    def test_the_job(self, connect):
        with Loopback(
            json_answer({"Id": "a/b", "Status": "failed", "Created": "2024-11-13T07:11:51Z", "Priority": 5})
        ) as server:
            connect(host=server.url)
            assert WasabiJobsHook().get_job(" a/b\n") == Job(
                "a/b", JobStatus.FAILED, priority=5, created=datetime(2024, 11, 13, 7, 11, 51, tzinfo=UTC)
            )
        assert server.requests[0].target == "/jobs/a%2Fb"

    def test_its_errors(self, connect):
        with Loopback(json_answer({"Status": "failed", "ErrorCode": "INTERNAL_ERROR", "ErrorCount": 2})) as server:
            connect(host=server.url)
            assert WasabiJobsHook().get_job_errors(12345) == JobErrors("12345", JobStatus.FAILED, 2, "INTERNAL_ERROR")
        assert server.requests[0].target == "/jobs/12345/errors"

    def test_where_its_result_lies(self, connect):
        told = {"DestinationPath": "s3://results/1", "Destination": {"Bucket": "results", "Region": "us-east-1"}}
        with Loopback(json_answer(told)) as server:
            connect(host=server.url)
            metadata = WasabiJobsHook().get_job_metadata("12345")
        assert metadata == JobMetadata("12345", "s3://results/1", Destination("results", "us-east-1"))
        assert metadata.as_xcom() == {
            "metadata_path": "s3://results/1",
            "destination": {"bucket": "results", "region": "us-east-1"},
        }
        assert server.requests[0].target == "/jobs/12345/metadata"

    def test_there_is_no_result_yet(self, connect):
        with Loopback(json_answer({"ErrorCode": "NOT_FOUND"}, 404)) as server:
            connect(host=server.url)
            with pytest.raises(errors.NotFound, match="once the job is completed"):
                WasabiJobsHook().get_job_metadata("12345")


def page_of(*numbers):
    """Write a page of jobs whose ids are these numbers."""
    return json_answer({"Records": [{"Id": str(number), "Status": "failed"} for number in numbers]})


class TestListing:
    def listed(self, **filters):
        return [int(job.job_id) for job in WasabiJobsHook().list_jobs(**filters)]

    def test_jobs_are_read_as_they_are(self, connect):
        record = {"Id": 1, "Status": "Archived", "Name": "a job", "Source": {"Bucket": "media"}, "Batch": "b"}
        with Loopback(json_answer({"Records": [record]})) as server:
            connect(host=server.url)
            assert list(WasabiJobsHook().list_jobs()) == [
                Job("1", None, name="a job", source=Source(bucket="media"), batch="b")
            ]

    def test_nothing_is_asked_before_it_is_needed(self, connect, look_ups):
        with Loopback(page_of(*range(100)), page_of(*range(100, 200)), page_of(200)) as server:
            connect(host=server.url)
            jobs = WasabiJobsHook().list_jobs()
            assert (len(server.requests), look_ups) == (0, [])
            asked_after = {}
            for number, job in enumerate(jobs, start=1):
                assert job.job_id == str(number - 1)
                asked_after[number] = len(server.requests)
        assert [asked_after[number] for number in (1, 100, 101, 200, 201)] == [1, 1, 2, 2, 3]
        assert [request.target.partition("&")[0] for request in server.requests] == [
            "/jobs?pageNumber=1", "/jobs?pageNumber=2", "/jobs?pageNumber=3",
        ]  # fmt: skip
        assert look_ups == ["wasabi_default"]

    def test_the_first_is_had_for_one_page(self, connect):
        with Loopback(page_of(*range(100))) as server:
            connect(host=server.url)
            assert next(WasabiJobsHook().list_jobs()).job_id == "0"
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("pages", "count"),
        [
            ([[]], 0),
            ([range(99)], 99),
            ([range(100), []], 100),
            ([range(100), range(100, 199)], 199),
            ([range(100), range(100, 200), [200]], 201),
        ],
    )
    def test_a_short_page_is_the_last(self, connect, pages, count):
        never = page_of(-1)
        with Loopback(*(page_of(*page) for page in pages), never) as server:
            connect(host=server.url)
            assert self.listed() == list(range(count))
        assert len(server.requests) == len(pages)

    def test_each_job_comes_once_though_pages_overlap(self, connect):
        with Loopback(page_of(*range(100)), page_of(*range(90, 190)), page_of(3, 189, 190, 190)) as server:
            connect(host=server.url)
            assert self.listed() == list(range(191))

    def test_a_server_that_repeats_a_page_for_ever_is_not_asked_for_ever(self, connect):
        same = page_of(*range(100))
        with Loopback(same, same, answer(403)) as server:
            connect(host=server.url)
            assert self.listed() == list(range(100))
        assert len(server.requests) == 2

    @pytest.mark.parametrize(
        ("filters", "query"),
        [
            ({}, "&sortOrder=Asc"),
            ({"newest_first": True}, "&sortOrder=Desc"),
            ({"batch": "a b&c"}, "&sortOrder=Asc&batch=a%20b%26c"),
            ({"name": "ü/1"}, "&sortOrder=Asc&name=%C3%BC%2F1"),
            ({"status": JobStatus.FAILED}, "&sortOrder=Asc&status=failed"),
            ({"status": "in_progress"}, "&sortOrder=Asc&status=in_progress"),
            (
                {"batch": "b", "name": "n", "status": "failed", "newest_first": True},
                "&sortOrder=Desc&status=failed&batch=b&name=n",
            ),
        ],
    )
    def test_what_is_looked_for_is_asked_for_on_each_page(self, connect, filters, query):
        with Loopback(page_of(*range(100)), page_of()) as server:
            connect(host=server.url)
            self.listed(**filters)
        assert [request.target for request in server.requests] == [
            f"/jobs?pageNumber={number}&pageSize=100&sortBy=Created{query}" for number in (1, 2)
        ]

    @pytest.mark.parametrize("status", ["", "Failed", "None", "done", "failed ", 5])
    def test_a_status_that_there_is_not_is_told_at_once(self, look_ups, status):
        with pytest.raises(ValueError, match="is not a valid JobStatus"):
            WasabiJobsHook("nobody_wrote_it").list_jobs(status=status)
        assert look_ups == []

    def test_each_page_is_tried_again_in_passing_trouble(self, connect):
        busy = answer(503, Retry_After="0")
        with Loopback(busy, page_of(*range(100)), busy, page_of(100)) as server:
            connect(host=server.url, extra={"retries": 1})
            assert self.listed() == list(range(101))

    def test_keys_that_were_changed_between_two_pages(self, connect, log):
        def refuse_and_change(_):
            connect(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(page_of(*range(100)), refuse_and_change, page_of(100)) as server:
            connect(host=server.url)
            assert self.listed() == list(range(101))
        assert keys_of(server.requests[2]) == (NEW_ACCESS_KEY, NEW_SECRET_KEY)
        assert "pageNumber=2&" in server.requests[2].target

    def test_an_error_comes_where_the_page_is_needed(self, connect):
        with Loopback(page_of(*range(100)), answer(403)) as server:
            connect(host=server.url)
            jobs = WasabiJobsHook().list_jobs()
            assert [next(jobs).job_id for _ in range(100)] == [str(number) for number in range(100)]
            with pytest.raises(errors.Forbidden, match="WasabiViewAiR"):
                next(jobs)


SUBMITTED = json_answer({"Job": {"Id": "12345", "Status": "submitted", "Name": "a job"}})
JOB = Job("12345", JobStatus.SUBMITTED, name="a job")


def submit(hook, **fields):
    least = {
        "name": "a job",
        "source": {"bucket": "media", "object_key": "a.mp4"},
        "destination": {"bucket": "results", "region": "us-east-1"},
        "services": ["ocr"],
    }
    return hook.submit_job(**{**least, **fields})


class TestSubmitting:
    def test_as_little_as_there_can_be(self, connect, look_ups):
        with Loopback(SUBMITTED) as server:
            connect(host=server.url)
            assert submit(WasabiJobsHook()) == JOB
        (request,) = server.requests
        assert (request.method, request.target) == ("POST", "/jobs")
        assert keys_of(request) == (ACCESS_KEY, SECRET_KEY)
        assert json.loads(request.body) == {
            "Name": "a job",
            "Services": {"ocr": ""},
            "Source": {"Bucket": "media", "ObjectKey": "a.mp4"},
            "Destination": {"Bucket": "results", "Region": "us-east-1"},
        }
        assert look_ups == ["wasabi_default"]

    def test_all_that_there_is(self, connect, look_ups):
        with Loopback(SUBMITTED) as server:
            connect(host=server.url)
            connect("the_source", conn_type="aws", login=SOURCE_ACCESS_KEY, password=f" {SOURCE_SECRET_KEY}\n")
            job = submit(
                WasabiJobsHook(),
                source={
                    "bucket": "media",
                    "object_key": "a.mp4",
                    "region": "eu-1",
                    "endpoint": "https://s3.example.com",
                },
                services={"ocr": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
                priority=10,
                batch="a batch",
                source_conn_id="the_source",
            )
        assert job == JOB
        assert json.loads(server.requests[0].body) == {
            "Name": "a job",
            "Services": {"ocr": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}},
            "Source": {
                "Bucket": "media",
                "ObjectKey": "a.mp4",
                "Region": "eu-1",
                "Endpoint": "https://s3.example.com",
                "AccessKey": SOURCE_ACCESS_KEY,
                "SecretKey": SOURCE_SECRET_KEY,
            },
            "Destination": {"Bucket": "results", "Region": "us-east-1"},
            "Priority": 10,
            "Batch": "a batch",
        }
        assert sorted(look_ups) == ["the_source", "wasabi_default"]

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"name": " "}, "name is ' ': a job needs a name"),
            ({"source": {"bucket": "media"}}, "source has no object_key"),
            ({"source": {"bucket": "b", "object_key": "o", "secret_key": SOURCE_SECRET_KEY}}, "see source_conn_id"),
            ({"destination": {"bucket": "results"}}, "destination has no region"),
            ({"services": []}, "services names no service"),
            ({"priority": 11}, "priority is 11"),
            ({"batch": ""}, "batch is ''"),
        ],
    )
    def test_what_can_not_be_sent_is_told_before_anything_is(self, connect, fields, words):
        with Loopback(SUBMITTED) as server:
            connect(host=server.url)
            with pytest.raises(ValueError) as told:
                submit(WasabiJobsHook(), **fields)
        assert words in str(told.value)
        assert SOURCE_SECRET_KEY not in str(told.value)
        assert server.requests == []

    @pytest.mark.parametrize("script", [answer(429, Retry_After="0"), answer(503), cut(), reset(), hang()])
    def test_once_and_not_twice(self, connect, script):
        with Loopback(script, SUBMITTED) as server:
            connect(host=server.url, extra={"retries": 3, "read_timeout": 0.5})
            with pytest.raises(errors.AirError) as told:
                submit(WasabiJobsHook())
        assert told.value.is_passing
        assert len(server.requests) == 1

    def test_again_once_with_keys_that_were_changed(self, connect, look_ups, log):
        def refuse_and_change(_):
            connect(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(refuse_and_change, SUBMITTED) as server:
            connect(host=server.url)
            connect("the_source", login=SOURCE_ACCESS_KEY, password=SOURCE_SECRET_KEY)
            assert submit(WasabiJobsHook(), source_conn_id="the_source") == JOB
        first, second = server.requests
        assert (first.method, second.method) == ("POST", "POST")
        assert first.body == second.body
        assert [keys_of(first), keys_of(second)] == [(ACCESS_KEY, SECRET_KEY), (NEW_ACCESS_KEY, NEW_SECRET_KEY)]
        assert sorted(look_ups) == ["the_source", "wasabi_default", "wasabi_default"]
        assert len(log) == 1

    @pytest.mark.parametrize("then", [UNAUTHORIZED, answer(503)], ids=["401", "503"])
    def test_no_third_time(self, connect, then):
        def refuse_and_change(_):
            connect(host=server.url, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(refuse_and_change, then, SUBMITTED) as server:
            connect(host=server.url)
            with pytest.raises(errors.Refusal):
                submit(WasabiJobsHook())
        assert len(server.requests) == 2

    def test_not_again_with_keys_that_were_not(self, connect):
        with Loopback(UNAUTHORIZED, SUBMITTED) as server:
            connect(host=server.url)
            with pytest.raises(errors.Unauthorized):
                submit(WasabiJobsHook())
        assert len(server.requests) == 1

    def test_without_the_policy_for_it(self, connect):
        with Loopback(answer(403)) as server:
            connect(host=server.url)
            with pytest.raises(errors.Forbidden, match="WasabiManageAiR"):
                submit(WasabiJobsHook())


class TestTheKeysOfASource:
    @pytest.mark.parametrize("conn_id", ["nobody_wrote_it", "", "None"])
    def test_there_is_no_such_connection(self, connect, conn_id):
        with Loopback(SUBMITTED) as server:
            connect(host=server.url)
            with pytest.raises(errors.InvalidSettings) as told:
                submit(WasabiJobsHook(), source_conn_id=conn_id)
        assert not isinstance(told.value, AirflowException)
        assert isinstance(told.value.__cause__, AirflowNotFoundException)
        assert f"There is no connection {conn_id!r}, which source_conn_id names" in str(told.value)
        assert "as login and the secret key as password" in str(told.value)
        assert server.requests == []

    @pytest.mark.parametrize("field", ["login", "password"])
    @pytest.mark.parametrize("key", [None, "", " ", "two words", "line\nbreak", "schlüssel", "nul\0"])
    def test_a_connection_without_a_key_that_can_be_one(self, connect, field, key):
        with Loopback(SUBMITTED) as server:
            connect(host=server.url)
            connect("the_source", **{"login": SOURCE_ACCESS_KEY, "password": SOURCE_SECRET_KEY, field: key})
            with pytest.raises(errors.InvalidSettings) as told:
                submit(WasabiJobsHook(), source_conn_id="the_source")
        assert "'the_source', which source_conn_id names" in str(told.value)
        assert "access key of the source as login and the secret key as password" in str(told.value)
        for secret in (SOURCE_ACCESS_KEY, SOURCE_SECRET_KEY, *((key,) if key and key.strip() else ())):
            assert secret not in str(told.value)
        assert server.requests == []

    def test_are_read_anew_for_each_job(self, connect):
        with Loopback(SUBMITTED) as server:
            connect(host=server.url)
            hook = WasabiJobsHook()
            for secret_key in ("the-first-secret", "the-second-secret"):
                connect("the_source", login=SOURCE_ACCESS_KEY, password=secret_key)
                submit(hook, source_conn_id="the_source")
        sent = [json.loads(request.body)["Source"]["SecretKey"] for request in server.requests]
        assert sent == ["the-first-secret", "the-second-secret"]

    @pytest.mark.parametrize("status", [200, 400, 401, 500])
    def test_are_in_no_log_line_error_or_repr(self, connect, caplog, capfd, status):
        def echo(wire):
            return answer(status, b"No such keys: " + wire.request.body)

        caplog.set_level("DEBUG")
        with Loopback(echo) as server:
            connect(host=server.url)
            connect("the_source", login=SOURCE_ACCESS_KEY, password=SOURCE_SECRET_KEY)
            hook = WasabiJobsHook()
            with pytest.raises(errors.AirError) as told:
                submit(hook, source_conn_id="the_source")
        printed = capfd.readouterr()
        shown = "".join(traceback.format_exception(told.value))
        seen = f"{shown} {vars(told.value)!r} {vars(hook)!r} {caplog.text} {printed.out} {printed.err}"
        assert "***" in seen
        assert SOURCE_ACCESS_KEY not in seen
        assert SOURCE_SECRET_KEY not in seen

    def test_airflow_masks_the_secret_one_in_the_logs_of_tasks(self, connect):
        secret_key = "0nly/t0ld+in=this-0ne"
        assert redact(secret_key) == secret_key
        with Loopback(SUBMITTED) as server:
            connect(host=server.url)
            connect("the_source", login=SOURCE_ACCESS_KEY, password=secret_key)
            submit(WasabiJobsHook(), source_conn_id="the_source")
        assert redact(secret_key) == "***"
        assert secret_key not in redact(f"The secret key is {secret_key}.")


class TestTheEventLoop:
    """Whoever else is on the loop goes on. If the hook blocked it, these would wait for each other."""

    def test_goes_on_during_the_look_up(self, connect, monkeypatch):
        connect(host="https://air.example.com", login="")
        begun, others_went_on = threading.Event(), threading.Event()
        get_connection = BaseHook.get_connection

        def slow(conn_id):
            begun.set()
            assert others_went_on.wait(5)
            return get_connection(conn_id)

        async def aslow(conn_id):
            return await asyncio.to_thread(slow, conn_id)

        monkeypatch.setattr(BaseHook, "get_connection", staticmethod(slow))
        if hasattr(BaseHook, "aget_connection"):
            monkeypatch.setattr(BaseHook, "aget_connection", staticmethod(aslow))

        async def scene():
            asked = asyncio.create_task(WasabiJobsHook().aget_job_status("12345"))
            assert await asyncio.to_thread(begun.wait, 5)
            others_went_on.set()
            with pytest.raises(errors.InvalidSettings, match="access key"):
                await asked

        asyncio.run(scene())

    def test_goes_on_while_the_answer_is_awaited(self, connect):
        asked, others_went_on = threading.Event(), threading.Event()

        def slow(_):
            asked.set()
            assert others_went_on.wait(5)
            return report("in_progress")

        async def scene():
            look = asyncio.create_task(WasabiJobsHook().aget_job_status("12345"))
            assert await asyncio.to_thread(asked.wait, 5)
            others_went_on.set()
            return await look

        with Loopback(slow) as server:
            connect(host=server.url)
            assert asyncio.run(scene()) == RUNNING

    def test_goes_on_while_the_connection_is_read_again(self, connect, monkeypatch):
        begun, others_went_on = threading.Event(), threading.Event()
        real = hooks.get_async_connection
        look_ups = []

        async def slow_the_second_time(conn_id):
            look_ups.append(conn_id)
            if len(look_ups) == 2:
                begun.set()
                assert await asyncio.to_thread(others_went_on.wait, 5)
            return await real(conn_id)

        monkeypatch.setattr(hooks, "get_async_connection", slow_the_second_time)

        async def scene():
            look = asyncio.create_task(WasabiJobsHook().aget_job_status("12345"))
            assert await asyncio.to_thread(begun.wait, 5)
            others_went_on.set()
            with pytest.raises(errors.Unauthorized):
                await look

        with Loopback(UNAUTHORIZED) as server:
            connect(host=server.url)
            asyncio.run(scene())


class TestTestConnection:
    """What the button of the connection form says."""

    def test_fine(self, connect):
        with Loopback(json_answer({"Records": []})) as server:
            connect(host=server.url)
            assert WasabiJobsHook().test_connection() == (
                True,
                "The AiR Jobs API answered and accepted the keys.",
            )
        (request,) = server.requests
        assert request.target.startswith("/jobs?pageNumber=1&pageSize=1&")

    def test_of_the_form_of_airflow_2(self, connect):
        # It names each field twice, and writes "y" for a ticked box.
        filled_in = {"read_timeout": "7", "allow_http": "y"}
        twice = {f"extra__wasabi__{name}": value for name, value in filled_in.items()}
        with Loopback(json_answer({"Records": []})) as server:
            connect(host=server.url, extra={**twice, **filled_in})
            assert WasabiJobsHook().test_connection()[0]
            assert WasabiJobsHook().get_conn().settings.options == Options(read_timeout=7, allow_http=True)

    @pytest.mark.parametrize("extra", ['{"extra__wasabi__', '["extra__wasabi__retries"]', None])
    def test_leaves_an_extra_that_is_no_object_to_be_refused(self, extra):
        assert hooks._as_saved(extra) == extra

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            pytest.param(
                UNAUTHORIZED,
                ["401 UNAUTHORIZED", "Check the access key (login) and the secret key (password)."],
                id="wrong keys",
            ),
            pytest.param(
                json_answer({"Error": "Forbidden", "ErrorCode": "FORBIDDEN"}, 403),
                ["403 FORBIDDEN", "needs the IAM policy WasabiViewAiR"],
                id="no permission",
            ),
            pytest.param(
                answer(200, "<html>Welcome to nginx</html>"),
                ["not what the API promises", "Welcome to nginx", "Check that host is the address of an AiR Jobs API"],
                id="HTML",
            ),
            pytest.param(answer(404), ["404", "not the address of an AiR Jobs API"], id="no such path"),
            pytest.param(
                answer(302, Location="https://elsewhere.example.com"), ["302", "It is not followed"], id="moved"
            ),
            pytest.param(answer(200, f"keys: {ACCESS_KEY}, {SECRET_KEY}"), ["keys: ***, ***"], id="keys in the answer"),
            pytest.param(
                json_answer({"Error": f"no user {ACCESS_KEY} with {SECRET_KEY}"}, 401),
                ["no user *** with ***"],
                id="keys in the refusal",
            ),
            pytest.param(answer(500), ["500", "it may pass"], id="trouble"),
        ],
    )
    def test_a_server_that_says_no(self, connect, script, words):
        with Loopback(script) as server:
            connect("a_random_id", host=server.url, extra={"retries": 0})
            fine, text = WasabiJobsHook("a_random_id").test_connection()
        assert not fine
        assert text.startswith(f"Asked for a list of jobs on this connection at {server.url}: ")
        assert [word for word in words if word not in text] == []
        assert ACCESS_KEY not in text
        assert SECRET_KEY not in text

    def test_nobody_there(self, connect):
        with refusing() as url:
            connect(host=url, extra={"retries": 0})
            fine, text = WasabiJobsHook().test_connection()
        assert not fine
        assert "the connection was refused" in text
        assert url in text

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"host": None}, "no host"),
            ({"login": None}, "no access key (login)"),
            ({"password": " "}, "no secret key (password)"),
            ({"host": "http://air.example.com"}, "The host of this connection is plain http"),
            ({"extra": {"retries": "many"}}, "The 'retries' in the extra of this connection can't be used"),
            ({"extra": {"verify": "/no/such/file.pem"}}, "/no/such/file.pem"),
        ],
    )
    def test_a_connection_that_cannot_be_used(self, connect, fields, words):
        connect("a_random_id", **{"host": "https://air.example.com"} | fields)
        fine, text = WasabiJobsHook("a_random_id").test_connection()
        assert not fine
        assert words in text
        assert "a_random_id" not in text
        assert "The this" not in text
        assert SECRET_KEY not in text

    def test_no_connection(self):
        fine, text = WasabiJobsHook("nobody_wrote_it").test_connection()
        assert not fine
        assert "There is no connection 'nobody_wrote_it'" in text

    def test_reads_the_connection_anew(self, connect):
        with Loopback(UNAUTHORIZED, json_answer({"Records": []})) as server:
            connect(host=server.url)
            hook = WasabiJobsHook()
            assert not hook.test_connection()[0]
            connect(host=server.url, login=NEW_ACCESS_KEY)
            assert hook.test_connection()[0]
        assert server.requests[1].headers["x-amz-access-key"] == NEW_ACCESS_KEY

    def test_is_what_airflow_calls(self, connect):
        with Loopback(json_answer({"Records": []})) as server:
            connect("a_random_id", host=server.url)
            connection = Connection(
                conn_id="a_random_id", conn_type="wasabi", host=server.url, login=ACCESS_KEY, password=SECRET_KEY
            )
            assert connection.test_connection()[0]


@both_ways
def test_no_key_is_in_a_log_line_or_a_repr(connect, ask, caplog, capfd):
    caplog.set_level("DEBUG")
    with Loopback(UNAUTHORIZED, report("in_progress")) as server:
        connect(host=server.url, conn_type="http")
        hook = WasabiJobsHook()
        with pytest.raises(errors.Unauthorized) as told:
            ask(hook)
        ask(hook)
    printed = capfd.readouterr()
    seen = f"{told.value!r} {vars(hook)!r} {hook.get_conn()!r} {caplog.text} {printed.out} {printed.err}"
    assert "is of type 'http'" in seen
    assert ACCESS_KEY not in seen
    assert SECRET_KEY not in seen
