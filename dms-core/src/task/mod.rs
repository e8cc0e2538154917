//! What a task is made of and what it tells: its definition and settings, its events, its report.

mod definition;
mod event;
mod report;
mod settings;

pub use definition::{MigrationType, TaskDefinition};
pub use event::{Event, EventKind, Events, TableState};
pub use report::{Report, TableReport, TaskStatus};
pub use settings::{ErrorPolicy, TaskSettings};
