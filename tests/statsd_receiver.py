"""A StatsD server on the loopback."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter, defaultdict
from typing import Any, Self


class StatsdReceiver:
    """Receives the metrics of Airflow, and keeps those of this package."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.counters: Counter[str] = Counter()
        self.timings: dict[str, list[float]] = {}
        # The addresses of the processes that have sent a metric with this name.
        self.senders: dict[str, set[Any]] = defaultdict(set)
        # The buffer of the socket holds some hundred packets only.
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._send_end()
        self._thread.join()
        self._socket.close()

    @property
    def environment(self) -> dict[str, str]:
        """The configuration of an Airflow that sends its metrics here."""
        host, port = self._socket.getsockname()
        settings = {"STATSD_ON": "True", "STATSD_HOST": host, "STATSD_PORT": str(port), "STATSD_PREFIX": "airflow"}
        settings["METRICS_ALLOW_LIST"] = "wasabi_jobs"
        return {f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}

    def receive(self) -> None:
        """Return when all that has arrived is read."""
        self._send_end()
        self._thread.join()
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _send_end(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self._socket.getsockname())

    def _receive(self) -> None:
        while True:
            packet, sender = self._socket.recvfrom(64 * 1024)
            if not packet:
                return
            for name, value, kind in re.findall(
                r"^airflow\.wasabi_jobs\.(\S+):([\d.]+)\|(c|ms)", packet.decode(), re.MULTILINE
            ):
                self.senders[name].add(sender)
                if kind == "c":
                    self.counters[name] += int(value)
                else:
                    self.timings.setdefault(name, []).append(float(value))
