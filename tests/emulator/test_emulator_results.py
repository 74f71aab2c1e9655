"""The results that the emulator writes, read where ``DestinationPath`` says that they are."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from pathlib import Path
from urllib.parse import quote

import fsspec
import pytest
import requests
import s3_server
from fsspec.implementations.memory import MemoryFileSystem

from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY, Behaviour

BODY = {
    "Name": "talk",
    "Services": {"s2t": "", "logo": {"config": {"rec_confidence_threshold": 0.85}}, "poetry": ""},
    "Source": {"Bucket": "media", "ObjectKey": "talks/talk.mp4"},
    "Destination": {"Bucket": "results", "Region": "us-east-1"},
    "Batch": "night",
}
SECRET = "secret/of-the-storage"


class Client:
    def __init__(self, emulator: AirEmulator) -> None:
        self._url = emulator.url

    def request(self, method: str, path: str, **kwargs) -> requests.Response:
        keys = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
        return requests.request(method, self._url + path, headers=keys, timeout=10, **kwargs)

    def submit(self, **fields) -> str:
        return self.request("POST", "/jobs", json=BODY | fields).json()["Job"]["Id"]

    def metadata(self, job_id: str) -> requests.Response:
        """Request the location once the job has finished."""
        path = f"/jobs/{quote(job_id, safe='')}"
        until(lambda: "Completed" in self.request("GET", path).json())
        return self.request("GET", f"{path}/metadata")


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_result_has_the_documented_shape(folder: Path) -> None:
    with AirEmulator(speed=1000, results=folder.as_uri()) as emulator:
        client = Client(emulator)
        job_id = client.submit()
        path = client.metadata(job_id).json()["DestinationPath"]

    assert re.fullmatch(rf"{folder.as_uri()}/results/jobs/\d{{4}}_\d\d_\d\d/{job_id}/talk_metadata\.json", path)
    with fsspec.open(path) as file:
        result = json.load(file)
    services = result["message_payload"].pop("services")
    date = result["message_payload"]["job_metadata"].pop("processing_date")
    assert result == {
        "job_id": job_id,
        "message": "Processing successful",
        "message_payload": {
            "job_metadata": {
                "job_id": job_id,
                "name": "talk",
                "batch": "night",
                "object_key": "talks/talk.mp4",
                "object_path": "s3://media/talks/talk.mp4",
                "output_destination": "results",
                "destination_path": path,
                "airtime_duration": 30.0,
                "status": "completed",
                "engine_version": "emulator",
            }
        },
    }
    assert [service["service_name"] for service in services] == ["air_s2t", "air_logo", "air_poetry"]
    times = [date, *(service[key] for service in services for key in ("service_start", "service_end"))]
    assert [stamp for stamp in times if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp)] == []
    for service in services:
        assert service["service_start"] < service["service_end"] == date
        assert service["is_sample"]
        assert all(finding["is_sample"] and finding["start"] < finding["end"] for finding in service["findings"])


def test_result_is_written_when_the_job_completes(folder: Path) -> None:
    with AirEmulator(speed=1000, results=folder.as_uri()) as emulator:
        Client(emulator).submit()
        until(lambda: files(folder))


@pytest.mark.parametrize(
    ("job_id", "options"),
    [("fails", {}), ("cancels", {}), ("completes", {"result_after_seconds": 1e9})],
    ids=["failed", "cancelled", "delayed"],
)
def test_no_result_is_written(folder: Path, job_id: str, options: dict[str, float]) -> None:
    with AirEmulator(speed=1000, results=folder.as_uri(), **options) as emulator:
        client = Client(emulator)
        client.request("GET", f"/jobs/{job_id}/status")
        assert client.metadata(job_id).status_code == 404

    assert files(folder) == []


def test_location_is_available_after_the_delay(folder: Path) -> None:
    with AirEmulator(speed=1000, results=folder.as_uri(), result_after_seconds=50) as emulator:
        client = Client(emulator)
        job_id = client.submit()
        until(lambda: client.metadata(job_id).status_code == 200)
        assert len(files(folder)) == 1


class SlowFileSystem(MemoryFileSystem):
    protocol = "slow"
    may_write = threading.Event()
    is_writing = threading.Event()

    def pipe_file(self, path, value, **kwargs):
        self.is_writing.set()
        assert self.may_write.wait(10)


class BrokenFileSystem(MemoryFileSystem):
    protocol = "broken"
    is_broken = True

    def pipe_file(self, path, value, **kwargs):
        if self.is_broken:
            raise PermissionError(f"The key {SECRET} may not write\nhere.")


@pytest.fixture
def file_systems():
    for cls in (SlowFileSystem, BrokenFileSystem):
        fsspec.register_implementation(cls.protocol, cls, clobber=True)


def test_slow_storage_does_not_stall_the_emulator(file_systems: None) -> None:
    with AirEmulator(speed=1000, results="slow://") as emulator:
        client = Client(emulator)
        job_id = client.submit()
        assert SlowFileSystem.is_writing.wait(10)
        try:
            assert client.request("GET", f"/jobs/{job_id}/status").json()["Status"] == "completed"
        finally:
            SlowFileSystem.may_write.set()
        assert client.metadata(job_id).json()["DestinationPath"].startswith("slow://results/jobs/")


def test_result_that_cannot_be_written_is_reported_without_secrets_and_tried_again(
    file_systems: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"storage_options": {"client_kwargs": {"secret": SECRET}}}
    with caplog.at_level(logging.ERROR), AirEmulator(speed=1000, results="broken://", **options) as emulator:
        client = Client(emulator)
        job_id = client.submit()
        response = client.metadata(job_id)
        monkeypatch.setattr(BrokenFileSystem, "is_broken", False)
        path = client.metadata(job_id).json()["DestinationPath"]

    reason = "PermissionError: The key *** may not write here."
    assert (response.status_code, response.json()["ErrorCode"]) == (500, "INTERNAL_ERROR")
    assert response.json()["Error"] == f"The result cannot be written to {path}. {reason}"
    assert f"The result of job {job_id} cannot be written to {path}. {reason}" in caplog.messages


@pytest.mark.parametrize("job_id", ["completes-/../../../x", "completes\0"])
def test_result_is_written_only_below_the_url(tmp_path: Path, job_id: str) -> None:
    with AirEmulator(speed=1000, results=(tmp_path / "a" / "b").as_uri()) as emulator:
        client = Client(emulator)
        client.request("GET", f"/jobs/{quote(job_id, safe='')}/status")
        assert client.metadata(job_id).status_code == 500

    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "behaviour",
    [
        {"results": "/tmp/results"},
        {"results": "file://results"},
        {"results": ""},
        {"results": "unknown://results"},
        {"storage_options": {"secret": SECRET}},
    ],
    ids=str,
)
def test_unusable_results_are_an_error(behaviour) -> None:
    with pytest.raises(ValueError, match="results") as error:
        AirEmulator(**behaviour)
    assert SECRET not in str(error.value)


def test_behaviour_does_not_show_its_secrets() -> None:
    behaviour = Behaviour(secret_key=SECRET, results="memory://", storage_options={"secret": SECRET})
    assert SECRET not in f"{behaviour!r}{behaviour}"


def test_s3() -> None:
    pytest.importorskip("moto", reason="the set of the lowest versions has no S3")
    with s3_server.serving_s3() as url:
        options = s3_server.storage_options(url)
        with AirEmulator(speed=1000, results="s3://", storage_options=options) as emulator:
            client = Client(emulator)
            job_id = client.submit()
            path = client.metadata(job_id).json()["DestinationPath"]

        # The location that Wasabi documents.
        assert re.fullmatch(rf"s3://results/jobs/\d{{4}}_\d\d_\d\d/{job_id}/talk_metadata\.json", path)
        with fsspec.open(path, **options) as file:
            assert json.load(file)["job_id"] == job_id
