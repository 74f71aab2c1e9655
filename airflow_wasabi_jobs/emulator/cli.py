"""The command ``wasabi-air-emulator``."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
from typing import Any

import msgspec

from airflow_wasabi_jobs.emulator.server import (
    ACCESS_KEY,
    OPEN_WARNING,
    SECRET_KEY,
    Behaviour,
    check_address,
    is_open,
    serving,
)


def main(arguments: list[str] | None = None) -> int:
    """Serve the emulated API until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="wasabi-air-emulator",
        description="A Wasabi AiR Jobs API on this machine, to try and test DAGs without an account. "
        "The name of a submitted job controls how the job ends: at its beginning completes, fails, fails-once (later "
        "ones of that name complete) or cancels, anywhere with-3-errors and after-60-seconds; for example "
        "completes-with-3-errors. If the name has none of them, the file name of the source controls the job. A status "
        "request for an unknown id with one of them creates such a job.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8077, help="the port to listen on; 0 for a free one")
    parser.add_argument("--access-key", default=ACCESS_KEY, help="the access key to accept")
    parser.add_argument("--secret-key", default=SECRET_KEY, help="the secret key to accept")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="how many times faster jobs run; at 1 a job takes 5 seconds"
    )
    parser.add_argument("--latency-ms", type=float, default=0.0, help="milliseconds before each response")
    parser.add_argument(
        "--error-rate", type=float, default=0.0, help="share of the requests whose response is 500, 0 to 1"
    )
    parser.add_argument(
        "--rate-limit-per-minute",
        type=int,
        default=0,
        help="requests a minute; the response to more is 429; 0: no limit",
    )
    parser.add_argument(
        "--lost-answers",
        type=int,
        default=0,
        help="how many of the first submissions create their job but get no response",
    )
    parser.add_argument(
        "--result-after-seconds",
        type=float,
        default=0.0,
        help="seconds at speed 1 from a job's completion until the location of its result is available",
    )
    parser.add_argument(
        "--results",
        metavar="URL",
        help="write the result of each completed job below this URL, such as file:///tmp/results; s3:// writes to the "
        "destination bucket itself",
    )
    parser.add_argument(
        "--storage-options",
        metavar="JSON",
        type=_json_object,
        help="the arguments of the file system of fsspec that writes the results",
    )
    parser.add_argument(
        "--loose-filters",
        action="store_true",
        help="match the filters batch and name as case-insensitive substrings",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choice of errors")
    parser.add_argument("--verbose", action="store_true", help="print a line for each request")
    given = vars(parser.parse_args(arguments))
    names = "|".join(given)
    host, port, verbose = given.pop("host"), given.pop("port"), given.pop("verbose")
    try:
        check_address(host, port)
        behaviour = Behaviour.from_parameters(given)
    except ValueError as error:
        # The message names parameters, as for a call from Python.
        parser.error(re.sub(rf"\b({names})\b", lambda name: f"--{name[0].replace('_', '-')}", str(error)))
    try:
        asyncio.run(_serve(behaviour, host, port, log_request=_print if verbose else None))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        parser.exit(1, f"wasabi-air-emulator: cannot listen on {host}, port {port}: {reason}. Try --port 0.\n")
    return 0


async def _serve(behaviour: Behaviour, host: str, port: int, log_request: Any) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(behaviour, host, port, log_request) as url:
        # Custom keys are not shown, because they may be in use elsewhere.
        is_custom = (behaviour.access_key, behaviour.secret_key) != (ACCESS_KEY, SECRET_KEY)
        keys = (
            "with your keys" if is_custom else f"access key {behaviour.access_key}, secret key {behaviour.secret_key}"
        )
        warning = f" {OPEN_WARNING}" if is_open(url) else ""
        _print(f"Wasabi AiR emulator listening on {url} ({keys}). Press Ctrl-C to stop.{warning}")
        await stop.wait()


def _json_object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        # The value may hold secrets, and argparse shows it after any other error.
        raise argparse.ArgumentTypeError(f"must be a JSON object: {error}") from None


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the output of the command


if __name__ == "__main__":
    sys.exit(main())
