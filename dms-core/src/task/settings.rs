//! Task settings, in DMS's JSON where the meaning is the same.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::changes::{
    ApplyErrorPolicy, ChangeProcessingTuning, ChangeSettings, DdlHandlingPolicy, SpillDurability,
    SpillFullPolicy,
};
use crate::batch::BatchLimit;
use crate::endpoint::TablePrepMode;
use crate::json;
use crate::mapping::{LobMode, TableMapping};
use crate::retry::RetryPolicy;
use crate::{Error, Result};

/// What happens to the task when a table fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorPolicy {
    /// The table is suspended, the others go on.
    #[default]
    SuspendTable,
    /// The task stops.
    StopTask,
}

/// The settings of a task; every one has a default.
///
/// ```
/// use dms_core::task::TaskSettings;
///
/// let settings = TaskSettings::from_json(serde_json::json!({
///     "FullLoadSettings": {"TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD", "MaxFullLoadSubTasks": 4},
///     "Engine": {"PartitionBytes": 16777216}
/// }))?;
/// assert_eq!(settings.parallel, 4);
/// # Ok::<(), dms_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskSettings {
    /// What becomes of tables that exist on the target
    /// (`FullLoadSettings.TargetTablePrepMode`).
    pub table_prep_mode: TablePrepMode,
    /// How many partitions are loaded at once (`FullLoadSettings.MaxFullLoadSubTasks`).
    pub parallel: usize,
    /// The size of a partition to aim at, in bytes at the source (`Engine.PartitionBytes`).
    pub partition_bytes: u64,
    /// How large record batches may be (`Engine.BatchRows`, `Engine.BatchBytes`).
    pub batch: BatchLimit,
    /// How many bytes each partition may read ahead of the target (`Engine.PrefetchBytes`).
    pub prefetch_bytes: usize,
    /// What happens when a table fails (`ErrorBehavior.TableErrorPolicy`).
    pub table_error_policy: ErrorPolicy,
    /// How often a unit of work is tried again after a transient error
    /// (`ErrorBehavior.RecoverableErrorCount`; -1 is without end).
    pub retries: u32,
    /// The wait before the first repetition (`ErrorBehavior.RecoverableErrorInterval`, seconds);
    /// it doubles each time.
    pub retry_interval: Duration,
    /// The longest wait (`ErrorBehavior.RecoverableErrorThrottlingMax`, seconds).
    pub retry_interval_max: Duration,
    /// Columns whose loss is agreed to, as patterns of `schema.table.column` of the target
    /// (`Engine.AcceptLoss`).
    pub accept_loss: Vec<String>,
    /// How large objects travel where no table setting says otherwise (`TargetMetadata`).
    pub lob_mode: LobMode,
    /// The schema that every table is put into; empty keeps theirs (`TargetMetadata.TargetSchema`).
    pub target_schema: String,
    /// Whether source and target are compared after the load (`ValidationSettings`).
    pub validation: bool,
    /// The most differing keys that are listed per table
    /// (`ValidationSettings.TableFailureMaxCount`).
    pub validation_failures_max: usize,
    /// How changes are captured, kept and applied.
    pub changes: ChangeSettings,
}

