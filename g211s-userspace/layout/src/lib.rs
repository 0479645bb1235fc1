//! Where the fields of the Go runtime's structs lie, as data.
//!
//! Rooms: [`wanted`] (which fields somebody reads), [`dwarf`] (measuring them in one executable),
//! [`table`] (the checked-in table: many versions,
//! compact). `cargo xtask offsets` writes the table, g211s reads it; both through this crate, so
//! that the format has one home. Must not know processes, nor what a field means.

pub mod dwarf;
pub mod table;
pub mod wanted;
