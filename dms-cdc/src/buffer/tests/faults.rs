//! Disks that fail, processes that die, folders that are not ours.

use std::process::{Command, Output};

use dms_core::ErrorKind;

use super::*;

/// Twenty transactions, synced each, in segments of about three; says on its output which the
/// source may forget.
async fn write_twenty(folder: &Path) -> Result<()> {
    let settings = settings(folder, Durability::Disk);
    let (mut writer, _reader, recovered) = Buffer::open_with(&settings, TASK, None, 4000).await?;
    let from = recovered.read_from.map_or(0, |position| position.order);
    let mut id = i64::try_from(from * 100).unwrap();
    for order in from + 1..=20 {
        writer.push(rows_event(&[(order, 100, true)], [2, 2], &mut id)).await?;
        if let Some(position) = writer.sync().await? {
            println!("forget {}", position.order);
        }
    }
    Ok(())
}

/// Runs alone in a process of its own, which may die; does nothing among the other tests.
#[tokio::test]
async fn child() {
    let Ok(folder) = std::env::var("DMS_TEST_BUFFER") else { return };
    if let Err(error) = write_twenty(Path::new(&folder)).await {
        println!("failed: {error}");
    }
}

/// `shell` runs before the program, in its process.
fn run_child(folder: &Path, fault: &str, shell: &str) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{shell} exec \"$0\" \"$@\""));
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "buffer::tests::faults::child", "--nocapture"]);
    command.env("DMS_TEST_BUFFER", folder).env("DMS_FAULT", fault);
    command.output().unwrap()
}

/// The last transaction that the process said may be forgotten.
fn forgotten(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = text.lines().filter_map(|line| line.split("forget ").nth(1)?.parse().ok());
    told.max().unwrap_or(0)
}

