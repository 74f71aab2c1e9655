"""The demo prints the progress of each job, and exits with 0 only if every task has the expected outcome."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from airflow_wasabi_jobs.demo import __main__ as demo
from airflow_wasabi_jobs.emulator import AirEmulator


@pytest.mark.long
def test_prints_each_job_and_the_outcome_of_its_task() -> None:
    completed_process = subprocess.run(
        [sys.executable, "-m", "airflow_wasabi_jobs.demo"], capture_output=True, text=True, timeout=240, check=False
    )
    output = " ".join(completed_process.stdout.split())

    assert completed_process.returncode == 0, completed_process.stdout
    for job, end in [
        ("completes-interview", "completed"),
        ("completes-clip", "completed"),
        ("fails-clip", "failed"),
        ("cancels-archive", "cancelled"),
    ]:
        positions = [output.find(f"job {job} {status}") for status in ("submitted", "preflight", "in_progress", end)]
        assert -1 not in positions, job
        assert positions == sorted(positions)
    expected_order = [
        "job completes-interview completed",
        "task analyse_interview success XCom: {'job_id': ",
        "'metadata_path': 's3://results/jobs/",
        "job fails-clip submitted",
        "task submit_clips[1] success XCom: ",
        "job fails-clip failed",
        "task wait_for_clips failed WasabiBatchFailed: Batch 'clips' (connection 'wasabi_default'): 1 job failed",
        "more than max_failures=0: media/fails-clip.mp4 (job ",
        ", INTERNAL_ERROR). Not retried.",
        "job cancels-archive submitted",
        "job cancels-archive cancelled",
        "task wait_for_archive failed WasabiJobCancelled: Job 'cancels-archive'",
        "jobs library ",
        "task analyse_library failed WasabiBatchFailed: Batch 'library' (connection 'wasabi_default'): 3 of 200 files",
        "media/fails-once-000.mp4 (job ",
        "Clear this task to submit these files again",
        "task analyse_library (cleared) success XCom: {'batch': 'library', 'files': 200, 'counts': {'completed': 200}",
        "analyse_library submitted 203 jobs in all",
    ]
    assert "task submit_clips[0] success XCom: " in output
    assert [text for text in expected_order if text not in output] == []
    assert sorted(expected_order, key=output.find) == expected_order
    assert "Next steps:" in output
    assert "Traceback" not in completed_process.stdout
    assert "airflow.task" not in completed_process.stdout
    assert completed_process.stderr == ""


@pytest.mark.long
def test_unexpected_outcome_prints_the_log_of_airflow(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(demo, "AirEmulator", partial(AirEmulator, speed=10))
    monkeypatch.setitem(demo.EXPECTED_OUTCOMES, "wait_for_archive", None)

    assert demo.main() == 1

    output = capsys.readouterr().out
    assert "The demo failed" in output
    assert "wait_for_archive: expected success, got WasabiJobCancelled" in output
    assert "wait_for_clips" not in output.partition("The demo failed")[2]
    assert "Job 'cancels-archive': status cancelled, 0 errors." in output  # a log line


def test_airflow_does_not_start(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any) -> None:
    failing_python = tmp_path / "python"
    failing_python.write_text("#!/bin/sh\necho no such thing as Airflow\nexit 1\n")
    failing_python.chmod(0o755)
    monkeypatch.setattr(demo.sys, "executable", str(failing_python))

    assert demo.main() == 1

    output = capsys.readouterr().out
    assert "no such thing as Airflow" in output
    assert "analyse_interview: expected success, got no outcome" in output
