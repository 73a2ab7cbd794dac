//! Bounds on what a chain file may hold, so that none can exhaust its reader.

/// Bytes of a chain file.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// Bytes of a link that stands by itself. More than [`MAX_FILE_BYTES`], so that
/// a link from any chain file fits, however its text must be escaped.
pub const MAX_LINK_FILE_BYTES: usize = 8 << 20;

/// Links of a chain.
pub const MAX_LINKS: usize = 256;

/// Arguments of a link.
pub const MAX_ARGUMENTS: usize = 4096;

/// Environment variables of a link.
pub const MAX_ENVIRONMENT_VARIABLES: usize = 1024;

/// Bytes of an argument, or of an environment variable with its name: what
/// Linux passes on (`MAX_ARG_STRLEN`), without the NUL at the end.
pub const MAX_ARGUMENT_BYTES: usize = 128 * 1024 - 1;

/// Bytes of an environment variable's name: with every byte escaped it is
/// still short enough for a YAML key.
pub const MAX_ENVIRONMENT_NAME_BYTES: usize = 255;

/// Bytes of a name of a chain or a link.
pub const MAX_NAME_BYTES: usize = 100;

/// Nested lists and mappings in a file; a chain needs five.
pub const MAX_NESTING_LEVELS: usize = 16;

/// Errors that are reported; more are counted.
pub const MAX_REPORTED_ERRORS: usize = 20;
