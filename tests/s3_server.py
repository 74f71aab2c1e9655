"""An S3 server on the loopback, and its Airflow connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

ACCESS_KEY, SECRET_KEY = "AKIA-of-the-storage", "secret/of-the-storage"


@contextmanager
def serving_s3() -> Iterator[str]:
    """Serve S3 in a thread, and yield its URL."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def storage_options(url: str) -> dict[str, str]:
    """Return the options of s3fs."""
    return {"endpoint_url": url, "key": ACCESS_KEY, "secret": SECRET_KEY}


def connection(url: str) -> str:
    """Return the ``aws`` connection, as the value of an ``AIRFLOW_CONN_…`` variable."""
    extra = {"endpoint_url": url, "region_name": "us-east-1"}
    return json.dumps({"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra})
