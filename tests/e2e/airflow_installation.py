"""
An Airflow installation: its processes, its REST API, and an emulator in a separate process.

Nothing of it runs in the test process, and the source folder is not on its path.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psutil
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from airflow_wasabi_jobs.demo.standalone import free_port

BIN = Path(sys.executable).parent
IS_AIRFLOW_2 = version("apache-airflow").startswith("2.")
WITH_CELERY = find_spec("celery") is not None
# The command of each process, by the name of the process.
SERVERS = {name: [name] for name in (["webserver"] if IS_AIRFLOW_2 else ["api-server", "dag-processor"])}
ONE_OF_EACH: Mapping[str, Sequence[str]] = {**SERVERS, "scheduler": ["scheduler"], "triggerer": ["triggerer"]}
TRIGGERERS, WORKERS = ("triggerer-1", "triggerer-2"), ("worker-1", "worker-2")
TWO_OF_EACH: Mapping[str, Sequence[str]] = {
    **SERVERS,
    # The servers of their logs would use the same port.
    **{name: ["scheduler", "--skip-serve-logs"] for name in ("scheduler-1", "scheduler-2")},
    **{name: ["triggerer"] for name in TRIGGERERS},
    # Without --pid, both workers use the same file.
    **{
        name: ["celery", "worker", "--celery-hostname", f"{name}@%h", "--pid", f"{name}.pid"]
        for name in (WORKERS if WITH_CELERY else ())
    },
}
# How many waits there are with each outcome, where the second triggerer takes over. A task of Airflow 2 takes longer.
WAITS = 100 if WITH_CELERY else 20
START_TIMEOUT, RUN_TIMEOUT = 180.0, 900.0
# Every wait ends after so many minutes, so that all processes are stopped properly.
MINUTES = float(os.environ.get("E2E_MINUTES", "50"))
DEADLINE = time.monotonic() + MINUTES * 60

ACCESS_KEY = "AKIA-E2E-ACCESS-KEY-0001"
SECRET_KEY = "e2e/Secret+Key=of-the-emulator/0002"
NEW_SECRET_KEY = "e2e/Secret+Key=after-the-change/0003"
SOURCE_ACCESS_KEY = "AKIA-E2E-OF-THE-SOURCE-0004"
SOURCE_SECRET_KEY = "e2e/Secret+Key=of-the-source/0005"
STORAGE_ACCESS_KEY = "AKIA-E2E-OF-THE-STORAGE-0006"
STORAGE_SECRET_KEY = "e2e/Secret+Key=of-the-storage/0007"


def until(condition: Callable[[], Any], description: str | Callable[[], str], timeout: float = RUN_TIMEOUT) -> Any:
    """Wait until the condition is true, and return its value."""
    deadline = min(time.monotonic() + timeout, DEADLINE)
    while not (value := condition()):
        if time.monotonic() > deadline:
            missing = description if isinstance(description, str) else description()
            raise AssertionError(f"after {timeout:.0f} seconds, or {MINUTES:.0f} minutes in all, still not {missing}")
        time.sleep(0.5)
    return value


class Process:
    """A process in its own session, so that it can be killed with all its child processes."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, cwd: Path) -> None:
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True
            )
        self.log = log

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        while members := [pid for pid in psutil.pids() if self._is_member(pid)]:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            time.sleep(0.01)

    def contains(self, pid: int) -> bool:
        """Whether this is the process, or one of its child processes."""
        return pid in [member for member in psutil.pids() if self._is_member(member)]

    def _is_member(self, pid: int) -> bool:
        with contextlib.suppress(OSError, psutil.Error):
            return os.getsid(pid) == self._process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.is_alive():
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        self.kill()


