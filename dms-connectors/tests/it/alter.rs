//! Steps that change the shape of a target's tables.

use std::sync::Arc;

use dms_connectors::sqlite::SqliteTarget;
use dms_core::endpoint::{Alteration, ChangeTarget, Run, Step, Target};
use dms_core::position::Position;
use dms_core::schema::{Column, LogicalType, TableSchema, UniqueIndex};
use dms_core::value::Value;
use dms_core::{ErrorKind, Result};
use rusqlite::Connection;

use super::apply::{batch, people};
use super::dump;

struct File {
    path: std::path::PathBuf,
    target: Arc<SqliteTarget>,
    run: Run,
}

impl File {
    async fn apply(&self, step: Step) -> Result<()> {
        let mut apply = self.target.begin_apply(&self.run).await?;
        apply.step(&step, true).await?;
        apply.commit(&Position::new(1, "1"), None).await
    }

    async fn alter(&self, from: &TableSchema, to: &TableSchema, by: Alteration) -> Result<()> {
        let (from, to) = (Arc::new(from.clone()), Arc::new(to.clone()));
        self.apply(Step::Alter { from, to, alterations: vec![by] }).await
    }

    fn declared(&self) -> Vec<String> {
        let connection = Connection::open(&self.path).unwrap();
        let mut statement = connection
            .prepare("SELECT name || ' ' || type FROM pragma_table_info('people')")
            .unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(rusqlite::Result::unwrap).collect()
    }
}

async fn file(folder: &tempfile::TempDir, table: &TableSchema) -> File {
    let path = folder.path().join("target.db");
    let target = SqliteTarget::open(path.as_path()).await.unwrap();
    let run = target.begin("task").await.unwrap().run;
    let file = File { path, target, run };
    let shared = Arc::new(table.clone());
    file.apply(Step::Create { table: Arc::clone(&shared) }).await.unwrap();
    let row = |id: i64| [Value::Int(id), Value::Text(format!("n{id}")), Value::Int(id * 10)];
    let (one, two) = (row(1), row(2));
    let rows = batch(table, &[0, 1, 2], &[&one, &two]);
    file.apply(Step::Insert { table: shared, rows }).await.unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_go_and_are_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let first = people();
    let file = file(&folder, &first).await;
    let mut second = first.clone();
    let column = Column::new("born", LogicalType::Date).required();
    second.columns.push(column.clone());
    let value = Some(Value::Text("2001-02-03".to_owned()));
    file.alter(&first, &second, Alteration::AddColumn { column, value }).await.unwrap();
    let mut third = second.clone();
    let column = Column::new("more", LogicalType::text());
    third.columns.push(column.clone());
    third.unique_indexes.push(UniqueIndex { name: "more".into(), columns: vec!["more".into()] });
    file.alter(&second, &third, Alteration::AddColumn { column, value: None }).await.unwrap();
    assert_eq!(
        dump(&file.path, "people"),
        [1, 2].map(|id| format!(
            "Integer({id}) | Text({:?}) | Integer({}) | Text({:?}) | Null",
            format!("n{id}").as_bytes(),
            id * 10,
            b"2001-02-03"
        ))
    );
    // A column of a unique index goes with the index; a key's column is renamed in the key.
    let mut fourth = third.clone();
    fourth.columns.retain(|column| column.name != "seat");
    fourth.unique_indexes.retain(|index| index.name != "people_seat");
    let drop = Alteration::DropColumn { column: "seat".to_owned() };
    file.alter(&third, &fourth, drop).await.unwrap();
    let mut fifth = fourth.clone();
    fifth.columns[0].name = "number".to_owned();
    fifth.primary_key = vec!["number".to_owned()];
    let rename = Alteration::RenameColumn { from: "id".to_owned(), to: "number".to_owned() };
    file.alter(&fourth, &fifth, rename).await.unwrap();
    assert_eq!(file.declared(), ["number INTEGER", "name TEXT", "born DATE", "more TEXT"]);
    let gone = Alteration::DropColumn { column: "number".to_owned() };
    let refused = file.alter(&fifth, &fifth, gone).await.unwrap_err();
    assert_eq!(refused.context_value("column"), Some("number"), "{refused}");
    assert_eq!(file.declared().len(), 4, "a refused step changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_changes_where_values_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = people();
    first.columns[2].logical_type = LogicalType::Int16;
    first.columns[1].logical_type = LogicalType::Text { limit: Some(5) };
    let file = file(&folder, &first).await;
    let other = Connection::open(&file.path).unwrap();
    other
        .execute_batch(
            "CREATE INDEX by_name ON people (name); CREATE VIEW shown AS SELECT name FROM people;
             CREATE TABLE seen (x); CREATE TRIGGER sees AFTER INSERT ON people BEGIN
             INSERT INTO seen VALUES (NEW.id); END;",
        )
        .unwrap();
    let mut second = first.clone();
    second.columns[2].logical_type = LogicalType::Int64;
    let column = second.columns[2].clone();
    file.alter(&first, &second, Alteration::ChangeType { column }).await.unwrap();
    let mut third = second.clone();
    third.columns[1].logical_type = LogicalType::text();
    let column = third.columns[1].clone();
    file.alter(&second, &third, Alteration::ChangeType { column }).await.unwrap();
    assert_eq!(file.declared(), ["id INTEGER", "name TEXT", "seat INTEGER"]);
    let kept: String = other
        .query_row(
            "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema \
             WHERE tbl_name = 'people' ORDER BY name)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(kept, "by_name people people_seat sees");
    let shown: i64 = other.query_row("SELECT count(*) FROM shown", [], |row| row.get(0)).unwrap();
    assert_eq!(shown, 2);
    let rows = batch(
        &third,
        &[0, 1, 2],
        &[&[Value::Int(3), Value::Text("long enough".to_owned()), Value::Int(i64::MAX)]],
    );
    file.apply(Step::Insert { table: Arc::new(third.clone()), rows }).await.unwrap();
    assert_eq!(dump(&file.path, "people").len(), 3);
    assert_eq!(dump(&file.path, "seen"), ["Integer(3)"]);

    // Other stored forms, and a table with more columns than its source, are refused by name.
    let mut fourth = third.clone();
    fourth.columns[2].logical_type = LogicalType::text();
    let column = fourth.columns[2].clone();
    let change = Alteration::ChangeType { column };
    let refused = file.alter(&third, &fourth, change).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    assert_eq!(refused.context_value("column"), Some("seat"));
    other.execute_batch("ALTER TABLE people ADD COLUMN own").unwrap();
    let mut fifth = third.clone();
    fifth.columns[2].logical_type = LogicalType::Decimal { precision: 19, scale: 0 };
    let column = fifth.columns[2].clone().with_native_type("sqlite", "DECIMAL(19,0)");
    fifth.columns[2] = column.clone();
    let refused = file.alter(&third, &fifth, Alteration::ChangeType { column }).await.unwrap_err();
    assert!(refused.to_string().contains("\"own\""), "{refused}");
}
