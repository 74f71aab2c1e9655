"""PostgreSQL and Redis on free loopback ports, with their data in the folder of the run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from airflow_installation import Process, until

from airflow_wasabi_jobs.demo.standalone import free_port

# PostgreSQL refuses to run as root. The other user may not be allowed to enter the folder of the run.
AS_POSTGRES = [
    "setpriv",
    "--reuid=postgres",
    "--regid=postgres",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
]


def find_server(name: str, package: str) -> str:
    """Return the path of a server's command. Without it, the whole run fails."""
    # Debian does not put the commands of PostgreSQL on the path.
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, newest_first)]))
    if path is None:
        pytest.exit(f"{name} is not installed. On Debian: apt-get install {package}", returncode=1)
    return path


class PostgreSQL:
    """A PostgreSQL server with an empty database."""

    def __init__(self, folder: Path) -> None:
        self._user = AS_POSTGRES if os.geteuid() == 0 else []
        self._folder = folder
        self._data = folder / "postgresql"
        self._address = {"host": "127.0.0.1", "port": free_port(), "user": "airflow", "dbname": "postgres"}
        self.url = "{user}@{host}:{port}/{dbname}".format(**self._address)
        self._data.mkdir()
        if self._user:
            shutil.chown(self._data, "postgres", "postgres")
        initdb = find_server("initdb", "postgresql")
        options = ["--auth=trust", "--username=airflow", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        log = folder / "initdb.log"
        creation = Process([*self._user, initdb, "--pgdata", str(self._data), *options], dict(os.environ), log, folder)
        until(lambda: not creation.is_alive(), "created", 60)
        assert (self._data / "PG_VERSION").exists(), log.read_text()
        self.start()

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._address["port"],
            "unix_socket_directories": "",
            "max_connections": 300,
            # The machine does not crash during the tests.
            "fsync": "off",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        command = [*self._user, find_server("postgres", "postgresql"), "-D", str(self._data), *options]
        self.process = Process(command, dict(os.environ), self._folder / "postgresql.log", self._folder)
        try:
            until(self._is_ready, "ready", 60)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        # A fast shutdown, which ends all connections.
        self.process.stop(signal.SIGINT)

    def _is_ready(self) -> bool:
        assert self.process.is_alive(), self.process.log.read_text()
        with suppress(psycopg2.OperationalError):
            return self.query("SELECT 1") == [(1,)]
        return False

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(**self._address)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()

    def cells(self) -> Iterator[tuple[str, bytes]]:
        """Return all cells of the database."""
        columns = self.query(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
        )
        for table, column, data_type in columns:
            value = f'"{column}"' if data_type == "bytea" else f'"{column}"::text'
            for (cell,) in self.query(f'SELECT {value} FROM "{table}" WHERE "{column}" IS NOT NULL'):
                yield f"{table}.{column}", cell.encode() if isinstance(cell, str) else bytes(cell)


class Redis:
    """A Redis server that writes all changes of its data to a file."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.data = folder / "redis"
        self.data.mkdir()
        settings = {
            "port": self._port,
            "bind": "127.0.0.1",
            "dir": self.data,
            "save": "",
            "appendonly": "yes",
            # The file keeps each change, and is never compressed.
            "aof-use-rdb-preamble": "no",
            "auto-aof-rewrite-percentage": 0,
        }
        options = [option for name, value in settings.items() for option in (f"--{name}", str(value))]
        command = [find_server("redis-server", "redis-server"), *options]
        self.process = Process(command, dict(os.environ), folder / "redis.log", folder)
        try:
            until(self._is_ready, "ready", 60)
        except BaseException:
            self.process.stop()
            raise

    def _is_ready(self) -> bool:
        assert self.process.is_alive(), self.process.log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100) == b"+PONG\r\n"
        return False
