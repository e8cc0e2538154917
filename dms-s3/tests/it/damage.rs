//! Files that are not what was written: every error has a kind and names the file, and no row is
//! lost without one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use dms_core::batch::BatchStream;
use dms_core::endpoint::{Partition, ReadRequest, Source, TablePrepMode, Target};
use dms_core::mapping::Selection;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::{Error, ErrorKind};
use dms_s3::{DataFormat, FolderSettings, FolderSource, FolderStore, FolderTarget};
use futures::TryStreamExt;

const ROWS: usize = 500;

fn table() -> TableSchema {
    let columns = vec![
        Column::new("id", LogicalType::Int64).required(),
        Column::new("name", LogicalType::text()),
    ];
    TableSchema::new(TableName::new("shop", "items"), columns)
}

fn settings(folder: &Path, format: DataFormat) -> FolderSettings {
    let mut settings = FolderSettings::new(format!("file://{}", folder.display()));
    settings.data_format = format;
    settings.row_group_rows = 200;
    settings
}

/// One file; returns where it is.
async fn loaded(folder: &Path, format: DataFormat) -> PathBuf {
    let settings = settings(folder, format);
    let store = FolderStore::open(&settings).unwrap();
    let target = FolderTarget::new(store, settings).unwrap();
    let run = target.begin("damage").await.unwrap().run;
    let whole = [Partition::whole()];
    target.prepare(&run, &table(), TablePrepMode::DropAndCreate, &whole, None).await.unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::try_from(ROWS).unwrap()));
    let names = (0..ROWS).map(|row| (row % 7 != 0).then(|| format!("name {}", row % 31)));
    let names: ArrayRef = Arc::new(names.collect::<StringArray>());
    let batch = RecordBatch::try_new(table().arrow_schema(), vec![ids, names]).unwrap();
    let stream = BatchStream::from_batches(table().arrow_schema(), vec![batch]);
    target.load(&run, &table(), &whole[0], None, stream).await.unwrap();
    target.finish(&run, &table()).await.unwrap();
    folder.join(match format {
        DataFormat::Parquet => "shop/items/LOAD00000001.parquet",
        DataFormat::Csv => "shop/items/LOAD00000001.csv",
    })
}

/// The rows that are delivered, or the error.
async fn read(folder: &Path, format: DataFormat, verify: bool) -> dms_core::Result<usize> {
    let mut settings = settings(folder, format);
    settings.verify_checksums = verify;
    let source = FolderSource::new(FolderStore::open(&settings)?, settings);
    let catalog = source.discover(&Selection::all()).await?;
    let snapshot = source.snapshot(&catalog.tables, 1).await?;
    let request = ReadRequest::whole(Arc::new(catalog.tables[0].clone()));
    let batches: Vec<RecordBatch> = snapshot.read(request).await?.try_collect().await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

fn assert_names_the_file(error: &Error, kinds: &[ErrorKind], when: &str) {
    assert!(kinds.contains(&error.kind()), "{when}: {error}");
    assert!(error.to_string().contains("LOAD00000001"), "{when}: {error}");
}

#[tokio::test]
async fn bytes_that_are_no_parquet_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let file = loaded(folder.path(), DataFormat::Parquet).await;
    let whole = fs::read(&file).unwrap();
    let mut garbage: Vec<u8> = (0..=250).cycle().take(whole.len()).collect();
    let mut headless = garbage.clone();
    headless[..4].copy_from_slice(b"PAR1");
    headless[whole.len() - 4..].copy_from_slice(b"PAR1");
    garbage[0] = b'x';
    // Where its end should be, stands its beginning.
    let turned = [&whole[whole.len() / 2..], &whole[..whole.len() / 2]].concat();
    for (bytes, when) in [
        (garbage, "garbage"),
        (headless, "garbage with marks"),
        (turned, "turned"),
        (whole[..whole.len() / 2].to_vec(), "truncated"),
        (Vec::new(), "empty"),
    ] {
        fs::write(&file, bytes).unwrap();
        for verify in [true, false] {
            let error = read(folder.path(), DataFormat::Parquet, verify).await.unwrap_err();
            assert_names_the_file(&error, &[ErrorKind::Corrupt], when);
        }
    }
}

/// Without checksums a changed value passes, but no row goes missing without an error.
async fn every_flip_is_told_or_harmless(format: DataFormat, step: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = loaded(folder.path(), format).await;
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(step) {
        for bits in [0x01, 0x80, 0xff] {
            let mut flipped = whole.clone();
            flipped[at] ^= bits;
            fs::write(&file, flipped).unwrap();
            let when = format!("byte {at} of {} with {bits:x}", whole.len());
            match read(folder.path(), format, false).await {
                Ok(rows) => assert_eq!(rows, ROWS, "{when}"),
                Err(error) => {
                    assert_names_the_file(&error, &[ErrorKind::Corrupt, ErrorKind::Data], &when);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_of_parquet_loses_no_row() {
    every_flip_is_told_or_harmless(DataFormat::Parquet, 7).await;
}

#[tokio::test]
async fn a_flipped_byte_of_csv_loses_no_row() {
    every_flip_is_told_or_harmless(DataFormat::Csv, 17).await;
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    for format in [DataFormat::Parquet, DataFormat::Csv] {
        let folder = tempfile::tempdir().unwrap();
        let file = loaded(folder.path(), format).await;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        // Nothing is forbidden to root.
        if fs::read(&file).is_err() {
            for verify in [true, false] {
                let error = read(folder.path(), format, verify).await.unwrap_err();
                assert_names_the_file(&error, &[ErrorKind::Denied], "forbidden");
                assert!(error.to_string().contains("check the"), "{error}");
            }
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let error = read(folder.path(), format, true).await.unwrap_err();
        assert_names_the_file(&error, &[ErrorKind::Corrupt], "a folder");
    }
}

#[tokio::test]
async fn a_manifest_that_is_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    loaded(folder.path(), DataFormat::Parquet).await;
    let manifest = folder.path().join("_dms/tables/shop/items/manifest-0000000001.json");
    let whole = fs::read(&manifest).unwrap();
    for bytes in [&whole[..whole.len() / 2], b"", b"\xff\xfe", b"{}"] {
        fs::write(&manifest, bytes).unwrap();
        let error = read(folder.path(), DataFormat::Parquet, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("manifest-0000000001.json"), "{error}");
    }
}
