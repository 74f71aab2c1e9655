"""
The emulated API for a benchmark, in a separate process: N jobs that finish within 20 seconds, by default 10 to 30
seconds after the start.

Prints its URL when it listens, and then as lines of JSON the end time of each job after the start, and time and kind of
each request at the end.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import msgspec
from aiohttp import web

from airflow_wasabi_jobs.emulator.jobs import EmulatedJobs
from airflow_wasabi_jobs.emulator.server import Behaviour, create_application


async def serve(count: int, behaviour: Behaviour, first_end: float = 10.0) -> None:
    random_source = random.Random(0)
    jobs = EmulatedJobs(time.time, speed=1.0)
    requests: list[tuple[float, str]] = []

    def record(line: str) -> None:
        _, path, code = line.split()
        requests.append((time.time(), f"{'status' if path.endswith('/status') else 'list'} {code}"))

    runner = web.AppRunner(create_application(behaviour, log_request=record, jobs=jobs), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)  # the start
    for number in range(count):
        jobs.find_or_create(f"completes-after-{first_end + 20 * random_source.random():.0f}-seconds-{number}")
    print(json.dumps({job.job_id: job.created_at + job.outcome.seconds for job in jobs}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)  # the end
    print(json.dumps(requests), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Behaviour), *map(float, sys.argv[3:])))
