"""The command ``wasabi-air-emulator``, run in this process where possible, otherwise in a subprocess."""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from airflow_wasabi_jobs.emulator import cli
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY

KEYS = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": SECRET_KEY}
BODY = {
    "Name": "talk",
    "Services": {"ocr": ""},
    "Source": {"Bucket": "media", "ObjectKey": "talk.mp4"},
    "Destination": {"Bucket": "results", "Region": "us-east-1"},
    "Batch": "night",
}
MODULE = "airflow_wasabi_jobs.emulator.cli"


@contextlib.contextmanager
def run_command(*arguments):
    """Start the command in a new session, and yield the process and its first line."""
    with subprocess.Popen(
        [sys.executable, "-m", MODULE, "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def url_of(line: str) -> str:
    return next(word for word in line.split() if word.startswith("http://"))


def get(url: str, **kwargs) -> requests.Response:
    return requests.get(url, timeout=10, **kwargs)


@pytest.fixture
def lines(monkeypatch):
    """Collect the lines that the command prints, and interrupt it as soon as it listens."""
    lines = []

    def print_and_interrupt(line):
        lines.append(line)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli, "_print", print_and_interrupt)
    return lines


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_prints_one_line_serves_and_stops(signal_number):
    with run_command() as (process, line):
        assert line.startswith("Wasabi AiR emulator listening on http://127.0.0.1:")
        url = url_of(line)
        assert get(f"{url}/jobs/completes/status", headers=KEYS).json()["Status"] == "submitted"
        process.send_signal(signal_number)
        remaining_output, _ = process.communicate(timeout=10)
        assert (process.returncode, remaining_output) == (0, "")
    with pytest.raises(requests.ConnectionError):
        get(url)


def test_verbose_prints_one_line_for_each_request():
    with run_command("--verbose") as (process, line):
        get(f"{url_of(line)}/jobs?pageSize=1", headers=KEYS)
        get(f"{url_of(line)}/jobs/12345/status", headers=KEYS)
        get(f"{url_of(line)}/jobs")
        process.terminate()
        remaining_output, _ = process.communicate(timeout=10)
    assert remaining_output.splitlines() == ["GET /jobs?pageSize=1 200", "GET /jobs/12345/status 404", "GET /jobs 401"]


def test_options_are_passed_to_the_emulator():
    own_keys = {"x-amz-access-key": "my-access-key", "x-amz-secret-key": "my-secret-key"}
    keys = ["--access-key", "my-access-key", "--secret-key", "my-secret-key"]
    with run_command(*keys, "--error-rate", "1", "--rate-limit-per-minute", "1") as (process, line):
        url = url_of(line)
        assert get(url, headers=KEYS).status_code == 401
        assert [get(url, headers=own_keys).status_code for _ in range(2)] == [500, 429]
        process.terminate()
        remaining_output, _ = process.communicate(timeout=10)
    assert remaining_output == ""


def test_fault_options():
    with run_command(
        "--verbose", "--speed", "1e6", "--lost-answers", "1", "--result-after-seconds", "1e12", "--loose-filters"
    ) as (process, line):
        url = url_of(line)
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{url}/jobs", headers=KEYS, json=BODY, timeout=10)
        (job,) = get(f"{url}/jobs?batch=IGH", headers=KEYS).json()["Records"]
        assert get(f"{url}/jobs/{job['Id']}/status", headers=KEYS).json()["Status"] == "completed"
        assert get(f"{url}/jobs/{job['Id']}/metadata", headers=KEYS).status_code == 404
        process.terminate()
        remaining_output, _ = process.communicate(timeout=10)
    assert remaining_output.splitlines() == [
        "POST /jobs lost",
        "GET /jobs?batch=IGH 200",
        f"GET /jobs/{job['Id']}/status 200",
        f"GET /jobs/{job['Id']}/metadata 404",
    ]


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
def test_line_contains_the_keys_and_how_to_stop(lines, arguments):
    assert cli.main(["--port", "0", *arguments]) == 0
    (line,) = lines
    assert ACCESS_KEY in line
    assert SECRET_KEY in line
    assert "Ctrl-C" in line


def test_line_is_flushed(capsys):
    cli._print("a line")
    assert capsys.readouterr().out == "a line\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--access-key", "my-access-key", "--secret-key", "my-secret-key"],
        ["--secret-key", "my-secret-key"],
        ["--access-key", "my-access-key"],
    ],
)
def test_own_keys_are_not_shown(lines, arguments):
    assert cli.main(["--port", "0", *arguments]) == 0
    (line,) = lines
    assert "my-" not in line


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "http"),
        ("--port", "70000"),
        ("--port", "-1"),
        ("--speed", "0"),
        ("--speed", "fast"),
        ("--speed", "nan"),
        ("--latency-ms", "-1"),
        ("--error-rate", "1.1"),
        ("--error-rate", "-0.1"),
        ("--rate-limit-per-minute", "-1"),
        ("--rate-limit-per-minute", "1.5"),
        ("--lost-answers", "-1"),
        ("--lost-answers", "all"),
        ("--result-after-seconds", "-0.5"),
        ("--result-after-seconds", "nan"),
        ("--results", "/tmp/results"),
        ("--storage-options", '{"secret": "x"}'),
        ("--storage-options", "[]"),
        ("--loose-filters=yes", None),
        ("--seed", "x"),
        ("--sped", "1"),
        ("--access-key", None),
        ("--access-key", ""),
        ("--host", ""),
        ("--seed", "1"),
    ],
)
def test_invalid_argument_is_named(capsys, lines, option, value):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--port", "0", *([option] if value is None else [option, value])])
    assert exit_info.value.code == 2
    error_line = capsys.readouterr().err.splitlines()[-1]
    assert error_line.startswith("wasabi-air-emulator: error: ")
    assert option.partition("=")[0] in error_line
    assert lines == []


