"""The contract of a wait: what happened decides how it ends, and the mode does not matter."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from connecting import ACCESS_KEY, SECRET_KEY
from loopback import ByPath, Loopback, answer, chunked, cut, json_answer, refusing, report, reset
from waiting import MODES, deferred, wait

from airflow_wasabi_jobs import sensors
from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.exceptions import WasabiJobCancelled, WasabiJobFailed
from airflow_wasabi_jobs.sensors import WasabiJobSensor

ends_badly = pytest.mark.parametrize(
    ("last", "arguments", "verdict", "says"),
    [
        pytest.param(report("failed", 3), {}, WasabiJobFailed, "failed, with 3 errors", id="failed"),
        pytest.param(report("cancelled"), {}, WasabiJobCancelled, "cancelled, with 0 errors", id="cancelled"),
        pytest.param(
            report("completed", 3),
            {"max_error_count": 2},
            WasabiJobFailed,
            "completed with 3 errors, and max_error_count is 2",
            id="too-many-errors",
        ),
        pytest.param(
            report("completed", 1),
            {"max_error_count": 0},
            WasabiJobFailed,
            "completed with 1 error, and max_error_count is 0",
            id="no-error-allowed",
        ),
    ],
)
cannot_be_asked = pytest.mark.parametrize(
    ("trouble", "error"),
    [
        pytest.param(json_answer({"ErrorCode": "UNAUTHORIZED"}, 401), errors.Unauthorized, id="401"),
        pytest.param(answer(403), errors.Forbidden, id="403"),
        pytest.param(json_answer({"ErrorCode": "NOT_FOUND"}, 404), errors.NotFound, id="404"),
        pytest.param(answer(400), errors.Refusal, id="400"),
        pytest.param(answer(302, Location="http://127.0.0.2/"), errors.Redirected, id="302"),
        pytest.param(answer(204), errors.UnexpectedAnswer, id="204"),
        pytest.param(answer(200, "<html>Welcome</html>"), errors.UnexpectedAnswer, id="html"),
        pytest.param(report("paused"), errors.UnexpectedAnswer, id="unknown-status"),
        pytest.param(report("completed", job_id="54321"), errors.UnexpectedAnswer, id="another-job"),
        pytest.param(report("completed", -1), errors.UnexpectedAnswer, id="negative-error-count"),
    ],
)
may_pass = pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(answer(429), id="429"),
        pytest.param(answer(429, Retry_After="3600"), id="429-for-an-hour"),
        pytest.param(answer(500), id="500"),
        pytest.param(answer(503, "<html>Gateway</html>"), id="503"),
        pytest.param(answer(408), id="408"),
        pytest.param(answer(425), id="425"),
        pytest.param(reset(), id="reset"),
        pytest.param(cut(report("completed")[:-5]), id="cut-by-length"),
        pytest.param(cut(chunked(b'{"Status": ', end=b"")), id="cut-by-chunks"),
    ],
)
found = pytest.mark.parametrize(
    "before", [pytest.param([], id="at-first-look"), pytest.param([report("in_progress")], id="later")]
)
in_each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, connect: Any) -> Any:
    """Wait for a job whose API answers by a script."""

    def wait_for(mode: str, *answers: Any, **arguments: Any) -> Any:
        with Loopback(*answers) as server:
            connect(server.url)
            try:
                return wait(monkeypatch, mode, **arguments)
            finally:
                wait_for.asked = [request.target.rpartition("/")[2] for request in server.requests]
                wait_for.looks = wait_for.asked.count("status")

    return wait_for


@in_each_mode
class TestWait:
    @found
    @pytest.mark.parametrize("max_error_count", [None, 3, 4])
    def test_completed(self, waits: Any, mode: str, before: list[bytes], max_error_count: int | None) -> None:
        xcom = waits(mode, *before, report("completed", 3), max_error_count=max_error_count)

        assert xcom == {"job_id": "12345", "status": "completed", "error_count": 3}
        assert type(xcom["status"]) is str
        assert waits.looks == len(before) + 1

    @found
    @ends_badly
    def test_verdict(
        self, waits: Any, mode: str, before: list[bytes], last: bytes, arguments: Any, verdict: Any, says: str
    ) -> None:
        with pytest.raises(verdict, match=f"Job '12345' on connection 'wasabi_default' (was )?{says}") as caught:
            waits(mode, *before, last, **arguments)

        assert isinstance(caught.value, AirflowFailException)  # which Airflow does not retry
        assert waits.looks == len(before) + 1

    @found
    @ends_badly
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_verdict_skips(
        self,
        waits: Any,
        mode: str,
        before: list[bytes],
        last: bytes,
        arguments: Any,
        verdict: Any,
        says: str,
        flag: str,
    ) -> None:
        with pytest.raises(AirflowSkipException, match=says) as caught:
            waits(mode, *before, last, **arguments, **{flag: True})

        assert flag in str(caught.value)
        assert isinstance(caught.value.__cause__, verdict)

    @found
    @ends_badly
    def test_verdict_is_not_silenced(
        self, waits: Any, mode: str, before: list[bytes], last: bytes, arguments: Any, verdict: Any, says: str
    ) -> None:
        with pytest.raises(verdict, match=says):
            waits(mode, *before, last, **arguments, silent_fail=True)

    @found
    @cannot_be_asked
    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_error(
        self, waits: Any, mode: str, before: list[bytes], trouble: bytes, error: Any, soft_fail: bool
    ) -> None:
        with pytest.raises(errors.AirError, match="'wasabi_default'") as caught:
            waits(mode, *before, trouble, soft_fail=soft_fail)

        assert type(caught.value) is error
        assert "'12345'" in str(caught.value)
        assert not isinstance(caught.value, AirflowException)  # which a deferred sensor with soft_fail would skip

    @found
    @cannot_be_asked
    def test_error_skips_with_never_fail(
        self, waits: Any, mode: str, before: list[bytes], trouble: bytes, error: Any
    ) -> None:
        with pytest.raises(AirflowSkipException) as caught:
            waits(mode, *before, trouble, never_fail=True)

        assert type(caught.value.__cause__) is error

    @found
    @cannot_be_asked
    def test_silent_fail_waits_on(
        self, waits: Any, caplog: Any, mode: str, before: list[bytes], trouble: bytes, error: Any
    ) -> None:
        xcom = waits(mode, *before, trouble, trouble, trouble, report("completed"), silent_fail=True)

        assert xcom["status"] == "completed"

    @found
    @may_pass
    def test_what_passes_ends_nothing(
        self, waits: Any, monkeypatch: Any, mode: str, before: list[bytes], trouble: Any
    ) -> None:
        monkeypatch.setattr("airflow_wasabi_jobs.watch.pace.LONGEST_PAUSE", 0.1)

        xcom = waits(mode, *before, trouble, trouble, report("completed"))

        assert xcom["status"] == "completed"
        assert waits.looks == len(before) + 3

    @found
    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail", "silent_fail"])
    @pytest.mark.parametrize("trouble", [answer(500), reset()], ids=["500", "reset"])
    def test_what_passes_is_never_skipped(
        self, waits: Any, mode: str, before: list[bytes], trouble: Any, flag: str
    ) -> None:
        assert waits(mode, *before, trouble, trouble, report("completed"), **{flag: True})["status"] == "completed"

    def test_refused_connection_ends_nothing(self, monkeypatch: Any, connect: Any, mode: str) -> None:
        with refusing() as url:
            connect(url)
            with pytest.raises(AirflowSensorTimeout):
                wait(monkeypatch, mode, timeout=0.3)

    @pytest.mark.parametrize("ever", [report("in_progress"), answer(500)], ids=["running", "troubled"])
    def test_time_out(self, waits: Any, mode: str, ever: bytes) -> None:
        with pytest.raises(
            AirflowSensorTimeout, match=r"Job '12345' on connection 'wasabi_default'.* timeout of 1 sec"
        ):
            waits(mode, ever, timeout=0.6)

    @pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
    def test_time_out_skips(self, waits: Any, mode: str, flag: str) -> None:
        with pytest.raises(AirflowSkipException, match=r"Job '12345'.* timeout"):
            waits(mode, report("in_progress"), timeout=0.3, **{flag: True})

    def test_time_out_is_not_silenced(self, waits: Any, mode: str) -> None:
        with pytest.raises(AirflowSensorTimeout):
            waits(mode, answer(404), timeout=0.5, silent_fail=True)

    @pytest.mark.parametrize("flags", [{}, {"soft_fail": True}])
    def test_time_out_tells_what_was_in_the_way(self, waits: Any, mode: str, flags: Any) -> None:
        with pytest.raises((AirflowSensorTimeout, AirflowSkipException), match=r"The last look failed: .* is 503"):
            waits(mode, report("preflight"), answer(503), timeout=0.8, **flags)

    @pytest.mark.parametrize("flags", [{}, {"soft_fail": True}])
    def test_time_out_tells_where_the_job_stood(self, waits: Any, mode: str, flags: Any) -> None:
        with pytest.raises(
            (AirflowSensorTimeout, AirflowSkipException), match=r"was preflight\. It may go on"
        ) as caught:
            waits(mode, answer(503), report("preflight"), timeout=0.8, **flags)

        assert "503" not in str(caught.value)

    def test_no_time_at_all_is_one_look(self, waits: Any, mode: str) -> None:
        with pytest.raises(AirflowSensorTimeout):
            waits(mode, report("in_progress"), report("completed"), timeout=0)

        assert waits.looks == 1

    def test_a_job_that_ends_when_the_time_is_up_counts(self, waits: Any, mode: str) -> None:
        xcom = waits(mode, report("in_progress"), report("completed"), poke_interval=1, timeout=0.8)

        assert xcom["status"] == "completed"
        assert waits.looks == 2

    def test_job_id_that_rendered_to_none_skips_with_never_fail(
        self, monkeypatch: Any, connect: Any, mode: str
    ) -> None:
        connect("http://127.0.0.1:1")
        made = WasabiJobSensor.execute

        def rendered(sensor: WasabiJobSensor, context: Any) -> Any:
            sensor.job_id = "None"
            return made(sensor, context)

        monkeypatch.setattr(WasabiJobSensor, "execute", rendered)
        with pytest.raises(AirflowSkipException, match="job_id of task 'wait'"):
            wait(monkeypatch, mode, job_id="{{ params.job_id }}", never_fail=True)

    @pytest.mark.parametrize(
        "extra", [{"retires": 3}, {"read_timeout": 0}, {"verify": "/no/such/file"}], ids=lambda extra: next(iter(extra))
    )
    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_bad_settings(self, monkeypatch: Any, connect: Any, mode: str, extra: Any, soft_fail: bool) -> None:
        connect("https://127.0.0.1:1", **extra)

        with pytest.raises(errors.InvalidSettings, match="wasabi_default"):
            wait(monkeypatch, mode, soft_fail=soft_fail)

    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_no_such_connection(self, monkeypatch: Any, mode: str, soft_fail: bool) -> None:
        with pytest.raises(errors.InvalidSettings, match="There is no connection 'nowhere'"):
            wait(monkeypatch, mode, wasabi_conn_id="nowhere", soft_fail=soft_fail)

    @pytest.mark.parametrize("job_id", ["", "   ", "None", ".", "..", ["1", "2"], True, {"job_id": "1"}, 1.5])
    def test_job_id_that_rendered_to_none(self, monkeypatch: Any, connect: Any, mode: str, job_id: Any) -> None:
        connect("http://127.0.0.1:1")
        made = WasabiJobSensor.execute

        def rendered(sensor: WasabiJobSensor, context: Any) -> Any:
            sensor.job_id = job_id
            return made(sensor, context)

        monkeypatch.setattr(WasabiJobSensor, "execute", rendered)
        with pytest.raises(ValueError, match=r"^job_id of task 'wait' is "):
            wait(monkeypatch, mode, job_id="{{ params.job_id }}", silent_fail=True)

    def test_white_space_around_the_ids(self, waits: Any, mode: str) -> None:
        xcom = waits(
            mode, report("in_progress"), report("completed"), job_id=" 12345\n", wasabi_conn_id=" wasabi_default "
        )

        assert xcom["job_id"] == "12345"

    def test_a_number_is_its_text(self, waits: Any, mode: str) -> None:
        assert waits(mode, report("in_progress"), report("completed"), job_id=12345)["job_id"] == "12345"

    def test_keys_that_change_meanwhile(self, monkeypatch: Any, connect: Any, mode: str) -> None:
        def rotated(_: Any) -> bytes:
            connect(server.url, secret_key="a-new-one")
            return answer(401)

        with Loopback(report("in_progress"), report("in_progress"), rotated, report("completed")) as server:
            connect(server.url, secret_key="the-first-one")
            xcom = wait(monkeypatch, mode)

        assert xcom["status"] == "completed"
        assert [request.headers["x-amz-secret-key"] for request in server.requests] == [
            *["the-first-one"] * 3,
            "a-new-one",
        ]

    def test_keys_never_reach_a_log(self, waits: Any, caplog: Any, mode: str) -> None:
        caplog.set_level(logging.DEBUG)
        echo = json_answer({"Error": f"{ACCESS_KEY} with {SECRET_KEY} is not known", "ErrorCode": SECRET_KEY}, 503)

        with pytest.raises(errors.Forbidden) as caught:
            waits(mode, echo, json_answer({"Error": f"{ACCESS_KEY}:{SECRET_KEY}"}, 403))

        seen = f"{caplog.text}{caught.value!r}{vars(caught.value)}"
        assert ACCESS_KEY not in seen
        assert SECRET_KEY not in seen


WHY = json_answer({"Id": "12345", "Status": "failed", "ErrorCode": "NO_SPEECH_MODEL", "ErrorCount": 3})
no_reason = pytest.mark.parametrize(
    "why",
    [
        pytest.param(answer(401), id="401"),
        pytest.param(answer(404), id="404"),
        pytest.param(answer(500), id="500"),
        pytest.param(answer(200, "<html>"), id="html"),
        pytest.param(reset(), id="reset"),
        pytest.param(json_answer({"Status": "failed"}), id="none"),
        pytest.param(json_answer({"Status": "failed", "ErrorCode": ""}), id="empty"),
        pytest.param(json_answer({"Status": "failed", "ErrorCode": None}), id="null"),
    ],
)


@in_each_mode
class TestWhy:
    @found
    def test_a_failure_says_why(self, waits: Any, mode: str, before: list[bytes]) -> None:
        with pytest.raises(WasabiJobFailed, match=r"failed, with 3 errors \(NO_SPEECH_MODEL\)\."):
            waits(mode, *before, report("failed", 3), WHY)

        assert waits.asked[-1] == "errors"

    @found
    def test_too_many_errors_say_why(self, waits: Any, mode: str, before: list[bytes]) -> None:
        with pytest.raises(WasabiJobFailed, match=r"completed with 3 errors \(NO_SPEECH_MODEL\), and max_error_count"):
            waits(mode, *before, report("completed", 3), WHY, max_error_count=1)

    @found
    @no_reason
    @pytest.mark.parametrize("flag", [None, "silent_fail"])
    def test_the_verdict_stands_without_a_reason(
        self, waits: Any, mode: str, before: list[bytes], why: Any, flag: str | None
    ) -> None:
        with pytest.raises(WasabiJobFailed, match=r"failed, with 3 errors\. That is final"):
            waits(mode, *before, report("failed", 3), why, **({flag: True} if flag else {}))

    def test_the_log_says_that_nobody_knows_why(self, waits: Any, monkeypatch: Any, caplog: Any, mode: str) -> None:
        monkeypatch.setattr(WasabiJobSensor, "log", logging.getLogger("sensor"))
        with pytest.raises(WasabiJobFailed):
            waits(mode, report("failed", 3), answer(403))

        assert "Job '12345': nobody can say why. Asked for the errors of job '12345'" in caplog.text

    def test_a_key_in_the_reason_is_not_shown(self, waits: Any, mode: str) -> None:
        why = json_answer({"Status": "failed", "ErrorCode": f"BAD {SECRET_KEY}"})
        with pytest.raises(WasabiJobFailed, match=r"\(BAD \*\*\*\)"):
            waits(mode, report("failed"), why)

    @pytest.mark.parametrize("last", [report("completed", 3), report("cancelled", 3)], ids=["completed", "cancelled"])
    def test_nobody_asks_why_otherwise(self, waits: Any, mode: str, last: bytes) -> None:
        with contextlib.suppress(WasabiJobCancelled):
            waits(mode, last, WHY)

        assert "errors" not in waits.asked


PATH = "s3://results/jobs/2025_04_29/12345/a.mp4_metadata.json"
PLACE = json_answer({"Id": "12345", "Destination": {"Bucket": "results", "Region": "eu-1"}, "DestinationPath": PATH})
NOT_YET = json_answer({"ErrorCode": "NOT_FOUND"}, 404)


@in_each_mode
class TestMetadata:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sensors, "RESULT_PATIENCE", 0.3)
        monkeypatch.setattr(sensors, "RESULT_PAUSE", 0.01)

    @found
    @pytest.mark.parametrize("until", [[], [NOT_YET], [NOT_YET] * 3], ids=["at-once", "soon", "later"])
    def test_it_is_in_the_xcom(self, waits: Any, mode: str, before: list[bytes], until: list[bytes]) -> None:
        xcom = waits(mode, *before, report("completed", 3), *until, PLACE, fetch_metadata=True)

        assert xcom == {
            "job_id": "12345",
            "status": "completed",
            "error_count": 3,
            "metadata_path": PATH,
            "destination": {"bucket": "results", "region": "eu-1"},
        }
        assert waits.asked.count("metadata") == len(until) + 1

    @found
    @pytest.mark.parametrize("soft_fail", [False, True])
    def test_a_result_that_never_comes_is_an_error(
        self, waits: Any, mode: str, before: list[bytes], soft_fail: bool
    ) -> None:
        with pytest.raises(errors.NotFound, match="the place of the result of job '12345'"):
            waits(mode, *before, report("completed"), NOT_YET, fetch_metadata=True, soft_fail=soft_fail)

        assert waits.asked.count("metadata") > 3

    @found
    @pytest.mark.parametrize("trouble", [answer(503), answer(429), reset()], ids=["503", "429", "reset"])
    def test_what_passes_ends_nothing(
        self, waits: Any, monkeypatch: Any, mode: str, before: list[bytes], trouble: Any
    ) -> None:
        monkeypatch.setattr("airflow_wasabi_jobs.watch.pace.SHORTEST_PAUSE", 0.1)
        api = ByPath(status=[*before, report("completed")], metadata=[trouble, trouble, PLACE])

        assert waits(mode, api, fetch_metadata=True)["metadata_path"] == PATH

    @found
    @pytest.mark.parametrize(
        ("trouble", "error"),
        [
            (answer(403), errors.Forbidden),
            (answer(200, "<html>"), errors.UnexpectedAnswer),
            (json_answer({"Id": "12345"}), errors.UnexpectedAnswer),
        ],
        ids=["403", "html", "no-path"],
    )
    def test_an_error_must_be_seen(
        self, waits: Any, mode: str, before: list[bytes], trouble: bytes, error: Any
    ) -> None:
        api = ByPath(status=[*before, report("completed")], metadata=[trouble])
        with pytest.raises(error):
            waits(mode, api, fetch_metadata=True, soft_fail=True)

    def test_a_verdict_needs_no_result(self, waits: Any, mode: str) -> None:
        with pytest.raises(WasabiJobFailed):
            waits(mode, report("failed"), WHY, fetch_metadata=True)

        assert "metadata" not in waits.asked

    def test_silent_fail_waits_on(self, waits: Any, mode: str) -> None:
        api = ByPath(status=[report("completed")], metadata=[answer(403), answer(403), PLACE])

        assert waits(mode, api, fetch_metadata=True, silent_fail=True)["metadata_path"] == PATH


class TestDeferring:
    def test_hands_over_what_the_trigger_needs_and_no_key(self, connect: Any) -> None:
        with Loopback(report("in_progress")) as server:
            connect(server.url)
            task = deferred(
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
            "airflow_wasabi_jobs.triggers.WasabiJobTrigger",
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

    @pytest.mark.parametrize(
        ("arguments", "ends", "max_error_count"),
        [
            ({"end_from_trigger": True}, True, None),
            ({"end_from_trigger": True, "max_error_count": 3}, True, 3),
            ({"end_from_trigger": True, "do_xcom_push": False}, False, None),
            ({"max_error_count": 3}, False, 3),
        ],
    )
    def test_who_ends_the_task(self, connect: Any, arguments: Any, ends: bool, max_error_count: int | None) -> None:
        with Loopback(report("in_progress")) as server:
            connect(server.url)
            task = deferred(WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, **arguments))

        assert (task.trigger.end_from_trigger, task.trigger.max_error_count) == (ends, max_error_count)

    def test_dag_test_hands_over_a_string(self, connect: Any) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, end_from_trigger=True)
        with Loopback(report("completed", 1)) as server:
            connect(server.url)
            xcom = sensor.resume_execution("execute_complete", {"event": "success"}, {})

        assert xcom == {"job_id": "12345", "status": "completed", "error_count": 1}

    def test_silent_fail_does_not_start_the_time_anew(self, connect: Any) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, silent_fail=True, timeout=3600)
        error = {"job_id": "12345", "error": errors.to_event(errors.NotFound("It is gone."))}
        with Loopback(report("in_progress")) as server:
            connect(server.url)
            until = deferred(sensor).kwargs["until"]
        with pytest.raises(TaskDeferred) as again:
            sensor.resume_execution("execute_complete", {"event": error, "until": until - 1800}, {})

        assert 1790 < again.value.timeout.total_seconds() <= 1800

    @pytest.mark.parametrize("says", ["Trigger timeout", "Trigger/execution timeout"], ids=["3.x", "2.11"])
    @pytest.mark.parametrize(
        ("flag", "ends_with"),
        [(None, AirflowSensorTimeout), ("soft_fail", AirflowSkipException), ("never_fail", AirflowSkipException)],
    )
    def test_time_out_in_the_words_of_each_scheduler(
        self, connect: Any, says: str, flag: str | None, ends_with: Any
    ) -> None:
        flags = {flag: True} if flag else {}
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, **flags)
        with Loopback(report("preflight")) as server:
            connect(server.url)
            with pytest.raises(ends_with, match="when last seen it was preflight"):
                sensor.resume_execution("__fail__", {"error": says}, {})

    def test_time_out_tells_why_the_last_look_failed(self, connect: Any) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True)
        with Loopback(answer(404)) as server:
            connect(server.url)
            with pytest.raises(AirflowSensorTimeout, match=r"The last look failed: .* is 404") as caught:
                sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {})

        assert isinstance(caught.value.__cause__, errors.NotFound)

    def test_what_happens_in_the_worker_is_told(self, connect: Any, monkeypatch: Any, caplog: Any) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(WasabiJobSensor, "log", logging.getLogger("sensor"))
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, silent_fail=True)
        error = {"job_id": "12345", "error": errors.to_event(errors.NotFound("It is gone."))}
        with Loopback(answer(404), answer(503)) as server:
            connect(server.url)
            deferred(sensor)
            deferred(sensor)
        with pytest.raises(TaskDeferred):
            sensor.resume_execution("execute_complete", {"event": error}, {})

        # Airflow itself warns of an execute() that is not the task runner's.
        told = [record.getMessage() for record in caplog.records if record.name == "sensor"]
        told = [text for text in told if "execute" not in text]
        assert "silent_fail" in told[0]
        assert told[1].startswith("Job '12345': no answer")
        assert "It is gone." in told[2] and "silent_fail" in told[2]

    def test_silent_fail_keeps_the_ids_as_they_were_checked(self, connect: Any) -> None:
        sensor = WasabiJobSensor(
            task_id="wait", job_id=" 12345 ", wasabi_conn_id=" wasabi_default ", deferrable=True, silent_fail=True
        )
        error = {"job_id": "12345", "error": errors.to_event(errors.NotFound("It is gone."))}
        with pytest.raises(TaskDeferred) as again:
            sensor.resume_execution("execute_complete", {"event": error}, {})

        assert (again.value.trigger.job_id, again.value.trigger.wasabi_conn_id) == ("12345", "wasabi_default")

    @pytest.mark.parametrize(
        ("flag", "skips"), [(None, False), ("soft_fail", False), ("silent_fail", False), ("never_fail", True)]
    )
    def test_a_trigger_that_breaks_must_be_seen(self, flag: str | None, skips: bool) -> None:
        flags = {flag: True} if flag else {}
        sensor = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True, **flags)

        with pytest.raises(AirflowException, match="Trigger failure") as caught:
            sensor.resume_execution("__fail__", {"error": "Trigger failure", "traceback": ["boom"]}, {})

        assert isinstance(caught.value, AirflowSkipException) is skips

    def test_a_job_that_is_over_needs_no_triggerer(self, connect: Any) -> None:
        with Loopback(report("completed")) as server:
            connect(server.url)
            xcom = WasabiJobSensor(task_id="wait", job_id="12345", deferrable=True).execute({})

        assert xcom["status"] == "completed"


class TestArguments:
    @pytest.mark.parametrize("job_id", [None, "", "  ", "None", ".", ".."])
    def test_job_id_that_is_none(self, job_id: Any) -> None:
        with pytest.raises(ValueError, match=r"^job_id of task 'wait' is "):
            WasabiJobSensor(task_id="wait", job_id=job_id)

    @pytest.mark.parametrize("conn_id", [None, "", "None"])
    def test_connection_that_is_none(self, conn_id: Any) -> None:
        with pytest.raises(ValueError, match=r"^wasabi_conn_id of task 'wait' is "):
            WasabiJobSensor(task_id="wait", job_id="12345", wasabi_conn_id=conn_id)

    @pytest.mark.parametrize("max_error_count", [-1, 1.5, "3", True])
    def test_max_error_count(self, max_error_count: Any) -> None:
        with pytest.raises(ValueError, match=r"^max_error_count of task 'wait' is "):
            WasabiJobSensor(task_id="wait", job_id="12345", max_error_count=max_error_count)

    def test_poke_interval_must_be_positive_to_defer(self) -> None:
        with pytest.raises(ValueError, match=r"^poke_interval of task 'wait' is 0"):
            WasabiJobSensor(task_id="wait", job_id="12345", poke_interval=0, deferrable=True)

        WasabiJobSensor(task_id="wait", job_id="12345", poke_interval=0, deferrable=False)

    def test_growing_intervals_never_overflow(self) -> None:
        sensor = WasabiJobSensor(
            task_id="wait", job_id="12345", poke_interval=60, exponential_backoff=True, max_wait=3600, timeout=10**6
        )

        assert sensor._get_next_poke_interval(0.0, lambda: 0.0, 100_000) == 3600

    def test_templates(self) -> None:
        sensor = WasabiJobSensor(task_id="wait", job_id="{{ a }}", wasabi_conn_id="{{ b }}")

        sensor.render_template_fields({"a": "12345", "b": "another"})

        assert (sensor.job_id, sensor.wasabi_conn_id) == ("12345", "another")
