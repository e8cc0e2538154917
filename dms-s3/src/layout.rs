//! Where everything stands in a folder.

use dms_core::endpoint::Partition;
use dms_core::schema::TableName;
use object_store::path::{Path, PathPart};

use crate::settings::{DataFormat, FolderSettings};
use crate::store::FolderStore;

/// Bits of a file's number that count files; those above are the table's generation (see
/// [`generations`]), so that no two writers ever write one name: neither two runs, nor two tasks,
/// nor two processes of one run. A run that was fenced cannot touch what its successor wrote.
const COUNTER_BITS: u32 = 20;

/// The most files of a table in one generation.
pub(crate) const FILES_MAX: u64 = 1 << COUNTER_BITS;

/// `LOAD00000001`, as DMS names files of a full load: eight hexadecimal digits.
pub(crate) fn file_name(generation: u64, counter: u64, format: DataFormat) -> String {
    let number = (generation.saturating_sub(1) << COUNTER_BITS) | counter;
    format!("LOAD{number:08X}.{}", format.extension())
}

/// Whether a file name is one of [`file_name`]'s.
pub(crate) fn is_file_name(name: &str) -> bool {
    let digits = name.strip_prefix("LOAD").and_then(|rest| rest.split_once('.'));
    digits.is_some_and(|(digits, extension)| {
        digits.len() >= 8
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
            && matches!(extension, "parquet" | "csv")
    })
}

/// Whether a file name is that of a file of changes: `20230405-094615814-…`, as DMS names them, with
/// the first transaction's place, the file's number in its commit and a part of its checksum.
pub(crate) fn is_change_name(name: &str) -> bool {
    let Some((stem, "parquet" | "csv")) = name.split_once('.') else { return false };
    let parts: Vec<&str> = stem.split('-').collect();
    let [date, time, order, part, sum] = parts[..] else { return false };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    date.len() >= 8
        && digits(date)
        && time.len() == 9
        && digits(time)
        && order.len() == 16
        && hexadecimal(order)
        && part.len() >= 4
        && digits(part)
        && sum.len() == 16
        && hexadecimal(sum)
}

/// Whether a file name is one of dms's.
pub(crate) fn is_data_name(name: &str) -> bool {
    is_file_name(name) || is_change_name(name)
}

/// The folder of what is ours.
const OURS: &str = "_dms";

/// Where files of transactions stand: `cdc-path` below the folder.
pub(crate) fn transactions(store: &FolderStore, settings: &FolderSettings) -> Path {
    store.path(settings.cdc_folders())
}

/// Whether a part of a path is our folder's, where case may not count.
pub(crate) fn is_ours(name: &str) -> bool {
    name.eq_ignore_ascii_case(OURS)
}

/// A place below another, by a name of the user's. No two names make one place: a part of a path
/// cannot be empty, and a schema may be called as our folder is, where case may not count. What
/// stands for them comes from no other name, as `%` is encoded in names.
fn below(place: Path, name: &str) -> Path {
    let instead = match name {
        "" => "%".to_owned(),
        name if is_ours(name) => name.replacen('_', "%5F", 1),
        name => return place.join(name),
    };
    Path::from_iter(place.parts().chain(PathPart::parse(&instead).ok()))
}

fn table_below(place: Path, table: &TableName) -> Path {
    below(below(place, &table.schema), &table.name)
}

/// Where a table's data stands.
pub(crate) fn data(store: &FolderStore, table: &TableName) -> Path {
    table_below(store.path([]), table)
}

/// Where a partition's data stands; a named one has a folder of its own.
pub(crate) fn partition(store: &FolderStore, table: &TableName, partition: &Partition) -> Path {
    let data = data(store, table);
    match &partition.name {
        Some(name) => below(data, name),
        None => data,
    }
}

/// Where the manifests of all tables stand.
pub(crate) fn manifests(store: &FolderStore) -> Path {
    store.path([OURS, "tables"])
}

/// Where a table's manifests stand.
pub(crate) fn table_manifests(store: &FolderStore, table: &TableName) -> Path {
    table_below(manifests(store), table)
}

/// A table's manifest of one load; of several the one of the highest load counts.
pub(crate) fn manifest(store: &FolderStore, table: &TableName, load: u64) -> Path {
    table_manifests(store, table).join(format!("manifest-{load:010}.json"))
}

