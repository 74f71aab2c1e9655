"""The contract of a wait: each event leads to the same outcome in every mode."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    TaskDeferred,
    XComArg,
)
from connections import ACCESS_KEY, SECRET_KEY
from loopback import ByPath, Loopback, chunked, cut, json_response, refused_url, reset, response, status_response
from wait_runner import MODES, defer, run_wait

from airflow_wasabi_jobs.api import exceptions
from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.log import LOG
from airflow_wasabi_jobs.sensors import WasabiJobSensor
from airflow_wasabi_jobs.waiting import wait

every_failure = pytest.mark.parametrize(
    ("last_response", "arguments", "exception", "message"),
    [
        pytest.param(
            status_response("failed", 3), {}, WasabiJobFailed, r"failed \(3 errors\)\. Not retried\.", id="failed"
        ),
        pytest.param(
            status_response("cancelled"),
            {},
            WasabiJobCancelled,
            r"was cancelled \(0 errors\)\. Not retried\.",
            id="cancelled",
        ),
        pytest.param(
            status_response("completed", 3),
            {"max_error_count": 2},
            WasabiJobFailed,
            "completed with 3 errors, more than max_error_count=2. Not retried.",
            id="too-many-errors",
        ),
        pytest.param(
            status_response("completed", 1),
            {"max_error_count": 0},
            WasabiJobFailed,
            "completed with 1 error, more than max_error_count=0. Not retried.",
            id="no-error-allowed",
        ),
    ],
)
every_permanent_error = pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param(json_response({"ErrorCode": "UNAUTHORIZED"}, 401), exceptions.AuthenticationError, id="401"),
        pytest.param(response(403), exceptions.PermissionDeniedError, id="403"),
        pytest.param(json_response({"ErrorCode": "NOT_FOUND"}, 404), exceptions.NotFoundError, id="404"),
        pytest.param(response(400), exceptions.BadRequestError, id="400"),
        pytest.param(response(302, Location="http://127.0.0.2/"), exceptions.RedirectError, id="302"),
        pytest.param(response(204), exceptions.InvalidResponseError, id="204"),
        pytest.param(response(200, "<html>Welcome</html>"), exceptions.InvalidResponseError, id="html"),
        pytest.param(status_response("paused"), exceptions.InvalidResponseError, id="unknown-status"),
        pytest.param(status_response("completed", job_id="54321"), exceptions.InvalidResponseError, id="another-job"),
        pytest.param(status_response("completed", -1), exceptions.InvalidResponseError, id="negative-error-count"),
    ],
)
every_transient_error = pytest.mark.parametrize(
    "fault",
    [
        pytest.param(response(429), id="429"),
        pytest.param(response(429, Retry_After="3600"), id="429-retry-after-an-hour"),
        pytest.param(response(500), id="500"),
        pytest.param(response(503, "<html>Gateway</html>"), id="503"),
        pytest.param(response(408), id="408"),
        pytest.param(response(425), id="425"),
        pytest.param(reset(), id="reset"),
        pytest.param(cut(status_response("completed")[:-5]), id="closed-before-content-length"),
        pytest.param(cut(chunked(b'{"Status": ', end=b"")), id="closed-before-last-chunk"),
    ],
)
at_first_and_later_poll = pytest.mark.parametrize(
    "before", [pytest.param([], id="first-poll"), pytest.param([status_response("in_progress")], id="second-poll")]
)
every_mode = pytest.mark.parametrize("mode", MODES)
IS_AIRFLOW_2 = version("apache-airflow").startswith("2.")


@pytest.fixture
def wait_for(monkeypatch: pytest.MonkeyPatch, set_connection: Any) -> Any:
    """Run a wait against scripted responses, and record the requests."""

    def run(mode: str, *responses: Any, **arguments: Any) -> Any:
        with Loopback(*responses) as server:
            set_connection(server.url)
            try:
                return run_wait(monkeypatch, mode, **arguments)
            finally:
                run.requests = [request.target.rpartition("/")[2] for request in server.requests]
                run.polls = run.requests.count("status")

    return run


@every_mode
class TestWait:
    @at_first_and_later_poll
    @pytest.mark.parametrize("max_error_count", [None, 3, 4])
    def test_completed(self, wait_for: Any, mode: str, before: list[bytes], max_error_count: int | None) -> None:
        xcom = wait_for(mode, *before, status_response("completed", 3), max_error_count=max_error_count)

        assert xcom == {"job_id": "12345", "status": "completed", "error_count": 3}
        assert type(xcom["status"]) is str
        assert wait_for.polls == len(before) + 1

    @at_first_and_later_poll
    @every_failure
    def test_failure(
        self,
        wait_for: Any,
        mode: str,
        before: list[bytes],
        last_response: bytes,
        arguments: Any,
        exception: Any,
        message: str,
    ) -> None:
        with pytest.raises(exception, match=rf"Job '12345' \(connection 'wasabi_default'\) {message}") as caught:
            wait_for(mode, *before, last_response, **arguments)

        assert isinstance(caught.value, AirflowFailException)  # which Airflow does not retry
        assert wait_for.polls == len(before) + 1

    @at_first_and_later_poll
    @every_failure
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_failure_is_skipped_with_soft_fail_or_never_fail(
        self,
        wait_for: Any,
        mode: str,
        before: list[bytes],
        last_response: bytes,
        arguments: Any,
        exception: Any,
        message: str,
        flag: str,
    ) -> None:
        with pytest.raises(AirflowSkipException, match=message) as caught:
            wait_for(mode, *before, last_response, **arguments, **{flag: True})

        assert flag in str(caught.value)
        assert isinstance(caught.value.__cause__, exception)

    @at_first_and_later_poll
    @every_failure
    def test_silent_fail_does_not_silence_a_failure(
        self,
        wait_for: Any,
        mode: str,
        before: list[bytes],
        last_response: bytes,
        arguments: Any,
        exception: Any,
        message: str,
    ) -> None:
        with pytest.raises(exception, match=message):
            wait_for(mode, *before, last_response, **arguments, silent_fail=True)

    @at_first_and_later_poll
    @every_permanent_error
    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_permanent_error(
        self, wait_for: Any, mode: str, before: list[bytes], fault: bytes, error: Any, soft_fail: bool
    ) -> None:
        with pytest.raises(exceptions.WasabiApiError, match="'wasabi_default'") as caught:
            wait_for(mode, *before, fault, soft_fail=soft_fail)

        assert type(caught.value) is error
        assert "'12345'" in str(caught.value)
        assert not isinstance(caught.value, AirflowException)  # which a deferred sensor with soft_fail would skip

    @at_first_and_later_poll
    @every_permanent_error
    def test_permanent_error_is_skipped_with_never_fail(
        self, wait_for: Any, mode: str, before: list[bytes], fault: bytes, error: Any
    ) -> None:
        with pytest.raises(AirflowSkipException) as caught:
            wait_for(mode, *before, fault, never_fail=True)

        assert type(caught.value.__cause__) is error

    @at_first_and_later_poll
    @every_permanent_error
    def test_silent_fail_continues_the_wait_after_a_permanent_error(
        self, wait_for: Any, caplog: Any, mode: str, before: list[bytes], fault: bytes, error: Any
    ) -> None:
        xcom = wait_for(mode, *before, fault, fault, fault, status_response("completed"), silent_fail=True)

        assert xcom["status"] == "completed"

    @at_first_and_later_poll
    @every_transient_error
    def test_transient_error_does_not_end_the_wait(
        self, wait_for: Any, monkeypatch: Any, mode: str, before: list[bytes], fault: Any
    ) -> None:
        monkeypatch.setattr("airflow_wasabi_jobs.polling.rate_limiter.MAX_PAUSE_SECONDS", 0.1)

        xcom = wait_for(mode, *before, fault, fault, status_response("completed"))

        assert xcom["status"] == "completed"
        assert wait_for.polls == len(before) + 3

    @at_first_and_later_poll
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail", "silent_fail"])
    @pytest.mark.parametrize("fault", [response(500), reset()], ids=["500", "reset"])
    def test_transient_error_is_never_skipped(
        self, wait_for: Any, mode: str, before: list[bytes], fault: Any, flag: str
    ) -> None:
        assert (
            wait_for(mode, *before, fault, fault, status_response("completed"), **{flag: True})["status"] == "completed"
        )

    def test_connection_refused_does_not_end_the_wait(self, monkeypatch: Any, set_connection: Any, mode: str) -> None:
        with refused_url() as url:
            set_connection(url)
            with pytest.raises(AirflowSensorTimeout):
                run_wait(monkeypatch, mode, timeout=0.3)

    @pytest.mark.parametrize(
        "repeated_response", [status_response("in_progress"), response(500)], ids=["running", "500"]
    )
    def test_timeout(self, wait_for: Any, mode: str, repeated_response: bytes) -> None:
        with pytest.raises(
            AirflowSensorTimeout, match=r"Job '12345' \(connection 'wasabi_default'\) did not finish within timeout=1 s"
        ):
            wait_for(mode, repeated_response, timeout=0.6)

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_timeout_is_skipped_with_soft_fail_or_never_fail(self, wait_for: Any, mode: str, flag: str) -> None:
        with pytest.raises(AirflowSkipException, match=r"Job '12345'.* timeout"):
            wait_for(mode, status_response("in_progress"), timeout=0.3, **{flag: True})

    def test_silent_fail_does_not_silence_the_timeout(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(AirflowSensorTimeout):
            wait_for(mode, response(404), timeout=0.5, silent_fail=True)

    @pytest.mark.parametrize("flags", [{}, {"soft_fail": True}])
    def test_timeout_message_names_the_last_error(self, wait_for: Any, mode: str, flags: Any) -> None:
        with pytest.raises((AirflowSensorTimeout, AirflowSkipException), match=r"The last poll failed: .*: HTTP 503 "):
            wait_for(mode, status_response("preflight"), response(503), timeout=0.8, **flags)

    @pytest.mark.parametrize("flags", [{}, {"soft_fail": True}])
    def test_timeout_message_names_the_last_status(self, wait_for: Any, mode: str, flags: Any) -> None:
        with pytest.raises(
            (AirflowSensorTimeout, AirflowSkipException),
            match=r"\(last status: preflight\)\. The job may still be running",
        ) as caught:
            wait_for(mode, response(503), status_response("preflight"), timeout=0.8, **flags)

        assert "503" not in str(caught.value)

    def test_timeout_0_polls_once(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(AirflowSensorTimeout):
            wait_for(mode, status_response("in_progress"), status_response("completed"), timeout=0)

        assert wait_for.polls == 1

    def test_last_poll_at_the_timeout_counts(self, wait_for: Any, mode: str) -> None:
        xcom = wait_for(
            mode, status_response("in_progress"), status_response("completed"), poke_interval=1, timeout=0.8
        )

        assert xcom["status"] == "completed"
        assert wait_for.polls == 2

    def test_invalid_rendered_job_id_is_skipped_with_never_fail(
        self, monkeypatch: Any, set_connection: Any, mode: str
    ) -> None:
        set_connection("http://127.0.0.1:1")
        execute = WasabiJobSensor.execute

        def execute_with_rendered_value(sensor: WasabiJobSensor, context: Any) -> Any:
            sensor.job_id = "None"
            return execute(sensor, context)

        monkeypatch.setattr(WasabiJobSensor, "execute", execute_with_rendered_value)
        with pytest.raises(AirflowSkipException, match="job_id of task 'wait'"):
            run_wait(monkeypatch, mode, job_id="{{ params.job_id }}", never_fail=True)

    @pytest.mark.parametrize(
        "extra", [{"retires": 3}, {"read_timeout": 0}, {"verify": "/no/such/file"}], ids=lambda extra: next(iter(extra))
    )
    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_invalid_connection(
        self, monkeypatch: Any, set_connection: Any, mode: str, extra: Any, soft_fail: bool
    ) -> None:
        set_connection("https://127.0.0.1:1", **extra)

        with pytest.raises(exceptions.ConnectionConfigError, match="wasabi_default"):
            run_wait(monkeypatch, mode, soft_fail=soft_fail)

    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_missing_connection(self, monkeypatch: Any, mode: str, soft_fail: bool) -> None:
        with pytest.raises(exceptions.ConnectionConfigError, match="Connection 'nowhere' does not exist"):
            run_wait(monkeypatch, mode, wasabi_conn_id="nowhere", soft_fail=soft_fail)

    @pytest.mark.parametrize("job_id", ["", "   ", "None", ".", "..", ["1", "2"], True, {"job_id": "1"}, 1.5])
    def test_invalid_rendered_job_id(self, monkeypatch: Any, set_connection: Any, mode: str, job_id: Any) -> None:
        set_connection("http://127.0.0.1:1")
        execute = WasabiJobSensor.execute

        def execute_with_rendered_value(sensor: WasabiJobSensor, context: Any) -> Any:
            sensor.job_id = job_id
            return execute(sensor, context)

        monkeypatch.setattr(WasabiJobSensor, "execute", execute_with_rendered_value)
        with pytest.raises(ValueError, match=r"^job_id of task 'wait' is "):
            run_wait(monkeypatch, mode, job_id="{{ params.job_id }}", silent_fail=True)

    def test_whitespace_around_ids_is_stripped(self, wait_for: Any, mode: str) -> None:
        xcom = wait_for(
            mode,
            status_response("in_progress"),
            status_response("completed"),
            job_id=" 12345\n",
            wasabi_conn_id=" wasabi_default ",
        )

        assert xcom["job_id"] == "12345"

    def test_numeric_job_id(self, wait_for: Any, mode: str) -> None:
        assert (
            wait_for(mode, status_response("in_progress"), status_response("completed"), job_id=12345)["job_id"]
            == "12345"
        )

    def test_keys_that_change_during_the_wait(self, monkeypatch: Any, set_connection: Any, mode: str) -> None:
        def rotate_keys(_: Any) -> bytes:
            set_connection(server.url, secret_key="a-new-one")
            return response(401)

        with Loopback(
            status_response("in_progress"), status_response("in_progress"), rotate_keys, status_response("completed")
        ) as server:
            set_connection(server.url, secret_key="the-first-one")
            xcom = run_wait(monkeypatch, mode)

        assert xcom["status"] == "completed"
        assert [request.headers["x-amz-secret-key"] for request in server.requests] == [
            *["the-first-one"] * 3,
            "a-new-one",
        ]

    def test_keys_are_never_logged(self, wait_for: Any, caplog: Any, mode: str) -> None:
        caplog.set_level(logging.DEBUG)
        echo = json_response({"Error": f"{ACCESS_KEY} with {SECRET_KEY} is not known", "ErrorCode": SECRET_KEY}, 503)

        with pytest.raises(exceptions.PermissionDeniedError) as caught:
            wait_for(mode, echo, json_response({"Error": f"{ACCESS_KEY}:{SECRET_KEY}"}, 403))

        shown = f"{caplog.text}{caught.value!r}{vars(caught.value)}"
        assert ACCESS_KEY not in shown
        assert SECRET_KEY not in shown


JOB = json_response({"Id": "12345", "Status": "failed", "Source": {"Bucket": "media", "ObjectKey": "monday.mp4"}})
ERRORS = json_response({"Id": "12345", "Status": "failed", "ErrorCode": "NO_SPEECH_MODEL", "ErrorCount": 3})
every_missing_error_code = pytest.mark.parametrize(
    "errors_response",
    [
        pytest.param(response(401), id="401"),
        pytest.param(response(404), id="404"),
        pytest.param(response(500), id="500"),
        pytest.param(response(200, "<html>"), id="html"),
        pytest.param(reset(), id="reset"),
        pytest.param(json_response({"Status": "failed"}), id="none"),
        pytest.param(json_response({"Status": "failed", "ErrorCode": ""}), id="empty"),
        pytest.param(json_response({"Status": "failed", "ErrorCode": None}), id="null"),
    ],
)


def warnings_in(caplog: Any) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == LOG.name and r.levelno >= logging.WARNING]


@every_mode
class TestErrorCode:
    @at_first_and_later_poll
    def test_failure_message_names_the_error_code(self, wait_for: Any, mode: str, before: list[bytes]) -> None:
        with pytest.raises(
            WasabiJobFailed,
            match=r"failed: NO_SPEECH_MODEL \(3 errors\)\. Not retried\. Clear the task that submits it",
        ):
            wait_for(mode, *before, status_response("failed", 3), ERRORS)

        assert wait_for.requests[-2:] == ["errors", "12345"]

    @at_first_and_later_poll
    def test_too_many_errors_message_names_the_error_code(self, wait_for: Any, mode: str, before: list[bytes]) -> None:
        with pytest.raises(
            WasabiJobFailed, match=r"completed with 3 errors \(NO_SPEECH_MODEL\), more than max_error_count=1"
        ):
            wait_for(mode, *before, status_response("completed", 3), ERRORS, max_error_count=1)

    @at_first_and_later_poll
    @every_missing_error_code
    @pytest.mark.parametrize("flag", [None, "silent_fail"])
    def test_failure_without_an_error_code(
        self, wait_for: Any, mode: str, before: list[bytes], errors_response: Any, flag: str | None
    ) -> None:
        with pytest.raises(WasabiJobFailed, match=r"failed \(3 errors\)\. Not retried"):
            wait_for(mode, *before, status_response("failed", 3), errors_response, **({flag: True} if flag else {}))

    @at_first_and_later_poll
    @pytest.mark.parametrize(
        ("responses", "message"),
        [
            ([status_response("failed", 3), ERRORS, JOB], "failed: NO_SPEECH_MODEL"),
            ([status_response("cancelled"), JOB], "was cancelled"),
            ([status_response("completed", 3), ERRORS, JOB], "completed with 3 errors"),
        ],
        ids=["failed", "cancelled", "too-many-errors"],
    )
    def test_failure_message_names_the_file(
        self, wait_for: Any, mode: str, before: list[bytes], responses: list[bytes], message: str
    ) -> None:
        expected = rf"^Job '12345' \(media/monday\.mp4, connection 'wasabi_default'\) {message}"
        with pytest.raises(AirflowFailException, match=expected):
            wait_for(mode, *before, *responses, max_error_count=1)

    def test_unavailable_file_is_logged(self, wait_for: Any, caplog: Any, mode: str) -> None:
        with pytest.raises(WasabiJobFailed, match=r"^Job '12345' \(connection 'wasabi_default'\) failed"):
            wait_for(mode, status_response("failed", 3), ERRORS, response(403))

        assert "Job '12345': could not retrieve the name of its file. Job '12345' (connection" in caplog.text

    @at_first_and_later_poll
    def test_failure_is_logged_in_one_line(self, wait_for: Any, caplog: Any, mode: str, before: list[bytes]) -> None:
        with pytest.raises(WasabiJobFailed) as caught:
            wait_for(mode, *before, status_response("failed", 3), ERRORS, JOB)

        assert [r.getMessage() for r in caplog.records if r.name == LOG.name and r.levelname == "ERROR"] == [
            str(caught.value)
        ]

    @at_first_and_later_poll
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_skip_is_logged_in_one_line(
        self, wait_for: Any, caplog: Any, mode: str, before: list[bytes], flag: str
    ) -> None:
        with pytest.raises(AirflowSkipException) as caught:
            wait_for(mode, *before, status_response("failed", 3), ERRORS, JOB, **{flag: True})

        assert [r.getMessage() for r in caplog.records if r.name == LOG.name and r.levelno >= logging.WARNING] == [
            str(caught.value)
        ]
        assert "media/monday.mp4" in str(caught.value)

    def test_unavailable_error_code_is_logged(self, wait_for: Any, monkeypatch: Any, caplog: Any, mode: str) -> None:
        with pytest.raises(WasabiJobFailed):
            wait_for(mode, status_response("failed", 3), response(403))

        assert (
            "Job '12345': could not retrieve the failure reason. Reading the error code of job '12345' failed"
            in caplog.text
        )

    def test_key_in_the_error_code_is_redacted(self, wait_for: Any, mode: str) -> None:
        errors_response = json_response({"Status": "failed", "ErrorCode": f"BAD {SECRET_KEY}"})
        with pytest.raises(WasabiJobFailed, match=r"failed: BAD \*\*\* "):
            wait_for(mode, status_response("failed"), errors_response)

    @pytest.mark.parametrize(
        "last_response",
        [status_response("completed", 3), status_response("cancelled", 3)],
        ids=["completed", "cancelled"],
    )
    def test_error_code_is_not_requested_otherwise(self, wait_for: Any, mode: str, last_response: bytes) -> None:
        with contextlib.suppress(WasabiJobCancelled):
            wait_for(mode, last_response, ERRORS)

        assert "errors" not in wait_for.requests


PATH = "s3://results/jobs/2025_04_29/12345/a.mp4_metadata.json"
METADATA = json_response(
    {"Id": "12345", "Destination": {"Bucket": "results", "Region": "eu-1"}, "DestinationPath": PATH}
)
NOT_FOUND = json_response({"ErrorCode": "NOT_FOUND"}, 404)


@every_mode
class TestMetadata:
    @pytest.fixture(autouse=True)
    def _short_intervals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wait, "RESULT_LOCATION_TIMEOUT_SECONDS", 0.3)
        monkeypatch.setattr(wait, "RESULT_LOCATION_POLL_SECONDS", 0.01)

    @at_first_and_later_poll
    @pytest.mark.parametrize(
        "not_found_responses",
        [[], [NOT_FOUND], [NOT_FOUND] * 3],
        ids=["immediately", "after-1-retry", "after-3-retries"],
    )
    def test_metadata_is_part_of_the_xcom(
        self, wait_for: Any, mode: str, before: list[bytes], not_found_responses: list[bytes]
    ) -> None:
        xcom = wait_for(
            mode, *before, status_response("completed", 3), *not_found_responses, METADATA, fetch_metadata=True
        )

        assert xcom == {
            "job_id": "12345",
            "status": "completed",
            "error_count": 3,
            "metadata_path": PATH,
            "destination": {"bucket": "results", "region": "eu-1"},
        }
        assert wait_for.requests.count("metadata") == len(not_found_responses) + 1

    @at_first_and_later_poll
    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_metadata_that_is_never_available_is_an_error(
        self, wait_for: Any, mode: str, before: list[bytes], soft_fail: bool
    ) -> None:
        with pytest.raises(exceptions.NotFoundError, match="Reading the result location of job '12345' failed"):
            wait_for(mode, *before, status_response("completed"), NOT_FOUND, fetch_metadata=True, soft_fail=soft_fail)

        assert wait_for.requests.count("metadata") > 3

    @at_first_and_later_poll
    @pytest.mark.parametrize("fault", [response(503), response(429), reset()], ids=["503", "429", "reset"])
    def test_transient_error_of_the_metadata_endpoint_does_not_end_the_wait(
        self, wait_for: Any, monkeypatch: Any, mode: str, before: list[bytes], fault: Any
    ) -> None:
        monkeypatch.setattr("airflow_wasabi_jobs.polling.rate_limiter.MIN_PAUSE_SECONDS", 0.1)
        api = ByPath(status=[*before, status_response("completed")], metadata=[fault, fault, METADATA])

        assert wait_for(mode, api, fetch_metadata=True)["metadata_path"] == PATH

    @at_first_and_later_poll
    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (response(403), exceptions.PermissionDeniedError),
            (response(200, "<html>"), exceptions.InvalidResponseError),
            (json_response({"Id": "12345"}), exceptions.InvalidResponseError),
        ],
        ids=["403", "html", "no-path"],
    )
    def test_permanent_error_of_the_metadata_endpoint_is_raised(
        self, wait_for: Any, mode: str, before: list[bytes], fault: bytes, error: Any
    ) -> None:
        api = ByPath(status=[*before, status_response("completed")], metadata=[fault])
        with pytest.raises(error):
            wait_for(mode, api, fetch_metadata=True, soft_fail=True)

    def test_failure_does_not_request_the_metadata(self, wait_for: Any, mode: str) -> None:
        with pytest.raises(WasabiJobFailed):
            wait_for(mode, status_response("failed"), ERRORS, fetch_metadata=True)

        assert "metadata" not in wait_for.requests

    def test_silent_fail_continues_after_a_permanent_error_of_the_metadata_endpoint(
        self, wait_for: Any, mode: str
    ) -> None:
        api = ByPath(status=[status_response("completed")], metadata=[response(403), response(403), METADATA])

        assert wait_for(mode, api, fetch_metadata=True, silent_fail=True)["metadata_path"] == PATH


class TestDeferrable:
    def test_trigger_arguments_contain_no_key(self, set_connection: Any) -> None:
        with Loopback(status_response("in_progress")) as server:
            set_connection(server.url)
            task = defer(
                WasabiJobSensor(
                    task_id="wait",
                    job_id="12345",
                    deferrable=True,
                    poke_interval=7,
                    exponential_backoff=True,
                    max_wait=90,
                    timeout=3600,
                )
            )

        assert task.trigger.serialize() == (
            "airflow_wasabi_jobs.triggers.job.WasabiJobTrigger",
            {
                "job_id": "12345",
                "wasabi_conn_id": "wasabi_default",
                "poke_interval": 7.0,
                "exponential_backoff": True,
                "max_wait": 90.0,
                "end_from_trigger": False,
                "max_error_count": None,
                "fetch_metadata": False,
            },
        )
        assert task.method_name == "execute_complete"
        assert 3590 < task.timeout.total_seconds() <= 3600

    def test_silent_fail_does_not_restart_the_timeout(self, set_connection: Any) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, silent_fail=True, timeout=3600)
        error = {"job_id": "12345", "error": exceptions.serialize_error(exceptions.NotFoundError("It is gone."))}
        with Loopback(status_response("in_progress")) as server:
            set_connection(server.url)
            until = defer(sensor).kwargs["timeout_at"]
        with pytest.raises(TaskDeferred) as caught:
            sensor.resume_execution("execute_complete", {"event": error, "timeout_at": until - 1800}, {})

        assert 1790 < caught.value.timeout.total_seconds() <= 1800

    @pytest.mark.parametrize("message", ["Trigger timeout", "Trigger/execution timeout"], ids=["3.x", "2.11"])
    @pytest.mark.parametrize(
        ("flag", "exception"),
        [(None, AirflowSensorTimeout), ("soft_fail", AirflowSkipException), ("never_fail", AirflowSkipException)],
    )
    def test_timeout_message_of_each_scheduler(
        self, set_connection: Any, message: str, flag: str | None, exception: Any
    ) -> None:
        flags = {flag: True} if flag else {}
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, **flags)
        with Loopback(status_response("preflight")) as server:
            set_connection(server.url)
            with pytest.raises(exception, match=r"\(last status: preflight\)"):
                sensor.resume_execution("__fail__", {"error": message}, {})

    @pytest.mark.parametrize(
        ("mode", "place"),
        [("poke", "a worker"), ("reschedule", "a worker, with a reschedule after each poll")],
    )
    def test_start_of_a_wait_in_a_worker_is_logged(
        self, set_connection: Any, caplog: Any, mode: str, place: str
    ) -> None:
        caplog.set_level(logging.INFO)
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", mode=mode, timeout=3600)
        ti = SimpleNamespace(get_first_reschedule_date=lambda _: None, max_tries=0)
        ti.dag_id = ti.task_id = ti.run_id = "wait"
        with Loopback(status_response("completed")) as server:
            set_connection(server.url)
            if IS_AIRFLOW_2 and mode == "reschedule":
                pytest.skip("Airflow 2 does not tell a sensor whether this is its first poke")
            sensor.execute({"ti": ti})

        at = r"times out at \d{4}-\d\d-\d\d \d\d:\d\d UTC\."
        first_line = next(r.getMessage() for r in caplog.records if r.name == LOG.name)
        assert re.fullmatch(rf"Job '12345': waiting in {place}; polling every 60 s; {at}", first_line)

    def test_timeout_message_names_the_error_of_the_last_poll(self, set_connection: Any) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True)
        with Loopback(response(404)) as server:
            set_connection(server.url)
            with pytest.raises(AirflowSensorTimeout, match=r"The last poll failed: .*: HTTP 404 ") as caught:
                sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {})

        assert isinstance(caught.value.__cause__, exceptions.NotFoundError)

    def test_events_in_the_worker_are_logged(self, set_connection: Any, monkeypatch: Any, caplog: Any) -> None:
        caplog.set_level(logging.INFO)
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, silent_fail=True)
        error = {"job_id": "12345", "error": exceptions.serialize_error(exceptions.NotFoundError("It is gone."))}
        with Loopback(response(404), response(503)) as server:
            set_connection(server.url)
            defer(sensor)
            defer(sensor)
        with pytest.raises(TaskDeferred):
            sensor.resume_execution("execute_complete", {"event": error}, {})

        lines = [record.getMessage() for record in caplog.records if record.name == LOG.name]
        silenced, deferred, outage, deferred_again, silenced_event, *_ = lines
        assert silenced.endswith("Still waiting because silent_fail is set.")
        assert deferred.startswith("Job '12345': waiting in the triggerer; polling every 60 s; times out at ")
        assert outage.startswith("Job '12345': API not responding; still waiting. ")
        assert deferred_again.startswith("Job '12345': waiting in the triggerer; ")
        assert silenced_event == "It is gone. Still waiting because silent_fail is set."

    def test_silent_fail_keeps_the_stripped_ids(self, set_connection: Any) -> None:
        sensor = WasabiJobSensor(
            task_id="wait", job_id=" 12345 ", wasabi_conn_id=" wasabi_default ", deferrable=True, silent_fail=True
        )
        error = {"job_id": "12345", "error": exceptions.serialize_error(exceptions.NotFoundError("It is gone."))}
        with pytest.raises(TaskDeferred) as caught:
            sensor.resume_execution("execute_complete", {"event": error}, {})

        assert (caught.value.trigger.job_id, caught.value.trigger.wasabi_conn_id) == ("12345", "wasabi_default")

    @pytest.mark.parametrize(
        ("flag", "skips"), [(None, False), ("soft_fail", False), ("silent_fail", False), ("never_fail", True)]
    )
    def test_trigger_failure_is_raised(self, flag: str | None, skips: bool) -> None:
        flags = {flag: True} if flag else {}
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, **flags)

        with pytest.raises(AirflowException, match="Trigger failure") as caught:
            sensor.resume_execution("__fail__", {"error": "Trigger failure", "traceback": ["boom"]}, {})

        assert isinstance(caught.value, AirflowSkipException) is skips

    def test_finished_job_is_not_deferred(self, set_connection: Any) -> None:
        with Loopback(status_response("completed")) as server:
            set_connection(server.url)
            xcom = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True).execute({})

        assert xcom["status"] == "completed"


class TestArguments:
    @pytest.mark.parametrize("job_id", [None, "", "  ", "None", ".", "..", 1.5, {"job_id": "1"}])
    def test_invalid_job_id(self, job_id: Any) -> None:
        with pytest.raises(ValueError, match=r"^job_id of task 'wait' is "):
            WasabiJobSensor(task_id="wait", job_id=job_id)

    @pytest.mark.parametrize("conn_id", [None, "", "None", 1.5])
    def test_invalid_connection_id(self, conn_id: Any) -> None:
        with pytest.raises(ValueError, match=r"^wasabi_conn_id of task 'wait' is "):
            WasabiJobSensor(task_id="wait", job_id="12345", wasabi_conn_id=conn_id)

    @pytest.mark.parametrize("max_error_count", [-1, "-1", 1.5, "", "many", True])
    def test_invalid_max_error_count(self, max_error_count: Any) -> None:
        with pytest.raises(
            ValueError, match=r"^max_error_count of task 'wait' is .*, but must be None or an integer of at least 0"
        ):
            WasabiJobSensor(task_id="wait", job_id="12345", max_error_count=max_error_count)

    def test_report_instead_of_a_job_id(self) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="{{ later }}")
        sensor.job_id = {"job_id": "12345", "status": "completed"}  # type: ignore[assignment] # what a user passes
        with pytest.raises(ValueError, match=r"but must be a job id\. Pass its \['job_id'\]\."):
            sensor.execute({})

    @pytest.mark.parametrize(("text", "expected"), [("3", 3), (" 0 ", 0), (None, None)])
    def test_templated_max_error_count(self, set_connection: Any, text: str | None, expected: int | None) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=text is None):
            sensor = WasabiJobSensor(task_id="wait", job_id="12345", max_error_count="{{ count }}")
        sensor.render_template_fields({"count": text})
        with Loopback(status_response("completed")) as server:
            set_connection(server.url)
            sensor.execute({})

        assert sensor.max_error_count == expected

    def test_invalid_rendered_max_error_count(self) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", max_error_count="{{ count }}")
        sensor.render_template_fields({"count": None})
        with pytest.raises(ValueError, match=r"^max_error_count of task 'wait' is 'None', but must be None or an int"):
            sensor.execute({})

    @pytest.mark.parametrize("field", ["job_id", "wasabi_conn_id"])
    @pytest.mark.parametrize(("text", "value"), [("1.10", 1.1), ("True", True), ("1, 2", (1, 2)), ("5e1", 50.0)])
    def test_id_that_native_rendering_converted(self, field: str, text: str, value: Any) -> None:
        with DAG("native", schedule=None, render_template_as_native_obj=True):
            sensor = WasabiJobSensor(**{"task_id": "wait", "job_id": "12345", field: "{{ text }}"})
        sensor.render_template_fields({"text": text})
        with pytest.raises(ValueError) as caught:
            sensor.execute({})

        assert str(caught.value).startswith(f"{field} of task 'wait' is {value!r}, but must be a ")
        assert "the cause is render_template_as_native_obj=True" in str(caught.value)

    @pytest.mark.parametrize(
        "field", ["deferrable", "fetch_metadata", "end_from_trigger", "poke_interval", "timeout", "mode", "soft_fail",
                  "never_fail", "silent_fail", "exponential_backoff", "max_wait"]
    )  # fmt: skip
    def test_argument_that_is_not_templated(self, field: str) -> None:
        with DAG("any", schedule=None):
            upstream = XComArg(BaseOperator(task_id="upstream"))
        for value in ("{{ params.value }}", upstream, upstream["value"]):
            with pytest.raises(ValueError, match=rf"^{field} of task 'wait' is .*, but it is not templated\. "):
                WasabiJobSensor(**{"task_id": "wait", "job_id": "12345", field: value})
        with (
            DAG("defaults", schedule=None, default_args={field: "{{ params.value }}"}),
            pytest.raises(ValueError, match=rf"^{field} of task 'wait' is .*, but it is not templated\. "),
        ):
            WasabiJobSensor(task_id="wait", job_id="12345")

    @pytest.mark.parametrize("poke_interval", [float("inf"), float("nan")])
    def test_poke_interval_must_be_finite(self, poke_interval: float) -> None:
        with pytest.raises((ValueError, OverflowError, AirflowException)):  # of Airflow itself, or of this package
            WasabiJobSensor(task_id="wait", job_id="12345", poke_interval=poke_interval)

    def test_backoff_does_not_overflow_in_reschedule_mode(self) -> None:
        sensor = WasabiJobSensor(
            task_id="wait", job_id="12345", poke_interval=0, mode="reschedule", exponential_backoff=True, timeout=10**6
        )

        assert 1 <= sensor._get_next_poke_interval(0.0, lambda: 3700.0, 1) <= 2

    @pytest.mark.parametrize("flag", [None, "soft_fail", "never_fail"])
    def test_task_timeout_between_two_pokes(self, set_connection: Any, monkeypatch: Any, flag: str | None) -> None:
        def time_out(_: float) -> None:
            raise AirflowTaskTimeout("execution_timeout")

        flags: Any = {flag: True} if flag else {}
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", **flags)
        with Loopback(status_response("in_progress")) as server:
            set_connection(server.url)
            monkeypatch.setattr(time, "sleep", time_out)
            with pytest.raises(AirflowSkipException if flag else AirflowTaskTimeout, match="execution_timeout"):
                sensor.execute({})

    def test_deferrable_needs_a_positive_poke_interval(self) -> None:
        with pytest.raises(ValueError, match=r"^poke_interval of task 'wait' is 0"):
            WasabiJobSensor(task_id="wait", job_id="12345", poke_interval=0, deferrable=True)

        WasabiJobSensor(task_id="wait", job_id="12345", poke_interval=0, deferrable=False)

    def test_exponential_backoff_never_overflows(self) -> None:
        sensor = WasabiJobSensor(
            task_id="wait", job_id="12345", poke_interval=60, exponential_backoff=True, max_wait=3600, timeout=10**6
        )

        assert sensor._get_next_poke_interval(0.0, lambda: 0.0, 100_000) == 3600

    def test_template_fields(self) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="{{ a }}", wasabi_conn_id="{{ b }}")

        sensor.render_template_fields({"a": "12345", "b": "another"})

        assert (sensor.job_id, sensor.wasabi_conn_id) == ("12345", "another")
