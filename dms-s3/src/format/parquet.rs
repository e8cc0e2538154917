//! Parquet, by arrow-rs.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use dms_core::schema::TableSchema;
use dms_core::value::text::{parse_column, write_text};
use dms_core::{Error, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::is_native;
use crate::settings::{Compression, Dictionary, FolderSettings, ParquetVersion};

/// Rows that are looked at to decide on a dictionary.
const SAMPLE_ROWS: usize = 16_384;
/// Of each this many sampled rows one distinct value is too many for a dictionary: it would outgrow
/// its page within a row group and be given up after the work was done.
const ROWS_PER_DISTINCT: usize = 5;

/// One Parquet file being written.
pub(crate) struct ParquetEncoder {
    writer: ArrowWriter<Vec<u8>>,
    schema: SchemaRef,
    row_group_bytes: usize,
    /// Columns that travel in their text form.
    as_text: Vec<usize>,
}

impl ParquetEncoder {
    pub(crate) fn new(
        table: &TableSchema,
        settings: &FolderSettings,
        first: &RecordBatch,
    ) -> Result<Self> {
        let schema = storage_schema(table);
        let as_text = (0..table.columns.len())
            .filter(|at| table.columns.get(*at).is_some_and(|column| !is_native(column)))
            .collect();
        let properties = properties(settings, &schema, first)?;
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))
            .map_err(failed)?;
        Ok(Self { writer, schema, row_group_bytes: settings.row_group_bytes, as_text })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        if self.as_text.is_empty() {
            self.writer.write(batch).map_err(failed)?;
        } else {
            let columns = batch.columns().iter().enumerate().map(|(at, column)| {
                if self.as_text.contains(&at) { to_text(column) } else { Arc::clone(column) }
            });
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())?;
            self.writer.write(&batch).map_err(failed)?;
        }
        if self.writer.in_progress_size() >= self.row_group_bytes {
            self.writer.flush().map_err(failed)?;
        }
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    /// The last bytes, and the rows of each row group.
    pub(crate) fn finish(&mut self) -> Result<(Vec<u8>, Vec<u64>)> {
        let metadata = self.writer.finish().map_err(failed)?;
        let rows = metadata.row_groups().iter().map(|group| group.num_rows().unsigned_abs());
        let rows = rows.collect();
        Ok((std::mem::take(self.writer.inner_mut()), rows))
    }
}

fn failed(error: ParquetError) -> Error {
    Error::unexpected("rows cannot be encoded as Parquet").with_source(error)
}

