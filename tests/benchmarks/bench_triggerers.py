"""
Cost of deferred waits in the processes of real Airflow triggerers, with PostgreSQL: ``make bench``.

It is read from ``/proc``, and from the database, for four kinds of triggers: those of this provider (``poller``), one
polling loop for each wait (``baseline``), one sleep for each wait (``sleep``), and Airflow's own ``DateTimeTrigger``
(``datetime``). The jobs end within 20 seconds, after all waits have been polled at least once. The poll interval is 5
seconds, and the latency 50 ms. No time limit fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))
from airflow_installation import BIN, Process, free_port  # noqa: E402 - found in the folder above
from servers import PostgreSQL  # noqa: E402 - as above

INTERVAL = 5.0
DAG = """
from datetime import datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("waits", schedule=None, start_date=datetime(2025, 1, 1)):
    EmptyOperator(task_id="waits")
"""
# All processes of a triggerer have one of these roles.
ROLES = ("supervisor", "runner", "log server")
# A triggerer that has sent two heartbeats has started.
IDLE = "job_type = 'TriggererJob' AND state = 'running' AND latest_heartbeat > start_date + interval '9 seconds'"
DEFERRED = "state = 'deferred'"
# Airflow sets scheduled_dttm when it stores the event.
OUTCOMES = (
    "SELECT map_index, state, next_method, next_kwargs->'event', extract(epoch FROM scheduled_dttm)"
    " FROM task_instance WHERE map_index >= 0"
)
BLOCKED = re.compile(r"async thread was blocked for ([\d.]+) seconds")


class Installation:
    """Airflow's home and database, with one DAG."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "airflow"
        self.database = PostgreSQL(folder)
        (self.home / "dags").mkdir(parents=True)
        (self.home / "dags" / "waits.py").write_text(DAG)
        # The triggerer can import the triggers to compare with, and no other module of this folder.
        (self.home / "modules").mkdir()
        for module in ("baseline_trigger.py", "sleep_trigger.py"):
            shutil.copy(HERE / module, self.home / "modules")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{self.database.url}",
            "PYTHONPATH": str(self.home / "modules"),
        }
        for command in (["db", "migrate"], ["dags", "reserialize"]):
            subprocess.run(
                [BIN / "airflow", *command], env=self.environment, cwd=self.home, check=True, capture_output=True
            )

    def count(self, table: str, condition: str) -> int:
        return int(self.database.query(f"SELECT count(*) FROM {table} WHERE {condition}")[0][0])

    @contextmanager
    def triggerers(self, number: int, capacity: int, url: str) -> Iterator[list[Process]]:
        connection = {"conn_type": "wasabi", "host": url, "login": "emulator-access-key"}
        processes = []
        try:
            for index in range(number):
                environment = {
                    **self.environment,
                    "AIRFLOW_CONN_WASABI": json.dumps({**connection, "password": "emulator-secret-key"}),
                    "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
                }
                command = [str(BIN / "airflow"), "triggerer", "--capacity", str(capacity)]
                log = self.home / f"triggerer-{index}.log"
                log.unlink(missing_ok=True)
                processes.append(Process(command, environment, log, self.home))
            yield processes
        finally:
            for process in processes:
                process.stop()


