//! The few facts of this kernel's types that the BPF programs need, read from its BTF
//! (`/sys/kernel/btf/vmlinux`, format: kernel `Documentation/bpf/btf.rst`). Must not know
//! aya or what the facts are for. The input is the kernel's, but every length is checked all the same.

use std::collections::HashMap;

/// Why BTF cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// The bytes are not BTF of the known version and this byte order.
    #[error("the kernel's BTF is malformed: {0}")]
    Malformed(&'static str),
    /// A type or field is not there.
    #[error("the kernel's BTF has no {0}")]
    Missing(String),
}

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_PTR: u32 = 2;

/// Types of a kernel, indexed by id.
pub struct KernelBtf<'a> {
    types: Vec<Type<'a>>,
    strings: &'a [u8],
    structs: HashMap<&'a [u8], u32>,
}

struct Type<'a> {
    kind: u32,
    kind_flag: bool,
    vlen: usize,
    /// Size, or the type that a pointer or typedef is of.
    size_or_ref: u32,
    name: u32,
    rest: &'a [u8],
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> KernelBtf<'a> {
    /// Indexes BTF.
    ///
    /// # Errors
    /// [`BtfError::Malformed`] if any length does not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let bad = BtfError::Malformed;
        let word = |at| u32_at(bytes, at).ok_or(BtfError::Malformed("short header"));
        if bytes.get(..2) != Some(&0xeb9f_u16.to_ne_bytes()) {
            return Err(bad("wrong magic"));
        }
        let section = |off: u32, len: u32| -> Result<&'a [u8], BtfError> {
            let start = (word(4)? as usize).checked_add(off as usize).ok_or(bad("offset"))?;
            let end = start.checked_add(len as usize).ok_or(bad("length"))?;
            bytes.get(start..end).ok_or(bad("a section lies outside"))
        };
        let types_bytes = section(word(8)?, word(12)?)?;
        let strings = section(word(16)?, word(20)?)?;

        let mut btf = Self { types: Vec::new(), strings, structs: HashMap::new() };
        // Id 0 is `void`.
        btf.types.push(Type {
            kind: 0,
            kind_flag: false,
            vlen: 0,
            size_or_ref: 0,
            name: 0,
            rest: &[],
        });
        let mut at = 0;
        while at < types_bytes.len() {
            let field = |i: usize| u32_at(types_bytes, at + 4 * i).ok_or(bad("a type is cut off"));
            let (name, info, size_or_ref) = (field(0)?, field(1)?, field(2)?);
            let (kind, vlen) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let extra = match kind {
                1 | 14 | 17 => 4,
                2 | 7..=12 | 16 | 18 => 0,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * vlen,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * vlen,
                _ => return Err(bad("a kind is unknown")),
            };
            let start = at + 12;
            let rest = types_bytes.get(start..start + extra).ok_or(bad("a type is cut off"))?;
            let id = btf.types.len() as u32;
            btf.types.push(Type {
                kind,
                kind_flag: info >> 31 != 0,
                vlen,
                size_or_ref,
                name,
                rest,
            });
            if kind == KIND_STRUCT {
                btf.structs.entry(btf.string(name)).or_insert(id);
            }
            at = start + extra;
        }
        Ok(btf)
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let s = self.strings.get(offset as usize..).unwrap_or_default();
        &s[..s.iter().position(|&b| b == 0).unwrap_or(s.len())]
    }

    /// Offset in bytes of a field, which may be nested (`thread_info.cpu`) and may lie within
    /// anonymous structs and unions.
    ///
    /// # Errors
    /// [`BtfError::Missing`] if there is no such struct or field.
    pub fn offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(format!("{structure}.{path}"));
        let mut id = *self.structs.get(structure.as_bytes()).ok_or_else(missing)?;
        let mut bits = 0_u32;
        for name in path.split('.') {
            let (offset, of) = self.member(id, name.as_bytes(), 0).ok_or_else(missing)?;
            bits = offset.checked_add(bits).ok_or_else(missing)?;
            id = self.strip(of);
        }
        Ok(bits / 8)
    }

    /// Bit offset and type of a member.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        let t = self.types.get(id as usize)?;
        if !matches!(t.kind, KIND_STRUCT | KIND_UNION) || depth > 8 {
            return None;
        }
        for i in 0..t.vlen {
            let (n, of, off) =
                (u32_at(t.rest, 12 * i)?, u32_at(t.rest, 12 * i + 4)?, u32_at(t.rest, 12 * i + 8)?);
            let off = if t.kind_flag { off & 0x00ff_ffff } else { off };
            if self.string(n) == name {
                return Some((off, of));
            }
            if n == 0
                && let Some((inner, of)) = self.member(self.strip(of), name, depth + 1)
            {
                return Some((off.checked_add(inner)?, of));
            }
        }
        None
    }

    /// Follows typedefs and qualifiers.
    fn strip(&self, mut id: u32) -> u32 {
        for _ in 0..16 {
            match self.types.get(id as usize) {
                Some(t) if matches!(t.kind, KIND_TYPEDEF | 9..=11 | 18) => id = t.size_or_ref,
                _ => break,
            }
        }
        id
    }

    /// Number of arguments of a tracepoint (its first, the `void *` of the callback, left out).
    ///
    /// # Errors
    /// [`BtfError::Missing`] if the kernel has no such tracepoint.
    pub fn tracepoint_args(&self, tracepoint: &str) -> Result<usize, BtfError> {
        let name = format!("btf_trace_{tracepoint}");
        self.types
            .iter()
            .find(|t| t.kind == KIND_TYPEDEF && self.string(t.name) == name.as_bytes())
            .map(|t| self.strip(t.size_or_ref))
            .and_then(|id| self.types.get(id as usize))
            .filter(|t| t.kind == KIND_PTR)
            .and_then(|t| self.types.get(t.size_or_ref as usize))
            .filter(|t| t.kind == KIND_FUNC_PROTO)
            .and_then(|t| t.vlen.checked_sub(1))
            .ok_or_else(|| BtfError::Missing(format!("tracepoint {tracepoint}")))
    }
}

