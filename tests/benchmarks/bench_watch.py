"""
What a thousand and ten thousand waits cost in one triggerer, beside a loop of its own for each: ``make bench``.

Jobs end 10 to 30 seconds after the start, a look every 5 seconds, answers after 50 ms. Nothing here fails on time.
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
    """Run N waits to their end, and return the figures."""
    behaviour = {"latency_ms": 50, **behaviour}
    with tempfile.TemporaryDirectory() as home:
        server = _process("server.py", str(count), json.dumps(behaviour), home=home)
        url = server.stdout.readline().strip()
        waits = _process("waits.py", kind, url, str(limit), home=home)
        while waits.stdout.readline().strip() != "ready":
            pass
        _tell(server, "start")
        _tell(waits, server.stdout.readline().strip())
        measured = next(line for line in waits.stdout if line.startswith("MEASURED"))
        waits.wait()
        _tell(server, "end")
        served = json.loads(server.stdout.readline())
        server.wait()
    return figures(count, json.loads(measured.removeprefix("MEASURED")), served)


def figures(count: int, measured: dict[str, Any], served: dict[str, Any]) -> dict[str, float]:
    began, lags, ends = measured["began"], measured["lags"], served["ends"]
    right = {job_id: at for job_id, (at, status) in measured["outcomes"].items() if status == "completed"}
    delays = sorted(at - ends[job_id] for job_id, at in right.items()) or [float("nan")]
    first_end = min(ends.values())
    looks = max(1, int((first_end - began) // INTERVAL))
    return {
        "right": len(right),
        "requests": len(served["requests"]),
        "of them lists": sum(kind.startswith("list") for _, kind in served["requests"]),
        "before the first end, a look": sum(at < first_end for at, _ in served["requests"]) / looks,
        "CPU s": measured["cpu"],
        "memory MB": measured["memory"] / 2**20,
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


def _tell(process: subprocess.Popen[str], line: str) -> None:
    process.stdin.write(line + "\n")
    process.stdin.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--kinds", nargs="*", default=["watch", "yardstick"])
    parser.add_argument("--behaviour", type=json.loads, default={})
    parser.add_argument("--limit", type=float, default=120.0)
    given = parser.parse_args()
    for count in given.counts:
        results = {
            kind: [run(kind, count, given.limit, **given.behaviour) for _ in range(given.runs)] for kind in given.kinds
        }
        print(f"\n{count} waits, medians of {given.runs} runs {given.behaviour or ''}")
        print(f"{'':32}" + "".join(f"{kind:>14}" for kind in results))
        for name in next(iter(results.values()))[0]:
            medians = [statistics.median(one[name] for one in runs) for runs in results.values()]
            print(f"{name:32}" + "".join(f"{median:14.2f}" for median in medians))


if __name__ == "__main__":
    main()
