//! `migrate reload` and `migrate delete`.

use std::path::Path;
use std::process::ExitCode;

use dms_cdc::buffer::Buffer;
use dms_core::mapping::TablePlan;
use dms_core::schema::TableName;
use dms_core::task::{MigrationType, TaskDefinition};
use dms_core::{Error, ErrorKind, Result, ResultExt};

use crate::task;

/// Has the next run load tables again, those named or all.
pub(crate) async fn reload(path: &Path, tables: &[String]) -> Result<ExitCode> {
    let definition = task::read(path)?;
    let target = task::change_target(&definition).await?;
    let plans = match tables {
        [] => None,
        named => {
            let source = task::source(&definition).await?;
            let opened = task::target(&definition).await?;
            let plans = task::full_load(&definition, source, opened).plan().await?;
            Some(named.iter().map(|name| find(&plans, name)).collect::<Result<Vec<_>>>()?)
        }
    };
    let run = target.begin(&definition.name).await.context("side", "target")?.run;
    target.forget(&run, plans.as_deref()).await.context("side", "target")?;
    match plans {
        None => {
            // Tables are loaded from a place behind everything that waits.
            discard(&definition).await?;
            println!("every table is loaded again by the next run");
        }
        Some(tables) => {
            for table in tables {
                println!("{table} is loaded again by the next run");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(plans: &[TablePlan], name: &str) -> Result<TableName> {
    let plan = plans.iter().find(|plan| plan.source.name.to_string() == name);
    plan.map(|plan| plan.target.name.clone()).ok_or_else(|| {
        let message = format!("the task has no table {name}; write it as schema.table");
        Error::new(ErrorKind::NotFound, message)
    })
}

/// Removes the changes that wait on disk.
async fn discard(definition: &TaskDefinition) -> Result<()> {
    let folder = definition.settings.changes.spill_folder.join(&definition.name);
    Buffer::discard(folder, &definition.name).await
}

/// Removes what the task has left.
pub(crate) async fn delete(path: &Path) -> Result<ExitCode> {
    let definition = task::read(path)?;
    let target = task::change_target(&definition).await?;
    // A run that is under way would make what it needs at the source again.
    let run = target.begin(&definition.name).await.context("side", "target")?.run;
    if definition.migration_type != MigrationType::FullLoad {
        let source = task::change_source(&definition).await?;
        source.end_capture(&definition.name).await.context("side", "source")?;
    }
    target.forget(&run, None).await.context("side", "target")?;
    discard(&definition).await?;
    println!("nothing is left of task {} but the tables it wrote", definition.name);
    Ok(ExitCode::SUCCESS)
}
