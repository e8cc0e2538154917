"""What dms holds of changes that wait since their target takes none: in memory and on disk."""
import os
import time

import changes
from servers import Program, wait_until

SENT = """SELECT coalesce(bool_and(sent_lsn >= pg_current_wal_flush_lsn()), false)
    FROM pg_stat_replication"""
# How long the spill folder is as it is once everything waits there.
STILL = 3


def run(bench, sizes):
    for rows in sizes:
        measure(bench, rows)


def measure(bench, rows):
    source, target, data = bench.source, bench.target, bench.args.data
    target.database("applied", bench.template)
    target.sql("applied", "TRUNCATE bulk")
    make = "SELECT pg_create_logical_replication_slot('peer', 'pgoutput')"
    rows_of = changes.ROW.format("g")
    insert = f"INSERT INTO bulk SELECT {rows_of} FROM generate_series(i * 100 + 1, i * 100 + 100) g;"
    work = f"DO $$BEGIN FOR i IN 0..{rows // 100 - 1} LOOP {insert} COMMIT; END LOOP; END$$"
    settings = ["SET synchronous_commit = off", "SET timezone = UTC"]
    source.sql("bench", "TRUNCATE bulk", make, *settings, work, "CHECKPOINT")

    spill = os.path.join(data, "spill")
    path = changes.task(data, f"cached-{rows}", source, target, {}, "caught-up")
    with target.connect("applied") as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE bulk IN SHARE MODE")
        program = Program([bench.args.migrate, "run", "--quiet", path])
        wait_until(lambda: source.sql("bench", SENT)[0], "the source has sent everything", pause=0.5)
        on_disk, since = -1, time.monotonic()
        while time.monotonic() - since < STILL:
            time.sleep(0.2)
            if (now := size_of(spill)) != on_disk:
                on_disk, since = now, time.monotonic()
        waiting = held_mib(program)
        connection.execute("ROLLBACK")
    began = time.monotonic()
    _, cpu, peak, _ = program.end()
    wall = time.monotonic() - began
    if changes.state(target, "applied", ["bulk"]) != changes.state(source, "bench", ["bulk"]):
        raise SystemExit("dms leaves other rows than the source has after changes that waited")
    source.drop_slot("peer")
    print(
        f"cached: {rows:,} changes waited with {waiting:.0f} MiB in memory and {on_disk / 2**20:.0f}"
        f" MiB on disk; then applied in {wall:.1f} s, {peak:.0f} MiB at the peak, {cpu:.1f} s CPU"
    )


def size_of(folder):
    files = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    return sum(os.path.getsize(file) for file in files if os.path.exists(file))


def held_mib(program):
    """The most that the program has held so far."""
    with open(f"/proc/{program.process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
