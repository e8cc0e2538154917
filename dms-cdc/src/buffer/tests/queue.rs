//! The queue while nothing breaks.

use futures::poll;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Both ends at once, under any limits.
    #[test]
    fn what_goes_in_comes_out(
        acts in acts(),
        memory in prop_oneof![Just(0usize), 200usize..20_000, Just(usize::MAX)],
        disk in prop_oneof![Just(0u64), 1u64..200_000],
        segment in 1u64..50_000,
        on_disk: bool,
        naps in prop::collection::vec(0u8..4, 1..20),
    ) {
        let mut events = history(acts);
        // The last may be of no transaction.
        events.push(schema_event(0, 1));
        let (expected, count) = (items(&events), events.len());
        let folder = tempfile::tempdir().unwrap();
        let durability = if on_disk { Durability::Disk } else { Durability::Source };
        // What the disk has to hold at least: a target that commits each transaction by itself.
        let disk = if on_disk && disk > 0 { disk.max(1 << 20) } else { disk };
        let settings = BufferSettings {
            memory_bytes: memory, disk_bytes: disk, ..settings(folder.path(), durability) };
        let read = run(async {
            let (mut writer, mut reader, _) =
                Buffer::open_with(&settings, TASK, None, segment).await.unwrap();
            let mut nap = naps.iter().cycle();
            let put = async move {
                for (at, event) in events.into_iter().enumerate() {
                    writer.push(event).await.unwrap();
                    if at % 7 == 3 {
                        writer.sync().await.unwrap();
                    }
                }
            };
            let take = async {
                let mut read = Vec::new();
                while let Some(event) = reader.next().await {
                    let event = event.unwrap();
                    for item in items([&event]) {
                        if let Item::End(order) = item {
                            reader.done(&position(order)).await.unwrap();
                        }
                    }
                    read.push(event);
                    for _ in 0..*nap.next().unwrap() {
                        tokio::task::yield_now().await;
                    }
                }
                read
            };
            let ((), read) = tokio::join!(put, take);
            prop_assert_eq!(reader.status().events, 0);
            prop_assert_eq!(reader.status().memory_bytes, 0);
            Ok(read)
        })?;
        prop_assert_eq!(items(&read), expected);
        prop_assert_eq!(read.len(), count, "events that say nothing of rows");
        if !on_disk {
            prop_assert_eq!(segments(folder.path()), Vec::<PathBuf>::new(), "files that were read");
        }
    }
}

/// `count` transactions of a thousand records, one an event.
fn thousands(count: u64) -> impl Iterator<Item = ChangeEvent> {
    let mut id = 0;
    (1..=count).map(move |order| rows_event(&[(order, 1000, true)], [0, 0], &mut id))
}

#[tokio::test]
async fn ten_million_changes_stay_within_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        BufferSettings { memory_bytes: 1 << 20, ..settings(folder.path(), Durability::Source) };
    let (mut writer, mut reader, _) = Buffer::open(&settings, TASK, None).await.unwrap();
    // Building ten thousand different events would be most of the test.
    let mut event = thousands(1).next().unwrap();
    let mut largest = 0;
    for order in 1..=10_000 {
        if let ChangeEvent::Rows(rows) = &mut event {
            rows.transactions[0].position = position(order);
        }
        writer.push(event.clone()).await.unwrap();
        largest = largest.max(writer.status().memory_bytes);
    }
    assert_eq!(writer.status().events, 10_000);
    assert!(largest <= 1 << 20, "{largest} bytes in memory");
    assert!(largest > 1 << 19, "{largest}: the memory is not used");
    let disk = writer.status().disk_bytes;
    assert!(disk > 0 && segments(folder.path()).len() > 1, "{disk} bytes in files");
    drop(writer);
    let (mut next, mut changes, mut fewer) = (1, 0, disk);
    while let Some(event) = reader.next().await {
        let ChangeEvent::Rows(rows) = event.unwrap() else { panic!() };
        assert_eq!(rows.transactions[0].position, position(next));
        next += 1;
        changes += rows.records();
        assert!(reader.status().disk_bytes <= fewer, "files go as they are read");
        fewer = reader.status().disk_bytes;
    }
    assert_eq!(changes, 10_000_000);
    assert_eq!(reader.status(), BufferStatus::default());
}

