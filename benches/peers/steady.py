"""How far dms is behind a source that goes on to work, and how much of the log it holds back."""
import os
import signal
import subprocess
import sys
import threading
import time

import changes
from servers import Program, wait_until

RATE = 2_000
WORK = """\\set id random(0, 99999)
BEGIN;
UPDATE orders SET amount = amount + 1 WHERE id = :id;
INSERT INTO beat VALUES (nextval('beats'), 1, 1, 'a beat', clock_timestamp());
COMMIT;
"""
# Rows that came, with their age. One that comes after a row with a higher id is not sampled.
NEW = "SELECT id, extract(epoch FROM clock_timestamp() - at)::float FROM beat WHERE id > %s ORDER BY id"
SLOT = """SELECT pg_current_wal_lsn() - '0/0', confirmed_flush_lsn - '0/0'
    FROM pg_replication_slots WHERE slot_name = 'peer'"""


class Poller(threading.Thread):
    """Calls `poll` with a connection, again and again, until it is stopped."""

    def __init__(self, server, database, pause, poll):
        super().__init__()
        self.server, self.database, self.pause, self.poll = server, database, pause, poll
        self.stopped = threading.Event()
        self.start()

    def run(self):
        with self.server.connect(self.database) as connection:
            connection.execute("SET enable_seqscan = off")
            while not self.stopped.wait(self.pause):
                self.poll(connection)

    def stop(self):
        self.stopped.set()
        self.join()


def run(bench, seconds):
    source, target, data = bench.source, bench.target, bench.args.data
    target.database("applied", bench.template)
    make = "SELECT pg_create_logical_replication_slot('peer', 'pgoutput')"
    source.sql("bench", make, "CREATE SEQUENCE beats START 1", "CHECKPOINT")
    lags, ages, log, last = [], [], [], 0

    def sample(connection):
        nonlocal last
        rows = connection.execute(NEW, [last]).fetchall()
        if rows:
            last = rows[-1][0]
            lags.extend(lag for _, lag in rows)

    def look_at_slot(connection):
        end, confirmed = connection.execute(SLOT).fetchone()
        now = time.monotonic()
        log.append((now, end))
        while len(log) > 1 and log[1][1] <= confirmed:
            log.pop(0)
        if log[0][1] <= confirmed:
            ages.append(now - log[0][0])

    path = changes.task(data, "steady", source, target, {}, "asked")
    program = Program([bench.args.migrate, "run", "--quiet", path])
    source.sql("bench", "INSERT INTO done VALUES ('steady')")
    wait_until(lambda: bench.is_done("steady"), "dms follows")
    pollers = [Poller(target, "applied", 0.002, sample), Poller(source, "bench", 0.02, look_at_slot)]
    script = os.path.join(data, "steady.sql")
    with open(script, "w") as file:
        file.write(WORK)
    before = source.cpu(), target.cpu()
    command = ["pgbench", "-n", "-c", "4", "-R", str(RATE), "-T", str(seconds), "-f", script, source.url("bench")]
    options = os.environ | {"PGOPTIONS": "-c synchronous_commit=off"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=options)
    made = source.sql("bench", "SELECT count(*) FROM beat")[0]
    count = lambda: target.sql("applied", "SELECT count(*) FROM beat")[0]
    wait_until(lambda: count() == made, "every row has come")
    for poller in pollers:
        poller.stop()
    servers = source.cpu() - before[0], target.cpu() - before[1]
    program.process.send_signal(signal.SIGINT)
    _, cpu, peak, _ = program.end(stopped=True)
    if bench.template == "seeded" and bench.figures:
        print("steady: the target never had the backlogs, so that only its newest table is compared")
        tables = ["beat"]
    else:
        tables = changes.TABLES
    if changes.state(target, "applied", tables) != changes.state(source, "bench", tables):
        sys.exit("dms leaves other rows than the source has after the steady work")
    source.drop_slot("peer")
    lags.sort()
    at = lambda share: lags[min(int(len(lags) * share), len(lags) - 1)] * 1000
    print(
        f"steady: {made / seconds:.0f} transactions a second for {seconds} s, {len(lags)} of {made} sampled\n"
        f"  lag: median {at(0.5):.0f} ms, 99th percentile {at(0.99):.0f} ms, worst {at(1):.0f} ms\n"
        f"  the slot's confirmed_flush was at the most {max(ages):.1f} s old\n"
        f"  dms {cpu:.1f} s CPU, {peak:.0f} MiB at its peak; source {servers[0]:.1f} s, target {servers[1]:.1f} s"
    )
