//! A server far away: what counts is how often a transaction waits for an answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::apply::{Desk, delete, insert, pairs, pairs_table, update};
use crate::{server, text_of};

/// How long what is said takes there; answers come at once.
const DISTANCE: Duration = Duration::from_millis(100);

/// A port from which everything reaches a server late, but in its order.
fn distant(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut back, mut answers) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (sender, said) = channel::<(Instant, Vec<u8>)>();
            std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
            std::thread::spawn(move || {
                for (at, bytes) in said {
                    std::thread::sleep((at + DISTANCE).saturating_duration_since(Instant::now()));
                    if server.write_all(&bytes).is_err() {
                        return;
                    }
                }
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    let _ = sender.send((Instant::now(), buffer[..length].to_vec()));
                }
            });
        }
    });
    own
}

/// One to begin, one for the steps and the position, one to commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_waits_for_three_answers() {
    let server = server::shared();
    let url = server.database().await;
    let far = url.replace(&server.port.to_string(), &distant(server.port).to_string());
    let (desk, table) = (Desk::open(&far).await, pairs_table());
    let steps = |id: i32| {
        [
            delete(&table, &pairs(&[(id - 1, "")]), true),
            update(&table, &pairs(&[(1, &format!("v{id}"))])),
            insert(&table, &pairs(&[(id, &id.to_string()), (-id, &(-id).to_string())])),
        ]
    };
    desk.load(&table, vec![pairs(&[(1, "a"), (9, "b")])]).await;
    // The first prepares its statements; others of them may be held up by a busy machine.
    let mut fastest = Duration::MAX;
    for id in 10..16 {
        let began = Instant::now();
        desk.apply(&steps(id)).await.unwrap();
        fastest = fastest.min(began.elapsed());
    }
    assert!((3 * DISTANCE..4 * DISTANCE).contains(&fastest), "{fastest:?}");
    assert_eq!(text_of(&url, "t").await.len(), 8);
}
