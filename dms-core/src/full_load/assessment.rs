//! What every column becomes, known before a row moves.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::endpoint::{Fidelity, Target};
use crate::mapping::{Pattern, TablePlan};
use crate::schema::{LogicalType, TableName};
use crate::{Error, Result};

/// The type mapping of a whole task.
#[derive(Debug, Clone, Serialize)]
pub struct Assessment {
    /// Its tables, by name.
    pub tables: Vec<TableAssessment>,
}

/// The type mapping of one table.
#[derive(Debug, Clone, Serialize)]
pub struct TableAssessment {
    /// Its name at the source.
    #[serde(serialize_with = "as_text")]
    pub source: TableName,
    /// Its name at the target.
    #[serde(serialize_with = "as_text")]
    pub target: TableName,
    /// Its columns, in the target's order.
    pub columns: Vec<ColumnAssessment>,
}

/// What one column becomes.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnAssessment {
    /// Its name at the target.
    pub column: String,
    /// What its values are.
    pub logical_type: LogicalType,
    /// Its type in the target's words.
    pub target_type: String,
    /// Whether every value arrives unchanged.
    pub fidelity: Fidelity,
    /// Whether a loss was agreed to.
    pub accepted: bool,
}

impl ColumnAssessment {
    /// Whether a run may carry this column.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        match self.fidelity {
            Fidelity::Exact => true,
            Fidelity::NeedsConsent(_) => self.accepted,
            Fidelity::Impossible(_) => false,
        }
    }
}

impl Assessment {
    pub(super) fn new(plans: &[TablePlan], target: &dyn Target, accept_loss: &[String]) -> Self {
        let accepted: Vec<Pattern> = accept_loss.iter().map(Pattern::new).collect();
        let tables = plans.iter().map(|plan| {
            let mappings = target.map_types(&plan.target);
            let columns = plan.target.columns.iter().zip(mappings).map(|(column, mapping)| {
                let full_name = format!("{}.{}", plan.target.name, column.name);
                ColumnAssessment {
                    column: column.name.clone(),
                    logical_type: column.logical_type.clone(),
                    target_type: mapping.target_type,
                    fidelity: mapping.fidelity,
                    accepted: accepted.iter().any(|pattern| pattern.matches(&full_name)),
                }
            });
            TableAssessment {
                source: plan.source.name.clone(),
                target: plan.target.name.clone(),
                columns: columns.collect(),
            }
        });
        Self { tables: tables.collect() }
    }

    /// Whether a run may start.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.tables.iter().flat_map(|table| &table.columns).all(ColumnAssessment::is_runnable)
    }

    /// Refuses a run that would lose something nobody agreed to lose.
    ///
    /// # Errors
    /// `Settings` that lists every such column and says what can be done.
    pub fn accept(&self) -> Result<()> {
        let refused: Vec<String> = self
            .tables
            .iter()
            .flat_map(|table| table.columns.iter().map(move |column| (table, column)))
            .filter(|(_, column)| !column.is_runnable())
            .map(|(table, column)| {
                format!(
                    "{}.{} ({}): {}",
                    table.target, column.column, column.logical_type, column.fidelity
                )
            })
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(Error::settings(format!(
            "the target cannot hold every column exactly; agree to a loss with the setting \
             AcceptLoss, or change or remove the column in the table mapping: {}",
            refused.join("; ")
        )))
    }
}

impl fmt::Display for Assessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "{} -> {}", table.source, table.target)?;
            for column in &table.columns {
                let ColumnAssessment { column: name, logical_type, target_type, .. } = column;
                let mark = match (&column.fidelity, column.accepted) {
                    (Fidelity::Exact, _) => ' ',
                    (Fidelity::NeedsConsent(_), true) => '~',
                    _ => '!',
                };
                write!(f, "  {mark} {name}: {logical_type} -> {target_type}")?;
                match &column.fidelity {
                    Fidelity::Exact => writeln!(f)?,
                    fidelity if column.accepted => writeln!(f, "  [{fidelity}; accepted]")?,
                    fidelity => writeln!(f, "  [{fidelity}]")?,
                }
            }
        }
        Ok(())
    }
}

fn as_text<S: Serializer>(name: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}
