//! Object stores as emulators speak them, over HTTP. `scripts/test-clouds` installs the emulators
//! and runs these tests; all others leave them out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod azure;
mod azurite;
