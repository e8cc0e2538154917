//! The commits of a task: a chain of objects, each created under the next number. Of two runs that
//! go on from the same one, one creates the next, and the other hears of it.

use dms_core::endpoint::Run;
use dms_core::{Error, ErrorKind, Result, fault};

use super::manifest::{Commit, Hint};
use crate::manifest::VERSION;
use crate::store::FolderStore;
use crate::{layout, progress};

/// Every so many commits the hint is written; so many are listed at the most to find the newest.
const HINT_EVERY: u64 = 256;

/// The newest commit of a task, if there is one.
pub(crate) async fn newest(store: &FolderStore, task: &str) -> Result<Option<Commit>> {
    let hint = match store.get::<Hint>(&layout::commit_hint(store, task)).await {
        Ok(hint) => hint.number,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let place = layout::commits(store, task);
    // The one before the hint's, so that the hint's own is listed too.
    let after = layout::commit(store, task, hint.saturating_sub(1));
    let listed = store.list_after(&place, &after).await?;
    let newest = listed.iter().filter_map(|object| layout::commit_number(&object.location)).max();
    match newest {
        None if hint == 0 => Ok(None),
        None => Err(missing(task, hint)),
        Some(number) => store.get(&layout::commit(store, task, number)).await.map(Some),
    }
}

fn missing(task: &str, number: u64) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "commit {number} of task {task} is gone, and with it how far its changes have come; \
             restore it, or remove the task's folder below _dms/tasks and load the tables again"
        ),
    )
}

/// Makes a commit the newest.
///
/// # Errors
/// `Stopped` if the run is fenced; a transient `Connection` error if another run has made the next
/// commit, or if it is not known whether this is made.
pub(crate) async fn put(store: &FolderStore, run: &Run, commit: &Commit) -> Result<()> {
    progress::check_epoch(store, run).await?;
    fault::point("folder-apply-before-manifest")?;
    let path = layout::commit(store, &run.task, commit.number);
    if !store.put(&path, commit, true).await? {
        // Perhaps it is our own, of which the answer was lost.
        let held: Commit = store.get(&path).await?;
        if held != *commit {
            progress::check_epoch(store, run).await?;
            return Err(Error::new(
                ErrorKind::Connection,
                format!(
                    "another run of task {} has committed before this one; its changes are read \
                     from there again",
                    run.task
                ),
            )
            .transient());
        }
    }
    fault::point("folder-apply-committed")?;
    if commit.number.is_multiple_of(HINT_EVERY) {
        let hint = Hint { version: VERSION, number: commit.number };
        store.put(&layout::commit_hint(store, &run.task), &hint, false).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dms_core::position::Position;
    use object_store::path::Path;

    use super::*;

    fn commit(run: &Run, number: u64) -> Commit {
        Commit {
            version: VERSION,
            task: run.task.clone(),
            epoch: run.epoch,
            number,
            from: None,
            to: Some(Position::new(number, number.to_string())),
            committed_at: None,
            acts: Vec::new(),
            named_up_to: None,
            exceptions: Vec::new(),
            exceptions_total: 0,
            notes: None,
        }
    }

    /// Also where the hint is older than the newest commit, and where what it names is gone.
    #[tokio::test]
    async fn the_newest_commit_is_found_behind_the_hint() {
        let memory = Arc::new(object_store::memory::InMemory::new());
        let store = FolderStore::with_store(memory, Path::from("raw"));
        let run = progress::begin(&store, "task").await.unwrap().run;
        assert_eq!(newest(&store, "task").await.unwrap(), None);
        for number in 1..=2 * HINT_EVERY + 3 {
            put(&store, &run, &commit(&run, number)).await.unwrap();
            if number < 4 || number % HINT_EVERY < 3 || number % HINT_EVERY > HINT_EVERY - 3 {
                let found = newest(&store, "task").await.unwrap().unwrap();
                assert_eq!(found, commit(&run, number));
            }
        }
        // The answer to the last was lost.
        put(&store, &run, &commit(&run, 2 * HINT_EVERY + 3)).await.unwrap();
        for number in 2 * HINT_EVERY..=2 * HINT_EVERY + 3 {
            store.delete(&layout::commit(&store, "task", number)).await.unwrap();
        }
        assert_eq!(newest(&store, "task").await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
