//! The `lateen` binary.
fn main() {}