/// Where the kernel's epoll (`fs/eventpoll.c`) and file tables have what tells since when a socket is ready.
/// These are the kernel's own affair, so a kernel may lack any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpollOffsets {
    /// `task_struct.files`
    pub task_files: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.fd`
    pub fdt_fd: u32,
    /// `file.private_data`
    pub file_private: u32,
    /// `eppoll_entry.wait`
    pub eppoll_wait: u32,
    /// `eppoll_entry.base`
    pub eppoll_base: u32,
    /// `epitem.ep`
    pub epitem_ep: u32,
    /// `epitem.event.events`
    pub epitem_events: u32,
    /// `eventpoll.rdllist`
    pub ep_rdllist: u32,
    /// `eventpoll.ovflist`
    pub ep_ovflist: u32,
}

impl EpollOffsets {
    fn of(btf: &KernelBtf<'_>) -> Result<Self, BtfError> {
        Ok(Self {
            task_files: btf.offset("task_struct", "files")?,
            files_fdt: btf.offset("files_struct", "fdt")?,
            fdt_fd: btf.offset("fdtable", "fd")?,
            file_private: btf.offset("file", "private_data")?,
            eppoll_wait: btf.offset("eppoll_entry", "wait")?,
            eppoll_base: btf.offset("eppoll_entry", "base")?,
            epitem_ep: btf.offset("epitem", "ep")?,
            epitem_events: btf.offset("epitem", "event.events")?,
            ep_rdllist: btf.offset("eventpoll", "rdllist")?,
            ep_ovflist: btf.offset("eventpoll", "ovflist")?,
        })
    }
}

/// What the scheduler programs need to know of `task_struct` and the tracepoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.__state`, before 5.14 `state`
    pub task_state: u32,
    /// `task_struct.thread_info.cpu`, before 5.16 `cpu`
    pub task_cpu: u32,
    /// `task_struct.thread.fsbase`; 0: not known, and then nobody's goroutine is looked at.
    pub task_fsbase: u32,
    /// `sched_switch` passes `prev_state` (5.18+).
    pub has_prev_state: bool,
    /// What only the time of a socket's readiness needs.
    pub epoll: Result<EpollOffsets, BtfError>,
    /// How it counts CPU quotas; `None` where it does not (no `CONFIG_CFS_BANDWIDTH`).
    pub quota: Option<QuotaFacts>,
    /// How it counts what a CPU spends on no task; `None` where its queues are laid out otherwise.
    pub off_cpu: Option<OffCpuFacts>,
}

