"""Start and stop of ``make airflow``, with a small program in place of Airflow."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from airflow_wasabi_jobs.demo import standalone
from airflow_wasabi_jobs.emulator import AirEmulator

ROOT = Path(__file__).parents[2]
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Responds like a healthy Airflow, and has child processes that must be stopped, too. It prints how it is called.
FAKE_AIRFLOW = f"""#!{sys.executable}
import http.server, json, os, subprocess, sys
home, arguments = os.environ["AIRFLOW_HOME"], sys.argv[1:]
print("called", *arguments, flush=True)
if " ".join(arguments[:2]) == os.environ.get("BROKEN"):
    sys.exit("the database is gone")
if arguments[0] == "connections":
    print("connections", open(arguments[-1]).read())
if arguments != ["standalone"]:
    sys.exit()
for component in ("scheduler", "triggerer", "dag-processor"):
    subprocess.run(["airflow", component], check=True)
subprocess.Popen(["sleep", "600"])
print("environment", json.dumps(dict(os.environ)), flush=True)
with open(home + "/simple_auth_manager_passwords.json.generated", "w") as file:
    file.write('{{"admin": "open-sesame"}}')
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        healthy = {{"status": "healthy"}}
        self.wfile.write(json.dumps({{"scheduler": healthy, "triggerer": healthy}}).encode())
port = int(os.environ["AIRFLOW__API__PORT"])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    airflow = tmp_path / "airflow"
    airflow.write_text(FAKE_AIRFLOW)
    airflow.chmod(0o755)
    (tmp_path / "dags").mkdir()
    port = standalone.free_port()
    run = f"""
import sys
from pathlib import Path
from airflow_wasabi_jobs.demo import standalone
standalone.BIN = Path({str(tmp_path)!r})
sys.exit(standalone.main(["--home", "home", "--dags", "dags", "--port", "{port}"]))
"""
    return [sys.executable, "-c", run]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_prints_the_login_and_stops_every_process(command: list[str], tmp_path: Path, signal_number: Any) -> None:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path)
    timer = threading.Timer(60, process.kill)
    timer.start()
    output = ""
    assert process.stdout
    for line in process.stdout:
        output += line
        if "Ctrl-C" in line:
            process.send_signal(signal_number)
    timer.cancel()

    assert process.wait() == 0
    assert "admin, password open-sesame" in output
    assert "Airflow UI   http://127.0.0.1:" in output
    assert f"DAGs         {tmp_path / 'dags'} " in output
    assert "access key emulator-access-key, secret key emulator-secret-key" in output
    assert "example_wasabi" not in output  # they are not in the folder
    log = (tmp_path / "home" / "standalone.log").read_text()
    # The connection is in the database before Airflow starts, and no log server listens on all addresses.
    file = tmp_path / "home" / "connections.json"
    assert re.findall("^called (.*)$", log, re.MULTILINE) == [
        "db migrate",
        f"connections import --overwrite {file}",
        "standalone",
        "scheduler --skip-serve-logs",
        "triggerer --skip-serve-logs",
        "dag-processor",
    ]
    (url,) = re.findall(r"Emulator     (http://127\.0\.0\.1:\d+)", output)
    (uri,) = re.findall(r"^connections .*(wasabi://[^\"]+)", log, re.MULTILINE)
    assert uri == f"wasabi://emulator-access-key:emulator-secret-key@{quote(url, safe='')}"
    (environment,) = map(json.loads, re.findall("^environment (.*)$", log, re.MULTILINE))
    assert environment["AIRFLOW__CORE__DAGS_FOLDER"] == str(tmp_path / "dags")
    assert int(environment["AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL"]) < 30
    assert int(environment["AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL"]) < 30
    assert not [name for name in environment if name.startswith("AIRFLOW_CONN_")]
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "airflow") not in processes


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("connections import", "Airflow could not create its database and the connection. Its output is above."),
        ("standalone", "Airflow did not start. Its output is above."),
    ],
)
def test_output_of_a_failed_airflow_is_printed(command: list[str], tmp_path: Path, broken: str, message: str) -> None:
    completed_process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "BROKEN": broken},
    )

    assert completed_process.returncode == 1
    assert "the database is gone" in completed_process.stdout
    assert message in completed_process.stdout


@pytest.mark.parametrize("variables", [{}, {"DAGS": "my dags", "PORT": "8081"}], ids=["default", "own folder"])
def test_make_passes_the_folder_and_the_port(variables: dict[str, str]) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"DAGS", "PORT", "MAKEFLAGS", "MAKELEVEL"}
    }
    output = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "airflow"],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    dags, port = variables.get("DAGS", "example_dags"), variables.get("PORT", "8080")
    assert output.endswith(f'--dags "{dags}" --port {port}\n')


def test_missing_folder_is_reported_before_the_start(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(standalone.signal, "signal", lambda *_: None)
    assert standalone.main(["--home", str(tmp_path / "home"), "--dags", str(tmp_path / "dags")]) == 1

    assert f"The folder {tmp_path / 'dags'} does not exist." in capsys.readouterr().out
    assert not (tmp_path / "home").exists()


def test_examples_are_explained_if_they_are_there(tmp_path: Path) -> None:
    with AirEmulator() as emulator:
        greeting = standalone._greeting(tmp_path, ROOT / "example_dags", 8080, emulator)

    assert "Trigger example_wasabi_submit_and_wait first." in greeting


def test_port_in_use_is_reported_before_the_start(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(standalone.signal, "signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as used_port:
        port = used_port.getsockname()[1]
        assert standalone.main(["--home", str(tmp_path / "home"), "--dags", str(tmp_path), "--port", str(port)]) == 1

    assert f"Port {port} is in use. Choose another port: PORT=8081 make airflow" in capsys.readouterr().out
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(not EPHEMERAL_PORTS.exists(), reason="only Linux shows its range of ephemeral ports")
def test_free_port_is_not_an_ephemeral_port() -> None:
    lowest, highest = map(int, EPHEMERAL_PORTS.read_text().split())
    assert standalone.free_port() not in range(lowest, highest + 1)
