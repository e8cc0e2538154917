//! Crashes at any point, with damage and without, until everything is applied.

use super::super::skip::Skip;
use super::*;

/// What a run does before it dies.
#[derive(Debug, Clone)]
enum Do {
    Push(usize),
    Read(usize),
    Sync,
    /// The target commits what was read; whether the buffer hears of it.
    Commit(bool),
}

/// What the crash does to files.
#[derive(Debug, Clone)]
enum Damage {
    None,
    /// The last segment loses a part of what was not synced.
    Tear(u32),
    /// The last segment ends anywhere.
    Cut(u32),
    /// A bit of some file.
    Flip(usize, u32),
    /// A segment.
    Lose(usize),
}

fn rounds() -> impl Strategy<Value = Vec<(Vec<Do>, Damage)>> {
    let act = prop_oneof![
        6 => (1usize..8).prop_map(Do::Push),
        4 => (1usize..8).prop_map(Do::Read),
        2 => Just(Do::Sync),
        2 => any::<bool>().prop_map(Do::Commit),
    ];
    let damage = prop_oneof![
        3 => Just(Damage::None),
        4 => any::<u32>().prop_map(Damage::Tear),
        2 => any::<u32>().prop_map(Damage::Cut),
        2 => (any::<usize>(), any::<u32>()).prop_map(|(f, at)| Damage::Flip(f, at)),
        1 => any::<usize>().prop_map(Damage::Lose),
    ];
    prop::collection::vec((prop::collection::vec(act, 0..25), damage), 1..6)
}

/// A source, a target and what is between them.
struct World {
    history: Vec<ChangeEvent>,
    /// What the target holds.
    applied: Vec<Item>,
    position: Option<Position>,
    /// Up to where the source has forgotten its changes.
    forgotten: Option<u64>,
    folder: PathBuf,
    segment_bytes: u64,
    memory_bytes: usize,
}

impl World {
    async fn open(&self) -> Result<(BufferWriter, BufferReader, Recovered)> {
        let settings = BufferSettings {
            memory_bytes: self.memory_bytes,
            ..settings(&self.folder, Durability::Disk)
        };
        Buffer::open_with(&settings, TASK, self.position.as_ref(), self.segment_bytes).await
    }

    /// What the source sends after a position.
    fn feed(&self, after: Option<&Position>) -> VecDeque<ChangeEvent> {
        let after = after.map(|position| position.order);
        assert!(self.forgotten <= after, "the source has forgotten what it is asked for");
        let mut skip = Skip::new(after, BTreeMap::new());
        let mut events = VecDeque::new();
        for event in &self.history {
            skip.pass(event.clone(), &mut events);
        }
        events
    }

    /// The target commits the whole transactions that were read.
    fn commit(&mut self, read: &[ChangeEvent], held: &mut usize) {
        let all = items(read.iter());
        let whole = all.iter().rposition(|item| matches!(item, Item::End(_) | Item::Idle(_)));
        let Some(whole) = whole.filter(|whole| *whole >= *held) else { return };
        self.applied.extend_from_slice(&all[*held..=whole]);
        self.position = Some(position(all[whole].order()));
        *held = whole + 1;
    }

    /// Runs until the list of deeds ends; returns the sizes of segments that are known to be synced.
    async fn run(&mut self, deeds: &[Do]) -> Result<BTreeMap<PathBuf, u64>> {
        let (mut writer, mut reader, recovered) = self.open().await?;
        let mut feed = self.feed(recovered.read_from.as_ref());
        let (mut read, mut held) = (Vec::new(), 0);
        let mut synced = sizes(&self.folder);
        for deed in deeds {
            match deed {
                Do::Push(count) => {
                    for event in feed.drain(..(*count).min(feed.len())) {
                        writer.push(event).await?;
                    }
                }
                Do::Read(count) => {
                    for _ in 0..*count {
                        // What is left may all be left out.
                        let soon = std::time::Duration::from_millis(5);
                        match tokio::time::timeout(soon, reader.next()).await {
                            Ok(Some(event)) => read.push(event?),
                            _ => break,
                        }
                    }
                }
                Do::Sync => {
                    let told = writer.sync().await?.map(|position| position.order);
                    assert!(self.forgotten <= told, "what is durable does not go back");
                    self.forgotten = told;
                    synced = sizes(&self.folder);
                }
                Do::Commit(heard) => {
                    self.commit(&read, &mut held);
                    if let (true, Some(position)) = (heard, &self.position) {
                        reader.done(position).await?;
                    }
                }
            }
        }
        Ok(synced)
    }

