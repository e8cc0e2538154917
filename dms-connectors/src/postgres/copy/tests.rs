//! What is encoded comes back, wherever the stream is cut.

use arrow::array::RecordBatch;
use dms_core::batch::BatchLimit;
use dms_core::conformance::awkward_tables;
use dms_core::schema::LogicalType;
use proptest::prelude::*;

use super::{Decoder, Encoder};
use crate::postgres::types::is_parsed_by_server;

/// The tables whose values PostgreSQL would send back as they were sent.
fn tables() -> Vec<(dms_core::schema::TableSchema, RecordBatch)> {
    let kept = |ty: &LogicalType| {
        matches!(
            ty,
            LogicalType::Boolean
                | LogicalType::Int16
                | LogicalType::Int32
                | LogicalType::Int64
                | LogicalType::Float32
                | LogicalType::Float64
                | LogicalType::Decimal { .. }
                | LogicalType::Numeric
                | LogicalType::Bytes { .. }
                | LogicalType::Date
                | LogicalType::Interval
                | LogicalType::Json
                | LogicalType::Uuid
        ) || matches!(
            ty,
            LogicalType::Timestamp { precision: 6 } | LogicalType::Time { precision: 6 }
        )
    };
    let tables = awkward_tables("s").into_iter().map(|awkward| (awkward.table, awkward.batch));
    let tables = tables.filter(|(table, _)| {
        let column = &table.columns[1];
        kept(&column.logical_type) && !is_parsed_by_server(column)
    });
    tables.collect()
}

fn encoded(table: &dms_core::schema::TableSchema, batch: &RecordBatch) -> Vec<u8> {
    super::encode_copy(table, std::slice::from_ref(batch)).unwrap().to_vec()
}

#[test]
fn awkward_values_come_back() {
    assert!(tables().len() > 12);
    for (table, batch) in tables() {
        let bytes = encoded(&table, &batch);
        let mut decoder = Decoder::new(table.clone(), BatchLimit::default()).unwrap();
        let mut full = Vec::new();
        decoder.feed(&bytes, &mut full).unwrap();
        assert_eq!(decoder.finish().unwrap().unwrap(), batch, "{}", table.name);
    }
}

#[test]
fn whole_rows_are_what_arrived() {
    for (table, batch) in tables() {
        let bytes = encoded(&table, &batch);
        let limit = BatchLimit { rows: 3, ..BatchLimit::default() };
        let mut decoder = Decoder::of_whole_rows(table.clone(), limit);
        let mut whole = Vec::new();
        for cut in bytes.chunks(7) {
            decoder.feed(cut, &mut whole).unwrap();
        }
        whole.extend(decoder.finish().unwrap());
        let rows: usize = whole.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, batch.num_rows());
        let mut encoder = Encoder::new(table.clone());
        let mut again = vec![Encoder::header()];
        // A part of an array is sent as that part.
        again.extend(whole.iter().flat_map(|batch| {
            let (first, rest) = (batch.slice(0, 1), batch.slice(1, batch.num_rows() - 1));
            [encoder.encode(&first).unwrap(), encoder.encode(&rest).unwrap()]
        }));
        again.push(Encoder::end());
        assert_eq!(again.concat(), bytes, "{}", table.name);
    }
}

#[test]
fn a_stream_without_its_end_is_not_complete() {
    let (table, batch) = tables().remove(0);
    let bytes = encoded(&table, &batch);
    for end in 0..bytes.len() {
        let mut decoder = Decoder::new(table.clone(), BatchLimit::default()).unwrap();
        decoder.feed(&bytes[..end], &mut Vec::new()).unwrap();
        assert!(decoder.finish().unwrap_err().is_transient(), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(1usize..60, 1..20), rows in 1usize..4) {
        for (table, batch) in tables() {
            let bytes = encoded(&table, &batch);
            let limit = BatchLimit { rows, ..BatchLimit::default() };
            let mut decoder = Decoder::new(table.clone(), limit).unwrap();
            let mut full = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.feed(now, &mut full).unwrap();
                rest = later;
                if rest.is_empty() { break; }
            }
            full.extend(decoder.finish().unwrap());
            let all = arrow::compute::concat_batches(&batch.schema(), &full).unwrap();
            prop_assert_eq!(all, batch);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (table, batch) in tables() {
            let mut stream = encoded(&table, &batch);
            stream.truncate(super::HEADER_BYTES + 2);
            stream.extend(&bytes);
            let mut decoder = Decoder::new(table, BatchLimit::default()).unwrap();
            if decoder.feed(&stream, &mut Vec::new()).is_ok() {
                let _ = decoder.finish();
            }
        }
    }
}
