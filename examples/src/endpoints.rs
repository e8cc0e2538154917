//! The endpoints that the example programs can open.

use dms_core::endpoint::Registry;

/// Every connector of this build, by URL scheme. A connector that is written elsewhere is added
/// with [`Registry::with`].
#[must_use]
pub fn registry() -> Registry {
    Registry::new(dms_connectors::CONNECTORS.iter().copied())
        .with(dms_s3::CONNECTORS.iter().copied())
}
