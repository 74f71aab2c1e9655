"""Makes text from elsewhere safe to show: without secrets, short, and printable."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

MAX_EXCERPT_LENGTH = 200


def redact(text: str, secrets: Iterable[str]) -> str:
    """
    Replace secrets in a text by ``***``, however they are escaped in it.

    :param text: the text.
    :param secrets: the secrets. Empty ones are ignored.
    """
    spellings = {spelling for secret in secrets for spelling in (secret, unquote(secret)) if spelling}
    for secret in sorted(spellings, key=len, reverse=True):
        text = re.sub("".join(map(_escaped_forms, secret)), "***", text)
    return text


def excerpt(text: str) -> str:
    """
    Return the beginning of a text on one line, with unprintable characters replaced.

    Redact the text first: a secret that is cut in two would not be found.
    """
    # The text travels in a trigger's event, and PostgreSQL accepts no NUL.
    line = " ".join(text.split())[:MAX_EXCERPT_LENGTH]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def _escaped_forms(char: str) -> str:
    """Return a pattern for a character as it is, and escaped for a URL, for JSON or for HTML."""
    if char.isalnum():
        return char
    code, plain = ord(char), re.escape(char)
    return rf"(?:\\?{plain}|(?i:%{code:02x}|\\u{code:04x}|&#0*{code};|&#x0*{code:x};))"
