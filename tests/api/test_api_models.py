"""What the API speaks of."""

from __future__ import annotations

import pytest

from airflow_wasabi_jobs.api.models import Job, JobReport, JobStatus


@pytest.mark.parametrize(
    ("text", "is_final"),
    [
        ("submitted", False),
        ("preflight", False),
        ("in_progress", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
    ],
)
def test_a_status(text, is_final):
    assert JobStatus(text) == text
    assert str(JobStatus(text)) == text
    assert JobStatus(text).is_final is is_final


def test_there_are_six():
    assert len(JobStatus) == 6


@pytest.mark.parametrize("text", ["Completed", "COMPLETED", "canceled", "in progress", " failed", ""])
def test_no_status(text):
    with pytest.raises(ValueError, match="is not a valid JobStatus"):
        JobStatus(text)


def test_a_report_has_no_errors_unless_it_says_so():
    assert JobReport(job_id="12345", status=JobStatus.COMPLETED).error_count == 0


@pytest.mark.parametrize("thing", [JobReport(job_id="12345", status=JobStatus.FAILED), Job(job_id="1", status="new")])
def test_what_was_told_is_not_changed(thing):
    with pytest.raises(AttributeError):
        thing.status = JobStatus.COMPLETED
