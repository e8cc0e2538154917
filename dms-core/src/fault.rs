//! Named points at which a test makes a run crash, fail or wait. Without the feature
//! `fault-points` a point compiles to nothing.
//!
//! The environment variable `DMS_FAULT` holds `point=action` or `point=action:n`, to act at the
//! n-th passage (from 1; default 1). Actions: `abort` ends the process at once as `kill -9` would,
//! `error` makes the point fail, `wait` sleeps for a minute so that a test can kill the process
//! there.

use crate::Result;

/// Passes the fault point `name`.
///
/// # Errors
/// `Unexpected` when `DMS_FAULT` asks for an error here.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) -> Result<()> {
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static FAULT: OnceLock<Option<(String, String, u64)>> = OnceLock::new();
    static PASSED: OnceLock<Mutex<HashMap<String, u64>>> = OnceLock::new();
    let fault = FAULT.get_or_init(|| {
        let text = std::env::var("DMS_FAULT").ok()?;
        let (point, action) = text.split_once('=')?;
        let (action, nth) = action.split_once(':').unwrap_or((action, "1"));
        Some((point.to_owned(), action.to_owned(), nth.parse().ok()?))
    });
    let Some((point, action, nth)) = fault else { return Ok(()) };
    if point != name {
        return Ok(());
    }
    let passed = {
        let mut passed =
            PASSED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let count = passed.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    };
    if passed != *nth {
        return Ok(());
    }
    match action.as_str() {
        "abort" => std::process::abort(),
        "wait" => {
            std::thread::sleep(std::time::Duration::from_secs(60));
            Ok(())
        }
        _ => Err(crate::Error::unexpected(format!("fault point {name} was told to fail"))),
    }
}

/// Passes the fault point `_name`: nothing happens without the feature `fault-points`.
///
/// # Errors
/// None.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub fn point(_name: &str) -> Result<()> {
    Ok(())
}
