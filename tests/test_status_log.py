"""What a wait logs: changes of status, the beginning and end of an outage, and heartbeat lines."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_wasabi_jobs.api.exceptions import ServerError
from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.waiting.status_log import HEARTBEAT_SECONDS, StatusLog, describe_job_status


class StatusLogDriver:
    """A status log with a clock that the test sets."""

    def __init__(self, caplog: Any) -> None:
        caplog.set_level(logging.INFO)
        self.now = 1000.0
        self.caplog = caplog
        self.log = StatusLog("It", clock=lambda: self.now)

    def log_status(self, status: JobStatus, error_count: int | None = 0) -> list[str]:
        return self._new_lines(lambda: self.log.record_status(status.value, describe_job_status(status, error_count)))

    def log_failure(self) -> list[str]:
        return self._new_lines(lambda: self.log.record_error(ServerError("Busy.")))

    def _new_lines(self, write: Any) -> list[str]:
        self.caplog.clear()
        write()
        return [f"{record.levelname}: {record.getMessage()}" for record in self.caplog.records]


@pytest.fixture
def status_log(caplog: Any) -> StatusLogDriver:
    return StatusLogDriver(caplog)


def test_each_change_of_status_is_logged_once(status_log: StatusLogDriver) -> None:
    assert status_log.log_status(JobStatus.SUBMITTED) == ["INFO: It: status submitted, 0 errors."]
    assert status_log.log_status(JobStatus.SUBMITTED) == []
    assert status_log.log_status(JobStatus.IN_PROGRESS, 2) == ["INFO: It: status in_progress, 2 errors."]
    assert status_log.log_status(JobStatus.IN_PROGRESS, 3) == []
    assert status_log.log_status(JobStatus.COMPLETED, 3) == ["INFO: It: status completed, 3 errors."]


def test_outage_is_logged_when_it_begins_and_when_it_ends(status_log: StatusLogDriver) -> None:
    status_log.log_status(JobStatus.IN_PROGRESS)

    assert status_log.log_failure() == ["WARNING: It: API not responding; still waiting. Busy."]
    assert status_log.log_failure() == []
    assert status_log.log_status(JobStatus.IN_PROGRESS) == ["INFO: It: API is responding again after 2 failed polls."]
    assert status_log.log_status(JobStatus.IN_PROGRESS) == []
    assert len(status_log.log_failure()) == 1


def test_change_of_status_during_an_outage_is_logged_after_it(status_log: StatusLogDriver) -> None:
    status_log.log_failure()

    assert status_log.log_status(JobStatus.COMPLETED)[1:] == ["INFO: It: status completed, 0 errors."]


def test_heartbeat_line(status_log: StatusLogDriver) -> None:
    status_log.log_status(JobStatus.IN_PROGRESS)

    status_log.now += HEARTBEAT_SECONDS - 1
    assert status_log.log_status(JobStatus.IN_PROGRESS) == []
    status_log.now += 1
    assert status_log.log_status(JobStatus.IN_PROGRESS) == [
        "INFO: It: status in_progress, 0 errors; waiting for 10 minutes."
    ]
    assert status_log.log_status(JobStatus.IN_PROGRESS) == []
    status_log.now += HEARTBEAT_SECONDS
    assert len(status_log.log_status(JobStatus.IN_PROGRESS)) == 1


def test_heartbeat_line_during_an_outage(status_log: StatusLogDriver) -> None:
    status_log.now += HEARTBEAT_SECONDS
    status_log.log_failure()
    assert status_log.log_failure() == []

    status_log.now += HEARTBEAT_SECONDS
    assert status_log.log_failure() == ["INFO: It: API still not responding; waiting for 20 minutes."]
    assert status_log.log_failure() == []


def test_status_from_a_list_has_no_error_count(status_log: StatusLogDriver) -> None:
    assert status_log.log_status(JobStatus.PREFLIGHT, None) == ["INFO: It: status preflight."]
