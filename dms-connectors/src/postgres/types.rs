//! PostgreSQL's types and ours.

use dms_core::endpoint::{ColumnMapping, Fidelity};
use dms_core::schema::{Column, LogicalType};

use super::ENGINE;

/// The most characters of `varchar(n)` and `char(n)`.
const CHARACTERS_MAX: u32 = 10_485_760;
/// The most digits of a declared numeric (<https://www.postgresql.org/docs/current/datatype-numeric.html>).
const DIGITS_MAX: u8 = 76;

/// What [`CatalogType`] has of the type that `b` names by `oid` and `typmod`, which is row `t` of
/// `pg_type` in namespace `n`: four columns of a query, in its order.
macro_rules! catalog_type {
    () => {
        "CASE WHEN n.nspname = 'pg_catalog' THEN t.typname::text
            ELSE n.nspname::text || '.' || t.typname::text END,
        b.typmod, pg_catalog.format_type(b.oid, b.typmod),
        ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e
            WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)"
    };
}
pub(super) use catalog_type;

/// A column's type as the catalogs have it, domains resolved to their base.
#[derive(Debug)]
pub(super) struct CatalogType<'a> {
    /// Name in `pg_type`, with its schema unless that is `pg_catalog`.
    pub(super) name: &'a str,
    /// Type modifier; -1 without one.
    pub(super) modifier: i32,
    /// As `format_type` writes the column's type.
    pub(super) declaration: &'a str,
    /// The labels of an enum.
    pub(super) labels: &'a [String],
}

/// What a column's values are.
pub(super) fn logical_type(ty: &CatalogType<'_>) -> LogicalType {
    // Modifiers of character types count their own four bytes.
    let length = (ty.modifier >= 4).then(|| u32::try_from(ty.modifier - 4).ok()).flatten();
    let bits = u32::try_from(ty.modifier).ok();
    let precision = u8::try_from(ty.modifier).unwrap_or(6).min(6);
    if !ty.labels.is_empty() {
        return LogicalType::Enum { labels: ty.labels.to_vec() };
    }
    match ty.name {
        "bool" => LogicalType::Boolean,
        "int2" => LogicalType::Int16,
        "int4" => LogicalType::Int32,
        "int8" => LogicalType::Int64,
        "oid" => LogicalType::UInt32,
        "float4" => LogicalType::Float32,
        "float8" => LogicalType::Float64,
        "numeric" => numeric(ty.modifier),
        "text" => LogicalType::text(),
        "varchar" => LogicalType::Text { limit: length },
        "bpchar" => length.map_or(LogicalType::Clob, |length| LogicalType::Char { length }),
        "bytea" => LogicalType::bytes(),
        "date" => LogicalType::Date,
        "time" => LogicalType::Time { precision },
        "timetz" => LogicalType::TimeTz { precision },
        "timestamp" => LogicalType::Timestamp { precision },
        "timestamptz" => LogicalType::TimestampTz { precision },
        // `interval second(3)` and the like restrict values, which stay values of `interval`.
        "interval" => LogicalType::Interval,
        "uuid" => LogicalType::Uuid,
        "json" | "jsonb" => LogicalType::Json,
        "bit" => LogicalType::BitString { length: bits, varying: false },
        "varbit" => LogicalType::BitString { length: bits, varying: true },
        _ => LogicalType::Other { native: ty.declaration.to_owned() },
    }
}

/// `numeric(p,s)`: the scale has eleven bits with a sign since version 15.
fn numeric(modifier: i32) -> LogicalType {
    let parts = (modifier >= 4).then(|| {
        let packed = modifier - 4;
        let scale = ((packed & 0x7ff) ^ 1024) - 1024;
        (u8::try_from((packed >> 16) & 0xffff).ok(), i8::try_from(scale).ok())
    });
    match parts {
        Some((Some(precision), Some(scale)))
            if precision <= DIGITS_MAX && scale <= i8::try_from(precision).unwrap_or(i8::MAX) =>
        {
            LogicalType::Decimal { precision, scale }
        }
        _ => LogicalType::Numeric,
    }
}

/// The column in a list to select, in a form that [`Decoder`](super::copy::Decoder) takes.
pub(super) fn selected(column: &Column) -> String {
    let name = crate::sql::quote(&column.name);
    if column.native_in(ENGINE) == Some("xml") {
        // As the log has it: the type's own text, which a cast is not (it keeps the encoding that
        // a document declares).
        return format!("CASE WHEN {name} IS NOT NULL THEN concat({name}) END");
    }
    if is_read_as_text(&column.logical_type) { format!("{name}::text") } else { name }
}

/// Whether values travel in their text form. `char(n)` does not: the cast would cut its padding.
pub(super) fn is_read_as_text(ty: &LogicalType) -> bool {
    matches!(
        ty,
        LogicalType::Text { .. }
            | LogicalType::Json
            | LogicalType::Enum { .. }
            | LogicalType::BitString { .. }
            | LogicalType::Other { .. }
    )
}

