//! Verdicts on drawn scenes, and the conservation law on generated ones.

use g211s_ebpf::event::{SliceEvent, THREAD_KEPT_OFF_AGAIN, ThreadEvent};
use proptest::prelude::*;

use super::*;
use crate::model::{ascii::Scene, stw::EndEvidence};

/// Characters of a scene → a stop by thread 1.
fn stop(scene: &Scene, start: usize, stopped: usize, end: usize, gave_up: &[(usize, u32)]) -> Stop {
    Stop {
        n: 1,
        reason: 1,
        stopper_tid: 1,
        start_ns: scene.at(start),
        told_ns: Some(scene.at(start)),
        stopped_at_ns: scene.at(stopped),
        end_ns: scene.at(end),
        end_evidence: EndEvidence::StartNow,
        runtime_stopping_ns: None,
        runtime_total_ns: None,
        gave_up: gave_up.iter().map(|&(i, tid)| (scene.at(i), tid)).collect(),
        ends_cycle: true,
        marks: crate::model::stw::Marks::default(),
    }
}

/// (kind, tid, behind whom, ns), longest first.
fn told(v: &Verdict) -> Vec<(CauseKind, u32, Option<u32>, u64)> {
    v.causes.iter().map(|c| (c.key.kind, c.key.tid, c.key.behind.map(|b| b.tid), c.ns)).collect()
}

use CauseKind::{
    Blocked, CfsThrottled, IrqSoftirq, NonpreemptibleCode, PageFault, RunqueueWait, RuntimeWork,
    StoppedBySignal, SyscallReturn, Unexplained, Uninterruptible, VmSteal, WakeupLatency,
};

#[test]
fn a_lock_whose_holder_waits_behind_a_hog() {
    let scene = || {
        Scene::new(10)
            //          0         1         2
            //          012345678901234567890123
            .thread(1, "====___________w========", "000000000000000000000000")
            .thread(2, "=====pppppppp===________", "111111111111111111111111")
            .cpu(1, "222229999999922222222222", &[(9, "stress")])
    };
    let s = stop(&scene(), 1, 2, 20, &[]);
    let told_of =
        |scene: &Scene| told(&explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks()));
    // 4 and 13..15: the holder works. 5..13: it waits.
    let with_holder = told_of(&scene().woken_by(1, 2));
    assert_eq!(with_holder[0], (RunqueueWait, 2, Some(9), 80));
    assert!(with_holder.contains(&(Blocked, 1, None, 30)), "{with_holder:?}");
    // The same, one lock further: 3 held what 2 waited for.
    let chain = Scene::new(10)
        .thread(1, "====___________w========", "000000000000000000000000")
        .thread(2, "=====________w==________", "222222222222222222222222")
        .thread(3, "=====ppppppp====________", "111111111111111111111111")
        .cpu(1, "333339999999333333333333", &[(9, "stress")])
        .cpu(2, "222220000000022222222222", &[])
        .woken_by(1, 2)
        .woken_by(2, 3);
    assert_eq!(told_of(&chain)[0], (RunqueueWait, 3, Some(9), 70));
    // Nobody is known to have woken it, or nothing is known of who did.
    assert!(told_of(&scene()).contains(&(Blocked, 1, None, 110)));
    let foreign = told_of(&scene().woken_by(1, 77));
    assert!(foreign.contains(&(Unexplained, 1, None, 110)), "{foreign:?}");
}

