//! What a task is made of and what it tells: its definition and settings, its events, its report.

mod changes;
mod definition;
mod event;
mod report;
mod settings;
mod stop;

pub use changes::{
    ApplyErrorPolicy, ChangeSettings, SchemaChangePolicy, SpillDurability, SpillFullPolicy,
};
pub use definition::{MigrationType, TaskDefinition};
pub use event::{Event, EventKind, Events, TableState};
pub use report::{Report, StopReason, TableReport, TaskStatus};
pub use settings::{ErrorPolicy, TaskSettings};
pub use stop::{StartPoint, StopWhen};
