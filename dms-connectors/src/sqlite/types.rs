//! Declared types and logical types, both ways.
//!
//! A source reads a declaration as the type that its values should be. A target declares what a
//! source reads back as the same logical type: by the usual name where that name means the type
//! (`DECIMAL(15,2)`, `DATE`), else by a name of storage with the logical type in quotes, which is
//! legal SQL and which SQLite keeps (`INTEGER "int8"`, `TEXT "enum('new','paid')"`).
//!
//! Declarations are chosen for their *affinity* too (<https://sqlite.org/datatype3.html> §3.1),
//! which must not change what is stored: numbers in text form need a name with `TEXT` in it, or
//! SQLite would make floats of them.

use dms_core::endpoint::{ColumnMapping, Fidelity};
use dms_core::schema::{Column, LogicalType};

use super::ENGINE;

/// The one schema that is read and written.
pub(super) const SCHEMA: &str = "main";

/// The native name of columns that hold values of any storage class, as SQL literals.
pub(super) const ANY: &str = "sqlite any";

/// The most digits of a decimal that a float always holds.
const REAL_DIGITS: u8 = 15;

/// What SQLite does to values that are stored in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    /// Makes integers of what looks like one, and floats of other numbers.
    Integer,
    /// Makes text of numbers.
    Text,
    /// Changes nothing.
    Blob,
    /// Makes floats of numbers.
    Real,
    /// As `Integer`.
    Numeric,
}

/// The affinity of a declaration, by SQLite's own rules in its order.
pub(super) fn affinity(declaration: &str) -> Affinity {
    let name = declaration.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if has(&["BLOB"]) || name.trim().is_empty() {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// What a column's values are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    Integer,
    Real,
    /// Decimals as integers or floats.
    Number,
    /// Text that may look like a number.
    Text,
    /// Text that never does.
    Spelled,
    Blob,
    /// Any storage class, as a column of this affinity holds it.
    Any(Affinity),
}

impl Storage {
    /// Whether a column of this affinity keeps such values as they are.
    pub(super) fn is_kept_by(self, affinity: Affinity) -> bool {
        use Affinity::{Blob, Integer, Numeric, Real, Text};
        match self {
            Self::Spelled | Self::Blob => true,
            Self::Integer => matches!(affinity, Integer | Numeric | Blob),
            Self::Real => matches!(affinity, Real | Blob),
            Self::Number => affinity != Text,
            Self::Text => matches!(affinity, Text | Blob),
            Self::Any(own) => affinity == own || affinity == Blob,
        }
    }
}

/// What the values of a column declared so should be.
pub(super) fn logical_type(declaration: &str) -> LogicalType {
    if let Some(ty) = quoted_type(declaration) {
        return ty;
    }
    let declaration = declaration.trim().to_ascii_uppercase();
    let (name, arguments) = match declaration.split_once('(') {
        Some((name, rest)) => (name.trim(), arguments(rest)),
        None => (declaration.as_str(), Vec::new()),
    };
    let precision = || match arguments.as_slice() {
        [precision] => u8::try_from(*precision).ok().filter(|p| *p <= 9).unwrap_or(6),
        _ => 6,
    };
    match name {
        "" | "ANY" => any(),
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
        "DECIMAL_TEXT" => decimal(&arguments).unwrap_or(LogicalType::Numeric),
        // SQLite stores whole hundreds as what they are: a negative scale says nothing.
        "DECIMAL" | "NUMERIC" | "DEC" => decimal(&arguments)
            .filter(|ty| !matches!(ty, LogicalType::Decimal { scale: ..0, .. }))
            .unwrap_or(LogicalType::Numeric),
        "VARBINARY" | "BINARY" | "BYTEA" => LogicalType::bytes(),
        _ => by_affinity(name),
    }
}

fn any() -> LogicalType {
    LogicalType::Other { native: ANY.to_owned() }
}

fn decimal(arguments: &[i64]) -> Option<LogicalType> {
    let (precision, scale) = match arguments {
        [precision] => (*precision, 0),
        [precision, scale] => (*precision, *scale),
        _ => return None,
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=76), Ok(s)) if i64::from(s) <= precision => {
            Some(LogicalType::Decimal { precision: p, scale: s })
        }
        _ => None,
    }
}

