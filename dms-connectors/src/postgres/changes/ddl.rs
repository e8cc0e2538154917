//! DDL as the log tells it.
//!
//! An event trigger of the task writes which tables a statement has altered or dropped into the log,
//! as a logical message inside of the statement's own transaction. So a drop, and a change of a
//! table's columns that no row follows, are told at their place. Where the role may not make event
//! triggers, shapes are told with the rows that have them, and drops are found by looking.
//!
//! **Anybody may write such a message.** What it says is believed only as far as the catalogs bear it
//! out: a table is dropped if it is not there, altered if it is now as the message describes it. A
//! feed that is behind leaves a shape that has changed again since to the rows that have it.

use dms_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::names::Names;
use super::pgoutput::{Relation, RelationColumn};
use crate::postgres::error::convert;
use crate::postgres::settings::{CaptureDdls, PostgresSettings};
use crate::sql::quote;

/// A table as the plugin describes it, of class `c` in namespace `n`.
macro_rules! described {
    () => {
        "pg_catalog.jsonb_build_object('id', c.oid::pg_catalog.int8,
            'schema', n.nspname::pg_catalog.text, 'name', c.relname::pg_catalog.text,
            'identity', c.relreplident::pg_catalog.text, 'columns',
            (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                'name', a.attname::pg_catalog.text, 'type', a.atttypid::pg_catalog.int8,
                'modifier', a.atttypmod, 'key', c.relreplident = 'f' OR EXISTS(
                    SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
                        AND i.indimmediate
                        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                            WHEN 'i' THEN i.indisreplident ELSE false END
                        AND a.attnum = ANY((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1])))
                ORDER BY a.attnum), '[]')
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                AND NOT a.attisdropped AND a.attgenerated = ''))"
    };
}

/// A table as it is now.
pub(super) const NOW: &str = concat!(
    "SELECT ",
    described!(),
    "::pg_catalog.text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1"
);

