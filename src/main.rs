//! The `auditwire` program.
fn main() {}
