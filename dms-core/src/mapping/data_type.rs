//! Data types by DMS's names, which count the bytes of a number: `int8` has 64 bits.

use serde::Deserialize;

use super::rules::Number;
use crate::json;
use crate::schema::LogicalType;
use crate::{Error, Result};

/// A `data-type` that columns get.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct DataTypeJson {
    r#type: String,
    length: Option<Number>,
    precision: Option<Number>,
    scale: Option<Number>,
}

impl DataTypeJson {
    pub(super) fn read(&self, what: &str) -> Result<LogicalType> {
        let length: Option<u32> = Number::read(self.length.as_ref(), what)?;
        let precision: Option<u8> = Number::read(self.precision.as_ref(), what)?;
        let scale: Option<i8> = Number::read(self.scale.as_ref(), what)?;
        Ok(match self.r#type.to_ascii_lowercase().as_str() {
            "boolean" => LogicalType::Boolean,
            "int1" => LogicalType::Int8,
            "int2" => LogicalType::Int16,
            "int4" => LogicalType::Int32,
            "int8" => LogicalType::Int64,
            "uint1" => LogicalType::UInt8,
            "uint2" => LogicalType::UInt16,
            "uint4" => LogicalType::UInt32,
            "uint8" => LogicalType::UInt64,
            "real4" => LogicalType::Float32,
            "real8" => LogicalType::Float64,
            "numeric" => match precision {
                None => LogicalType::Numeric,
                Some(precision) => {
                    format!("decimal({precision},{})", scale.unwrap_or(0)).parse()?
                }
            },
            "string" | "wstring" => LogicalType::Text { limit: length },
            "bytes" => LogicalType::Bytes { limit: length },
            "blob" => LogicalType::Blob,
            "clob" | "nclob" => LogicalType::Clob,
            "date" => LogicalType::Date,
            "time" => format!("time({})", scale.unwrap_or(6)).parse()?,
            "datetime" => format!("timestamp({})", scale.unwrap_or(6)).parse()?,
            other => {
                return Err(Error::settings(format!(
                    "{what}: data-type {other:?} is not supported"
                )));
            }
        })
    }
}

/// What DMS calls the type; types that it does not have keep the name of their text form.
pub(super) fn name_in_dms(ty: &LogicalType) -> &'static str {
    match ty {
        LogicalType::Boolean => "boolean",
        LogicalType::Int8 => "int1",
        LogicalType::Int16 => "int2",
        LogicalType::Int32 => "int4",
        LogicalType::Int64 => "int8",
        LogicalType::UInt8 => "uint1",
        LogicalType::UInt16 => "uint2",
        LogicalType::UInt32 => "uint4",
        LogicalType::UInt64 => "uint8",
        LogicalType::Float32 => "real4",
        LogicalType::Float64 => "real8",
        LogicalType::Decimal { .. } | LogicalType::Numeric => "numeric",
        LogicalType::Char { .. } | LogicalType::Text { .. } => "string",
        LogicalType::Clob => "clob",
        LogicalType::Binary { .. } | LogicalType::Bytes { .. } => "bytes",
        LogicalType::Blob => "blob",
        LogicalType::Date => "date",
        LogicalType::Time { .. } => "time",
        LogicalType::Timestamp { .. } => "datetime",
        LogicalType::TimeTz { .. } => "timetz",
        LogicalType::TimeSpan { .. } => "timespan",
        LogicalType::TimestampTz { .. } => "timestamptz",
        LogicalType::Interval => "interval",
        LogicalType::Uuid => "uuid",
        LogicalType::Json => "json",
        LogicalType::Enum { .. } => "enum",
        LogicalType::Set { .. } => "set",
        LogicalType::BitString { varying: false, .. } => "bit",
        LogicalType::BitString { varying: true, .. } => "varbit",
        LogicalType::Array(_) => "array",
        LogicalType::Geometry => "geometry",
        LogicalType::Other { .. } => "other",
    }
}

/// All that [`name_in_dms`] answers.
const NAMES: &[&str] = &[
    "boolean",
    "int1",
    "int2",
    "int4",
    "int8",
    "uint1",
    "uint2",
    "uint4",
    "uint8",
    "real4",
    "real8",
    "numeric",
    "string",
    "clob",
    "bytes",
    "blob",
    "date",
    "time",
    "datetime",
    "timetz",
    "timespan",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "enum",
    "set",
    "bit",
    "varbit",
    "array",
    "geometry",
    "other",
];

/// The `data-type` that a rule looks for, as [`name_in_dms`] has it.
///
/// # Errors
/// `Settings` for a name that no type has: the rule would match nothing without a word.
pub(super) fn known_name(name: &str, what: &str) -> Result<&'static str> {
    let lower = name.to_ascii_lowercase();
    let lower = match lower.as_str() {
        "wstring" => "string",
        "nclob" => "clob",
        lower => lower,
    };
    NAMES.iter().find(|known| **known == lower).copied().ok_or_else(|| {
        let hint = json::nearest(lower, NAMES)
            .map(|near| format!("; did you mean {near:?}?"))
            .unwrap_or_default();
        Error::settings(format!("{what}: data-type {name:?} of the object-locator is none{hint}"))
    })
}
