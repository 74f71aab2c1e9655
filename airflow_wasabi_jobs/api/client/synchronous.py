"""The client for workers: it blocks while it waits for a response."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, TypeVar

import requests
import tenacity
import urllib3.exceptions

from airflow_wasabi_jobs.api import endpoints, responses
from airflow_wasabi_jobs.api.client.connection_errors import InterimResponseError, connection_error
from airflow_wasabi_jobs.api.client.environment import create_ssl_context, find_ca_bundle, with_environment_proxy
from airflow_wasabi_jobs.api.client.observer import observing
from airflow_wasabi_jobs.api.client.retries import CHUNK_BYTES, Deadline, check_body_size, retry_arguments

if TYPE_CHECKING:
    from airflow_wasabi_jobs.api.client.observer import Observer
    from airflow_wasabi_jobs.api.settings import Settings

T = TypeVar("T")


class _Session(requests.Session):
    """Ignores redirects. With ``allow_redirects=False`` alone, requests still reads their body, however large it is."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - as in requests
        return None


class JobsClient:
    """
    Sends requests with requests, over one session.

    :param settings: the base URL, the keys and the options.
    :param observe: receives the outcome of each request.
    :raises ConnectionConfigError: if the CA bundle cannot be read, or the proxy of the environment cannot be used.
    """

    def __init__(self, settings: Settings, observe: Observer | None = None) -> None:
        self.settings = with_environment_proxy(settings)
        self._observe = observe
        create_ssl_context(settings)
        self._session = _Session()
        # Ignores .netrc, which would replace the keys.
        self._session.trust_env = False
        self._session.verify = find_ca_bundle(settings).path or False
        if proxy := self.settings.options.proxy:
            self._session.proxies = {"http": proxy, "https": proxy}

    def send(self, request: endpoints.Request[T]) -> T:
        """
        Send a request, retry a ``GET`` after transient errors, and return its result.

        Takes at most ``connect_timeout + 2 * read_timeout`` seconds, including all retries and pauses. What the public
        interface of requests cannot bound is the lookup of the host, the attempts to connect to more than one address,
        and response headers that arrive slower than one byte per ``read_timeout``.

        :raises WasabiApiError: the error of the last attempt.
        """
        deadline = Deadline(self.settings)
        retrying = tenacity.Retrying(**retry_arguments(self.settings, request, deadline))
        result: T = retrying(self.send_once, request, deadline)
        return result

    def close(self) -> None:
        """Close the connections of the session."""
        self._session.close()

    def send_once(self, request: endpoints.Request[T], deadline: Deadline) -> T:
        """Send a request once, and return its result."""
        with observing(self._observe):
            return self._send_once(request, deadline)

    def _send_once(self, request: endpoints.Request[T], deadline: Deadline) -> T:
        options = self.settings.options
        # The read timeout of requests is for each read. Two reads can take that long: of the headers, and the last one.
        read_timeout = max(0.001, min(options.read_timeout, deadline.seconds_to_read() / 2))
        try:
            with self._session.request(
                request.method,
                self.settings.base_url + request.path,
                data=request.body,
                headers=endpoints.request_headers(self.settings, request),
                timeout=(options.connect_timeout, read_timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                # http.client skips 100 only, and the final response would be read as that of the next request.
                if response.status_code in {102, 103}:
                    raise InterimResponseError(f"HTTP {response.status_code} {response.reason}")
                body_timeout = min(read_timeout, deadline.seconds_left() - read_timeout)
                body_deadline = time.monotonic() + body_timeout
                body = bytearray()
                while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
                    body += chunk
                    check_body_size(self.settings, request, body)
                    if time.monotonic() > body_deadline:
                        raise TimeoutError("the response body was not complete in time")
                parsed = responses.Response(response.status_code, response.headers, bytes(body))
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            UnicodeError,
        ) as cause:
            raise connection_error(self.settings, request, cause) from responses.redact_cause(
                self.settings, request, cause
            )
        return responses.parse_response(self.settings, request, parsed)
