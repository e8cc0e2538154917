//! Databases that are not in UTF8.

use dms_core::ErrorKind;

use crate::hostile::assert_says;
use crate::{assert_moves, load, server, source, target, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_sql_ascii() {
    let server = server::shared();
    let admin = server::connect(&server.url("postgres")).await;
    for name in ["ascii_from", "ascii_to"] {
        let sql = format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0");
        admin.batch_execute(&sql).await.unwrap();
    }
    let (from, to) = (server.url("ascii_from"), server.url("ascii_to"));
    let client = server::connect(&from).await;
    client
        .batch_execute(
            "CREATE TABLE good (id int, v text, f varchar(9), d bpchar(5), j json, e text[]);
             INSERT INTO good VALUES (1, 'Größe', 'é', 'ü', '{\"ä\": 1}', '{ö}');
             CREATE TABLE t (id int, fine text, v text);
             INSERT INTO t VALUES (1, 'ß', 'Größe'), (2, 'ß', E'Gr\\xf6\\xdfe')",
        )
        .await
        .unwrap();
    let utf8 = server.database().await;
    let report = load(source(&from).await, target(&utf8)).await.unwrap();
    assert_says(&report, ErrorKind::Data, &["public.t", "column v", "not UTF-8", "convert_from"]);
    // The server counts bytes where it pads char(n).
    let good = "(SELECT id, v, f, d::text, j, e FROM good)";
    assert_eq!(text_of(&utf8, good).await, text_of(&from, good).await);
    // As the error says.
    client
        .batch_execute(
            "UPDATE t SET v = convert_from(convert(convert_to(v, 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'UTF8')
             WHERE id = 2",
        )
        .await
        .unwrap();
    assert_moves(&from, &utf8, "t").await;
    assert_eq!(text_of(&utf8, "t").await, ["(1,ß,Größe)", "(2,ß,Größe)"]);
    assert_moves(&utf8, &to, "t").await;
    assert_eq!(text_of(&to, good).await, text_of(&utf8, good).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_the_target_does_not_have() {
    let server = server::shared();
    let admin = server::connect(&server.url("postgres")).await;
    admin
        .batch_execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        .await
        .unwrap();
    let (from, to) = (server.database().await, server.url("latin"));
    let client = server::connect(&from).await;
    client
        .batch_execute("CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, 'ß'), (2, '€')")
        .await
        .unwrap();
    let report = load(source(&from).await, target(&to)).await.unwrap();
    assert_says(&report, ErrorKind::Data, &["column v", "encoding", "UTF8"]);
    client.batch_execute("UPDATE t SET v = 'EUR' WHERE id = 2").await.unwrap();
    assert_moves(&from, &to, "t").await;
    // And back.
    let back = server.database().await;
    assert_moves(&to, &back, "t").await;
}
