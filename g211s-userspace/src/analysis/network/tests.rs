use g211s_ebpf::event::{EventKind, Header};
use proptest::prelude::*;

use super::*;
use crate::model::ascii::Scene;

const US: u64 = 1_000;

fn span(start_ns: u64, middle_ns: u64, end_ns: u64, tid: u32) -> SpanEvent {
    let header = Header { ts_ns: end_ns, kind: EventKind::Span as u8, target: 0, cpu: 0, tid };
    SpanEvent { header, what: SpanWhat::Harvest as u32, detail: 2, start_ns, middle_ns, id: 0 }
}

/// Takes a scene in the order of time; `spans` are told where they end.
fn lates(scene: &Scene, spans: &[SpanEvent], wakeups: bool) -> Lates {
    let (mut threads, cpus, mut lates) = (Threads::default(), scene.cpus(), Lates::default());
    let mut transitions = scene.transitions.clone();
    transitions.sort_by_key(|e| e.header.ts_ns);
    let mut spans = spans.to_vec();
    spans.sort_by_key(|e| e.header.ts_ns);
    let mut spans = spans.into_iter().peekable();
    for e in &transitions {
        while let Some(s) = spans.next_if(|s| s.header.ts_ns < e.header.ts_ns) {
            lates.harvest(&s, &threads, &cpus);
        }
        threads.apply(e);
        lates.evidence(e, &cpus);
        if wakeups {
            lates.wake(e, &threads, &cpus);
        }
    }
    spans.for_each(|s| lates.harvest(&s, &threads, &cpus));
    lates
}

fn polling(mut scene: Scene, tid: u32) -> Scene {
    for e in scene.transitions.iter_mut().filter(|e| e.header.tid == tid) {
        e.syscall = SYS_EPOLL_PWAIT;
        if ThreadState::from_u8(e.from).is_some_and(ThreadState::is_runnable) {
            e.flags |= THREAD_OUTLIER;
        }
    }
    scene
}

#[test]
fn a_wake_that_waits_behind_a_hog_while_the_others_idle_or_run() {
    // 5 idles all through and says so long after; 6 runs on the other CPU, then waits there.
    let scene = Scene::new(US)
        .thread(7, "==____wwwwww====", "0000000000000000")
        .thread(6, "========ppp=====", "1111111111111111")
        .thread(5, "______________==", "0000000000000000")
        .cpu(0, "77009999999977", &[(9, "hog")])
        .cpu(1, "66666666888666", &[(8, "other")]);
    let scene = polling(scene, 7);
    let lates = lates(&scene, &[], true);
    assert_eq!((lates.count, lates.worst.len()), (1, 1));
    let late = &lates.worst[0];
    assert_eq!((late.start_ns(), late.end_ns, late.tid), (6 * US, 12 * US, 7));
    assert_eq!(
        (late.ready_ns, late.woken_ns, late.running_ns()),
        (None, Some(6 * US), Some(12 * US))
    );
    let (causes, ms) = explain(late, &[]);
    assert_eq!(causes.len(), 1);
    assert_eq!((causes[0].kind, causes[0].ns), (LateKind::RunqueueWait, 6 * US));
    assert_eq!(causes[0].behind.unwrap().tid, 9);
    assert_eq!((ms.threads, ms.on_cpu_ns, ms.runnable_ns), (3, 3 * US, 9 * US));
    assert_eq!((ms.idle_ns, ms.unknown_ns, ms.stw_ns, ms.blocked_ns), (6 * US, 0, 0, 0));
    let behind: Vec<_> = ms.behind.iter().map(|(r, ns)| (r.tid, *ns)).collect();
    assert_eq!(behind, [(9, 6 * US), (8, 3 * US)]);
}

