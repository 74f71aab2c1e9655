"""Where the AiR Jobs API is, with which keys and how patiently it is asked, and the checks on all that."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from airflow_wasabi_jobs.api.errors import InvalidSettings

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]
_Tries = Annotated[int, msgspec.Meta(ge=0, le=10)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    How the API is asked.

    :param connect_timeout: seconds until the connection must stand.
    :param read_timeout: seconds until the whole answer must be here, once it was asked for.
    :param retries: how many more times a request is tried within one look.
    :param verify: whether the server's certificate is verified, or the path of the CA bundle to verify it with.
    :param allow_http: whether plain ``http`` may be used beyond this machine. The keys are readable on the way then.
    :param proxy: the URL of the proxy to go through.
    """

    connect_timeout: _Seconds = 5.0
    read_timeout: _Seconds = 30.0
    retries: _Tries = 3
    verify: bool | str = True
    allow_http: bool = False
    proxy: str | None = None

    def __repr__(self) -> str:
        return "Options(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


_MUST_BE = {
    "connect_timeout": "a number of seconds, more than 0 and at most 600",
    "read_timeout": "a number of seconds, more than 0 and at most 600",
    "retries": "a whole number from 0 to 10",
    "verify": "true, false, or the path of a CA bundle",
    "allow_http": "true or false",
    "proxy": "the URL of a proxy",
}


class Settings(msgspec.Struct, frozen=True):
    """
    All that a client needs to know. Made by :func:`check`.

    :param name: what to call these settings in a message, such as "connection 'wasabi_default'".
    :param base_url: scheme, host, port and path prefix, without a slash at the end.
    :param access_key: the access key.
    :param secret_key: the secret key.
    :param options: how the API is asked.
    """

    name: str
    base_url: str
    access_key: str
    secret_key: str
    options: Options

    def __repr__(self) -> str:
        return f"Settings(name={self.name!r}, base_url={self.base_url!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name), ("base_url", self.base_url)]

    @property
    def look_timeout(self) -> float:
        """How many seconds one look may take, its retries and the waits between them included."""
        return self.options.connect_timeout + 2 * self.options.read_timeout

    def scrub(self, text: str, others: tuple[str, ...] = ()) -> str:
        """Take the keys, and other secrets, out of a text from elsewhere, however they are escaped in it."""
        secrets = {self.access_key, self.secret_key, *others}
        if self.options.proxy:
            proxy = urlsplit(self.options.proxy)
            secrets |= {proxy.password or "", proxy.netloc.rpartition("@")[0]}
        secrets |= {unquote(secret) for secret in secrets}
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = re.sub("".join(map(_spellings, secret)), "***", text)
        return text


def _spellings(char: str) -> str:
    """A pattern of how a character may be written: as it is, or escaped for a URL, for JSON or for HTML."""
    if char.isalnum():
        return char
    code, plain = ord(char), re.escape(char)
    return rf"(?:\\?{plain}|(?i:%{code:02x}|\\u{code:04x}|&#0*{code};|&#x0*{code:x};))"


def check(
    *,
    name: str,
    host: str | None,
    access_key: str | None,
    secret_key: str | None,
    port: int | None = None,
    path: str | None = None,
    extra: str | None = None,
) -> Settings:
    """
    Make settings of what somebody typed in, or say what is wrong with it.

    :param name: what to call the settings in a message.
    :param host: host name or URL of the API, with or without scheme, port and path prefix.
    :param access_key: the access key.
    :param secret_key: the secret key.
    :param port: the port, where ``host`` does not name it.
    :param path: the path prefix, or the rest of it after the one in ``host``.
    :param extra: the :class:`Options` as a JSON object. A value may be text that means a number or a
        boolean; null and the empty text count as absent.
    :raises InvalidSettings: if anything of it can't be used, naming the field. Never shows a key.
    """
    options = _options(name, extra)
    return Settings(
        name=name,
        base_url=_base_url(name, options, host, port, path),
        access_key=_key(name, "access key (login)", access_key),
        secret_key=_key(name, "secret key (password)", secret_key),
        options=options,
    )


def _key(name: str, field: str, key: str | None) -> str:
    key = (key or "").strip()
    if not key:
        raise InvalidSettings(f"There is no {field} in {name}. Both keys of a Wasabi user are needed: put it in.")
    if not re.fullmatch(r"[!-~]+", key):
        raise InvalidSettings(
            f"The {field} of {name} holds a character that can't be in a key (white space or not ASCII). "
            "Copy it from the Wasabi console again."
        )
    return key


