"""
Each call of the AiR Jobs API once: what to send, and how to read the answer. Nothing is sent from here.

Both clients are driven by these functions, so they can't drift apart: no other place knows a path, a
header or a field name of the API.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from airflow_wasabi_jobs import __version__
from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.api.models import Job, JobReport, JobStatus

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

LONGEST_PAGE = 100

_SHOWN = 200
_LONGEST_PAUSE = 1e9  # "inf" is a number too, but not one that JSON can carry


class Call(msgspec.Struct, Generic[T], frozen=True):
    """
    One thing to ask the API.

    :param subject: what is asked for, as it reads in a message.
    :param path: the path behind the base URL, encoded, with its query.
    :param read: makes the result of the body of a 200. Raises ``ValueError`` if the body is not what was promised.
    :param missing: what to do about a 404.
    """

    subject: str
    path: str
    read: Callable[[bytes], T]
    missing: str


class Answer(msgspec.Struct, frozen=True):
    """
    What came back.

    :param status_code: the HTTP status.
    :param headers: the headers, found whatever their case.
    :param body: the whole body.
    """

    status_code: int
    headers: Mapping[str, str]
    body: bytes


def job_status(job_id: str) -> Call[JobReport]:
    """
    Ask where a job stands: *Get job status*, ``GET /jobs/{Id}/status``.

    :param job_id: the job's id.
    """
    return Call(
        subject=f"the status of job {job_id!r}",
        path=f"/jobs/{quote(job_id, safe='')}/status",
        read=lambda body: _read_report(job_id, body),
        missing="Check the job id, and that the job was submitted with the account of this connection.",
    )


def list_jobs(
    *, status: JobStatus | None = None, page_number: int = 1, page_size: int = LONGEST_PAGE
) -> Call[list[Job]]:
    """
    Ask for one page of the account's jobs, newest first: ``GET /jobs``.

    :param status: only jobs of this status. Default: all.
    :param page_number: which page, from 1.
    :param page_size: how many jobs at most, 1 to 100. A page with fewer is the last one.
    """
    # The page's size is always sent: the documentation names two defaults. Newest first, so that a job
    # that begins meanwhile moves others to where they are seen twice, and not to where they are missed.
    query = {"pageNumber": page_number, "pageSize": page_size, "sortBy": "Created", "sortOrder": "Desc"}
    if status is not None:
        query["status"] = status.value
    return Call(
        subject="a list of jobs",
        path=f"/jobs?{urlencode(query)}",
        read=_read_list,
        missing="This is not the address of an AiR Jobs API: check the host, and the path behind it.",
    )


def headers(settings: Settings) -> dict[str, str]:
    """Return the headers of every request: the keys, as the API wants them, and what is accepted."""
    return {
        "x-amz-access-key": settings.access_key,
        "x-amz-secret-key": settings.secret_key,
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": f"airflow-wasabi-jobs/{__version__}",
    }


def read(settings: Settings, call: Call[T], answer: Answer) -> T:
    """
    Make the result of an answer.

    :raises AirError: if the answer is a refusal, or not what the API promises.
    """
    if answer.status_code != 200:
        raise _refusal(settings, call, answer)
    try:
        return call.read(answer.body)
    except (ValueError, msgspec.MsgspecError, RecursionError) as cause:
        shown = _shown(settings, answer.body.decode(errors="replace"))
        error = errors.UnexpectedAnswer(
            message(
                settings,
                call,
                f"the answer is not what the API promises ({settings.scrub(str(cause))}). It begins with: {shown!r}",
                "Check that host is the address of an AiR Jobs API, and nothing in between answers in its place.",
            ),
            status_code=answer.status_code,
            text=shown,
        )
        raise error from clean(settings, cause)


def message(settings: Settings, call: Call[T], what: str, advice: str) -> str:
    """Put the message of an error together: about which call on which connection, what happened, what to do."""
    return f"Asked for {call.subject} on {settings.name} at {settings.base_url}: {what}. {advice}"


def clean(settings: Settings, cause: BaseException | None) -> BaseException | None:
    """Return the cause of an error without the links that quote a key, be it only in their repr."""
    if cause is None:
        return None
    deeper = cause.__cause__ or cause.__context__
    shown = f"{cause!r} {cause}"
    if settings.scrub(shown) != shown or clean(settings, deeper) is not deeper:
        return clean(settings, deeper)
    return cause


class _ReportBody(msgspec.Struct):
    Status: str
    Id: str | int | None = None
    ErrorCount: int | None = 0


class _JobBody(msgspec.Struct):
    Id: str | int
    Status: str


class _ListBody(msgspec.Struct):
    Records: list[_JobBody]


class _ErrorBody(msgspec.Struct):
    Error: str | None = None
    ErrorCode: str | None = None


def _read_report(job_id: str, body: bytes) -> JobReport:
    report = msgspec.json.decode(body, type=_ReportBody)
    if report.Id is not None and str(report.Id) != job_id:
        raise ValueError("its Id is that of another job")
    try:
        status = JobStatus(report.Status)
    except ValueError:
        # Without its cause, which quotes the answer before the keys are taken out of it.
        raise ValueError("its Status is none that is known") from None
    error_count = report.ErrorCount or 0
    if error_count < 0:
        raise ValueError("its ErrorCount is negative")
    return JobReport(job_id=job_id, status=status, error_count=error_count)


def _read_list(body: bytes) -> list[Job]:
    records = msgspec.json.decode(body, type=_ListBody).Records
    return [Job(job_id=str(record.Id), status=_KNOWN.get(record.Status)) for record in records]


_KNOWN = {status.value: status for status in JobStatus}


def _refusal(settings: Settings, call: Call[T], answer: Answer) -> errors.AirError:
    code = answer.status_code
    kind: type[errors.AirError]
    match code:
        case 401:
            kind, advice = errors.Unauthorized, "Check the access key (login) and the secret key (password)."
        case 403:
            kind = errors.Forbidden
            advice = "The user of these keys needs the IAM policy WasabiViewAiR."
        case 404:
            kind, advice = errors.NotFound, call.missing
        case 407:
            kind = errors.Refusal
            advice = "Put the proxy's user and password into 'proxy' in the connection's extra."
        case 429:
            kind, advice = errors.TooManyRequests, "Ask less often: raise poke_interval."
        case _ if code in {408, 425} or code >= 500:
            kind, advice = errors.ServerTrouble, "This is the API's own trouble, and it may pass."
        case _ if 300 <= code < 400:
            kind = errors.Redirected
            advice = "It is not followed, for the keys would go along. Put the address itself into host."
        case _ if 400 <= code < 500:
            kind, advice = errors.Refusal, "Asking again will not help."
        case _:
            kind = errors.UnexpectedAnswer
            advice = "The API promises a 200: check that host is the address of an AiR Jobs API."
    error_code, text = _read_error(settings, answer)
    said = " ".join(filter(None, (str(code), error_code, text and repr(text))))
    return kind(
        message(settings, call, f"the answer is {said}", advice),
        status_code=code,
        error_code=error_code,
        text=text,
        retry_after=_retry_after(answer.headers),
    )


def _read_error(settings: Settings, answer: Answer) -> tuple[str | None, str | None]:
    try:
        body = msgspec.json.decode(answer.body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None, _shown(settings, answer.body.decode(errors="replace")) or None
    return _shown(settings, body.ErrorCode or "") or None, _shown(settings, body.Error or "") or None


def _shown(settings: Settings, text: str) -> str:
    # Scrubbed before it is cut: a key at the cut would no longer be found. And nothing that can't be printed: it
    # travels in a trigger's event, and PostgreSQL takes no NUL.
    text = settings.scrub(" ".join(text.split()))
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)[:_SHOWN]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return None if math.isnan(seconds) else min(max(0.0, seconds), _LONGEST_PAUSE)