class Storage:
    """An S3 server."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [str(BIN / "moto_server"), "--host", "127.0.0.1", "--port", str(port)]
        self.process = Process(command, dict(os.environ), folder / "storage.log", folder)
        try:
            until(self._is_listening, "listening", 30)
        except BaseException:
            self.process.stop()
            raise

    def _is_listening(self) -> bool:
        assert self.process.is_alive(), self.process.log.read_text()
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(self.url, timeout=10).ok
        return False


class Emulator:
    """
    ``wasabi-air-emulator`` on a port that stays the same after a restart.

    With a storage, it writes the results of its jobs there. The options are those of the command.
    """

    def __init__(self, folder: Path, storage: Storage | None = None, options: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = [*options, *(["--results", "s3://"] if storage else [])]
        self._environment = dict(os.environ)
        if storage:
            self._environment |= {
                "AWS_ENDPOINT_URL": storage.url,
                "AWS_ACCESS_KEY_ID": STORAGE_ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": STORAGE_SECRET_KEY,
            }
        self.start()

    def start(self, secret_key: str = SECRET_KEY) -> None:
        self.secret_key = secret_key
        keys = ["--access-key", ACCESS_KEY, "--secret-key", secret_key]
        self.process = Process(
            [str(BIN / "wasabi-air-emulator"), "--port", str(self.port), "--verbose", *keys, *self._options],
            self._environment,
            self._folder / f"emulator-{self.port}.log",
            self._folder,
        )
        try:
            until(self._is_listening, "listening", 30)
        except BaseException:
            self.process.stop()
            raise

    def _is_listening(self) -> bool:
        assert self.process.is_alive(), self.process.log.read_text()
        return self.get("/jobs", pageSize="1") is not None

    def get(self, path: str, **query: str) -> Any:
        keys = {"x-amz-access-key": ACCESS_KEY, "x-amz-secret-key": self.secret_key}
        with contextlib.suppress(requests.ConnectionError), requests.Session() as session:
            # It may have an error rate.
            session.mount("http://", HTTPAdapter(max_retries=Retry(5, connect=0, status_forcelist=[500])))
            return session.get(self.url + path, headers=keys, params=query, timeout=10).json()
        return None

    def count_polls(self) -> int:
        """Return the number of GET requests so far."""
        return self.process.log.read_text().count("GET ")

    def count_submissions(self) -> int:
        """Return the number of jobs that were submitted so far."""
        lines = self.process.log.read_text().splitlines()
        return sum(line in {"POST /jobs 200", "POST /jobs lost"} for line in lines)

    def jobs(self, name: str) -> list[dict[str, Any]]:
        """Return all jobs with this name."""
        return list(self.get("/jobs", name=name, pageSize="100")["Records"])

    def files_of_batch(self, batch: str) -> list[str]:
        """Return the file of each job of a batch."""
        files: list[str] = []
        while page := self.get("/jobs", batch=batch, pageSize="100", pageNumber=str(len(files) // 100 + 1))["Records"]:
            files += [job["Source"]["ObjectKey"] for job in page]
            if len(page) < 100:
                break
        return files


class Airflow:
    """
    Airflow's processes, on free loopback ports, and its REST API.

    :param home: folder for its logs, the output of its processes, and its database if it is SQLite.
    :param dags: folder with the DAGs.
    :param environment: more environment variables of its processes, such as connections, or another database.
    :param components: the command of each process, by the name of the process.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        environment: dict[str, str],
        components: Mapping[str, Sequence[str]] = ONE_OF_EACH,
    ) -> None:
        self.home = home
        self._components = components
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, Process] = {}
        self.responses: list[str] = []
        self._session = requests.Session()
        # Airflow may respond with 500 while SQLite is busy.
        retry = Retry(5, status_forcelist=[500, 502, 503, 504], allowed_methods=["GET"], backoff_factor=0.5)
        self._session.mount("http://", HTTPAdapter(max_retries=retry))
        # Without the settings of another Airflow on this machine.
        own_environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        self._environment = {
            **own_environment,
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",
            "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
            "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(self.port),
            "AIRFLOW__WEBSERVER__BASE_URL": self.url,
            "AIRFLOW__WEBSERVER__WORKERS": "1",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            # After this many seconds, another triggerer takes over the triggers of a dead one.
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
            "PYTHONWARNINGS": "ignore",
            **environment,
        }

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            self.command("db", "migrate")
            if IS_AIRFLOW_2:
                names = ("--firstname", "e2e", "--lastname", "e2e", "--email", "e2e@example.com", "--role", "Admin")
                self.command("users", "create", "--username", "admin", "--password", "admin", *names)
            for name, command in self._components.items():
                self.start(*command, name=name)
            until(self._is_healthy, f"healthy: see {self.home}", START_TIMEOUT)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            process.stop()

    def command(self, *arguments: str) -> str:
        completed_process = subprocess.run(
            [str(BIN / "airflow"), *arguments],
            env=self._environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if completed_process.returncode:
            raise AssertionError(
                f"airflow {' '.join(arguments)}:\n{completed_process.stdout}\n{completed_process.stderr}"
            )
        return completed_process.stdout

    def start(self, component: str, *options: str, name: str | None = None) -> Process:
        """Start a component of Airflow; a second process of the same component needs another name."""
        name = name or component
        environment = {**self._environment, "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port())}
        command = [str(BIN / "airflow"), component, *options]
        self.processes[name] = Process(command, environment, self.home / f"{name}.log", self.home)
        return self.processes[name]

    def restart(self, name: str) -> Process:
        """Start a process again that has ended or was killed, with the same command."""
        return self.start(*self._components[name], name=name)

    def _is_healthy(self) -> bool:
        stopped = [name for name, process in self.processes.items() if not process.is_alive()]
        assert not stopped, f"{stopped} ended: see {self.home}"
        with contextlib.suppress(requests.RequestException, ValueError, KeyError, TypeError):
            path = "health" if IS_AIRFLOW_2 else "api/v2/monitor/health"
            health = requests.get(f"{self.url}/{path}", timeout=5).json()
            return all(health[part]["status"] == "healthy" for part in ("scheduler", "triggerer"))
        return False

    # REST API

    def request(self, method: str, path: str, *, keep: bool = True, **arguments: Any) -> Any:
        """Send a request to Airflow's REST API, and keep the response for the search for secrets at the end."""
        if IS_AIRFLOW_2:
            self._session.auth = ("admin", "admin")
        elif "Authorization" not in self._session.headers:
            token = self._session.get(f"{self.url}/auth/token", timeout=30).json()["access_token"]
            self._session.headers["Authorization"] = f"Bearer {token}"
        response = self._session.request(
            method,
            f"{self.url}/api/{'v1' if IS_AIRFLOW_2 else 'v2'}{path}",
            headers={"Accept": "application/json"},
            timeout=60,
            **arguments,
        )
        if response.status_code == 404:
            return None
        assert response.ok, f"{method} {path}: {response.status_code} {response.text}"
        if keep:
            self.responses.append(response.text)
        return response.json() if response.text else None

    def add_connection(self, conn_id: str, host: str, secret_key: str = SECRET_KEY, **extra: Any) -> None:
        body = {
            "connection_id": conn_id,
            "conn_type": "wasabi",
            "host": host,
            "login": ACCESS_KEY,
            "password": secret_key,
            "extra": json.dumps(extra),
        }
        # The responses contain the login, because Airflow shows the login of a connection.
        self.request("DELETE", f"/connections/{conn_id}", keep=False)
        self.request("POST", "/connections", keep=False, json=body)

    def trigger(self, dag_id: str, **conf: Any) -> str:
        until(lambda: self.request("GET", f"/dags/{dag_id}"), f"a DAG {dag_id}", 120)
        body = {"conf": conf} if IS_AIRFLOW_2 else {"conf": conf, "logical_date": None}
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def finish(self, dag_id: str, run_id: str, timeout: float = RUN_TIMEOUT) -> str:
        """Wait until a run has finished, and return its state."""

        def finished_state() -> Any:
            state = self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}", keep=False)["state"]
            return state if state in {"success", "failed"} else None

        def unfinished() -> str:
            states = self.states(dag_id, run_id)
            names = [f"{name} {state}" for name, state in states.items() if state not in {"success", "skipped"}]
            return f"the end of {dag_id} {run_id}: {dict(Counter(states.values()))}, {names[:50]}"

        return str(until(finished_state, unfinished, timeout))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run, including mapped ones."""
        tasks: list[dict[str, Any]] = []
        total = 1
        while len(tasks) < total:
            params = {"limit": 100, "offset": len(tasks)}
            response = self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params=params)
            tasks += response["task_instances"]
            total = response["total_entries"]
        return tasks

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        return {_name(task): task["state"] for task in self.tasks(dag_id, run_id)}

    def xcom(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, key: str = "return_value") -> Any:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        params: dict[str, Any] = {"map_index": map_index}
        if IS_AIRFLOW_2:
            params["deserialize"] = "false"
        xcom = self.request("GET", path, params=params)
        value = xcom and xcom["value"]
        return _parse_python_literal(value) if IS_AIRFLOW_2 else value

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        response = self.request("GET", path, params={"map_index": map_index, "full_content": "true"})
        content = response["content"] if response else ""
        if IS_AIRFLOW_2:
            return "\n".join(text for _, text in _parse_python_literal(content)) if content else ""
        return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in content)


def _parse_python_literal(text: Any) -> Any:
    # Airflow 2 returns values that are not strings as Python literals.
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _name(task: dict[str, Any]) -> str:
    return task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]"
