"""Cost of one metric while the metrics of Airflow are disabled, compared with an empty function: ``make bench``."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

from airflow_wasabi_jobs import metrics

RUNS, CALLS = 15, 100_000


def count() -> None:
    metrics.count("polls")


def do_nothing() -> None:
    pass


def measure(function: Callable[[], None]) -> float:
    return statistics.median(timeit.repeat(function, number=CALLS, repeat=RUNS)) / CALLS * 1e9


def main() -> None:
    assert metrics.find_stats() is None, "the metrics of Airflow are enabled"
    print(f"one call, nanoseconds, medians of {RUNS} runs")
    print(f"{'a disabled metric':44}{measure(count):10.0f}")
    print(f"{'an empty function':44}{measure(do_nothing):10.0f}")


if __name__ == "__main__":
    main()
