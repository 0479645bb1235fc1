//! Which addresses a function's code names: RIP-relative memory operands, and pointers to them that
//! are kept in a register. **x86-64 only.** Must not know which addresses or functions matter.

use std::collections::HashSet;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

/// What an instruction does at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only computes it (`lea`).
    Address,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Both (`xchg`, `inc`, `lock cmpxchg`).
    ReadWrite,
}

/// An address that code names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The address, before a PIE's load bias.
    pub target: u64,
    /// Bytes that are read or written; 0 where only the address is computed.
    pub size: u32,
    /// What is done there.
    pub access: Access,
    /// The constant that is written or compared, if any.
    pub constant: Option<u64>,
}

/// A direct call with a known pointer in AX: the receiver, or the first argument, of a Go function
/// (Go `src/cmd/compile/abi-internal.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallWith {
    /// The function's entry.
    pub callee: u64,
    /// The pointer.
    pub first: u64,
}

/// What a function's code names, in code order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Addresses.
    pub named: Vec<Reference>,
    /// Calls.
    pub calls: Vec<CallWith>,
}

/// Decodes a function from end to end. What follows an instruction that does not decode is not
/// looked at, so damaged code names less, and nothing else.
pub fn references(bytes: &[u8], va: u64) -> References {
    let mut found = References::default();
    walk(bytes, va, |i, registers, factory| {
        if let Some(target) = memory_address(i, registers) {
            found.named.extend(reference(i, target, factory));
        }
        if i.flow_control() == FlowControl::Call
            && let (Some(callee), Some(first)) = (call_target(i), registers.get(Register::RAX))
        {
            found.calls.push(CallWith { callee, first });
        }
    });
    found
}

/// Shows each instruction, with the addresses that registers hold before it.
fn walk(
    bytes: &[u8],
    va: u64,
    mut visit: impl FnMut(&Instruction, &Registers, &mut InstructionInfoFactory),
) {
    if va.checked_add(bytes.len() as u64).is_none() {
        return;
    }
    let instructions: Vec<Instruction> = Decoder::with_ip(64, bytes, va, DecoderOptions::NONE)
        .into_iter()
        .take_while(|i| !i.is_invalid())
        .collect();
    let entered: HashSet<u64> = instructions.iter().filter_map(jump_target).collect();
    let mut factory = InstructionInfoFactory::new();
    let mut registers = Registers::default();
    for i in &instructions {
        // Another way leads here: what a register holds is not known.
        if entered.contains(&i.ip()) {
            registers = Registers::default();
        }
        visit(i, &registers, &mut factory);
        match i.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => {
                registers.follow(i, &mut factory);
            }
            // No register survives a call in Go.
            _ => registers = Registers::default(),
        }
    }
}

/// A direct call, and which of its arguments are known addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallAt {
    /// The function's entry.
    pub callee: u64,
    arguments: [Option<u64>; ARGUMENTS.len()],
}

/// Registers of a Go function's first arguments (Go `src/cmd/compile/abi-internal.md`, amd64).
const ARGUMENTS: [Register; 5] =
    [Register::RAX, Register::RBX, Register::RCX, Register::RDI, Register::RSI];

impl CallAt {
    /// The address that argument `n` (from 0) is, where the code says so.
    pub fn argument(&self, n: usize) -> Option<u64> {
        self.arguments.get(n).copied().flatten()
    }
}

/// The direct call whose instruction covers the address `at`, in a function's code.
pub fn call_at(bytes: &[u8], va: u64, at: u64) -> Option<CallAt> {
    let mut found = None;
    walk(bytes, va, |i, registers, _| {
        if found.is_none()
            && (i.ip()..i.next_ip()).contains(&at)
            && i.flow_control() == FlowControl::Call
        {
            found = call_target(i).map(|callee| CallAt {
                callee,
                arguments: ARGUMENTS.map(|register| registers.get(register)),
            });
        }
    });
    found
}

/// The general registers that hold a known address.
#[derive(Default)]
struct Registers([Option<u64>; 16]);

impl Registers {
    fn get(&self, register: Register) -> Option<u64> {
        if register.is_gpr64() { self.0.get(register.number()).copied().flatten() } else { None }
    }

    fn follow(&mut self, i: &Instruction, factory: &mut InstructionInfoFactory) {
        let (to, from) = (i.op0_register(), i.op1_register());
        let value = match i.mnemonic() {
            Mnemonic::Lea => memory_address(i, self),
            Mnemonic::Mov if i.op1_kind() == OpKind::Register => self.get(from),
            _ => None,
        };
        for used in factory.info(i).used_registers() {
            let writes = matches!(
                used.access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            );
            let whole = used.register().full_register();
            if writes && whole.is_gpr64() {
                self.0[whole.number()] = None;
            }
        }
        if value.is_some() && i.op0_kind() == OpKind::Register && to.is_gpr64() {
            self.0[to.number()] = value;
        }
    }
}

/// The address of an instruction's memory operand, where it is known.
fn memory_address(i: &Instruction, registers: &Registers) -> Option<u64> {
    let has = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    if !has || i.segment_prefix() != Register::None || i.memory_index() != Register::None {
        return None;
    }
    if i.is_ip_rel_memory_operand() {
        return Some(i.ip_rel_memory_address());
    }
    Some(registers.get(i.memory_base())?.wrapping_add(i.memory_displacement64()))
}

