"""
Requests and delays of the event trigger: 1 and 20 watchers, 50 and 50,000 old jobs in the account: ``make bench``.

100 jobs finish 10 to 40 seconds after the start, with a poll every 5 seconds. No time limit fails.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

INTERVAL, JOBS, RUN_SECONDS, QUIET_SECONDS = 5.0, 100, 65.0, 20.0


async def serve(old_jobs: int) -> None:
    """Serve the emulated API in a separate process, and print what it has received at the end."""
    from aiohttp import web

    from airflow_wasabi_jobs.emulator.jobs import EmulatedJobs
    from airflow_wasabi_jobs.emulator.server import Behaviour, create_application

    random_source = random.Random(0)
    created_at = time.time() - 3600 - 10 * old_jobs
    jobs = EmulatedJobs(lambda: created_at, speed=1.0)
    for number in range(old_jobs):
        created_at += 10
        jobs.find_or_create(f"completes-old-{number}")
    requests: list[tuple[float, str]] = []
    app = create_application(
        Behaviour(), jobs=jobs, log_request=lambda line: requests.append((time.time(), line.split()[1]))
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.sleep(QUIET_SECONDS)
    created_at = time.time()
    for number in range(JOBS):
        jobs.find_or_create(f"completes-after-{10 + 30 * random_source.random():.0f}-seconds-{number}")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    ends = {job.job_id: job.created_at + job.outcome.seconds for job in list(jobs)[old_jobs:]}
    print(json.dumps({"requests": requests, "ends": ends, "started_at": created_at}), flush=True)


async def watch(watchers: int) -> dict[str, float]:
    """Run the watchers, and return when each event came."""
    from airflow_wasabi_jobs.triggers import WasabiJobsFinishedTrigger

    events: dict[str, float] = {}

    async def run(trigger: Any) -> None:
        async for event in trigger.run():
            events.setdefault(event.payload["job_id"], time.time())

    triggers = [
        WasabiJobsFinishedTrigger(wasabi_conn_id="wasabi", poke_interval=INTERVAL, lookback=number)
        for number in range(watchers)
    ]
    tasks = [asyncio.create_task(run(trigger)) for trigger in triggers]
    await asyncio.sleep(RUN_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return events


def measure(watchers: int, old_jobs: int) -> dict[str, float]:
    server = subprocess.Popen(
        [sys.executable, __file__, str(old_jobs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.environ["AIRFLOW_CONN_WASABI"] = json.dumps(
        {
            "conn_type": "wasabi",
            "host": server.stdout.readline().strip(),
            "login": "emulator-access-key",
            "password": "emulator-secret-key",
        }
    )
    cpu = time.process_time()
    events = asyncio.run(watch(watchers))
    cpu = time.process_time() - cpu
    server.stdin.write("end\n")
    server.stdin.flush()
    data = json.loads(server.stdout.readline())
    server.wait()
    # Without the first poll, which looks back.
    since = data["requests"][0][0] + 1
    quiet = [path for at, path in data["requests"] if since < at < data["started_at"]]
    polls = sum("status=submitted" in path for path in quiet)
    delays = sorted(events[job_id] - end for job_id, end in data["ends"].items() if job_id in events)
    paths = [path for _, path in data["requests"]]
    return {
        "events": len(events),
        "requests per poll without new jobs": len(quiet) / polls if polls else float("nan"),
        "list requests": sum("?" in path for path in paths),
        "status requests": sum(path.endswith("/status") for path in paths),
        "other requests": sum("?" not in path and not path.endswith("/status") for path in paths),
        "CPU s": cpu,
        "delay median, s": statistics.median(delays),
        "delay max, s": delays[-1],
    }


def main() -> None:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        }
        for watchers, old_jobs in [(1, 50), (20, 50), (1, 50_000), (20, 50_000)]:
            print(f"\n{watchers} watchers, {old_jobs:,} old jobs")
            for name, figure in measure(watchers, old_jobs).items():
                print(f"{name:40}{figure:14.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(int(sys.argv[1])))
    else:
        main()
