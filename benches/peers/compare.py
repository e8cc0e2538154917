"""Times dms and its peers on one SQLite file, round by round, and prints medians and ratios."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

PEERS = ["duckdb", "connectorx", "sqlite3-csv"]
CODECS = ["snappy", "zstd"]


def measure(command):
    """Wall seconds, processor seconds and peak MiB of a command and its children."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {command}")
    wall = time.monotonic() - began
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def task(args, codec):
    path = os.path.join(args.dir, f"task-{codec}.json")
    every = {"schema-name": "main", "table-name": "%"}
    rule = {"rule-type": "selection", "rule-id": 1, "rule-name": "1", "rule-action": "include"}
    with open(path, "w") as file:
        json.dump(
            {
                "name": f"peers-{codec}",
                "source": {"url": f"sqlite://{args.db}"},
                "target": {"url": f"file://{args.dir}/dms-{codec}", "compression": codec},
                "migration-type": "full-load",
                "table-mappings": {"rules": [rule | {"object-locator": every}]},
            },
            file,
        )
    return path


def floor(args):
    """Processor seconds of stepping and of encoding, as medians."""
    runs = []
    for _ in range(args.rounds):
        lines = subprocess.check_output([args.floor, args.db, "lineitem"], text=True)
        runs.append({line.split()[0]: float(line.split()[1]) for line in lines.splitlines()})
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main():
    parser = argparse.ArgumentParser()
    for name in ["db", "dir", "migrate", "floor"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.db, args.dir = os.path.abspath(args.db), os.path.abspath(args.dir)

    with open(args.db, "rb") as file:  # every run finds the file in the page cache
        while file.read(1 << 24):
            pass
    results = {}
    for _ in range(args.rounds):
        for codec in CODECS:
            for tool in ["dms", *PEERS]:
                out = os.path.join(args.dir, f"{tool}-{codec}")
                if os.path.isdir(out):
                    shutil.rmtree(out)
                elif os.path.exists(out):
                    os.remove(out)
                if tool == "dms":
                    command = [args.migrate, "run", "--quiet", "--reload", task(args, codec)]
                else:
                    peer = os.path.join(os.path.dirname(__file__), "peer.py")
                    command = [sys.executable, peer, tool, args.db, out, codec]
                results.setdefault((codec, tool), []).append(measure(command))
    bare = floor(args)

    cores = os.cpu_count()
    print(f"lineitem, {bare['rows']:,.0f} rows, {cores} cores, medians of {args.rounds} rounds")
    print(f"{'':8}{'':14}{'wall s':>8}{'ratio':>7}{'CPU s':>8}{'peak MiB':>10}")
    for codec in CODECS:
        medians = {
            tool: [statistics.median(column) for column in zip(*results[codec, tool])]
            for tool in ["dms", *PEERS]
        }
        ours = medians["dms"][0]
        for tool, (wall, cpu, peak) in medians.items():
            print(f"{codec:8}{tool:14}{wall:8.2f}{wall / ours:7.2f}{cpu:8.2f}{peak:10.0f}")
        bound = (bare["step"] + bare[codec]) / cores
        print(
            f"{codec:8}{'floor':14}{bound:8.2f}{bound / ours:7.2f}"
            f"   dms takes {ours / bound:.2f} times the floor:"
            f" (step {bare['step']:.2f} + encode {bare[codec]:.2f}) / {cores} cores"
        )
    print(
        "duckdb writes decimals as double and dates as date; connectorx both as double and text;"
        " sqlite3 -csv what pyarrow guesses; dms decimal(15,2) and date."
    )


if __name__ == "__main__":
    main()
