//! Changes of a file, event by event.