    /// Runs to the end.
    async fn finish(&mut self) -> Result<()> {
        let (mut writer, reader, recovered) = self.open().await?;
        for event in self.feed(recovered.read_from.as_ref()) {
            writer.push(event).await?;
        }
        drop(writer);
        let (read, mut held) = (rest(reader).await?, 0);
        self.commit(&read, &mut held);
        Ok(())
    }
}

fn sizes(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let files = segments(folder).into_iter();
    files.map(|path| (path.clone(), path.metadata().unwrap().len())).collect()
}

/// Damages files; returns whether what was durable may have been hurt.
fn damage(folder: &Path, damage: &Damage, synced: &BTreeMap<PathBuf, u64>) -> bool {
    let found = segments(folder);
    let Some(last) = found.last() else { return false };
    let size = last.metadata().unwrap().len();
    let cut = |to| std::fs::OpenOptions::new().write(true).open(last).unwrap().set_len(to).unwrap();
    match damage {
        Damage::None => false,
        Damage::Tear(at) => {
            let safe = synced.get(last).copied().unwrap_or(0).min(size);
            cut(safe + u64::from(*at) % (size - safe + 1));
            false
        }
        Damage::Cut(at) => {
            cut(u64::from(*at) % (size + 1));
            true
        }
        Damage::Flip(file, at) => {
            let mut files = found;
            files.push(folder.join(super::super::mark::FILE));
            let path = &files[file % files.len()];
            let mut bytes = std::fs::read(path).unwrap();
            if !bytes.is_empty() {
                let at = *at as usize % (bytes.len() * 8);
                bytes[at / 8] ^= 1 << (at % 8);
                std::fs::write(path, bytes).unwrap();
            }
            true
        }
        Damage::Lose(file) => {
            std::fs::remove_file(&found[file % found.len()]).unwrap();
            true
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_is_lost_or_doubled(
        acts in acts(),
        rounds in rounds(),
        segment_bytes in prop_oneof![1u64..3000, 3000u64..40_000],
        memory_bytes in prop_oneof![Just(0usize), 500usize..10_000, Just(1 << 20)],
    ) {
        let place = tempfile::tempdir().unwrap();
        let history = history(acts);
        let expected: Vec<Item> = items(&history);
        let mut world = World {
            history,
            applied: Vec::new(),
            position: None,
            forgotten: None,
            folder: place.path().join("0"),
            segment_bytes,
            memory_bytes,
        };
        let mut hurt = false;
        let outcome = run(async {
            for (at, (deeds, kind)) in rounds.iter().enumerate() {
                let synced = world.run(deeds).await?;
                // Dropping the ends writes nothing: this is what a kill leaves.
                let old = std::mem::replace(
                    &mut world.folder, place.path().join((at + 1).to_string()));
                std::fs::rename(&old, &world.folder).unwrap();
                let synced = synced.into_iter()
                    .map(|(path, size)| (world.folder.join(path.file_name().unwrap()), size))
                    .collect();
                hurt |= damage(&world.folder, kind, &synced);
            }
            world.finish().await
        });
        match outcome {
            Ok(()) => {}
            Err(error) if hurt => {
                let kind = error.kind();
                let told = matches!(kind, dms_core::ErrorKind::Corrupt | dms_core::ErrorKind::Unsupported);
                prop_assert!(told, "{error:?}");
            }
            Err(error) => panic!("{error:?}"),
        }
        // What was applied is a prefix of the history, whatever happened; and all of it if nothing
        // was refused.
        let without_idle = |items: &[Item]| {
            items.iter().filter(|item| !matches!(item, Item::Idle(_))).cloned().collect::<Vec<_>>()
        };
        let (applied, expected) = (without_idle(&world.applied), without_idle(&expected));
        prop_assert_eq!(&applied[..], &expected[..applied.len().min(expected.len())]);
        if !hurt {
            prop_assert_eq!(applied.len(), expected.len());
        }
    }
}