impl Default for TaskSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            table_prep_mode: TablePrepMode::DropAndCreate,
            // A reader and a writer for each core keep both busy while one of them waits.
            parallel: cores.clamp(2, 16),
            // Large enough to make a partition's fixed costs small, small enough that a crash
            // repeats little and that one table keeps every worker busy to its end.
            partition_bytes: 64 << 20,
            batch: BatchLimit::default(),
            prefetch_bytes: BatchLimit::default().bytes,
            table_error_policy: ErrorPolicy::default(),
            retries: 5,
            retry_interval: Duration::from_secs(1),
            retry_interval_max: Duration::from_secs(60),
            accept_loss: Vec::new(),
            lob_mode: LobMode::default(),
            target_schema: String::new(),
            validation: false,
            validation_failures_max: 1000,
            changes: ChangeSettings::default(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct Document {
    target_metadata: Option<TargetMetadata>,
    full_load_settings: Option<FullLoadSettings>,
    error_behavior: Option<ErrorBehavior>,
    validation_settings: Option<ValidationSettings>,
    change_processing_tuning: Option<ChangeProcessingTuning>,
    change_processing_ddl_handling_policy: Option<DdlHandlingPolicy>,
    engine: Option<Engine>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct TargetMetadata {
    target_schema: Option<String>,
    support_lobs: Option<bool>,
    full_lob_mode: Option<bool>,
    limited_size_lob_mode: Option<bool>,
    lob_max_size: Option<u64>,
    batch_apply_enabled: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct FullLoadSettings {
    target_table_prep_mode: Option<TablePrepMode>,
    max_full_load_sub_tasks: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ErrorBehavior {
    table_error_policy: Option<ErrorPolicy>,
    recoverable_error_count: Option<i64>,
    recoverable_error_interval: Option<u64>,
    recoverable_error_throttling_max: Option<u64>,
    apply_error_delete_policy: Option<ApplyErrorPolicy>,
    apply_error_insert_policy: Option<ApplyErrorPolicy>,
    apply_error_update_policy: Option<ApplyErrorPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ValidationSettings {
    enable_validation: Option<bool>,
    table_failure_max_count: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Engine {
    partition_bytes: Option<u64>,
    batch_rows: Option<usize>,
    batch_bytes: Option<usize>,
    prefetch_bytes: Option<usize>,
    accept_loss: Option<Vec<String>>,
    spill_bytes_max: Option<u64>,
    spill_folder: Option<PathBuf>,
    spill_full_policy: Option<SpillFullPolicy>,
    spill_durability: Option<SpillDurability>,
    new_tables_interval: Option<u64>,
}

/// Groups and keys of DMS's document that nothing here answers to, so that a message can say so.
const WITHOUT_MEANING: &[&str] = &[
    "CommitRate",
    "CreatePkAfterFullLoad",
    "InlineLobMaxSize",
    "LobChunkSize",
    "LoadMaxFileSize",
    "ParallelApplyBufferSize",
    "ParallelApplyQueuesPerThread",
    "ParallelApplyThreads",
    "ParallelLoadBufferSize",
    "ParallelLoadQueuesPerThread",
    "ParallelLoadThreads",
    "TaskRecoveryTableEnabled",
    "TransactionConsistencyTimeout",
    "StopTaskCachedChangesApplied",
    "StopTaskCachedChangesNotApplied",
    "Logging",
    "ControlTablesSettings",
    "StreamBufferSettings",
    "LoopbackPreventionSettings",
    "BeforeImageSettings",
    "CharacterSetSettings",
    "PostProcessingRules",
    "TTSettings",
    "FailTaskWhenCleanTaskResourceFailed",
    "ResyncSettings",
];

impl TaskSettings {
    /// Reads a settings document; `{}` is all defaults.
    ///
    /// # Errors
    /// `Settings` naming the path of the key; an unknown one with the nearest known, one of DMS's
    /// that has no meaning here with the advice to remove it.
    pub fn from_json(document: Json) -> Result<Self> {
        refuse_without_meaning(&document)?;
        let document: Document = json::parse_value(document, "settings")?;
        let mut settings = Self::default();
        if let Some(group) = document.target_metadata {
            settings.lob_mode = group.lob_mode()?;
            set(&mut settings.changes.one_by_one, group.batch_apply_enabled.map(|batch| !batch));
            set(&mut settings.target_schema, group.target_schema);
        }
        if let Some(group) = document.full_load_settings {
            set(&mut settings.table_prep_mode, group.target_table_prep_mode);
            set(&mut settings.parallel, group.max_full_load_sub_tasks);
        }
        if let Some(group) = document.error_behavior {
            set(&mut settings.table_error_policy, group.table_error_policy);
            let count = group.recoverable_error_count;
            // Negative is without end.
            set(&mut settings.retries, count.map(|c| u32::try_from(c).unwrap_or(u32::MAX)));
            let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
            set(&mut settings.retry_interval, seconds(group.recoverable_error_interval));
            set(&mut settings.retry_interval_max, seconds(group.recoverable_error_throttling_max));
            set(&mut settings.changes.delete_errors, group.apply_error_delete_policy);
            set(&mut settings.changes.insert_errors, group.apply_error_insert_policy);
            set(&mut settings.changes.update_errors, group.apply_error_update_policy);
        }
        if let Some(group) = document.validation_settings {
            set(&mut settings.validation, group.enable_validation);
            set(&mut settings.validation_failures_max, group.table_failure_max_count);
        }
        if let Some(group) = &document.change_processing_tuning {
            settings.changes.set_tuning(group);
        }
        if let Some(group) = &document.change_processing_ddl_handling_policy {
            settings.changes.set_ddl(group);
        }
        if let Some(group) = document.engine {
            set(&mut settings.partition_bytes, group.partition_bytes);
            set(&mut settings.batch.rows, group.batch_rows);
            set(&mut settings.batch.bytes, group.batch_bytes);
            set(&mut settings.prefetch_bytes, group.prefetch_bytes);
            set(&mut settings.accept_loss, group.accept_loss);
            set(&mut settings.changes.spill_bytes_max, group.spill_bytes_max);
            set(&mut settings.changes.spill_folder, group.spill_folder);
            set(&mut settings.changes.spill_full, group.spill_full_policy);
            set(&mut settings.changes.spill_durability, group.spill_durability);
            set(&mut settings.changes.new_tables_interval, group.new_tables_interval);
        }
        settings.check()?;
        Ok(settings)
    }

    /// The document with every setting, defaults included.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let (limited, size) = match self.lob_mode {
            LobMode::Limited(bytes) => (true, bytes / 1024),
            _ => (false, 0),
        };
        let retries = if self.retries == u32::MAX { -1 } else { i64::from(self.retries) };
        json!({
            "TargetMetadata": {
                "TargetSchema": self.target_schema,
                "SupportLobs": self.lob_mode != LobMode::None,
                "FullLobMode": self.lob_mode == LobMode::Full,
                "LimitedSizeLobMode": limited,
                "LobMaxSize": size,
                "BatchApplyEnabled": !self.changes.one_by_one,
            },
            "FullLoadSettings": {
                "TargetTablePrepMode": self.table_prep_mode,
                "MaxFullLoadSubTasks": self.parallel,
            },
            "ErrorBehavior": {
                "TableErrorPolicy": self.table_error_policy,
                "RecoverableErrorCount": retries,
                "RecoverableErrorInterval": self.retry_interval.as_secs(),
                "RecoverableErrorThrottlingMax": self.retry_interval_max.as_secs(),
                "ApplyErrorDeletePolicy": self.changes.delete_errors,
                "ApplyErrorInsertPolicy": self.changes.insert_errors,
                "ApplyErrorUpdatePolicy": self.changes.update_errors,
            },
            "ChangeProcessingTuning": {
                "BatchApplyMemoryLimit": self.changes.batch_bytes >> 20,
                "MemoryLimitTotal": self.changes.memory_bytes >> 20,
            },
            "ChangeProcessingDdlHandlingPolicy": {
                "HandleSourceTableDropped": self.changes.dropped,
                "HandleSourceTableTruncated": self.changes.truncated,
                "HandleSourceTableAltered": self.changes.altered,
            },
            "ValidationSettings": {
                "EnableValidation": self.validation,
                "TableFailureMaxCount": self.validation_failures_max,
            },
            "Engine": {
                "PartitionBytes": self.partition_bytes,
                "BatchRows": self.batch.rows,
                "BatchBytes": self.batch.bytes,
                "PrefetchBytes": self.prefetch_bytes,
                "AcceptLoss": self.accept_loss,
                "SpillBytesMax": self.changes.spill_bytes_max,
                "SpillFolder": self.changes.spill_folder,
                "SpillFullPolicy": self.changes.spill_full,
                "SpillDurability": self.changes.spill_durability,
                "NewTablesInterval": self.changes.new_tables_interval,
            },
        })
    }

    /// The mapping with what settings say about every table.
    #[must_use]
    pub fn apply_to(&self, mapping: TableMapping) -> TableMapping {
        mapping.with_lob_mode(self.lob_mode).with_target_schema(&self.target_schema)
    }

    /// How transient errors are retried.
    #[must_use]
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            retries: self.retries,
            interval: self.retry_interval,
            interval_max: self.retry_interval_max,
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::settings(format!("settings: {what}")));
        if !(1..=256).contains(&self.parallel) {
            return wrong("MaxFullLoadSubTasks must be 1 to 256");
        }
        if self.partition_bytes == 0 || self.batch.rows == 0 || self.batch.bytes == 0 {
            return wrong("PartitionBytes, BatchRows and BatchBytes must not be 0");
        }
        if self.prefetch_bytes == 0 {
            return wrong("PrefetchBytes must not be 0");
        }
        self.changes.check()
    }
}

impl TargetMetadata {
    /// Whole, unless the document says otherwise; DMS would cut at 32 KB without being told.
    fn lob_mode(&self) -> Result<LobMode> {
        if self.support_lobs == Some(false) {
            return Ok(LobMode::None);
        }
        match (self.full_lob_mode, self.limited_size_lob_mode, self.lob_max_size) {
            (Some(true), Some(true), _) => Err(Error::settings(
                "settings: FullLobMode and LimitedSizeLobMode cannot both be true",
            )),
            (_, Some(true), Some(size)) if size > 0 => Ok(LobMode::Limited(size * 1024)),
            (_, Some(true), _) => Err(Error::settings(
                "settings: LimitedSizeLobMode needs LobMaxSize, in KB: large objects are cut to it",
            )),
            _ => Ok(LobMode::Full),
        }
    }
}

pub(super) fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *setting = given;
    }
}

