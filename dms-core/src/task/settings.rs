//! Task settings.

use crate::batch::BatchLimit;
use crate::endpoint::TablePrepMode;

/// What happens to the task when a table fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorPolicy {
    /// The table is suspended, the others go on.
    #[default]
    SuspendTable,
    /// The task stops.
    StopTask,
}

/// The settings of a task; every one has a default.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskSettings {
    /// What becomes of tables that exist on the target.
    pub table_prep_mode: TablePrepMode,
    /// How many partitions are loaded at once.
    pub parallel: usize,
    /// The size of a partition to aim at, in bytes at the source.
    pub partition_bytes: u64,
    /// How large record batches may be.
    pub batch: BatchLimit,
    /// How many bytes each partition may read ahead of the target.
    pub prefetch_bytes: usize,
    /// What happens when a table fails.
    pub table_error_policy: ErrorPolicy,
    /// How often a unit of work is tried again after a transient error.
    pub retries: u32,
    /// Columns whose loss is agreed to, as patterns of `schema.table.column` of the target.
    pub accept_loss: Vec<String>,
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
            prefetch_bytes: 2 * BatchLimit::default().bytes,
            table_error_policy: ErrorPolicy::default(),
            retries: 5,
            accept_loss: Vec::new(),
        }
    }
}
