"""
All that can go wrong between this package and the AiR Jobs API.

::

    AirError
    ├── InvalidSettings        the settings can't be used: nothing was sent
    ├── Refusal                an answer came, and it is a no
    │   ├── Redirected           3xx: never followed, the keys would go along
    │   ├── Unauthorized         401: the keys were not accepted
    │   ├── Forbidden            403: the keys are not allowed to do this
    │   ├── NotFound             404: no such job, or no such API
    │   ├── TooManyRequests    * 429
    │   └── ServerTrouble      * 5xx, 408, 425
    ├── UnexpectedAnswer       an answer came that is not what the API promises
    └── NoAnswer               no whole answer came, and asking again will not help
        └── PassingNoAnswer    * refused, reset, timed out, cut short, name server busy

Those with a star are *passing trouble* (:attr:`AirError.is_passing`): they say nothing about the job
and end no wait. The others are for a person to see.

None derives from ``AirflowException``: Airflow takes those for the answer that a sensor waited for
and skips them with ``soft_fail``, but a wait that can't be asked for must be seen.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AirError(Exception):
    """
    Something went wrong while asking the AiR Jobs API.

    :param message: what happened, to which job and connection, and what to do next.
    :param status_code: the HTTP status of the answer, if one came.
    :param error_code: the ``ErrorCode`` of the answer, such as ``NOT_FOUND``.
    :param text: what the answer said: its ``Error``, or else the beginning of its body.
    :param retry_after: how many seconds the answer asked to wait before the next request.
    """

    is_passing: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        error_code: str | None = None,
        text: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.error_code = error_code
        self.text = text
        self.retry_after = retry_after


class InvalidSettings(AirError):
    """The settings can't be used as they are. Nothing was sent."""


class Refusal(AirError):
    """The API, or something in front of it, answered that it will not do what was asked."""


class Redirected(Refusal):
    """The answer points to another address. It is not followed: the keys would be sent there."""


class Unauthorized(Refusal):
    """The keys were not accepted (401)."""


class Forbidden(Refusal):
    """The keys were accepted, but are not allowed to do this (403)."""


class NotFound(Refusal):
    """There is no such job, or no AiR Jobs API at this address (404)."""


class TooManyRequests(Refusal):
    """The API asks to be asked less often (429). Passing trouble."""

    is_passing = True


class ServerTrouble(Refusal):
    """The API, or something in front of it, is not well at the moment (5xx, 408, 425). Passing trouble."""

    is_passing = True


class UnexpectedAnswer(AirError):
    """The answer is not what the API promises: not JSON, another job, an unknown status, too long."""


class NoAnswer(AirError):
    """No whole answer came, and none will: the certificate does not verify, there is no such host."""


class PassingNoAnswer(NoAnswer):
    """No whole answer came this time: refused, reset, timed out or cut short. Passing trouble."""

    is_passing = True


def to_event(error: AirError) -> dict[str, Any]:
    """Write an error down as a plain dict, for a trigger's event."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "status_code": error.status_code,
        "error_code": error.error_code,
        "text": error.text,
        "retry_after": error.retry_after,
    }


def from_event(event: dict[str, Any]) -> AirError:
    """Make the error again that :func:`to_event` wrote down, as an instance of the same class."""
    details = dict(event)
    kinds = {kind.__name__: kind for kind in _family(AirError)}
    kind = kinds.get(details.pop("type"), AirError)
    return kind(details.pop("message"), **details)


def _family(kind: type[AirError]) -> set[type[AirError]]:
    return {kind}.union(*(_family(child) for child in kind.__subclasses__()))
