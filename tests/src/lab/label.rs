//! Names of causes, as the confusion matrix has them: the report's kinds, with waits for a CPU told
//! apart by whom the thread waited behind.

use std::collections::BTreeMap;

use crate::report::{Cause, Culprit};

/// A cause's name.
pub type Label = String;

/// A wait behind the process that the laboratory put there.
pub const BEHIND_HOG: &str = "behind the hog";
/// A wait behind other threads of the target.
pub const BEHIND_OWN: &str = "behind itself";
/// A wait behind g211s.
pub const BEHIND_OBSERVER: &str = "behind g211s";
/// A wait behind anybody else.
pub const BEHIND_OTHERS: &str = "behind others";
/// A wait of which no event tells behind whom.
pub const BEHIND_UNKNOWN: &str = "behind nobody known";
/// No evidence.
pub const UNEXPLAINED: &str = "unexplained";

/// The name of a cause, where `hog` is the process that the laboratory put in the way.
pub fn of(cause: &Cause, hog: Option<u32>) -> Label {
    if cause.kind != "runqueue_wait" {
        return cause.kind.clone();
    }
    cause.behind.first().map_or(BEHIND_UNKNOWN, |who| behind(who, hog)).to_owned()
}

/// The name of a wait behind somebody.
pub fn behind(who: &Culprit, hog: Option<u32>) -> &'static str {
    if Some(who.pid) == hog {
        BEHIND_HOG
    } else if who.own {
        BEHIND_OWN
    } else if who.observer {
        BEHIND_OBSERVER
    } else {
        BEHIND_OTHERS
    }
}

/// Time by name.
pub fn sums(causes: &[Cause], hog: Option<u32>) -> BTreeMap<Label, u64> {
    let mut sums = BTreeMap::new();
    for cause in causes {
        *sums.entry(of(cause, hog)).or_insert(0) += cause.ns;
    }
    sums
}

/// The name with the most time.
pub fn largest(sums: &BTreeMap<Label, u64>) -> Label {
    let largest = sums.iter().max_by_key(|(_, ns)| **ns);
    largest.map_or_else(|| UNEXPLAINED.to_owned(), |(label, _)| label.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(pid: u32, own: bool, ns: u64) -> Cause {
        let who = Culprit { pid, tid: None, comm: "x".into(), ns: 0, own, observer: false };
        Cause { kind: "runqueue_wait".into(), ns, tid: 1, behind: vec![who], code: None }
    }

    #[test]
    fn waits_are_summed_by_whom_they_are_behind() {
        let causes = [wait(7, false, 3), wait(8, false, 4), wait(7, false, 3), wait(9, true, 5)];
        let sums = sums(&causes, Some(7));
        assert_eq!(sums[BEHIND_HOG], 6);
        assert_eq!((sums[BEHIND_OTHERS], sums[BEHIND_OWN]), (4, 5));
        assert_eq!(largest(&sums), BEHIND_HOG);
        assert_eq!(largest(&BTreeMap::new()), UNEXPLAINED);
    }
}
