//! Folders and object stores as endpoints.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "azure")]
mod azure;
#[cfg(all(feature = "parquet", feature = "csv"))]
mod changes;
mod conformance;
mod crash;
mod damage;
mod folder;
mod names;
mod reading;
#[cfg(feature = "aws")]
mod s3;