def test_option_without_effect_is_refused(capsys, lines):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--port", "0", "--error-rate", "1", "--lost-answers", "1"])
    assert exit_info.value.code == 2
    assert "--lost-answers has no effect with --error-rate 1" in capsys.readouterr().err
    assert lines == []


def test_results_are_written(tmp_path):
    arguments = ["--results", tmp_path.as_uri(), "--storage-options", '{"auto_mkdir": true}']
    with run_command("--speed", "1e6", *arguments) as (_, line):
        job = requests.post(f"{url_of(line)}/jobs", headers=KEYS, json=BODY, timeout=10).json()["Job"]
        path = get(f"{url_of(line)}/jobs/{job['Id']}/metadata", headers=KEYS).json()["DestinationPath"]
    assert path.startswith(f"{tmp_path.as_uri()}/results/jobs/")
    assert Path(path.removeprefix("file://")).exists()


def test_invalid_storage_options_are_not_shown(capsys, lines):
    with pytest.raises(SystemExit):
        cli.main(["--port", "0", "--results", "memory://", "--storage-options", "{'secret': 'my-secret'}"])
    assert "argument --storage-options: must be a JSON object" in (error := capsys.readouterr().err)
    assert "my-secret" not in error


def test_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as used_port:
        port = used_port.getsockname()[1]
        with pytest.raises(SystemExit) as exit_info:
            cli.main(["--port", str(port)])
    assert exit_info.value.code == 1
    (error_line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on 127.0.0.1, port {port}: " in error_line
    assert "address already in use" in error_line
    assert "--port 0" in error_line


@pytest.mark.parametrize("host", ["203.0.113.1", "a..b"])
def test_invalid_host(capsys, lines, host):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--port", "0", "--host", host])
    assert exit_info.value.code == 1
    (error_line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on {host}, port 0: " in error_line
    assert lines == []


def test_help_lists_every_option_and_its_default(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["wasabi-air-emulator", "--help"])
    monkeypatch.delitem(sys.modules, MODULE)  # otherwise runpy warns that it is already imported
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module(MODULE, run_name="__main__")
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert "completes-with-3-errors" in "".join(output.split())  # lines are broken at hyphens, too
    for default in ("127.0.0.1", "8077", "False"):
        assert f"(default: {default})" in " ".join(output.split())


def test_is_installed_as_a_command():
    command = shutil.which("wasabi-air-emulator", path=Path(sys.executable).parent)
    assert command
    output = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert output.startswith("usage: wasabi-air-emulator")


@pytest.mark.parametrize(("host", "is_open"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)], ids=str)
def test_warns_if_other_machines_can_connect(lines, host, is_open):
    assert cli.main(["--port", "0", "--host", host]) == 0

    assert ("reachable from other machines" in lines[0]) is is_open