#[test]
fn a_laggard_behind_a_hog() {
    let scene = Scene::new(10)
        //          0         1         2
        //          012345678901234567890123
        .thread(1, "===____________w========", "000000000000000000000000")
        .thread(2, "==pppppppppp===_________", "111111111111111111111111")
        .cpu(1, "229999999999222", &[(9, "stress")])
        .cpu(0, "111000000000000011111111", &[]);
    let s = stop(&scene, 2, 17, 20, &[(14, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(
        told(&v),
        [
            // 3..12: the stopper sleeps, the laggard waits behind the hog.
            (RunqueueWait, 2, Some(9), 90),
            // 17..20, and 2..3 and 16..17 in stopping.
            (RuntimeWork, 1, None, 30),
            (RuntimeWork, 1, None, 20),
            // 12..14
            (NonpreemptibleCode, 2, None, 20),
            // 14..15: the laggard on its way to wake the stopper.
            (RuntimeWork, 2, None, 10),
            // 15..16: the CPU idled.
            (WakeupLatency, 1, None, 10),
        ]
    );
    assert_eq!((v.explained_ns, v.unexplained_ns), (180, 0));
    let roles: Vec<(u32, Role)> = v.involved.iter().map(|i| (i.tid, i.role)).collect();
    assert_eq!(roles, [(1, Role::Stopper), (2, Role::Laggard)]);
    let laggard = &v.involved[1];
    assert_eq!(
        laggard.stopping,
        PhaseTimes { on_cpu_ns: 30, runnable_ns: 100, blocked_ns: 20, unknown_ns: 0 }
    );
    assert_eq!(laggard.behind[0].0.tid, 9);
    assert_eq!(laggard.behind[0].1, 100);
}

#[test]
fn a_stopper_preempted_before_it_told_anyone() {
    let scene = Scene::new(10)
        .thread(1, "===ppppppp==___==", "00000000000000000")
        .thread(2, "==============___", "11111111111111111")
        .cpu(0, "111999999911000", &[(9, "hog")]);
    let s = stop(&scene, 2, 15, 17, &[(14, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(
        told(&v)[..2],
        [(RunqueueWait, 1, Some(9), 70), (RuntimeWork, 1, None, 30)],
        "the laggard ran on, but nobody had told it to stop"
    );
    assert_eq!(v.explained_ns + v.unexplained_ns, 150);
}

#[test]
fn waiting_for_sched_lock_is_the_stoppers_own() {
    let scene =
        Scene::new(10).thread(1, "=_____===", "000000000").thread(2, "======___", "111111111");
    let mut s = stop(&scene, 1, 7, 9, &[(6, 2)]);
    s.told_ns = Some(scene.at(6));
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(told(&v)[0], (Blocked, 1, None, 50));
    assert_eq!(v.causes[0].key.syscall, Some(202));
    assert_eq!(syscall_name(202), Some("futex"));
}

#[test]
fn a_stop_without_gcstopm_names_nobody() {
    let scene =
        Scene::new(10).thread(1, "==____===", "000000000").thread(2, "======___", "111111111");
    let v = explain(&stop(&scene, 1, 7, 9, &[]), &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(
        told(&v),
        [(Unexplained, 1, None, 40), (RuntimeWork, 1, None, 20), (RuntimeWork, 1, None, 20)]
    );
    assert_eq!(v.causes[0].key.why, Some(UNSEEN_LAGGARD));
}

/// (kind, function, line, system call, ns) of the laggard's causes while it ran.
fn coded(scene: &Scene, v: &Verdict) -> Vec<(CauseKind, String, i32, u64)> {
    let stacks = scene.stacks();
    let ran = v.causes.iter().filter(|c| matches!(c.key.kind, NonpreemptibleCode | SyscallReturn));
    ran.map(|c| {
        let code = c.key.code.and_then(|id| stacks.code(id));
        let name = code.map_or("?".to_owned(), |c| c.place.function.to_string());
        (c.key.kind, name, c.key.syscall.unwrap_or(-1), c.ns)
    })
    .collect()
}

#[test]
fn a_laggard_in_code_that_is_not_preempted() {
    let scene = Scene::new(10)
        //          0         1         2
        //          012345678901234567890123
        .thread(1, "===____________w========", "000000000000000000000000")
        .thread(2, "=====================___", "111111111111111111111111")
        .code(2, " b a a a    b             ");
    let s = stop(&scene, 2, 17, 20, &[(14, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(
        coded(&scene, &v),
        [
            // From 3, where the stopper sleeps, to halfway between the samples at 7 and 12. What it was in at
            // 1, before the stop, is of no account.
            (NonpreemptibleCode, "main.a".to_owned(), -1, 65),
            (NonpreemptibleCode, "main.b".to_owned(), -1, 45),
        ]
    );
    assert_eq!(v.explained_ns, 180);
}

#[test]
fn a_laggard_that_comes_from_a_system_call() {
    let scene = Scene::new(10)
        .thread(1, "===_________===", "000000000000000")
        .thread(2, "==========_____", "111111111111111")
        .code(2, "       ! a");
    let s = stop(&scene, 2, 12, 14, &[(10, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(
        coded(&scene, &v),
        [(SyscallReturn, "?".to_owned(), 1, 50), (NonpreemptibleCode, "main.a".to_owned(), -1, 20),]
    );
}

#[test]
fn a_stretch_in_which_nobody_looked_has_no_code() {
    let scene = Scene::new(10)
        .thread(1, "===_________===", "000000000000000")
        .thread(2, "=====pp===_____", "111111111111111")
        .code(2, "  a        a");
    let s = stop(&scene, 2, 12, 14, &[(10, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(
        coded(&scene, &v),
        [
            (NonpreemptibleCode, "?".to_owned(), -1, 30),
            (NonpreemptibleCode, "main.a".to_owned(), -1, 20),
        ],
        "neither what it was in before it was preempted, nor after it gave its P up"
    );
}

#[test]
fn a_stay_on_the_cpu_in_which_nobody_looked_is_what_those_around_it_agree_on() {
    let told = |seen: &str| {
        let scene = Scene::new(10)
            //          0         1         2
            //          012345678901234567890
            .thread(1, "===_______________===", "000000000000000000000")
            .thread(2, "=====ppp====pp==_____", "111111111111111111111")
            .code(2, seen);
        let s = stop(&scene, 2, 18, 20, &[(16, 2)]);
        coded(&scene, &explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks()))
    };
    let code = |name: &str, ns| (NonpreemptibleCode, name.to_owned(), -1, ns);
    assert_eq!(told("   a          a "), [code("main.a", 80)]);
    let unknown = [code("?", 40), code("main.a", 20), code("main.b", 20)];
    assert_eq!(told("   a          b "), unknown);
    assert_eq!(told("   a             a")[..], [code("?", 60), code("main.a", 20)]);
}

#[test]
fn lines_of_one_function_are_one_cause() {
    let key = |function, place| CauseKey {
        kind: NonpreemptibleCode,
        why: None,
        code: Some(CodeId::of(function, place)),
        ..CauseKey::unexplained(Phase::Stopping, 1, "")
    };
    let causes =
        BTreeMap::from([(key(1, 1), 10), (key(1, 2), 30), (key(1, 3), 20), (key(2, 4), 5)]);
    let merged: Vec<_> = by_function(causes).into_iter().map(|c| (c.key.code, c.ns)).collect();
    assert_eq!(merged, [(Some(CodeId::of(1, 2)), 60), (Some(CodeId::of(2, 4)), 5)]);
}

#[test]
fn the_stopped_phase_is_the_stoppers() {
    let scene =
        Scene::new(10).thread(1, "===DD=pp=", "000000000").cpu(0, "111..12.1", &[(2, "kworker")]);
    let v = explain(&stop(&scene, 1, 2, 9, &[]), &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(
        told(&v),
        [
            (RuntimeWork, 1, None, 30),
            (Uninterruptible, 1, None, 20),
            (RuntimeWork, 1, None, 10),
            (RunqueueWait, 1, None, 10),
            (RunqueueWait, 1, Some(2), 10),
        ]
    );
}

/// A laggard that does `states` on CPU 1 while the stopper sleeps, until it runs and gives its P up.
fn late(states: &str, tell: impl FnOnce(Scene) -> Scene) -> Verdict {
    let n = states.len();
    let cpu = "1".repeat(n + 4);
    let scene = Scene::new(10)
        .thread(1, &format!("=={}==", "_".repeat(n)), &"0".repeat(n + 4))
        .thread(2, &format!("=={states}__"), &cpu)
        .cpu(1, &format!("22{}00", "0".repeat(n)), &[]);
    let scene = tell(scene);
    let s = stop(&scene, 1, n + 2, n + 4, &[(n + 2, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(v.explained_ns + v.unexplained_ns, s.end_ns - s.start_ns);
    v
}

#[test]
fn a_quota_is_no_waiting_behind_others() {
    let v = late("pppppp=", |s| s.tell(2, 3, |e| (e.kept_off_ns, e.kept_off_after_ns) = (45, 5)));
    assert_eq!(
        told(&v)[..2],
        [(CfsThrottled, 2, None, 45), (RuntimeWork, 1, None, 20)],
        "whatever ran there meanwhile"
    );
    let idle = told(&v).into_iter().find(|c| c.0 == WakeupLatency);
    assert_eq!(idle, Some((WakeupLatency, 2, None, 15)), "before and after it");
    assert_eq!(v.causes[0].key.wait, Some(Wait::Preempted));
}

#[test]
fn a_quota_that_runs_out_again_is_where_the_cpu_idles() {
    let scene = Scene::new(10)
        .thread(1, "==__________==", "00000000000000")
        .thread(2, "==pppppppp==__", "11111111111111")
        .cpu(1, "220033900022..", &[(9, "hog")])
        .tell(2, 3, |e| (e.kept_off_ns, e.flags) = (55, THREAD_KEPT_OFF_AGAIN));
    let s = stop(&scene, 1, 12, 14, &[(12, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    // 20 idle, 20 behind our own thread 3, 10 behind the hog, 30 idle: the 5 left are the first that was not.
    let of = |kind, behind| told(&v).iter().find(|c| c.0 == kind && c.2 == behind).map(|c| c.3);
    assert_eq!(of(CfsThrottled, None), Some(55));
    assert_eq!(of(RunqueueWait, Some(3)), Some(15));
    assert_eq!(of(RunqueueWait, Some(9)), Some(10));
    assert_eq!(of(WakeupLatency, None), None);
}

#[test]
fn sleeps_of_a_laggard_are_told_apart() {
    let asleep =
        |states, syscall| told(&late(states, |s| s.tell(2, 3, |e| e.syscall = syscall)))[0];
    assert_eq!(asleep("DDDDDD=", -1), (PageFault, 2, None, 60));
    assert_eq!(asleep("DDDDDD=", 74), (Uninterruptible, 2, None, 60));
    assert_eq!(asleep("DDDDDD=", NO_SYSCALL), (Uninterruptible, 2, None, 60), "not known");
    assert_eq!(asleep("______=", 35), (SyscallReturn, 2, None, 60));
    assert_eq!(asleep("______=", 202), (Blocked, 2, None, 60), "parked");
    assert_eq!(asleep("______=", 281), (Blocked, 2, None, 60), "polling");
    assert_eq!(asleep("______=", NO_SYSCALL), (Blocked, 2, None, 60));
    assert_eq!(asleep("TTTTTT=", 202), (StoppedBySignal, 2, None, 60));
}

#[test]
fn what_a_cpu_missed_is_not_its_threads_work() {
    let v = late("=======", |s| s.tell(2, 3, |e| (e.irq_ns, e.kept_off_ns) = (30, 45)));
    // It ran for 89 ns, of which 70 are on the path: 19 of each may lie outside.
    assert_eq!(
        told(&v)[..3],
        [(NonpreemptibleCode, 2, None, 33), (VmSteal, 2, None, 26), (RuntimeWork, 1, None, 20)]
    );
    assert!(told(&v).contains(&(IrqSoftirq, 2, None, 11)));
    let steal = v.causes.iter().find(|c| c.key.kind == VmSteal).unwrap();
    assert_eq!(steal.key.cpu, Some(1));
}

#[test]
fn a_signal_that_stops_all_threads() {
    // The stopper is stopped too, in its sleep; after SIGCONT the laggard goes on and wakes it.
    let scene = Scene::new(10)
        .thread(1, "==__=TTTTTTTT___=====", "000000000000000000000")
        .thread(2, "=====TTTTTTTT==______", "111111111111111111111")
        .thread(3, "==___TTTTTTTT________", "111111111111111111111");
    let s = stop(&scene, 1, 16, 19, &[(2, 3), (15, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(told(&v)[0], (StoppedBySignal, 2, None, 80));
    assert_eq!(v.unexplained_ns, 10, "from giving its P up to waking the stopper, asleep");

    // Stopped while the world is: the stopper's own time.
    let scene = Scene::new(10).thread(1, "====TTTTTTTT====", "0000000000000000").thread(
        2,
        "==__TTTTTTTT____",
        "1111111111111111",
    );
    let s = stop(&scene, 1, 3, 14, &[(2, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(told(&v)[0], (StoppedBySignal, 1, None, 80));
    assert_eq!(v.unexplained_ns, 0);

    // Stopped after the laggard gave its P up, before the stopper took notice.
    let scene = Scene::new(10).thread(1, "==___TTTTTTTT====", "00000000000000000").thread(
        2,
        "====_TTTTTTTT____",
        "11111111111111111",
    );
    let s = stop(&scene, 1, 14, 16, &[(4, 2)]);
    let v = explain(&s, &scene.threads(), &scene.cpus(), &scene.stacks());
    assert_eq!(told(&v)[0], (StoppedBySignal, 1, None, 80));
}

#[test]
fn threads_never_seen_are_unexplained() {
    let scene = Scene::new(10);
    let v = explain(
        &stop(&scene, 1, 5, 9, &[(3, 2)]),
        &scene.threads(),
        &scene.cpus(),
        &scene.stacks(),
    );
    assert_eq!((v.explained_ns, v.unexplained_ns), (0, 80));
    assert_eq!(v.involved, []);
}

/// A consistent machine: in each unit of time each CPU runs one task, and threads of the target
/// (tids 1, 2 and 3) run, wait on the CPU's queue or sleep. Drawn from one choice per unit.
fn machine(choices: &[(u8, u8)]) -> Scene {
    let mut states = [String::new(), String::new(), String::new()];
    let mut queues = [String::new(), String::new(), String::new()];
    let mut runners = [String::new(), String::new()];
    for &(who, where_) in choices {
        // CPU 0 and 1 run: one of the threads assigned to them, a stranger (8, 9) or idle.
        let mut ran =
            [b'0' + [0, 8, 9][usize::from(who % 3)], b'0' + [9, 0, 8][usize::from(who / 3 % 3)]];
        for t in 0..3usize {
            let bits = where_ >> (2 * t);
            let cpu = usize::from(bits & 1);
            let awake = bits & 2 != 0;
            let on_cpu = awake && who >> (4 + t) & 1 == 1 && ran[cpu] > b'3';
            if on_cpu {
                ran[cpu] = b'1' + t as u8;
            }
            states[t].push(match (awake, on_cpu) {
                (false, _) => ['_', '_', 'D', 'T'][usize::from(where_ >> 6)],
                (true, true) => '=',
                (true, false) if states[t].ends_with(['=', 'p']) => 'p',
                (true, false) => 'w',
            });
            queues[t].push(char::from(b'0' + cpu as u8));
        }
        for (cpu, c) in ran.into_iter().enumerate() {
            runners[cpu].push(char::from(c));
        }
    }
    let mut scene = Scene::new(10);
    for t in 0..3 {
        // Where it runs, somebody looks now and then.
        let seen = |(i, c): (usize, char)| match (c, choices[i]) {
            ('=', (who, _)) if who % 5 < 2 => [' ', 'a', 'b', '!'][usize::from(who / 5 % 4)],
            _ => ' ',
        };
        let seen: String = states[t].chars().enumerate().map(seen).collect();
        scene = scene.code(t as u32 + 1, &seen);
        scene = scene.thread(t as u32 + 1, &states[t], &queues[t]);
    }
    for (cpu, line) in runners.iter().enumerate() {
        scene = scene.cpu(cpu as u16, line, &[(8, "eight"), (9, "nine")]);
    }
    scene
}

/// What events may say beside states: quotas, interrupts, steal and system calls, as far as an interval has
/// room for them.
fn say_more(scene: &mut Scene, more: &[(u8, u8)]) {
    for (e, &(a, b)) in scene.transitions.iter_mut().zip(more.iter().cycle()) {
        let share = |n: u8, of: u64| (of * u64::from(n % 100) / 100) as u32;
        let whole = e.header.ts_ns - e.queued_ns;
        if e.from == ThreadState::Running as u8 {
            e.irq_ns = share(a, whole);
            e.kept_off_ns = share(b, whole - u64::from(e.irq_ns));
        } else if ThreadState::from_u8(e.from).is_some_and(ThreadState::is_runnable) {
            e.kept_off_ns = share(a, whole);
            e.kept_off_after_ns = share(b, whole - u64::from(e.kept_off_ns));
            e.flags |= if b > 127 { THREAD_KEPT_OFF_AGAIN } else { 0 };
        } else {
            e.syscall = [-1, NO_SYSCALL, SYS_FUTEX, 35, 74][usize::from(a % 5)];
        }
    }
}

/// Time by kind of cause and thread, without what names nobody and nothing. What a thread did on a CPU (in a
/// system call too, as stacks tell) is one kind: of a part of a stay there it is not known what of it interrupts and the hypervisor took, and what is
/// not certain counts as the thread's own.
fn by_kind(v: &Verdict) -> BTreeMap<(CauseKind, u32), u64> {
    let mut all = BTreeMap::new();
    for c in &v.causes {
        let (kind, tid) = (c.key.kind, c.key.tid);
        if kind == Unexplained || (kind == RunqueueWait && c.key.behind.is_none()) {
            continue;
        }
        let on_cpu =
            matches!(kind, RuntimeWork | NonpreemptibleCode | SyscallReturn | VmSteal | IrqSoftirq);
        *all.entry((if on_cpu { RuntimeWork } else { kind }, tid)).or_insert(0) += c.ns;
        if matches!(kind, VmSteal | IrqSoftirq) {
            *all.entry((kind, tid)).or_insert(0) += c.ns;
        }
    }
    all
}

/// Causes, as if nobody had looked what a running laggard was in.
fn without_code(v: &Verdict) -> BTreeMap<CauseKey, u64> {
    let mut out = BTreeMap::new();
    for c in &v.causes {
        let key = match c.key.kind {
            NonpreemptibleCode | SyscallReturn => {
                CauseKey { kind: NonpreemptibleCode, code: None, syscall: None, ..c.key }
            }
            _ => c.key,
        };
        *out.entry(key).or_insert(0) += c.ns;
    }
    out
}

fn lose<T: Copy>(all: &[T], lost: &[bool]) -> Vec<T> {
    let kept = |i: usize| !lost.get(i).copied().unwrap_or(false);
    all.iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, e)| *e).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn causes_sum_to_the_stop_and_lost_evidence_only_removes_explanation(
        choices in prop::collection::vec((any::<u8>(), any::<u8>()), 10..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 3),
        gave_up in prop::collection::vec((any::<prop::sample::Index>(), 2u32..4), 0..4),
        lost_transitions in prop::collection::vec(any::<bool>(), 0..200),
        lost_slices in prop::collection::vec(any::<bool>(), 0..200),
        tenth in prop::collection::vec(0u8..10, 400),
        more in prop::collection::vec((any::<u8>(), any::<u8>()), 1..30),
        lost_stacks in prop::collection::vec(any::<bool>(), 0..200),
        wakers in prop::array::uniform2(0u32..5),
    ) {
        let mut scene = machine(&choices);
        say_more(&mut scene, &more);
        let [first, second] = wakers;
        let scene = scene.woken_by(1, first).woken_by(2, second).woken_by(3, 2);
        let n = choices.len();
        let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(n + 1)).collect();
        cuts.sort_unstable();
        let mut gave_up: Vec<(usize, u32)> =
            gave_up.iter().map(|(i, tid)| (cuts[0] + i.index(cuts[1] - cuts[0] + 1), *tid)).collect();
        gave_up.sort_unstable();
        let stop = stop(&scene, cuts[0], cuts[1], cuts[2], &gave_up);
        let total = stop.end_ns - stop.start_ns;
        let whole = explain(&stop, &scene.threads(), &scene.cpus(), &scene.stacks());
        let sum: u64 = whole.causes.iter().map(|c| c.ns).sum();
        prop_assert_eq!(sum, total);
        prop_assert_eq!(whole.explained_ns + whole.unexplained_ns, total);
        // With all evidence, only a sleep that nobody's wake-up ends is unexplained.
        for c in &whole.causes {
            prop_assert_ne!(c.key.why, Some(NO_EVIDENCE));
        }

        // A lost stack takes a name and nothing else.
        let mut nameless = scene.clone();
        nameless.stacks = lose(&scene.stacks, &lost_stacks);
        let nameless = explain(&stop, &scene.threads(), &scene.cpus(), &nameless.stacks());
        prop_assert_eq!(without_code(&nameless), without_code(&whole));
        // Half of the events lost, and a tenth.
        let tenth: Vec<bool> = tenth.iter().map(|n| *n == 0).collect();
        let (some, others) = tenth.split_at(tenth.len() / 2);
        for (lost_transitions, lost_slices) in
            [(&lost_transitions[..], &lost_slices[..]), (some, others)]
        {
            let transitions: Vec<ThreadEvent> = lose(&scene.transitions, lost_transitions);
            let slices: Vec<SliceEvent> = lose(&scene.slices, lost_slices);
            let mut part = Scene::new(10);
            (part.transitions, part.slices) = (transitions, slices);
            let less = explain(&stop, &part.threads(), &part.cpus(), &scene.stacks());
            let sum: u64 = less.causes.iter().map(|c| c.ns).sum();
            prop_assert_eq!(sum, total);
            prop_assert_eq!(less.explained_ns + less.unexplained_ns, total);
            prop_assert!(less.unexplained_ns >= whole.unexplained_ns);
            let all: BTreeMap<CauseKey, u64> = whole.causes.iter().map(|c| (c.key, c.ns)).collect();
            for c in &less.causes {
                // A culprit is named for no longer than the whole evidence names it.
                if c.key.behind.is_some() {
                    prop_assert!(c.ns <= all.get(&c.key).copied().unwrap_or(0), "{:?}", c.key);
                }
            }
            let all = by_kind(&whole);
            for (key, ns) in by_kind(&less) {
                prop_assert!(ns <= all.get(&key).copied().unwrap_or(0), "{:?}", key);
            }
        }
    }
}
