//! The shapes of tables as the log has them, completed from the catalogs.
//!
//! A feed may be far behind: what the log says of a table is of its own time, the catalogs are of
//! now. Names and types are the log's; keys, nullability and the numbers of columns are the
//! catalogs', as far as they still know the column.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dms_core::change::Identity;
use dms_core::schema::{Column, TableName, TableSchema, UniqueIndex};
use dms_core::value::Value;
use dms_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use super::ddl::{self, Described};
use super::form::Form;
use super::pgoutput::{Relation, RelationColumn};
use crate::postgres::connection::connect;
use crate::postgres::copy::Values;
use crate::postgres::settings::PostgresSettings;
use crate::postgres::types::{CatalogType, catalog_type, logical_type};
use crate::postgres::{ENGINE, discover, error::convert};

/// What types are over, and how they are declared; by their numbers and modifiers.
const TYPES: &str = concat!(
    "
WITH RECURSIVE base(place, oid, typmod) AS (
    SELECT u.place, u.oid, u.typmod
    FROM unnest($1::pg_catalog.oid[], $2::int4[]) WITH ORDINALITY u(oid, typmod, place)
    UNION ALL
    SELECT b.place, t.typbasetype, t.typtypmod
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT b.place, ",
    catalog_type!(),
    "
FROM base b
JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
);

/// A relation's columns, and what rows hold that are older than a column: a partitioned table's
/// rows are in its partitions.
const ATTRIBUTES: &str = "
SELECT a.attnum, a.attname::text, a.attnotnull, a.atttypid, a.atttypmod,
    EXISTS(SELECT FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')),
    (SELECT pg_catalog.array_to_string(m.attmissingval, '')
        FROM pg_catalog.pg_attribute m
        WHERE m.attname = a.attname AND m.atthasmissing AND NOT m.attisdropped
            AND (m.attrelid = a.attrelid OR m.attrelid IN
                (SELECT t.relid FROM pg_catalog.pg_partition_tree(a.attrelid) t)) LIMIT 1),
    a.atthasdef OR a.attidentity <> ''
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// How long catalogs may take to be read.
const PATIENCE: Duration = Duration::from_secs(60);

/// What rows of a table are like from some place of the log on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) table: Arc<TableSchema>,
    pub(super) identity: Identity,
    /// `pg_attribute.attnum` of each column; none if one cannot be told.
    pub(super) column_ids: Vec<u32>,
    pub(super) initial: BTreeMap<usize, Option<Value>>,
    pub(super) forms: Vec<Form>,
    /// Whether each column is a part of the identity.
    pub(super) is_identity: Vec<bool>,
}

impl Shape {
    /// An error about a value of a column.
    pub(super) fn misfit(&self, place: usize, what: &str) -> Error {
        let column = self.table.columns.get(place);
        let (name, ty) = column.map_or_else(Default::default, |column| {
            (column.name.clone(), column.logical_type.to_string())
        });
        Error::data(format!("{what} is not a value of type {ty}"))
            .context("table", &self.table.name)
            .context("column", name)
    }
}

/// A column as the catalogs have it now.
struct Attribute {
    number: u32,
    name: String,
    not_null: bool,
    type_id: u32,
    modifier: i32,
    auto_increment: bool,
    missing: Option<String>,
    has_default: bool,
}

impl Attribute {
    fn has_type_of(&self, column: &RelationColumn) -> bool {
        (self.type_id, self.modifier) == (column.type_id, column.modifier)
    }
}

/// Finds the shapes of the tables that are followed.
pub(super) struct Shapes {
    settings: PostgresSettings,
    client: Option<Client>,
    /// With the numbers that they have.
    tables: BTreeMap<TableName, Option<u32>>,
    /// Whether values arrive in binary form.
    binary: bool,
    /// Tells the feeds to come that they cannot.
    text_form: Arc<AtomicBool>,
}

impl Shapes {
    pub(super) fn new(
        settings: &PostgresSettings,
        client: Client,
        tables: &[TableSchema],
        binary: bool,
        text_form: Arc<AtomicBool>,
    ) -> Self {
        let tables = tables.iter().map(|table| (table.name.clone(), table.id)).collect();
        Self { settings: settings.clone(), client: Some(client), tables, binary, text_form }
    }

    /// The name by which a relation is followed.
    pub(super) fn followed(&self, relation: u32) -> Option<&TableName> {
        self.tables.iter().find(|(_, id)| **id == Some(relation)).map(|(name, _)| name)
    }

    /// Whether a table is gone, as a message says.
    ///
    /// # Errors
    /// `Connection`.
    pub(super) async fn is_gone(&mut self, relation: u32) -> Result<bool> {
        self.look_until(relation, |now| now.is_none()).await
    }

    /// Whether a table is as a message describes it.
    ///
    /// # Errors
    /// `Connection`.
    pub(super) async fn is_as(&mut self, described: &Described) -> Result<bool> {
        self.look_until(described.id, |now| now == Some(described)).await
    }

    /// Whether the catalogs say of a table what is asked, now or in a moment.
    async fn look_until(
        &mut self,
        relation: u32,
        is_so: impl Fn(Option<&Described>) -> bool,
    ) -> Result<bool> {
        let client = self.connected().await?;
        let mut found = false;
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(LOOK_WAIT).await;
            }
            let looked = async { client.query_opt(ddl::NOW, &[&relation]).await };
            let row = tokio::time::timeout(PATIENCE, looked).await.map_err(|_| no_answer())?;
            let row = row.map_err(|error| convert(error, CATALOGS))?;
            let now = row.and_then(|row| Described::parse(row.get(0)));
            found = is_so(now.as_ref());
            if found {
                break;
            }
        }
        self.client = Some(client);
        Ok(found)
    }

    /// A connection that was idle for long may be gone.
    async fn connected(&mut self) -> Result<Client> {
        match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => Ok(client),
            None => connect(&self.settings).await,
        }
    }

    /// The shape of a relation; `None` for a table that nobody asked for, or that has the name of
    /// another which is followed. `before` is the one that it had.
    ///
    /// # Errors
    /// `Connection`; `Schema` for a type that is gone; `Unsupported` for a binary form that is not
    /// known here.
    pub(super) async fn resolve(
        &mut self,
        relation: &Relation,
        before: Option<&Shape>,
    ) -> Result<Option<Shape>> {
        let name = TableName::new(relation.schema.clone(), relation.name.clone());
        match self.tables.get(&name) {
            None => return Ok(None),
            Some(Some(id)) if *id != relation.id => return Ok(None),
            Some(_) => {}
        }
        let found = tokio::time::timeout(PATIENCE, self.find(relation, &name, before)).await;
        let found = found.unwrap_or_else(|_| Err(no_answer()));
        found.map(Some).map_err(|error| error.context("table", name))
    }

    async fn find(
        &mut self,
        relation: &Relation,
        name: &TableName,
        before: Option<&Shape>,
    ) -> Result<Shape> {
        let client = self.connected().await?;
        let shape = self.shape(&client, relation, name, before).await;
        self.client = Some(client);
        shape
    }

    async fn shape(
        &self,
        client: &Client,
        relation: &Relation,
        name: &TableName,
        before: Option<&Shape>,
    ) -> Result<Shape> {
        let attributes = visible_attributes(client, relation).await?;
        let known = |column: &RelationColumn| {
            let mut all = attributes.iter();
            all.find(|known| known.name == column.name && known.has_type_of(column))
        };
        let mut forms = Vec::new();
        let mut table = TableSchema::new(name.clone(), Vec::new());
        table.id = Some(relation.id);
        for (column, (base, mut of_type)) in
            relation.columns.iter().zip(types(client, &relation.columns).await?)
        {
            if let Some(known) = known(column) {
                of_type.nullable = !known.not_null;
                of_type.auto_increment = known.auto_increment;
            }
            discover::choose_type(&self.settings, name, &mut of_type)?;
            forms.push(self.form(&base, &of_type)?);
            table.columns.push(of_type);
        }
        let mut initial = BTreeMap::new();
        for (place, (column, of_type)) in relation.columns.iter().zip(&table.columns).enumerate() {
            match known(column) {
                Some(Attribute { missing: Some(text), .. }) => {
                    initial.insert(place, Some(value(of_type, text)?));
                }
                Some(Attribute { has_default: false, .. }) => {}
                // The column was renamed or dropped since; or its default was written into the
                // rows, for it is no constant or the table was rewritten.
                _ => {
                    initial.insert(place, None);
                }
            }
        }
        keys(client, relation, &mut table).await?;
        let identity = identity(relation, &table);
        let parts = identity.columns(table.columns.len());
        let is_identity = (0..table.columns.len()).map(|place| parts.contains(&place)).collect();
        let column_ids = column_ids(&relation.columns, &attributes, before);
        let table = Arc::new(table);
        Ok(Shape { table, identity, column_ids, initial, forms, is_identity })
    }

    fn form(&self, base: &str, column: &Column) -> Result<Form> {
        if !self.binary {
            return Ok(Form::text(base, column));
        }
        Form::binary(base, column).ok_or_else(|| {
            self.text_form.store(true, Ordering::Relaxed);
            unknown_form(&column.name)
        })
    }
}

