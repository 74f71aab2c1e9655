"""Models of the API."""

from __future__ import annotations

import pytest

from airflow_wasabi_jobs.api.models import Job, JobReport, JobStatus


@pytest.mark.parametrize(
    ("text", "is_terminal"),
    [
        ("submitted", False),
        ("preflight", False),
        ("in_progress", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
    ],
)
def test_job_status(text, is_terminal):
    assert JobStatus(text) == text
    assert str(JobStatus(text)) == text
    assert JobStatus(text).is_terminal is is_terminal


def test_there_are_six_statuses():
    assert len(JobStatus) == 6


@pytest.mark.parametrize("text", ["Completed", "COMPLETED", "canceled", "in progress", " failed", ""])
def test_unknown_status(text):
    with pytest.raises(ValueError, match="is not a valid JobStatus"):
        JobStatus(text)


def test_error_count_defaults_to_0():
    assert JobReport(job_id="12345", status=JobStatus.COMPLETED).error_count == 0


@pytest.mark.parametrize("model", [JobReport(job_id="12345", status=JobStatus.FAILED), Job(job_id="1", status="new")])
def test_models_are_immutable(model):
    with pytest.raises(AttributeError):
        model.status = JobStatus.COMPLETED
