//! Where in a function's machine code a probe may sit. **x86-64 only.** Must not know which
//! functions matter, nor files beyond the offset it is handed.
//!
//! A probe overwrites an instruction's first byte with `int3`, so every site is an instruction that
//! a linear decode of the whole function reached, and that no direct jump enters in the middle. What
//! a hit costs depends on the instruction: the kernel emulates some and single-steps the rest, ten
//! times dearer (Linux `arch/x86/kernel/uprobes.c`, `branch_setup_xol_ops`, `push_setup_xol_ops`).

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Longest function that is decoded, bytes.
pub const MAX_CODE: u64 = 1 << 20;
/// Most instructions of a function whose control flow is searched (the search is quadratic).
const MAX_FLOW: usize = 8192;
/// A prologue's `push rbp` stands within this many instructions.
const MAX_PROLOGUE: usize = 12;
/// How many instructions farther from the RET a jump may be and still be taken for a call.
const CALL_PENALTY: u32 = 16;
/// Linux `arch/x86/kernel/alternative.c`, `x86_nops` (P6 NOPs), of 3 bytes and more.
const LONG_NOPS: [&[u8]; 6] = [
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Why a function, or a kind of site in it, is not offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// The bytes are not code from end to end.
    #[error("its code does not decode at offset {0:#x}")]
    Undecodable(u64),
    /// A direct jump enters an instruction in the middle.
    #[error("a jump enters the instruction at offset {0:#x} in the middle")]
    Overlapping(u64),
    /// Longer than what is looked at.
    #[error("it is too long to check ({0} bytes)")]
    TooLong(u64),
    /// The prologue has no `push rbp` that fires once per call.
    #[error("its prologue has no usable `push rbp`: {0}")]
    NoEntryPush(&'static str),
    /// A call's result is not branched on right after it.
    #[error("the result of the call at offset {0:#x} is not branched on right after it")]
    NoBranch(u64),
    /// No instruction lies once on every path to a RET.
    #[error("no instruction that the kernel emulates lies exactly once on every way out: {0}")]
    NoExitBranch(&'static str),
}

/// A place for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeSite {
    /// Offset in the function, bytes.
    pub offset: u64,
    /// Virtual address, before a PIE's load bias.
    pub va: u64,
    /// Offset in the file: what the kernel is given.
    pub file_offset: u64,
    /// The instruction, e.g. `push rbp`, `jne 0x4012f0`.
    pub instruction: String,
    /// Whether the kernel emulates it (about 1 µs a hit) or single-steps it (over 10 µs).
    pub emulated: bool,
}

/// What a call gives back that is branched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// A `bool`, in AL.
    Bool,
    /// A pointer, in RAX.
    Pointer,
}

/// A function's code, decoded from end to end.
#[derive(Debug)]
pub struct FunctionCode<'a> {
    bytes: &'a [u8],
    va: u64,
    file_offset: u64,
    insns: Vec<Instruction>,
    /// Address → index in `insns`.
    index: HashMap<u64, usize>,
}

impl<'a> FunctionCode<'a> {
    /// Decodes `bytes`, which are mapped at `va` and stand at `file_offset`. Padding (`int3`, zeros)
    /// may follow the last instruction.
    pub fn decode(bytes: &'a [u8], va: u64, file_offset: u64) -> Result<Self, SiteError> {
        if bytes.len() as u64 > MAX_CODE {
            return Err(SiteError::TooLong(bytes.len() as u64));
        }
        if va.checked_add(bytes.len() as u64).is_none() {
            return Err(SiteError::Undecodable(0));
        }
        let mut this = Self { bytes, va, file_offset, insns: Vec::new(), index: HashMap::new() };
        let mut decoder = Decoder::with_ip(64, bytes, va, DecoderOptions::NONE);
        while decoder.can_decode() {
            let rest = &bytes[decoder.position()..];
            if rest.iter().all(|&b| b == 0xcc) || rest.iter().all(|&b| b == 0) {
                break;
            }
            let insn = decoder.decode();
            if insn.is_invalid() {
                return Err(SiteError::Undecodable(insn.ip().wrapping_sub(va)));
            }
            this.index.insert(insn.ip(), this.insns.len());
            this.insns.push(insn);
        }
        for target in this.insns.iter().filter_map(direct_target) {
            let offset = target.wrapping_sub(va);
            let padding = this.insns.last().is_none_or(|last| target >= last.next_ip());
            if offset < bytes.len() as u64 && !this.index.contains_key(&target) && !padding {
                let inside = this.insns.iter().rfind(|i| i.ip() < target);
                return Err(SiteError::Overlapping(inside.map_or(offset, |i| i.ip() - va)));
            }
        }
        Ok(this)
    }

