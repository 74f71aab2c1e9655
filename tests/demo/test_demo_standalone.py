"""How the whole Airflow of ``make airflow`` is started and stopped; a small program stands in for Airflow itself."""

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

PORTS_OF_THE_SYSTEM = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Says what it was started with, answers as a healthy Airflow does, and has a child that must not outlive it.
AIRFLOW = f"""#!{sys.executable}
import http.server, json, os, signal, subprocess, sys
assert sys.argv[1:] == ["standalone"]
subprocess.Popen(["sleep", "600"])
with open(os.environ["AIRFLOW_HOME"] + "/simple_auth_manager_passwords.json.generated", "w") as file:
    file.write('{{"admin": "open-sesame"}}')
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        well = {{"status": "healthy"}}
        self.wfile.write(json.dumps({{"scheduler": well, "triggerer": well}}).encode())
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
    airflow.write_text(AIRFLOW)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_tells_how_to_get_in_and_leaves_nothing_behind(command: list[str], tmp_path: Path, number: Any) -> None:
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    timer = threading.Timer(60, running.kill)
    timer.start()
    said = ""
    assert running.stdout
    for line in running.stdout:
        said += line
        if "Ctrl-C" in line:
            running.send_signal(number)
    timer.cancel()

    assert running.wait() == 0
    assert "Log in with       admin, password open-sesame" in said
    assert "Airflow is at     http://127.0.0.1:" in said
    log = (tmp_path / "home" / "standalone.log").read_text()
    assert f"dags {Path('some/dags').resolve()}" in log
    assert "connection wasabi://emulator-access-key:emulator-secret-key@" in log
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "airflow") not in left


def test_an_airflow_that_breaks_is_told_with_all_that_it_said(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "BROKEN": "1"}
    )

    assert done.returncode == 1
    assert "the database is gone" in done.stdout
    assert "Airflow did not start: above is all that it said." in done.stdout


def test_a_port_in_use_is_told_before_anything_starts(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(standalone.signal, "signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert standalone.main(["--home", str(tmp_path / "home"), "--dags", "dags", "--port", str(port)]) == 1

    assert f"Port {port} is in use. Choose another one" in capsys.readouterr().out
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(not PORTS_OF_THE_SYSTEM.exists(), reason="only Linux tells which ports it gives away")
def test_nobody_is_given_the_port_before_airflow_takes_it() -> None:
    first, last = map(int, PORTS_OF_THE_SYSTEM.read_text().split())
    assert standalone.free_port() not in range(first, last + 1)
