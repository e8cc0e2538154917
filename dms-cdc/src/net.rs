//! What many changes come to: at most one act on each row, set-wise.
//!
//! | have, then | result |
//! |---|---|
//! | insert, update | insert of what it is now |
//! | insert, delete | nothing |
//! | update, update | update; a column that the later one does not hold keeps the earlier value |
//! | update, delete | delete |
//! | delete, insert | delete and insert |
//! | key k1 → k2 | delete of k1, insert at k2, if the whole row is known; else a change in place |
//!
//! Deletes come first, then updates, then inserts, so that a key or a unique value may pass from
//! one row to another. Where that does not suffice (two rows exchange a unique value), the target
//! refuses the step and the changes are applied [one by one](crate::ordered).

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::row::{RowConverter, Rows, SortField};
use dms_core::change::{ChangeBatch, Identity, Operation};
use dms_core::endpoint::Step;
use dms_core::schema::{TableName, TableSchema};
use dms_core::{Error, ErrorKind, Result};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::gather::{Place, record_batch, values};
use crate::ordered;
use crate::transform::is_equal_by_bytes;

/// Gathers changes of any number of tables.
#[derive(Debug, Default)]
pub struct NetChanges {
    tables: Vec<TableNet>,
    places: HashMap<TableName, usize>,
}

impl NetChanges {
    /// Adds changes of a table, which come after all that were added before.
    ///
    /// # Errors
    /// `Corrupt` for changes that no row can have gone through.
    pub fn add(&mut self, batch: ChangeBatch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let name = batch.table().name.clone();
        let table = match self.places.get(&name).and_then(|at| self.tables.get_mut(*at)) {
            Some(table) => table,
            None => {
                self.places.insert(name, self.tables.len());
                self.tables.push(TableNet::new(&batch)?);
                match self.tables.last_mut() {
                    Some(table) => table,
                    None => return Ok(()),
                }
            }
        };
        let name = table.table.name.clone();
        table.add(batch).map_err(|error| error.context("table", name))
    }

    /// The acts that have the same effect, in order.
    ///
    /// # Errors
    /// `Data` if a row does not have the shape of its table.
    pub fn into_steps(self) -> Result<Vec<Step>> {
        let mut phases: BTreeMap<(usize, u8), Vec<Step>> = BTreeMap::new();
        for mut table in self.tables {
            table.end_phase()?;
            for (number, phase) in table.phases.into_iter().enumerate() {
                for step in phase {
                    phases.entry((number, rank(&step))).or_default().push(step);
                }
            }
        }
        Ok(phases.into_values().flatten().collect())
    }
}

/// Rows go before rows change before rows come.
fn rank(step: &Step) -> u8 {
    match step {
        Step::Delete { .. } => 0,
        Step::Update { .. } => 1,
        Step::Upsert { .. } => 2,
        _ => 3,
    }
}

/// What a row's changes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Insert,
    Update,
    Delete,
    /// Another row with the same key: a delete and an insert.
    Replace,
    Upsert,
    Remove,
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// A record that holds the identity.
    key: Place,
    /// The newest record that holds the row, if it is there.
    newest: Place,
    /// Older ones, newest first, for columns that the newer do not hold.
    older: Vec<Place>,
}

/// The changes of one table.
#[derive(Debug)]
struct TableNet {
    table: Arc<TableSchema>,
    identity: Identity,
    keys: Vec<usize>,
    /// Absent where changes are applied in order.
    converter: Option<RowConverter>,
    batches: Vec<ChangeBatch>,
    /// The keys of each batch's records.
    encoded: Vec<Arc<Rows>>,
    slots: Vec<Slot>,
    /// Places of slots, by their keys, with the hashes of those.
    by_key: HashTable<(u64, usize)>,
    hasher: DefaultHashBuilder,
    /// With whole rows: how many of each come, less those that go.
    counts: Vec<i64>,
    /// What lies behind a change that has to be made in place.
    phases: Vec<Vec<Step>>,
}

