//! Transformation rules, and what they make of a table.

use std::sync::Arc;

use super::cast::check_types;
use super::data_type::name_in_dms;
use super::{
    Expression, LobMode, ParallelLoad, Pattern, PlannedColumn, TableMapping, TablePlan, ranges,
};
use crate::schema::{Column, LogicalType, TableName, TableSchema};
use crate::{Error, Result};

/// One transformation rule.
#[derive(Debug, Clone)]
pub(super) struct Transformation {
    pub(super) object: ObjectName,
    pub(super) schema: Pattern,
    pub(super) table: Pattern,
    pub(super) column: Pattern,
    /// Only columns of this type, by its [name in DMS](name_in_dms).
    pub(super) data_type: Option<&'static str>,
    pub(super) action: Action,
}

/// What a rule changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectName {
    Schema,
    Table,
    Column,
}

/// What a rule does.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Rename(String),
    Lowercase,
    Uppercase,
    AddPrefix(String),
    AddSuffix(String),
    /// The old, the new.
    ReplacePrefix(String, String),
    ReplaceSuffix(String, String),
    RemoveColumn,
    IncludeColumn,
    AddColumn {
        name: String,
        expression: Expression,
        logical_type: LogicalType,
    },
    ChangeDataType(LogicalType),
    DefinePrimaryKey(Vec<String>),
}

impl Transformation {
    pub(super) fn rename(object: ObjectName, schema: &str, table: &str, new: &str) -> Self {
        Self {
            object,
            schema: Pattern::new(schema),
            table: Pattern::new(table),
            column: Pattern::new("%"),
            data_type: None,
            action: Action::Rename(new.to_owned()),
        }
    }

    fn covers_table(&self, table: &TableName) -> bool {
        self.schema.matches(&table.schema)
            && (self.object == ObjectName::Schema || self.table.matches(&table.name))
    }

    fn covers_column(&self, table: &TableName, column: &Column) -> bool {
        let type_name = name_in_dms(&column.logical_type);
        self.object == ObjectName::Column
            && self.covers_table(table)
            && self.column.matches(&column.name)
            && self.data_type.is_none_or(|ty| ty == type_name)
    }
}

/// The name after every matching rule, one of each kind, in the order of their ids.
fn renamed<'a>(name: &str, rules: impl Iterator<Item = &'a Transformation>) -> String {
    let mut name = name.to_owned();
    let mut done = Vec::new();
    for rule in rules {
        let kind = std::mem::discriminant(&rule.action);
        if done.contains(&kind) {
            continue;
        }
        name = match &rule.action {
            Action::Rename(new) => new.clone(),
            Action::Lowercase => name.to_lowercase(),
            Action::Uppercase => name.to_uppercase(),
            Action::AddPrefix(prefix) => format!("{prefix}{name}"),
            Action::AddSuffix(suffix) => format!("{name}{suffix}"),
            Action::ReplacePrefix(old, new) => match name.strip_prefix(old.as_str()) {
                Some(rest) => format!("{new}{rest}"),
                None => name,
            },
            Action::ReplaceSuffix(old, new) => match name.strip_suffix(old.as_str()) {
                Some(rest) => format!("{rest}{new}"),
                None => name,
            },
            _ => continue,
        };
        done.push(kind);
    }
    name
}

/// Resolves the mapping for one table.
pub(super) fn plan(mapping: &TableMapping, table: &TableSchema) -> Result<TablePlan> {
    let failed = |error: Error| error.context("table", &table.name);
    let rules = &mapping.transformations;
    let matching = |object: ObjectName| {
        rules.iter().filter(move |rule| rule.object == object && rule.covers_table(&table.name))
    };
    let target_name = TableName::new(
        match &mapping.target_schema {
            Some(schema) => schema.clone(),
            None => renamed(&table.name.schema, matching(ObjectName::Schema)),
        },
        renamed(&table.name.name, matching(ObjectName::Table)),
    );
    let mut planned = Columns::default();
    for (place, column) in table.columns.iter().enumerate() {
        planned.add_source(mapping, table, place, column)?;
    }
    planned.add_computed(mapping, table)?;
    let mut target = TableSchema::new(target_name, planned.columns);
    target.kind = table.kind;
    target.row_estimate = table.row_estimate;
    target.byte_estimate = table.byte_estimate;
    target.native_options = table.native_options.clone();
    (target.id, target.last_column) = (table.id, table.last_column);
    let names = &planned.names;
    let new_name =
        |old: &String| names.iter().find(|(from, _)| from == old).map(|(_, to)| to.clone());
    let defined = rules.iter().find_map(|rule| match &rule.action {
        Action::DefinePrimaryKey(columns) if rule.covers_table(&table.name) => Some(columns),
        _ => None,
    });
    target.primary_key = match defined {
        Some(columns) => columns
            .iter()
            .map(|name| {
                let there = target.column_index(name).map(|_| name.clone());
                there.or_else(|| new_name(name)).ok_or_else(|| {
                    failed(
                        Error::settings("define-primary-key names a column that is not there")
                            .context("column", name),
                    )
                })
            })
            .collect::<Result<_>>()?,
        None => match table.primary_key.iter().map(new_name).collect() {
            Some(key) => key,
            None => {
                return Err(failed(Error::settings(
                    "the table mapping removes a column of the primary key; add a \
                     define-primary-key rule, or keep the column",
                )));
            }
        },
    };
    for index in &table.unique_indexes {
        // An index over a removed column has nothing to keep unique.
        if let Some(columns) = index.columns.iter().map(new_name).collect() {
            let name = index.name.clone();
            target.unique_indexes.push(crate::schema::UniqueIndex { name, columns });
        }
    }
    unique_names(&target).map_err(failed)?;
    let filter = mapping.selection.filter_for(&table.name, table.kind);
    filter.map_or(Ok(()), |filter| filter.check(table))?;
    let settings = mapping.settings.iter().find(|settings| settings.name == table.name);
    let parallel_load = settings.and_then(|settings| settings.parallel_load.clone());
    if let Some(ParallelLoad::Ranges { columns, boundaries, names }) = &parallel_load {
        ranges(table, columns, boundaries, names)?;
    }
    Ok(TablePlan {
        source: Arc::new(table.clone()),
        target: Arc::new(target),
        read: planned.read,
        filter: filter.cloned(),
        columns: planned.planned,
        parallel_load: parallel_load.unwrap_or_default(),
        load_order: mapping.selection.load_order_for(&table.name, table.kind),
    })
}

