//! Selection rules: which tables are wanted.

use serde::Deserialize;

use super::{Filter, Pattern};
use crate::schema::{TableKind, TableName};

/// What a selection rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Selects.
    Include,
    /// Takes out what includes selected.
    Exclude,
    /// Selects one table by its exact name, wildcards not read.
    Explicit,
}

/// Which relations a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableType {
    /// Base tables.
    #[default]
    Table,
    /// Views.
    View,
    /// Both.
    All,
}

/// One selection rule.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SelectionRule {
    /// What it does.
    pub action: RuleAction,
    /// Schemas it speaks of.
    pub schema: Pattern,
    /// Tables it speaks of.
    pub table: Pattern,
    /// Tables, views or both.
    pub table_type: TableType,
    /// Tables of a higher order load earlier.
    pub load_order: u32,
    /// Which of their rows.
    pub filter: Option<Filter>,
}

impl SelectionRule {
    /// A rule over base tables.
    #[must_use]
    pub fn new(action: RuleAction, schema: &str, table: &str) -> Self {
        Self {
            action,
            schema: Pattern::new(schema),
            table: Pattern::new(table),
            table_type: TableType::Table,
            load_order: 0,
            filter: None,
        }
    }

    /// The table that the rule names without wildcards.
    pub(super) fn exact_name(&self) -> Option<TableName> {
        match self.action {
            RuleAction::Explicit => Some(TableName::new(self.schema.as_str(), self.table.as_str())),
            _ => Some(TableName::new(self.schema.exact()?, self.table.exact()?)),
        }
    }

    fn covers(&self, name: &TableName, kind: TableKind) -> bool {
        let kind_fits = match self.table_type {
            TableType::All => true,
            TableType::Table => kind == TableKind::Table,
            TableType::View => kind == TableKind::View,
        };
        let name_fits = match self.action {
            RuleAction::Explicit => {
                self.schema.as_str() == name.schema && self.table.as_str() == name.name
            }
            _ => self.schema.matches(&name.schema) && self.table.matches(&name.name),
        };
        kind_fits && name_fits
    }
}

/// Which tables of a source are wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    rules: Vec<SelectionRule>,
}

impl Selection {
    /// Every table (no views).
    #[must_use]
    pub fn all() -> Self {
        Self { rules: vec![SelectionRule::new(RuleAction::Include, "%", "%")] }
    }

    /// Adds a rule.
    pub fn push(&mut self, rule: SelectionRule) {
        self.rules.push(rule);
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[SelectionRule] {
        &self.rules
    }

    /// Whether a rule takes the table out.
    pub(super) fn excludes(&self, name: &TableName) -> bool {
        self.rules.iter().any(|rule| {
            rule.action == RuleAction::Exclude
                && (rule.covers(name, TableKind::Table) || rule.covers(name, TableKind::View))
        })
    }

    /// The filter of the first rule that selects the table and has one.
    pub(super) fn filter_for(&self, name: &TableName, kind: TableKind) -> Option<&Filter> {
        self.selecting(name, kind).find_map(|rule| rule.filter.as_ref())
    }

    /// The load order of the first rule that selects the table and has one, else 0.
    pub(super) fn load_order_for(&self, name: &TableName, kind: TableKind) -> u32 {
        let mut orders = self.selecting(name, kind).map(|rule| rule.load_order);
        orders.find(|order| *order > 0).unwrap_or(0)
    }

    fn selecting(&self, name: &TableName, kind: TableKind) -> impl Iterator<Item = &SelectionRule> {
        let rules = self.rules.iter();
        rules.filter(move |rule| rule.action != RuleAction::Exclude && rule.covers(name, kind))
    }

    /// Whether a table is wanted: some rule includes it and none excludes it.
    #[must_use]
    pub fn selects(&self, name: &TableName, kind: TableKind) -> bool {
        let covered = |exclude: bool| {
            self.rules.iter().any(|rule| {
                (rule.action == RuleAction::Exclude) == exclude && rule.covers(name, kind)
            })
        };
        covered(false) && !covered(true)
    }
}