impl TableNet {
    fn new(batch: &ChangeBatch) -> Result<Self> {
        let (table, identity) = (Arc::clone(batch.table()), batch.identity().clone());
        let keys = identity.columns(table.columns.len());
        let columns: Vec<_> = keys.iter().filter_map(|at| table.columns.get(*at)).collect();
        // Whole rows are compared as they came, which splits what is alike at the worst.
        let by_bytes = identity == Identity::WholeRow
            || columns.iter().all(|column| is_equal_by_bytes(&column.logical_type));
        let fields = columns.iter().map(|c| SortField::new(c.logical_type.arrow_type()));
        let fields: Vec<SortField> = fields.collect();
        let converter = (by_bytes && RowConverter::supports_fields(&fields))
            .then(|| RowConverter::new(fields))
            .transpose()?;
        Ok(Self {
            table,
            identity,
            keys,
            converter,
            batches: Vec::new(),
            encoded: Vec::new(),
            slots: Vec::new(),
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            counts: Vec::new(),
            phases: Vec::new(),
        })
    }

    fn add(&mut self, batch: ChangeBatch) -> Result<()> {
        let Some(converter) = &self.converter else {
            let steps = ordered::steps(&batch)?;
            self.phases.extend(steps.into_iter().map(|step| vec![step]));
            return Ok(());
        };
        let columns = self.keys.iter().filter_map(|at| batch.column(*at).cloned());
        let columns: Vec<ArrayRef> = columns.collect();
        let keys = Arc::new(converter.convert_columns(&columns)?);
        let number = self.batches.len();
        let records = batch.len();
        self.batches.push(batch);
        self.encoded.push(Arc::clone(&keys));
        let mut before: Option<usize> = None;
        for record in 0..records {
            let place = (number, record);
            let operation = self.operation(place)?;
            if self.identity == Identity::WholeRow {
                self.count(keys.row(record).data(), place, operation)?;
            } else if operation == Operation::UpdateBefore {
                before = Some(record);
            } else if let Some(old) = before.take() {
                let (old_key, key) = (keys.row(old), keys.row(record));
                if old_key.data() == key.data() {
                    self.change(key.data(), place, operation)?;
                } else {
                    self.rekey(old_key.data(), (number, old), key.data(), place)?;
                }
            } else {
                self.change(keys.row(record).data(), place, operation)?;
            }
        }
        Ok(())
    }

    fn operation(&self, (batch, record): Place) -> Result<Operation> {
        let operation = self.batches.get(batch).and_then(|batch| batch.operation(record));
        operation.ok_or_else(|| Error::unexpected("a change is not there"))
    }