fn unique_names(table: &TableSchema) -> Result<()> {
    for (index, column) in table.columns.iter().enumerate() {
        if table.columns.iter().take(index).any(|other| other.name == column.name) {
            return Err(Error::settings("two columns get the same name by the table mapping")
                .context("column", &column.name));
        }
    }
    if table.columns.is_empty() {
        return Err(Error::settings("the table mapping leaves the table no column"));
    }
    Ok(())
}

/// The target's columns as they come together.
#[derive(Default)]
struct Columns {
    columns: Vec<Column>,
    planned: Vec<PlannedColumn>,
    read: Vec<usize>,
    /// Old and new names.
    names: Vec<(String, String)>,
}

impl Columns {
    /// Where a source column stands among those read; it is read from now on.
    fn read(&mut self, place: usize) -> usize {
        match self.read.iter().position(|at| *at == place) {
            Some(at) => at,
            None => {
                self.read.push(place);
                self.read.len() - 1
            }
        }
    }

    fn add_source(
        &mut self,
        mapping: &TableMapping,
        table: &TableSchema,
        place: usize,
        column: &Column,
    ) -> Result<()> {
        let rules: Vec<&Transformation> = mapping
            .transformations
            .iter()
            .filter(|rule| rule.covers_column(&table.name, column))
            .collect();
        let settings = mapping.settings.iter().find(|settings| settings.name == table.name);
        let lob_mode = settings.and_then(|s| s.lob_mode).unwrap_or(mapping.lob_mode);
        let lob = column.logical_type.is_lob();
        let removed = rules.iter().any(|rule| matches!(rule.action, Action::RemoveColumn))
            || (lob && lob_mode == LobMode::None);
        // Naming columns to include leaves out every other one of the table.
        let includes = mapping.transformations.iter().any(|rule| {
            matches!(rule.action, Action::IncludeColumn) && rule.covers_table(&table.name)
        });
        let included = rules.iter().any(|rule| matches!(rule.action, Action::IncludeColumn));
        if removed || (includes && !included) {
            return Ok(());
        }
        let mut target = column.clone();
        target.name = renamed(&column.name, rules.iter().copied());
        let changed = rules.iter().find_map(|rule| match &rule.action {
            Action::ChangeDataType(ty) => Some(ty),
            _ => None,
        });
        let read = self.read(place);
        let planned = match (changed, lob_mode) {
            (Some(ty), _) if *ty != column.logical_type => {
                check_types(&column.logical_type, ty).map_err(|error| {
                    error.context("table", &table.name).context("column", &column.name)
                })?;
                target.logical_type = ty.clone();
                target.native_type = None;
                PlannedColumn::Cast { read, from: column.logical_type.clone() }
            }
            (_, LobMode::Limited(bytes)) if lob => PlannedColumn::Limited { read, bytes },
            _ => PlannedColumn::Read(read),
        };
        self.names.push((column.name.clone(), target.name.clone()));
        self.columns.push(target);
        self.planned.push(planned);
        Ok(())
    }

    fn add_computed(&mut self, mapping: &TableMapping, table: &TableSchema) -> Result<()> {
        for rule in &mapping.transformations {
            let Action::AddColumn { name, expression, logical_type } = &rule.action else {
                continue;
            };
            if !rule.covers_table(&table.name) {
                continue;
            }
            for column in expression.columns() {
                let place = table.column_index(column).ok_or_else(|| {
                    Error::settings(format!("an expression names ${column}, which is not there"))
                        .context("table", &table.name)
                        .context("column", name)
                })?;
                self.read(place);
            }
            self.columns.push(Column::new(name, logical_type.clone()));
            self.planned.push(PlannedColumn::Expression(expression.clone()));
        }
        Ok(())
    }
}
