"""The emulated jobs: what time makes of them, and how their names steer it. No server, no waiting."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_wasabi_jobs.api.models import JobStatus
from airflow_wasabi_jobs.emulator.jobs import Definition, Destination, EmulatedJob, EmulatedJobs, Fate, Source

BORN = datetime(2025, 11, 21, 23, 59, 59, 500_000, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = BORN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def jobs(clock):
    return EmulatedJobs(clock, speed=1.0)


def a_job(fate: Fate | None = None, *, speed: float = 1.0, definition: Definition | None = None) -> EmulatedJob:
    return EmulatedJob(
        job_id="12345",
        definition=definition or Definition.named("talk"),
        fate=fate or Fate(JobStatus.COMPLETED),
        born=BORN,
        speed=speed,
    )


@pytest.mark.parametrize(
    ("name", "fate"),
    [
        ("completes", Fate(JobStatus.COMPLETED)),
        ("completes-1", Fate(JobStatus.COMPLETED)),
        ("completes-with-3-errors", Fate(JobStatus.COMPLETED, 3)),
        ("completes-with-12-errors-again", Fate(JobStatus.COMPLETED, 12)),
        ("completes-with-0-errors", Fate(JobStatus.COMPLETED)),
        ("completes-with-1-error", Fate(JobStatus.COMPLETED, 1)),
        ("completes-after-60-seconds", Fate(JobStatus.COMPLETED, 0, 60)),
        ("completes-with-3-errors-after-60-seconds-x", Fate(JobStatus.COMPLETED, 3, 60)),
        ("fails-after-2-seconds", Fate(JobStatus.FAILED, 1, 2)),
        ("fails-with-7-errors", Fate(JobStatus.FAILED, 7)),
        ("cancels-after-0-seconds", Fate(JobStatus.CANCELLED, 0, 0)),
        ("completes-with-many-errors", Fate(JobStatus.COMPLETED)),
        ("completes-with-1234567890-errors", Fate(JobStatus.COMPLETED)),
        ("fails", Fate(JobStatus.FAILED, 1)),
        ("fails-today", Fate(JobStatus.FAILED, 1)),
        ("cancels", Fate(JobStatus.CANCELLED)),
        ("12345", None),
        ("it-completes", None),
        ("Completes", None),
        ("", None),
    ],
)
def test_the_beginning_of_a_name_tells_the_fate(name, fate):
    assert Fate.of(name) == fate


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
def test_the_status_follows_from_the_time(age, status, speed):
    # Halves and quarters, so that the sum has no rounding to speak of.
    now = BORN + age / speed + 1e-4
    assert a_job(speed=speed).status(now) == status


def test_a_clock_set_back_finds_the_job_submitted():
    assert a_job().status(BORN - 3600) == "submitted"


@pytest.mark.parametrize("fate", [Fate(JobStatus.COMPLETED, 3), Fate(JobStatus.FAILED, 1), Fate(JobStatus.CANCELLED)])
def test_errors_come_at_the_end(fate):
    job = a_job(fate)
    assert job.error_count(BORN + 4.9) == 0
    assert job.status(BORN + 5) == fate.status
    assert job.error_count(BORN + 5) == fate.error_count


@pytest.mark.parametrize("speed", [0.5, 4.0])
@pytest.mark.parametrize("after_seconds", [0, 8])
def test_the_result_is_known_so_long_after_the_completion(speed, after_seconds):
    job, known = a_job(speed=speed), BORN + (5 + after_seconds) / speed
    assert [job.has_result(known + pause, after_seconds) for pause in (-0.01, 0, 1e6)] == [False, True, True]


@pytest.mark.parametrize("fate", [Fate(JobStatus.FAILED, 1), Fate(JobStatus.CANCELLED)])
def test_what_did_not_complete_has_no_result(fate):
    assert not a_job(fate).has_result(BORN + 1e6)


def test_a_running_job_as_the_list_shows_it():
    assert a_job().brief(BORN) == {
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
def test_a_job_that_is_over_says_since_when(speed, completed):
    assert a_job(speed=speed).brief(BORN + 60)["Completed"] == completed


def test_a_job_on_its_own_shows_its_services_too():
    job = a_job()
    assert job.full(BORN) == {**job.brief(BORN), "Services": {"ocr": ""}}


def test_the_result_lies_in_the_destination_under_day_id_and_name():
    definition = Definition(
        name="talk",
        services={"s2t": ""},
        source=Source(bucket="media", object_key="2025/talks/talk.mp4"),
        destination=Destination(bucket="results", region="eu-central-1"),
    )
    assert a_job(definition=definition).result_path() == "s3://results/jobs/2025_11_21/12345/talk.mp4_metadata.json"


def test_a_job_that_nobody_submitted_keeps_to_the_longest_name():
    assert Definition.named("x" * 300).name == "x" * 256


def test_an_id_that_tells_a_fate_begins_a_job_once(jobs, clock):
    first = jobs.find_or_begin("fails-1")
    clock.now += 60
    assert jobs.find_or_begin("fails-1") is first
    assert first.born == BORN
    assert first.fate == Fate(JobStatus.FAILED, 1)


def test_another_id_begins_nothing(jobs):
    assert jobs.find_or_begin("12345") is None
    assert list(jobs) == []


def test_to_find_begins_nothing(jobs):
    assert jobs.find("completes") is None
    assert list(jobs) == []


@pytest.mark.parametrize(
    ("name", "fate"),
    [
        ("talk", Fate(JobStatus.COMPLETED)),
        ("fails", Fate(JobStatus.FAILED, 1)),
        ("cancels-it", Fate(JobStatus.CANCELLED)),
        ("completes-with-2-errors", Fate(JobStatus.COMPLETED, 2)),
    ],
)
def test_the_name_steers_a_submitted_job(jobs, name, fate):
    job = jobs.submit(Definition.named(name))
    assert job.fate == fate
    assert jobs.find(job.job_id) is job


def test_the_same_definition_twice_makes_two_jobs(jobs):
    one, other = (jobs.submit(Definition.named("talk")) for _ in range(2))
    assert one.job_id != other.job_id


def test_names_are_those_given_or_the_ids_oldest_first(jobs):
    assert jobs.names() == []
    jobs.submit(Definition.named("talk"))
    jobs.find_or_begin("completes")
    jobs.submit(Definition.named("talk"))
    assert jobs.names() == ["talk", "completes", "talk"]


def test_names_can_be_read_while_jobs_begin(jobs):
    class Talk:
        @property
        def name(self):
            # As if another thread came in between.
            jobs.find_or_begin(f"completes-{len(jobs)}")
            return "talk"

    jobs.submit(Talk())
    assert jobs.names() == ["completes-0", "talk"]
    assert jobs.names() == ["completes-0", "talk", "completes-2"]


def test_jobs_come_oldest_first_and_in_reverse(jobs):
    ids = [jobs.find_or_begin(f"completes-{number}").job_id for number in (3, 1, 2)]
    assert [job.job_id for job in jobs] == ids
    assert [job.job_id for job in reversed(jobs)] == ids[::-1]
