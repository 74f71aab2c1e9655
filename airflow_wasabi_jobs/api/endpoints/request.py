"""A request to the AiR Jobs API, before a client sends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

Redact = Callable[[str], str]


class Request(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """
    One request.

    :param error_prefix: how the message of an error begins, such as ``Job '12345'``.
    :param path: the path after the base URL, percent-encoded, with its query.
    :param parse_body: makes the result of the body of a 200. Its second argument redacts the keys in a text. Raises
        ``ValueError`` if the body is not what the API documents.
    :param not_found_advice: what to do about a 404.
    :param body: the JSON to send. A request with a body is a ``POST``, which is never sent twice.
    :param policy: the IAM policy that the user of the keys needs.
    :param secrets: what is secret in the body.
    """

    error_prefix: str
    path: str
    parse_body: Callable[[bytes, Redact], T]
    not_found_advice: str
    body: bytes | None = None
    policy: str = "WasabiViewAiR"
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Request({self.method!r}, {self.path!r})"

    def __rich_repr__(self) -> list[Any]:
        return [self.method, self.path]

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.body is None else "POST"
