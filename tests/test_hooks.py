"""WasabiJobsHook with real Airflow connections and real HTTP on the loopback interface."""

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
from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException, BaseHook, XCom, redact
from loopback import Loopback, cut, hang, json_response, refused_url, reset, response, status_response

from airflow_wasabi_jobs import connection_form, hooks
from airflow_wasabi_jobs.api import endpoints, exceptions
from airflow_wasabi_jobs.api.batches import BatchReport
from airflow_wasabi_jobs.api.models import Destination, Job, JobErrors, JobMetadata, JobReport, JobStatus, Source
from airflow_wasabi_jobs.api.settings import Options
from airflow_wasabi_jobs.hooks import WasabiJobsHook
from airflow_wasabi_jobs.log import LOG

ACCESS_KEY, SECRET_KEY = "the-access-key", "the-secret-key"
NEW_ACCESS_KEY, NEW_SECRET_KEY = "a-new-access-key", "a-new-secret-key"
SOURCE_ACCESS_KEY, SOURCE_SECRET_KEY = "the-source's-access+key", "the/source's-secret+key="
RUNNING = JobReport("12345", JobStatus.IN_PROGRESS)
UNAUTHORIZED = json_response({"Error": "Unauthorized", "ErrorCode": "UNAUTHORIZED"}, 401)


def get_status(hook, job_id="12345"):
    return hook.get_job_status(job_id)


def aget_status(hook, job_id="12345"):
    return asyncio.run(hook.aget_job_status(job_id))


sync_and_async = pytest.mark.parametrize(
    "get_status", [pytest.param(get_status, id="sync"), pytest.param(aget_status, id="async")]
)