fn by_affinity(name: &str) -> LogicalType {
    match affinity(name) {
        Affinity::Integer => LogicalType::Int64,
        Affinity::Text if name.contains("CLOB") => LogicalType::Clob,
        // SQLite holds no length limit, so none is claimed.
        Affinity::Text => LogicalType::text(),
        Affinity::Blob => LogicalType::Blob,
        Affinity::Real => LogicalType::Float64,
        // A name that says nothing: any storage class.
        Affinity::Numeric => any(),
    }
}

/// `15, 2)` as numbers; empty if it is anything else.
fn arguments(text: &str) -> Vec<i64> {
    let Some(inner) = text.trim_end().strip_suffix(')') else { return Vec::new() };
    inner.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().unwrap_or_default()
}

/// How a column is stored that is declared as [`declaration`] says.
pub(super) fn storage(column: &Column) -> Storage {
    storage_in(&column.logical_type, native(column).map(affinity))
}

/// `affinity` is that of the declaration in SQLite's words, if there is one.
fn storage_in(ty: &LogicalType, affinity: Option<Affinity>) -> Storage {
    let numbers = affinity.map(|affinity| !matches!(affinity, Affinity::Text | Affinity::Blob));
    match ty {
        LogicalType::Boolean
        | LogicalType::Int8
        | LogicalType::Int16
        | LogicalType::Int32
        | LogicalType::Int64
        | LogicalType::UInt8
        | LogicalType::UInt16
        | LogicalType::UInt32 => Storage::Integer,
        LogicalType::UInt64 if numbers == Some(true) => Storage::Integer,
        LogicalType::Float32 | LogicalType::Float64 => Storage::Real,
        LogicalType::Decimal { precision, scale: 0.. }
            if numbers.unwrap_or(*precision <= REAL_DIGITS) =>
        {
            Storage::Number
        }
        LogicalType::Numeric if numbers == Some(true) => Storage::Number,
        LogicalType::Binary { .. }
        | LogicalType::Bytes { .. }
        | LogicalType::Blob
        | LogicalType::Geometry => Storage::Blob,
        LogicalType::Date
        | LogicalType::Time { .. }
        | LogicalType::TimeTz { .. }
        | LogicalType::TimeSpan { .. }
        | LogicalType::Timestamp { .. }
        | LogicalType::TimestampTz { .. }
        | LogicalType::Interval
        | LogicalType::Uuid => Storage::Spelled,
        // A source column that holds numbers among its JSON documents stores them as such.
        LogicalType::Json if numbers == Some(true) => Storage::Any(Affinity::Numeric),
        LogicalType::Other { native } if native == ANY => {
            Storage::Any(affinity.unwrap_or(Affinity::Blob))
        }
        _ => Storage::Text,
    }
}

/// How a target declares a column: as SQLite had it, if it comes from there.
pub(super) fn declaration(column: &Column) -> String {
    native(column).map_or_else(|| declared(&column.logical_type), str::to_owned)
}

/// The column's declaration in SQLite's words, if it is one and keeps the column's values.
fn native(column: &Column) -> Option<&str> {
    let native = column.native_in(ENGINE).filter(|native| is_type_name(native))?;
    let affinity = affinity(native);
    // The settings of a source may say that a column's values are of another type than declared.
    storage_in(&column.logical_type, Some(affinity)).is_kept_by(affinity).then_some(native)
}

