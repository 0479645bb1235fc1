//! Fields of the kernel's own structs, read at the offsets that user space resolved from its BTF. Must
//! not know what they are read for.

/// `struct task_struct`, opaque.
pub(crate) type Task = *const u8;

/// A field of a kernel object.
///
/// # Safety
/// `object` is a BTF pointer: from a tracepoint's context, or read from such an object. The verifier checks
/// the offset against the kernel's types. Through a null pointer the kernel reads zeros.
#[inline(always)]
pub(crate) unsafe fn read<T: Copy>(object: *const u8, offset: u32) -> T {
    // SAFETY: see above.
    unsafe { core::ptr::read_volatile(object.add(offset as usize).cast()) }
}