/// The Arrow schema of files: the table's, with text for types that Parquet does not have.
fn storage_schema(table: &TableSchema) -> SchemaRef {
    let fields = table.columns.iter().map(|column| {
        let native = column.logical_type.arrow_type();
        let stored = if is_native(column) { native } else { DataType::Utf8 };
        Field::new(&column.name, stored, column.nullable)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn to_text(array: &ArrayRef) -> ArrayRef {
    let mut texts = StringBuilder::new();
    let mut text = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            texts.append_null();
        } else {
            text.clear();
            write_text(array.as_ref(), row, &mut text);
            texts.append_value(&text);
        }
    }
    Arc::new(texts.finish())
}

/// A Parquet file in a store, for arrow-rs's asynchronous reader.
pub(crate) struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl FileReader {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, path: Path, size: u64) -> Self {
        Self { store, path, size }
    }
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            // A damaged footer points anywhere.
            if range.start > range.end || range.end > self.size {
                return Err(ParquetError::EOF("a part of it lies outside the file".to_owned()));
            }
            let bytes = self.store.get_range(&self.path, range).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async {
            let size = self.size;
            Ok(Arc::new(ParquetMetaDataReader::new().load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// A batch as read, in the table's own schema again.
pub(crate) fn from_storage(batch: &RecordBatch, table: &TableSchema) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(&table.columns).map(|(array, column)| {
        match array.as_any().downcast_ref() {
            Some(texts) if !is_native(column) => parse_column(texts, &column.logical_type),
            _ => Ok(Arc::clone(array)),
        }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(table.arrow_schema(), columns, &options)?)
}

fn properties(
    settings: &FolderSettings,
    stored: &Schema,
    first: &RecordBatch,
) -> Result<WriterProperties> {
    let codec = match settings.compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Snappy => Codec::SNAPPY,
        Compression::Zstd => {
            Codec::ZSTD(ZstdLevel::try_new(settings.compression_level).map_err(failed)?)
        }
    };
    let statistics =
        if settings.enable_statistics { EnabledStatistics::Chunk } else { EnabledStatistics::None };
    let mut builder = WriterProperties::builder()
        .set_compression(codec)
        .set_statistics_enabled(statistics)
        .set_data_page_size_limit(settings.data_page_size)
        .set_max_row_group_row_count(Some(settings.row_group_rows))
        .set_dictionary_enabled(settings.dictionary != Dictionary::Off)
        .set_created_by(concat!("dms ", env!("CARGO_PKG_VERSION")).to_owned());
    for (field, column) in stored.fields().iter().zip(first.columns()) {
        let path = ColumnPath::new(vec![field.name().clone()]);
        if let (ParquetVersion::V2, Some(encoding)) =
            (settings.parquet_version, encoding(field.data_type()))
        {
            builder = builder.set_column_encoding(path.clone(), encoding);
        }
        if settings.dictionary == Dictionary::Auto && mostly_distinct(column.as_ref()) {
            builder = builder.set_column_dictionary_enabled(path, false);
        }
    }
    Ok(builder.build())
}

/// What values without a dictionary are written as, if not as they are.
fn encoding(ty: &DataType) -> Option<Encoding> {
    match ty {
        // Up to 18 digits are an integer in Parquet too.
        DataType::Decimal128(..=18, _) => Some(Encoding::DELTA_BINARY_PACKED),
        ty if ty.is_integer() || ty.is_temporal() => Some(Encoding::DELTA_BINARY_PACKED),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
            Some(Encoding::DELTA_LENGTH_BYTE_ARRAY)
        }
        _ => None,
    }
}

/// Whether the first rows of a column of flat values hold few repetitions.
fn mostly_distinct(array: &dyn Array) -> bool {
    let sample = array.slice(0, array.len().min(SAMPLE_ROWS));
    let data = sample.to_data();
    let rows = sample.len() - sample.null_count();
    if rows < 1024 {
        return false;
    }
    let distinct = match (sample.data_type(), data.data_type().primitive_width()) {
        (DataType::Utf8, _) => {
            use arrow::array::AsArray;
            sample.as_string::<i32>().iter().flatten().collect::<HashSet<_>>().len()
        }
        (DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary, _) => return true,
        (_, Some(width)) => {
            let Some(values) = data.buffers().first() else { return false };
            let from = data.offset() * width;
            let values = values.get(from..from + sample.len() * width).unwrap_or_default();
            values.chunks_exact(width).collect::<HashSet<_>>().len()
        }
        (DataType::FixedSizeBinary(_), _) => return true,
        _ => return false,
    };
    distinct * ROWS_PER_DISTINCT > rows
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Decimal128Array, Int8Array, Int64Array, UInt64Array};
    use dms_core::schema::{Column, TableName};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::metadata::ColumnChunkMetaData;

    use super::*;

    /// Differences between them overflow.
    fn extremes(table: &TableSchema) -> RecordBatch {
        let rows = 5000;
        let pick = |row: usize| [0, 2, 1, 0, 3][row % 5];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter(
                (0..rows).map(|row| [Some(i64::MIN), Some(i64::MAX), None, Some(0)][pick(row)]),
            )),
            Arc::new(UInt64Array::from_iter_values(
                (0..rows).map(|row| [0, u64::MAX, 1, 1 << 63][pick(row)]),
            )),
            Arc::new(Int8Array::from_iter_values(
                (0..rows).map(|row| [i8::MIN, i8::MAX, -1, 0][pick(row)]),
            )),
            Arc::new(Date32Array::from_iter_values(
                (0..rows).map(|row| [i32::MIN, i32::MAX, -1, 0][pick(row)]),
            )),
            Arc::new(
                Decimal128Array::from_iter_values((0..rows).map(|row| {
                    [-999_999_999_999_999_999, 999_999_999_999_999_999, 0, 1][pick(row)]
                }))
                .with_precision_and_scale(18, 2)
                .unwrap(),
            ),
            Arc::new(arrow::array::StringArray::from_iter((0..rows).map(|row| {
                [Some("x".repeat(row % 300)), None, Some(String::new()), Some("é".into())]
                    [pick(row)]
                .clone()
            }))),
        ];
        RecordBatch::try_new(table.arrow_schema(), columns).unwrap()
    }

    #[test]
    fn each_version_reads_back() {
        let types = ["int64", "uint64", "int8", "date", "decimal(18,2)", "text"];
        let columns = types.iter().map(|ty| Column::new(*ty, ty.parse().unwrap()));
        let table = TableSchema::new(TableName::new("s", "t"), columns.collect());
        let batch = extremes(&table);
        for (version, has_delta) in [(ParquetVersion::V1, false), (ParquetVersion::V2, true)] {
            let mut settings = FolderSettings::new("memory:///");
            settings.dictionary = Dictionary::Off;
            settings.parquet_version = version;
            let mut encoder = ParquetEncoder::new(&table, &settings, &batch).unwrap();
            let mut file = encoder.write(&batch).unwrap();
            file.extend(encoder.finish().unwrap().0);
            let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap();
            let is_delta = |column: &ColumnChunkMetaData| {
                column.encodings().any(|encoding| {
                    matches!(
                        encoding,
                        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY
                    )
                })
            };
            let group = reader.metadata().row_group(0);
            assert!(group.columns().iter().all(|column| is_delta(column) == has_delta));
            let read: Vec<_> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
            let read = arrow::compute::concat_batches(&read[0].schema(), &read).unwrap();
            assert_eq!(from_storage(&read, &table).unwrap(), batch);
        }
    }
}
