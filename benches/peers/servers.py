"""The two servers of `benches/peers/changes`, and what programs and servers take while they work."""
import contextlib
import os
import subprocess
import sys
import time

import psycopg

TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        with open(os.path.join(folder, "postmaster.pid")) as file:
            self.pid = int(file.readline())

    def url(self, database):
        return f"postgres://dms@127.0.0.1:{self.port}/{database}"

    @contextlib.contextmanager
    def connect(self, database):
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            yield connection

    def sql(self, database, *statements):
        """Runs statements; returns the one row of the last, if it has any."""
        with self.connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchone() if cursor.description else None

    def cpu(self):
        """Processor seconds of the server so far, those of processes that have ended included."""
        ticks = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
                if int(name) == self.pid:
                    ticks += sum(map(int, fields[11:15]))
                elif int(fields[1]) == self.pid:
                    ticks += sum(map(int, fields[11:13]))
        return ticks / TICKS

    def drop_slot(self, name):
        """Drops a slot as soon as the server has noticed that nobody reads it any more."""
        drop = (
            "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots"
            f" WHERE slot_name = '{name}' AND NOT active"
        )
        left = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'"
        wait_until(lambda: self.sql("bench", drop, left)[0] == 0, f"slot {name} is free")

    def database(self, name, template):
        """A fresh database, with everything before on disk."""
        self.sql(
            "postgres",
            f"DROP DATABASE IF EXISTS {name}",
            f"CREATE DATABASE {name} TEMPLATE {template}",
            "CHECKPOINT",
        )


class Program:
    """A running program, and what it takes."""

    def __init__(self, command):
        self.began = time.monotonic()
        self.command = command
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def is_running(self):
        # It stays there to be waited for.
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return ended is None

    def end(self, stopped=False):
        """Waits; returns wall seconds, processor seconds, peak MiB and what it printed."""
        said = self.process.stdout.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode not in ([0, 130] if stopped else [0]):
            sys.exit(f"failed: {self.command}")
        wall = time.monotonic() - self.began
        return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said


def wait_until(holds, what, seconds=600, pause=0.01):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"gave up waiting until {what}")
        time.sleep(pause)
