"""The settings of a client, and their validation."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec

from airflow_wasabi_jobs.api.exceptions import ConnectionConfigError
from airflow_wasabi_jobs.api.redaction import redact

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]
_Retries = Annotated[int, msgspec.Meta(ge=0, le=10)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The options of a connection, as its ``extra`` holds them.

    :param connect_timeout: seconds to wait for the connection to be established. Default: 5.
    :param read_timeout: seconds to wait for the complete response. Default: 30.
    :param retries: how many times to retry a request after a transient error. Default: 3.
    :param verify: whether to verify the server's certificate, or the path of a CA bundle. Default: True.
    :param allow_http: whether unencrypted HTTP is allowed to hosts other than this machine. Default: False.
    :param proxy: the URL of a proxy. Default: the proxy of the environment.
    :param console_url: the URL of an object in a console, with ``{bucket}`` and ``{key}``. Default: none.
    """

    connect_timeout: _Seconds = 5.0
    read_timeout: _Seconds = 30.0
    retries: _Retries = 3
    verify: bool | str = True
    allow_http: bool = False
    proxy: str | None = None
    console_url: str | None = None

    def __repr__(self) -> str:
        return "Options(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


_ALLOWED_VALUES = {
    "connect_timeout": "a number of seconds, more than 0 and at most 600",
    "read_timeout": "a number of seconds, more than 0 and at most 600",
    "retries": "a whole number from 0 to 10",
    "verify": "true, false, or the path of a CA bundle",
    "allow_http": "true or false",
    "proxy": "the URL of a proxy",
    "console_url": "a URL with {bucket} and {key}",
}


class Settings(msgspec.Struct, frozen=True):
    """
    The settings of a client. Made by :func:`build_settings`.

    :param name: how messages refer to the settings, such as ``connection 'wasabi_default'``.
    :param base_url: scheme, host, port and path prefix, without a slash at the end.
    :param access_key: the access key.
    :param secret_key: the secret key.
    :param options: the options of the connection.
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
    def total_timeout(self) -> float:
        """Seconds that one request may take, including its retries and the pauses between them."""
        return self.options.connect_timeout + 2 * self.options.read_timeout

    def redact(self, text: str, more_secrets: tuple[str, ...] = ()) -> str:
        """Remove the keys, the credentials of the proxy, and other secrets from a text."""
        secrets = [self.access_key, self.secret_key, *more_secrets]
        if self.options.proxy:
            proxy = urlsplit(self.options.proxy)
            secrets += [proxy.password or "", proxy.netloc.rpartition("@")[0]]
        return redact(text, secrets)


def build_settings(
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
    Validate the fields of a connection and return them as settings.

    :param name: how messages refer to the settings.
    :param host: host name or base URL of the API, with or without scheme, port and path prefix.
    :param access_key: the access key.
    :param secret_key: the secret key.
    :param port: the port, unless ``host`` has it.
    :param path: the path prefix, appended to the one in ``host``.
    :param extra: the :class:`Options` as a JSON object. Numbers and booleans may be strings; null and the empty string
        count as absent.
    :raises ConnectionConfigError: if a field cannot be used. The message names the field and never shows a key.
    """
    options = _parse_options(name, extra)
    return Settings(
        name=name,
        base_url=_build_base_url(name, options, host, port, path),
        access_key=_validate_key(name, "access key (login)", access_key),
        secret_key=_validate_key(name, "secret key (password)", secret_key),
        options=options,
    )


def _validate_key(name: str, field: str, key: str | None) -> str:
    key = (key or "").strip()
    if not key:
        raise ConnectionConfigError(f"No {field} is set in {name}. Enter both keys of a Wasabi user.")
    if not re.fullmatch(r"[!-~]+", key):
        raise ConnectionConfigError(
            f"The {field} of {name} has a character that a key cannot have (white space or not ASCII). "
            "Copy it from the Wasabi console again."
        )
    return key


