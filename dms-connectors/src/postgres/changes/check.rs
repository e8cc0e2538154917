//! Whether the changes of tables can be captured at all: looked at before anything is made.

use dms_core::schema::{TableKind, TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::Row;

use super::database::{Database, arrays};
use super::names::Names;
use super::slot::Slot;
use super::{database, ddl, publication};
use crate::postgres::error::convert;
use crate::postgres::settings::PostgresSettings;
use crate::sql::quote;

/// The server and the role. Amazon RDS has a role of its own for replication.
const SERVER: &str = "
SELECT current_setting('wal_level'), pg_catalog.pg_is_in_recovery(),
    current_setting('max_replication_slots')::int8,
    (SELECT count(*) FROM pg_catalog.pg_replication_slots),
    current_setting('max_wal_senders')::int8,
    (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE pid IS DISTINCT FROM $1),
    EXISTS(SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
        AND (r.rolreplication OR r.rolsuper)) OR EXISTS(SELECT FROM pg_catalog.pg_roles r
        WHERE r.rolname IN ('rds_replication', 'rds_superuser')
        AND pg_catalog.pg_has_role(r.oid, 'MEMBER')),
    pg_catalog.has_database_privilege(current_database(), 'CREATE'), current_user::text";

/// The tables. The columns of the identity as they are when updates are logged: of the key, of the
/// index that was chosen, of all.
const TABLES: &str = "
SELECT w.schema, w.name, c.relkind::text, c.relpersistence::text, c.relreplident::text,
    EXISTS(SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid),
    EXISTS(SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid),
    pg_catalog.row_security_active(c.oid), pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
        AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''),
    c.relkind = 'r' AND EXISTS(SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
    (SELECT l.oid::pg_catalog.regclass::text FROM pg_catalog.pg_partition_tree(c.oid) t
        JOIN pg_catalog.pg_class l ON l.oid = t.relid
        WHERE t.isleaf AND t.relid <> c.oid AND c.relkind = 'p'
            AND l.relreplident NOT IN ('f', c.relreplident) LIMIT 1),
    (SELECT l.oid::pg_catalog.regclass::text FROM pg_catalog.pg_partition_tree(c.oid) t
        JOIN pg_catalog.pg_class l ON l.oid = t.relid
        WHERE t.isleaf AND t.relid <> c.oid AND c.relkind = 'p'
            AND (l.relkind <> 'r' OR l.relpersistence <> 'p') LIMIT 1)
FROM unnest($1::text[], $2::text[]) w(schema, name)
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
ORDER BY 1, 2";

/// A permanent slot and connection, and temporary ones for the snapshot.
const NEEDED: i64 = 2;

/// # Errors
/// `Settings`, `Denied` or `Unsupported`, naming the table and the command that helps.
pub(super) async fn check(
    settings: &PostgresSettings,
    database: &Database,
    names: &Names,
    tables: &[TableSchema],
) -> Result<()> {
    let slot = Slot::look_up(&database.client, &names.slot).await?;
    server(database, names, slot.as_ref()).await?;
    if let Some(slot) = slot {
        slot.confirmed(database, tables)?;
    }
    for table in tables {
        if table.kind == TableKind::View {
            return Err(refused("a view has no changes of its own; leave it out")
                .context("table", &table.name));
        }
    }
    let (schemas, table_names) = arrays(tables);
    let rows = database.client.query(TABLES, &[&schemas, &table_names]).await;
    let failed = |error| convert(error, "the database's catalogs cannot be read");
    for row in rows.map_err(failed)? {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let wanted = tables.iter().find(|table| table.name == name);
        table(&row, &name, wanted, names).map_err(|error| error.context("table", &name))?;
    }
    if names.is_given {
        publication::check(database, names, tables).await?;
    }
    ddl::check(settings, &database.client, names).await?;
    super::walsender::check(settings)
}

async fn server(database: &Database, names: &Names, slot: Option<&Slot>) -> Result<()> {
    let ours = slot.and_then(|slot| slot.active_pid);
    let row = database.client.query_one(SERVER, &[&ours]).await;
    let row = row.map_err(|error| convert(error, "the server's settings cannot be read"))?;
    let (level, role): (&str, &str) = (row.get(0), row.get(8));
    if level != "logical" {
        return Err(Error::settings(format!(
            "the server's log does not hold changes (wal_level is {level}); run ALTER SYSTEM SET \
             wal_level = logical and restart the server"
        )));
    }
    if row.get(1) {
        return Err(refused("the server is a standby; name the primary server as the source"));
    }
    if !row.get::<_, bool>(6) {
        let role = quote(role);
        let message = format!("the role may not read the log; run ALTER ROLE {role} REPLICATION");
        return Err(Error::new(ErrorKind::Denied, message));
    }
    let needed = NEEDED - i64::from(slot.is_some());
    let (slots, slots_used): (i64, i64) = (row.get(2), row.get(3));
    if slots - slots_used < needed {
        return Err(Error::settings(format!(
            "the server has no replication slot left: {slots_used} of {slots} are used and \
             {needed} more are needed; drop one that nobody uses (SELECT slot_name FROM \
             pg_replication_slots WHERE NOT active) or raise max_replication_slots"
        )));
    }
    let (senders, senders_used): (i64, i64) = (row.get(4), row.get(5));
    if senders - senders_used < NEEDED {
        return Err(Error::settings(format!(
            "the server has no connection left for replication: {senders_used} of {senders} are \
             used and {NEEDED} are needed; raise max_wal_senders"
        )));
    }
    if !names.is_given && !row.get::<_, bool>(7) {
        let message = format!(
            "the role may not create a publication; run GRANT CREATE ON DATABASE {} TO {}, or make \
             a publication of the tables and name it by publication-name",
            quote(&database.name),
            quote(role)
        );
        return Err(Error::new(ErrorKind::Denied, message));
    }
    Ok(())
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

fn table(row: &Row, name: &TableName, wanted: Option<&TableSchema>, names: &Names) -> Result<()> {
    let quoted = format!("{}.{}", quote(&name.schema), quote(&name.name));
    match row.get::<_, Option<&str>>(2) {
        None => return Err(Error::new(ErrorKind::NotFound, "the table is not there")),
        Some("r" | "p") => {}
        Some("f") => return Err(refused("a foreign table has no log here; leave it out")),
        Some(_) => return Err(refused("what is no table has no changes of its own; leave it out")),
    }
    match row.get::<_, &str>(3) {
        "p" => {}
        "u" => {
            return Err(refused(format!(
                "an unlogged table is not in the log; run ALTER TABLE {quoted} SET LOGGED"
            )));
        }
        _ => return Err(refused("a temporary table is not in the log; leave it out")),
    }
    let (has_key, has_index): (bool, bool) = (row.get(5), row.get(6));
    let full = format!("ALTER TABLE {quoted} REPLICA IDENTITY FULL");
    let has_identity = match row.get::<_, &str>(4) {
        "d" => has_key,
        "i" => has_index,
        "f" => true,
        _ => false,
    };
    if !has_identity {
        let help = match has_key {
            true => format!("run ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT"),
            false => format!("add a primary key, or run {full}"),
        };
        return Err(Error::settings(format!(
            "the log does not say which row an update or delete is about: the table has no replica \
             identity; {help}"
        )));
    }
    if let Some(leaf) = row.get::<_, Option<&str>>(11) {
        return Err(Error::settings(format!(
            "partition {leaf} has another replica identity than the table; run ALTER TABLE {leaf} \
             REPLICA IDENTITY FULL, or give it the table's"
        )));
    }
    if let Some(leaf) = row.get::<_, Option<&str>>(12) {
        return Err(refused(format!(
            "partition {leaf} is a foreign or unlogged table, whose changes are not in the log"
        )));
    }
    if row.get(10) {
        return Err(refused(
            "other tables inherit from the table: their rows are read with it, but their changes \
             come under their own names; leave it out",
        ));
    }
    let generated: Vec<String> = row.get(9);
    let wanted = wanted.map(|table| table.columns.as_slice()).unwrap_or_default();
    if let Some(column) = wanted.iter().find(|column| generated.contains(&column.name)) {
        return Err(refused(
            "the log does not hold generated columns; remove the column by a transformation rule \
             (remove-column), the target can compute it too",
        )
        .context("column", &column.name));
    }
    if row.get(7) {
        let message = "row security hides rows of the table from the role, of which the log tells; \
            give the role BYPASSRLS";
        return Err(Error::new(ErrorKind::Denied, message));
    }
    if !names.is_given && !row.get::<_, bool>(8) {
        let message = "only the owner of the table may publish it; connect as the owner, or have a \
            publication made and name it by publication-name";
        return Err(Error::new(ErrorKind::Denied, message));
    }
    Ok(())
}

/// Whether each column of the tables has a binary form that is known here.
///
/// # Errors
/// `Connection`; `Settings` for a type that values cannot be read as.
pub(super) async fn has_binary_form(
    settings: &PostgresSettings,
    database: &Database,
    tables: &[TableSchema],
) -> Result<bool> {
    database::each_column(settings, database, tables, |base, column| {
        super::form::Form::binary(base, column).is_some()
    })
    .await
}
