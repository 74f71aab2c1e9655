"""The demo prints what a person wants to see, and ends well only if all went well."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from airflow_wasabi_jobs.demo import __main__ as demo
from airflow_wasabi_jobs.emulator import AirEmulator


@pytest.mark.long
def test_it_shows_each_job_and_what_its_task_made_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow_wasabi_jobs.demo"], capture_output=True, text=True, timeout=240, check=False
    )
    told = " ".join(done.stdout.split())

    assert done.returncode == 0, done.stdout
    for job, end in [
        ("completes-interview", "completed"),
        ("completes-clip", "completed"),
        ("fails-clip", "failed"),
        ("cancels-archive", "cancelled"),
    ]:
        seen = [told.find(f"job {job} {status}") for status in ("submitted", "preflight", "in_progress", end)]
        assert -1 not in seen, job
        assert seen == sorted(seen)
    in_order = [
        "job completes-interview completed",
        "task analyse_interview success XCom: {'job_id': ",
        "'metadata_path': 's3://results/jobs/",
        "job fails-clip submitted",
        "task submit_clips[1] success XCom: ",
        "job fails-clip failed",
        "task wait_for_clips failed WasabiBatchFailed: Batch 'clips' on connection 'wasabi_default': 1 job failed",
        "(INTERNAL_ERROR)",
        "job cancels-archive submitted",
        "job cancels-archive cancelled",
        "task wait_for_archive failed WasabiJobCancelled: Job 'cancels-archive'",
    ]
    assert "task submit_clips[0] success XCom: " in told
    assert [text for text in in_order if text not in told] == []
    assert sorted(in_order, key=told.find) == in_order
    assert "What to do next" in told
    assert "Traceback" not in done.stdout
    assert "airflow.task" not in done.stdout
    assert done.stderr == ""


@pytest.mark.long
def test_a_task_that_ends_otherwise_is_told_with_all_that_airflow_said(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(demo, "AirEmulator", partial(AirEmulator, speed=10))
    monkeypatch.setitem(demo.EXPECTED, "wait_for_archive", None)

    assert demo.main() == 1

    told = capsys.readouterr().out
    assert "Something broke" in told
    assert "wait_for_archive: expected success, got WasabiJobCancelled" in told
    assert "wait_for_clips" not in told.partition("Something broke")[2]
    assert "Job 'cancels-archive': cancelled (errors: 0)." in told  # a line of the log


def test_an_airflow_that_does_not_start(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such thing as Airflow\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(demo.sys, "executable", str(broken))

    assert demo.main() == 1

    told = capsys.readouterr().out
    assert "no such thing as Airflow" in told
    assert "analyse_interview: expected success, got no end" in told
