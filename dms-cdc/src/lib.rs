//! Change data capture of the `dms` database migration engine.
