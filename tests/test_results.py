"""Results are read from the location that the API returns, with Airflow's own connections."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest
import s3_server
from connections import set_connection
from loopback import Loopback, json_response, response

from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.exceptions import ConnectionConfigError, NotFoundError, ResultReadError
from airflow_wasabi_jobs.hooks import WasabiJobsHook

RESULT = {"job_id": "12345", "message": "Processing successful", "message_payload": {"services": []}}
# What a key may contain, and a URL must escape.
KEY = "jobs/2025_11_21/12345/a b+c%20d#e?f=g&ü_metadata.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch):
    """Read the result that is at a location."""

    def read_result(location: str, region: str | None = "eu-central-1", **arguments) -> dict:
        body = {"DestinationPath": location, "Destination": {"Bucket": "results", "Region": region}}
        with Loopback(json_response(body)) as server:
            set_connection(monkeypatch, server.url)
            return WasabiJobsHook().get_job_result("12345", **arguments)

    return read_result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    return path


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    pytest.importorskip("moto", reason="the set of the lowest versions has no S3")
    with s3_server.serving_s3() as url:
        fs = fsspec.filesystem("s3", **s3_server.storage_options(url))
        fs.mkdir("results")
        fs.pipe_file(f"results/{KEY}", json.dumps(RESULT).encode())
        yield url


@pytest.fixture
def s3_conn_id(monkeypatch: pytest.MonkeyPatch, s3_url: str) -> str:
    monkeypatch.setenv("AIRFLOW_CONN_WASABI_S3", s3_server.connection(s3_url))
    return "wasabi_s3"


def test_local_file_is_read_only_for_an_api_on_this_machine(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    with Loopback(json_response({"DestinationPath": file.as_uri()})) as proxy:
        set_connection(monkeypatch, "http://air.example.com", proxy=proxy.url, allow_http=True)
        with pytest.raises(ResultReadError, match=r"is a file of this machine, which is read only for an API on this"):
            WasabiJobsHook().get_job_result("12345")


def test_result_of_the_emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with AirEmulator(speed=1e6, results=tmp_path.as_uri()) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_WASABI_DEFAULT", emulator.connection_uri)
        hook = WasabiJobsHook()
        hook.get_job_status("completes")
        result = hook.get_job_result("completes")

    assert result["job_id"] == "completes"
    assert [service["service_name"] for service in result["message_payload"]["services"]] == ["air_ocr"]


@pytest.mark.parametrize(
    "location",
    [
        f"s3://results/{KEY}",
        f"s3://another_conn_id@results/{KEY}",
        f"https://s3.eu-central-1.wasabisys.com/results/{quote(KEY)}",
        f"https://S3.wasabisys.com/results/{quote(KEY)}?versionId=1",
    ],
)
def test_result_in_s3(read, s3_conn_id: str, location: str) -> None:
    assert read(location, storage_conn_id=s3_conn_id) == RESULT


def test_location_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loopback(json_response({"ErrorCode": "NOT_FOUND"}, 404)) as server:
        set_connection(monkeypatch, server.url)
        with pytest.raises(NotFoundError, match="A job has a result location only after it has completed"):
            WasabiJobsHook().get_job_result("12345")


def test_file_in_s3_does_not_exist(read, s3_conn_id: str) -> None:
    with pytest.raises(ResultReadError) as raised:
        read("s3://results/missing.json", storage_conn_id=s3_conn_id)

    assert str(raised.value) == (
        "Job '12345': the result s3://results/missing.json does not exist. Check that connection 'wasabi_s3' "
        "(storage_conn_id) has the type aws, keys that may read the bucket, and "
        '"endpoint_url": "https://s3.eu-central-1.wasabisys.com" and "region_name": "eu-central-1" in its extra. '
        "Reading from s3:// needs the package airflow-wasabi-jobs[s3]."
    )
    assert isinstance(raised.value.__cause__, FileNotFoundError)


def test_local_file_does_not_exist(read, tmp_path: Path) -> None:
    location = (tmp_path / "missing.json").as_uri()
    message = f"Job '12345': the result {location} does not exist. Check that the worker can read this storage."
    with pytest.raises(ResultReadError) as raised:
        read(location)
    assert str(raised.value) == message


def test_storage_without_a_connection(read, monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no such scheme, whether or not the package for s3:// is installed.
    with pytest.raises(ResultReadError, match=r"the result unknown://results/1 cannot be read \(ValueError: .*unknown"):
        read("unknown://results/1")


def test_s3_without_a_connection(read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ResultReadError, match=r"Set storage_conn_id to a connection of the type aws with .*<region>"):
        read("s3://results/1", region=None)


def test_connection_does_not_exist(read) -> None:
    with pytest.raises(
        ConnectionConfigError,
        match=r"Connection 'no_such_conn' \(storage_conn_id\) does not exist. Add it with the type aws",
    ):
        read("s3://results/1", storage_conn_id="no_such_conn")


@pytest.mark.parametrize("body", ["[]", "no JSON", "", '{"a": "\udcff"}', "[" * 100_000])
def test_what_is_not_a_json_object(read, file: Path, body: str) -> None:
    file.write_text(body, errors="surrogateescape")
    with pytest.raises(ResultReadError, match=r"the result file://\S+ is not a JSON object \(.+\)\. Check"):
        read(file.as_uri())


def test_max_bytes(read, file: Path) -> None:
    size = file.stat().st_size
    assert read(file.as_uri(), max_bytes=size) == RESULT
    with pytest.raises(ResultReadError, match=f"is larger than max_bytes={size - 1}. Raise max_bytes"):
        read(file.as_uri(), max_bytes=size - 1)


def test_errors_do_not_show_the_keys(read, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage service that repeats the request, as some do with a signature that does not match."""
    pytest.importorskip("s3fs", reason="the set of the lowest versions has no S3")
    echo = f"<Error><Code>Denied</Code><Message>{s3_server.ACCESS_KEY} {s3_server.SECRET_KEY}</Message></Error>"
    size = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    with Loopback(size, response(403, echo)) as storage:
        monkeypatch.setenv("AIRFLOW_CONN_ECHOING_S3", s3_server.connection(storage.url))
        with pytest.raises(ResultReadError, match=r"cannot be read \(.+: \*\*\* \*\*\*\)\.") as raised:
            read("s3://results/1", storage_conn_id="echoing_s3")

    shown = "".join(traceback.format_exception(raised.value))
    assert s3_server.SECRET_KEY not in shown
    assert s3_server.ACCESS_KEY not in shown