    /// The prologue's `push rbp`: reached once per call with the arguments still in their
    /// registers, after the stack check (which jumps back to the first byte when the stack had to
    /// grow, so the first byte is hit twice) and before anything else has happened.
    ///
    /// Prologues: Go `cmd/internal/obj/x86/obj6.go`, `preprocess`, `stacksplit`; the frame pointer
    /// is pushed first since Go 1.21.
    pub fn entry_push(&self) -> Result<CodeSite, SiteError> {
        let at = self
            .insns
            .iter()
            .take(MAX_PROLOGUE)
            .position(|i| i.mnemonic() == Mnemonic::Push && i.op0_register() == Register::RBP)
            .ok_or(SiteError::NoEntryPush("none near its start (no frame)"))?;
        if !self.insns[..at].iter().all(is_stack_check) {
            return Err(SiteError::NoEntryPush("it is not only preceded by the stack check"));
        }
        let push = self.insns[at].ip();
        for target in self.insns.iter().filter_map(direct_target) {
            if target > self.va && target <= push {
                return Err(SiteError::NoEntryPush("a jump leads back into the prologue"));
            }
        }
        Ok(self.site(at))
    }

    /// Every `call rel32` to `target`, in code order.
    pub fn calls_to(&self, target: u64) -> Vec<CodeSite> {
        let is_call = |i: &Instruction| {
            i.flow_control() == FlowControl::Call && direct_target(i) == Some(target)
        };
        (0..self.insns.len()).filter(|&i| is_call(&self.insns[i])).map(|i| self.site(i)).collect()
    }

    /// After each `call rel32` to `target`: the branch on its `result` (AL or RAX), a `test` of it with itself and
    /// then a jcc that the kernel emulates, with nothing but padding between.
    ///
    /// # Errors
    /// [`SiteError::NoBranch`] where a call is followed by anything else, or the branch is jumped to.
    pub fn branches_after(
        &self,
        target: u64,
        result: CallResult,
    ) -> Result<Vec<CodeSite>, SiteError> {
        let result = match result {
            CallResult::Bool => Register::AL,
            CallResult::Pointer => Register::RAX,
        };
        let entered: Vec<u64> = self.insns.iter().filter_map(direct_target).collect();
        let branch = |call: usize| {
            // The assembler keeps branches off the ends of cache lines (Go `cmd/internal/obj/x86/asm6.go`).
            let next = |from: usize| {
                (from..self.insns.len()).find(|&i| self.insns[i].mnemonic() != Mnemonic::Nop)
            };
            let (test, jump) = (next(call + 1)?, next(next(call + 1)? + 1)?);
            let (test, jcc) = (&self.insns[test], &self.insns[jump]);
            let tests = test.mnemonic() == Mnemonic::Test
                && test.op0_register() == result
                && test.op1_register() == result;
            let within = |target: &u64| (self.insns[call].next_ip()..=jcc.ip()).contains(target);
            let fits = tests
                && jcc.flow_control() == FlowControl::ConditionalBranch
                && emulated(self.raw(jump))
                && !entered.iter().any(within);
            fits.then(|| self.site(jump))
        };
        (0..self.insns.len())
            .filter(|&i| {
                let insn = &self.insns[i];
                insn.flow_control() == FlowControl::Call && direct_target(insn) == Some(target)
            })
            .map(|i| branch(i).ok_or(SiteError::NoBranch(self.insns[i].ip() - self.va)))
            .collect()
    }

    /// Whether a direct call or jump leads to `target` (an ABI wrapper ends in one or the other).
    pub fn leads_to(&self, target: u64) -> bool {
        self.insns.iter().any(|i| direct_target(i) == Some(target))
    }

    /// Every RET: single-stepped, so only where nothing else will do.
    pub fn rets(&self) -> Vec<CodeSite> {
        (0..self.insns.len()).filter(|&i| is_ret(&self.insns[i])).map(|i| self.site(i)).collect()
    }