/// Whether a text is no more than a type's name with its one or two numbers. It may come from a
/// file that anybody wrote, and becomes part of a statement.
fn is_type_name(text: &str) -> bool {
    let (name, rest) = match text.rsplit_once('(') {
        Some((name, rest)) if !rest.contains('"') => (name, Some(rest)),
        _ => (text, None),
    };
    let numbers = rest.is_none_or(|rest| !arguments(rest).is_empty());
    // Outside quotes: words; inside: anything, as a quote that is doubled ends and begins anew.
    let plain = name.split('"').step_by(2).collect::<String>();
    let words = |c: char| c.is_alphanumeric() || c == '_' || c == ' ';
    numbers
        && name.matches('"').count() % 2 == 0
        && plain.chars().all(words)
        && !name.contains('\0')
}

/// The name of a logical type, from which [`logical_type`] gives it back.
fn declared(ty: &LogicalType) -> String {
    match ty {
        LogicalType::Boolean => "BOOLEAN".to_owned(),
        LogicalType::Int64 => "INTEGER".to_owned(),
        LogicalType::Decimal { precision, scale } => match storage_in(ty, None) {
            Storage::Number => format!("DECIMAL({precision},{scale})"),
            _ => format!("DECIMAL_TEXT({precision},{scale})"),
        },
        LogicalType::Numeric => "NUMERIC_TEXT".to_owned(),
        LogicalType::Text { limit: None } => "TEXT".to_owned(),
        LogicalType::Clob => "CLOB".to_owned(),
        LogicalType::Bytes { limit: None } => "VARBINARY".to_owned(),
        LogicalType::Blob => "BLOB".to_owned(),
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
        ty => {
            let word = match storage_in(ty, None) {
                Storage::Integer => "INTEGER",
                // A REAL column makes zeros of negative zeros.
                Storage::Real | Storage::Blob => "BLOB",
                _ => "TEXT",
            };
            format!("{word} \"{}\"", escape(&ty.to_string()))
        }
    }
}

/// The type that [`declared`] put in quotes.
fn quoted_type(declaration: &str) -> Option<LogicalType> {
    let quoted = declaration.split_once(" \"")?.1.strip_suffix('"')?;
    let ty: LogicalType = unescape(quoted)?.parse().ok()?;
    // Anything that only looks like it is somebody else's.
    (declared(&ty) == declaration).then_some(ty)
}

/// Takes out of a quoted name what would end it, and every `int`, which SQLite would look for
/// whatever the rest says.
fn escape(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let int = lower.get(at..).is_some_and(|rest| rest.starts_with("int"));
        if int || c.is_ascii_control() || c == '%' || c == '"' {
            out.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        out.push(char::from(u8::from_str_radix(digits, 16).ok()?));
        out.push_str(rest);
    }
    Some(out)
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
    let declared = native(column)?;
    let digits = arguments(declared.split_once('(')?.1);
    digits.first().and_then(|digits| u8::try_from(*digits).ok()).filter(|digits| *digits <= 9)
}

