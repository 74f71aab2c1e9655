"""Emulated jobs: how their status changes with time, and how their names control the outcome. No server, no delays."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.emulator.jobs import Definition, Destination, EmulatedJob, EmulatedJobs, Outcome, Source

CREATED_AT = datetime(2025, 11, 21, 23, 59, 59, 500_000, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = CREATED_AT

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def jobs(clock):
    return EmulatedJobs(clock, speed=1.0)


def make_job(
    outcome: Outcome | None = None, *, speed: float = 1.0, definition: Definition | None = None
) -> EmulatedJob:
    return EmulatedJob(
        job_id="12345",
        definition=definition or Definition.with_name("talk"),
        outcome=outcome or Outcome(JobStatus.COMPLETED),
        created_at=CREATED_AT,
        speed=speed,
    )


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("completes", Outcome(JobStatus.COMPLETED)),
        ("completes-1", Outcome(JobStatus.COMPLETED)),
        ("completes-with-3-errors", Outcome(JobStatus.COMPLETED, 3)),
        ("completes-with-12-errors-again", Outcome(JobStatus.COMPLETED, 12)),
        ("completes-with-0-errors", Outcome(JobStatus.COMPLETED)),
        ("completes-with-1-error", Outcome(JobStatus.COMPLETED, 1)),
        ("completes-after-60-seconds", Outcome(JobStatus.COMPLETED, 0, 60)),
        ("completes-with-3-errors-after-60-seconds-x", Outcome(JobStatus.COMPLETED, 3, 60)),
        ("fails-after-2-seconds", Outcome(JobStatus.FAILED, 1, 2)),
        ("fails-with-7-errors", Outcome(JobStatus.FAILED, 7)),
        ("cancels-after-0-seconds", Outcome(JobStatus.CANCELLED, 0, 0)),
        ("completes-with-many-errors", Outcome(JobStatus.COMPLETED)),
        ("completes-with-1234567890-errors", Outcome(JobStatus.COMPLETED)),
        ("completes-talk-after-60-seconds", Outcome(JobStatus.COMPLETED, 0, 60)),
        ("fails/2025/talk_after-1-second.mp4", Outcome(JobStatus.FAILED, 1, 1)),
        ("cancels-after-3-seconds-with-2-errors", Outcome(JobStatus.CANCELLED, 2, 3)),
        ("talk-after-60-seconds", Outcome(JobStatus.COMPLETED, 0, 60)),
        ("after-60-seconds", Outcome(JobStatus.COMPLETED, 0, 60)),
        ("talk-with-3-errors", Outcome(JobStatus.COMPLETED, 3)),
        ("thereafter-60-seconds", None),
        ("talk-after-60-secondsight", None),
        ("fails-once", Outcome(JobStatus.FAILED, 1, is_first_only=True)),
        ("fails-once-after-2-seconds", Outcome(JobStatus.FAILED, 1, 2, is_first_only=True)),
        ("fails-onceuponatime", Outcome(JobStatus.FAILED, 1)),
        ("failsafe", None),
        ("fails.mp4", Outcome(JobStatus.FAILED, 1)),
        ("fails", Outcome(JobStatus.FAILED, 1)),
        ("fails-today", Outcome(JobStatus.FAILED, 1)),
        ("cancels", Outcome(JobStatus.CANCELLED)),
        ("12345", None),
        ("it-completes", None),
        ("Completes", None),
        ("", None),
    ],
)
def test_keywords_of_a_name_determine_the_outcome(name, outcome):
    assert Outcome.from_name(name) == outcome


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (0.0, "submitted"),
        (0.99, "submitted"),
        (1.0, "preflight"),
        (1.99, "preflight"),
        (2.0, "in_progress"),
        (4.99, "in_progress"),
        (5.0, "completed"),
        (1e6, "completed"),
    ],
)
@pytest.mark.parametrize("speed", [0.5, 1.0, 4.0])
def test_status_depends_on_the_time(age, status, speed):
    # Halves and quarters avoid rounding errors.
    now = CREATED_AT + age / speed + 1e-4
    assert make_job(speed=speed).status(now) == status


def test_status_is_submitted_if_the_clock_is_set_back():
    assert make_job().status(CREATED_AT - 3600) == "submitted"


@pytest.mark.parametrize(
    "outcome", [Outcome(JobStatus.COMPLETED, 3), Outcome(JobStatus.FAILED, 1), Outcome(JobStatus.CANCELLED)]
)
def test_error_count_is_0_until_the_job_finishes(outcome):
    job = make_job(outcome)
    assert job.error_count(CREATED_AT + 4.9) == 0
    assert job.status(CREATED_AT + 5) == outcome.status
    assert job.error_count(CREATED_AT + 5) == outcome.error_count


@pytest.mark.parametrize("speed", [0.5, 4.0])
@pytest.mark.parametrize("after_seconds", [0, 8])
def test_result_is_available_after_the_delay(speed, after_seconds):
    job, available_at = make_job(speed=speed), CREATED_AT + (5 + after_seconds) / speed
    assert [job.has_result(available_at + offset, after_seconds) for offset in (-0.01, 0, 1e6)] == [False, True, True]


@pytest.mark.parametrize("outcome", [Outcome(JobStatus.FAILED, 1), Outcome(JobStatus.CANCELLED)])
def test_failed_or_cancelled_job_has_no_result(outcome):
    assert not make_job(outcome).has_result(CREATED_AT + 1e6)


def test_listed_job():
    assert make_job().list_record(CREATED_AT) == {
        "Id": "12345",
        "Name": "talk",
        "Source": {"Bucket": "emulated-media", "ObjectKey": "talk.mp4"},
        "Destination": {"Bucket": "emulated-results", "Region": "us-east-1"},
        "UserId": "arn:aws:iam::000000000000:user/emulator",
        "Created": "2025-11-21T23:59:59.500Z",
        "Status": "submitted",
    }


@pytest.mark.parametrize(
    ("speed", "completed"), [(1.0, "2025-11-22T00:00:04.500Z"), (10.0, "2025-11-22T00:00:00.000Z")]
)
def test_finished_job_has_a_completion_time(speed, completed):
    assert make_job(speed=speed).list_record(CREATED_AT + 60)["Completed"] == completed


def test_single_job_contains_its_services():
    job = make_job()
    assert job.record(CREATED_AT) == {**job.list_record(CREATED_AT), "Services": {"ocr": ""}}


def test_result_path():
    definition = Definition(
        name="talk",
        services={"s2t": ""},
        source=Source(bucket="media", object_key="2025/talks/talk.mp4"),
        destination=Destination(bucket="results", region="eu-central-1"),
    )
    assert make_job(definition=definition).result_path() == "s3://results/jobs/2025_11_21/12345/talk_metadata.json"


def test_name_is_truncated_to_256_characters():
    assert Definition.with_name("x" * 300).name == "x" * 256


def test_id_with_an_outcome_creates_a_job_once(jobs, clock):
    first = jobs.find_or_create("fails-1")
    clock.now += 60
    assert jobs.find_or_create("fails-1") is first
    assert first.created_at == CREATED_AT
    assert first.outcome == Outcome(JobStatus.FAILED, 1)


def test_other_id_creates_no_job(jobs):
    assert jobs.find_or_create("12345") is None
    assert list(jobs) == []


def test_find_creates_no_job(jobs):
    assert jobs.find("completes") is None
    assert list(jobs) == []


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("talk", Outcome(JobStatus.COMPLETED)),
        ("fails", Outcome(JobStatus.FAILED, 1)),
        ("cancels-it", Outcome(JobStatus.CANCELLED)),
        ("completes-with-2-errors", Outcome(JobStatus.COMPLETED, 2)),
    ],
)
def test_name_determines_the_outcome_of_a_submitted_job(jobs, name, outcome):
    job = jobs.submit(Definition.with_name(name))
    assert job.outcome == outcome
    assert jobs.find(job.job_id) is job


def make_definition(name: str, object_key: str) -> Definition:
    return Definition(
        name=name,
        services={"ocr": ""},
        source=Source(bucket="media", object_key=object_key),
        destination=Destination(bucket="results", region="us-east-1"),
    )


@pytest.mark.parametrize(
    ("name", "object_key", "outcome"),
    [
        ("my_dag/submit/run", "2025/fails-clip.mp4", Outcome(JobStatus.FAILED, 1)),
        ("my_dag/submit/run", "clip-after-60-seconds.mp4", Outcome(JobStatus.COMPLETED, 0, 60)),
        ("my_dag/submit/run", "fails/clip.mp4", Outcome(JobStatus.COMPLETED)),
        ("my_dag/submit/run", "failsafe.mp4", Outcome(JobStatus.COMPLETED)),
        ("completes", "fails-clip.mp4", Outcome(JobStatus.COMPLETED)),
        ("cancels", "fails-clip-after-60-seconds.mp4", Outcome(JobStatus.CANCELLED)),
        ("night-after-60-seconds", "fails-clip.mp4", Outcome(JobStatus.COMPLETED, 0, 60)),
    ],
)
def test_file_name_determines_the_outcome_unless_the_name_does(jobs, name, object_key, outcome):
    assert jobs.submit(make_definition(name, object_key)).outcome == outcome


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        (("fails-once", "a.mp4"), ("fails-once", "b.mp4"), ("fails-once-more", "a.mp4")),
        (("run-1", "x/fails-once.mp4"), ("run-2", "x/fails-once.mp4"), ("run-1", "y/fails-once.mp4")),
    ],
    ids=["name", "file"],
)
def test_only_the_first_job_of_a_name_or_file_fails(jobs, first, same, other):
    definitions = [make_definition(*job) for job in (first, same, same, other)]
    assert [jobs.submit(definition).outcome.status for definition in definitions] == [
        "failed",
        "completed",
        "completed",
        "failed",
    ]


def test_later_job_completes_without_errors_in_the_same_time(jobs):
    definition = make_definition("fails-once-with-7-errors-after-60-seconds", "a.mp4")
    outcomes = [jobs.submit(definition).outcome for _ in range(2)]
    assert [(outcome.status, outcome.error_count, outcome.seconds) for outcome in outcomes] == [
        ("failed", 7, 60),
        ("completed", 0, 60),
    ]


def test_same_definition_twice_creates_two_jobs(jobs):
    first, second = (jobs.submit(Definition.with_name("talk")) for _ in range(2))
    assert first.job_id != second.job_id


def test_names_are_the_given_names_or_the_ids_oldest_first(jobs):
    assert jobs.names() == []
    jobs.submit(Definition.with_name("talk"))
    jobs.find_or_create("completes")
    jobs.submit(Definition.with_name("talk"))
    assert jobs.names() == ["talk", "completes", "talk"]


def test_names_can_be_read_while_jobs_are_created(jobs):
    class Talk:
        source = Source(bucket="media", object_key="talk.mp4")

        @property
        def name(self):
            # Simulates another thread that creates a job meanwhile.
            jobs.find_or_create(f"completes-{len(jobs)}")
            return "talk"

    jobs.submit(Talk())
    assert jobs.names() == ["completes-0", "talk"]
    assert jobs.names() == ["completes-0", "talk", "completes-2"]


def test_jobs_are_ordered_oldest_first(jobs):
    ids = [jobs.find_or_create(f"completes-{number}").job_id for number in (3, 1, 2)]
    assert [job.job_id for job in jobs] == ids
    assert [job.job_id for job in reversed(jobs)] == ids[::-1]
