"""A StatsD server on the loopback."""

from __future__ import annotations

import re
import socket
from collections import Counter
from typing import Self


class StatsdReceiver:
    """Receives the metrics of Airflow, and keeps those of this package."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.counters: Counter[str] = Counter()
        self.timings: dict[str, list[float]] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def environment(self) -> dict[str, str]:
        """The configuration of an Airflow that sends its metrics here."""
        host, port = self._socket.getsockname()
        settings = {"STATSD_ON": "True", "STATSD_HOST": host, "STATSD_PORT": str(port), "STATSD_PREFIX": "airflow"}
        # Airflow has so many metrics that the buffer of the socket would overflow.
        settings["METRICS_ALLOW_LIST"] = "wasabi_jobs"
        return {f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}

    def receive(self) -> None:
        """Read what has arrived."""
        while True:
            try:
                packet = self._socket.recv(64 * 1024)
            except BlockingIOError:
                return
            for name, value, kind in re.findall(
                r"^airflow\.wasabi_jobs\.(\S+):([\d.]+)\|(c|ms)", packet.decode(), re.MULTILINE
            ):
                if kind == "c":
                    self.counters[name] += int(value)
                else:
                    self.timings.setdefault(name, []).append(float(value))