class Helper:
    """A script of this folder that reads and writes lines."""

    def __init__(self, script: str, *arguments: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def send(self, data: Any) -> None:
        self.process.stdin.write(json.dumps(data) + "\n")
        self.process.stdin.flush()

    def read(self, prefix: str = "") -> str:
        for line in self.process.stdout:
            if line.startswith(prefix):
                return line
        raise RuntimeError(f"{self.process.args} ended")


class Meter:
    """Memory, CPU time and open files of all processes of the triggerers, by what they do."""

    def __init__(self, triggerers: list[Process]) -> None:
        members = [process for process in psutil.process_iter() if any(one.contains(process.pid) for one in triggerers)]
        self._roles = {process: _role(process) for process in members}

    def read(self) -> dict[str, float]:
        figures = dict.fromkeys((f"{name}, {role}" for name in ("CPU", "PSS", "RSS", "files") for role in ROLES), 0.0)
        for process, role in self._roles.items():
            # The proportional set size divides the memory that a process shares with others.
            rollup = dict(re.findall(r"^(Pss|Rss): +(\d+) kB", _read(process, "smaps_rollup"), re.MULTILINE))
            times = process.cpu_times()
            figures[f"CPU, {role}"] += times.user + times.system
            figures[f"PSS, {role}"] += int(rollup["Pss"]) / 1024
            figures[f"RSS, {role}"] += int(rollup["Rss"]) / 1024
            figures[f"files, {role}"] += process.num_fds()
        return figures


def _read(process: psutil.Process, name: str) -> str:
    return Path(f"/proc/{process.pid}/{name}").read_text()


def _role(process: psutil.Process) -> str:
    if os.getsid(process.pid) == process.pid:
        return "supervisor"
    return "log server" if "serve-logs" in process.cmdline()[0] else "runner"


def until(condition: Callable[[], bool], description: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:.0f} seconds still not {description}")
        time.sleep(0.5)


class Logs:
    """The log of each wait, which a triggerer writes."""

    def __init__(self, home: Path, run_id: str, numbers: range) -> None:
        self._missing = [home / "logs/dag_id=waits" / f"run_id={run_id}/task_id=waits/map_index={n}" for n in numbers]

    def have(self, lines: int) -> bool:
        """Whether each log has so many lines. The first one says that the trigger starts, the second one a status."""
        while self._missing:
            folder = self._missing[-1]
            if sum(path.read_bytes().count(b"\n") for path in folder.glob("*.log")) < lines:
                return False
            self._missing.pop()
        return True


class Setup(NamedTuple):
    """What the runs of a table have in common."""

    count: int
    triggerers: int
    portion: int
    first_end: float
    behaviour: dict[str, Any]


class Observation(NamedTuple):
    """What was observed of a run, from outside."""

    kind: str
    waits: list[tuple[int, str, float]]
    idle: dict[str, float]
    first: dict[str, float]
    loading_seconds: float
    waiting_from: float
    waiting: list[dict[str, float]]
    waiting_until: float
    ended: dict[str, float]
    requests: list[tuple[float, str]]
    rows: list[tuple[Any, ...]]
    log: str


def run(installation: Installation, kind: str, setup: Setup) -> dict[str, float]:
    """Run N waits until they have ended, and return the figures."""
    run_id = f"{kind}-{time.time():.0f}"
    behaviour = json.dumps({"latency_ms": 50, **setup.behaviour})
    server_arguments = str(setup.count), behaviour, str(setup.first_end)
    capacity = math.ceil(setup.count / setup.triggerers)
    shutil.rmtree(installation.home / "logs", ignore_errors=True)
    with (
        Helper("server.py", *server_arguments, environment=installation.environment) as server,
        Helper("deferred_tasks.py", environment=installation.environment) as deferred_tasks,
        installation.triggerers(setup.triggerers, capacity, server.read("http").strip()) as triggerers,
    ):
        deferred_tasks.send({"run_id": run_id, "kind": kind})
        deferred_tasks.read("READY")
        until(lambda: installation.count("job", IDLE) == setup.triggerers, "idle", 120)
        meter = Meter(triggerers)
        idle = meter.read()
        server.send("start")
        end_times: dict[str, float] = json.loads(server.read())
        # The newest jobs first, because a task is deferred soon after its job was submitted.
        waits = [(number, job_id, ends_at) for number, (job_id, ends_at) in enumerate(reversed(end_times.items()))]

        def defer(begin: int, end: int, lines: int) -> None:
            deferred_tasks.send(waits[begin:end])
            deferred_tasks.read("DEFERRED")
            logs = Logs(installation.home, run_id, range(begin, min(end, setup.count)))
            until(partial(logs.have, lines), f"in the logs of the waits {begin} to {end}", 600)

        defer(0, 1, lines=2)
        first, started_at = meter.read(), time.time()
        for begin in range(1, setup.count, setup.portion):
            defer(begin, begin + setup.portion, lines=1)
        until(partial(Logs(installation.home, run_id, range(setup.count)).have, 2), "polled", 600)
        waiting, waiting_from = [meter.read()], time.time()
        waiting_until = min(end_times.values()) - 1
        assert waiting_until - waiting_from > 2 * INTERVAL, f"--first-end {setup.first_end} is too soon"
        assert installation.count("task_instance", DEFERRED) == setup.count
        while time.time() < waiting_until:
            time.sleep(1)
            waiting.append(meter.read())
        until(lambda: not installation.count("task_instance", DEFERRED), "ended", 1800)
        ended = meter.read()
        server.send("end")
        requests: list[tuple[float, str]] = json.loads(server.read())
    return figures(
        Observation(
            kind=kind,
            waits=waits,
            idle=idle,
            first=first,
            loading_seconds=waiting_from - started_at,
            waiting_from=waiting_from,
            waiting=waiting,
            waiting_until=waiting_until,
            ended=ended,
            requests=requests,
            rows=installation.database.query(OUTCOMES),
            log="".join(path.read_text() for path in installation.home.glob("triggerer-*.log")),
        )
    )


def figures(seen: Observation) -> dict[str, float]:
    delays = [
        float(stored_at) - seen.waits[number][2]
        for number, state, method, event, stored_at in seen.rows
        if state == "scheduled" and method == "execute_complete" and is_right(seen.kind, seen.waits[number], event)
    ]
    blocked = [float(seconds) for seconds in BLOCKED.findall(seen.log)]
    seconds = seen.waiting_until - seen.waiting_from
    requests = sum(seen.waiting_from <= at < seen.waiting_until for at, _ in seen.requests)
    memory = {name: max(sample[name] for sample in seen.waiting) for name in seen.idle}
    nothing = dict.fromkeys(seen.idle, 0.0)
    phases = {"idle": (nothing, seen.idle), "first wait": (seen.idle, seen.first), "more waits": (seen.first, memory)}
    cpu = {role: seen.ended[f"CPU, {role}"] - seen.idle[f"CPU, {role}"] for role in ROLES}
    cpu_of_waiting = {role: seen.waiting[-1][f"CPU, {role}"] - seen.waiting[0][f"CPU, {role}"] for role in ROLES}
    return {
        "wrong outcomes": len(seen.waits) - len(delays),
        "requests": len(seen.requests),
        "list requests": sum(kind.startswith("list") for _, kind in seen.requests),
        "requests per poll interval while all wait": requests / seconds * INTERVAL,
        "CPU s": sum(cpu.values()),
        **{f"CPU s, {role}": cpu[role] for role in ROLES},
        **{f"CPU s per minute while all wait, {role}": cpu_of_waiting[role] / seconds * 60 for role in ROLES},
        **{
            f"{name} MB, {role}, {phase}": after[f"{name}, {role}"] - before[f"{name}, {role}"]
            for name in ("RSS", "PSS")
            for role in ROLES
            for phase, (before, after) in phases.items()
        },
        "open files, supervisor": memory["files, supervisor"],
        "delay median s": statistics.median(delays or [math.nan]),
        "delay max s": max(delays, default=math.nan),
        "event loop blocked, times": len(blocked),
        "event loop blocked, max s": max(blocked, default=0.0),
        "s until all are polled": seen.loading_seconds,
    }


def is_right(kind: str, wait: tuple[int, str, float], event: Any) -> bool:
    if kind == "datetime":
        return bool(event)
    return isinstance(event, dict) and event.get("job_id") == wait[1] and event.get("status") == "completed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="*", default=[2000])
    parser.add_argument("--triggerers", type=int, default=2)
    # A triggerer of Airflow 3.3 can hang when it starts more triggers at once.
    parser.add_argument("--portion", type=int, default=250, help="how many tasks are deferred at once")
    parser.add_argument("--kinds", nargs="*", default=["poller", "baseline", "sleep", "datetime"])
    parser.add_argument("--first-end", type=float, help="seconds from the start to the first end of a job")
    parser.add_argument("--behaviour", type=json.loads, default={})
    arguments = parser.parse_args()
    # All processes are stopped after SIGTERM, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        # PostgreSQL runs as another user.
        Path(folder).chmod(0o755)
        installation = Installation(Path(folder))
        try:
            for count in arguments.counts:
                first_end = arguments.first_end or 60 + count / arguments.triggerers / 20
                setup = Setup(count, arguments.triggerers, arguments.portion, first_end, arguments.behaviour)
                results = {
                    kind: [run(installation, kind, setup) for _ in range(arguments.runs)] for kind in arguments.kinds
                }
                print(f"\n{count} waits, {setup.triggerers} triggerers, medians of {arguments.runs} runs")
                print_table(results)
        finally:
            installation.database.stop()


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians, and how many times those of the first kind the others are."""
    print(f"{'':50}" + "".join(f"{kind:>20}" for kind in results))
    for name in next(iter(results.values()))[0]:
        medians = [statistics.median(one[name] for one in runs) for runs in results.values()]
        cells = [f"{medians[0]:.2f}", *(f"{one:.2f} {one / (medians[0] or math.nan):7.2f}x" for one in medians[1:])]
        print(f"{name:50}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