/// What the triggers run; the message's prefix is its argument. It never fails: the statement is the
/// user's. A cascade may drop columns of tables that the statement does not name.
///
/// The server places a message where its record ends, which is where the next record begins, and of
/// the two it may tell the next one first if the message is a subtransaction's, as it is inside of a
/// block that catches. An empty message behind it takes that place.
const BODY: &str = concat!(
    "
DECLARE
    altered pg_catalog.oid[];
    dropped pg_catalog.oid[];
    tables pg_catalog.jsonb;
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        SELECT pg_catalog.array_agg(o.objid) FILTER (WHERE o.objsubid = 0),
            pg_catalog.array_agg(o.objid) FILTER (WHERE o.objsubid <> 0) INTO dropped, altered
        FROM pg_catalog.pg_event_trigger_dropped_objects() o
        WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND o.object_type IN ('table', 'table column') AND NOT o.is_temporary;
    ELSE
        SELECT pg_catalog.array_agg(c.oid) INTO altered
        FROM pg_catalog.pg_event_trigger_ddl_commands() o JOIN pg_catalog.pg_class c
            ON o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = o.objid
            OR o.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                AND c.relnamespace = o.objid;
    END IF;
    SELECT pg_catalog.jsonb_agg(",
    described!(),
    ") INTO tables
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY(altered) AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't';
    IF tables IS NOT NULL OR dropped IS NOT NULL THEN
        PERFORM pg_catalog.pg_logical_emit_message(true, TG_TASK, pg_catalog.jsonb_build_object(
            'dropped', coalesce(pg_catalog.to_jsonb(dropped::pg_catalog.int8[]), '[]'),
            'altered', coalesce(tables, '[]'))::pg_catalog.text);
        PERFORM pg_catalog.pg_logical_emit_message(true, TG_TASK, '');
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'a change of a table is not told to %: %', TG_TASK, SQLERRM;
END"
);

/// What stands for the prefix in [`BODY`].
const PREFIX: &str = "TG_TASK";

/// The triggers that are there as they have to be.
const CURRENT: &str = "
SELECT count(*) FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = $1
WHERE e.evtenabled = 'A' AND p.prosecdef AND p.prosrc = $3
    AND p.proconfig = ARRAY['search_path=pg_catalog, pg_temp']
    AND ((e.evtname = $1 AND e.evtevent = 'ddl_command_end' AND e.evttags = $4)
        OR (e.evtname = $2 AND e.evtevent = 'sql_drop' AND e.evttags IS NULL))";

const ANY: &str = "
SELECT EXISTS(SELECT FROM pg_catalog.pg_event_trigger e WHERE e.evtname IN ($1, $2))
    OR EXISTS(SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = $1)";

/// Statements that alter tables which exist.
const TAGS: [&str; 2] = ["ALTER TABLE", "ALTER SCHEMA"];

const DOING: &str = "the event trigger that tells of altered and dropped tables cannot be made";
const LOOKING: &str = "event triggers cannot be looked up";

fn body(names: &Names) -> String {
    // Of lower-case letters, digits and underscores.
    BODY.replace(PREFIX, &format!("'{}'", names.ddl))
}

/// Drops what is there first: a function that somebody else owns would stay theirs.
fn create(names: &Names) -> String {
    let (own, dropped) = (quote(&names.ddl), quote(&names.ddl_dropped));
    let tags = TAGS.map(|tag| format!("'{tag}'")).join(", ");
    format!(
        "DROP EVENT TRIGGER IF EXISTS {own}; DROP EVENT TRIGGER IF EXISTS {dropped};
        CREATE SCHEMA IF NOT EXISTS {own}; DROP FUNCTION IF EXISTS {own}.{own}();
        CREATE FUNCTION {own}.{own}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS $dms${}$dms$;
        CREATE EVENT TRIGGER {own} ON ddl_command_end WHEN TAG IN ({tags})
            EXECUTE FUNCTION {own}.{own}();
        CREATE EVENT TRIGGER {dropped} ON sql_drop EXECUTE FUNCTION {own}.{own}();
        ALTER EVENT TRIGGER {own} ENABLE ALWAYS; ALTER EVENT TRIGGER {dropped} ENABLE ALWAYS",
        body(names)
    )
}

async fn is_current(client: &Client, names: &Names) -> Result<bool> {
    let tags: Vec<&str> = TAGS.to_vec();
    let (own, dropped) = (&names.ddl, &names.ddl_dropped);
    let row = client.query_one(CURRENT, &[own, dropped, &body(names), &tags]).await;
    let row = row.map_err(|error| convert(error, LOOKING))?;
    Ok(row.get::<_, i64>(0) == 2)
}

/// Whether anything of the task's triggers is there.
async fn exists(client: &Client, names: &Names) -> Result<bool> {
    let row = client.query_one(ANY, &[&names.ddl, &names.ddl_dropped]).await;
    Ok(row.map_err(|error| convert(error, LOOKING))?.get(0))
}

fn denied(error: tokio_postgres::Error) -> Error {
    if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return convert(error, DOING);
    }
    let message = format!(
        "{DOING}: the role is no superuser, as the server demands for CREATE EVENT TRIGGER; connect \
         as one, or set capture-ddls to auto or false"
    );
    Error::new(ErrorKind::Denied, message).with_source(error)
}

/// Sees that the triggers can be made where they are demanded. Makes nothing.
///
/// # Errors
/// `Denied` saying which right is missing.
pub(super) async fn check(
    settings: &PostgresSettings,
    client: &Client,
    names: &Names,
) -> Result<()> {
    if settings.capture_ddls != CaptureDdls::Always || is_current(client, names).await? {
        return Ok(());
    }
    let tried = client.batch_execute(&format!("BEGIN; {}", create(names))).await;
    let undone = client.batch_execute("ROLLBACK").await;
    tried.map_err(denied)?;
    undone.map_err(|error| convert(error, DOING))
}

