"""
Cost of 1,000 and 10,000 waits in one triggerer, compared with one polling loop per wait: ``make bench``.

Jobs finish 10 to 30 seconds after the start, with a poll every 5 seconds and a latency of 50 ms. No time limit fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INTERVAL = 5.0


def run(kind: str, count: int, limit: float, **behaviour: Any) -> dict[str, float]:
    """Run N waits until they have finished, and return the figures."""
    behaviour = {"latency_ms": 50, **behaviour}
    with tempfile.TemporaryDirectory() as home:
        server = _process("server.py", str(count), json.dumps(behaviour), home=home)
        url = server.stdout.readline().strip()
        waits = _process("waits.py", kind, url, str(limit), home=home)
        while waits.stdout.readline().strip() != "ready":
            pass
        _send(server, "start")
        end_times = json.loads(server.stdout.readline())
        _send(waits, json.dumps(list(end_times)))
        wait_data = next(line for line in waits.stdout if line.startswith("MEASURED"))
        waits.wait()
        _send(server, "end")
        requests = json.loads(server.stdout.readline())
        server.wait()
    return figures(json.loads(wait_data.removeprefix("MEASURED")), requests, end_times)


def figures(
    wait_data: dict[str, Any], requests: list[tuple[float, str]], end_times: dict[str, float]
) -> dict[str, float]:
    started_at, lags = wait_data["started_at"], wait_data["lags"]
    correct = {job_id: at for job_id, (at, status) in wait_data["outcomes"].items() if status == "completed"}
    delays = sorted(at - end_times[job_id] for job_id, at in correct.items()) or [float("nan")]
    first_end = min(end_times.values())
    poll_count = max(1, int((first_end - started_at) // INTERVAL))
    return {
        "correct": len(correct),
        "requests": len(requests),
        "list requests": sum(kind.startswith("list") for _, kind in requests),
        "requests per poll before the first end": sum(at < first_end for at, _ in requests) / poll_count,
        "CPU s": wait_data["cpu"],
        "memory MB": wait_data["memory"] / 2**20,
        "memory of imports MB": wait_data["memory of imports"] / 2**20,
        "lag p99 ms": lags[int(len(lags) * 0.99)] * 1000,
        "lag max ms": lags[-1] * 1000,
        "delay median, intervals": statistics.median(delays) / INTERVAL,
        "delay max, intervals": delays[-1] / INTERVAL,
        "delay max, s": delays[-1],
    }


def _process(script: str, *arguments: str, home: str) -> subprocess.Popen[str]:
    import os

    environment = {
        **os.environ,
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _send(process: subprocess.Popen[str], line: str) -> None:
    process.stdin.write(line + "\n")
    process.stdin.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--kinds", nargs="*", default=["poller", "baseline"])
    parser.add_argument("--behaviour", type=json.loads, default={})
    parser.add_argument("--limit", type=float, default=120.0)
    arguments = parser.parse_args()
    for count in arguments.counts:
        results = {
            kind: [run(kind, count, arguments.limit, **arguments.behaviour) for _ in range(arguments.runs)]
            for kind in arguments.kinds
        }
        print(f"\n{count} waits, medians of {arguments.runs} runs {arguments.behaviour or ''}")
        print(f"{'':40}" + "".join(f"{kind:>14}" for kind in results))
        for name in next(iter(results.values()))[0]:
            medians = [statistics.median(one[name] for one in runs) for runs in results.values()]
            print(f"{name:40}" + "".join(f"{median:14.2f}" for median in medians))


if __name__ == "__main__":
    main()
