"""A whole Airflow with the emulator beside it, until Ctrl-C: scheduler, triggerer and pages."""

from __future__ import annotations

import argparse
import contextlib
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
START_LIMIT, STOP_LIMIT = 180.0, 30.0
# Where Airflow 3 and Airflow 2 tell how they are, and where they write down the password they made up.
HEALTH = ("api/v2/monitor/health", "health")
PASSWORDS = ("simple_auth_manager_passwords.json.generated", "standalone_admin_password.txt")


def main(arguments: list[str] | None = None) -> int:
    """Start Airflow and the emulator, print the address and the login, and stop both at Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m airflow_wasabi_jobs.demo.standalone", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder for Airflow's database and logs")
    parser.add_argument("--dags", type=Path, required=True, help="folder with the DAGs to show")
    parser.add_argument("--port", type=int, default=8080, help="port of Airflow's pages")
    given = parser.parse_args(arguments)
    home, port = given.home.resolve(), given.port
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if not _is_free(port):
        _say(f"Port {port} is in use. Choose another one: PORT=8081 make airflow")
        return 1

    home.mkdir(parents=True, exist_ok=True)
    log = home / "standalone.log"
    with AirEmulator() as emulator, log.open("w") as output:
        _say("Starting Airflow, which takes up to a minute ...")
        airflow = subprocess.Popen(  # noqa: S603 - the Airflow of this very environment
            [str(BIN / "airflow"), "standalone"],
            env=_environment(home, given.dags.resolve(), port, emulator),
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C reaches Airflow once and from here, so that nothing of it is left.
            start_new_session=True,
        )
        try:
            healthy = _wait_until_healthy(airflow, port, stop)
            if healthy:
                _say(_greeting(home, port, emulator))
                while airflow.poll() is None and not stop.wait(0.5):
                    pass
            broke = not stop.is_set()
        finally:
            _say("\nStopping ...")
            _stop(airflow)
    if broke:
        _say(log.read_text(errors="replace"))
        _say(f"\nAirflow {'ended by itself' if healthy else 'did not start'}: above is all that it said.")
    return int(broke)


def _environment(home: Path, dags: Path, port: int, emulator: AirEmulator) -> dict[str, str]:
    # Nothing of another Airflow on this machine: it is neither used nor touched.
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    url = f"http://127.0.0.1:{port}"
    return {
        **mine,
        # Airflow starts its parts by name, and hangs half started if they are not found.
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_WASABI_DEFAULT": emulator.connection_uri,
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
    for _ in range(int(START_LIMIT)):
        if airflow.poll() is not None or stop.wait(1):
            return False
        if any(_answers(f"http://127.0.0.1:{port}/{path}") for path in HEALTH):
            return True
    return False


def _answers(url: str) -> bool:
    try:
        health = requests.get(url, timeout=5, headers={"Accept": "application/json"}).json()
        return bool(health["scheduler"]["status"] == "healthy" and health["triggerer"]["status"] == "healthy")
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False


def _greeting(home: Path, port: int, emulator: AirEmulator) -> str:
    written = next((path.read_text() for name in PASSWORDS if (path := home / name).exists()), "")
    password = written.rpartition(":")[2].strip(' "}\n')
    return f"""
Airflow is at     http://127.0.0.1:{port}
Log in with       admin, password {password}
The emulator is   {emulator.url}, in connection wasabi_default

Trigger the DAGs, first of all example_wasabi_submit_and_wait, and look at their tasks' logs and XComs.
A job ends once: for another wait of example_wasabi_job_sensor, choose other ids in its trigger form, like
completes-again. A DAG that submits has jobs of its own in each run.
Ctrl-C stops all of it. What Airflow says is in {home / "standalone.log"}"""


def _stop(airflow: subprocess.Popen[bytes]) -> None:
    # SIGINT is what Airflow takes for an orderly end; its parts are in its session, and none of them may stay.
    if airflow.poll() is None:
        airflow.send_signal(signal.SIGINT)
    try:
        airflow.wait(STOP_LIMIT)
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
    """Return a port that is free, and none of those that the system gives to whoever connects meanwhile."""
    below_those = range(20_000, 30_000)
    return next(port for port in random.sample(below_those, len(below_those)) if _is_free(port))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it is what the command is for


if __name__ == "__main__":
    sys.exit(main())
