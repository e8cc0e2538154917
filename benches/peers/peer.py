"""One peer's way from a SQLite table to a Parquet file: peer.py PEER DB OUT CODEC.

Each is run as a user would run it, with two threads where it has threads.
"""
import glob
import importlib.util
import os
import subprocess
import sys


def duckdb(db, out, codec):
    import duckdb as duck

    connection = duck.connect(config={"allow_unsigned_extensions": "true"})
    wheel = importlib.util.find_spec("duckdb_extension_sqlite_scanner").origin
    [extension] = glob.glob(os.path.dirname(wheel) + "/extensions/*/*.duckdb_extension")
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET threads = 2")
    connection.execute(f"ATTACH '{db}' AS source (TYPE sqlite, READ_ONLY)")
    level = ", COMPRESSION_LEVEL 1" if codec == "zstd" else ""
    connection.execute(
        f"COPY source.lineitem TO '{out}' (FORMAT parquet, COMPRESSION {codec}{level})"
    )


def connectorx(db, out, codec):
    import connectorx as cx
    import pyarrow.parquet as pq

    table = cx.read_sql(
        f"sqlite://{db}",
        "SELECT * FROM lineitem",
        return_type="arrow",
        partition_on="l_orderkey",
        partition_num=2,
    )
    pq.write_table(table, out, compression=codec, compression_level=level(codec))


def sqlite3_csv(db, out, codec):
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    command = ["sqlite3", "-csv", "-header", db, "SELECT * FROM lineitem"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as dump:
        reader = csv.open_csv(dump.stdout)
        with pq.ParquetWriter(
            out, reader.schema, compression=codec, compression_level=level(codec)
        ) as writer:
            for batch in reader:
                writer.write_batch(batch)
    if dump.returncode:
        sys.exit(dump.returncode)


def level(codec):
    return 1 if codec == "zstd" else None


PEERS = {"duckdb": duckdb, "connectorx": connectorx, "sqlite3-csv": sqlite3_csv}

if __name__ == "__main__":
    peer, db, out, codec = sys.argv[1:]
    PEERS[peer](db, out, codec)
