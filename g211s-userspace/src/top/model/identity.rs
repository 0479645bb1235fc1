//! Whether a process takes another's place: what a restart is. Must not know how processes are found.

/// What is the same before and after a restart, or nearly so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Path of the executable, in the process's own mount namespace.
    pub(crate) exe: String,
    /// Its cgroup.
    pub(crate) cgroup: String,
    /// Main module, where built in.
    pub(crate) module: Option<String>,
}

impl Identity {
    /// How well `new` fits as the successor of this process: `None` if it is another service; larger is better.
    ///
    /// In the same cgroup (a systemd unit, a container that is started again) the same path or the same module will
    /// do: a deployment may move the executable. In one that says nothing of whose it is, only the path will. In another one (a new container of the same pod or engine, whose
    /// cgroup lies beside the old one) both must be the same, since `/app` is a path that many images have.
    pub(crate) fn succeeds(&self, new: &Self) -> Option<u32> {
        let path = self.exe == new.exe;
        let module = self.module.is_some() && self.module == new.module;
        let same_module = self.module == new.module;
        if self.cgroup == new.cgroup {
            return match (path, module) {
                (true, _) if same_module => Some(4),
                (true, _) => Some(3),
                (false, true) if is_somebodys(&self.cgroup) => Some(2),
                _ => None,
            };
        }
        let beside = parent(&self.cgroup) == parent(&new.cgroup) && parent(&self.cgroup).is_some();
        (beside && path && same_module).then_some(1)
    }
}

/// Whether a cgroup says whose processes these are: the root has everything in it, and what a user starts by hand is in
/// one with whatever else he starts.
fn is_somebodys(cgroup: &str) -> bool {
    let last = cgroup.rsplit('/').next().unwrap_or_default();
    let session = last.strip_prefix("session-").and_then(|l| l.strip_suffix(".scope")).is_some();
    !(last.is_empty() || session)
}

/// The cgroup above, if it says anything: the root has everything in it.
fn parent(cgroup: &str) -> Option<&str> {
    let (parent, _) = cgroup.rsplit_once('/')?;
    (!parent.is_empty()).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(exe: &str, cgroup: &str, module: &str) -> Identity {
        let module = (!module.is_empty()).then(|| module.to_owned());
        Identity { exe: exe.into(), cgroup: cgroup.into(), module }
    }

    #[test]
    fn a_restart_keeps_the_executable_or_the_cgroup() {
        let old = id("/srv/api", "/system.slice/api.service", "example.com/api");
        let fits = |exe, cgroup, module| old.succeeds(&id(exe, cgroup, module));
        assert_eq!(fits("/srv/api", "/system.slice/api.service", "example.com/api"), Some(4));
        assert_eq!(fits("/srv/api", "/system.slice/api.service", "example.com/v2"), Some(3));
        assert_eq!(fits("/srv/api-2", "/system.slice/api.service", "example.com/api"), Some(2));
        assert_eq!(fits("/srv/other", "/system.slice/api.service", "example.com/other"), None);
        assert_eq!(fits("/srv/api", "/user.slice/x", "example.com/api"), None);
        for nobodys in ["/", "", "/user.slice/user-0.slice/session-3.scope"] {
            let old = id("/srv/api", nobodys, "example.com/api");
            assert_eq!(old.succeeds(&id("/srv/api", nobodys, "example.com/api")), Some(4));
            assert_eq!(old.succeeds(&id("/tmp/api", nobodys, "example.com/api")), None);
        }
    }

    #[test]
    fn a_new_container_beside_the_old_one_must_run_the_same_program() {
        let old = id("/app", "/kubepods/pod1/aaa", "example.com/api");
        assert_eq!(old.succeeds(&id("/app", "/kubepods/pod1/bbb", "example.com/api")), Some(1));
        assert_eq!(old.succeeds(&id("/app", "/kubepods/pod1/bbb", "example.com/sidecar")), None);
        assert_eq!(old.succeeds(&id("/app", "/kubepods/pod2/bbb", "example.com/api")), None);
        // Without modules nothing but the same cgroup will do, or the same path beside it.
        let old = id("/app", "/a", "");
        assert_eq!(old.succeeds(&id("/app", "/b", "")), None, "the root is nobody's place");
        assert_eq!(old.succeeds(&id("/other", "/a", "")), None);
    }
}
