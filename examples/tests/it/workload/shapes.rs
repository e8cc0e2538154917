//! Random changes of the tables' shapes.

use crate::kill::Random;
use crate::session::Session;

/// Which changes of shape there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shapes {
    /// None.
    Kept,
    /// Columns come, which can be followed however late that is seen.
    Growing,
    /// Any: of some the log does not tell enough if a run does not see them one by one.
    Any,
}

/// How many columns come to a table.
const COLUMNS_MAX: usize = 8;

/// A change of shape, and a row that is written in the new one.
pub(super) fn change(
    source: &mut Session,
    random: &mut Random,
    shapes: Shapes,
    number: u64,
) -> String {
    let table = random.pick(&["t_int", "t_full"]);
    let added = source.must(&format!(
        "SELECT column_name, data_type FROM information_schema.columns \
         WHERE table_name = '{table}' AND column_name LIKE 'added%' ORDER BY ordinal_position"
    ));
    let written = match table {
        "t_int" => format!("INSERT INTO t_int (id, a) VALUES ({}, 1)", 1_000_000 + number),
        _ => format!("INSERT INTO t_full (x, y) VALUES (1, 'shape {number}')"),
    };
    if shapes == Shapes::Growing {
        return match added.len() < COLUMNS_MAX {
            true => format!("{}; {written}", add(random, table, number)),
            false => written,
        };
    }
    let change = match added.as_slice() {
        [column, ..] if added.len() > 3 || random.below(2) == 0 => {
            let (name, ty) = (column[0].as_deref().unwrap(), column[1].as_deref().unwrap());
            match (random.below(3), ty) {
                (0, _) => format!("ALTER TABLE {table} DROP {name}"),
                (1, _) => format!("ALTER TABLE {table} RENAME {name} TO added_{number}"),
                (_, "integer") => format!("ALTER TABLE {table} ALTER {name} TYPE bigint"),
                (_, "character varying") => {
                    format!("ALTER TABLE {table} ALTER {name} TYPE text")
                }
                _ => format!("ALTER TABLE {table} DROP {name}"),
            }
        }
        _ => add(random, table, number),
    };
    format!("{change}; {written}")
}

fn add(random: &mut Random, table: &str, number: u64) -> String {
    let ty = random.pick(&[
        "int",
        "int NOT NULL DEFAULT 7",
        "varchar(20) DEFAULT 'as before'",
        "numeric(10,2) DEFAULT 1.25",
        "text",
    ]);
    format!("ALTER TABLE {table} ADD added_{number} {ty}")
}
