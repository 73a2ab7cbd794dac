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

/// Parameters of a chain.
pub const MAX_PARAMETERS: usize = 64;

/// Bytes of the name of a parameter, of data or of a secret.
pub const MAX_PARAMETER_NAME_BYTES: usize = 64;

/// Bytes of a parameter's pattern.
pub const MAX_PATTERN_BYTES: usize = 4096;

/// Bytes of a parameter's pattern once it is compiled. Trying a value takes time in
/// proportion to this and to the longest value that matches, which is shorter the less
/// there is of the pattern: half a second at worst.
pub const MAX_COMPILED_PATTERN_BYTES: usize = 512 * 1024;

/// Bytes of a compiled pattern that values of any length can match: they may be
/// [`MAX_ARGUMENT_BYTES`] long.
pub const MAX_COMPILED_ENDLESS_PATTERN_BYTES: usize = 16 * 1024;

/// Bytes of all arguments and variables of a link together, once the values of its
/// parameters are in them; each counts with a NUL at its end.
pub const MAX_FILLED_BYTES: usize = 2 << 20;

/// `Files`, `Data` and `Secrets` of a link, each.
pub const MAX_FILES: usize = 64;

/// Bytes of a literal file.
pub const MAX_LITERAL_FILE_BYTES: usize = 64 * 1024;

/// Bytes of all literal files of a link together.
pub const MAX_LITERAL_FILES_BYTES: usize = 1 << 20;

/// Bytes of a path at which a link finds or leaves something: as for
/// [`MAX_ENVIRONMENT_NAME_BYTES`].
pub const MAX_PATH_BYTES: usize = 255;

/// Processes of a link in reserve that its `Warm` may ask for.
pub const MAX_WARM: u16 = 256;

/// Keys of a key file.
pub const MAX_KEYS: usize = 1000;

/// What the holder of one key may do, as a list.
pub const MAX_RIGHTS: usize = 100;

/// Bytes of a media type.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// Nested lists and mappings in a file; a chain needs five.
pub const MAX_NESTING_LEVELS: usize = 16;

/// Errors that are reported; more are counted.
pub const MAX_REPORTED_ERRORS: usize = 20;
