//! Declared types and logical types, both ways.
//!
//! A source reads a declaration as the type that its values should be; a target declares what a
//! source reads back as the same kind of type. Declarations are chosen for their *affinity* too
//! (<https://sqlite.org/datatype3.html> §3.1), which must not change what is stored: numbers in text
//! form need a name with `TEXT` in it, or SQLite would make floats of them.

use dms_core::endpoint::{ColumnMapping, Fidelity};
use dms_core::schema::{Column, LogicalType};

use super::ENGINE;

/// The one schema that is read and written.
pub(super) const SCHEMA: &str = "main";

/// The native name of columns that hold values of any storage class, as SQL literals.
pub(super) const ANY: &str = "sqlite any";

/// The most digits of a decimal that a float always holds.
const REAL_DIGITS: u8 = 15;

/// What the values of a column declared so should be.
pub(super) fn logical_type(declaration: &str) -> LogicalType {
    let declaration = declaration.trim().to_ascii_uppercase();
    let (name, arguments) = match declaration.split_once('(') {
        Some((name, rest)) => (name.trim(), arguments(rest)),
        None => (declaration.as_str(), Vec::new()),
    };
    let precision = || match arguments.as_slice() {
        [precision] => u8::try_from(*precision).ok().filter(|p| *p <= 9).unwrap_or(6),
        _ => 6,
    };
    let decimal = |otherwise: LogicalType| {
        let (precision, scale) = match arguments.as_slice() {
            [precision] => (*precision, 0),
            [precision, scale] => (*precision, *scale),
            _ => return otherwise,
        };
        match (u8::try_from(precision), i8::try_from(scale)) {
            (Ok(p @ 1..=76), Ok(s)) if i64::from(s) <= precision => {
                LogicalType::Decimal { precision: p, scale: s }
            }
            _ => otherwise,
        }
    };
    match name {
        "" | "ANY" => LogicalType::Other { native: ANY.to_owned() },
        "BOOLEAN" | "BOOL" => LogicalType::Boolean,
        "DATE" => LogicalType::Date,
        "TIME" => LogicalType::Time { precision: precision() },
        "TIMETZ" => LogicalType::TimeTz { precision: precision() },
        "TIMESPAN" => LogicalType::TimeSpan { precision: precision() },
        "DATETIME" | "TIMESTAMP" => LogicalType::Timestamp { precision: precision() },
        "TIMESTAMPTZ" => LogicalType::TimestampTz { precision: precision() },
        "INTERVAL" => LogicalType::Interval,
        "UUID" => LogicalType::Uuid,
        "JSON" | "JSON_TEXT" => LogicalType::Json,
        "NUMERIC_TEXT" => LogicalType::Numeric,
        "DECIMAL" | "NUMERIC" | "DECIMAL_TEXT" | "DEC" => decimal(LogicalType::Numeric),
        "VARBINARY" | "BINARY" | "BYTEA" => LogicalType::bytes(),
        _ => by_affinity(name),
    }
}

/// SQLite's own rules, in its order.
fn by_affinity(name: &str) -> LogicalType {
    if name.contains("INT") {
        LogicalType::Int64
    } else if name.contains("CLOB") {
        LogicalType::Clob
    } else if name.contains("CHAR") || name.contains("TEXT") {
        // SQLite holds no length limit, so none is claimed.
        LogicalType::text()
    } else if name.contains("BLOB") {
        LogicalType::Blob
    } else if name.contains("REAL") || name.contains("FLOA") || name.contains("DOUB") {
        LogicalType::Float64
    } else {
        // NUMERIC affinity under a name that says nothing: any storage class.
        LogicalType::Other { native: ANY.to_owned() }
    }
}

/// `15, 2)` as numbers; empty if it is anything else.
fn arguments(text: &str) -> Vec<i64> {
    let Some(inner) = text.trim_end().strip_suffix(')') else { return Vec::new() };
    inner.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().unwrap_or_default()
}

/// Whether decimals of this type are stored as numbers; else as text.
pub(super) fn decimal_as_number(precision: u8, scale: i8) -> bool {
    precision <= REAL_DIGITS && scale >= 0
}