    /// The emulated instruction nearest to the RETs that every way from the entry to a RET passes
    /// exactly once. A jump is preferred to a call that is a little nearer.
    ///
    /// `never_returns` tells whether a call's target does not come back (`runtime.throw`) or
    /// restarts the function (`runtime.morestack`); a call before `ud2` or `int3` counts as such too.
    pub fn exit_branch(&self, never_returns: impl Fn(u64) -> bool) -> Result<CodeSite, SiteError> {
        if self.insns.len() > MAX_FLOW {
            return Err(SiteError::TooLong(self.bytes.len() as u64));
        }
        let flow = Flow::new(self, never_returns)?;
        let normal: Vec<usize> = (0..self.insns.len())
            .filter(|&i| flow.reached[i] && flow.to_ret[i] != u32::MAX)
            .collect();
        // Every such place lies on all paths, so they follow one another: the nearest to the RET is
        // the last.
        let mut best: Option<(u32, usize)> = None;
        for &i in normal.iter().filter(|&&i| emulated(self.raw(i)) && !self.is_prologue(i)) {
            let penalty =
                if self.insns[i].flow_control() == FlowControl::Call { CALL_PENALTY } else { 0 };
            let distance = flow.to_ret[i] + penalty;
            if best.is_none_or(|(d, _)| distance < d) && flow.once_on_every_path(i) {
                best = Some((distance, i));
            }
        }
        best.map(|(_, i)| self.site(i)).ok_or(SiteError::NoExitBranch("all ways differ"))
    }

    /// Whether an instruction belongs to the entry sequence: no proof that anything was done.
    fn is_prologue(&self, i: usize) -> bool {
        i < MAX_PROLOGUE
            && self.insns[..=i].iter().all(|i| is_stack_check(i) || i.mnemonic() == Mnemonic::Push)
    }

    fn raw(&self, i: usize) -> &'a [u8] {
        let start = (self.insns[i].ip() - self.va) as usize;
        &self.bytes[start..start + self.insns[i].len()]
    }

    fn site(&self, i: usize) -> CodeSite {
        let insn = &self.insns[i];
        let offset = insn.ip() - self.va;
        CodeSite {
            offset,
            va: insn.ip(),
            file_offset: self.file_offset + offset,
            instruction: text(insn),
            emulated: emulated(self.raw(i)),
        }
    }
}

/// The control flow of a function, instruction by instruction.
struct Flow {
    next: Vec<Vec<usize>>,
    is_ret: Vec<bool>,
    /// Whether a path from the entry leads here.
    reached: Vec<bool>,
    /// Instructions on the shortest path to a RET; `u32::MAX` where none leads there.
    to_ret: Vec<u32>,
}

impl Flow {
    fn new(
        code: &FunctionCode<'_>,
        never_returns: impl Fn(u64) -> bool,
    ) -> Result<Self, SiteError> {
        let n = code.insns.len();
        let mut next = vec![Vec::new(); n];
        for (i, insn) in code.insns.iter().enumerate() {
            let through = (i + 1 < n).then_some(i + 1);
            let target = direct_target(insn).and_then(|t| code.index.get(&t).copied());
            next[i] = match insn.flow_control() {
                FlowControl::Next | FlowControl::IndirectCall | FlowControl::XbeginXabortXend => {
                    through.into_iter().collect()
                }
                FlowControl::Call => {
                    let dead = direct_target(insn).is_some_and(&never_returns)
                        || code
                            .insns
                            .get(i + 1)
                            .is_none_or(|f| matches!(f.mnemonic(), Mnemonic::Ud2 | Mnemonic::Int3));
                    if dead { Vec::new() } else { through.into_iter().collect() }
                }
                FlowControl::ConditionalBranch => through.into_iter().chain(target).collect(),
                FlowControl::UnconditionalBranch => match target {
                    Some(t) => vec![t],
                    None => return Err(SiteError::NoExitBranch("it leaves by a tail call")),
                },
                FlowControl::IndirectBranch => {
                    return Err(SiteError::NoExitBranch("it has a computed jump"));
                }
                FlowControl::Return | FlowControl::Interrupt | FlowControl::Exception => Vec::new(),
            };
        }
        let mut previous = vec![Vec::new(); n];
        for (i, targets) in next.iter().enumerate() {
            for &t in targets {
                previous[t].push(i);
            }
        }
        let is_ret: Vec<bool> = code.insns.iter().map(is_ret).collect();
        let mut to_ret = vec![u32::MAX; n];
        let mut queue: std::collections::VecDeque<usize> =
            (0..n).filter(|&i| is_ret[i]).inspect(|&i| to_ret[i] = 0).collect();
        while let Some(i) = queue.pop_front() {
            for &p in &previous[i] {
                if to_ret[p] == u32::MAX {
                    to_ret[p] = to_ret[i] + 1;
                    queue.push_back(p);
                }
            }
        }
        let mut this = Self { next, is_ret, reached: Vec::new(), to_ret };
        this.reached = this.reach(&[0], None);
        if !(0..n).any(|i| this.is_ret[i] && this.reached[i]) {
            return Err(SiteError::NoExitBranch("it never returns"));
        }
        Ok(this)
    }

