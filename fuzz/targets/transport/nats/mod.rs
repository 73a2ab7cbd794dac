//! See [`super`].

pub(crate) mod wire;
