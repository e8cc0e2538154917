//! Changes when something goes wrong: rows and position stay together.

use dms_core::ErrorKind;
use dms_core::endpoint::{ChangeTarget, Target};
use dms_core::position::Position;

use crate::apply::{Desk, delete, insert, pairs, pairs_table, update};
use crate::apply_values::as_guest;
use crate::{server, text_of};

async fn loaded(url: &str) -> Desk {
    let desk = Desk::open(url).await;
    desk.load(&pairs_table(), vec![pairs(&[(1, "a"), (2, "b")])]).await;
    desk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_run_fences_this_one() {
    let url = server::shared().database().await;
    let (desk, table) = (loaded(&url).await, pairs_table());
    desk.apply(&[insert(&table, &pairs(&[(3, "c")]))]).await.unwrap();
    let newer = Desk::open(&url).await;
    assert!(desk.target.begin_apply(&desk.run).await.err().unwrap().is_stop());
    assert!(desk.target.replication(&desk.run).await.unwrap_err().is_stop());
    assert!(desk.target.forget(&desk.run, None).await.unwrap_err().is_stop());
    assert!(newer.target.replication(&newer.run).await.unwrap().position.is_some());
    // A claim waits for the transaction that is under way, and then sees what it did.
    let mut apply = newer.begin().await;
    apply.step(&delete(&table, &pairs(&[(3, "")]), true), false).await.unwrap();
    let again = tokio::spawn({
        let url = url.clone();
        async move { Desk::open(&url).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!again.is_finished());
    apply.commit(&Position::new(9, "0/9"), None).await.unwrap();
    let again = again.await.unwrap();
    let held = again.target.replication(&again.run).await.unwrap().position;
    assert_eq!(held, Some(Position::new(9, "0/9")));
}

/// Applies an insert in a transaction that others follow at once.
async fn insert_soon(desk: &Desk, id: i32, text: &str) -> dms_core::Result<()> {
    let mut apply = desk.target.begin_apply(&desk.run).await?;
    apply.step(&insert(&pairs_table(), &pairs(&[(id, text)])), false).await?;
    let order = u64::try_from(id).unwrap();
    apply.commit_soon(&Position::new(order, "0/0"), None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_a_row_are_each_whole_and_fenced() {
    let url = server::shared().database().await;
    let desk = loaded(&url).await;
    let held = || async { desk.target.replication(&desk.run).await.unwrap().position };
    for id in 3..6 {
        insert_soon(&desk, id, &format!("row {id}")).await.unwrap();
        assert_eq!(held().await, Some(Position::new(u64::try_from(id).unwrap(), "0/0")));
    }
    // One that is refused takes nothing of the others along, and the row goes on.
    let error = insert_soon(&desk, 6, "row 3").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert_eq!(held().await, Some(Position::new(5, "0/0")));
    insert_soon(&desk, 7, "row 7").await.unwrap();
    let newer = Desk::open(&url).await;
    assert!(insert_soon(&desk, 8, "row 8").await.unwrap_err().is_stop());
    assert_eq!(text_of(&url, "t").await.len(), 6);
    let position = newer.target.replication(&newer.run).await.unwrap().position;
    assert_eq!(position, Some(Position::new(7, "0/0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transaction_leaves_nothing() {
    let url = server::shared().database().await;
    let (desk, table) = (loaded(&url).await, pairs_table());
    let mut apply = desk.begin().await;
    apply.step(&insert(&table, &pairs(&[(3, "c")])), false).await.unwrap();
    apply.step(&delete(&table, &pairs(&[(1, "")]), true), true).await.unwrap();
    drop(apply);
    // A failed one is good for nothing, and no commit makes it so.
    let mut apply = desk.begin().await;
    apply.step(&insert(&table, &pairs(&[(3, "c")])), false).await.unwrap();
    let _ = apply.step(&update(&table, &pairs(&[(8, "c")])), false).await;
    assert!(apply.commit(&Position::new(7, "0/7"), None).await.is_err());
    assert_eq!(text_of(&url, "t").await, ["(1,a)", "(2,b)"]);
    assert_eq!(desk.target.replication(&desk.run).await.unwrap().position, None);
    desk.apply(&[insert(&table, &pairs(&[(3, "c")]))]).await.unwrap();
    assert_eq!(text_of(&url, "t").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_leaves_rows_and_position_together() {
    let url = server::shared().database().await;
    let (desk, table) = (loaded(&url).await, pairs_table());
    let client = server::connect(&url).await;
    let cut = || async {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        client.query_one(sql, &[]).await.unwrap();
    };
    for round in 0..20 {
        let order = u64::try_from(round).unwrap();
        let rows = pairs(&[(100 + round, "x")]);
        let rows = [insert(&table, &rows), delete(&table, &rows, true)];
        let before = desk.target.replication(&desk.run).await.unwrap().position;
        let mut apply = desk.begin().await;
        apply.step(&rows[0], round % 2 == 0).await.unwrap();
        cut().await;
        let mut result = apply.step(&rows[1], round % 2 == 0).await;
        if result.is_ok() {
            result = apply.commit(&Position::new(order, "0/0"), None).await;
        }
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert!(error.is_transient(), "{error}");
        assert_eq!(desk.target.replication(&desk.run).await.unwrap().position, before);
        // Between two transactions it is opened again without a word, or is an error to try again.
        desk.apply(&[]).await.unwrap();
        cut().await;
        match desk.apply(&rows).await {
            Ok(()) => {}
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        desk.apply(&rows).await.unwrap();
    }
    assert_eq!(text_of(&url, "t").await, ["(1,a)", "(2,b)"]);
}

/// Cuts at the commit, with both outcomes: what the position says is what the rows say.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_the_commit_is_told_by_the_position() {
    let url = server::shared().database().await;
    let (desk, table) = (loaded(&url).await, pairs_table());
    let client = server::connect(&url).await;
    let (mut committed, mut lost) = (0, 0);
    for round in 1..=60_i32 {
        let order = u64::try_from(round).unwrap();
        let mut apply = desk.begin().await;
        let row = pairs(&[(1000 + round, "x")]);
        let named = pairs(&[(1000 + round, &format!("row {round}"))]);
        apply.step(&insert(&table, &row), false).await.unwrap();
        apply.step(&update(&table, &named), false).await.unwrap();
        let position = Position::new(order, "0/0");
        let cut = async {
            tokio::time::sleep(std::time::Duration::from_micros(order * 20)).await;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
            client.query_one(sql, &[]).await.unwrap();
        };
        let (result, ()) = tokio::join!(apply.commit(&position, None), cut);
        if let Err(error) = &result {
            assert!(error.is_transient(), "{error}");
        }
        let held = desk.target.replication(&desk.run).await.unwrap().position;
        let is_held = held.is_some_and(|held| held.order == order);
        assert!(is_held || result.is_err());
        let shown = text_of(&url, "t").await;
        let expected = format!("({},\"row {round}\")", 1000 + round);
        assert_eq!(shown.contains(&expected), is_held, "{round}");
        if is_held { committed += 1 } else { lost += 1 }
    }
    assert!(committed > 0 && lost > 0, "{committed} committed, {lost} lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_and_foreign_keys_of_the_target_do_not_act() {
    let url = server::shared().database().await;
    let (desk, table) = (loaded(&url).await, pairs_table());
    let client = server::connect(&url).await;
    client
        .batch_execute(
            "CREATE TABLE child (id int REFERENCES t ON DELETE CASCADE); INSERT INTO child VALUES (1);
             CREATE TABLE fired (n int);
             CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.fired VALUES (1); RETURN NULL; END $$;
             CREATE TRIGGER fire AFTER INSERT OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION fire()",
        )
        .await
        .unwrap();
    let steps = [
        delete(&table, &pairs(&[(1, "")]), true),
        insert(&table, &pairs(&[(1, "again")])),
        crate::apply::upsert(&table, &pairs(&[(1, "and again")])),
    ];
    desk.apply(&steps).await.unwrap();
    assert_eq!(text_of(&url, "child").await, ["(1)"]);
    assert!(text_of(&url, "fired").await.is_empty());
}

/// Without the right to keep foreign keys from acting, what they refuse is an error and rows of other
/// tables do not go with an upsert.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_much() {
    let url = server::shared().database().await;
    let guest = as_guest(&url).await;
    let (desk, table) = (loaded(&guest).await, pairs_table());
    let client = server::connect(&guest).await;
    client
        .batch_execute(
            "CREATE TABLE child (id int REFERENCES t ON DELETE CASCADE); INSERT INTO child VALUES (1);
             CREATE TABLE strict (id int REFERENCES t); INSERT INTO strict VALUES (2)",
        )
        .await
        .unwrap();
    desk.apply(&[crate::apply::upsert(&table, &pairs(&[(1, "A"), (3, "C")]))]).await.unwrap();
    assert_eq!(text_of(&url, "t").await, ["(1,A)", "(2,b)", "(3,C)"]);
    assert_eq!(text_of(&url, "child").await, ["(1)"]);
    let error = desk.apply(&[delete(&table, &pairs(&[(2, "")]), true)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert!(error.to_string().contains("strict_id_fkey"), "{error}");
    // A deferred key is checked by the commit.
    client
        .batch_execute(
            "ALTER TABLE strict ALTER CONSTRAINT strict_id_fkey DEFERRABLE INITIALLY DEFERRED",
        )
        .await
        .unwrap();
    let error = desk.apply(&[delete(&table, &pairs(&[(2, "")]), true)]).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Constraint, false), "{error}");
    assert_eq!(text_of(&url, "t").await.len(), 3);
    // Rights on the table alone.
    client.batch_execute("ALTER TABLE t RENAME TO u").await.unwrap();
    let error = desk.apply(&[delete(&table, &pairs(&[(3, "")]), true)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
    assert!(desk.target.begin("another").await.is_ok());
}

/// A key that may be checked late is checked by a trigger, and triggers do not fire: without a word
/// rows would be there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_would_not_be_checked_is_refused() {
    let url = server::shared().database().await;
    let (desk, table) = (loaded(&url).await, pairs_table());
    let client = server::connect(&url).await;
    let guest = as_guest(&url).await;
    client
        .batch_execute(
            "ALTER TABLE t DROP CONSTRAINT t_pkey;
             ALTER TABLE t ADD PRIMARY KEY (id) DEFERRABLE INITIALLY IMMEDIATE",
        )
        .await
        .unwrap();
    let again = [insert(&table, &pairs(&[(1, "again")]))];
    let error = desk.apply(&again).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("t_pkey is DEFERRABLE"), "{error}");
    // Where triggers fire it is checked.
    let grants = format!(
        "GRANT ALL ON SCHEMA dms TO {0}; GRANT ALL ON ALL TABLES IN SCHEMA dms, public TO {0}",
        guest.split(['/', '@']).nth(2).unwrap()
    );
    client.batch_execute(&grants).await.unwrap();
    let desk = Desk::open(&guest).await;
    let error = desk.apply(&again).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
    assert_eq!(text_of(&url, "t").await, ["(1,a)", "(2,b)"]);
}
