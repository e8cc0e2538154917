//! Table mapping: which tables move, and what they become.

mod filter;
mod pattern;
mod plan;
mod selection;

pub use filter::{Filter, FilterCondition, FilterOperator};
pub use pattern::Pattern;
pub use plan::{LobMode, ParallelLoad, PlannedColumn, TablePlan};
pub use selection::{RuleAction, Selection, SelectionRule, TableType};

use crate::Result;
use crate::schema::TableSchema;

/// The mapping of a task.
#[derive(Debug, Clone, Default)]
pub struct TableMapping {
    selection: Selection,
}

impl TableMapping {
    /// A mapping that selects nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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

    /// Which tables are wanted.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Resolves the mapping for one table of the source.
    ///
    /// # Errors
    /// `Settings` naming the rule and the table.
    pub fn plan(&self, table: &TableSchema) -> Result<TablePlan> {
        Ok(TablePlan::identity(table.clone()))
    }
}