/// Whether an object is a table's manifest, and not what some other program has put beside it.
pub(crate) fn is_manifest(object: &Path) -> bool {
    let name = object.filename().and_then(|name| name.strip_prefix("manifest-"));
    name.and_then(|name| name.strip_suffix(".json"))
        .is_some_and(|load| load.len() >= 10 && load.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Where the claims on a table's file names stand. Each claim, created and never given twice, is a
/// generation: of files one process writes, and of a load of the table.
pub(crate) fn generations(store: &FolderStore, table: &TableName) -> Path {
    table_below(store.path([OURS, "generations"]), table)
}

/// Where the claims on a task stand.
pub(crate) fn epochs(store: &FolderStore, task: &str) -> Path {
    below(tasks(store), task).join("epochs")
}

/// One claim of those in a place.
pub(crate) fn claim(place: &Path, number: u64) -> Path {
    place.clone().join(format!("{number:010}.json"))
}

/// The number of a claim.
pub(crate) fn claim_number(claim: &Path) -> Option<u64> {
    claim.filename()?.strip_suffix(".json")?.parse().ok()
}

/// Where the tasks stand.
pub(crate) fn tasks(store: &FolderStore) -> Path {
    store.path([OURS, "tasks"])
}

/// Where a task's progress stands, of all tables.
pub(crate) fn loads(store: &FolderStore, task: &str) -> Path {
    below(tasks(store), task).join("loads")
}

/// Where a task's progress with one table stands.
pub(crate) fn table_loads(store: &FolderStore, task: &str, table: &TableName) -> Path {
    table_below(loads(store, task), table)
}

/// The same below the place of a task whose name is not at hand.
pub(crate) fn loads_below(task: &Path, table: &TableName) -> Path {
    table_below(task.clone().join("loads"), table)
}

/// The record that a load of a table began.
pub(crate) fn load(store: &FolderStore, task: &str, table: &TableName, load: u64) -> Path {
    table_loads(store, task, table).join(format!("load-{load:010}.json"))
}

/// The receipt of a partition; the epoch keeps those of two runs apart.
pub(crate) fn receipt(
    store: &FolderStore,
    task: &str,
    table: &TableName,
    load: u64,
    partition: u32,
    epoch: u64,
) -> Path {
    table_loads(store, task, table)
        .join(format!("receipt-{load:010}-{partition:06}-{epoch:010}.json"))
}

/// Where the commits of a task's changes stand.
pub(crate) fn commits(store: &FolderStore, task: &str) -> Path {
    below(tasks(store), task).join("changes").join("commits")
}

/// One commit.
pub(crate) fn commit(store: &FolderStore, task: &str, number: u64) -> Path {
    commits(store, task).join(format!("{number:020}.json"))
}

/// The number of a commit.
pub(crate) fn commit_number(commit: &Path) -> Option<u64> {
    claim_number(commit)
}

/// From where to look for the newest commit.
pub(crate) fn commit_hint(store: &FolderStore, task: &str) -> Path {
    below(tasks(store), task).join("changes").join("newest.json")
}

/// What is noted of tables as of a commit; the checksum of it keeps those of two runs apart.
pub(crate) fn commit_notes(store: &FolderStore, task: &str, number: u64, sum: &str) -> Path {
    below(tasks(store), task).join("changes").join("notes").join(format!("{number:020}-{sum}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_dms_has_them_and_apart_for_every_run() {
        assert_eq!(file_name(1, 1, DataFormat::Parquet), "LOAD00000001.parquet");
        assert_eq!(file_name(1, 10, DataFormat::Csv), "LOAD0000000A.csv");
        assert_eq!(file_name(2, 1, DataFormat::Parquet), "LOAD00100001.parquet");
        for name in ["LOAD00000001.parquet", "LOAD123456789.csv"] {
            assert!(is_file_name(name), "{name}");
        }
        for name in ["LOAD1.parquet", "load00000001.csv", "LOAD0000000g.csv", "x.parquet"] {
            assert!(!is_file_name(name), "{name}");
        }
        let change = "20261121-110129123-000000000000002A-0001-9f86d081884c7d65.parquet";
        assert!(is_change_name(change) && is_data_name(change) && !is_file_name(change));
        for name in ["20261121-110129123.parquet", &change[1..], &change.replace("2A", "2G")] {
            assert!(!is_data_name(name), "{name}");
        }
    }
}