    /// What can be reached from `from` (inclusive) without passing `without`.
    fn reach(&self, from: &[usize], without: Option<usize>) -> Vec<bool> {
        let mut seen = vec![false; self.next.len()];
        let mut stack: Vec<usize> = from.to_vec();
        while let Some(i) = stack.pop() {
            if i < seen.len() && Some(i) != without && !seen[i] {
                seen[i] = true;
                stack.extend(&self.next[i]);
            }
        }
        seen
    }

    fn once_on_every_path(&self, i: usize) -> bool {
        let around = self.reach(&[0], Some(i));
        let avoidable = (0..around.len()).any(|r| around[r] && self.is_ret[r]);
        !avoidable && !self.reach(&self.next[i], None)[i]
    }
}

/// Where a direct jump or call leads.
fn direct_target(i: &Instruction) -> Option<u64> {
    matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
        .then(|| i.near_branch_target())
}

fn is_ret(i: &Instruction) -> bool {
    i.flow_control() == FlowControl::Return
}

/// Whether an instruction can be part of Go's stack check: it compares, or computes an address in
/// one of the registers that hold no argument (`obj6.go`: R12, R13; RCX in ABI0, whose
/// arguments are on the stack), or jumps to the code that grows the stack.
fn is_stack_check(i: &Instruction) -> bool {
    match i.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Nop | Mnemonic::Endbr64 => true,
        Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Sub => {
            i.op0_kind() == OpKind::Register
                && (matches!(i.op0_register(), Register::R12 | Register::R13)
                    || (i.op0_register() == Register::RCX && is_tls_load(i)))
        }
        _ => i.flow_control() == FlowControl::ConditionalBranch,
    }
}

fn is_tls_load(i: &Instruction) -> bool {
    i.op1_kind() == OpKind::Memory
        && (i.segment_prefix() == Register::FS || i.memory_base() == Register::RIP)
}

/// Whether the kernel emulates the instruction of these bytes. A branch with an operand-size prefix
/// is refused by the kernel altogether, so it is not one of them.
fn emulated(raw: &[u8]) -> bool {
    if LONG_NOPS.contains(&raw) {
        return true;
    }
    let is_prefix = |b: &u8| {
        matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
    };
    let prefixes = raw.iter().take_while(|b| is_prefix(b)).count();
    let wide = raw[..prefixes].contains(&0x66);
    match raw[prefixes..] {
        [0x90] => true,
        [0xe8 | 0xe9, _, _, _, _] | [0xeb | 0x70..=0x7f, _] | [0x0f, 0x80..=0x8f, _, _, _, _] => {
            !wide
        }
        [0x50..=0x57] | [0x41, 0x50..=0x57] => prefixes == 0,
        _ => false,
    }
}

