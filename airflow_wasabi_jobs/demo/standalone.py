"""Airflow standalone and the emulator, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import requests

from airflow_wasabi_jobs.emulator import AirEmulator

BIN = Path(sys.executable).parent
START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS = 180.0, 30.0
# Of Airflow 3 and Airflow 2.
HEALTH_PATHS = ("api/v2/monitor/health", "health")
PASSWORD_FILES = ("simple_auth_manager_passwords.json.generated", "standalone_admin_password.txt")


def main(arguments: list[str] | None = None) -> int:
    """Start Airflow and the emulator, print the URL and the login, and stop both at Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m airflow_wasabi_jobs.demo.standalone", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder for Airflow's database and logs")
    parser.add_argument("--dags", type=Path, required=True, help="folder with the DAGs")
    parser.add_argument("--port", type=int, default=8080, help="port of the Airflow UI")
    given = parser.parse_args(arguments)
    home, port = given.home.resolve(), given.port
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if not _is_free(port):
        _print(f"Port {port} is in use. Choose another port: PORT=8081 make airflow")
        return 1

    home.mkdir(parents=True, exist_ok=True)
    log = home / "standalone.log"
    with AirEmulator(results=(home / "results").as_uri()) as emulator, log.open("w") as output:
        _print("Starting Airflow; this takes up to a minute ...")
        airflow = subprocess.Popen(  # noqa: S603 - the Airflow of this environment
            [str(BIN / "airflow"), "standalone"],
            env=_environment(home, given.dags.resolve(), port, emulator),
            stdout=output,
            stderr=subprocess.STDOUT,
            # A separate session: Ctrl-C reaches only this process, which then stops all of Airflow.
            start_new_session=True,
        )
        try:
            healthy = _wait_until_healthy(airflow, port, stop)
            if healthy:
                _print(_greeting(home, port, emulator))
                while airflow.poll() is None and not stop.wait(0.5):
                    pass
            failed = not stop.is_set()
        finally:
            _print("\nStopping ...")
            _stop(airflow)
    if failed:
        _print(log.read_text(errors="replace"))
        _print(f"\nAirflow {'stopped unexpectedly' if healthy else 'did not start'}. Its output is above.")
    return int(failed)


def _environment(home: Path, dags: Path, port: int, emulator: AirEmulator) -> dict[str, str]:
    # Without the settings of another Airflow on this machine.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    url = f"http://127.0.0.1:{port}"
    return {
        **environment,
        # Airflow starts its components by name, and hangs if they are not found.
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_WASABI_DEFAULT": emulator.connection_uri,
        "AIRFLOW_CONN_RESULTS_DB": json.dumps({"conn_type": "sqlite", "host": str(home / "results.db")}),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(port),
        "AIRFLOW__WEBSERVER__BASE_URL": url,
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }


def _wait_until_healthy(airflow: subprocess.Popen[bytes], port: int, stop: threading.Event) -> bool:
    for _ in range(int(START_TIMEOUT_SECONDS)):
        if airflow.poll() is not None or stop.wait(1):
            return False
        if any(_is_healthy(f"http://127.0.0.1:{port}/{path}") for path in HEALTH_PATHS):
            return True
    return False


def _is_healthy(url: str) -> bool:
    try:
        health = requests.get(url, timeout=5, headers={"Accept": "application/json"}).json()
        return bool(health["scheduler"]["status"] == "healthy" and health["triggerer"]["status"] == "healthy")
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False


def _greeting(home: Path, port: int, emulator: AirEmulator) -> str:
    content = next((path.read_text() for name in PASSWORD_FILES if (path := home / name).exists()), "")
    password = content.rpartition(":")[2].strip(' "}\n')
    return f"""
Airflow UI        http://127.0.0.1:{port}
Login             admin, password {password}
Emulator          {emulator.url} (connection wasabi_default)

Trigger the DAGs, example_wasabi_submit_and_wait first, and open the logs and XComs of their tasks.
A finished job stays finished: to let example_wasabi_job_sensor wait again, enter other job ids in its trigger form,
e.g. completes-again. A DAG that submits creates new jobs in each run.
Press Ctrl-C to stop. The output of Airflow is in {home / "standalone.log"}"""


def _stop(airflow: subprocess.Popen[bytes]) -> None:
    # Airflow stops cleanly on SIGINT. Its components are in its session, and none may be left.
    if airflow.poll() is None:
        airflow.send_signal(signal.SIGINT)
    try:
        airflow.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        airflow.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(airflow.pid, signal.SIGKILL)
    airflow.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a free port outside the range of ephemeral ports, which other connections may take meanwhile."""
    candidates = range(20_000, 30_000)
    return next(port for port in random.sample(candidates, len(candidates)) if _is_free(port))


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the output of the command


if __name__ == "__main__":
    sys.exit(main())