/// A column's type in a target's table.
pub(super) fn declaration(column: &Column) -> String {
    if let Some(native) = column.native_in(ENGINE) {
        return native.to_owned();
    }
    match &column.logical_type {
        LogicalType::Boolean => "boolean".into(),
        LogicalType::Int8 | LogicalType::Int16 | LogicalType::UInt8 => "smallint".into(),
        LogicalType::Int32 | LogicalType::UInt16 => "integer".into(),
        LogicalType::Int64 | LogicalType::UInt32 => "bigint".into(),
        LogicalType::UInt64 => "numeric(20,0)".into(),
        LogicalType::Float32 => "real".into(),
        LogicalType::Float64 => "double precision".into(),
        LogicalType::Decimal { precision, scale } if *scale >= 0 => {
            format!("numeric({precision},{scale})")
        }
        LogicalType::Decimal { .. } | LogicalType::Numeric => "numeric".into(),
        LogicalType::Char { length } if (1..=CHARACTERS_MAX).contains(length) => {
            format!("char({length})")
        }
        LogicalType::Text { limit: Some(limit) } if (1..=CHARACTERS_MAX).contains(limit) => {
            format!("varchar({limit})")
        }
        LogicalType::Binary { .. }
        | LogicalType::Bytes { .. }
        | LogicalType::Blob
        | LogicalType::Geometry => "bytea".into(),
        LogicalType::Date => "date".into(),
        LogicalType::Time { precision } => format!("time({})", precision.min(&6)),
        LogicalType::TimeTz { precision } if *precision <= 6 => format!("timetz({precision})"),
        LogicalType::Timestamp { precision } => format!("timestamp({})", precision.min(&6)),
        LogicalType::TimestampTz { precision } => format!("timestamptz({})", precision.min(&6)),
        LogicalType::Interval | LogicalType::TimeSpan { .. } => "interval".into(),
        LogicalType::Uuid => "uuid".into(),
        LogicalType::Json => "json".into(),
        LogicalType::BitString { length: Some(length), varying: false } => format!("bit({length})"),
        LogicalType::BitString { length: Some(length), .. } => format!("varbit({length})"),
        LogicalType::BitString { length: None, .. } => "varbit".into(),
        _ => "text".into(),
    }
}

/// Whether the column's values are written as text that the server makes values of.
pub(super) fn is_parsed_by_server(column: &Column) -> bool {
    match &column.logical_type {
        LogicalType::Other { .. } | LogicalType::Set { .. } => declaration(column) != "text",
        LogicalType::TimeTz { .. } | LogicalType::BitString { .. } => true,
        LogicalType::Json | LogicalType::Text { .. } => {
            let declaration = declaration(column);
            let alike = ["json", "text", "varchar", "character varying", "bpchar", "character"];
            !alike.iter().any(|alike| declaration.starts_with(alike)) || declaration == "jsonb"
        }
        _ => false,
    }
}

/// Whether the binary form of the column's values means the same on every server: that of built-in
/// types which carry no number of a type or setting of their server.
pub(super) fn is_portable(column: &Column) -> bool {
    let Some(native) = column.native_in(ENGINE) else { return false };
    // `timestamp(3) with time zone`, `numeric(10,2)[]`
    let name = match native.split_once('(') {
        Some((before, rest)) => {
            format!("{before}{}", rest.split_once(')').map_or("", |(_, after)| after))
        }
        None => native.to_owned(),
    };
    PORTABLE.contains(&name.strip_suffix("[]").unwrap_or(&name))
}

/// As `format_type` names them. `money` depends on a locale; `xml` may name an encoding.
const PORTABLE: &[&str] = &[
    "bigint",
    "bit",
    "bit varying",
    "boolean",
    "box",
    "bytea",
    "character",
    "character varying",
    "cidr",
    "circle",
    "date",
    "double precision",
    "inet",
    "integer",
    "interval",
    "json",
    "jsonb",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "numeric",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "real",
    "smallint",
    "text",
    "time with time zone",
    "time without time zone",
    "timestamp with time zone",
    "timestamp without time zone",
    "uuid",
];

/// What a column becomes.
pub(super) fn mapping(column: &Column) -> ColumnMapping {
    let fidelity = match &column.logical_type {
        LogicalType::Time { precision }
        | LogicalType::TimeSpan { precision }
        | LogicalType::Timestamp { precision }
        | LogicalType::TimestampTz { precision }
            if *precision > 6 =>
        {
            Fidelity::NeedsConsent("PostgreSQL keeps six digits of a second's fraction".to_owned())
        }
        LogicalType::Array(_) => Fidelity::Impossible(
            "arrays of another engine are not written to PostgreSQL; change the data type to text"
                .to_owned(),
        ),
        _ => Fidelity::Exact,
    };
    ColumnMapping { column: column.name.clone(), target_type: declaration(column), fidelity }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, modifier: i32) -> String {
        let ty = CatalogType { name, modifier, declaration: "native", labels: &[] };
        logical_type(&ty).to_string()
    }

    #[test]
    fn modifiers() {
        let packed = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(of("numeric", packed(15, 2)), "decimal(15,2)");
        assert_eq!(of("numeric", packed(5, -2)), "decimal(5,-2)");
        assert_eq!(of("numeric", packed(100, 2)), "numeric");
        assert_eq!(of("numeric", packed(3, 5)), "numeric");
        assert_eq!(of("numeric", -1), "numeric");
        assert_eq!(of("varchar", 14), "text(10)");
        assert_eq!(of("varchar", -1), "text");
        assert_eq!(of("bpchar", 7), "char(3)");
        assert_eq!(of("timestamp", 3), "timestamp(3)");
        assert_eq!(of("timestamp", -1), "timestamp(6)");
        assert_eq!(of("bit", 3), "bit(3)");
        assert_eq!(of("varbit", -1), "varbit");
        assert_eq!(of("int4range", -1), "other('native')");
    }
}
