"""What an answer means beyond what was asked: a refusal, an answer that was not promised, and how to say so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from airflow_wasabi_jobs.api import errors

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.calls import Call
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")

_SHOWN = 200
_LONGEST_PAUSE = 1e9  # "inf" is a number too, but not one that JSON can carry


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


def read(settings: Settings, call: Call[T], answer: Answer) -> T:
    """
    Make the result of an answer.

    :raises AirError: if the answer is a refusal, or not what the API promises.
    """
    if answer.status_code != 200:
        raise _refusal(settings, call, answer)
    try:
        return call.read(answer.body, lambda text: settings.scrub(text, call.secrets))
    except (ValueError, msgspec.MsgspecError, RecursionError) as cause:
        shown = _shown(settings, call, answer.body.decode(errors="replace"))
        error = errors.UnexpectedAnswer(
            message(
                settings,
                call,
                f"the answer is not what the API promises ({_shown(settings, call, str(cause))}). "
                f"It begins with: {shown!r}",
                "Check that host is the address of an AiR Jobs API, and nothing in between answers in its place.",
            ),
            status_code=answer.status_code,
            text=shown,
        )
        raise error from clean(settings, call, cause)


def message(settings: Settings, call: Call[T], what: str, advice: str) -> str:
    """Put the message of an error together: about which call on which connection, what happened, what to do."""
    return f"Asked for {call.subject} on {settings.name} at {settings.base_url}: {what}. {advice}"


def clean(settings: Settings, call: Call[T], cause: BaseException | None) -> BaseException | None:
    """Return the cause of an error without the links that quote a key, be it only in their repr."""
    if cause is None:
        return None
    deeper = cause.__cause__ or cause.__context__
    shown = f"{cause!r} {cause}"
    if settings.scrub(shown, call.secrets) != shown or clean(settings, call, deeper) is not deeper:
        return clean(settings, call, deeper)
    return cause


def legible(text: str) -> str:
    """Return the beginning of a scrubbed text, on one line, without what can't be printed or stored."""
    # It travels in a trigger's event, and PostgreSQL takes no NUL.
    line = " ".join(text.split())[:_SHOWN]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


class _ErrorBody(msgspec.Struct):
    Error: str | None = None
    ErrorCode: str | None = None


def _refusal(settings: Settings, call: Call[T], answer: Answer) -> errors.AirError:
    code = answer.status_code
    kind: type[errors.AirError]
    match code:
        case 401:
            kind, advice = errors.Unauthorized, "Check the access key (login) and the secret key (password)."
        case 403:
            kind = errors.Forbidden
            advice = f"The user of these keys needs the IAM policy {call.policy}."
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
    error_code, text = _read_error(settings, call, answer)
    said = " ".join(filter(None, (str(code), error_code, text and repr(text))))
    return kind(
        message(settings, call, f"the answer is {said}", advice),
        status_code=code,
        error_code=error_code,
        text=text,
        retry_after=_retry_after(answer.headers),
    )


def _read_error(settings: Settings, call: Call[T], answer: Answer) -> tuple[str | None, str | None]:
    try:
        body = msgspec.json.decode(answer.body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None, _shown(settings, call, answer.body.decode(errors="replace")) or None
    return _shown(settings, call, body.ErrorCode or "") or None, _shown(settings, call, body.Error or "") or None


def _shown(settings: Settings, call: Call[T], text: str) -> str:
    # Scrubbed before it is cut: a key at the cut would no longer be found.
    return legible(settings.scrub(text, call.secrets))


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