/// How a target declares a column.
pub(super) fn declaration(column: &Column) -> String {
    if let Some(native) = column.native_in(ENGINE) {
        return native.to_owned();
    }
    match &column.logical_type {
        LogicalType::Boolean => "BOOLEAN".to_owned(),
        LogicalType::Int8
        | LogicalType::Int16
        | LogicalType::Int32
        | LogicalType::Int64
        | LogicalType::UInt8
        | LogicalType::UInt16
        | LogicalType::UInt32 => "INTEGER".to_owned(),
        // Above i64 an INTEGER column would make floats of them.
        LogicalType::UInt64 => "DECIMAL_TEXT(20,0)".to_owned(),
        LogicalType::Float32 | LogicalType::Float64 => "REAL".to_owned(),
        LogicalType::Decimal { precision, scale } if decimal_as_number(*precision, *scale) => {
            format!("DECIMAL({precision},{scale})")
        }
        LogicalType::Decimal { precision, scale } => format!("DECIMAL_TEXT({precision},{scale})"),
        LogicalType::Numeric => "NUMERIC_TEXT".to_owned(),
        LogicalType::Char { length } => format!("CHAR({length})"),
        LogicalType::Text { limit: Some(limit) } => format!("VARCHAR({limit})"),
        LogicalType::Clob => "CLOB".to_owned(),
        LogicalType::Binary { length } => format!("BINARY({length})"),
        LogicalType::Bytes { limit: Some(limit) } => format!("VARBINARY({limit})"),
        LogicalType::Bytes { limit: None } => "VARBINARY".to_owned(),
        LogicalType::Blob | LogicalType::Geometry => "BLOB".to_owned(),
        LogicalType::Date => "DATE".to_owned(),
        LogicalType::Time { precision } => format!("TIME({precision})"),
        LogicalType::TimeTz { precision } => format!("TIMETZ({precision})"),
        LogicalType::TimeSpan { precision } => format!("TIMESPAN({precision})"),
        LogicalType::Timestamp { precision } => format!("TIMESTAMP({precision})"),
        LogicalType::TimestampTz { precision } => format!("TIMESTAMPTZ({precision})"),
        LogicalType::Interval => "INTERVAL".to_owned(),
        LogicalType::Uuid => "UUID".to_owned(),
        LogicalType::Json => "JSON_TEXT".to_owned(),
        LogicalType::Other { native } if native == ANY => String::new(),
        // Text, enums, sets, bit strings and other engines' types in their text form.
        _ => "TEXT".to_owned(),
    }
}

/// What a column becomes, and whether that is exact.
pub(super) fn mapping(column: &Column) -> ColumnMapping {
    let fidelity = match &column.logical_type {
        LogicalType::Array(_) => Fidelity::Impossible(
            "SQLite has no arrays; change the column's data type to string in the table mapping, \
             or remove it"
                .to_owned(),
        ),
        _ => Fidelity::Exact,
    };
    let target_type = match declaration(column) {
        none if none.is_empty() => "(no declared type)".to_owned(),
        declaration => declaration,
    };
    ColumnMapping { column: column.name.clone(), target_type, fidelity }
}

/// The digits of the fraction that the one canonical spelling has: as many as are declared, or
/// (`None`) none or six.
pub(super) fn fraction_digits(column: &Column) -> Option<u8> {
    let declared = column.native_in(ENGINE)?;
    let digits = arguments(declared.split_once('(')?.1);
    digits.first().and_then(|digits| u8::try_from(*digits).ok()).filter(|digits| *digits <= 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_as_people_write_them() {
        for (declaration, expected) in [
            ("INTEGER", "int64"),
            ("unsigned big int", "int64"),
            ("varchar(10)", "text"),
            ("NATIVE CHARACTER(70)", "text"),
            ("CLOB", "clob"),
            ("BLOB", "blob"),
            ("", "other('sqlite any')"),
            ("DOUBLE PRECISION", "float64"),
            ("DECIMAL(15, 2)", "decimal(15,2)"),
            ("numeric(5)", "decimal(5,0)"),
            ("NUMERIC", "numeric"),
            ("NUMERIC(99,1)", "numeric"),
            ("boolean", "boolean"),
            ("DateTime", "timestamp(6)"),
            ("TIMESTAMP(3)", "timestamp(3)"),
            ("MONEY", "other('sqlite any')"),
        ] {
            assert_eq!(logical_type(declaration).to_string(), expected, "{declaration}");
        }
    }

    #[test]
    fn what_a_target_declares_reads_back_as_the_same_kind() {
        for (written, read) in [
            ("boolean", "boolean"),
            ("int8", "int64"),
            ("uint64", "decimal(20,0)"),
            ("float32", "float64"),
            ("decimal(15,2)", "decimal(15,2)"),
            ("decimal(16,2)", "decimal(16,2)"),
            ("decimal(76,10)", "decimal(76,10)"),
            ("decimal(5,-2)", "decimal(5,-2)"),
            ("numeric", "numeric"),
            ("char(3)", "text"),
            ("text", "text"),
            ("clob", "clob"),
            ("bytes", "bytes"),
            ("binary(4)", "bytes"),
            ("blob", "blob"),
            ("date", "date"),
            ("time(3)", "time(3)"),
            ("timetz(6)", "timetz(6)"),
            ("timespan(6)", "timespan(6)"),
            ("timestamp(9)", "timestamp(9)"),
            ("timestamptz(0)", "timestamptz(0)"),
            ("interval", "interval"),
            ("uuid", "uuid"),
            ("json", "json"),
            ("enum('a')", "text"),
            ("varbit(3)", "text"),
            ("geometry", "blob"),
            ("other('tsvector')", "text"),
            ("other('sqlite any')", "other('sqlite any')"),
        ] {
            let column = Column::new("c", written.parse().unwrap());
            let declared = declaration(&column);
            assert_eq!(logical_type(&declared).to_string(), read, "{written} as {declared}");
        }
    }
}