def _options(name: str, extra: str | None) -> Options:
    try:
        given = msgspec.json.decode(extra or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # Without its cause: the error of the decoder may quote the extra, and so what is secret in it.
        raise InvalidSettings(
            f'The extra of {name} is not a JSON object. Write it like this: {{"read_timeout": 60}}.'
        ) from None
    given = {key: value for key, value in given.items() if value is not None and value != ""}
    if isinstance(given.get("verify"), str):
        given["verify"] = _as_bool(given["verify"])
    options = Options()
    for key, value in given.items():
        if key not in Options.__struct_fields__:
            known = ", ".join(Options.__struct_fields__)
            raise InvalidSettings(f"The extra of {name} has an unknown key {key!r}. Known are: {known}.")
        try:
            options = msgspec.convert({**msgspec.structs.asdict(options), key: value}, Options, strict=False)
        except msgspec.ValidationError:
            # Without its cause, which says the same in the words of a type checker.
            raise InvalidSettings(
                f"The {key!r} in the extra of {name} can't be used: it must be {_MUST_BE[key]}."
            ) from None
    if options.proxy is not None:
        _check_proxy(name, options.proxy)
    return options


def _as_bool(text: str) -> bool | str:
    try:
        return msgspec.convert(text, bool, strict=False)
    except msgspec.ValidationError:
        return text


def is_proxy(proxy: str) -> bool:
    """Whether this is the URL of a proxy that both clients can use."""
    try:
        url = urlsplit(proxy)
        return url.scheme in {"http", "https"} and bool(_hostname(url.hostname)) and url.port != 0
    except ValueError:
        return False


def _check_proxy(name: str, proxy: str) -> None:
    if not is_proxy(proxy):
        # The value is not shown: a proxy's URL may hold a password.
        raise InvalidSettings(
            f"The 'proxy' in the extra of {name} is not the URL of a proxy. "
            "Write it like http://proxy.example.com:3128."
        )


def _base_url(name: str, options: Options, host: str | None, port: int | None, path: str | None) -> str:
    host = (host or "").strip()
    if not host:
        raise InvalidSettings(
            f"There is no host in {name}. Put in the base URL of the AiR API that Wasabi gave you, "
            "like https://air.example.com: it has no default."
        )
    if path in {"http", "https"}:
        raise InvalidSettings(
            f"The schema of {name} is {path!r}, but here it is the path in front of /jobs. "
            f"Leave it empty, and write the scheme in front of the host: {path}://…"
        )
    if "://" not in host and re.match(r"https?([:/]|$)", host, re.IGNORECASE):
        raise InvalidSettings(f"The host of {name} begins with a scheme, but it must be https://, with two slashes.")
    try:
        url = urlsplit(_with_scheme(host))
        url_port = url.port
        hostname = _hostname(url.hostname)
    except ValueError:
        # Without its cause, which quotes what stands where a port should: it may be a key.
        raise InvalidSettings(f"The host of {name} is not a URL. Write it like https://air.example.com.") from None
    if "@" in host:
        raise InvalidSettings(
            f"The host of {name} holds a user or a password. The keys belong into login and password."
        )
    if url.scheme not in {"http", "https"} or not hostname or re.search(r"[\s?#\\]", host):
        raise InvalidSettings(
            f"The host of {name} can't be used. Write scheme, host name and, if there are any, port and path, "
            "like https://air.example.com:8443/prefix."
        )
    if url_port is not None and port is not None and url_port != port:
        raise InvalidSettings(f"The host of {name} names port {url_port}, its port field {port}. Keep one of them.")
    port = port if port is not None else url_port
    if port is not None and not 0 < port < 65536:
        raise InvalidSettings(f"The port {port} of {name} can't be used: a port is between 1 and 65535.")
    if url.scheme == "http" and not options.allow_http and (options.proxy or not is_loopback(hostname)):
        raise InvalidSettings(
            f"The host of {name} is plain http, so everybody on the way to it could read the keys. "
            "Write https:// in front of it. "
            'If the network is your own, put {"allow_http": true} into the extra.'
        )
    hostname = f"[{hostname}]" if ":" in hostname else hostname
    prefix = "/".join(filter(None, (part.strip("/") for part in (url.path, path or ""))))
    return (
        f"{url.scheme}://{hostname}"
        + (f":{port}" if port is not None else "")
        + (f"/{quote(prefix, safe='/%')}" if prefix else "")
    )


def _hostname(hostname: str | None) -> str | None:
    """Return a host name as it is looked up, or ``None`` if no host can have it. Raises ``ValueError`` likewise."""
    if hostname is None or ":" in hostname:
        return hostname
    hostname = hostname.encode("idna").decode()
    return hostname if re.fullmatch(r"[A-Za-z0-9._-]+", hostname) else None


def _with_scheme(host: str) -> str:
    if "://" in host:
        return host
    try:
        return f"https://[{IPv6Address(host)}]"
    except ValueError:
        return f"https://{host}"


def is_loopback(hostname: str) -> bool:
    """Whether a host name or address can only be this machine."""
    if hostname == "localhost":
        return True
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return False
