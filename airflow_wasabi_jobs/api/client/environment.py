"""What the machine's environment decides about a connection: the proxy, and whose certificates are trusted."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import urllib3.util
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, prepend_scheme_if_needed, select_proxy

from airflow_wasabi_jobs.api import errors
from airflow_wasabi_jobs.api.settings import Settings, is_loopback, is_proxy


class CaBundle(NamedTuple):
    """The CA bundle to verify a certificate with, if it is verified, and where it is set."""

    path: str | None
    named_in: str


def proxy(settings: Settings) -> str | None:
    """Return the URL of the proxy to go through, if there is one."""
    if settings.options.proxy:
        return settings.options.proxy
    if is_loopback(urlsplit(settings.base_url).hostname or ""):
        return None
    named = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
    if not named:
        return None
    try:
        url = str(prepend_scheme_if_needed(named, "http"))  # type: ignore[no-untyped-call] # not in the stubs
    except ValueError:
        url = ""
    if not is_proxy(url):
        raise errors.InvalidSettings(
            f"The environment's proxy for {settings.name} can't be used: only http:// and https:// can be spoken to "
            "one. Name a proxy as 'proxy' in the connection's extra, or put the host into NO_PROXY."
        )
    return url


def ca_bundle(settings: Settings) -> CaBundle:
    """Return the CA bundle to verify with: the connection's, the one of the environment, or certifi's."""
    verify = settings.options.verify
    if verify is not True:
        return CaBundle(verify or None, "'verify' in the connection's extra")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := os.environ.get(name):
            return CaBundle(bundle, f"the environment's {name}")
    return CaBundle(DEFAULT_CA_BUNDLE_PATH, "the package certifi")


def ssl_context(settings: Settings) -> ssl.SSLContext | bool:
    """Return how a certificate is verified, or False if it is not."""
    bundle, named_in = ca_bundle(settings)
    if bundle is None:
        return False
    try:
        return _read_bundle(bundle, Path(bundle).stat().st_mtime_ns)
    except OSError as cause:
        raise errors.InvalidSettings(
            f"The CA bundle {bundle!r} of {settings.name} can't be read ({cause.strerror or cause}). It is named in "
            f"{named_in}: put the path of a PEM file there that exists on this machine."
        ) from cause


@functools.lru_cache(maxsize=8)
def _read_bundle(bundle: str, _changed: int) -> ssl.SSLContext:
    context = urllib3.util.create_urllib3_context()
    if Path(bundle).is_dir():
        context.load_verify_locations(capath=bundle)
    else:
        context.load_verify_locations(cafile=bundle)
    return context