@pytest.fixture
def write_connection(monkeypatch):
    """Define a connection in an environment variable."""

    def write(conn_id="wasabi_default", **fields):
        fields = {"conn_type": "wasabi", "login": ACCESS_KEY, "password": SECRET_KEY, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return write


@pytest.fixture
def connection_reads(monkeypatch):
    """Record the id of each connection that is read from Airflow."""
    read_ids = []
    get_connection = BaseHook.get_connection

    def recording_get_connection(conn_id):
        read_ids.append(conn_id)
        return get_connection(conn_id)

    monkeypatch.setattr(BaseHook, "get_connection", staticmethod(recording_get_connection))
    if hasattr(BaseHook, "aget_connection"):
        aget_connection = BaseHook.aget_connection

        async def recording_aget_connection(conn_id):
            read_ids.append(conn_id)
            return await aget_connection(conn_id)

        monkeypatch.setattr(BaseHook, "aget_connection", staticmethod(recording_aget_connection))
    return read_ids


@pytest.fixture
def log_records(monkeypatch):
    """Record what the hook logs."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    monkeypatch.setattr(LOG, "handlers", [handler])
    monkeypatch.setattr(LOG, "level", logging.INFO)
    return records


def keys_of(request):
    return request.headers["x-amz-access-key"], request.headers["x-amz-secret-key"]


@sync_and_async
class TestConnection:
    def test_as_json(self, write_connection, get_status):
        with Loopback(status_response("completed", 3)) as server:
            write_connection(host=server.url)
            assert get_status(WasabiJobsHook()) == JobReport("12345", JobStatus.COMPLETED, 3)
        (request,) = server.requests
        assert (request.method, request.target) == ("GET", "/jobs/12345/status")
        assert keys_of(request) == (ACCESS_KEY, SECRET_KEY)

    def test_as_json_with_separate_fields(self, write_connection, get_status):
        with Loopback(status_response("in_progress")) as server:
            write_connection(host="http://127.0.0.1", port=server.port, schema="a/prefix", extra={"retries": 0})
            assert get_status(WasabiJobsHook()) == RUNNING
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
    def test_as_uri(self, monkeypatch, get_status, uri, target):
        with Loopback(status_response("in_progress")) as server:
            uri = uri.format(keys=f"{ACCESS_KEY}:{SECRET_KEY}", url=quote(server.url, safe=""), port=server.port)
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", uri)
            assert get_status(WasabiJobsHook()) == RUNNING
        assert server.requests[0].target == target

    def test_as_uri_with_a_remote_http_host(self, monkeypatch, get_status):
        with Loopback(status_response("in_progress")) as proxy:
            uri = f"wasabi://{ACCESS_KEY}:{SECRET_KEY}@http%3A%2F%2Fair.example.com?proxy={quote(proxy.url, safe='')}"
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", uri)
            with pytest.raises(exceptions.ConnectionConfigError, match="uses unencrypted HTTP"):
                get_status(WasabiJobsHook())
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", f"{uri}&allow_http=true")
            assert get_status(WasabiJobsHook()) == RUNNING
        assert proxy.requests[0].target == "http://air.example.com/jobs/12345/status"

    def test_as_uri_with_special_characters_in_the_keys(self, monkeypatch, get_status):
        keys = ("a/b:c@d", "50%+&?#")
        with Loopback(status_response("in_progress")) as server:
            encoded_keys = ":".join(quote(key, safe="") for key in keys)
            monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", f"wasabi://{encoded_keys}@{quote(server.url, safe='')}")
            get_status(WasabiJobsHook())
        assert keys_of(server.requests[0]) == keys

    def test_other_connection_id(self, write_connection, get_status):
        with Loopback(status_response("in_progress")) as server:
            write_connection("my_air", host=server.url)
            assert get_status(WasabiJobsHook("my_air")) == RUNNING
            assert get_status(WasabiJobsHook(wasabi_conn_id="my_air")) == RUNNING

    def test_missing_connection(self, get_status):
        with pytest.raises(exceptions.ConnectionConfigError) as caught:
            get_status(WasabiJobsHook("no_such_connection"))
        assert not isinstance(caught.value, AirflowException)  # or soft_fail would skip it
        assert isinstance(caught.value.__cause__, AirflowNotFoundException)
        assert "Connection 'no_such_connection' does not exist." in str(caught.value)
        assert "AIRFLOW_CONN_NO_SUCH_CONNECTION" in str(caught.value)

    @pytest.mark.parametrize(
        "stored_connection",
        [
            "wasabi://the-access-key:qu/artz@air.example.com/",
            "wasabi://the-access-key:qu%2Fartz@http://air.example.com/",
            '{"conn_type": "wasabi", "password": "qu/artz"',
        ],
    )
    def test_connection_that_airflow_cannot_parse(self, monkeypatch, get_status, stored_connection):
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", stored_connection)
        with pytest.raises(exceptions.ConnectionConfigError) as caught:
            get_status(WasabiJobsHook())
        assert "Airflow cannot parse connection 'wasabi_default'" in str(caught.value)
        assert "AIRFLOW_CONN_WASABI_DEFAULT" in str(caught.value)
        assert "artz" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"host": ""}, "No host is set in"),
            ({"login": ""}, "No access key (login) is set in"),
            ({"password": None}, "No secret key (password) is set in"),
            ({"host": "http://air.example.com"}, "uses unencrypted HTTP"),
            ({"extra": {"retires": 1}}, "Unknown key 'retires'"),
            ({"extra": {"retries": -1}}, "'retries'"),
        ],
    )
    def test_invalid_connection(self, write_connection, get_status, fields, expected):
        write_connection(**{"host": "https://air.example.com"} | fields)
        with pytest.raises(exceptions.ConnectionConfigError) as caught:
            get_status(WasabiJobsHook())
        assert expected in str(caught.value)
        assert "onnection 'wasabi_default'" in str(caught.value)
        assert ACCESS_KEY not in str(caught.value)
        assert SECRET_KEY not in str(caught.value)

    def test_other_connection_type_is_a_warning(self, write_connection, get_status, log_records):
        with Loopback(status_response("in_progress")) as server:
            write_connection(conn_type="http", host=server.url)
            assert get_status(WasabiJobsHook()) == RUNNING
        (record,) = log_records
        assert record.levelname == "WARNING"
        assert "'wasabi_default' has the type 'http' instead of 'wasabi'" in record.getMessage()

    @pytest.mark.parametrize("conn_type", ["wasabi", None, ""])
    def test_right_or_missing_connection_type_is_no_warning(self, monkeypatch, get_status, log_records, conn_type):
        with Loopback(status_response("in_progress")) as server:
            connection = Connection(host=server.url, login=ACCESS_KEY, password=SECRET_KEY)
            connection.conn_type = conn_type

            async def aget_connection(conn_id):
                return connection

            monkeypatch.setattr(BaseHook, "get_connection", staticmethod(lambda conn_id: connection))
            monkeypatch.setattr(BaseHook, "aget_connection", staticmethod(aget_connection), raising=False)
            get_status(WasabiJobsHook())
        assert log_records == []

    def test_connection_is_read_once_for_many_requests(self, write_connection, get_status, connection_reads):
        with Loopback(status_response("in_progress")) as server:
            write_connection(host=server.url)
            hook = WasabiJobsHook()
            assert connection_reads == []
            for _ in range(3):
                get_status(hook)
        assert connection_reads == ["wasabi_default"]
        assert len(server.requests) == 3

    def test_fixed_connection_is_read_again(self, write_connection, get_status):
        hook = WasabiJobsHook()
        with Loopback(status_response("in_progress")) as server:
            write_connection(host=server.url, login="")
            with pytest.raises(exceptions.ConnectionConfigError):
                get_status(hook)
            write_connection(host=server.url)
            assert get_status(hook) == RUNNING


EXTRAS = {
    "connect_timeout": (7, "7.5"),
    "read_timeout": (60, "60"),
    "retries": (0, "0"),
    "verify": (False, "false"),
    "allow_http": (True, "true"),
    "proxy": ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
    "console_url": ("https://console.example.com/{bucket}/{key}", "https://console.example.com/{bucket}/{key}"),
}


def options_of(hook):
    return hook.get_conn().settings.options


class TestExtra:
    def test_every_option_is_tested(self):
        assert set(EXTRAS) == set(Options.__struct_fields__)

    @pytest.mark.parametrize("name", EXTRAS)
    def test_as_json(self, write_connection, name):
        value, _ = EXTRAS[name]
        write_connection(host="https://air.example.com", extra={name: value})
        assert options_of(WasabiJobsHook()) == Options(**{name: value})

    @pytest.mark.parametrize("name", EXTRAS)
    def test_as_uri(self, monkeypatch, name):
        _, text = EXTRAS[name]
        uri = f"wasabi://{ACCESS_KEY}:{SECRET_KEY}@air.example.com?{name}={quote(text, safe='')}"
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", uri)
        assert options_of(WasabiJobsHook()) == Options(**{name: 7.5 if name == "connect_timeout" else EXTRAS[name][0]})

    @pytest.mark.parametrize("name", EXTRAS)
    def test_prefixed_name(self, write_connection, name):
        value, _ = EXTRAS[name]
        write_connection(host="https://air.example.com", extra={f"extra__wasabi__{name}": value})
        assert options_of(WasabiJobsHook()) == Options(**{name: value})

    def test_name_without_the_prefix_is_preferred(self, write_connection):
        write_connection(host="https://air.example.com", extra={"retries": 1, "extra__wasabi__retries": 2})
        assert options_of(WasabiJobsHook()) == Options(retries=1)

    @pytest.mark.parametrize("name", ["extra__wasabi__timeout", "extra__http__retries"])
    def test_unknown_prefixed_name(self, write_connection, name):
        write_connection(host="https://air.example.com", extra={name: 1})
        with pytest.raises(
            exceptions.ConnectionConfigError, match=f"Unknown key '{name.removeprefix('extra__wasabi__')}'"
        ):
            WasabiJobsHook().get_conn()

    def test_empty_form_fields(self, write_connection):
        empty = {"connect_timeout": "", "read_timeout": None, "retries": None, "verify": "", "proxy": ""}
        empty |= {"allow_http": False, "console_url": ""}
        write_connection(host="https://air.example.com", extra=empty)
        assert options_of(WasabiJobsHook()) == Options()

    @sync_and_async
    def test_proxy_is_used(self, write_connection, get_status):
        with Loopback(status_response("in_progress")) as proxy:
            write_connection(host="http://air.example.com", extra={"proxy": proxy.url, "allow_http": True})
            assert get_status(WasabiJobsHook()) == RUNNING
        assert proxy.requests[0].target == "http://air.example.com/jobs/12345/status"


@sync_and_async
class TestUnauthorized:
    """After a 401 the connection is read once more, because the keys may have changed."""

    def test_wrong_keys(self, write_connection, get_status, connection_reads, log_records):
        with Loopback(UNAUTHORIZED) as server:
            write_connection(host=server.url)
            with pytest.raises(exceptions.AuthenticationError, match="Check the access key"):
                get_status(WasabiJobsHook())
        assert len(server.requests) == 1
        assert len(connection_reads) == 2
        assert log_records == []

    def test_changed_keys(self, write_connection, get_status, connection_reads, log_records):
        def change_keys_and_return_401(_):
            write_connection(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(change_keys_and_return_401, status_response("in_progress")) as server:
            write_connection(host=server.url)
            hook = WasabiJobsHook()
            assert get_status(hook) == RUNNING
            assert get_status(hook) == RUNNING
        new_keys = (NEW_ACCESS_KEY, NEW_SECRET_KEY)
        assert [keys_of(request) for request in server.requests] == [(ACCESS_KEY, SECRET_KEY), new_keys, new_keys]
        assert len(connection_reads) == 2
        (record,) = log_records
        assert record.levelname == "INFO"
        assert record.getMessage() == "Connection 'wasabi_default' has changed; retrying with its new keys."

    def test_changed_keys_that_are_still_wrong(self, write_connection, get_status, connection_reads):
        def change_keys_and_return_401(_):
            write_connection(host=server.url, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(change_keys_and_return_401, UNAUTHORIZED) as server:
            write_connection(host=server.url)
            with pytest.raises(exceptions.AuthenticationError):
                get_status(WasabiJobsHook())
        assert len(server.requests) == 2
        assert len(connection_reads) == 2

    def test_keys_that_change_twice(self, write_connection, get_status):
        with Loopback(
            UNAUTHORIZED, status_response("in_progress"), UNAUTHORIZED, status_response("in_progress")
        ) as server:
            passwords = iter(["first", "second", "third"])
            write_connection(host=server.url, password=next(passwords))
            hook = WasabiJobsHook()
            to_settings = hook._to_settings

            def to_settings_and_change_keys(*args):
                settings = to_settings(*args)
                write_connection(host=server.url, password=next(passwords, "none"))
                return settings

            hook._to_settings = to_settings_and_change_keys
            assert [get_status(hook), get_status(hook)] == [RUNNING, RUNNING]
        assert [request.headers["x-amz-secret-key"] for request in server.requests] == [
            "first", "second", "second", "third",
        ]  # fmt: skip

    def test_deleted_connection(self, write_connection, get_status):
        def delete_connection_and_return_401(_):
            del os.environ["AIRFLOW_CONN_GONE"]
            return UNAUTHORIZED

        with Loopback(delete_connection_and_return_401) as server:
            write_connection("gone", host=server.url)
            with pytest.raises(exceptions.ConnectionConfigError, match="Connection 'gone' does not exist"):
                get_status(WasabiJobsHook("gone"))

    @pytest.mark.parametrize(
        ("status", "error"), [(403, exceptions.PermissionDeniedError), (404, exceptions.NotFoundError)]
    )
    def test_other_errors_do_not_read_the_connection_again(
        self, write_connection, get_status, connection_reads, status, error
    ):
        with Loopback(response(status)) as server:
            write_connection(host=server.url)
            with pytest.raises(error):
                get_status(WasabiJobsHook())
        assert len(server.requests) == 1
        assert len(connection_reads) == 1


@pytest.mark.parametrize(
    ("first_call", "second_call"),
    [(get_status, aget_status), (aget_status, get_status)],
    ids=["sync first", "async first"],
)
def test_changed_keys_are_used_by_the_sync_and_the_async_client(write_connection, first_call, second_call):
    def check_keys(connection):
        return status_response("in_progress") if keys_of(connection.request) == valid_keys else UNAUTHORIZED

    valid_keys = (ACCESS_KEY, SECRET_KEY)
    with Loopback(check_keys) as server:
        write_connection(host=server.url)
        hook = WasabiJobsHook()
        assert [first_call(hook), second_call(hook)] == [RUNNING, RUNNING]
        valid_keys = (NEW_ACCESS_KEY, NEW_SECRET_KEY)
        write_connection(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
        assert [first_call(hook), second_call(hook)] == [RUNNING, RUNNING]


@sync_and_async
class TestJobId:
    @pytest.mark.parametrize("job_id", [None, "", "  ", "None", ".", "..", True, 1.5, ["12345"]])
    def test_invalid_job_id_is_rejected_before_any_request(self, get_status, connection_reads, job_id):
        with pytest.raises(ValueError, match=r"^job_id is .*\.$") as caught:
            get_status(WasabiJobsHook("no_such_connection"), job_id)
        assert not isinstance(caught.value, exceptions.WasabiApiError)
        assert connection_reads == []

    @pytest.mark.parametrize("method", ["get_job", "get_job_errors", "get_job_metadata"])
    @pytest.mark.parametrize("job_id", [None, "", "None", ".."])
    def test_every_method_checks_the_job_id(self, get_status, connection_reads, method, job_id):
        with pytest.raises(ValueError, match=r"^job_id is .*\.$"):
            getattr(WasabiJobsHook("no_such_connection"), method)(job_id)
        assert connection_reads == []

    @pytest.mark.parametrize(
        ("job_id", "encoded_id"),
        [
            (12345, "12345"),
            (" 12345\n", "12345"),
            ("a/b?c", "a%2Fb%3Fc"),
            ("../x", "..%2Fx"),
            ("ü", "%C3%BC"),
        ],
    )
    def test_valid_job_id(self, write_connection, get_status, job_id, encoded_id):
        text = str(job_id).strip()
        with Loopback(status_response("in_progress", job_id=text)) as server:
            write_connection(host=server.url)
            assert get_status(WasabiJobsHook(), job_id) == JobReport(text, JobStatus.IN_PROGRESS)
        assert server.requests[0].target == f"/jobs/{encoded_id}/status"


@sync_and_async
def test_transient_error_is_transient(write_connection, get_status):
    with Loopback(response(503)) as server:
        write_connection(host=server.url, extra={"retries": 0})
        with pytest.raises(exceptions.ServerError) as caught:
            get_status(WasabiJobsHook())
    assert caught.value.is_transient


def test_get_conn_returns_the_client(write_connection):
    with Loopback(json_response({"Records": [{"Id": "12345", "Status": "failed"}]})) as server:
        write_connection(host=server.url)
        hook = WasabiJobsHook()
        assert hook.get_conn().send(endpoints.list_jobs()) == [Job("12345", "failed")]
        assert hook.get_conn() is hook.get_conn()


MODELS = [
    JobReport("12345", JobStatus.COMPLETED, 2),
    JobErrors("12345", JobStatus.FAILED, 2, "INTERNAL_ERROR"),
    JobMetadata("12345", "s3://results/a.json", Destination("results", "us-east-1")),
    Job("12345", JobStatus.COMPLETED, source=Source("media", "a.mp4"), created=datetime(2026, 1, 1, tzinfo=UTC)),
    BatchReport("nightly", is_finished=True, counts={"completed": 1}, failed_jobs=[]),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
class TestXCom:
    """What a task returns that calls the hook."""

    @pytest.mark.parametrize("wrap", [lambda model: model, lambda model: [model], lambda model: {"a": model}])
    def test_model_is_refused_with_what_to_return(self, model, wrap):
        with pytest.raises(TypeError) as caught:
            XCom.serialize_value(wrap(model))
        # Airflow 2 logs it above an error of its own.
        messages = str(caught.value), str(caught.value.__context__)
        expected = f"A {type(model).__name__} cannot be an XCom. Return a dict instead, such as that of its to_xcom()."
        assert expected in messages

    def test_dict_of_a_model(self, model):
        xcom = model.to_xcom()
        assert json.loads(json.dumps(xcom)) == xcom
        XCom.serialize_value(xcom)


class TestJobDetails:
    def test_get_job(self, write_connection):
        with Loopback(
            json_response({"Id": "a/b", "Status": "failed", "Created": "2024-11-13T07:11:51Z", "Priority": 5})
        ) as server:
            write_connection(host=server.url)
            assert WasabiJobsHook().get_job(" a/b\n") == Job(
                "a/b", JobStatus.FAILED, priority=5, created=datetime(2024, 11, 13, 7, 11, 51, tzinfo=UTC)
            )
        assert server.requests[0].target == "/jobs/a%2Fb"

    def test_get_job_errors(self, write_connection):
        with Loopback(json_response({"Status": "failed", "ErrorCode": "INTERNAL_ERROR", "ErrorCount": 2})) as server:
            write_connection(host=server.url)
            assert WasabiJobsHook().get_job_errors(12345) == JobErrors("12345", JobStatus.FAILED, 2, "INTERNAL_ERROR")
        assert server.requests[0].target == "/jobs/12345/errors"

    def test_get_job_metadata(self, write_connection):
        body = {"DestinationPath": "s3://results/1", "Destination": {"Bucket": "results", "Region": "us-east-1"}}
        with Loopback(json_response(body)) as server:
            write_connection(host=server.url)
            metadata = WasabiJobsHook().get_job_metadata("12345")
        assert metadata == JobMetadata("12345", "s3://results/1", Destination("results", "us-east-1"))
        assert metadata.to_xcom() == {
            "metadata_path": "s3://results/1",
            "destination": {"bucket": "results", "region": "us-east-1"},
        }
        assert server.requests[0].target == "/jobs/12345/metadata"

    @pytest.mark.parametrize("path", ["https://s3.example.com/results/1", "file:///results/1", "gs://results/1"])
    def test_result_location_may_be_any_absolute_url(self, write_connection, path):
        with Loopback(json_response({"DestinationPath": path})) as server:
            write_connection(host=server.url)
            assert WasabiJobsHook().get_job_metadata("12345").path == path

    def test_metadata_is_not_available_yet(self, write_connection):
        with Loopback(json_response({"ErrorCode": "NOT_FOUND"}, 404)) as server:
            write_connection(host=server.url)
            with pytest.raises(exceptions.NotFoundError, match="only after it has completed"):
                WasabiJobsHook().get_job_metadata("12345")


def page_of(*numbers):
    """Build a page of jobs with these numbers as ids."""
    return json_response({"Records": [{"Id": str(number), "Status": "failed"} for number in numbers]})


class TestListJobs:
    def list_ids(self, **filters):
        return [int(job.job_id) for job in WasabiJobsHook().list_jobs(**filters)]

    def test_jobs(self, write_connection):
        record = {"Id": 1, "Status": "Archived", "Name": "a job", "Source": {"Bucket": "media"}, "Batch": "b"}
        with Loopback(json_response({"Records": [record]})) as server:
            write_connection(host=server.url)
            assert list(WasabiJobsHook().list_jobs()) == [
                Job("1", None, name="a job", source=Source(bucket="media"), batch="b")
            ]

    def test_pages_are_requested_lazily(self, write_connection, connection_reads):
        with Loopback(page_of(*range(100)), page_of(*range(100, 200)), page_of(200)) as server:
            write_connection(host=server.url)
            jobs = WasabiJobsHook().list_jobs()
            assert (len(server.requests), connection_reads) == (0, [])
            requests_after = {}
            for number, job in enumerate(jobs, start=1):
                assert job.job_id == str(number - 1)
                requests_after[number] = len(server.requests)
        assert [requests_after[number] for number in (1, 100, 101, 200, 201)] == [1, 1, 2, 2, 3]
        assert [request.target.partition("&")[0] for request in server.requests] == [
            "/jobs?pageNumber=1", "/jobs?pageNumber=2", "/jobs?pageNumber=3",
        ]  # fmt: skip
        assert connection_reads == ["wasabi_default"]

    def test_first_job_needs_one_page(self, write_connection):
        with Loopback(page_of(*range(100))) as server:
            write_connection(host=server.url)
            assert next(WasabiJobsHook().list_jobs()).job_id == "0"
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("pages", "count"),
        [
            ([[]], 0),
            ([range(9)], 9),
            ([range(99), []], 99),
            ([range(100), []], 100),
            ([range(100), range(100, 199)], 199),
            ([range(100), range(100, 200), [200]], 201),
            # A server that allows no more than 25 jobs on a page.
            ([range(25), range(25, 50), range(50, 60)], 60),
        ],
    )
    def test_incomplete_page_is_the_last(self, write_connection, pages, count):
        unrequested_page = page_of(-1)
        with Loopback(*(page_of(*page) for page in pages), unrequested_page) as server:
            write_connection(host=server.url)
            assert self.list_ids() == list(range(count))
        assert len(server.requests) == len(pages)

    def test_overlapping_pages_do_not_duplicate_jobs(self, write_connection):
        with Loopback(page_of(*range(100)), page_of(*range(90, 190)), page_of(3, 189, 190, 190)) as server:
            write_connection(host=server.url)
            assert self.list_ids() == list(range(191))

    def test_repeated_page_ends_the_list(self, write_connection):
        repeated_page = page_of(*range(100))
        with Loopback(repeated_page, repeated_page, response(403)) as server:
            write_connection(host=server.url)
            assert self.list_ids() == list(range(100))
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
    def test_filters_are_sent_for_each_page(self, write_connection, filters, query):
        with Loopback(page_of(*range(100)), page_of()) as server:
            write_connection(host=server.url)
            self.list_ids(**filters)
        assert [request.target for request in server.requests] == [
            f"/jobs?pageNumber={number}&pageSize=100&sortBy=Created{query}" for number in (1, 2)
        ]

    @pytest.mark.parametrize("status", ["", "Failed", "None", "done", "failed ", 5])
    def test_invalid_status_is_rejected_immediately(self, connection_reads, status):
        with pytest.raises(
            ValueError, match="but must be one of submitted, preflight, in_progress, completed, failed, cancelled"
        ):
            WasabiJobsHook("no_such_connection").list_jobs(status=status)
        assert connection_reads == []

    def test_each_page_is_retried_after_a_transient_error(self, write_connection):
        unavailable = response(503, Retry_After="0")
        with Loopback(unavailable, page_of(*range(100)), unavailable, page_of(100)) as server:
            write_connection(host=server.url, extra={"retries": 1})
            assert self.list_ids() == list(range(101))

    def test_keys_that_change_between_two_pages(self, write_connection, log_records):
        def change_keys_and_return_401(_):
            write_connection(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(page_of(*range(100)), change_keys_and_return_401, page_of(100)) as server:
            write_connection(host=server.url)
            assert self.list_ids() == list(range(101))
        assert keys_of(server.requests[2]) == (NEW_ACCESS_KEY, NEW_SECRET_KEY)
        assert "pageNumber=2&" in server.requests[2].target

    def test_error_is_raised_when_its_page_is_requested(self, write_connection):
        with Loopback(page_of(*range(100)), response(403)) as server:
            write_connection(host=server.url)
            jobs = WasabiJobsHook().list_jobs()
            assert [next(jobs).job_id for _ in range(100)] == [str(number) for number in range(100)]
            with pytest.raises(exceptions.PermissionDeniedError, match="WasabiViewAiR"):
                next(jobs)


SUBMITTED = json_response({"Job": {"Id": "12345", "Status": "submitted", "Name": "a job"}})
JOB = Job("12345", JobStatus.SUBMITTED, name="a job")


def submit(hook, **fields):
    defaults = {
        "name": "a job",
        "source": {"bucket": "media", "object_key": "a.mp4"},
        "destination": {"bucket": "results", "region": "us-east-1"},
        "services": ["ocr"],
    }
    return hook.submit_job(**{**defaults, **fields})


class TestSubmitJob:
    def test_required_fields(self, write_connection, connection_reads):
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            assert submit(WasabiJobsHook()) == JOB
        (request,) = server.requests
        assert (request.method, request.target) == ("POST", "/jobs")
        assert keys_of(request) == (ACCESS_KEY, SECRET_KEY)
        assert json.loads(request.body) == {
            "Name": "a job",
            "Services": {"ocr": ""},
            "Source": {"Bucket": "media", "ObjectKey": "a.mp4"},
            "Destination": {"Bucket": "results", "Region": "us-east-1"},
            "Priority": 5,
        }
        assert connection_reads == ["wasabi_default"]

    def test_all_fields(self, write_connection, connection_reads):
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            write_connection("the_source", conn_type="aws", login=SOURCE_ACCESS_KEY, password=f" {SOURCE_SECRET_KEY}\n")
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
        assert sorted(connection_reads) == ["the_source", "wasabi_default"]

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"name": " "}, "name is ' ', but must be a non-empty string"),
            ({"source": {"bucket": "media"}}, "source has no object_key"),
            ({"source": {"bucket": "b", "object_key": "o", "secret_key": SOURCE_SECRET_KEY}}, "see source_conn_id"),
            ({"destination": {"bucket": "results"}}, "destination has no region"),
            ({"services": []}, "services is empty"),
            ({"services": ["ocr", ""]}, "services has the service ''"),
            ({"priority": 11}, "priority is 11"),
            ({"priority": None}, "priority is None, but must be an integer from 1 to 10"),
            ({"batch": ""}, "batch is ''"),
        ],
    )
    def test_invalid_field_is_rejected_before_any_request(self, write_connection, fields, expected):
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            with pytest.raises(ValueError) as caught:
                submit(WasabiJobsHook(), **fields)
        assert expected in str(caught.value)
        assert SOURCE_SECRET_KEY not in str(caught.value)
        assert server.requests == []

    def test_unknown_service_is_logged_and_sent_as_given(self, write_connection, log_records):
        services = {"ocr": "", "a-new-service": {"config": {"level": 1}}}
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            assert submit(WasabiJobsHook(), services=services) == JOB
        assert json.loads(server.requests[0].body)["Services"] == services
        (record,) = log_records
        assert record.levelname == "INFO"
        assert record.getMessage() == "Service 'a-new-service' is unknown to this release and is sent as given."

    def test_known_services_are_not_logged(self, write_connection, log_records):
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            submit(WasabiJobsHook(), services=["ocr", "s2t", "nld", "audiotag", "face", "logo"])
        assert log_records == []

    @pytest.mark.parametrize("script", [response(429, Retry_After="0"), response(503), cut(), reset(), hang()])
    def test_submit_is_not_retried_after_a_transient_error(self, write_connection, script):
        with Loopback(script, SUBMITTED) as server:
            write_connection(host=server.url, extra={"retries": 3, "read_timeout": 0.5})
            with pytest.raises(exceptions.WasabiApiError) as caught:
                submit(WasabiJobsHook())
        assert caught.value.is_transient
        assert len(server.requests) == 1

    def test_submit_is_repeated_once_with_changed_keys(self, write_connection, connection_reads, log_records):
        def change_keys_and_return_401(_):
            write_connection(host=server.url, login=NEW_ACCESS_KEY, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(change_keys_and_return_401, SUBMITTED) as server:
            write_connection(host=server.url)
            write_connection("the_source", login=SOURCE_ACCESS_KEY, password=SOURCE_SECRET_KEY)
            assert submit(WasabiJobsHook(), source_conn_id="the_source") == JOB
        first, second = server.requests
        assert (first.method, second.method) == ("POST", "POST")
        assert first.body == second.body
        assert [keys_of(first), keys_of(second)] == [(ACCESS_KEY, SECRET_KEY), (NEW_ACCESS_KEY, NEW_SECRET_KEY)]
        assert sorted(connection_reads) == ["the_source", "wasabi_default", "wasabi_default"]
        assert len(log_records) == 1

    @pytest.mark.parametrize("second_response", [UNAUTHORIZED, response(503)], ids=["401", "503"])
    def test_submit_is_repeated_only_once(self, write_connection, second_response):
        def change_keys_and_return_401(_):
            write_connection(host=server.url, password=NEW_SECRET_KEY)
            return UNAUTHORIZED

        with Loopback(change_keys_and_return_401, second_response, SUBMITTED) as server:
            write_connection(host=server.url)
            with pytest.raises(exceptions.ApiStatusError):
                submit(WasabiJobsHook())
        assert len(server.requests) == 2

    def test_submit_is_not_repeated_with_unchanged_keys(self, write_connection):
        with Loopback(UNAUTHORIZED, SUBMITTED) as server:
            write_connection(host=server.url)
            with pytest.raises(exceptions.AuthenticationError):
                submit(WasabiJobsHook())
        assert len(server.requests) == 1

    def test_missing_policy(self, write_connection):
        with Loopback(response(403)) as server:
            write_connection(host=server.url)
            with pytest.raises(exceptions.PermissionDeniedError, match="WasabiManageAiR"):
                submit(WasabiJobsHook())


class TestSourceKeys:
    @pytest.mark.parametrize("conn_id", ["no_such_connection", "", "None"])
    def test_missing_source_connection(self, write_connection, conn_id):
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            with pytest.raises(exceptions.ConnectionConfigError) as caught:
                submit(WasabiJobsHook(), source_conn_id=conn_id)
        assert not isinstance(caught.value, AirflowException)
        assert isinstance(caught.value.__cause__, AirflowNotFoundException)
        assert f"Connection {conn_id!r} (source_conn_id) does not exist." in str(caught.value)
        assert "as login and the secret key as password" in str(caught.value)
        assert server.requests == []

    @pytest.mark.parametrize("field", ["login", "password"])
    @pytest.mark.parametrize("key", [None, "", " ", "two words", "line\nbreak", "schlüssel", "nul\0"])
    def test_invalid_key_in_the_source_connection(self, write_connection, field, key):
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            write_connection("the_source", **{"login": SOURCE_ACCESS_KEY, "password": SOURCE_SECRET_KEY, field: key})
            with pytest.raises(exceptions.ConnectionConfigError) as caught:
                submit(WasabiJobsHook(), source_conn_id="the_source")
        assert "Connection 'the_source' (source_conn_id) must have" in str(caught.value)
        assert "access key of the source as login and the secret key as password" in str(caught.value)
        for key_text in (SOURCE_ACCESS_KEY, SOURCE_SECRET_KEY, *((key,) if key and key.strip() else ())):
            assert key_text not in str(caught.value)
        assert server.requests == []

    def test_source_connection_is_read_for_each_job(self, write_connection):
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            hook = WasabiJobsHook()
            for secret_key in ("the-first-secret", "the-second-secret"):
                write_connection("the_source", login=SOURCE_ACCESS_KEY, password=secret_key)
                submit(hook, source_conn_id="the_source")
        sent = [json.loads(request.body)["Source"]["SecretKey"] for request in server.requests]
        assert sent == ["the-first-secret", "the-second-secret"]

    @pytest.mark.parametrize("status", [200, 400, 401, 500])
    def test_source_keys_are_in_no_log_error_or_repr(self, write_connection, caplog, capfd, status):
        def echo(connection):
            return response(status, b"No such keys: " + connection.request.body)

        caplog.set_level("DEBUG")
        with Loopback(echo) as server:
            write_connection(host=server.url)
            write_connection("the_source", login=SOURCE_ACCESS_KEY, password=SOURCE_SECRET_KEY)
            hook = WasabiJobsHook()
            with pytest.raises(exceptions.WasabiApiError) as caught:
                submit(hook, source_conn_id="the_source")
        captured = capfd.readouterr()
        error_text = "".join(traceback.format_exception(caught.value))
        shown = f"{error_text} {vars(caught.value)!r} {vars(hook)!r} {caplog.text} {captured.out} {captured.err}"
        assert "***" in shown
        assert SOURCE_ACCESS_KEY not in shown
        assert SOURCE_SECRET_KEY not in shown

    def test_airflow_masks_the_secret_key_in_task_logs(self, write_connection):
        secret_key = "0nly/us3d+in=this-0ne"
        assert redact(secret_key) == secret_key
        with Loopback(SUBMITTED) as server:
            write_connection(host=server.url)
            write_connection("the_source", login=SOURCE_ACCESS_KEY, password=secret_key)
            submit(WasabiJobsHook(), source_conn_id="the_source")
        assert redact(secret_key) == "***"
        assert secret_key not in redact(f"The secret key is {secret_key}.")


class TestEventLoop:
    """The hook does not block the event loop; otherwise these tests would deadlock."""

    def test_not_blocked_while_the_connection_is_read(self, write_connection, monkeypatch):
        write_connection(host="https://air.example.com", login="")
        started, others_continued = threading.Event(), threading.Event()
        get_connection = BaseHook.get_connection

        def slow_get_connection(conn_id):
            started.set()
            assert others_continued.wait(5)
            return get_connection(conn_id)

        async def slow_aget_connection(conn_id):
            return await asyncio.to_thread(slow_get_connection, conn_id)

        monkeypatch.setattr(BaseHook, "get_connection", staticmethod(slow_get_connection))
        if hasattr(BaseHook, "aget_connection"):
            monkeypatch.setattr(BaseHook, "aget_connection", staticmethod(slow_aget_connection))

        async def main():
            task = asyncio.create_task(WasabiJobsHook().aget_job_status("12345"))
            assert await asyncio.to_thread(started.wait, 5)
            others_continued.set()
            with pytest.raises(exceptions.ConnectionConfigError, match="access key"):
                await task

        asyncio.run(main())

    def test_not_blocked_while_waiting_for_the_response(self, write_connection):
        received, others_continued = threading.Event(), threading.Event()

        def slow_response(_):
            received.set()
            assert others_continued.wait(5)
            return status_response("in_progress")

        async def main():
            task = asyncio.create_task(WasabiJobsHook().aget_job_status("12345"))
            assert await asyncio.to_thread(received.wait, 5)
            others_continued.set()
            return await task

        with Loopback(slow_response) as server:
            write_connection(host=server.url)
            assert asyncio.run(main()) == RUNNING

    def test_not_blocked_while_the_connection_is_read_again(self, write_connection, monkeypatch):
        started, others_continued = threading.Event(), threading.Event()
        get_async_connection = hooks.get_async_connection
        connection_reads = []

        async def slow_second_read(conn_id):
            connection_reads.append(conn_id)
            if len(connection_reads) == 2:
                started.set()
                assert await asyncio.to_thread(others_continued.wait, 5)
            return await get_async_connection(conn_id)

        monkeypatch.setattr(hooks, "get_async_connection", slow_second_read)

        async def main():
            task = asyncio.create_task(WasabiJobsHook().aget_job_status("12345"))
            assert await asyncio.to_thread(started.wait, 5)
            others_continued.set()
            with pytest.raises(exceptions.AuthenticationError):
                await task

        with Loopback(UNAUTHORIZED) as server:
            write_connection(host=server.url)
            asyncio.run(main())


class TestTestConnection:
    """The result of the Test button of the connection form."""

    def test_success(self, write_connection):
        with Loopback(json_response({"Records": []})) as server:
            write_connection(host=server.url)
            assert WasabiJobsHook().test_connection() == (
                True,
                "The AiR Jobs API responded and accepted the keys.",
            )
        (request,) = server.requests
        assert request.target.startswith("/jobs?pageNumber=1&pageSize=1&")

    def test_connection_of_the_airflow_2_form(self, write_connection):
        # The form of Airflow 2 sends each field twice, and "y" for a checked box.
        fields = {"read_timeout": "7", "allow_http": "y"}
        prefixed_fields = {f"extra__wasabi__{name}": value for name, value in fields.items()}
        with Loopback(json_response({"Records": []})) as server:
            write_connection(host=server.url, extra={**prefixed_fields, **fields})
            assert WasabiJobsHook().test_connection()[0]
            assert WasabiJobsHook().get_conn().settings.options == Options(read_timeout=7, allow_http=True)

    @pytest.mark.parametrize("extra", ['{"extra__wasabi__', '["extra__wasabi__retries"]', None])
    def test_extra_that_is_not_an_object_is_unchanged(self, extra):
        assert connection_form.normalize_extra(extra) == extra

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            pytest.param(
                UNAUTHORIZED,
                ["HTTP 401 Unauthorized.", "Check the access key (login) and secret key (password) of the connection."],
                id="wrong keys",
            ),
            pytest.param(
                json_response({"Error": "Forbidden", "ErrorCode": "FORBIDDEN"}, 403),
                ["HTTP 403 Forbidden.", "needs the IAM policy WasabiViewAiR"],
                id="no permission",
            ),
            pytest.param(
                response(200, "<html>Welcome to nginx</html>"),
                [
                    "not what the API documents",
                    "Welcome to nginx",
                    "Check that the host is the base URL of the AiR Jobs API",
                ],
                id="HTML",
            ),
            pytest.param(
                response(404), ["HTTP 404 Not Found.", "not the base URL of the AiR Jobs API"], id="no such path"
            ),
            pytest.param(
                response(302, Location="https://elsewhere.example.com"),
                ["HTTP 302 Found.", "Redirects are not followed, to protect your keys."],
                id="redirect",
            ),
            pytest.param(
                response(200, f"keys: {ACCESS_KEY}, {SECRET_KEY}"), ["keys: ***, ***"], id="keys in the response"
            ),
            pytest.param(
                json_response({"Error": f"no user {ACCESS_KEY} with {SECRET_KEY}"}, 401),
                ["no user *** with ***"],
                id="keys in the error",
            ),
            pytest.param(
                response(500),
                ["HTTP 500 Internal Server Error.", "If this persists, contact Wasabi support."],
                id="server error",
            ),
        ],
    )
    def test_error_response(self, write_connection, script, expected):
        with Loopback(script) as server:
            write_connection("a_random_id", host=server.url, extra={"retries": 0})
            success, text = WasabiJobsHook("a_random_id").test_connection()
        assert not success
        assert text.startswith(f"Listing jobs failed ({server.url}): ")
        assert [word for word in expected if word not in text] == []
        assert ACCESS_KEY not in text
        assert SECRET_KEY not in text

    def test_connection_refused(self, write_connection):
        with refused_url() as url:
            write_connection(host=url, extra={"retries": 0})
            success, text = WasabiJobsHook().test_connection()
        assert not success
        assert "Connection refused." in text
        assert url in text

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"host": None}, "No host is set in this connection."),
            ({"login": None}, "No access key (login) is set in this connection."),
            ({"password": " "}, "No secret key (password) is set in this connection."),
            ({"host": "http://air.example.com"}, "This connection uses unencrypted HTTP"),
            ({"extra": {"retries": "many"}}, "'retries' in the extra of this connection must be a whole number"),
            ({"extra": {"verify": "/no/such/file.pem"}}, "/no/such/file.pem"),
        ],
    )
    def test_invalid_fields(self, write_connection, fields, expected):
        write_connection("a_random_id", **{"host": "https://air.example.com"} | fields)
        success, text = WasabiJobsHook("a_random_id").test_connection()
        assert not success
        assert expected in text
        assert "a_random_id" not in text
        assert "The this" not in text
        assert SECRET_KEY not in text

    def test_missing_connection(self):
        success, text = WasabiJobsHook("no_such_connection").test_connection()
        assert not success
        assert "Connection 'no_such_connection' does not exist." in text

    def test_connection_is_read_again(self, write_connection):
        with Loopback(UNAUTHORIZED, json_response({"Records": []})) as server:
            write_connection(host=server.url)
            hook = WasabiJobsHook()
            assert not hook.test_connection()[0]
            write_connection(host=server.url, login=NEW_ACCESS_KEY)
            assert hook.test_connection()[0]
        assert server.requests[1].headers["x-amz-access-key"] == NEW_ACCESS_KEY

    def test_airflow_calls_the_hook(self, write_connection):
        with Loopback(json_response({"Records": []})) as server:
            write_connection("a_random_id", host=server.url)
            connection = Connection(
                conn_id="a_random_id", conn_type="wasabi", host=server.url, login=ACCESS_KEY, password=SECRET_KEY
            )
            assert connection.test_connection()[0]


@sync_and_async
def test_keys_are_in_no_log_line_or_repr(write_connection, get_status, caplog, capfd):
    caplog.set_level("DEBUG")
    with Loopback(UNAUTHORIZED, status_response("in_progress")) as server:
        write_connection(host=server.url, conn_type="http")
        hook = WasabiJobsHook()
        with pytest.raises(exceptions.AuthenticationError) as caught:
            get_status(hook)
        get_status(hook)
    captured = capfd.readouterr()
    shown = f"{caught.value!r} {vars(hook)!r} {hook.get_conn()!r} {caplog.text} {captured.out} {captured.err}"
    assert "has the type 'http'" in shown
    assert ACCESS_KEY not in shown
    assert SECRET_KEY not in shown
