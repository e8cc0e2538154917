"""Times dms and its peers on changes of PostgreSQL, and prints seconds, costs and ratios.

Four scenarios: a backlog of many small transactions, a backlog of one large one, a source that goes
on to work, and changes that wait for their target. Whoever reads a backlog has a copy of a slot that was made before it, so that the
server decodes the same log for each; whoever applies it, a fresh database.
"""
import argparse
import json
import os
import sys
import time

import cached
import steady
from servers import Program, Server, wait_until

TABLES = ["orders", "items", "bulk", "beat"]
SCHEMA = [
    f"CREATE TABLE {table} (id bigint PRIMARY KEY, customer bigint, amount numeric(12,2),"
    " note text, at timestamptz)"
    for table in TABLES
] + ["CREATE TABLE done (what text PRIMARY KEY)"]
ROW = "{0}, {0} % 1000, {0} * 0.37, 'the note of ' || {0}, '2024-01-01'::timestamptz + {0} * '1 s'::interval"
SEEDS = 200_000
SEED = [
    f"INSERT INTO {table} SELECT {ROW.format('g')} FROM generate_series(0, {SEEDS - 1}) g"
    for table in ["orders", "items"]
] + ["VACUUM (FREEZE, ANALYZE)"]

# On each of two tables 2 inserts, 2 updates of the rows from 0 on, 1 delete of one from 100,000 on.
SMALL = "".join(
    f"""
    INSERT INTO {table} SELECT {ROW.format('r')} FROM generate_series({SEEDS} + i * 2, {SEEDS} + i * 2 + 1) r;
    UPDATE {table} SET amount = amount + 1 WHERE id = i * 2 % 100000;
    UPDATE {table} SET note = 'changed by ' || i WHERE id = (i * 2 + 1) % 100000;
    DELETE FROM {table} WHERE id = 100000 + i;"""
    for table in ["orders", "items"]
)


def backlogs(is_small):
    """Name, what makes it, and how many records it has."""
    transactions, rows = (5_000, 100_000) if is_small else (50_000, 1_000_000)
    return [
        (
            "small",
            [f"DO $$BEGIN FOR i IN 0..{transactions - 1} LOOP {SMALL} COMMIT; END LOOP; END$$"],
            transactions * 10,
        ),
        ("large", [f"INSERT INTO bulk SELECT {ROW.format('g')} FROM generate_series(1, {rows}) g"], rows),
    ]


