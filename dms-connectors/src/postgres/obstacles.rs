//! What an existing table has that a load is slower for, or fails at: secondary indexes and foreign
//! keys. They are left alone, or dropped and built again when the rows are there.

use dms_core::Result;
use dms_core::endpoint::Run;
use dms_core::schema::TableName;
use tokio_postgres::{Client, GenericClient};

use super::error::convert;
use super::state::State;

/// Foreign keys of the table and of others to it, and its indexes that no constraint is made of.
/// Each as what it is, its table, its name, the statement that drops it and the one that makes it.
const IN_THE_WAY: &str = "
SELECT 'foreign key', n.nspname::text, c.relname::text, k.conname::text,
    pg_catalog.format('ALTER TABLE %I.%I DROP CONSTRAINT %I', n.nspname, c.relname, k.conname),
    pg_catalog.format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, c.relname, k.conname,
        pg_catalog.pg_get_constraintdef(k.oid)),
    f.nspname::text, r.relname::text
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
JOIN pg_catalog.pg_namespace f ON f.oid = r.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0
    AND ((n.nspname, c.relname) = ($1, $2) OR (f.nspname, r.relname) = ($1, $2))
UNION ALL
SELECT 'index', n.nspname::text, c.relname::text, x.relname::text,
    pg_catalog.format('DROP INDEX %I.%I', n.nspname, x.relname),
    pg_catalog.pg_get_indexdef(i.indexrelid), n.nspname::text, c.relname::text
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE (n.nspname, c.relname) = ($1, $2)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
ORDER BY 1, 4";

fn failed(error: tokio_postgres::Error) -> dms_core::Error {
    convert(error, "secondary indexes and foreign keys cannot be handled")
}

/// Says what is in the way of the rows of a table that stays.
pub(super) async fn report(client: &impl GenericClient, table: &TableName) -> Result<()> {
    for row in client.query(IN_THE_WAY, &[&table.schema, &table.name]).await.map_err(failed)? {
        let (kind, name): (&str, &str) = (row.get(0), row.get(3));
        tracing::warn!(
            %table, kind, name,
            "the target's table has it already: the load is slower for it, or may fail at it; \
             existing-indexes=rebuild drops it and builds it again after the rows"
        );
    }
    Ok(())
}

impl State {
    /// Drops what is in the way, and remembers it in the same transaction.
    pub(super) async fn drop_obstacles(
        &self,
        client: &impl GenericClient,
        run: &Run,
        table: &TableName,
    ) -> Result<()> {
        let rows = client.query(IN_THE_WAY, &[&table.schema, &table.name]).await.map_err(failed)?;
        let sql = format!(
            "INSERT INTO {}.dms_dropped (task, kind, table_schema, table_name, name, definition, \
             other_schema, other_name) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (task, table_schema, table_name, name) \
             DO UPDATE SET definition = excluded.definition",
            self.schema()
        );
        for row in rows {
            let field = |at| row.get::<_, String>(at);
            client
                .execute(
                    &sql,
                    &[
                        &run.task,
                        &field(0),
                        &field(1),
                        &field(2),
                        &field(3),
                        &field(5),
                        &field(6),
                        &field(7),
                    ],
                )
                .await
                .map_err(failed)?;
            client.batch_execute(&field(4)).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Builds the indexes of a table again that were dropped for its rows.
    pub(super) async fn rebuild_indexes(
        &self,
        client: &impl GenericClient,
        run: &Run,
        table: &TableName,
    ) -> Result<()> {
        let sql = format!(
            "DELETE FROM {}.dms_dropped WHERE task = $1 AND kind = 'index' AND table_schema = $2 \
             AND table_name = $3 RETURNING definition, name",
            self.schema()
        );
        let dropped = client.query(&sql, &[&run.task, &table.schema, &table.name]).await;
        self.build(client, dropped.map_err(failed)?).await
    }

    /// Adds the foreign keys again of which both tables are complete. Whoever completes the second
    /// of two tables sees the first, since this is a transaction of its own.
    pub(super) async fn rebuild_foreign_keys(&self, client: &mut Client, task: &str) -> Result<()> {
        let transaction = client.transaction().await.map_err(failed)?;
        let sql = format!(
            "DELETE FROM {0}.dms_dropped d WHERE task = $1 AND kind = 'foreign key' \
             AND NOT EXISTS (SELECT FROM {0}.dms_tables t WHERE t.task = d.task \
                 AND t.finished_at IS NULL AND (t.table_schema, t.table_name) IN \
                     ((d.table_schema, d.table_name), (d.other_schema, d.other_name))) \
             RETURNING definition, name",
            self.schema()
        );
        let dropped = transaction.query(&sql, &[&task]).await.map_err(failed)?;
        self.build(&transaction, dropped).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn build(
        &self,
        client: &impl GenericClient,
        dropped: Vec<tokio_postgres::Row>,
    ) -> Result<()> {
        for row in dropped {
            let name: String = row.get(1);
            let doing = format!("{name}, which was dropped for the load, cannot be built again");
            let built = client.batch_execute(row.get(0)).await;
            built.map_err(|error| convert(error, &doing))?;
        }
        Ok(())
    }
}
