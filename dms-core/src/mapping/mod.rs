//! Table mapping: which tables move, and what they become. Read from DMS's own JSON, or built in
//! Rust; resolved into one [`TablePlan`] a table.

mod cast;
mod data_type;
mod expression;
mod filter;
mod limits;
mod order;
mod pattern;
mod plan;
mod ranges;
mod rules;
mod selection;
mod transformation;

pub use expression::Expression;
pub use filter::{Filter, FilterCondition, FilterOperator};
pub use pattern::Pattern;
pub use plan::{LobMode, ParallelLoad, PlannedColumn, TablePlan};
pub use ranges::{ranges, rows_in_range};
pub use selection::{RuleAction, Selection, SelectionRule, TableType};

use crate::schema::{TableName, TableSchema};
use crate::{Error, Result};
use transformation::{ObjectName, Transformation};

/// The mapping of a task.
///
/// ```
/// use dms_core::mapping::TableMapping;
///
/// let mapping = TableMapping::from_json(r#"{"rules": [
///     {"rule-type": "selection", "rule-id": "1", "rule-name": "all-shop",
///      "rule-action": "include",
///      "object-locator": {"schema-name": "shop", "table-name": "%"}},
///     {"rule-type": "transformation", "rule-id": "2", "rule-name": "low",
///      "rule-target": "table", "rule-action": "convert-lowercase",
///      "object-locator": {"schema-name": "shop", "table-name": "%"}}
/// ]}"#)?;
/// let same = TableMapping::new().include("shop", "%");
/// assert_eq!(mapping.selection(), same.selection());
/// # Ok::<(), dms_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct TableMapping {
    selection: Selection,
    transformations: Vec<Transformation>,
    settings: Vec<TableSettings>,
    lob_mode: LobMode,
    target_schema: Option<String>,
}

/// A `table-settings` rule.
#[derive(Debug, Clone)]
struct TableSettings {
    name: TableName,
    parallel_load: Option<ParallelLoad>,
    lob_mode: Option<LobMode>,
}

impl TableMapping {
    /// A mapping that selects nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `{"rules": […]}`.
    ///
    /// # Errors
    /// `Settings` naming the rule by its id, and the nearest known name for one that is not known.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::from_value(crate::json::parse(text, "table-mappings")?)
    }

    /// [`from_json`](Self::from_json) of a value already read.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_value(document: serde_json::Value) -> Result<Self> {
        let mut mapping = Self::new();
        rules::read(document, &mut mapping)?;
        Ok(mapping)
    }

    /// Selects the tables whose names match; `%` and `_` are wildcards.
    #[must_use]
    pub fn include(mut self, schema: &str, table: &str) -> Self {
        self.selection.push(SelectionRule::new(RuleAction::Include, schema, table));
        self
    }

    /// Takes the matching tables out again, whatever the order of rules.
    #[must_use]
    pub fn exclude(mut self, schema: &str, table: &str) -> Self {
        self.selection.push(SelectionRule::new(RuleAction::Exclude, schema, table));
        self
    }

    /// Renames the schemas that match.
    #[must_use]
    pub fn rename_schema(mut self, schema: &str, new: &str) -> Self {
        let rule = Transformation::rename(ObjectName::Schema, schema, "%", new);
        self.transformations.push(rule);
        self
    }

    /// Renames a table.
    #[must_use]
    pub fn rename_table(mut self, schema: &str, table: &str, new: &str) -> Self {
        let rule = Transformation::rename(ObjectName::Table, schema, table, new);
        self.transformations.push(rule);
        self
    }

    /// How one table is split for parallel reading.
    #[must_use]
    pub fn parallel_load(mut self, schema: &str, table: &str, load: ParallelLoad) -> Self {
        let name = TableName::new(schema, table);
        self.settings.push(TableSettings { name, parallel_load: Some(load), lob_mode: None });
        self
    }

    /// How large objects travel where no table setting says otherwise.
    #[must_use]
    pub fn with_lob_mode(mut self, mode: LobMode) -> Self {
        self.lob_mode = mode;
        self
    }

    /// Puts every table into this schema of the target (DMS `TargetSchema`).
    #[must_use]
    pub fn with_target_schema(mut self, schema: impl Into<String>) -> Self {
        self.target_schema = Some(schema.into()).filter(|schema| !schema.is_empty());
        self
    }

    /// Which tables are wanted.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Resolves the mapping for one table of the source.
    ///
    /// # Errors
    /// `Settings` naming the table, and the column if it is about one.
    pub fn plan(&self, table: &TableSchema) -> Result<TablePlan> {
        transformation::plan(self, table)
    }

    /// Resolves the mapping for all tables, and sees that no two become one.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); `NotFound` for a table that a rule names without wildcards and that
    /// is not among `tables`.
    pub fn plan_all(&self, tables: &[TableSchema]) -> Result<Vec<TablePlan>> {
        for rule in self.selection.rules() {
            let Some(name) = rule.exact_name() else { continue };
            let excluded = rule.action == RuleAction::Exclude || self.selection.excludes(&name);
            if !excluded && !tables.iter().any(|table| table.name == name) {
                return Err(Error::new(
                    crate::ErrorKind::NotFound,
                    "a selection rule names a table that the source does not have; names are \
                     case-sensitive",
                )
                .context("table", name));
            }
        }
        let plans = tables.iter().map(|table| self.plan(table)).collect::<Result<Vec<_>>>()?;
        for (index, plan) in plans.iter().enumerate() {
            let twin = plans.iter().take(index).find(|other| other.target.name == plan.target.name);
            if let Some(twin) = twin {
                return Err(Error::settings(format!(
                    "tables {} and {} would both become {} on the target; rename one of them",
                    twin.source.name, plan.source.name, plan.target.name
                )));
            }
        }
        Ok(plans)
    }
}

#[cfg(test)]
mod tests;