def state(server, database, tables=TABLES):
    """Count and checksum of each table."""
    return [
        server.sql(database, f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t")
        for table in tables
    ]


def task(data, name, source, target, settings, stop):
    rule = {"rule-type": "selection", "rule-id": 1, "rule-name": "1", "rule-action": "include"}
    definition = {
        "name": name,
        "source": {"url": source.url("bench"), "slot-name": "peer", "publication-name": "bench"},
        "target": {"url": target.url("applied")},
        "migration-type": "cdc",
        "table-mappings": {
            "rules": [rule | {"object-locator": {"schema-name": "public", "table-name": "%"}}]
        },
        "settings": settings | {"Engine": {"SpillFolder": os.path.join(data, "spill")}},
        "stop-when": stop,
    }
    path = os.path.join(data, f"{name}.json")
    with open(path, "w") as file:
        json.dump(definition, file)
    return path


class Bench:
    def __init__(self, args):
        self.args = args
        self.source = Server(os.path.join(args.data, "source"), args.source)
        self.target = Server(os.path.join(args.data, "target"), args.target)
        self.figures = {}

    def prepare(self):
        for server, name in [(self.source, "bench"), (self.target, "seeded")]:
            server.sql("postgres", f"CREATE DATABASE {name}")
            server.sql(name, "SET timezone = UTC", *SCHEMA, *SEED)
        self.source.sql("bench", "CREATE PUBLICATION bench FOR ALL TABLES")

    def backlog(self, name, statements):
        """Makes a backlog behind a slot of its name; returns where the log ends."""
        make = "SELECT pg_create_logical_replication_slot('{}', 'pgoutput')"
        settings = ["SET synchronous_commit = off", "SET timezone = UTC"]
        marker = f"INSERT INTO done VALUES ('{name}')"
        self.source.sql("bench", make.format(name), *settings, *statements, marker, "CHECKPOINT")
        return self.source.sql("bench", "SELECT pg_current_wal_flush_lsn()::text")[0]

    def measure(self, lane, name, work):
        """Runs `work` on a fresh copy of the lane's slot; it returns wall and processor seconds,
        peak MiB, and a remark."""
        copy = f"SELECT pg_copy_logical_replication_slot('{lane.split()[0]}', 'peer')"
        self.source.sql("bench", copy, "CHECKPOINT")
        before = self.source.cpu(), self.target.cpu()
        wall, cpu, peak, remark = work()
        self.source.drop_slot("peer")
        servers = self.source.cpu() - before[0], self.target.cpu() - before[1]
        self.figures.setdefault((lane, name), []).append((wall, cpu, peak, *servers, remark))
        print(f"  {lane} {name}: {wall:.2f}", file=sys.stderr)

    def decode(self, scenario, records, end, is_first):
        lane = f"{scenario} decode"

        def receive(*options):
            command = ["pg_recvlogical", "-d", self.source.url("bench"), "--slot", "peer", "--start"]
            command += ["-f", "/dev/null", "--endpos", end, "--no-loop"]
            for option in ["proto_version=1", "publication_names=bench", *options]:
                command += ["-o", option]
            return Program(command).end()

        def feed():
            url = self.source.url("bench")
            return Program([self.args.feed, url, "peer", "bench", str(records + 1)]).end()

        def debezium():
            jars = ["java", "-Xmx2g", "-cp", self.args.debezium, "Debezium"]
            arguments = [str(self.args.source), "bench", "peer", "bench", str(records + 1)]
            *figures, said = Program(jars + arguments).end()
            return *figures, f"{float(said):.1f} s of it until the first record"

        self.measure(lane, "pg_recvlogical", receive)
        self.measure(lane, "pg_recvlogical, binary", lambda: receive("binary=true"))
        self.measure(lane, "dms", feed)
        if self.args.debezium and is_first:
            self.measure(lane, "Debezium, batches of 16k", debezium)

    def apply(self, scenario, is_first):
        lane = f"{scenario} apply"
        self.measure(lane, "subscription", lambda: self.subscribe(scenario))
        self.measure(lane, "dms, batches", lambda: self.replicate(scenario, "batches", {}))
        if is_first:
            strict = {"TargetMetadata": {"BatchApplyEnabled": False}}
            self.measure(lane, "dms, one by one", lambda: self.replicate(scenario, "one", strict))

    def is_done(self, scenario):
        return self.target.sql("applied", f"SELECT count(*) FROM done WHERE what = '{scenario}'")[0]

    def check(self, name, scenario):
        """An applier that lost rows was not fast."""
        if state(self.target, "applied") != self.expected:
            sys.exit(f"{name} leaves other rows than the source has after {scenario}")

    def subscribe(self, scenario):
        self.target.database("applied", f"before_{scenario}")
        conninfo = f"host=127.0.0.1 port={self.args.source} user=dms dbname=bench"
        self.target.sql(
            "applied",
            f"CREATE SUBSCRIPTION peer CONNECTION '{conninfo}' PUBLICATION bench"
            " WITH (create_slot = false, slot_name = 'peer', copy_data = false, enabled = false)",
        )
        began = time.monotonic()
        self.target.sql("applied", "ALTER SUBSCRIPTION peer ENABLE")
        wait_until(lambda: self.is_done(scenario), "the subscription has applied the backlog")
        wall = time.monotonic() - began
        self.target.sql(
            "applied",
            "ALTER SUBSCRIPTION peer DISABLE",
            "ALTER SUBSCRIPTION peer SET (slot_name = NONE)",
            "DROP SUBSCRIPTION peer",
        )
        self.check("the subscription", scenario)
        return wall, None, None, "a process of the target's server"

    def replicate(self, scenario, name, settings):
        self.target.database("applied", f"before_{scenario}")
        path = task(self.args.data, f"{scenario}-{name}", self.source, self.target, settings, "caught-up")
        program = Program([self.args.migrate, "run", "--quiet", path])
        wait_until(lambda: self.is_done(scenario) or not program.is_running(), "dms has applied the backlog")
        wall = time.monotonic() - program.began
        whole, cpu, peak, _ = program.end()
        self.check("dms", scenario)
        return wall, cpu, peak, f"{whole:.2f} s until it ended"

    def run(self):
        self.prepare()
        only = self.args.only.split(",")
        self.template = "seeded"
        for scenario, statements, records in backlogs(self.args.small):
            if not {"decode", "apply"} & set(only):
                continue
            self.target.sql("postgres", f"CREATE DATABASE before_{scenario} TEMPLATE {self.template}")
            end = self.backlog(scenario, statements)
            self.expected = state(self.source, "bench")
            for number in range(self.args.rounds):
                if "decode" in only:
                    self.decode(scenario, records, end, number == 0)
                if "apply" in only:
                    self.apply(scenario, number == 0)
            self.source.drop_slot(scenario)
            if "apply" in only:
                self.template = f"after_{scenario}"
                self.target.sql("postgres", f"CREATE DATABASE {self.template} TEMPLATE applied")
        self.print()
        if "steady" in only:
            steady.run(self, 4 if self.args.small else 20)
        if "cached" in only:
            cached.run(self, [100_000, 1_000_000] if self.args.small else [1_000_000, 10_000_000])

    def print(self):
        load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
        if not self.figures:
            return
        print(f"best of {self.args.rounds} rounds, {os.cpu_count()} cores, load {load}")
        print(f"{'':44}wall s  ratio  client CPU s  peak MiB  source CPU s  target CPU s")
        best = {key: min(runs, key=lambda run: run[0]) for key, runs in self.figures.items()}
        bases = {"decode": "pg_recvlogical", "apply": "subscription"}
        for (lane, name), (wall, cpu, peak, source, target, remark) in best.items():
            base = best[lane, bases[lane.split()[1]]][0]
            client = f"{cpu:12.2f}  {peak:8.0f}" if cpu is not None else f"{'-':>12}  {'-':>8}"
            print(
                f"{lane:16}{name:28}{wall:6.2f}  {wall / base:5.2f}  {client}"
                f"  {source:12.2f}  {target:12.2f}  {remark}"
            )
        if not self.args.debezium:
            print("missing: Debezium (no JDK)")


def main():
    parser = argparse.ArgumentParser()
    for name in ["data", "migrate", "feed", "debezium", "only"]:
        parser.add_argument(f"--{name}", required=True)
    for name in ["source", "target", "rounds"]:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--small", action="store_true")
    Bench(parser.parse_args()).run()


if __name__ == "__main__":
    main()