/// What the folder holds comes whole, and reaches at least as far as the source was told.
async fn assert_goes_on(folder: &Path, told: u64, when: &str) {
    let settings = settings(folder, Durability::Disk);
    let (mut writer, reader, recovered) =
        Buffer::open_with(&settings, TASK, None, 4000).await.unwrap();
    let from = recovered.read_from.map_or(0, |position| position.order);
    assert!(from >= told, "{when}: {from} of {told}");
    let mut id = i64::try_from(from * 100).unwrap();
    for order in from + 1..=20 {
        writer.push(rows_event(&[(order, 100, true)], [2, 2], &mut id)).await.unwrap();
    }
    drop(writer);
    let mut id = 0;
    let all: Vec<_> =
        (1..=20).map(|order| rows_event(&[(order, 100, true)], [2, 2], &mut id)).collect();
    assert_eq!(items(&rest(reader).await.unwrap()), items(&all), "{when}");
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_synced() {
    for point in [
        "buffer-append",
        "buffer-begin-segment",
        "buffer-sync",
        "buffer-before-mark",
        "buffer-synced",
    ] {
        for passage in [1, 2, 5, 8, 13] {
            let folder = tempfile::tempdir().unwrap();
            let fault = format!("{point}=abort:{passage}");
            let output = run_child(folder.path(), &fault, "");
            assert!(!output.status.success(), "{fault} was not reached");
            let told = forgotten(&output);
            assert!(told < 20);
            // Dies again while it takes up what is there, before and behind the rename.
            for passage in [1, 2] {
                if told > 0 {
                    let again =
                        run_child(folder.path(), &format!("buffer-recover=abort:{passage}"), "");
                    assert!(!again.status.success(), "{fault}: recovery was not reached");
                }
            }
            assert_goes_on(folder.path(), told, &fault).await;
        }
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_more_is_acknowledged() {
    for passage in [1, 4, 9] {
        let folder = tempfile::tempdir().unwrap();
        let output = run_child(folder.path(), &format!("buffer-sync=error:{passage}"), "");
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("failed: unexpected error: fault point buffer-sync"), "{text}");
        assert!(forgotten(&output) < 20);
        assert_goes_on(folder.path(), forgotten(&output), "a failed sync").await;
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_task_goes_on_when_there_is_room() {
    // In blocks of 512 bytes; each file may grow to so much.
    for blocks in [1, 3, 5, 7] {
        let folder = tempfile::tempdir().unwrap();
        let limit = format!("trap '' XFSZ; ulimit -f {blocks};");
        let output = run_child(folder.path(), "none=error", &limit);
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("there is no room for cached changes"), "{text}");
        assert_goes_on(folder.path(), forgotten(&output), "a full disk").await;
    }
}

async fn written(durability: Durability) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let settings = BufferSettings { memory_bytes: 0, ..settings(folder.path(), durability) };
    let (mut writer, _reader, _) = Buffer::open_with(&settings, TASK, None, 4000).await.unwrap();
    let mut id = 0;
    for order in 1..=20 {
        writer.push(rows_event(&[(order, 100, true)], [2, 2], &mut id)).await.unwrap();
    }
    writer.sync().await.unwrap();
    drop(writer);
    folder
}

async fn refused(folder: &Path, durability: Durability, task: &str, after: Option<u64>) -> Error {
    let after = after.map(position);
    Buffer::open(&settings(folder, durability), task, after.as_ref()).await.unwrap_err()
}

#[tokio::test]
async fn what_is_not_ours_or_not_whole_is_refused() {
    use Durability::{Disk, Source};
    let folder = written(Disk).await;
    let place = folder.path();

    for durability in [Disk, Source] {
        let error = refused(place, durability, "other", None).await;
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(error.to_string().contains("those of task nightly"), "{error}");
    }
    let error = Buffer::discard(place, "other").await.unwrap_err();
    assert!(error.to_string().contains("those of task nightly"), "{error}");
    let error = refused(place, Source, TASK, None).await;
    assert!(error.to_string().contains("durability disk"), "{error}");
    let held = Buffer::open(&settings(place, Disk), TASK, None).await.unwrap();
    let error = refused(place, Disk, TASK, None).await;
    assert!(error.to_string().contains("in use by another run"), "{error}");
    drop(held);

    let files = segments(place);
    assert!(files.len() > 3);
    let middle = std::fs::read(&files[1]).unwrap();
    std::fs::remove_file(&files[1]).unwrap();
    let error = refused(place, Disk, TASK, None).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = error.to_string();
    assert!(text.contains("missing") && text.contains(files[2].to_str().unwrap()), "{text}");
    // The target holds what is missing: it is not missed.
    drop(Buffer::open(&settings(place, Disk), TASK, Some(&position(19))).await.unwrap());
    drop(middle);

    let folder = written(Disk).await;
    let files = segments(folder.path());
    let mut bytes = std::fs::read(&files[1]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&files[1], &bytes).unwrap();
    let open = Buffer::open(&settings(folder.path(), Disk), TASK, None).await;
    let (_writer, reader, _) = open.unwrap();
    drop(_writer);
    let error = rest(reader).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(files[1].to_str().unwrap()), "{error}");

    bytes[6] = 9;
    std::fs::write(&files[1], &bytes).unwrap();
    let error = refused(folder.path(), Disk, TASK, None).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 9"), "{error}");
}

/// Whoever has a copy of the file puts it back.
#[tokio::test]
async fn damage_of_what_the_source_was_told_removes_nothing() {
    let folder = written(Durability::Disk).await;
    let last = segments(folder.path()).pop().unwrap();
    let whole = std::fs::read(&last).unwrap();
    for place in [20, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        std::fs::write(&last, &bytes).unwrap();
        let error = refused(folder.path(), Durability::Disk, TASK, None).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("damaged or missing"), "{error}");
        assert_eq!(std::fs::read(&last).unwrap(), bytes);
    }
    std::fs::write(&last, &whole).unwrap();
    assert_goes_on(folder.path(), 20, "put back").await;
}

#[tokio::test]
async fn what_the_source_sends_again_is_discarded() {
    let folder = written(Durability::Source).await;
    assert!(!segments(folder.path()).is_empty());
    let after = position(7);
    for durability in [Durability::Source, Durability::Disk] {
        let settings = settings(folder.path(), durability);
        let (writer, reader, recovered) =
            Buffer::open(&settings, TASK, Some(&after)).await.unwrap();
        assert_eq!(recovered, Recovered { read_from: Some(after.clone()), events: 0 });
        assert!(segments(folder.path()).is_empty());
        drop(writer);
        assert!(rest(reader).await.unwrap().is_empty());
    }
}