/// A short disassembly: mnemonic and, where it is a register or a branch, the first operand.
fn text(i: &Instruction) -> String {
    let name = format!("{:?}", i.mnemonic()).to_lowercase();
    if let Some(target) = direct_target(i) {
        return format!("{name} {target:#x}");
    }
    if i.op_count() == 1 && i.op0_kind() == OpKind::Register {
        return format!("{name} {}", format!("{:?}", i.op0_register()).to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VA: u64 = 0x40_1000;

    fn code(bytes: &[u8]) -> FunctionCode<'_> {
        FunctionCode::decode(bytes, VA, 0x1000).expect("decodes")
    }

    /// cmp rsp,[r14+0x10]; jbe +N (to the tail); push rbp; mov rbp,rsp; sub rsp,16
    fn prologue(jbe: u8) -> Vec<u8> {
        let mut b = vec![0x49, 0x3b, 0x66, 0x10, 0x76, jbe, 0x55, 0x48, 0x89, 0xe5];
        b.extend_from_slice(&[0x48, 0x83, 0xec, 0x10]);
        b
    }

    #[test]
    fn entry_is_the_push_after_the_stack_check() {
        // … pop rbp; ret; call morestack; jmp entry; padding
        let mut b = prologue(10);
        b.extend_from_slice(&[0x5d, 0xc3]);
        b.extend_from_slice(&[0xe8, 0, 1, 0, 0]);
        let back = -(b.len() as i8 + 2);
        b.extend_from_slice(&[0xeb, back as u8, 0xcc, 0xcc]);
        let site = code(&b).entry_push().expect("has one");
        assert_eq!(
            site,
            CodeSite {
                offset: 6,
                va: VA + 6,
                file_offset: 0x1006,
                instruction: "push rbp".to_owned(),
                emulated: true
            }
        );
    }

    #[test]
    fn a_large_frame_has_a_longer_stack_check() {
        // lea r12,[rsp-0x80]; cmp r12,[r14+0x10]; jbe; push rbp
        let b = [
            0x4c, 0x8d, 0x64, 0x24, 0x80, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 1, 0, 0, 0, 0x55,
            0xc3,
        ];
        assert_eq!(code(&b).entry_push().expect("has one").offset, 15);
    }

    #[test]
    fn a_function_without_stack_check_is_probed_at_its_start() {
        assert_eq!(
            code(&[0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3]).entry_push().expect("one").offset,
            0
        );
    }

    #[test]
    fn the_branch_on_a_calls_result() {
        // call +0x100; test al,al; je +2; jmp +0; ret
        let b = [0xe8, 0, 1, 0, 0, 0x84, 0xc0, 0x74, 2, 0xeb, 0, 0xc3];
        let sites = code(&b).branches_after(VA + 5 + 0x100, CallResult::Bool).expect("has one");
        assert_eq!(sites.len(), 1);
        assert_eq!((sites[0].offset, sites[0].emulated), (7, true));
        assert_eq!(code(&b).branches_after(VA, CallResult::Bool).expect("no such call"), []);
        // call; nop [rax+rax]; test al,al; je
        let mut padded = b[..5].to_vec();
        padded.extend([0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
        padded.extend(&b[5..]);
        let sites =
            code(&padded).branches_after(VA + 5 + 0x100, CallResult::Bool).expect("has one");
        assert_eq!(sites[0].offset, 15);
        // call; test ecx,ecx; je …: of another result
        let other = [0xe8, 0, 1, 0, 0, 0x85, 0xc9, 0x74, 0, 0xc3];
        let refused = code(&other).branches_after(VA + 5 + 0x100, CallResult::Bool);
        assert_eq!(refused, Err(SiteError::NoBranch(0)));
        // A loop comes back to the branch without the call.
        let entered = [0xe8, 0, 1, 0, 0, 0x84, 0xc0, 0x74, 0, 0xeb, 0xfc, 0xc3];
        let refused = code(&entered).branches_after(VA + 5 + 0x100, CallResult::Bool);
        assert_eq!(refused, Err(SiteError::NoBranch(0)));
    }

    #[test]
    fn a_push_after_an_effect_is_not_the_entry() {
        // mov rax,rbx; push rbp; ret: an argument is gone
        let b = [0x48, 0x89, 0xd8, 0x55, 0xc3];
        assert!(matches!(code(&b).entry_push(), Err(SiteError::NoEntryPush(_))));
        // call; push rbp
        let b = [0xe8, 0, 1, 0, 0, 0x55, 0xc3];
        assert!(matches!(code(&b).entry_push(), Err(SiteError::NoEntryPush(_))));
        // no frame at all
        assert!(matches!(code(&[0x90, 0xc3]).entry_push(), Err(SiteError::NoEntryPush(_))));
    }

    #[test]
    fn a_push_that_a_jump_returns_to_is_refused() {
        // push rbp; jmp -3 (to the push's byte + 0)
        let b = [0x90, 0x55, 0xeb, 0xfd, 0xc3];
        assert!(matches!(code(&b).entry_push(), Err(SiteError::NoEntryPush(_))));
    }

    #[test]
    fn code_that_does_not_decode_is_refused() {
        // 0x06 is no instruction in 64-bit mode
        assert_eq!(
            FunctionCode::decode(&[0x55, 0x06, 0xc3], VA, 0).expect_err("bad"),
            SiteError::Undecodable(1)
        );
        // cut in the middle of a call
        assert_eq!(
            FunctionCode::decode(&[0x55, 0xe8, 0, 0], VA, 0).expect_err("cut"),
            SiteError::Undecodable(1)
        );
    }

    #[test]
    fn a_jump_into_an_instruction_is_refused() {
        // jmp +1 lands inside of the mov's immediate
        let b = [0xeb, 0x01, 0xb8, 0x90, 0x90, 0x90, 0x90, 0xc3];
        assert_eq!(
            FunctionCode::decode(&b, VA, 0).expect_err("overlap"),
            SiteError::Overlapping(2)
        );
    }

    #[test]
    fn calls_are_found_by_their_target() {
        // call VA+0x100; call VA+0x200; ret
        let b = [0xe8, 0xfb, 0, 0, 0, 0xe8, 0xf6, 1, 0, 0, 0xc3];
        let calls = code(&b).calls_to(VA + 0x200);
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].offset, calls[0].emulated), (5, true));
        assert_eq!(calls[0].instruction, format!("call {:#x}", VA + 0x200));
        assert_eq!(code(&b).rets().len(), 1);
        assert!(code(&b).leads_to(VA + 0x100) && !code(&b).leads_to(VA + 0x101));
        assert!(!code(&b).rets()[0].emulated);
    }

    #[test]
    fn exit_is_the_last_branch_that_all_paths_pass_once() {
        // 0: test; 2: je 6; 4: xor ecx,ecx; 6: jne 9 (both ways); 8: nop; 9: ret
        let b = [0x85, 0xc0, 0x74, 0x02, 0x31, 0xc9, 0x75, 0x01, 0xf8, 0xc3];
        let site = code(&b).exit_branch(|_| false).expect("has one");
        assert_eq!((site.offset, site.emulated), (6, true));
    }

    #[test]
    fn exit_is_never_in_a_loop_and_ignores_panics() {
        // 0: je 4; 2: jmp 6 … loop: 6: dec eax; 8: jne 6; 10: ret; then a throw
        let b = [
            0x75, 0x09, // 0: jne 11 (the throw)
            0xff, 0xc8, // 2: dec eax
            0x75, 0xfc, // 4: jne 2 (loop)
            0x31, 0xc0, 0x31, 0xdb, // 6
            0xc3, // 10
            0xe8, 0, 0, 0, 0, // 11: call throw
            0x0f, 0x0b, // ud2
        ];
        // The loop's jne runs many times and the jne at 0 is the entry's own check.
        assert!(matches!(code(&b).exit_branch(|_| false), Err(SiteError::NoExitBranch(_))));
        // With a jump after the loop there is one.
        let b = [
            0x31, 0xc0, // 0
            0xff, 0xc8, // 2: dec eax
            0x75, 0xfc, // 4: jne 2
            0x74, 0x01, // 6: je 9 (the throw)
            0xc3, // 8
            0xe8, 0, 0, 0, 0, // 9: call throw
            0x90, 0xeb, 0xef, // nop; jmp 0
        ];
        let throw = VA + 14;
        assert_eq!(code(&b).exit_branch(|t| t == throw).expect("one").offset, 6);
        // If throw came back, the branch would lie in a loop.
        assert!(code(&b).exit_branch(|_| false).is_err());
    }

    #[test]
    fn the_kernel_s_emulated_instructions() {
        for raw in [
            &[0x55_u8][..],
            &[0x41, 0x54],
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x44, 0, 0],
            &[0xe8, 0, 0, 0, 0],
            &[0xe9, 0, 0, 0, 0],
            &[0xeb, 0],
            &[0x75, 0],
            &[0x0f, 0x84, 0, 0, 0, 0],
        ] {
            assert!(emulated(raw), "{raw:02x?}");
        }
        for raw in [
            &[0xc3_u8][..],
            &[0x49, 0x3b, 0x66, 0x10],
            &[0x66, 0xe9, 0, 0],
            &[0xff, 0xd0],
            &[0x0f, 0x1f, 0x44, 0, 1],
            &[0x5d],
            &[0xff, 0x30],
            &[],
        ] {
            assert!(!emulated(raw), "{raw:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            va in prop_oneof![any::<u64>(), u64::MAX - 400..=u64::MAX, 0..400_u64],
        ) {
            if let Ok(code) = FunctionCode::decode(&bytes, va, 0) {
                let _ = code.entry_push();
                let _ = code.exit_branch(|t| t % 2 == 0);
                let _ = code.calls_to(va);
            }
        }
    }
}
