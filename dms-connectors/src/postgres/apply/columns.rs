//! The columns of a target's table as the catalogs have them: which types parameters have, and how
//! their values are compared.

use dms_core::schema::{Column, TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use crate::postgres::error::convert;
use crate::postgres::types::{declaration, is_parsed_by_server};

/// A table of the target.
#[derive(Debug)]
pub(super) struct TargetTable {
    pub(super) columns: Vec<TargetColumn>,
    /// The columns of its indexes.
    indexes: Vec<Vec<String>>,
    /// A key that may be checked at the end of a transaction. The server does that in a trigger.
    deferrable: Option<String>,
}

impl TargetTable {
    /// Refuses a key that is not checked at all while triggers do not fire.
    pub(super) fn check_keys(&self) -> Result<()> {
        match &self.deferrable {
            None => Ok(()),
            Some(key) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the target's key {key} is DEFERRABLE: the server would let rows in twice while \
                     session_replication_role is replica; make it NOT DEFERRABLE"
                ),
            )),
        }
    }

    /// Whether an index finds rows by these columns.
    pub(super) fn is_indexed(&self, key: &[Pair<'_>]) -> bool {
        let is_key = |name: &String| key.iter().any(|pair| pair.column.name == *name);
        self.indexes.iter().any(|index| {
            let all_of_key = || key.iter().all(|pair| index.contains(&pair.column.name));
            index.first().is_some_and(is_key) && (index.iter().all(is_key) || all_of_key())
        })
    }
}

/// A column of a table of the target.
#[derive(Debug)]
pub(super) struct TargetColumn {
    name: String,
    /// Whether the target numbers rows and takes no other value in an UPDATE.
    pub(super) is_always_identity: bool,
    /// Its type, with limits.
    pub(super) declared: String,
    /// The number of its type, that of its base for a domain.
    element: u32,
    /// The name of the array of those, without limits; an array of `character` would be one of
    /// `character(1)`.
    array: String,
    /// The operator by which its type is indexed.
    pub(super) equals: String,
    /// Whether values that have the same text are equal by that operator, and the operator can be
    /// hashed.
    pub(super) is_plain: bool,
}

const COLUMNS: &str = "
WITH RECURSIVE base(attnum, oid) AS (
    SELECT a.attnum, a.atttypid FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum, t.typbasetype FROM base b
    JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT a.attname::text, a.attidentity::text = 'a',
    pg_catalog.format_type(a.atttypid, a.atttypmod), t.oid,
    coalesce((SELECT pg_catalog.format('%I.%I', n.nspname, l.typname)
        FROM pg_catalog.pg_type l JOIN pg_catalog.pg_namespace n ON n.oid = l.typnamespace
        WHERE l.oid = t.typarray), ''),
    coalesce((SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM pg_catalog.pg_opclass k
        JOIN pg_catalog.pg_amop p ON p.amopfamily = k.opcfamily AND p.amopstrategy = 3
            AND p.amoplefttype = t.oid AND p.amoprighttype = t.oid
        JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
        JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
        WHERE k.opcintype = t.oid AND k.opcdefault
            AND k.opcmethod = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'btree')
        LIMIT 1), 'OPERATOR(pg_catalog.=)'),
    t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typname IN ('bool', 'int2', 'int4',
        'int8', 'oid', 'text', 'varchar', 'bytea', 'date', 'time', 'timestamp', 'timestamptz', 'uuid')
FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
JOIN pg_catalog.pg_class c ON c.relname = $2
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = b.attnum";

const INDEXES: &str = "
SELECT ARRAY(SELECT a.attname::text
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE k.place <= i.indnkeyatts ORDER BY k.place), i.indimmediate, x.relname::text,
    i.indpred IS NULL AND i.indexprs IS NULL
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND i.indisvalid";

/// Reads what the catalogs have of a table.
pub(super) async fn read(client: &Client, table: &TableName) -> Result<TargetTable> {
    let failed = |error| convert(error, "the columns of the target's table cannot be read");
    let rows = client.query(COLUMNS, &[&table.schema, &table.name]).await.map_err(failed)?;
    if rows.is_empty() {
        return Err(Error::schema(
            "the table is not there on the target: it was dropped or renamed meanwhile; load it \
             again",
        ));
    }
    let columns = rows.iter().map(|row| TargetColumn {
        name: row.get(0),
        is_always_identity: row.get(1),
        declared: row.get(2),
        element: row.get(3),
        array: row.get(4),
        equals: row.get(5),
        is_plain: row.get(6),
    });
    let columns = columns.collect();
    let rows = client.query(INDEXES, &[&table.schema, &table.name]).await.map_err(failed)?;
    let deferrable = rows.iter().find(|row| !row.get::<_, bool>(1)).map(|row| row.get(2));
    let plain = rows.iter().filter(|row| row.get(3));
    Ok(TargetTable { columns, indexes: plain.map(|row| row.get(0)).collect(), deferrable })
}

/// A column of changes with that of the target it belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) column: &'a Column,
    pub(super) target: &'a TargetColumn,
}

/// `text` in `pg_type`.
const TEXT: u32 = 25;

impl<'a> Pair<'a> {
    /// The column of a table at a place.
    pub(super) fn of(
        table: &'a TableSchema,
        place: usize,
        target: &'a TargetTable,
    ) -> Result<Self> {
        let column = table
            .columns
            .get(place)
            .ok_or_else(|| Error::schema(format!("there is no column {place}")))?;
        let target =
            target.columns.iter().find(|target| target.name == column.name).ok_or_else(|| {
                Error::schema(
                "the target's table lacks the column: it was dropped or renamed there; load the \
                 table again",
            )
            .context("column", &column.name)
            })?;
        let pair = Self { column, target };
        if target.array.is_empty() && !pair.is_text() {
            let message = format!("type {} of the target has no arrays", target.declared);
            return Err(Error::new(ErrorKind::Unsupported, message).context("column", &column.name));
        }
        Ok(pair)
    }

    /// Whether values travel as texts.
    pub(super) fn is_text(self) -> bool {
        is_parsed_by_server(self.column)
    }

    /// The number of the type of the elements that travel.
    pub(super) fn element(self) -> u32 {
        if self.is_text() { TEXT } else { self.target.element }
    }

    /// The type of the parameter.
    pub(super) fn array(self) -> &'a str {
        if self.is_text() { "pg_catalog.text[]" } else { &self.target.array }
    }

    /// The value as the parameter with this number brings it.
    pub(super) fn value(self, number: usize) -> String {
        if self.is_text() {
            format!("u.c{number}::{}", declaration(self.column))
        } else {
            format!("u.c{number}")
        }
    }
}
