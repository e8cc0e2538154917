//! The statements of steps. Rows come as arrays, one a column: the parameter `$1` is `u.c0`.

use dms_core::schema::TableName;

use super::columns::Pair;
use crate::postgres::prepare::qualified;
use crate::sql::quote;

/// `unnest($1::…, $2::…) AS u(c0, c1)`
fn listed(pairs: &[Pair<'_>]) -> String {
    let arrays = pairs.iter().zip(1..).map(|(pair, number)| format!("${number}::{}", pair.array()));
    let names = (0..pairs.len()).map(|number| format!("c{number}"));
    format!("unnest({}) AS u({})", join(arrays, ", "), join(names, ", "))
}

fn join(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

fn column(pair: &Pair<'_>) -> String {
    format!("t.{}", quote(&pair.column.name))
}

fn names(pairs: &[Pair<'_>]) -> String {
    join(pairs.iter().map(|pair| quote(&pair.column.name)), ", ")
}

fn values(pairs: &[Pair<'_>]) -> String {
    join(pairs.iter().enumerate().map(|(number, pair)| pair.value(number)), ", ")
}

/// Whether the columns with these numbers are those of the row.
fn found<'a>(pairs: impl Iterator<Item = (usize, &'a Pair<'a>)>) -> String {
    let equal = pairs.map(|(number, pair)| {
        format!("{} {} {}", column(pair), pair.target.equals, pair.value(number))
    });
    join(equal, " AND ")
}

/// What columns become. One that the target numbers always cannot be set: it has to be what it is.
fn set<'a>(pairs: impl Iterator<Item = (usize, &'a Pair<'a>)>) -> (String, String) {
    let (mut set, mut held) = (Vec::new(), String::new());
    for (number, pair) in pairs {
        let (name, value) = (quote(&pair.column.name), pair.value(number));
        if pair.target.is_always_identity {
            held.push_str(&format!(" AND t.{name} = {value}"));
        } else {
            set.push(format!("{name} = {value}"));
        }
    }
    (set.join(", "), held)
}

pub(super) fn insert(table: &TableName, pairs: &[Pair<'_>]) -> String {
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
        qualified(table),
        names(pairs),
        values(pairs),
        listed(pairs)
    )
}

pub(super) fn copy(table: &TableName, pairs: &[Pair<'_>]) -> String {
    format!("COPY {} ({}) FROM STDIN (FORMAT binary)", qualified(table), names(pairs))
}

pub(super) fn delete(table: &TableName, key: &[Pair<'_>]) -> String {
    let (table, listed) = (qualified(table), listed(key));
    format!("DELETE FROM {table} AS t USING {listed} WHERE {}", found(key.iter().enumerate()))
}

/// The first `key` of the pairs are the key as it was, the others what columns become.
pub(super) fn update(table: &TableName, pairs: &[Pair<'_>], key: usize) -> String {
    let (mut set, held) = set(pairs.iter().enumerate().skip(key));
    if let (true, Some(pair)) =
        (set.is_empty(), pairs.iter().find(|p| !p.target.is_always_identity))
    {
        let name = quote(&pair.column.name);
        set = format!("{name} = t.{name}");
    }
    format!(
        "UPDATE {} AS t SET {set} FROM {} WHERE {}{held}",
        qualified(table),
        listed(pairs),
        found(pairs.iter().enumerate().take(key)),
    )
}

/// Updates the rows that are there, then inserts those that are not.
pub(super) fn upsert(table: &TableName, pairs: &[Pair<'_>], key: &[usize]) -> (String, String) {
    let keys = || pairs.iter().enumerate().filter(|(place, _)| key.contains(place));
    let (set, held) = set(pairs.iter().enumerate());
    let (name, listed) = (qualified(table), listed(pairs));
    let update =
        format!("UPDATE {name} AS t SET {set} FROM {listed} WHERE {}{held}", found(keys()));
    let insert = insert(table, pairs)
        + &format!(" WHERE NOT EXISTS (SELECT FROM {name} AS t WHERE {})", found(keys()));
    (update, insert)
}

/// Deletes whole rows, each as often as it is listed. Rows are the same if their text is: equality
/// does not tell 1.0 from 1.00 or 0 from -0, and some types have none. Columns of types where it
/// does tell them apart, and that are not NULL in any listed row (`holds`), find the candidates.
pub(super) fn delete_whole(table: &TableName, pairs: &[Pair<'_>], holds: &[bool]) -> String {
    let name = qualified(table);
    let plain = |number: &usize| {
        holds.get(*number) == Some(&true) && pairs.get(*number).is_some_and(|p| p.target.is_plain)
    };
    let plain: Vec<usize> = (0..pairs.len()).filter(plain).collect();
    let typed = pairs.iter().enumerate().map(|(number, pair)| {
        format!("({})::{} AS c{number}", pair.value(number), pair.target.declared)
    });
    let candidate = plain.iter().filter_map(|number| {
        let pair = pairs.get(*number)?;
        Some(format!("{} {} l.c{number} AND ", column(pair), pair.target.equals))
    });
    let kept: String = plain.iter().map(|number| format!(", v.c{number}")).collect();
    let held = format!("ROW({})::pg_catalog.text", join(pairs.iter().map(column), ", "));
    // As an operator the comparison would be a part of the join, and be made for every row.
    let same = if plain.is_empty() {
        format!("{held} OPERATOR(pg_catalog.=) l.whole")
    } else {
        format!("pg_catalog.texteq({held}, l.whole)")
    };
    format!(
        "WITH v AS (SELECT {typed} FROM {listed}), \
         l AS (SELECT ROW({places})::pg_catalog.text COLLATE pg_catalog.\"C\" AS whole{kept}, \
                 count(*) AS times FROM v GROUP BY 1{kept}), \
         r AS (SELECT t.tableoid AS part, t.ctid AS place, l.times, \
                 row_number() OVER (PARTITION BY l.whole) AS number \
             FROM {name} AS t JOIN l ON {candidate}{same}) \
         DELETE FROM {name} AS t USING r \
         WHERE t.ctid = r.place AND t.tableoid = r.part AND r.number <= r.times",
        typed = join(typed, ", "),
        listed = listed(pairs),
        places = join((0..pairs.len()).map(|number| format!("v.c{number}")), ", "),
        candidate = candidate.collect::<String>(),
    )
}