/// Where the kernel keeps for how long a quota kept a group of threads off a CPU. Offsets; see the
/// globals of the kernel side for their names in each version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaFacts {
    /// `task_struct.throttled`, 6.18+
    pub task_throttled: Option<u32>,
    /// `cfs_rq.tg`
    pub cfs_tg: u32,
    /// `cfs_rq.throttle_count`
    pub cfs_count: u32,
    /// Time off that is over.
    pub cfs_time: u32,
    /// When the present time off began (6.7+).
    pub cfs_since: Option<u32>,
    /// When the last time off began, over or not.
    pub cfs_begin: u32,
    /// The run queue's clock for that …
    pub rq_clock_of_begin: u32,
    /// … and what is to be taken from it.
    pub rq_lost: Option<u32>,
    /// `task_group.cfs_rq`
    pub tg_cfs_rq: u32,
}

/// Where the kernel keeps a run queue's clocks. Offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffCpuFacts {
    /// `task_struct.se.cfs_rq`
    pub task_cfs_rq: u32,
    /// `cfs_rq.rq`
    pub cfs_rq: u32,
    /// `rq.clock`
    pub rq_clock: u32,
    /// `rq.clock_task`
    pub rq_clock_task: u32,
    /// `rq.prev_irq_time`: there with `CONFIG_IRQ_TIME_ACCOUNTING`.
    pub rq_irq: Option<u32>,
    /// Whether `rq.clock_task` leaves out what the hypervisor took
    /// (`CONFIG_PARAVIRT_TIME_ACCOUNTING`).
    pub counts_steal: bool,
}

impl KernelFacts {
    /// Looks them up.
    ///
    /// # Errors
    /// [`BtfError`] if the BTF is malformed or lacks one of them.
    pub fn from_btf(bytes: &[u8]) -> Result<Self, BtfError> {
        let btf = KernelBtf::parse(bytes)?;
        let task = |path: &str| btf.offset("task_struct", path);
        Ok(Self {
            task_pid: task("pid")?,
            task_tgid: task("tgid")?,
            task_comm: task("comm")?,
            task_state: task("__state").or_else(|_| task("state"))?,
            task_cpu: task("thread_info.cpu").or_else(|_| task("cpu"))?,
            task_fsbase: task("thread.fsbase").unwrap_or(0),
            has_prev_state: btf.tracepoint_args("sched_switch")? >= 4,
            quota: quota_facts(&btf).ok(),
            off_cpu: off_cpu_facts(&btf).ok(),
            epoll: EpollOffsets::of(&btf),
        })
    }
}