    /// Whole rows: how many more of them there are.
    fn count(&mut self, key: &[u8], place: Place, operation: Operation) -> Result<()> {
        let more = match operation {
            Operation::Insert | Operation::Update => 1,
            Operation::Delete | Operation::UpdateBefore => -1,
            Operation::Upsert | Operation::Remove => {
                return Err(Error::unexpected(
                    "a row without a key can neither be set nor removed",
                ));
            }
        };
        let (slot, _) = self.slot(key, place);
        if self.counts.len() <= slot {
            self.counts.resize(slot + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(slot) {
            *count += more;
        }
        Ok(())
    }

    /// The slot of a key, if it has one.
    fn find(&self, key: &[u8], hash: u64) -> Option<usize> {
        let is_its = |(its, slot): &(u64, usize)| *its == hash && self.key_of(*slot) == Some(key);
        self.by_key.find(hash, is_its).map(|(_, slot)| *slot)
    }

    /// The key of a slot, as bytes.
    fn key_of(&self, slot: usize) -> Option<&[u8]> {
        let (batch, record) = self.slots.get(slot)?.key;
        let keys = self.encoded.get(batch)?;
        (record < keys.num_rows()).then(|| keys.row(record).data())
    }

    fn held(&self, key: &[u8]) -> Option<&Slot> {
        self.slots.get(self.find(key, self.hasher.hash_one(key))?)
    }

    /// The slot of a key, and whether it is new. The record at `place` holds the key.
    fn slot(&mut self, key: &[u8], place: Place) -> (usize, bool) {
        let hash = self.hasher.hash_one(key);
        if let Some(slot) = self.find(key, hash) {
            return (slot, false);
        }
        let slot = self.slots.len();
        self.slots.push(Slot { state: State::Nothing, key: place, newest: place, older: vec![] });
        self.by_key.insert_unique(hash, (hash, slot), |(hash, _)| *hash);
        (slot, true)
    }

    fn change(&mut self, key: &[u8], place: Place, operation: Operation) -> Result<()> {
        use State::{Delete, Insert, Nothing, Remove, Replace, Update, Upsert};
        let (at, is_new) = self.slot(key, place);
        let partial = self.is_partial(place);
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        let held = (!is_new).then_some(slot.state);
        let state = match (held, operation) {
            (None | Some(Nothing), Operation::Insert) => Insert,
            (None, Operation::Update) => Update,
            (None, Operation::Delete) => Delete,
            (_, Operation::Upsert) => match held {
                None | Some(Upsert | Remove | Update) => Upsert,
                Some(Nothing | Insert) => Insert,
                Some(Delete | Replace) => Replace,
            },
            (_, Operation::Remove) => match held {
                None | Some(Upsert | Remove | Update) => Remove,
                Some(Nothing | Insert) => Nothing,
                Some(Delete | Replace) => Delete,
            },
            (Some(Insert), Operation::Update) => Insert,
            (Some(Insert), Operation::Delete) => Nothing,
            (Some(Update), Operation::Update) => Update,
            (Some(Update | Replace), Operation::Delete) => Delete,
            (Some(Delete), Operation::Insert) => Replace,
            (Some(Replace), Operation::Update) => Replace,
            (Some(Upsert), Operation::Update) => Upsert,
            (Some(Upsert), Operation::Delete) => Remove,
            (Some(Remove), Operation::Insert) => Upsert,
            _ => return Err(impossible(operation)),
        };
        let continues = operation == Operation::Update && partial && held.is_some();
        if continues {
            slot.older.insert(0, slot.newest);
        } else {
            slot.older.clear();
        }
        (slot.state, slot.newest) = (state, place);
        Ok(())
    }

    /// An update that moves a row to another key.
    fn rekey(&mut self, old: &[u8], before: Place, new: &[u8], after: Place) -> Result<()> {
        let older: Vec<Place> = match self.held(old) {
            Some(slot) if self.is_partial(after) => {
                std::iter::once(slot.newest).chain(slot.older.iter().copied()).collect()
            }
            _ => Vec::new(),
        };
        let places: Vec<Place> = std::iter::once(after).chain(older.iter().copied()).collect();
        let is_known =
            (0..self.table.columns.len()).all(|column| self.holder(&places, column).is_some());
        if !is_known {
            // What stays is only known to the target: everything before, then the row in place.
            self.end_phase()?;
            let step = self.in_place(before, after)?;
            self.phases.push(vec![step]);
            return Ok(());
        }
        self.change(old, before, Operation::Delete)?;
        self.change(new, after, Operation::Insert)?;
        let (at, _) = self.slot(new, after);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.older = older;
        }
        Ok(())
    }

    fn is_partial(&self, (batch, record): Place) -> bool {
        self.batches.get(batch).is_some_and(|batch| batch.unchanged().is_valid(record))
    }

    /// The newest of some records that holds a column.
    fn holder(&self, places: &[Place], column: usize) -> Option<Place> {
        let holds = |(batch, record): &&Place| {
            self.batches.get(*batch).is_some_and(|batch| !batch.is_unchanged(*record, column))
        };
        places.iter().find(holds).copied()
    }

    /// Turns what was gathered into steps.
    fn end_phase(&mut self) -> Result<()> {
        let steps = match self.identity {
            Identity::WholeRow => self.whole_row_steps()?,
            Identity::Key(_) => self.key_steps()?,
        };
        self.slots.clear();
        self.by_key.clear();
        self.counts.clear();
        if !steps.is_empty() {
            self.phases.push(steps);
        }
        Ok(())
    }

    fn whole_row_steps(&self) -> Result<Vec<Step>> {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (slot, count) in self.slots.iter().zip(&self.counts) {
            let times = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
            let rows = if *count < 0 { &mut gone } else { &mut come };
            rows.extend(std::iter::repeat_n(slot.newest, times));
        }
        let (table, identity) = (Arc::clone(&self.table), Identity::WholeRow);
        let mut steps = Vec::new();
        if !gone.is_empty() {
            let rows = self.gather(&self.keys, |_| &gone)?;
            steps.push(Step::Delete { table: Arc::clone(&table), identity, rows, strict: true });
        }
        if !come.is_empty() {
            steps.push(Step::Insert { table, rows: self.gather(&self.keys, |_| &come)? });
        }
        Ok(steps)
    }

    fn key_steps(&self) -> Result<Vec<Step>> {
        let of = |states: &[State]| -> Vec<&Slot> {
            self.slots.iter().filter(|slot| states.contains(&slot.state)).collect()
        };
        let mut steps = Vec::new();
        for (states, strict) in
            [(&[State::Delete, State::Replace][..], true), (&[State::Remove][..], false)]
        {
            let slots = of(states);
            if slots.is_empty() {
                continue;
            }
            let keys: Vec<Place> = slots.iter().map(|slot| slot.key).collect();
            steps.push(Step::Delete {
                table: Arc::clone(&self.table),
                identity: self.identity.clone(),
                rows: self.gather(&self.keys, |_| &keys)?,
                strict,
            });
        }
        steps.extend(self.updates(&of(&[State::Update]))?);
        for (states, upsert) in
            [(&[State::Upsert][..], true), (&[State::Insert, State::Replace][..], false)]
        {
            let slots = of(states);
            if slots.is_empty() {
                continue;
            }
            let (table, rows) = (Arc::clone(&self.table), self.rows(&slots)?);
            let identity = self.identity.clone();
            steps.push(match upsert {
                true => Step::Upsert { table, identity, rows },
                false => Step::Insert { table, rows },
            });
        }
        Ok(steps)
    }

    /// Updates, by the columns that they set.
    fn updates(&self, slots: &[&Slot]) -> Result<Vec<Step>> {
        let mut groups: BTreeMap<Vec<usize>, Vec<&Slot>> = BTreeMap::new();
        let settable: Vec<usize> =
            (0..self.table.columns.len()).filter(|at| !self.keys.contains(at)).collect();
        for slot in slots {
            let set = if self.is_partial(slot.newest) {
                let places = slot.places();
                let holds = |column: &usize| self.holder(&places, *column).is_some();
                settable.iter().copied().filter(holds).collect()
            } else {
                settable.clone()
            };
            groups.entry(set).or_default().push(slot);
        }
        let mut steps = Vec::new();
        for (set, slots) in groups {
            let columns: Vec<usize> = self.keys.iter().chain(&set).copied().collect();
            let rows = self.gather_newest(&columns, &slots)?;
            steps.push(Step::Update {
                table: Arc::clone(&self.table),
                identity: self.identity.clone(),
                set,
                rows,
            });
        }
        Ok(steps)
    }

    /// One row that changes its key and keeps values that only the target knows.
    fn in_place(&self, before: Place, after: Place) -> Result<Step> {
        let (batch, record) = after;
        let Some(changes) = self.batches.get(batch) else {
            return Err(Error::unexpected("a change is not there"));
        };
        ordered::update(changes, Some(before.1), record)
    }

    fn rows(&self, slots: &[&Slot]) -> Result<RecordBatch> {
        let columns: Vec<usize> = (0..self.table.columns.len()).collect();
        self.gather_newest(&columns, slots)
    }

    fn gather_newest(&self, columns: &[usize], slots: &[&Slot]) -> Result<RecordBatch> {
        let newest: Vec<Place> = slots.iter().map(|slot| slot.newest).collect();
        if slots.iter().all(|slot| slot.older.is_empty()) {
            return self.gather(columns, |_| &newest);
        }
        let mut by_column = BTreeMap::new();
        for column in columns {
            let held = slots.iter().map(|slot| {
                self.holder(&slot.places(), *column).ok_or_else(|| {
                    let name = self.table.columns.get(*column).map_or("", |column| &column.name);
                    Error::new(ErrorKind::Corrupt, "the log holds a new row without this column")
                        .context("column", name)
                })
            });
            by_column.insert(*column, held.collect::<Result<Vec<Place>>>()?);
        }
        self.gather(columns, |column| by_column.get(&column).unwrap_or(&newest))
    }

    /// Columns of the records at the places that `places` gives for each.
    fn gather<'a>(
        &self,
        columns: &[usize],
        places: impl Fn(usize) -> &'a Vec<Place>,
    ) -> Result<RecordBatch> {
        let mut count = 0;
        let arrays = columns.iter().map(|column| {
            let places = places(*column);
            count = places.len();
            let all = self.batches.iter().filter_map(|batch| batch.column(*column));
            values(&all.map(AsRef::as_ref).collect::<Vec<_>>(), places)
        });
        let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
        record_batch(&self.table, columns, arrays, count)
    }
}

impl Slot {
    fn places(&self) -> Vec<Place> {
        std::iter::once(self.newest).chain(self.older.iter().copied()).collect()
    }
}

fn impossible(operation: Operation) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the log has a change ({operation:?}) that its row cannot go through after the one \
             before; load the table again"
        ),
    )
}
