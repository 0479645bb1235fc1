//! The `g211s` command.
fn main() {}
