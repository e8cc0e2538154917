//! A table of values that migrations get wrong.

use std::path::Path;

use rusqlite::{Connection, params};

/// Adds the table `awkward "values"` to the file at `path`: extreme numbers, empty and missing
/// text, quotes and line ends, dates at the edges, bytes, columns that mix storage classes, and
/// names with spaces, quotes and keywords.
///
/// # Errors
/// Those of SQLite.
pub fn create(path: &Path) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(
        r#"CREATE TABLE "awkward ""values""" (
            "select" INTEGER PRIMARY KEY, "größe in m²" REAL, price DECIMAL(15,2), "exact" NUMERIC,
            text TEXT, "day" DATE, "moment" TIMESTAMP, flag BOOLEAN, bytes BLOB, anything,
            UNIQUE (text, "day"))"#,
    )?;
    {
        let mut insert = transaction
            .prepare(r#"INSERT INTO "awkward ""values""" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"#)?;
        let reals = [0.0, -0.0, 5e-324, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, 0.1];
        let texts = [
            "",
            "NULL",
            "a,b",
            "line\nend",
            "carriage\r\n",
            "quote\"d",
            "it's",
            "\u{1F980}",
            " padded ",
            "nul\0inside",
            "\\N",
            "日本語",
        ];
        let days = ["0001-01-01", "1969-12-31", "2000-02-29", "9999-12-31"];
        let moments = ["0001-01-01 00:00:00", "1969-12-31 23:59:59.999999", "2038-01-19 03:14:08"];
        let keys = [i64::MIN, -1, 0, 1, i64::MAX];
        let last = i64::try_from(keys.len()).unwrap_or(i64::MAX);
        for row in 0..1000usize {
            let number = i64::try_from(row).unwrap_or(i64::MAX);
            let key = keys.get(row).copied().unwrap_or(number * 1_000_003 + last);
            let text = texts.get(row % (texts.len() + 1)).map(|text| format!("{text}{}", row / 13));
            let text =
                if row < texts.len() { texts.get(row).map(|t| (*t).to_owned()) } else { text };
            let bytes: Option<Vec<u8>> = (row % 5 != 0)
                .then(|| (0..row % 300).map(|b| u8::try_from(b % 256).unwrap_or(0)).collect());
            let anything: Box<dyn rusqlite::ToSql> = match row % 6 {
                0 => Box::new(number),
                1 => Box::new(1.5),
                2 => Box::new("text where numbers are".to_owned()),
                3 => Box::new(vec![0u8, 255]),
                4 => Box::new("12".to_owned()),
                _ => Box::new(None::<i64>),
            };
            insert.execute(params![
                key,
                reals.get(row % (reals.len() + 1)),
                (row % 7 != 0).then(|| format!(
                    "{}.{:02}",
                    number * 999_983 % 9_999_999_999_999,
                    row % 100
                )),
                (row % 3 == 0).then_some(number).map_or_else(
                    || Box::new(0.1 * f64::from(u32::try_from(row).unwrap_or(0)))
                        as Box<dyn rusqlite::ToSql>,
                    |number| Box::new(number)
                ),
                text,
                days.get(row % (days.len() + 1)),
                moments.get(row % (moments.len() + 1)),
                (row % 3 != 0).then_some(row % 2 == 0),
                bytes,
                anything,
            ])?;
        }
    }
    transaction.commit()
}