def _parse_options(name: str, extra: str | None) -> Options:
    try:
        given = msgspec.json.decode(extra or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # Without its cause: the error of the decoder may quote a secret in the extra.
        raise ConnectionConfigError(
            f'The extra of {name} is not a JSON object. Example: {{"read_timeout": 60}}.'
        ) from None
    given = {key: value for key, value in given.items() if value is not None and value != ""}
    if isinstance(given.get("verify"), str):
        given["verify"] = _as_bool(given["verify"])
    options = Options()
    for key, value in given.items():
        if key not in Options.__struct_fields__:
            allowed = ", ".join(Options.__struct_fields__)
            raise ConnectionConfigError(f"Unknown key {key!r} in the extra of {name}. Allowed: {allowed}.")
        try:
            options = msgspec.convert({**msgspec.structs.asdict(options), key: value}, Options, strict=False)
        except msgspec.ValidationError:
            # Without its cause, which repeats this in terms of Python types.
            raise ConnectionConfigError(f"{key!r} in the extra of {name} must be {_ALLOWED_VALUES[key]}.") from None
    if options.proxy is not None:
        _check_proxy(name, options.proxy)
    if options.console_url is not None:
        _check_console_url(name, options.console_url)
    return options


def _as_bool(text: str) -> bool | str:
    try:
        return msgspec.convert(text, bool, strict=False)
    except msgspec.ValidationError:
        return text


def is_proxy_url(proxy: str) -> bool:
    """Whether both clients can use this URL of a proxy."""
    try:
        url = urlsplit(proxy)
        return url.scheme in {"http", "https"} and bool(_normalize_hostname(url.hostname)) and url.port != 0
    except ValueError:
        return False


def _check_proxy(name: str, proxy: str) -> None:
    if not is_proxy_url(proxy):
        # The value is not shown, because it may hold a password.
        raise ConnectionConfigError(
            f"'proxy' in the extra of {name} is not the URL of a proxy. Example: http://proxy.example.com:3128."
        )


def _check_console_url(name: str, console_url: str) -> None:
    # The value is not shown, because a user may have put a key into it.
    option = f"'console_url' in the extra of {name}"
    if not _is_console_url(console_url):
        raise ConnectionConfigError(
            f"{option} is not the URL of a console. It must begin with https://, and have no user or password. "
            "Example: https://console.example.com/{bucket}/{key}."
        )
    placeholders = set(re.findall(r"\{[^{}]*\}|[{}]", console_url))
    if missing := sorted({"{bucket}", "{key}"} - placeholders):
        raise ConnectionConfigError(f"{option} must contain {' and '.join(missing)} after the host.")
    if len(placeholders) > 2:
        raise ConnectionConfigError(f"{option} has an unknown placeholder. Allowed: {{bucket}}, {{key}}.")


def _is_console_url(console_url: str) -> bool:
    try:
        url = urlsplit(console_url)
        hostname, _ = _normalize_hostname(url.hostname), url.port
    except ValueError:
        return False
    is_allowed = url.scheme == "https" or (url.scheme == "http" and is_loopback(hostname or ""))
    return is_allowed and bool(hostname) and "@" not in url.netloc and not re.search(r"[\s\\]", console_url)


def _build_base_url(name: str, options: Options, host: str | None, port: int | None, path: str | None) -> str:
    host = (host or "").strip()
    if not host:
        raise ConnectionConfigError(
            f"No host is set in {name}. Enter the base URL of the AiR API that Wasabi gave you, "
            "e.g. https://air.example.com. There is no default."
        )
    if path in {"http", "https"}:
        raise ConnectionConfigError(
            f"The schema of {name} is {path!r}, but it must be the path prefix of the API. "
            f"Leave it empty, and put the scheme in the host: {path}://…"
        )
    if "://" not in host and re.match(r"https?([:/]|$)", host, re.IGNORECASE):
        raise ConnectionConfigError(f"The host of {name} has an incomplete scheme. It must begin with https://.")
    try:
        url = urlsplit(_with_scheme(host))
        url_port = url.port
        hostname = _normalize_hostname(url.hostname)
    except ValueError:
        # Without its cause, which quotes what is in place of the port: it may be a key.
        raise ConnectionConfigError(f"The host of {name} is not a URL. Example: https://air.example.com.") from None
    if "@" in host:
        raise ConnectionConfigError(
            f"The host of {name} holds a user or a password. Put the keys in login and password."
        )
    if url.scheme not in {"http", "https"} or not hostname or re.search(r"[\s?#\\]", host):
        raise ConnectionConfigError(
            f"The host of {name} is not a base URL: scheme, host name, and optionally port and path. "
            "Example: https://air.example.com:8443/prefix."
        )
    if url_port is not None and port is not None and url_port != port:
        raise ConnectionConfigError(
            f"The host of {name} has port {url_port}, but its port field has {port}. Keep one of them."
        )
    port = port if port is not None else url_port
    if port is not None and not 0 < port < 65536:
        raise ConnectionConfigError(f"The port of {name} is {port}, but must be between 1 and 65535.")
    if url.scheme == "http" and not options.allow_http and (options.proxy or not is_loopback(hostname)):
        raise ConnectionConfigError(
            f"{name[:1].upper()}{name[1:]} uses unencrypted HTTP, which would expose your keys. Use https://, or put "
            '{"allow_http": true} in the extra if you trust the network.'
        )
    hostname = f"[{hostname}]" if ":" in hostname else hostname
    prefix = "/".join(filter(None, (part.strip("/") for part in (url.path, path or ""))))
    return (
        f"{url.scheme}://{hostname}"
        + (f":{port}" if port is not None else "")
        + (f"/{quote(prefix, safe='/%')}" if prefix else "")
    )


def _normalize_hostname(hostname: str | None) -> str | None:
    """Return a host name in its ASCII form, or ``None`` if it is invalid. Raises ``ValueError`` likewise."""
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
    """Whether a host name or address is that of this machine."""
    if hostname == "localhost":
        return True
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return False
