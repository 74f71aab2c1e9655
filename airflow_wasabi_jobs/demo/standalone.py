"""Airflow standalone and the emulator, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import requests

from airflow_wasabi_jobs.emulator import AirEmulator
from airflow_wasabi_jobs.emulator.server import ACCESS_KEY, SECRET_KEY

BIN = Path(sys.executable).parent
START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS = 180.0, 30.0
# Of Airflow 3 and Airflow 2.
HEALTH_PATHS = ("api/v2/monitor/health", "health")
NEW_DAGS_SECONDS = 10
# Airflow has no setting for the address of its log servers, which listen on all. The UI reads the log files itself.
AIRFLOW_WITHOUT_LOG_SERVERS = """\
#!/bin/sh
case "$1" in scheduler|triggerer) set -- "$@" --skip-serve-logs;; esac
exec {airflow} "$@"
"""
PASSWORD_FILES = ("simple_auth_manager_passwords.json.generated", "standalone_admin_password.txt")
EXAMPLES_ADVICE = """
Trigger example_wasabi_submit_and_wait first. Then open the logs and XComs of its tasks.
A finished job stays finished: to wait again in example_wasabi_job_sensor, enter new job ids in its trigger form,
e.g. completes-again. The DAGs that submit create new jobs in each run.
"""


def main(arguments: list[str] | None = None) -> int:
    """Start Airflow and the emulator, print the URL and the login, and stop both at Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m airflow_wasabi_jobs.demo.standalone", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder for Airflow's database and logs")
    parser.add_argument("--dags", type=Path, required=True, help="folder with the DAGs")
    parser.add_argument("--port", type=int, default=8080, help="port of the Airflow UI")
    given = parser.parse_args(arguments)
    home, dags, port = given.home.resolve(), given.dags.resolve(), given.port
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if not dags.is_dir():
        _print(f"The folder {dags} does not exist. Choose the folder of your DAGs: DAGS=dags make airflow")
        return 1
    if not _is_free(port):
        _print(f"Port {port} is in use. Choose another port: PORT=8081 make airflow")
        return 1

    home.mkdir(parents=True, exist_ok=True)
    log = home / "standalone.log"
    with AirEmulator(results=(home / "results").as_uri()) as emulator, log.open("w") as output:
        _print("Starting Airflow; this takes about a minute ...")
        environment = _environment(home, dags, port)
        if not _add_connections(home, environment, emulator, output):
            _print(log.read_text(errors="replace"))
            _print("\nAirflow could not create its database and the connection. Its output is above.")
            return 1
        airflow = subprocess.Popen(  # noqa: S603 - the Airflow of this environment
            [str(BIN / "airflow"), "standalone"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A separate session: Ctrl-C reaches only this process, which then stops all of Airflow.
            start_new_session=True,
        )
        try:
            healthy = _wait_until_healthy(airflow, port, stop)
            if healthy:
                _print(_greeting(home, dags, port, emulator))
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


def _add_connections(home: Path, environment: dict[str, str], emulator: AirEmulator, output: IO[str]) -> bool:
    """Store the connections in the database of Airflow, because the UI does not show connections of variables."""
    file = home / "connections.json"
    connections = {
        "wasabi_default": emulator.connection_uri,
        # Of an example.
        "results_db": {"conn_type": "sqlite", "host": str(home / "results.db")},
    }
    file.write_text(json.dumps(connections))
    commands = ["db", "migrate"], ["connections", "import", "--overwrite", str(file)]
    return all(
        subprocess.run(  # noqa: S603 - the Airflow of this environment
            [str(BIN / "airflow"), *command],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        ).returncode
        == 0
        for command in commands
    )


def _environment(home: Path, dags: Path, port: int) -> dict[str, str]:
    program = home / "bin" / "airflow"
    program.parent.mkdir(exist_ok=True)
    program.write_text(AIRFLOW_WITHOUT_LOG_SERVERS.format(airflow=shlex.quote(str(BIN / "airflow"))))
    program.chmod(0o755)
    # Without the settings of another Airflow on this machine.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    url = f"http://127.0.0.1:{port}"
    return {
        **environment,
        # Airflow starts its components by name, and hangs if they are not found.
        "PATH": os.pathsep.join([str(program.parent), str(BIN), os.environ.get("PATH", "")]),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(port),
        "AIRFLOW__WEBSERVER__BASE_URL": url,
        # No log server listens there, and none of another Airflow.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        # Of Airflow 3 and Airflow 2: how often to look for new files, and for changes of a file.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": str(NEW_DAGS_SECONDS),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": str(NEW_DAGS_SECONDS),
        "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": str(NEW_DAGS_SECONDS),
        "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": str(NEW_DAGS_SECONDS),
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


def _greeting(home: Path, dags: Path, port: int, emulator: AirEmulator) -> str:
    content = next((path.read_text() for name in PASSWORD_FILES if (path := home / name).exists()), "")
    password = content.rpartition(":")[2].strip(' "}\n')
    examples = EXAMPLES_ADVICE if (dags / "example_wasabi_submit_and_wait.py").exists() else ""
    return f"""
Airflow UI   http://127.0.0.1:{port}
Login        admin, password {password}
DAGs         {dags} (a new file appears within 30 seconds)
Connection   wasabi_default, in Admin > Connections; reset to the emulator at each start
Emulator     {emulator.url}
Keys         access key {ACCESS_KEY}, secret key {SECRET_KEY}
{examples}
In the emulator, the name or the file name of a job controls how it ends: fails-clip.mp4 fails.
The output of Airflow is in {home / "standalone.log"}
Press Ctrl-C to stop."""


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
