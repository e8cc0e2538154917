//! TPC-H tables as a SQLite database, made by the `tpchgen` crate.

use std::fmt::{Display, Write};
use std::path::Path;

use rusqlite::{Connection, params_from_iter};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

/// The eight tables, children after their parents.
pub const TABLES: &[&str] =
    &["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"];

/// Makes `tables` in the file at `path`, with about 8,660,000 × `scale` rows in all eight. The file
/// is created if it is missing. Below a scale of 0.01 the generator repeats keys of `partsupp`.
///
/// # Errors
/// Those of SQLite; a name that is not of [`TABLES`].
pub fn create(path: &Path, scale: f64, tables: &[&str]) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    // A generator that is interrupted starts over: nothing has to survive a crash. A table may be
    // made without those that it refers to.
    connection.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;",
    )?;
    for table in tables {
        match *table {
            "region" => {
                fill(&mut connection, table, REGION, RegionGenerator::new(scale, 1, 1).iter())
            }
            "nation" => {
                fill(&mut connection, table, NATION, NationGenerator::new(scale, 1, 1).iter())
            }
            "supplier" => {
                fill(&mut connection, table, SUPPLIER, SupplierGenerator::new(scale, 1, 1).iter())
            }
            "customer" => {
                fill(&mut connection, table, CUSTOMER, CustomerGenerator::new(scale, 1, 1).iter())
            }
            "part" => fill(&mut connection, table, PART, PartGenerator::new(scale, 1, 1).iter()),
            "partsupp" => {
                fill(&mut connection, table, PARTSUPP, PartSuppGenerator::new(scale, 1, 1).iter())
            }
            "orders" => {
                fill(&mut connection, table, ORDERS, OrderGenerator::new(scale, 1, 1).iter())
            }
            "lineitem" => {
                fill(&mut connection, table, LINEITEM, LineItemGenerator::new(scale, 1, 1).iter())
            }
            other => Err(rusqlite::Error::InvalidParameterName(other.to_owned())),
        }?;
    }
    Ok(())
}

/// Rows in the generator's own text form, `a|b|c|`; the columns' affinities make numbers of it.
fn fill<R: Display>(
    connection: &mut Connection,
    table: &str,
    columns: &str,
    rows: impl Iterator<Item = R>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(&format!("CREATE TABLE {table} ({columns})"))?;
    let count =
        transaction.query_row("SELECT count(*) FROM pragma_table_info(?1)", [table], |row| {
            row.get::<_, u32>(0)
        })?;
    let holes = vec!["?"; usize::try_from(count).unwrap_or(0)].join(", ");
    {
        let mut insert = transaction.prepare(&format!("INSERT INTO {table} VALUES ({holes})"))?;
        let mut line = String::new();
        for row in rows {
            line.clear();
            // Writing to a string cannot fail.
            let _ = write!(line, "{row}");
            insert.execute(params_from_iter(line.trim_end_matches('|').split('|')))?;
        }
    }
    transaction.commit()
}

const REGION: &str =
    "r_regionkey INTEGER PRIMARY KEY, r_name CHAR(25) NOT NULL UNIQUE, r_comment VARCHAR(152)";
const NATION: &str = "n_nationkey INTEGER PRIMARY KEY, n_name CHAR(25) NOT NULL UNIQUE,
    n_regionkey INTEGER NOT NULL REFERENCES region, n_comment VARCHAR(152)";
const SUPPLIER: &str = "s_suppkey INTEGER PRIMARY KEY, s_name CHAR(25) NOT NULL,
    s_address VARCHAR(40) NOT NULL, s_nationkey INTEGER NOT NULL REFERENCES nation,
    s_phone CHAR(15) NOT NULL, s_acctbal DECIMAL(15,2) NOT NULL, s_comment VARCHAR(101) NOT NULL";
const CUSTOMER: &str = "c_custkey INTEGER PRIMARY KEY, c_name VARCHAR(25) NOT NULL,
    c_address VARCHAR(40) NOT NULL, c_nationkey INTEGER NOT NULL REFERENCES nation,
    c_phone CHAR(15) NOT NULL, c_acctbal DECIMAL(15,2) NOT NULL,
    c_mktsegment CHAR(10) NOT NULL, c_comment VARCHAR(117) NOT NULL";
const PART: &str = "p_partkey INTEGER PRIMARY KEY, p_name VARCHAR(55) NOT NULL,
    p_mfgr CHAR(25) NOT NULL, p_brand CHAR(10) NOT NULL, p_type VARCHAR(25) NOT NULL,
    p_size INTEGER NOT NULL, p_container CHAR(10) NOT NULL, p_retailprice DECIMAL(15,2) NOT NULL,
    p_comment VARCHAR(23) NOT NULL";
const PARTSUPP: &str = "ps_partkey INTEGER NOT NULL REFERENCES part,
    ps_suppkey INTEGER NOT NULL REFERENCES supplier, ps_availqty INTEGER NOT NULL,
    ps_supplycost DECIMAL(15,2) NOT NULL, ps_comment VARCHAR(199) NOT NULL,
    PRIMARY KEY (ps_partkey, ps_suppkey)";
const ORDERS: &str = "o_orderkey INTEGER PRIMARY KEY,
    o_custkey INTEGER NOT NULL REFERENCES customer, o_orderstatus CHAR(1) NOT NULL,
    o_totalprice DECIMAL(15,2) NOT NULL, o_orderdate DATE NOT NULL,
    o_orderpriority CHAR(15) NOT NULL, o_clerk CHAR(15) NOT NULL,
    o_shippriority INTEGER NOT NULL, o_comment VARCHAR(79) NOT NULL";
const LINEITEM: &str = "l_orderkey INTEGER NOT NULL REFERENCES orders,
    l_partkey INTEGER NOT NULL, l_suppkey INTEGER NOT NULL, l_linenumber INTEGER NOT NULL,
    l_quantity DECIMAL(15,2) NOT NULL, l_extendedprice DECIMAL(15,2) NOT NULL,
    l_discount DECIMAL(15,2) NOT NULL, l_tax DECIMAL(15,2) NOT NULL,
    l_returnflag CHAR(1) NOT NULL, l_linestatus CHAR(1) NOT NULL, l_shipdate DATE NOT NULL,
    l_commitdate DATE NOT NULL, l_receiptdate DATE NOT NULL, l_shipinstruct CHAR(25) NOT NULL,
    l_shipmode CHAR(10) NOT NULL, l_comment VARCHAR(44) NOT NULL,
    PRIMARY KEY (l_orderkey, l_linenumber)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_with_numbers_as_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tpch.db");
        create(&path, 0.01, TABLES).unwrap();
        let connection = Connection::open(&path).unwrap();
        let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(one("SELECT count(*) FROM orders"), 15_000);
        assert_eq!(one("SELECT count(*) FROM lineitem"), 60_175);
        assert_eq!(
            one("SELECT count(*) FROM lineitem WHERE typeof(l_tax) NOT IN ('integer', 'real')"),
            0
        );
        assert_eq!(one("SELECT count(*) FROM lineitem WHERE typeof(l_shipdate) <> 'text'"), 0);
    }

    #[test]
    fn a_table_without_those_it_refers_to() {
        let folder = tempfile::tempdir().unwrap();
        create(&folder.path().join("lineitem.db"), 0.001, &["lineitem"]).unwrap();
    }
}