/// Whether SQLite orders the column's values as their logical type does, given bounds in the
/// storage class of the column. `utf8`: how the file stores text.
pub(super) fn is_ordered_alike(column: &Column, utf8: bool) -> bool {
    let affinity = column.native_in(ENGINE).map(affinity);
    let numeric = !matches!(affinity, None | Some(Affinity::Text | Affinity::Blob));
    match &column.logical_type {
        LogicalType::Int64 | LogicalType::Float64 => numeric,
        LogicalType::Decimal { .. } => numeric && storage(column) == Storage::Number,
        LogicalType::Text { .. } | LogicalType::Clob => utf8 && affinity == Some(Affinity::Text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn declarations_as_people_write_them() {
        for (declaration, expected) in [
            ("INTEGER", "int64"),
            ("unsigned big int", "int64"),
            ("TINYINT", "int64"),
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
            ("NUMERIC(9,-1)", "numeric"),
            ("boolean", "boolean"),
            ("DateTime", "timestamp(6)"),
            ("TIMESTAMP(3)", "timestamp(3)"),
            ("MONEY", "other('sqlite any')"),
            ("TEXT \"int8\"", "int64"),
            ("varchar \"date\"", "text"),
        ] {
            assert_eq!(logical_type(declaration).to_string(), expected, "{declaration}");
        }
    }

    fn reads_back(ty: &LogicalType) {
        let column = Column::new("c", ty.clone());
        let declared = declaration(&column);
        assert_eq!(logical_type(&declared), *ty, "{declared}");
        assert!(storage(&column).is_kept_by(affinity(&declared)), "{ty} as {declared}");
        assert!(declared.is_empty() || is_type_name(&declared), "{declared}");
        // And SQLite keeps the declaration, and finds no other affinity in it.
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute(&format!("CREATE TABLE t (c {declared})"), []).unwrap();
        let kept: String = connection
            .query_row("SELECT type FROM pragma_table_xinfo('t')", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, declared);
        connection.execute("INSERT INTO t VALUES ('007')", []).unwrap();
        let stored: String =
            connection.query_row("SELECT typeof(c) FROM t", [], |row| row.get(0)).unwrap();
        let as_text = matches!(affinity(&declared), Affinity::Text | Affinity::Blob);
        assert_eq!(stored == "text", as_text, "{declared}");
    }

    #[test]
    fn every_type_that_a_target_declares_reads_back() {
        for ty in [
            "boolean",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float32",
            "float64",
            "decimal(15,2)",
            "decimal(16,2)",
            "decimal(76,10)",
            "decimal(5,-2)",
            "numeric",
            "char(3)",
            "text",
            "text(10)",
            "clob",
            "binary(4)",
            "bytes",
            "bytes(7)",
            "blob",
            "date",
            "time(0)",
            "time(9)",
            "timetz(6)",
            "timespan(6)",
            "timestamp(0)",
            "timestamp(9)",
            "timestamptz(3)",
            "interval",
            "uuid",
            "json",
            "enum('new','paid')",
            "enum()",
            "set('a','b')",
            "bit(3)",
            "varbit(3)",
            "varbit",
            "geometry",
            "other('tsvector')",
            "other('POINT')",
            "other('sqlite any')",
        ] {
            reads_back(&ty.parse().unwrap());
        }
    }

    proptest! {
        #[test]
        fn any_labels_read_back(labels in proptest::collection::vec("(int|INT|char|blob|[ -~\0\né'\"%]){0,8}", 1..4)) {
            reads_back(&LogicalType::Enum { labels });
        }

        #[test]
        fn affinity_is_that_of_sqlite(name in "(INT|CHAR|CLOB|TEXT|BLOB|REAL|FLOA|DOUB|[a-z ]){1,6}") {
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            prop_assume!(connection.execute(&format!("CREATE TABLE t (c {name})"), []).is_ok());
            let kept: String = connection
                .query_row("SELECT type FROM pragma_table_xinfo('t')", [], |row| row.get(0))
                .unwrap();
            connection.execute("INSERT INTO t VALUES ('7'), (7.0)", []).unwrap();
            let stored: String = connection
                .query_row("SELECT group_concat(typeof(c)) FROM t", [], |row| row.get(0))
                .unwrap();
            let expected = match affinity(&kept) {
                Affinity::Integer | Affinity::Numeric => "integer,integer",
                Affinity::Text => "text,text",
                Affinity::Blob => "text,real",
                Affinity::Real => "real,real",
            };
            prop_assert_eq!(stored, expected, "{}", kept);
        }
    }

    #[test]
    fn a_declaration_is_not_a_statement() {
        for good in ["VARCHAR(10)", "DECIMAL (15, -2)", "TEXT \"enum('a')\"", "größe", ""] {
            assert!(is_type_name(good), "{good}");
        }
        for bad in ["TEXT); DROP TABLE x; --", "TEXT \"a", "T(1", "T(x)", "a-b", "T \"a\0b\""] {
            assert!(!is_type_name(bad), "{bad}");
        }
        let column =
            Column::new("c", LogicalType::text()).with_native_type(ENGINE, "X) AS SELECT 1");
        assert_eq!(declaration(&column), "TEXT");
    }
}
