//! Verdicts on drawn scenes, and the conservation law on generated ones.

use g211s_ebpf::event::{SliceEvent, ThreadEvent};
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
    Blocked, NonpreemptibleCode, RunqueueWait, RuntimeWork, Unexplained, Uninterruptible,
    WakeupLatency,
};

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
    let v = explain(&s, &scene.threads(), &scene.cpus());
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
    let v = explain(&s, &scene.threads(), &scene.cpus());
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
    let v = explain(&s, &scene.threads(), &scene.cpus());
    assert_eq!(told(&v)[0], (Blocked, 1, None, 50));
    assert_eq!(v.causes[0].key.syscall, Some(202));
    assert_eq!(syscall_name(202), Some("futex"));
}

#[test]
fn a_stop_without_gcstopm_names_nobody() {
    let scene =
        Scene::new(10).thread(1, "==____===", "000000000").thread(2, "======___", "111111111");
    let v = explain(&stop(&scene, 1, 7, 9, &[]), &scene.threads(), &scene.cpus());
    assert_eq!(
        told(&v),
        [(Unexplained, 1, None, 40), (RuntimeWork, 1, None, 20), (RuntimeWork, 1, None, 20)]
    );
    assert_eq!(v.causes[0].key.why, Some(UNSEEN_LAGGARD));
}

#[test]
fn the_stopped_phase_is_the_stoppers() {
    let scene =
        Scene::new(10).thread(1, "===DD=pp=", "000000000").cpu(0, "111..12.1", &[(2, "kworker")]);
    let v = explain(&stop(&scene, 1, 2, 9, &[]), &scene.threads(), &scene.cpus());
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

#[test]
fn threads_never_seen_are_unexplained() {
    let scene = Scene::new(10);
    let v = explain(&stop(&scene, 1, 5, 9, &[(3, 2)]), &scene.threads(), &scene.cpus());
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
                (false, _) => '_',
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
        scene = scene.thread(t as u32 + 1, &states[t], &queues[t]);
    }
    for (cpu, line) in runners.iter().enumerate() {
        scene = scene.cpu(cpu as u16, line, &[(8, "eight"), (9, "nine")]);
    }
    scene
}

fn by_key(v: &Verdict) -> BTreeMap<CauseKey, u64> {
    v.causes.iter().map(|c| (c.key, c.ns)).collect()
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
    ) {
        let scene = machine(&choices);
        let n = choices.len();
        let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(n + 1)).collect();
        cuts.sort_unstable();
        let mut gave_up: Vec<(usize, u32)> =
            gave_up.iter().map(|(i, tid)| (cuts[0] + i.index(cuts[1] - cuts[0] + 1), *tid)).collect();
        gave_up.sort_unstable();
        let stop = stop(&scene, cuts[0], cuts[1], cuts[2], &gave_up);
        let total = stop.end_ns - stop.start_ns;
        let whole = explain(&stop, &scene.threads(), &scene.cpus());
        let sum: u64 = whole.causes.iter().map(|c| c.ns).sum();
        prop_assert_eq!(sum, total);
        prop_assert_eq!(whole.explained_ns + whole.unexplained_ns, total);
        // With all evidence, only a sleep that nobody's wake-up ends is unexplained.
        for c in &whole.causes {
            prop_assert_ne!(c.key.why, Some(NO_EVIDENCE));
        }

        let transitions: Vec<ThreadEvent> = lose(&scene.transitions, &lost_transitions);
        let slices: Vec<SliceEvent> = lose(&scene.slices, &lost_slices);
        let mut part = Scene::new(10);
        (part.transitions, part.slices) = (transitions, slices);
        let less = explain(&stop, &part.threads(), &part.cpus());
        let sum: u64 = less.causes.iter().map(|c| c.ns).sum();
        prop_assert_eq!(sum, total);
        prop_assert_eq!(less.explained_ns + less.unexplained_ns, total);
        prop_assert!(less.unexplained_ns >= whole.unexplained_ns);
        let whole = by_key(&whole);
        for (key, ns) in by_key(&less) {
            // A culprit is named for no longer than the whole evidence names it.
            if key.behind.is_some() || key.kind == WakeupLatency {
                prop_assert!(ns <= whole.get(&key).copied().unwrap_or(0), "{:?}", key);
            }
        }
    }
}
