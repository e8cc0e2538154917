//! Times as DMS writes them, in UTC.

use dms_core::value::temporal::civil_from_days;

/// A time taken apart.
pub(crate) struct Clock {
    pub(crate) year: i64,
    pub(crate) month: u32,
    pub(crate) day: u32,
    pub(crate) hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
}

impl Clock {
    /// Of microseconds since 1970.
    pub(crate) fn new(micros: i64) -> Self {
        const DAY: i64 = 86_400_000_000;
        let of_day = micros.rem_euclid(DAY);
        let seconds = of_day / 1_000_000;
        let (year, month, day) = civil_from_days(micros.div_euclid(DAY));
        Self {
            year,
            month,
            day,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            micros: of_day % 1_000_000,
        }
    }
}

/// A time in a file's name: `YYYYMMDD-HHMMSSmmm`.
pub(crate) fn stamp(micros: i64) -> String {
    let Clock { year, month, day, hour, minute, second, micros } = Clock::new(micros);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}{:03}", micros / 1000)
}

/// A time in a column: `yyyy-MM-dd HH:mm:ss.SSSSSS`.
pub(crate) fn timestamp(micros: i64) -> String {
    let Clock { year, month, day, hour, minute, second, micros } = Clock::new(micros);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}")
}
