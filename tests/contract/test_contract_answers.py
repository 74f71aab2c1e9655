"""The client against the description of the API: all is understood, and nothing is taken for something else."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import described
import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from airflow_wasabi_jobs.api import answers, calls, errors
from airflow_wasabi_jobs.api.models import Destination, JobStatus, Source, Submission
from airflow_wasabi_jobs.api.settings import check

ACCESS_KEY, SECRET_KEY = "AKIA-of-the-contract", "secret/of+the=contract"
SETTINGS = check(name="connection 'w'", host="https://air.example.com", access_key=ACCESS_KEY, secret_key=SECRET_KEY)
SUBMISSION = Submission(
    name="a job",
    source=Source(bucket="media", object_key="a.mp4"),
    destination=Destination(bucket="results", region="us-east-1"),
    services={"ocr": ""},
)


class Asked(NamedTuple):
    """
    One way to ask.

    :param schema: what the description calls the answer.
    :param call: makes the call, of the id that is asked for.
    :param told: finds what the answer tells about in its body.
    :param read: the fields that are read. Default: all.
    """

    schema: str
    call: Callable[[str], calls.Call[Any]]
    told: Callable[[Any], Any] = lambda body: body
    read: frozenset[str] | None = None


STATE = frozenset({"Records", "Id", "Status", "Name", "Batch"})
ASKED = {
    "the status": Asked("Report", calls.job_status),
    "the errors": Asked("Errors", calls.job_errors),
    "the metadata": Asked("Metadata", calls.job_metadata),
    "a job": Asked("Job", calls.job),
    "a list": Asked("Page", lambda _: calls.list_jobs(), lambda body: body["Records"]),
    "a list of states": Asked("Page", lambda _: calls.list_states(), lambda body: body["Records"], STATE),
    "a batch": Asked("Page", calls.list_batch, lambda body: body["Records"], STATE),
    "a submission": Asked("Submitted", lambda _: calls.submit_job(SUBMISSION), lambda body: body["Job"]),
}
ABOUT_ONE_JOB = [ASKED[name] for name in ("the status", "the errors", "the metadata", "a job")]
NAMES = {"job_id": "Id", "path": "DestinationPath"}
each_way = pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)


def ask(asked: Asked, body: bytes, *, job_id: str = "12345", status_code: int = 200, **headers: str) -> Any:
    return answers.read(SETTINGS, asked.call(job_id), answers.Answer(status_code, headers, body))


def is_told(understood: Any, told: Any, asked_id: str) -> bool:
    """Whether all that was understood is what was told, and nothing of it was passed over."""
    match understood:
        case list():
            return len(understood) == len(told) and all(map(is_told, understood, told, [asked_id] * len(told)))
        case msgspec.Struct():
            return all(
                is_told_as(name, getattr(understood, name), (told or {}).get(field), asked_id)
                for name in understood.__struct_fields__
                for field in [NAMES.get(name) or name.title().replace("_", "")]
            )
        case datetime():
            return understood == datetime.fromisoformat(told)
    return json.dumps(understood) == json.dumps(told)


def is_told_as(name: str, understood: Any, told: Any, asked_id: str) -> bool:
    match name:
        case "job_id":
            return understood in ({asked_id} if told is None else {str(told), str(told).strip()})
        case "status" if understood is None:  # in a list
            return told not in set(JobStatus)
        case "error_count":
            return is_told(understood, told or 0, asked_id)
        case "error_code":
            return is_told(understood, answers.legible(told or "") or None, asked_id)
    return is_told(understood, told, asked_id)


def written(body: Any, *, ascii_only: bool = False, indent: int | None = None) -> bytes:
    return json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode()


@each_way
def test_what_is_described_is_understood(asked: Asked) -> None:
    @given(described.answers(asked.schema), st.booleans(), st.sampled_from([None, 2]))
    def check(body: Any, ascii_only: bool, indent: int | None) -> None:
        assert described.judge(asked.schema).is_valid(body)
        job_id = body.get("Id", "12345")

        understood = ask(asked, written(body, ascii_only=ascii_only, indent=indent), job_id=job_id)

        assert is_told(understood, asked.told(body), job_id)

    check()


@st.composite
def damaged(draw: Any, whole: st.SearchStrategy[Any]) -> bytes:
    """An answer as described, of which some bytes are not what they were."""
    body = bytearray(written(draw(whole)))
    start = draw(st.integers(0, len(body) - 1))
    body[start : draw(st.integers(start, len(body)))] = draw(st.binary(max_size=8))
    return bytes(body)


def anything(schema: str) -> st.SearchStrategy[bytes]:
    whole = described.answers(schema)
    return st.one_of(st.binary(), described.JSON.map(written), whole.map(written), damaged(whole))


@each_way
def test_what_is_understood_is_what_was_told(asked: Asked) -> None:
    @settings(max_examples=100)
    @given(anything(asked.schema), described.IDS)
    @example(b"[" * 10**5, "12345")
    @example(b'{"Records":' * 10**5, "12345")
    @example(b'{"Id": "12345", "Status": "in_progress", "Status": "completed"}', "12345")
    @example('{"Status": "completed"}'.encode("utf-16"), "12345")
    def check(body: bytes, job_id: str) -> None:
        assert is_refused_or_told(asked, body, job_id)

    check()


def is_refused_or_told(asked: Asked, body: bytes, job_id: str = "12345") -> bool:
    """Whether an answer is either refused in the one way there is, or understood as what it tells."""
    try:
        understood = ask(asked, body, job_id=job_id)
    except errors.UnexpectedAnswer:
        return True
    told = json.loads(body.decode(errors="surrogateescape"))
    return described.lenient_judge(asked.schema, asked.read).is_valid(told) and is_told(
        understood, asked.told(told), job_id
    )


JOB = {
    "Id": "12345",
    "Name": "talk",
    "Source": {"Endpoint": "https://s3.example.com", "Bucket": "media", "Region": "us-east-1", "ObjectKey": "talk.mp4"},
    "Services": {"ocr": ""},
    "UserId": "arn:aws:iam::100000000000:user/somebody",
    "Created": "2024-11-13T07:11:51.658Z",
    "Completed": "2024-11-13T07:12:51.658Z",
    "Priority": 5,
    "Batch": "12345",
    "Status": "completed",
    "Destination": {"Bucket": "results", "Region": "us-east-1"},
}
FULL = {
    "Report": {"Id": "12345", "Status": "completed", "ErrorCount": 3},
    "Errors": {"Id": "12345", "Status": "failed", "ErrorCount": 3, "ErrorCode": "INTERNAL_ERROR"},
    "Metadata": {
        "Id": "12345",
        "UserId": "somebody",
        "Destination": {"Bucket": "results", "Region": "us-east-1"},
        "DestinationPath": "s3://results/jobs/2025_04_29/12345/talk_metadata.json",
    },
    "Job": JOB,
    "Page": {"Records": [{**JOB, "Id": "1"}, JOB]},
    "Submitted": {"Job": JOB},
}
WRONG = [None, True, -1, 0, 2.0, 2.5, 10**30, "", " ", "3", "None", "null", "paused", "COMPLETED", "completed ", [], {}]


def places(body: Any) -> list[tuple[Any, Any]]:
    """All the places in some JSON, each as what holds it and the key or index there."""
    keys = body.keys() if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ()
    return [place for key in keys for place in [(body, key), *places(body[key])]]


@each_way
def test_what_is_wrong_in_one_place_is_not_taken_for_something_else(asked: Asked) -> None:
    whole = copy.deepcopy(FULL[asked.schema])
    assert described.judge(asked.schema).is_valid(whole)
    for holder, key in places(whole):
        right = holder[key]
        for wrong in WRONG:
            holder[key] = wrong
            assert is_refused_or_told(asked, written(whole)), (key, wrong)
        del holder[key]
        assert is_refused_or_told(asked, written(whole)), key
        holder.insert(key, right) if isinstance(holder, list) else holder.update({key: right})


@given(st.sampled_from(ABOUT_ONE_JOB), described.IDS, described.IDS, st.data())
def test_an_answer_about_another_job_is_an_error(asked: Asked, job_id: str, other_id: str, data: Any) -> None:
    assume(other_id != job_id)
    body = data.draw(described.answers(asked.schema))

    with pytest.raises(errors.UnexpectedAnswer, match="another job"):
        ask(asked, written({**body, "Id": other_id}), job_id=job_id)


@settings(max_examples=150)
@given(
    st.sampled_from(list(ASKED.values())),
    st.integers(100, 999).filter(lambda code: code != 200),
    st.none() | st.text() | st.floats().map(str) | st.sampled_from(["nan", "inf", "-inf", "-1", "1e999", "soon"]),
    st.data(),
)
def test_only_a_200_is_an_answer(asked: Asked, status_code: int, retry_after: str | None, data: Any) -> None:
    body = data.draw(anything(asked.schema) | described.answers("Error").map(written))

    with pytest.raises(errors.AirError) as caught:
        ask(asked, body, status_code=status_code, **({} if retry_after is None else {"Retry-After": retry_after}))

    error = caught.value
    assert error.status_code == status_code
    assert error.is_passing == (status_code in {408, 425, 429} or status_code >= 500)
    assert error.retry_after is None or (error.retry_after >= 0 and math.isfinite(error.retry_after))


@settings(max_examples=150)
@given(
    st.sampled_from(list(ASKED.values())),
    st.integers(200, 599),
    st.lists(st.sampled_from([ACCESS_KEY, SECRET_KEY, "\0", "\ud800"]) | st.text(), max_size=8).map("".join),
    st.booleans(),
)
def test_an_error_travels_and_tells_no_key(asked: Asked, status_code: int, words: str, is_json: bool) -> None:
    body = written({"Error": words, "ErrorCode": words}, ascii_only=True) if is_json else words.encode(errors="replace")

    with pytest.raises(errors.AirError) as caught:
        ask(asked, body, status_code=status_code)

    event = errors.to_event(caught.value)
    shown = "".join(value for value in event.values() if isinstance(value, str)).encode()
    assert not any(hidden in shown for hidden in (ACCESS_KEY.encode(), SECRET_KEY.encode(), b"\0"))
    arrived = errors.from_event(json.loads(json.dumps(event)))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(caught.value), str(caught.value), vars(caught.value))