fn reference(
    i: &Instruction,
    target: u64,
    factory: &mut InstructionInfoFactory,
) -> Option<Reference> {
    if i.mnemonic() == Mnemonic::Lea {
        return Some(Reference { target, size: 0, access: Access::Address, constant: None });
    }
    let info = factory.info(i);
    let access = match info.used_memory().first()?.access() {
        OpAccess::Read | OpAccess::CondRead => Access::Read,
        OpAccess::Write | OpAccess::CondWrite => Access::Write,
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => Access::ReadWrite,
        OpAccess::None | OpAccess::NoMemAccess => return None,
    };
    let last = i.op_count().checked_sub(1)?;
    let constant = i.op_kind(last);
    let constant = matches!(
        constant,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
    .then(|| i.immediate(last));
    Some(Reference { target, size: i.memory_size().size() as u32, access, constant })
}

fn call_target(i: &Instruction) -> Option<u64> {
    (i.op0_kind() == OpKind::NearBranch64).then(|| i.near_branch_target())
}

fn jump_target(i: &Instruction) -> Option<u64> {
    let jumps = matches!(
        i.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    if jumps { call_target(i) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VA: u64 = 0x40_1000;

    fn at(target: u64, size: u32, access: Access, constant: Option<u64>) -> Reference {
        Reference { target, size, access, constant }
    }

    #[test]
    fn operands_are_named_with_what_is_done_there() {
        let code = [
            0xc7, 0x05, 0, 1, 0, 0, 0x10, 0x27, 0, 0, // mov dword [rip+0x100], 10000
            0x48, 0x8b, 0x0d, 0, 2, 0, 0, // mov rcx, [rip+0x200]
            0x48, 0x8d, 0x05, 0, 3, 0, 0, // lea rax, [rip+0x300]
            0xff, 0x05, 0, 4, 0, 0, // inc dword [rip+0x400]
        ];
        assert_eq!(
            references(&code, VA).named,
            [
                at(VA + 10 + 0x100, 4, Access::Write, Some(10_000)),
                at(VA + 17 + 0x200, 8, Access::Read, None),
                at(VA + 24 + 0x300, 0, Access::Address, None),
                at(VA + 30 + 0x400, 4, Access::ReadWrite, None),
            ]
        );
    }

    #[test]
    fn a_pointer_is_followed_until_it_may_be_another() {
        let code = [
            0x48, 0x8d, 0x15, 0, 1, 0, 0, // lea rdx, [rip+0x100]
            0x48, 0x87, 0x4a, 0x08, // xchg [rdx+8], rcx
            0x31, 0xd2, // xor edx, edx
            0x48, 0x8b, 0x02, // mov rax, [rdx]
        ];
        let base = VA + 7 + 0x100;
        assert_eq!(
            references(&code, VA).named,
            [at(base, 0, Access::Address, None), at(base + 8, 8, Access::ReadWrite, None)]
        );
        let code = [
            0x48, 0x8d, 0x15, 0, 1, 0, 0, // 0: lea rdx, [rip+0x100]
            0x48, 0x8b, 0x02, // 7: mov rax, [rdx]: a loop leads here
            0xeb, 0xfb, // 10: jmp 7
        ];
        assert_eq!(references(&code, VA).named.len(), 1);
    }

    #[test]
    fn calls_say_what_their_first_argument_points_to() {
        let code = [
            0x48, 0x8d, 0x05, 0, 1, 0, 0, // lea rax, [rip+0x100]
            0xe8, 0, 2, 0, 0, // call
            0xe8, 0, 2, 0, 0, // call: AX is the first one's result
        ];
        assert_eq!(
            references(&code, VA).calls,
            [CallWith { callee: VA + 12 + 0x200, first: VA + 7 + 0x100 }]
        );
    }

    #[test]
    fn a_calls_arguments_are_told() {
        let code = [
            0x48, 0x8d, 0x35, 0, 1, 0, 0, // 0: lea rsi, [rip+0x100]
            0x48, 0x89, 0xf3, // 7: mov rbx, rsi
            0x31, 0xc0, // 10: xor eax, eax
            0xe8, 0, 2, 0, 0, // 12: call
            0xe8, 0, 3, 0, 0, // 17: call
        ];
        let call = call_at(&code, VA, VA + 16).expect("a call");
        assert_eq!(call.callee, VA + 17 + 0x200);
        let known = [None, Some(VA + 0x107), None, None, Some(VA + 0x107), None];
        assert_eq!(std::array::from_fn(|n| call.argument(n)), known);
        let second = call_at(&code, VA, VA + 17).expect("a call");
        assert_eq!((second.callee, second.argument(4)), (VA + 22 + 0x300, None));
        assert_eq!((call_at(&code, VA, VA + 8), call_at(&code, VA, VA + 99)), (None, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            va in prop_oneof![any::<u64>(), u64::MAX - 400..=u64::MAX, 0..400_u64],
        ) {
            let _ = references(&bytes, va);
            let _ = call_at(&bytes, va, va);
        }
    }
}
