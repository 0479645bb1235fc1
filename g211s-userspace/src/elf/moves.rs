//! Offsets that a function's code moves data by: the slot of thread-local data that it reads, and the field
//! that another field is copied to. **x86-64 only.** Must not know which functions or fields matter.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Instructions after a load within which the value must be stored.
const NEAR: usize = 4;
/// A thread's data lies below its FS base, by at most this.
const MAX_SLOT: i64 = 1 << 20;

fn instructions(bytes: &[u8], va: u64) -> Vec<Instruction> {
    if va.checked_add(bytes.len() as u64).is_none() {
        return Vec::new();
    }
    Decoder::with_ip(64, bytes, va, DecoderOptions::NONE)
        .into_iter()
        .take_while(|i| !i.is_invalid())
        .collect()
}

fn memory_operand(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
}

/// The offset from the FS base that the function's first access to thread-local data is at: `fs:[disp]`, or
/// `mov reg, disp` and then `fs:[reg]` (as the linker makes it in a PIE).
pub fn thread_slot(bytes: &[u8], va: u64) -> Option<i32> {
    let mut constants: HashMap<Register, i64> = HashMap::new();
    for i in instructions(bytes, va) {
        if memory_operand(&i) && i.segment_prefix() == Register::FS {
            if i.memory_index() != Register::None {
                return None;
            }
            let offset = match i.memory_base() {
                Register::None => i64::from(i.memory_displacement64() as i32),
                base => constants.get(&base)?.checked_add(i.memory_displacement64() as i64)?,
            };
            return (-MAX_SLOT..0).contains(&offset).then_some(offset as i32);
        }
        if i.op_count() > 0 && i.op0_kind() == OpKind::Register {
            let register = i.op0_register().full_register();
            let constant = i.mnemonic() == Mnemonic::Mov
                && matches!(i.op1_kind(), OpKind::Immediate32to64 | OpKind::Immediate64);
            if constant {
                constants.insert(register, i.immediate(1) as i64);
            } else {
                constants.remove(&register);
            }
        }
    }
    None
}

/// The offset of the 32-bit field to which the function copies the one at `from`: `mov r32, [a + from]` and
/// then `mov [b + X], r32`. `None` unless there is exactly one such X.
pub fn copied_to(bytes: &[u8], va: u64, from: u32) -> Option<u32> {
    let is_mov = |i: &Instruction| {
        i.mnemonic() == Mnemonic::Mov
            && memory_operand(i)
            && i.memory_index() == Register::None
            && i.memory_base() != Register::None
            && i.memory_base() != Register::RIP
            && i.memory_base() != Register::RSP
            && i.memory_size().size() == 4
    };
    let code = instructions(bytes, va);
    let mut found = Vec::new();
    for (at, load) in code.iter().enumerate() {
        let loads = is_mov(load)
            && load.op0_kind() == OpKind::Register
            && load.memory_displacement64() == u64::from(from);
        if !loads {
            continue;
        }
        let value = load.op0_register();
        for next in code[at + 1..].iter().take(NEAR) {
            let stores = is_mov(next) && next.op1_register() == value;
            if stores && next.op0_kind() == OpKind::Memory {
                found.extend(u32::try_from(next.memory_displacement64()).ok());
            }
            let overwritten = next.op_count() > 0
                && next.op0_kind() == OpKind::Register
                && next.op0_register().full_register() == value.full_register();
            if stores || overwritten {
                break;
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [only] => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ways_to_a_threads_slot() {
        // mov rcx, fs:[-8]
        let plain = [0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff];
        assert_eq!(thread_slot(&plain, 0x1000), Some(-8));
        // mov rcx, -16; mov rdi, fs:[rcx]
        let pie = [0x48, 0xc7, 0xc1, 0xf0, 0xff, 0xff, 0xff, 0x64, 0x48, 0x8b, 0x39];
        assert_eq!(thread_slot(&pie, 0x1000), Some(-16));
        // mov rcx, [rip+0]; mov rdi, fs:[rcx]: known to the dynamic linker alone
        let dynamic = [0x48, 0x8b, 0x0d, 0, 0, 0, 0, 0x64, 0x48, 0x8b, 0x39];
        assert_eq!(thread_slot(&dynamic, 0x1000), None);
    }

    #[test]
    fn a_copied_field() {
        // mov esi,[rsi+0x14]; mov [rdx+0x314],esi (Go 1.27.3, reentersyscall)
        let code = [0x8b, 0x76, 0x14, 0x89, 0xb2, 0x14, 0x03, 0, 0];
        assert_eq!(copied_to(&code, 0x1000, 0x14), Some(0x314));
        assert_eq!(copied_to(&code, 0x1000, 0x18), None);
        // Two of them leave a choice.
        let mut two = code.to_vec();
        two.extend([0x8b, 0x76, 0x14, 0x89, 0xb2, 0x18, 0x03, 0, 0]);
        assert_eq!(copied_to(&two, 0x1000, 0x14), None);
        // mov esi,[rsi+0x14]; xor esi,esi; mov [rdx+0x314],esi: another value
        let other = [0x8b, 0x76, 0x14, 0x31, 0xf6, 0x89, 0xb2, 0x14, 0x03, 0, 0];
        assert_eq!(copied_to(&other, 0x1000, 0x14), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, va: u64) {
            let _ = thread_slot(&bytes, va);
            let _ = copied_to(&bytes, va, 0x14);
        }
    }
}