fn quota_facts(btf: &KernelBtf<'_>) -> Result<QuotaFacts, BtfError> {
    let (cfs, rq) = (|path: &str| btf.offset("cfs_rq", path), |path: &str| btf.offset("rq", path));
    // 5.19 changed the clock, and then (6.7) counted by one that no frequency scales as well.
    let scaled = cfs("throttled_clock_pelt").ok();
    let (cfs_begin, rq_clock_of_begin, rq_lost) = match scaled {
        Some(begin) => (begin, rq("clock_pelt")?, Some(rq("lost_idle_time")?)),
        None => (cfs("throttled_clock_task")?, rq("clock_task")?, None),
    };
    let task_throttled = btf.offset("task_struct", "throttled").ok();
    let cfs_since = cfs("throttled_clock_self").ok();
    if task_throttled.is_some() && cfs_since.is_none() {
        return Err(BtfError::Missing("cfs_rq.throttled_clock_self".into()));
    }
    Ok(QuotaFacts {
        task_throttled,
        cfs_tg: cfs("tg")?,
        cfs_count: cfs("throttle_count")?,
        cfs_time: cfs("throttled_clock_self_time")
            .or_else(|_| cfs("throttled_clock_pelt_time"))
            .or_else(|_| cfs("throttled_clock_task_time"))?,
        cfs_since,
        cfs_begin,
        rq_clock_of_begin,
        rq_lost,
        tg_cfs_rq: btf.offset("task_group", "cfs_rq")?,
    })
}

fn off_cpu_facts(btf: &KernelBtf<'_>) -> Result<OffCpuFacts, BtfError> {
    let rq = |path: &str| btf.offset("rq", path);
    Ok(OffCpuFacts {
        task_cfs_rq: btf.offset("task_struct", "se.cfs_rq")?,
        cfs_rq: btf.offset("cfs_rq", "rq")?,
        rq_clock: rq("clock")?,
        rq_clock_task: rq("clock_task")?,
        rq_irq: rq("prev_irq_time").ok(),
        counts_steal: rq("prev_steal_time_rq").is_ok(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds BTF with `struct task_struct { struct { int pid; }; int other:8@bit 64 }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0task_struct\0pid\0int\0other\0";
        let (task, pid, int, other) = (1u32, 13u32, 17u32, 21u32);
        let mut types = Vec::new();
        let mut word = |w: u32| types.extend(w.to_ne_bytes());
        for w in [int, 1 << 24, 4, 0] {
            word(w); // 1: int
        }
        for w in [0, (4 << 24) | 1, 4, pid, 1, 32] {
            word(w); // 2: anonymous struct, pid at bit 32
        }
        for w in [task, (4 << 24) | 2, 16, 0, 2, 32, other, 1, 96] {
            word(w); // 3: task_struct, the anonymous one at bit 32, other at bit 96
        }
        let mut out = Vec::new();
        out.extend(0xeb9f_u16.to_ne_bytes());
        out.extend([1, 0]);
        for w in [24u32, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn fields_are_found_through_anonymous_structs() {
        let bytes = sample();
        let btf = KernelBtf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("task_struct", "pid"), Ok(8));
        assert_eq!(btf.offset("task_struct", "other"), Ok(12));
        assert!(matches!(btf.offset("task_struct", "nope"), Err(BtfError::Missing(_))));
        assert!(matches!(btf.offset("nope", "pid"), Err(BtfError::Missing(_))));
    }

    #[test]
    fn offsets_that_add_up_to_too_much_are_missing() {
        let mut bytes = sample();
        for offset in [32_u32, 96] {
            let at = bytes.windows(4).rposition(|w| w == offset.to_ne_bytes()).unwrap();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        }
        let btf = KernelBtf::parse(&bytes).unwrap();
        assert!(matches!(btf.offset("task_struct", "pid"), Err(BtfError::Missing(_))));
    }

    #[test]
    fn this_kernel_has_what_we_need() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            println!("skipped: no /sys/kernel/btf/vmlinux here");
            return;
        };
        let facts = KernelFacts::from_btf(&bytes).unwrap();
        assert_eq!(facts.task_tgid, facts.task_pid + 4, "pid and tgid stand side by side");
        let epoll = facts.epoll.unwrap();
        assert!(epoll.eppoll_wait > epoll.eppoll_base, "{epoll:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_indexed(bytes: Vec<u8>, cut in 0usize..400, flip in 0usize..200, with: u8) {
            let _ = KernelFacts::from_btf(&bytes);
            let mut mutated = sample();
            let at = flip % mutated.len();
            mutated[at] = with;
            mutated.truncate(cut);
            let _ = KernelFacts::from_btf(&mutated);
        }
    }
}