#[test]
fn ready_while_every_thread_is_busy_and_the_world_stops() {
    // Ready at 2; the world is stopped from 4 to 6; thread 7 polls at 10 without having slept.
    let scene = Scene::new(US).thread(7, "==============__", "0000000000000000").thread(
        5,
        "DDDDDDDDDDDDDDD=",
        "1111111111111111",
    );
    let lates = lates(&scene, &[span(2 * US, 0, 10 * US, 7)], false);
    let late = &lates.worst[0];
    assert_eq!((late.ready_ns, late.woken_ns, late.running_ns()), (Some(2 * US), None, None));
    assert_eq!((late.delay_ns(), late.events), (8 * US, Some(2)));
    let stops = [(US / 2, US), (4 * US, 6 * US), (20 * US, 21 * US)];
    let (causes, ms) = explain(late, &stops);
    let causes: Vec<_> = causes.iter().map(|c| (c.kind, c.ns)).collect();
    assert_eq!(causes, [(LateKind::Busy, 6 * US), (LateKind::StopTheWorld, 2 * US)]);
    assert_eq!((ms.stw_ns, ms.on_cpu_ns, ms.blocked_ns), (4 * US, 6 * US, 6 * US));
}

#[test]
fn what_nothing_tells_is_unknown() {
    let scene = Scene::new(US).thread(6, "==__==________==", "0000000000000000");
    let mut scene = scene.cpu(0, "....66....", &[]);
    // Thread 6's middle is lost; a slice tells of a part.
    scene.transitions.drain(1..3);
    let lates = lates(&scene, &[span(2 * US, 0, 8 * US, 7)], false);
    let (causes, ms) = explain(&lates.worst[0], &[]);
    let kinds: Vec<_> = causes.iter().map(|c| (c.kind, c.ns)).collect();
    assert_eq!(kinds, [(LateKind::Unexplained, 6 * US)], "nothing of thread 7 arrived");
    assert_eq!((ms.threads, ms.on_cpu_ns, ms.idle_ns, ms.unknown_ns), (2, 2 * US, 2 * US, 8 * US));
}

#[test]
fn a_poll_with_a_slow_peer_is_idle() {
    let scene = polling(Scene::new(US).thread(7, "==______________w=", "000000000000000000"), 7);
    let mut scene = scene;
    // Its wait for a CPU was short.
    scene.transitions.iter_mut().for_each(|e| e.flags &= !THREAD_OUTLIER);
    assert_eq!(lates(&scene, &[], true).count, 0);
}

#[test]
fn the_latest_are_kept_and_all_are_counted() {
    let mut lates = Lates::default();
    let (threads, cpus) = (Threads::default(), Cpus::default());
    for i in 0..500 {
        lates.harvest(&span(US, 0, 2 * US + (i * 37) % 499, 7), &threads, &cpus);
    }
    assert_eq!((lates.count, lates.worst.len()), (500, WORST));
    assert!(lates.worst.windows(2).all(|w| w[0].delay_ns() >= w[1].delay_ns()));
    assert_eq!(lates.worst[0].delay_ns(), US + 498);
}

proptest! {
    /// Whatever arrives, the causes sum to the delay, and what the threads did to their time.
    #[test]
    fn nothing_is_counted_twice_or_forgotten(
        states in prop::collection::vec("[=wpyD_.]{30}", 1..5),
        cpus in "[0-9.]{30}",
        (start, len) in (1u64..20, 1u64..15),
        stops in prop::collection::vec((1u64..8, 1u64..5), 0..4),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut scene = Scene::new(US).cpu(0, &cpus, &[(8, "a"), (9, "b")]);
        for (tid, s) in (1u32..).zip(&states) {
            scene = scene.thread(tid, s, &"0".repeat(30));
        }
        for i in lost {
            if !scene.transitions.is_empty() {
                scene.transitions.remove(i.index(scene.transitions.len()));
            }
        }
        let mut at = 0;
        let stops: Vec<_> = stops
            .into_iter()
            .map(|(gap, len)| {
                let from = at + gap * US;
                at = from + len * US;
                (from, at)
            })
            .collect();
        let e = span(start * US, 0, (start + len) * US, 1);
        let lates = lates(&scene, &[e], false);
        let (causes, ms) = explain(&lates.worst[0], &stops);
        prop_assert_eq!(causes.iter().map(|c| c.ns).sum::<u64>(), len * US);
        let parts = [ms.stw_ns, ms.on_cpu_ns, ms.runnable_ns, ms.blocked_ns, ms.idle_ns, ms.unknown_ns];
        prop_assert_eq!(parts.iter().sum::<u64>(), ms.threads * len * US);
    }
}
