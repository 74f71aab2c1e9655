"""The command ``wasabi-air-emulator``: in this process where that shows the same, else in one of its own."""

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
def running(*arguments):
    """Start the command in a session of its own, and yield it with its first line."""
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


def url_in(line: str) -> str:
    return next(word for word in line.split() if word.startswith("http://"))


def get(url: str, **kwargs) -> requests.Response:
    return requests.get(url, timeout=10, **kwargs)


@pytest.fixture
def lines(monkeypatch):
    """Collect what the command prints, and interrupt it as soon as it listens."""
    printed = []

    def print_and_interrupt(line):
        printed.append(line)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli, "_print", print_and_interrupt)
    return printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_one_line_serves_and_stops(number):
    with running() as (process, line):
        assert line.startswith("Wasabi AiR emulator listening on http://127.0.0.1:")
        url = url_in(line)
        assert get(f"{url}/jobs/completes/status", headers=KEYS).json()["Status"] == "submitted"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=10)
        assert (process.returncode, rest) == (0, "")
    with pytest.raises(requests.ConnectionError):
        get(url)


def test_verbose_is_a_line_for_each_request():
    with running("--verbose") as (process, line):
        get(f"{url_in(line)}/jobs?pageSize=1", headers=KEYS)
        get(f"{url_in(line)}/jobs/12345/status", headers=KEYS)
        get(f"{url_in(line)}/jobs")
        process.terminate()
        rest, _ = process.communicate(timeout=10)
    assert rest.splitlines() == ["GET /jobs?pageSize=1 200", "GET /jobs/12345/status 404", "GET /jobs 401"]


def test_its_options_reach_the_emulator():
    own = {"x-amz-access-key": "my-access-key", "x-amz-secret-key": "my-secret-key"}
    keys = ["--access-key", "my-access-key", "--secret-key", "my-secret-key"]
    with running(*keys, "--error-rate", "1", "--rate-limit-per-minute", "1") as (process, line):
        url = url_in(line)
        assert get(url, headers=KEYS).status_code == 401
        assert [get(url, headers=own).status_code for _ in range(2)] == [500, 429]
        process.terminate()
        rest, _ = process.communicate(timeout=10)
    assert rest == ""


def test_what_a_client_has_to_put_up_with_can_be_asked_for():
    with running(
        "--verbose", "--speed", "1e6", "--lost-answers", "1", "--result-after-seconds", "1e12", "--loose-filters"
    ) as (process, line):
        url = url_in(line)
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{url}/jobs", headers=KEYS, json=BODY, timeout=10)
        (job,) = get(f"{url}/jobs?batch=IGH", headers=KEYS).json()["Records"]
        assert get(f"{url}/jobs/{job['Id']}/status", headers=KEYS).json()["Status"] == "completed"
        assert get(f"{url}/jobs/{job['Id']}/metadata", headers=KEYS).status_code == 404
        process.terminate()
        rest, _ = process.communicate(timeout=10)
    assert rest.splitlines() == [
        "POST /jobs lost",
        "GET /jobs?batch=IGH 200",
        f"GET /jobs/{job['Id']}/status 200",
        f"GET /jobs/{job['Id']}/metadata 404",
    ]


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
def test_what_it_says_is_all_one_needs(lines, arguments):
    assert cli.main(["--port", "0", *arguments]) == 0
    (line,) = lines
    assert ACCESS_KEY in line
    assert SECRET_KEY in line
    assert "Ctrl-C" in line


def test_the_line_is_printed_at_once(capsys):
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
def test_keys_of_ones_own_are_not_shown(lines, arguments):
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
        ("--loose-filters=yes", None),
        ("--seed", "x"),
        ("--sped", "1"),
        ("--access-key", None),
    ],
)
def test_an_argument_that_cannot_be_is_named(capsys, lines, option, value):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--port", "0", *([option] if value is None else [option, value])])
    assert exit_.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("wasabi-air-emulator: error: ")
    assert option.partition("=")[0] in told
    assert lines == []


def test_a_port_in_use_is_told_in_plain_words(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as exit_:
            cli.main(["--port", str(port)])
    assert exit_.value.code == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert f"can't listen on 127.0.0.1, port {port}: " in told
    assert "address already in use" in told
    assert "--port 0" in told


@pytest.mark.parametrize("host", ["203.0.113.1", "a..b"])
def test_a_host_that_cannot_be_is_told_in_plain_words(capsys, lines, host):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--port", "0", "--host", host])
    assert exit_.value.code == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert f"can't listen on {host}, port 0: " in told
    assert lines == []


def test_help_tells_every_option_and_its_default(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["wasabi-air-emulator", "--help"])
    monkeypatch.delitem(sys.modules, MODULE)  # or runpy warns that it is there already
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module(MODULE, run_name="__main__")
    assert exit_.value.code == 0
    told = capsys.readouterr().out
    assert "completes-with-3-errors" in " ".join(told.split())
    for default in ("127.0.0.1", "8077", "False"):
        assert f"(default: {default})" in " ".join(told.split())


def test_it_is_installed_as_a_command():
    command = shutil.which("wasabi-air-emulator", path=Path(sys.executable).parent)
    assert command
    told = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert told.startswith("usage: wasabi-air-emulator")


@pytest.mark.parametrize(("host", "is_open"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)], ids=str)
def test_it_warns_if_other_machines_can_ask_it(lines, host, is_open):
    assert cli.main(["--port", "0", "--host", host]) == 0

    assert ("open to other machines" in lines[0]) is is_open
