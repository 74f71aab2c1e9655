"""What the environment of the process decides about a connection: the proxy and the CA bundle."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import urllib3.util
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, prepend_scheme_if_needed, select_proxy

from airflow_wasabi_jobs.api.exceptions import ConnectionConfigError
from airflow_wasabi_jobs.api.settings import Settings, is_loopback, is_proxy_url


class CaBundle(NamedTuple):
    """The path of the CA bundle, or None if certificates are not verified, and where the path is set."""

    path: str | None
    origin: str


def with_environment_proxy(settings: Settings) -> Settings:
    """
    Return settings with the proxy of the environment, unless they have a proxy or the host is this machine.

    The proxy becomes part of the settings so that its password is redacted like all their secrets.
    """
    if settings.options.proxy or is_loopback(urlsplit(settings.base_url).hostname or ""):
        return settings
    proxy = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
    if not proxy:
        return settings
    try:
        url = str(prepend_scheme_if_needed(proxy, "http"))  # type: ignore[no-untyped-call] # not in the stubs
    except ValueError:
        url = ""
    if not is_proxy_url(url):
        raise ConnectionConfigError(
            f"The proxy of the environment cannot be used for {settings.name}: its URL must begin with http:// or "
            "https://. Set 'proxy' in the connection's extra, or add the host to NO_PROXY."
        )
    return msgspec.structs.replace(settings, options=msgspec.structs.replace(settings.options, proxy=url))


def find_ca_bundle(settings: Settings) -> CaBundle:
    """Return the CA bundle of the connection, of the environment, or of certifi."""
    verify = settings.options.verify
    if verify is not True:
        return CaBundle(verify or None, "'verify' in the connection's extra")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(name):
            return CaBundle(path, f"the environment variable {name}")
    return CaBundle(DEFAULT_CA_BUNDLE_PATH, "the package certifi")


def create_ssl_context(settings: Settings) -> ssl.SSLContext | bool:
    """Return the context that verifies certificates, or False if they are not verified."""
    path, origin = find_ca_bundle(settings)
    if path is None:
        return False
    try:
        return _load_ca_bundle(path, Path(path).stat().st_mtime_ns)
    except OSError as cause:
        raise ConnectionConfigError(
            f"The CA bundle {path!r} of {settings.name} cannot be read ({cause.strerror or cause}). It is set in "
            f"{origin}. Set it to the path of a PEM file on this machine."
        ) from cause


@functools.lru_cache(maxsize=8)
def _load_ca_bundle(path: str, _modified: int) -> ssl.SSLContext:
    context = urllib3.util.create_urllib3_context()
    if Path(path).is_dir():
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)
    return context
