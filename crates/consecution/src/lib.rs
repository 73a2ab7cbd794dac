#![forbid(unsafe_code)]
//! Consecution.
