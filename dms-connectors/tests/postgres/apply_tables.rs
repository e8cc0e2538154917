//! Steps on tables, and what a target remembers of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use dms_core::ErrorKind;
use dms_core::endpoint::{
    Alteration, ApplyException, ChangeTarget, Note, Partition, Step, TablePrepMode, Target,
};
use dms_core::position::Position;
use dms_core::schema::{Column, LogicalType, TableName, TableSchema};
use dms_core::value::Value;

use crate::apply::{Desk, insert, pairs, pairs_table, update, upsert};
use crate::{server, text_of};

fn altered(from: &Arc<TableSchema>, alterations: Vec<Alteration>) -> (Step, Arc<TableSchema>) {
    let mut to = (**from).clone();
    for alteration in &alterations {
        match alteration {
            Alteration::AddColumn { column, .. } => to.columns.push(column.clone()),
            Alteration::DropColumn { column } => to.columns.retain(|held| held.name != *column),
            Alteration::RenameColumn { from, to: name } => {
                let place = to.column_index(from).unwrap();
                to.columns[place].name.clone_from(name);
            }
            Alteration::ChangeType { column } => {
                let place = to.column_index(&column.name).unwrap();
                to.columns[place] = column.clone();
            }
            other => panic!("{other:?}"),
        }
    }
    let to = Arc::new(to);
    (Step::Alter { from: Arc::clone(from), to: Arc::clone(&to), alterations }, to)
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_go_and_change() {
    let url = server::shared().database().await;
    let (desk, table) = (Desk::open(&url).await, pairs_table());
    desk.load(&table, vec![pairs(&[(1, "10"), (2, "20")])]).await;
    let mood = LogicalType::Enum { labels: vec!["sad".into(), "o'k".into()] };
    let add = |name: &str, ty: LogicalType, value: Option<Value>| {
        let column = Column::new(name, ty);
        let column = if value.is_some() { column.required() } else { column };
        Alteration::AddColumn { column, value }
    };
    let enumerated = Alteration::AddColumn {
        column: Column::new("mood", mood).with_native_type("postgres", "public.mood"),
        value: Some(Value::Text("o'k".into())),
    };
    let other = |name: &str, native: &str, value: &str| Alteration::AddColumn {
        column: Column::new(name, LogicalType::Other { native: native.into() })
            .with_native_type("postgres", native),
        value: Some(Value::Text(value.into())),
    };
    let (step, with_columns) = altered(
        &table,
        vec![
            add("nothing", LogicalType::Int64, None),
            add("it's", LogicalType::text(), Some(Value::Text("a'b\\c".into()))),
            add(
                "at",
                LogicalType::Timestamp { precision: 6 },
                Some(Value::Text("infinity".into())),
            ),
            add("day", LogicalType::Date, Some(Value::Text("2024-02-29".into()))),
            add("raw", LogicalType::bytes(), Some(Value::Bytes(vec![0, 39, 255]))),
            add(
                "n",
                LogicalType::Decimal { precision: 10, scale: 2 },
                Some(Value::Decimal("1.50".into())),
            ),
            add("f", LogicalType::Float64, Some(Value::Float(f64::NAN))),
            other("r", "int4range", "[1,5)"),
            enumerated,
        ],
    );
    // In the transaction in which rows of the new shape come.
    let mut apply = desk.begin().await;
    apply.step(&insert(&table, &pairs(&[(3, "30")])), false).await.unwrap();
    apply.step(&step, false).await.unwrap();
    apply.note(&Note::Shape(Arc::clone(&with_columns))).await.unwrap();
    apply.commit(&Position::new(5, "0/5"), None).await.unwrap();
    let shown = text_of(&url, "t").await;
    let rest = r#","a'b\\c",infinity,2024-02-29,"\\x0027ff",1.50,NaN,"[1,5)",o'k)"#;
    for (row, begin) in shown.iter().zip(["(1,10,", "(2,20,", "(3,30,"]) {
        assert_eq!(row, &format!("{begin}{rest}"));
    }
    let client = server::connect(&url).await;
    let defaults = "SELECT count(*) FROM pg_attrdef WHERE adrelid = 't'::regclass";
    assert_eq!(client.query_one(defaults, &[]).await.unwrap().get::<_, i64>(0), 0);
    let kept = desk.target.replication(&desk.run).await.unwrap();
    assert_eq!(kept.tables[&table.name].shape.as_ref(), Some(&with_columns));

    let gone = ["nothing", "it's", "at", "day", "raw", "n", "f", "r", "mood"]
        .map(|name| Alteration::DropColumn { column: name.into() });
    let renamed = [
        Alteration::RenameColumn { from: "v".into(), to: "Value".into() },
        Alteration::ChangeType { column: Column::new("Value", LogicalType::Int32).required() },
        Alteration::ChangeType { column: Column::new("id", LogicalType::Int64).required() },
    ];
    let all = gone.into_iter().chain(renamed).collect();
    let (step, numbers) = altered(&with_columns, all);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(arrow::array::Int64Array::from(vec![1, 1 << 40])),
        Arc::new(Int32Array::from(vec![11, 12])),
    ];
    let rows = RecordBatch::try_new(numbers.arrow_schema(), columns).unwrap();
    desk.apply(&[step, upsert(&numbers, &rows)]).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(1,11)", "(1099511627776,12)", "(2,20)", "(3,30)"]);
    // A value that the new type does not have.
    let wrong = Column::new("id", LogicalType::Int16).required();
    let (step, _) = altered(&numbers, vec![Alteration::ChangeType { column: wrong }]);
    let error = desk.apply(&[step]).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Data, Some("id")));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_emptied_and_dropped() {
    let url = server::shared().database().await;
    let (desk, table) = (Desk::open(&url).await, pairs_table());
    let create = Step::Create { table: Arc::clone(&table) };
    desk.apply(&[create.clone(), insert(&table, &pairs(&[(1, "a")]))]).await.unwrap();
    let error = desk.apply(std::slice::from_ref(&create)).await.unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    // It has its key.
    assert!(desk.apply(&[insert(&table, &pairs(&[(1, "b")]))]).await.is_err());
    let client = server::connect(&url).await;
    let of = |name: &str| TableName::new("public", name);
    client
        .batch_execute(
            "SET search_path = public;
             CREATE TABLE child (id int REFERENCES t); INSERT INTO child VALUES (1);
             CREATE TABLE bystander (id int REFERENCES t)",
        )
        .await
        .unwrap();
    let both = [Step::Truncate { tables: vec![of("t"), of("child")] }];
    let error = desk.apply(&both).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert!(error.to_string().contains("foreign key"), "{error}");
    client.batch_execute("DROP TABLE bystander").await.unwrap();
    desk.apply(&both).await.unwrap();
    assert!(text_of(&url, "t").await.is_empty() && text_of(&url, "child").await.is_empty());
    let drop = |name: &str| Step::Drop { table: of(name) };
    desk.apply(&[drop("child"), drop("t"), drop("t"), drop("never")]).await.unwrap();
    desk.apply(&[create]).await.unwrap();
    for step in [
        Step::Truncate { tables: vec![TableName::new("dms", "dms_positions")] },
        Step::Drop { table: TableName::new("dms", "dms_status") },
    ] {
        assert_eq!(desk.apply(&[step]).await.unwrap_err().kind(), ErrorKind::Settings);
    }
    // A failed step on a table, guarded, takes nothing along.
    let mut apply = desk.begin().await;
    let missing = Step::Truncate { tables: vec![of("never")] };
    apply.step(&insert(&table, &pairs(&[(2, "kept")])), true).await.unwrap();
    assert_eq!(apply.step(&missing, true).await.unwrap_err().kind(), ErrorKind::Schema);
    apply.step(&update(&table, &pairs(&[(2, "after")])), true).await.unwrap();
    apply.commit(&Position::new(3, "0/3"), None).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(2,after)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_remembered_looked_up_and_forgotten() {
    let url = server::shared().database().await;
    let untouched = dms_connectors::postgres::PostgresTarget::open(crate::settings(&url));
    assert!(untouched.look_up("test").await.unwrap().is_none());
    let client = server::connect(&url).await;
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'dms'";
    assert_eq!(client.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);

    let (desk, table) = (Desk::open(&url).await, pairs_table());
    assert!(desk.target.look_up("another").await.unwrap().is_none());
    desk.load(&table, vec![pairs(&[(1, "a")])]).await;
    let name = table.name.clone();
    let position = Position::new(u64::MAX, "FFFFFFFF/FFFFFFFF");
    let mut apply = desk.begin().await;
    apply.note(&Note::Suspended { table: name.clone(), reason: "why\0".into() }).await.unwrap();
    apply.note(&Note::Shape(Arc::clone(&table))).await.unwrap();
    for operation in ["insert", "delete"] {
        let exception = ApplyException {
            table: name.clone(),
            position: position.clone(),
            operation: operation.into(),
            key: "{\"id\":1}".into(),
            error: "no".into(),
        };
        apply.note(&Note::Exception(exception)).await.unwrap();
    }
    apply.commit(&position, Some(-1)).await.unwrap();
    let record = desk.target.look_up("test").await.unwrap().unwrap();
    assert_eq!(record.replication, desk.target.replication(&desk.run).await.unwrap());
    assert_eq!(record.replication.position.as_ref(), Some(&position));
    let noted = &record.replication.tables[&name];
    assert_eq!((noted.suspended.as_deref(), noted.shape.as_ref()), (Some("why"), Some(&table)));
    assert_eq!((record.committed_at, record.exceptions), (Some(-1), 2));
    assert!(record.progress.tables[&name].finished);
    assert_eq!(record.progress.run, desk.run);
    // Positions of other tasks are theirs.
    let other = desk.target.begin("other").await.unwrap();
    assert_eq!(desk.target.replication(&other.run).await.unwrap().position, None);

    // A table that is loaded again is as new.
    let (mode, whole) = (TablePrepMode::TruncateBeforeLoad, [Partition::whole()]);
    desk.target.prepare(&desk.run, &table, mode, &whole, None).await.unwrap();
    let kept = desk.target.replication(&desk.run).await.unwrap();
    let loaded = &kept.tables[&name];
    assert_eq!((loaded.suspended.as_ref(), loaded.shape.as_ref()), (None, Some(&table)));
    assert!(kept.position.is_some());
    let mut apply = desk.begin().await;
    apply.note(&Note::Suspended { table: name.clone(), reason: "why".into() }).await.unwrap();
    apply.commit(&position, None).await.unwrap();
    desk.target.forget(&desk.run, Some(std::slice::from_ref(&name))).await.unwrap();
    let record = desk.target.look_up("test").await.unwrap().unwrap();
    assert!(record.progress.tables.is_empty() && record.replication.tables.is_empty());
    assert!(record.replication.position.is_some());
    desk.target.forget(&desk.run, None).await.unwrap();
    let record = desk.target.look_up("test").await.unwrap().unwrap();
    assert_eq!((record.replication.position, record.exceptions), (None, 0));
    desk.apply(&[]).await.unwrap();
}

/// A target that an earlier version has written.
#[tokio::test(flavor = "multi_thread")]
async fn control_tables_of_before_get_company() {
    let url = server::shared().database().await;
    let (desk, table) = (Desk::open(&url).await, pairs_table());
    desk.load(&table, vec![pairs(&[(1, "a")])]).await;
    let client = server::connect(&url).await;
    let newer = "DROP TABLE dms.dms_positions, dms.dms_replicated, dms.dms_apply_exceptions";
    client.batch_execute(newer).await.unwrap();
    let record = desk.target.look_up("test").await.unwrap().unwrap();
    assert!(record.progress.tables[&table.name].finished);
    assert_eq!(record.replication.position, None);
    let desk = Desk::open(&url).await;
    desk.apply(&[insert(&table, &pairs(&[(2, "b")]))]).await.unwrap();
    assert!(desk.target.replication(&desk.run).await.unwrap().position.is_some());
}