/// A column of a type without a binary decoder has come since the feed began.
fn unknown_form(column: &str) -> Error {
    let message = "a column of a type came whose binary form is not known here; the feed goes on \
        in text form when it is opened again";
    Error::new(ErrorKind::Connection, message).context("column", column).transient()
}

fn no_answer() -> Error {
    let message = "the server does not answer what the table's columns are";
    Error::new(ErrorKind::Connection, message).transient()
}

const CATALOGS: &str = "the database's catalogs cannot be read";

/// How often the catalogs are asked for columns that the log tells of, and the wait between.
const LOOKS: u32 = 5;
const LOOK_WAIT: Duration = Duration::from_millis(20);

/// The columns that the catalogs have. A commit is in the log a moment before others see it, so that
/// a column which is not there yet is looked for again; one that is gone since never comes.
async fn visible_attributes(client: &Client, relation: &Relation) -> Result<Vec<Attribute>> {
    let mut found = attributes(client, relation.id).await?;
    for _ in 1..LOOKS {
        let is_there = |column: &RelationColumn| {
            found.iter().any(|known| known.name == column.name && known.has_type_of(column))
        };
        if relation.columns.iter().all(is_there) {
            break;
        }
        tokio::time::sleep(LOOK_WAIT).await;
        found = attributes(client, relation.id).await?;
    }
    Ok(found)
}

