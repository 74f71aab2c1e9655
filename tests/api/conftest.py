"""Both clients, and what they need to ask a server on the loopback."""

from __future__ import annotations

import asyncio
import json
import ssl
import traceback

import pytest
import trustme

from airflow_wasabi_jobs.api import calls
from airflow_wasabi_jobs.api.client import AsyncJobsClient, JobsClient
from airflow_wasabi_jobs.api.models import Destination, Source, Submission
from airflow_wasabi_jobs.api.settings import check

ACCESS_KEY = "ACCESSKEY0123456789X"
SECRET_KEY = "secret/key+with=signs/0123456789"
SOURCE_ACCESS_KEY = "SOURCEKEY+0123456789"
SOURCE_SECRET_KEY = "source/secret+key=0123456789"
STATUS = calls.job_status("12345")


@pytest.fixture(scope="session")
def keys():
    return ACCESS_KEY, SECRET_KEY


@pytest.fixture(scope="session")
def source_keys():
    return SOURCE_ACCESS_KEY, SOURCE_SECRET_KEY


@pytest.fixture(scope="session")
def submission():
    """Make what is submitted: as little as there can be, with the keys of a source, unless told otherwise."""

    def make(**fields):
        least = {
            "name": "a job",
            "source": Source(bucket="media", object_key="a.mp4"),
            "destination": Destination(bucket="results", region="us-east-1"),
            "services": {"ocr": ""},
            "source_access_key": SOURCE_ACCESS_KEY,
            "source_secret_key": SOURCE_SECRET_KEY,
        }
        return Submission(**{**least, **fields})

    return make


@pytest.fixture(scope="session")
def submit(submission):
    """The call that submits that."""
    return calls.submit_job(submission())


@pytest.fixture
def settings():
    """Make settings for a server, or for a URL: no retries, and patience for a busy machine, unless told otherwise."""

    def make(where, **options):
        patience = {"connect_timeout": 30, "read_timeout": 30, "retries": 0}
        return check(
            name="connection 'wasabi_default'",
            host=getattr(where, "url", where),
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            extra=json.dumps({**patience, **options}),
        )

    return make


def _sync(settings, *to_send):
    client = JobsClient(settings)
    return [client.send(call) for call in to_send][-1]


def _async(settings, *to_send):
    async def main():
        async with AsyncJobsClient(settings) as client:
            return [await client.send(call) for call in to_send][-1]

    return asyncio.run(main())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def send(request):
    """Send calls one after the other through one client, and return the result of the last: once for each client."""
    return request.param


@pytest.fixture
def ask(send, settings):
    """Send one call to a server, or to a URL."""

    def ask(where, call=STATUS, **options):
        return send(settings(where, **options), call)

    return ask


@pytest.fixture
def refused(ask):
    """Send one call that comes to nothing, and return the error."""

    def refused(kind, where, call=STATUS, **options):
        with pytest.raises(kind) as caught:
            ask(where, call, **options)
        assert type(caught.value) is kind
        return caught.value

    return refused


@pytest.fixture(scope="session")
def all_said():
    """All that an error can show: of itself, of its causes, and in a log."""

    def all_said(error):
        said = traceback.format_exception(error)
        while error:
            said += [str(error), repr(error), repr(vars(error))]
            error = error.__cause__
        return "\n".join(said)

    return all_said


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def server_tls():
    """Make what a server needs to speak TLS with a certificate of an authority."""

    def make(authority, *names, **details):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or ("127.0.0.1", "air.example.com")), **details).configure_cert(context)
        return context

    return make


@pytest.fixture(scope="session")
def tls(authority, server_tls):
    return server_tls(authority)
