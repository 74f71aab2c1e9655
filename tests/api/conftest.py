"""Fixtures that run a test with both clients, sync and async, against a loopback server."""

from __future__ import annotations

import asyncio
import json
import ssl
import traceback

import pytest
import trustme

from airflow_wasabi_jobs.api import endpoints
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.api.models import Destination, Source, Submission
from airflow_wasabi_jobs.api.settings import build_settings

ACCESS_KEY = "ACCESSKEY0123456789X"
SECRET_KEY = "secret/key+with=signs/0123456789"
SOURCE_ACCESS_KEY = "SOURCEKEY+0123456789"
SOURCE_SECRET_KEY = "source/secret+key=0123456789"
STATUS = endpoints.get_job_status("12345")


@pytest.fixture(scope="session")
def keys():
    return ACCESS_KEY, SECRET_KEY


@pytest.fixture(scope="session")
def source_keys():
    return SOURCE_ACCESS_KEY, SOURCE_SECRET_KEY


@pytest.fixture(scope="session")
def submission():
    """Build a submission. By default: the required fields and the keys of the source."""

    def make(**fields):
        defaults = {
            "name": "a job",
            "source": Source(bucket="media", object_key="a.mp4"),
            "destination": Destination(bucket="results", region="us-east-1"),
            "services": {"ocr": ""},
            "source_access_key": SOURCE_ACCESS_KEY,
            "source_secret_key": SOURCE_SECRET_KEY,
        }
        return Submission(**{**defaults, **fields})

    return make


@pytest.fixture(scope="session")
def submit_request(submission):
    """The request that submits the default submission."""
    return endpoints.submit_job(submission())


@pytest.fixture
def settings():
    """Build settings for a server or a URL. By default: no retries, and long timeouts for slow machines."""

    def make(server, **options):
        timeouts = {"connect_timeout": 30, "read_timeout": 30, "retries": 0}
        return build_settings(
            name="connection 'wasabi_default'",
            host=getattr(server, "url", server),
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            extra=json.dumps({**timeouts, **options}),
        )

    return make


def _sync(settings, *api_requests):
    client = JobsClient(settings)
    return [client.send(api_request) for api_request in api_requests][-1]


def _async(settings, *api_requests):
    async def main():
        async with AsyncJobsClient(settings) as client:
            return [await client.send(api_request) for api_request in api_requests][-1]

    return asyncio.run(main())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def send(request):
    """Send requests one after the other through one client, and return the last result. Runs for each client."""
    return request.param


@pytest.fixture
def is_async(send):
    """Whether the client of the test is the one for the triggerer."""
    return send is _async


@pytest.fixture
def send_to(send, settings):
    """Send one request to a server or a URL, and return the result."""

    def send_to(server, api_request=STATUS, **options):
        return send(settings(server, **options), api_request)

    return send_to


@pytest.fixture
def expect_error(send_to):
    """Send one request that must fail with exactly this error class, and return the error."""

    def expect_error(kind, server, api_request=STATUS, **options):
        with pytest.raises(kind) as caught:
            send_to(server, api_request, **options)
        assert type(caught.value) is kind
        return caught.value

    return expect_error


@pytest.fixture(scope="session")
def everything_shown():
    """Everything that an error can show: itself, its causes and its traceback."""

    def everything_shown(error):
        texts = traceback.format_exception(error)
        while error:
            texts += [str(error), repr(error), repr(vars(error))]
            error = error.__cause__
        return "\n".join(texts)

    return everything_shown


@pytest.fixture(scope="session")
def ca():
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca, tmp_path_factory):
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def server_tls():
    """Build a server's TLS context with a certificate of a CA."""

    def make(ca, *names, **details):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*(names or ("127.0.0.1", "air.example.com")), **details).configure_cert(context)
        return context

    return make


@pytest.fixture(scope="session")
def tls(ca, server_tls):
    return server_tls(ca)