async fn attributes(client: &Client, relation: u32) -> Result<Vec<Attribute>> {
    let rows = client.query(ATTRIBUTES, &[&relation]).await;
    let rows = rows.map_err(|error| convert(error, CATALOGS))?;
    let attribute = |row: &tokio_postgres::Row| Attribute {
        number: u32::try_from(row.get::<_, i16>(0)).unwrap_or_default(),
        name: row.get(1),
        not_null: row.get(2),
        type_id: row.get(3),
        modifier: row.get(4),
        auto_increment: row.get(5),
        missing: row.get(6),
        has_default: row.get(7),
    };
    Ok(rows.iter().map(attribute).collect())
}

/// Columns of the types that a relation says, each behind the name of the type it is over.
async fn types(client: &Client, columns: &[RelationColumn]) -> Result<Vec<(String, Column)>> {
    let ids: Vec<u32> = columns.iter().map(|column| column.type_id).collect();
    let modifiers: Vec<i32> = columns.iter().map(|column| column.modifier).collect();
    let rows = client.query(TYPES, &[&ids, &modifiers]).await;
    let rows = rows.map_err(|error| convert(error, CATALOGS))?;
    let mut found: BTreeMap<i64, (String, i32, String, Vec<String>)> = rows
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4))))
        .collect();
    let column = |(place, column): (i64, &RelationColumn)| {
        let Some((base, modifier, declaration, labels)) = found.remove(&place) else {
            return Err(Error::schema("the column's type was dropped since; load the table again")
                .context("column", &column.name));
        };
        let ty = CatalogType { name: &base, modifier, declaration: &declaration, labels: &labels };
        let column = Column::new(column.name.clone(), logical_type(&ty));
        Ok((base, column.with_native_type(ENGINE, declaration)))
    };
    (1..).zip(columns).map(column).collect()
}

/// Adds the keys of which all columns are there.
async fn keys(client: &Client, relation: &Relation, table: &mut TableSchema) -> Result<()> {
    let of_now = TableSchema::new(table.name.clone(), Vec::new());
    let mut tables = BTreeMap::from([(relation.id, of_now)]);
    discover::keys(client, &mut tables).await?;
    let Some(now) = tables.remove(&relation.id) else { return Ok(()) };
    let are_there = |names: &[String]| names.iter().all(|name| table.column_index(name).is_some());
    let unique: Vec<UniqueIndex> =
        now.unique_indexes.into_iter().filter(|index| are_there(&index.columns)).collect();
    let flagged: Vec<String> =
        relation.columns.iter().filter(|c| c.is_key).map(|c| c.name.clone()).collect();
    let same = |a: &[String], b: &[String]| {
        a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
    };
    // The default identity is the primary key of the log's time.
    let is_of_then = relation.identity != b'd' || same(&flagged, &now.primary_key);
    table.primary_key = match is_of_then && are_there(&now.primary_key) {
        true => now.primary_key,
        false if relation.identity == b'd' => flagged,
        false => Vec::new(),
    };
    table.unique_indexes = unique;
    Ok(())
}

