//! Folders by date for files of changes.

use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// Which parts of the date name the folders of `date-partition-enabled`, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatePartitionSequence {
    /// Year, month, day.
    #[default]
    YyyyMmDd,
    /// Year, month, day, hour from 00 to 23.
    YyyyMmDdHh,
    /// Year, month.
    YyyyMm,
    /// Month, year, day.
    MmYyyyDd,
    /// Day, month, year.
    DdMmYyyy,
}

/// What stands between the parts of the date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatePartitionDelimiter {
    /// A folder in a folder for each part: `2026/11/21`.
    #[default]
    Slash,
    /// `2026-11-21`.
    Dash,
    /// `2026_11_21`.
    Underscore,
    /// `20261121`.
    None,
}

/// The folders of a time in microseconds since 1970, the outermost first.
pub(crate) fn folders(
    micros: i64,
    sequence: DatePartitionSequence,
    delimiter: DatePartitionDelimiter,
) -> Vec<String> {
    let clock = Clock::new(micros);
    let year = format!("{:04}", clock.year);
    let [month, day] = [clock.month, clock.day].map(|part| format!("{part:02}"));
    let parts = match sequence {
        DatePartitionSequence::YyyyMmDd => vec![year, month, day],
        DatePartitionSequence::YyyyMmDdHh => {
            vec![year, month, day, format!("{:02}", clock.hour)]
        }
        DatePartitionSequence::YyyyMm => vec![year, month],
        DatePartitionSequence::MmYyyyDd => vec![month, year, day],
        DatePartitionSequence::DdMmYyyy => vec![day, month, year],
    };
    match delimiter {
        DatePartitionDelimiter::Slash => parts,
        DatePartitionDelimiter::Dash => vec![parts.join("-")],
        DatePartitionDelimiter::Underscore => vec![parts.join("_")],
        DatePartitionDelimiter::None => vec![parts.concat()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_and_delimiter() {
        use DatePartitionDelimiter as Delimiter;
        use DatePartitionSequence as Sequence;
        // 2026-11-21 11:01:29.123456
        let named = |sequence, delimiter| folders(1_795_258_889_123_456, sequence, delimiter);
        for (sequence, name, slashed) in [
            (Sequence::YyyyMmDd, "yyyymmdd", "2026/11/21"),
            (Sequence::YyyyMmDdHh, "yyyymmddhh", "2026/11/21/11"),
            (Sequence::YyyyMm, "yyyymm", "2026/11"),
            (Sequence::MmYyyyDd, "mmyyyydd", "11/2026/21"),
            (Sequence::DdMmYyyy, "ddmmyyyy", "21/11/2026"),
        ] {
            assert_eq!(serde_json::to_value(sequence).unwrap(), name);
            assert_eq!(named(sequence, Delimiter::Slash).join("/"), slashed);
            assert_eq!(named(sequence, Delimiter::Dash), [slashed.replace('/', "-")]);
            assert_eq!(named(sequence, Delimiter::Underscore), [slashed.replace('/', "_")]);
            assert_eq!(named(sequence, Delimiter::None), [slashed.replace('/', "")]);
        }
        let first = folders(-1, Sequence::YyyyMmDdHh, Delimiter::Slash);
        assert_eq!(first, ["1969", "12", "31", "23"]);
    }
}
