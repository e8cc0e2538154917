//! Formats of data files.

#[cfg(feature = "csv")]
pub(crate) mod csv;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use dms_core::endpoint::{ColumnMapping, Fidelity};
use dms_core::schema::{Column, TableSchema};
use dms_core::value::text::has_text;
use dms_core::{Error, ErrorKind, Result};

use crate::settings::{DataFormat, FolderSettings};

/// Turns batches into the bytes of one file.
pub(crate) struct FileEncoder {
    format: Format,
    hasher: blake3::Hasher,
    size: u64,
}

enum Format {
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::ParquetEncoder>),
    #[cfg(feature = "csv")]
    Csv(csv::CsvEncoder),
}

/// The end of a file.
pub(crate) struct Finished {
    /// Bytes that were not returned before.
    pub(crate) rest: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) blake3: String,
    pub(crate) row_groups: Vec<u64>,
}

impl FileEncoder {
    pub(crate) fn new(
        table: &TableSchema,
        settings: &FolderSettings,
        first: &RecordBatch,
    ) -> Result<Self> {
        available(settings.data_format)?;
        let format = match settings.data_format {
            #[cfg(feature = "parquet")]
            DataFormat::Parquet => {
                Format::Parquet(Box::new(parquet::ParquetEncoder::new(table, settings, first)?))
            }
            #[cfg(feature = "csv")]
            DataFormat::Csv => Format::Csv(csv::CsvEncoder::new(table, settings)),
            #[cfg(not(all(feature = "parquet", feature = "csv")))]
            other => {
                let _ = (table, first, other);
                return Err(Error::unexpected("no such format is built in"));
            }
        };
        Ok(Self { format, hasher: blake3::Hasher::new(), size: 0 })
    }

    /// Encodes rows; returns the bytes that are ready.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let bytes = match &mut self.format {
            #[cfg(feature = "parquet")]
            Format::Parquet(encoder) => encoder.write(batch)?,
            #[cfg(feature = "csv")]
            Format::Csv(encoder) => encoder.write(batch),
        };
        self.count(&bytes);
        Ok(bytes)
    }

    /// Bytes of the file so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(mut self) -> Result<Finished> {
        let (rest, row_groups) = match &mut self.format {
            #[cfg(feature = "parquet")]
            Format::Parquet(encoder) => encoder.finish()?,
            #[cfg(feature = "csv")]
            Format::Csv(_) => (Vec::new(), Vec::new()),
        };
        self.count(&rest);
        let blake3 = self.hasher.finalize().to_hex().to_string();
        Ok(Finished { rest, size: self.size, blake3, row_groups })
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }
}

/// Rows as lines of CSV without a header, with the ends of the lines.
pub(crate) fn csv_lines(
    rows: &RecordBatch,
    table: &TableSchema,
    settings: &FolderSettings,
) -> Result<(Vec<u8>, Vec<usize>)> {
    available(DataFormat::Csv)?;
    #[cfg(feature = "csv")]
    {
        let mut ends = Vec::with_capacity(rows.num_rows());
        let bytes = csv::CsvEncoder::new(table, settings).write_lines(rows, |end| ends.push(end));
        Ok((bytes, ends))
    }
    #[cfg(not(feature = "csv"))]
    {
        let _ = (rows, table, settings);
        Err(Error::unexpected("no such format is built in"))
    }
}

/// Refuses a format whose feature is off.
pub(crate) fn available(format: DataFormat) -> Result<()> {
    let (there, feature) = match format {
        DataFormat::Parquet => (cfg!(feature = "parquet"), "parquet"),
        DataFormat::Csv => (cfg!(feature = "csv"), "csv"),
    };
    if there {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("this program is built without the cargo feature {feature} of dms-s3"),
    ))
}

/// Why a table with arrays cannot be followed.
pub(crate) const NO_ARRAYS: &str =
    "CSV has no arrays, and files of changes under preserve-transactions are CSV";

/// What a column becomes, and whether that is exact.
pub(crate) fn mapping(column: &Column, settings: &FolderSettings) -> ColumnMapping {
    let mut mapping = load_mapping(column, settings.data_format);
    if settings.preserve_transactions && !has_text(&column.logical_type) {
        mapping.fidelity = Fidelity::Impossible(NO_ARRAYS.to_owned());
    }
    mapping
}

fn load_mapping(column: &Column, format: DataFormat) -> ColumnMapping {
    let ty = &column.logical_type;
    let (target_type, fidelity) = match format {
        DataFormat::Csv if !has_text(ty) => (
            "text".to_owned(),
            Fidelity::Impossible("CSV has no arrays; use data-format parquet".to_owned()),
        ),
        DataFormat::Csv => ("text".to_owned(), Fidelity::Exact),
        DataFormat::Parquet if is_native(column) => (ty.arrow_type().to_string(), Fidelity::Exact),
        // The manifest keeps the logical type, so that the text form reads back as it was.
        DataFormat::Parquet if has_text(ty) => ("Utf8 (text form)".to_owned(), Fidelity::Exact),
        DataFormat::Parquet => (
            ty.arrow_type().to_string(),
            Fidelity::Impossible(
                "Parquet does not have the elements' type, and arrays have no text form; change \
                 the data type of the column"
                    .to_owned(),
            ),
        ),
    };
    ColumnMapping { column: column.name.clone(), target_type, fidelity }
}

/// Whether Parquet has the column's Arrow type; else it travels in its text form.
pub(crate) fn is_native(column: &Column) -> bool {
    parquet_has(&column.logical_type.arrow_type())
}

fn parquet_has(ty: &DataType) -> bool {
    match ty {
        DataType::Interval(_) => false,
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => *scale >= 0,
        DataType::List(element) => parquet_has(element.data_type()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_format_cannot_hold_is_said() {
        let fidelity = |ty: &str, format| {
            load_mapping(&Column::new("c", ty.parse().unwrap_or_else(|e| panic!("{e}"))), format)
        };
        for (ty, parquet, csv) in [
            ("int64", "Int64", true),
            ("interval", "Utf8 (text form)", true),
            ("decimal(5,-2)", "Utf8 (text form)", true),
            ("array(int32)", "List(Int32)", false),
        ] {
            let mapped = fidelity(ty, DataFormat::Parquet);
            assert_eq!((mapped.target_type.as_str(), mapped.fidelity), (parquet, Fidelity::Exact));
            assert_eq!(fidelity(ty, DataFormat::Csv).fidelity == Fidelity::Exact, csv, "{ty}");
        }
        let nested = fidelity("array(interval)", DataFormat::Parquet).fidelity;
        assert!(matches!(nested, Fidelity::Impossible(_)), "{nested}");
    }
}