fn refuse_without_meaning(document: &Json) -> Result<()> {
    let groups = document.as_object().into_iter().flatten();
    for (group, value) in groups {
        let keys: Vec<&String> = value.as_object().into_iter().flat_map(Map::keys).collect();
        for key in keys.into_iter().chain([group]) {
            if WITHOUT_MEANING.contains(&key.as_str()) {
                return Err(Error::settings(format!(
                    "settings: {key} is a setting of DMS that has no effect here; remove it"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_document_reads_back() {
        let mut settings = TaskSettings { validation: true, ..TaskSettings::default() };
        assert_eq!(TaskSettings::from_json(settings.to_json()).unwrap(), settings);
        settings.lob_mode = LobMode::Limited(65536);
        settings.accept_loss = vec!["main.%.x".into()];
        assert_eq!(TaskSettings::from_json(settings.to_json()).unwrap(), settings);
        assert_eq!(TaskSettings::from_json(json!({})).unwrap(), TaskSettings::default());
    }

    #[test]
    fn wrong_settings_say_which_and_why() {
        for (document, says) in [
            (json!({"FullLoadSetings": {}}), "did you mean \"FullLoadSettings\""),
            (
                json!({"FullLoadSettings": {"TargetTablePrepMod": "DO_NOTHING"}}),
                "did you mean \"TargetTablePrepMode\"",
            ),
            (json!({"FullLoadSettings": {"CommitRate": 5}}), "CommitRate is a setting of DMS"),
            (json!({"FullLoadSettings": {"MaxFullLoadSubTasks": 0}}), "1 to 256"),
            (json!({"TargetMetadata": {"LimitedSizeLobMode": true}}), "LobMaxSize"),
            (json!({"Engine": {"BatchRows": -1}}), "Engine.BatchRows"),
        ] {
            let error = TaskSettings::from_json(document).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
