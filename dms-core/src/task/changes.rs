//! Settings of ongoing replication.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::settings::set;
use crate::{Error, Result};

/// How changes are captured, kept and applied.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ChangeSettings {
    /// Whether each transaction of the source is one of the target
    /// (`TargetMetadata.BatchApplyEnabled` false). Else several whole ones are applied together,
    /// each row once.
    pub one_by_one: bool,
    /// About how many bytes of changes are applied together
    /// (`ChangeProcessingTuning.BatchApplyMemoryLimit`, MB). A larger transaction is applied in
    /// parts, in one transaction of the target.
    pub batch_bytes: usize,
    /// How many bytes of changes wait in memory for their turn
    /// (`ChangeProcessingTuning.MemoryLimitTotal`, MB); more go to disk.
    pub memory_bytes: usize,
    /// How many bytes may wait on disk; 0 is without limit (`Engine.SpillBytesMax`).
    pub spill_bytes_max: u64,
    /// Where they wait (`Engine.SpillFolder`).
    pub spill_folder: PathBuf,
    /// What happens at the limit (`Engine.SpillFullPolicy`).
    pub spill_full: SpillFullPolicy,
    /// Whether the waiting changes survive a crash (`Engine.SpillDurability`).
    pub spill_durability: SpillDurability,
    /// What is done when a row to be deleted is not there, or its delete is refused
    /// (`ErrorBehavior.ApplyErrorDeletePolicy`).
    pub delete_errors: ApplyErrorPolicy,
    /// What is done when a row to be inserted is there already or refused
    /// (`ErrorBehavior.ApplyErrorInsertPolicy`).
    pub insert_errors: ApplyErrorPolicy,
    /// What is done when a row to be updated is not there, or its update is refused
    /// (`ErrorBehavior.ApplyErrorUpdatePolicy`).
    pub update_errors: ApplyErrorPolicy,
    /// What is done when the source drops a table
    /// (`ChangeProcessingDdlHandlingPolicy.HandleSourceTableDropped`).
    pub dropped: SchemaChangePolicy,
    /// What is done when the source empties a table (`…HandleSourceTableTruncated`).
    pub truncated: SchemaChangePolicy,
    /// What is done when the source changes the columns of a table (`…HandleSourceTableAltered`).
    pub altered: SchemaChangePolicy,
    /// How often the source is asked for new tables that the mapping selects, in seconds; 0 is
    /// never (`Engine.NewTablesInterval`).
    pub new_tables_interval: u64,
}

/// What happens when no more changes may wait on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SpillFullPolicy {
    /// The source is read no further; its log grows.
    #[default]
    Wait,
    /// The task stops with an error.
    StopTask,
}

/// Who keeps changes that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SpillDurability {
    /// The source's log: what waits is read from it again after a crash.
    #[default]
    Source,
    /// The spill folder: what waits is synced to disk, and the source may forget it.
    Disk,
}

/// What is done with a change that the target refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ApplyErrorPolicy {
    /// It is passed over, and counted.
    IgnoreRecord,
    /// It is passed over, and recorded in `dms_apply_exceptions`.
    LogError,
    /// Its table takes no more changes until it is loaded again.
    SuspendTable,
    /// The task stops. The default: what is passed over makes the target differ.
    #[default]
    StopTask,
    /// Of an insert: the row that is there becomes the new one.
    InsertRecord,
    /// Of an update: the row that is not there is inserted, if the log holds all of it.
    UpdateRecord,
}

/// What is done with a change of a table itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SchemaChangePolicy {
    /// The target's table is changed alike (DMS `true`).
    #[default]
    Apply,
    /// The target's table stays (DMS `false`).
    Ignore,
    /// The table takes no more changes until it is loaded again.
    SuspendTable,
    /// The task stops.
    StopTask,
}

impl<'de> Deserialize<'de> for SchemaChangePolicy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "true, false, APPLY, IGNORE, SUSPEND_TABLE or STOP_TASK")]
        enum Form {
            Flag(bool),
            Name(Name),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        enum Name {
            Apply,
            Ignore,
            SuspendTable,
            StopTask,
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Flag(true) | Form::Name(Name::Apply) => Self::Apply,
            Form::Flag(false) | Form::Name(Name::Ignore) => Self::Ignore,
            Form::Name(Name::SuspendTable) => Self::SuspendTable,
            Form::Name(Name::StopTask) => Self::StopTask,
        })
    }
}

impl Default for ChangeSettings {
    fn default() -> Self {
        Self {
            one_by_one: false,
            // Enough that the costs of a statement do not show, and a small part of the memory: some
            // are on their way at once, each in several forms.
            batch_bytes: 4 << 20,
            memory_bytes: 32 << 20,
            spill_bytes_max: 0,
            spill_folder: std::env::temp_dir().join("dms-spill"),
            spill_full: SpillFullPolicy::default(),
            spill_durability: SpillDurability::default(),
            delete_errors: ApplyErrorPolicy::default(),
            insert_errors: ApplyErrorPolicy::default(),
            update_errors: ApplyErrorPolicy::default(),
            dropped: SchemaChangePolicy::default(),
            truncated: SchemaChangePolicy::default(),
            altered: SchemaChangePolicy::default(),
            new_tables_interval: 30,
        }
    }
}

/// `ChangeProcessingTuning`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ChangeProcessingTuning {
    batch_apply_memory_limit: Option<usize>,
    memory_limit_total: Option<usize>,
}

/// `ChangeProcessingDdlHandlingPolicy`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DdlHandlingPolicy {
    handle_source_table_dropped: Option<SchemaChangePolicy>,
    handle_source_table_truncated: Option<SchemaChangePolicy>,
    handle_source_table_altered: Option<SchemaChangePolicy>,
}

impl ChangeSettings {
    pub(super) fn set_tuning(&mut self, group: &ChangeProcessingTuning) {
        let bytes = |mb: Option<usize>| mb.map(|mb| mb.saturating_mul(1 << 20));
        set(&mut self.batch_bytes, bytes(group.batch_apply_memory_limit));
        set(&mut self.memory_bytes, bytes(group.memory_limit_total));
    }

    pub(super) fn set_ddl(&mut self, group: &DdlHandlingPolicy) {
        set(&mut self.dropped, group.handle_source_table_dropped);
        set(&mut self.truncated, group.handle_source_table_truncated);
        set(&mut self.altered, group.handle_source_table_altered);
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::settings(format!("settings: {what}")));
        if self.batch_bytes == 0 || self.memory_bytes == 0 {
            return wrong("BatchApplyMemoryLimit and MemoryLimitTotal must not be 0");
        }
        if self.delete_errors == ApplyErrorPolicy::InsertRecord
            || self.delete_errors == ApplyErrorPolicy::UpdateRecord
        {
            return wrong(
                "ApplyErrorDeletePolicy can be IGNORE_RECORD, LOG_ERROR, SUSPEND_TABLE or \
                 STOP_TASK",
            );
        }
        if self.insert_errors == ApplyErrorPolicy::UpdateRecord {
            return wrong(
                "ApplyErrorInsertPolicy cannot be UPDATE_RECORD; it can be INSERT_RECORD",
            );
        }
        if self.update_errors == ApplyErrorPolicy::InsertRecord {
            return wrong(
                "ApplyErrorUpdatePolicy cannot be INSERT_RECORD; it can be UPDATE_RECORD",
            );
        }
        Ok(())
    }
}
