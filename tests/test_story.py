"""The log of a wait is a short story."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_wasabi_jobs.api.errors import ServerTrouble
from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.story import SIGN_OF_LIFE, Story


class Teller:
    """A story with a clock that is set by hand."""

    def __init__(self, caplog: Any) -> None:
        caplog.set_level(logging.INFO)
        self.now = 1000.0
        self.caplog = caplog
        self.story = Story(logging.getLogger("story"), "It", clock=lambda: self.now)

    def sees(self, status: JobStatus, error_count: int | None = 0) -> list[str]:
        details = "" if error_count is None else f"errors: {error_count}"
        return self._new(lambda: self.story.answered(status.value, details))

    def fails(self) -> list[str]:
        return self._new(lambda: self.story.troubled(ServerTrouble("It is not well.")))

    def _new(self, look: Any) -> list[str]:
        self.caplog.clear()
        look()
        return [f"{record.levelname}: {record.getMessage()}" for record in self.caplog.records]


@pytest.fixture
def teller(caplog: Any) -> Teller:
    return Teller(caplog)


def test_each_change_of_status_is_told_once(teller: Teller) -> None:
    assert teller.sees(JobStatus.SUBMITTED) == ["INFO: It: submitted (errors: 0)."]
    assert teller.sees(JobStatus.SUBMITTED) == []
    assert teller.sees(JobStatus.IN_PROGRESS, 2) == ["INFO: It: in_progress (errors: 2)."]
    assert teller.sees(JobStatus.IN_PROGRESS, 3) == []
    assert teller.sees(JobStatus.COMPLETED, 3) == ["INFO: It: completed (errors: 3)."]


def test_trouble_is_told_when_it_begins_and_when_it_is_over(teller: Teller) -> None:
    teller.sees(JobStatus.IN_PROGRESS)

    assert teller.fails() == ["WARNING: It: no answer at the moment, and the wait goes on. It is not well."]
    assert teller.fails() == []
    assert teller.sees(JobStatus.IN_PROGRESS) == ["INFO: It: the API answers again. Looks without an answer: 2."]
    assert teller.sees(JobStatus.IN_PROGRESS) == []
    assert len(teller.fails()) == 1


def test_a_change_behind_a_trouble_is_told_too(teller: Teller) -> None:
    teller.fails()

    assert teller.sees(JobStatus.COMPLETED)[1:] == ["INFO: It: completed (errors: 0)."]


def test_a_sign_of_life_now_and_then(teller: Teller) -> None:
    teller.sees(JobStatus.IN_PROGRESS)

    teller.now += SIGN_OF_LIFE - 1
    assert teller.sees(JobStatus.IN_PROGRESS) == []
    teller.now += 1
    assert teller.sees(JobStatus.IN_PROGRESS) == ["INFO: It: still in_progress (errors: 0), 10 minutes into this wait."]
    assert teller.sees(JobStatus.IN_PROGRESS) == []
    teller.now += SIGN_OF_LIFE
    assert len(teller.sees(JobStatus.IN_PROGRESS)) == 1


def test_a_sign_of_life_in_trouble(teller: Teller) -> None:
    teller.now += SIGN_OF_LIFE
    teller.fails()
    assert teller.fails() == []

    teller.now += SIGN_OF_LIFE
    assert teller.fails() == ["INFO: It: still no answer, 20 minutes into this wait."]
    assert teller.fails() == []


def test_a_list_tells_no_errors(teller: Teller) -> None:
    assert teller.sees(JobStatus.PREFLIGHT, None) == ["INFO: It: preflight."]