fn identity(relation: &Relation, table: &TableSchema) -> Identity {
    let places = |names: &[String]| names.iter().filter_map(|n| table.column_index(n)).collect();
    let key: Vec<usize> = match relation.identity {
        b'd' | b'f' => places(&table.primary_key),
        b'i' => {
            let columns = relation.columns.iter().enumerate();
            columns.filter(|(_, column)| column.is_key).map(|(place, _)| place).collect()
        }
        _ => Vec::new(),
    };
    if key.is_empty() { Identity::WholeRow } else { Identity::Key(key) }
}

/// A value in the server's text.
fn value(column: &Column, text: &str) -> Result<Value> {
    let mut values = Values::new(column)?;
    values.append_text(text.as_bytes()).map_err(|what| {
        let message = format!("{what} is not a value of type {}", column.logical_type);
        Error::data(message).context("column", &column.name)
    })?;
    Value::from_array(values.finish()?.as_ref(), 0, &column.logical_type)
}

/// The numbers of columns. One that was renamed since is the one of its type that stands between
/// the same neighbours, if there is no other.
fn column_ids(
    columns: &[RelationColumn],
    attributes: &[Attribute],
    before: Option<&Shape>,
) -> Vec<u32> {
    let of_now = |column: &RelationColumn| {
        let known = attributes.iter().find(|known| known.name == column.name);
        known.filter(|known| known.has_type_of(column)).map(|known| known.number)
    };
    let of_before = |column: &RelationColumn| {
        let before = before?;
        before.column_ids.get(before.table.column_index(&column.name)?).copied()
    };
    let numbers: Vec<Option<u32>> =
        columns.iter().map(|column| of_now(column).or_else(|| of_before(column))).collect();
    let mut ids: Vec<u32> = Vec::with_capacity(columns.len());
    for (place, (number, column)) in numbers.iter().zip(columns).enumerate() {
        let number = number.or_else(|| {
            let below = ids.last().copied().unwrap_or(0);
            let rest = numbers.get(place..).unwrap_or_default();
            let above = rest.iter().flatten().next().copied().unwrap_or(u32::MAX);
            let gap = rest.iter().take_while(|number| number.is_none()).count();
            let between = attributes.iter().filter(|known| {
                (below + 1..above).contains(&known.number) && known.has_type_of(column)
            });
            let alike = columns.iter().skip(place).take(gap);
            let alike = alike
                .filter(|c| (c.type_id, c.modifier) == (column.type_id, column.modifier))
                .count();
            (between.clone().count() == alike).then(|| between.clone().next())?.map(|k| k.number)
        });
        match number {
            // Columns come in the order of their numbers.
            Some(number) if ids.last().is_none_or(|last| *last < number) => ids.push(number),
            _ => return Vec::new(),
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_columns_survive_a_rename() {
        let attribute = |number, name: &str, type_id| Attribute {
            number,
            name: name.into(),
            not_null: false,
            type_id,
            modifier: -1,
            auto_increment: false,
            missing: None,
            has_default: false,
        };
        let now = [attribute(1, "id", 20), attribute(3, "new", 25), attribute(4, "n", 23)];
        let then = |columns: &[(&str, u32)]| {
            let column = |(name, type_id): &(&str, u32)| RelationColumn {
                is_key: false,
                name: (*name).into(),
                type_id: *type_id,
                modifier: -1,
            };
            column_ids(&columns.iter().map(column).collect::<Vec<_>>(), &now, None)
        };
        assert_eq!(then(&[("id", 20), ("new", 25), ("n", 23)]), [1, 3, 4]);
        assert_eq!(then(&[("id", 20), ("old", 25), ("n", 23)]), [1, 3, 4]);
        assert_eq!(then(&[("id", 20), ("gone", 16), ("old", 25), ("n", 23)]), [0u32; 0]);
        assert_eq!(then(&[("n", 23), ("id", 20)]), [0u32; 0]);
    }
}
