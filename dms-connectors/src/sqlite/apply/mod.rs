//! Changes applied to a SQLite file.