/// Makes the triggers, or makes them anew if they are not as they have to be; removes them if they
/// are not wanted.
///
/// # Errors
/// `Denied` where they are demanded; `Connection`.
pub(super) async fn ensure(
    settings: &PostgresSettings,
    client: &Client,
    names: &Names,
) -> Result<()> {
    if settings.capture_ddls == CaptureDdls::Never {
        return remove(client, names).await;
    }
    if is_current(client, names).await? {
        return Ok(());
    }
    // One message of the protocol, and so one transaction.
    let Err(error) = client.batch_execute(&create(names)).await else { return Ok(()) };
    let is_denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
    let error = denied(error);
    if settings.capture_ddls == CaptureDdls::Always || error.is_transient() {
        return Err(error);
    }
    const INSTEAD: &str = "changes of tables are told with the rows that follow them, and drops are \
        found by looking";
    match is_denied {
        true => tracing::info!("the role may not make event triggers: {INSTEAD}"),
        false => tracing::warn!(%error, "{INSTEAD}"),
    }
    Ok(())
}

/// Removes what [`ensure`] made, if anything is there.
///
/// # Errors
/// `Denied`.
pub(super) async fn remove(client: &Client, names: &Names) -> Result<()> {
    if !exists(client, names).await? {
        return Ok(());
    }
    let failed = |error| convert(error, "the task's event triggers cannot be dropped");
    let (own, dropped) = (quote(&names.ddl), quote(&names.ddl_dropped));
    let triggers = format!(
        "DROP EVENT TRIGGER IF EXISTS {own}; DROP EVENT TRIGGER IF EXISTS {dropped};
        DROP FUNCTION IF EXISTS {own}.{own}()"
    );
    client.batch_execute(&triggers).await.map_err(failed)?;
    client.batch_execute(&format!("DROP SCHEMA IF EXISTS {own}")).await.map_err(failed)
}

/// What a message of the triggers says.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Told {
    /// Tables that are gone, by their numbers.
    pub(super) dropped: Vec<u32>,
    /// Tables as they are from there on.
    pub(super) altered: Vec<Described>,
}

/// A table as [`Relation`] has it.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Described {
    pub(super) id: u32,
    schema: String,
    name: String,
    identity: String,
    columns: Vec<DescribedColumn>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct DescribedColumn {
    name: String,
    #[serde(rename = "type")]
    type_id: u32,
    modifier: i32,
    key: bool,
}

impl Described {
    /// What [`NOW`] answers; `None` for what is no description.
    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn into_relation(self) -> Relation {
        let column = |column: DescribedColumn| RelationColumn {
            is_key: column.key,
            name: column.name,
            type_id: column.type_id,
            modifier: column.modifier,
        };
        Relation {
            id: self.id,
            schema: self.schema,
            name: self.name,
            identity: self.identity.bytes().next().unwrap_or_default(),
            columns: self.columns.into_iter().map(column).collect(),
        }
    }
}

impl Told {
    /// What a message says. One that is none of the triggers' says nothing.
    pub(super) fn parse(content: &[u8]) -> Self {
        if content.is_empty() {
            return Self::default();
        }
        serde_json::from_slice(content).unwrap_or_else(|error| {
            tracing::warn!(%error, "a message in the log has the task's name and is none of its own");
            Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let told = Told::parse(
            br#"{"dropped": [4294967295], "altered": [{"id": 7, "schema": "s", "name": "t",
                "identity": "d", "columns": [{"key": true, "name": "id", "type": 23, "modifier": -1}]}]}"#,
        );
        assert_eq!(told.dropped, [u32::MAX]);
        let column = RelationColumn { is_key: true, name: "id".into(), type_id: 23, modifier: -1 };
        let relation = Relation {
            id: 7,
            schema: "s".into(),
            name: "t".into(),
            identity: b'd',
            columns: vec![column],
        };
        let altered: Vec<_> = told.altered.into_iter().map(Described::into_relation).collect();
        assert_eq!(altered, [relation]);
        for other in ["", "words", "{}", r#"{"dropped": [-1], "altered": []}"#, "\u{0}"] {
            assert_eq!(Told::parse(other.as_bytes()), Told::default(), "{other}");
        }
    }
}
