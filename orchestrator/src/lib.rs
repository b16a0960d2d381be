//! Fresh, isolated microVMs in milliseconds.
