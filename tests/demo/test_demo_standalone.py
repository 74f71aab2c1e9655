"""Start and stop of ``make airflow``, with a small program in place of Airflow."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from airflow_wasabi_jobs.demo import standalone

EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Prints its settings, responds like a healthy Airflow, and has a child process that must be stopped, too.
FAKE_AIRFLOW = f"""#!{sys.executable}
import http.server, json, os, signal, subprocess, sys
assert sys.argv[1:] == ["standalone"]
subprocess.Popen(["sleep", "600"])
with open(os.environ["AIRFLOW_HOME"] + "/simple_auth_manager_passwords.json.generated", "w") as file:
    file.write('{{"admin": "open-sesame"}}')
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        healthy = {{"status": "healthy"}}
        self.wfile.write(json.dumps({{"scheduler": healthy, "triggerer": healthy}}).encode())
port = int(os.environ["AIRFLOW__API__PORT"])
print("connection", os.environ["AIRFLOW_CONN_WASABI_DEFAULT"], "dags", os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
sys.stdout.flush()
if os.environ.get("BROKEN"):
    sys.exit("the database is gone")
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    airflow = tmp_path / "airflow"
    airflow.write_text(FAKE_AIRFLOW)
    airflow.chmod(0o755)
    port = standalone.free_port()
    run = f"""
import sys
from pathlib import Path
from airflow_wasabi_jobs.demo import standalone
standalone.BIN = Path({str(tmp_path)!r})
sys.exit(standalone.main(["--home", {str(tmp_path / "home")!r}, "--dags", "some/dags", "--port", "{port}"]))
"""
    return [sys.executable, "-c", run]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_prints_the_login_and_stops_every_process(command: list[str], tmp_path: Path, signal_number: Any) -> None:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
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
    assert "Login             admin, password open-sesame" in output
    assert "Airflow UI        http://127.0.0.1:" in output
    log = (tmp_path / "home" / "standalone.log").read_text()
    assert f"dags {Path('some/dags').resolve()}" in log
    assert "connection wasabi://emulator-access-key:emulator-secret-key@" in log
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "airflow") not in processes


def test_output_of_a_failed_airflow_is_printed(command: list[str]) -> None:
    completed_process = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "BROKEN": "1"}
    )

    assert completed_process.returncode == 1
    assert "the database is gone" in completed_process.stdout
    assert "Airflow did not start. Its output is above." in completed_process.stdout


def test_port_in_use_is_reported_before_the_start(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(standalone.signal, "signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as used_port:
        port = used_port.getsockname()[1]
        assert standalone.main(["--home", str(tmp_path / "home"), "--dags", "dags", "--port", str(port)]) == 1

    assert f"Port {port} is in use. Choose another port: PORT=8081 make airflow" in capsys.readouterr().out
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(not EPHEMERAL_PORTS.exists(), reason="only Linux shows its range of ephemeral ports")
def test_free_port_is_not_an_ephemeral_port() -> None:
    lowest, highest = map(int, EPHEMERAL_PORTS.read_text().split())
    assert standalone.free_port() not in range(lowest, highest + 1)