#[tokio::test]
async fn at_the_limit_the_writer_waits_or_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = BufferSettings {
        memory_bytes: 0,
        disk_bytes: 100_000,
        ..settings(folder.path(), Durability::Source)
    };
    let (mut writer, mut reader, _) = Buffer::open(&settings, TASK, None).await.unwrap();
    let mut events = thousands(100);
    let mut pushed = 0;
    let waiting = loop {
        let event = events.next().unwrap();
        let mut push = Box::pin(writer.push(event));
        let waits = tokio::time::timeout(std::time::Duration::from_millis(500), &mut push);
        if waits.await.is_err() {
            break push;
        }
        pushed += 1;
    };
    assert!(pushed > 2 && reader.status().disk_bytes <= 100_000, "{:?}", reader.status());
    let drain = async {
        for _ in 0..=pushed {
            reader.next().await.unwrap().unwrap();
        }
    };
    let (waited, ()) = tokio::join!(waiting, drain);
    waited.unwrap();
    drop((writer, reader));

    settings.when_full = WhenFull::Fail;
    let (mut writer, _reader, _) = Buffer::open(&settings, TASK, None).await.unwrap();
    let error = loop {
        if let Err(error) = writer.push(events.next().unwrap()).await {
            break error;
        }
    };
    assert!(
        error.to_string().contains("raise Engine.SpillBytesMax, which is 100000 bytes"),
        "{error}"
    );
    assert!(writer.push(events.next().unwrap()).await.is_err(), "nothing comes behind a gap");
}

#[tokio::test]
async fn a_transaction_that_can_never_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let settings = BufferSettings {
        memory_bytes: 0,
        disk_bytes: 20_000,
        ..settings(folder.path(), Durability::Disk)
    };
    let (mut writer, mut reader, _) = Buffer::open(&settings, TASK, None).await.unwrap();
    let mut id = 0;
    writer.push(rows_event(&[(1, 10, true)], [0, 0], &mut id)).await.unwrap();
    let put = async {
        loop {
            let part = rows_event(&[(2, 1000, false)], [0, 0], &mut id);
            if let Err(error) = writer.push(part).await {
                drop(writer);
                break error;
            }
        }
    };
    let take = async {
        reader.next().await.unwrap().unwrap();
        reader.next().await.unwrap().unwrap();
        // Until here the writer may wait for this.
        reader.done(&position(1)).await.unwrap();
        while reader.next().await.is_some() {}
    };
    let (error, ()) = tokio::join!(put, take);
    assert!(error.to_string().contains("a transaction is larger"), "{error}");
}

#[tokio::test]
async fn an_end_that_goes_ends_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let one = settings(folder.path(), Durability::Source);
    let (mut writer, mut reader, _) = Buffer::open(&one, TASK, None).await.unwrap();
    let mut events = thousands(10);
    {
        let mut next = Box::pin(reader.next());
        assert!(poll!(&mut next).is_pending());
        writer.push(events.next().unwrap()).await.unwrap();
        assert!(next.await.unwrap().is_ok());
    }
    writer.push(events.next().unwrap()).await.unwrap();
    writer.fail(Error::unexpected("the feed broke"));
    assert!(reader.next().await.unwrap().is_ok(), "what was put in comes first");
    assert!(reader.next().await.unwrap().unwrap_err().to_string().contains("the feed broke"));
    assert!(reader.next().await.is_none());
    drop(reader);

    let (mut writer, reader, _) = Buffer::open(&one, TASK, None).await.unwrap();
    drop(reader);
    let error = writer.push(events.next().unwrap()).await.unwrap_err();
    assert!(error.is_stop(), "{error}");
}

#[tokio::test]
async fn a_feed_in_disorder_is_refused() {
    for wrong in [vec![(5, 1, true)], vec![(4, 1, true)], vec![(7, 1, true)]] {
        let folder = tempfile::tempdir().unwrap();
        let one = settings(folder.path(), Durability::Source);
        let (mut writer, _reader, _) = Buffer::open(&one, TASK, None).await.unwrap();
        let mut id = 0;
        let first = if wrong[0].0 == 7 { (6, 1, false) } else { (5, 1, true) };
        writer.push(rows_event(&[first], [0, 0], &mut id)).await.unwrap();
        let error = writer.push(rows_event(&wrong, [0, 0], &mut id)).await.unwrap_err();
        assert!(error.to_string().contains("repeats a transaction"), "{error}");
    }
}
