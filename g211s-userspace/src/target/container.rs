//! Which container a process is in, from the path of its cgroup. Must not know any container
//! engine: only how they name their cgroups.

use serde::Serialize;

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// What runs it, as far as the path says: `docker`, `containerd`, `cri-o`, `podman`, `lxc`,
    /// `ecs`, `kubernetes` (some engine under it), `unknown`.
    pub engine: &'static str,
    /// Its id, as the engine's own commands take it.
    pub id: String,
}

/// What stands before the id in the name of a systemd scope.
const SCOPES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("containerd-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-", "podman"),
    ("nerdctl-", "containerd"),
];
/// Folders that hold folders named by id.
const FOLDERS: [(&str, &str); 5] = [
    ("docker", "docker"),
    ("libpod_parent", "podman"),
    ("ecs", "ecs"),
    ("default", "containerd"),
    ("k8s.io", "containerd"),
];

/// The innermost container in a cgroup path, e.g. `/system.slice/docker-<64 hex>.scope`,
/// `/kubepods/burstable/pod<uid>/<64 hex>`, `/lxc.payload.web`.
pub fn container(cgroup: &str) -> Option<Container> {
    let parts: Vec<&str> = cgroup.split('/').filter(|p| !p.is_empty()).collect();
    (0..parts.len()).rev().find_map(|i| of_part(parts[i], &parts[..i]))
}

fn of_part(part: &str, above: &[&str]) -> Option<Container> {
    let found = |engine, id: &str| Some(Container { engine, id: id.to_owned() });
    if let Some(name) = part.strip_prefix("lxc.payload.").filter(|n| !n.is_empty()) {
        return found("lxc", name);
    }
    let parent = above.last().copied().unwrap_or_default();
    if parent == "lxc" {
        return found("lxc", part);
    }
    let name = part.strip_suffix(".scope").unwrap_or(part);
    if let Some((id, engine)) =
        SCOPES.iter().find_map(|(prefix, engine)| Some((name.strip_prefix(prefix)?, *engine)))
        && is_id(id)
    {
        return found(engine, id);
    }
    // containerd without systemd: `…:cri-containerd:<id>`.
    let (engine, name) = match name.rsplit_once(':') {
        Some((before, id)) if before.ends_with("cri-containerd") => ("containerd", id),
        _ => ("", name),
    };
    // ECS: `<32 hex>-<number>`.
    let ecs = name.split_once('-').filter(|(id, n)| {
        above.contains(&"ecs") && is_hex(id, 32) && n.bytes().all(|b| b.is_ascii_digit())
    });
    if !is_id(name) && ecs.is_none() {
        return None;
    }
    let folder = above.iter().rev().find_map(|f| FOLDERS.iter().find(|(name, _)| name == f));
    let kubernetes = above.iter().any(|f| f.starts_with("kubepods"));
    let engine = match (engine, folder) {
        ("", Some((_, engine))) => engine,
        ("", None) if kubernetes => "kubernetes",
        ("", None) => "unknown",
        (engine, _) => engine,
    };
    found(engine, name)
}

fn is_id(s: &str) -> bool {
    is_hex(s, 64)
}

fn is_hex(s: &str, len: usize) -> bool {
    s.len() == len && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_engines() {
        let id = "0123456789abcdef".repeat(4);
        for (path, engine) in [
            (format!("/system.slice/docker-{id}.scope"), "docker"),
            (format!("/system.slice/docker-{id}.scope/init.scope"), "docker"),
            (format!("/docker/{id}"), "docker"),
            (format!("/docker/{id}/system.slice/nginx.service"), "docker"),
            (
                format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
                "containerd",
            ),
            (format!("/kubepods/burstable/pod6a2f/{id}"), "kubernetes"),
            (format!("/kubepods/besteffort/pod6a2f/crio-{id}"), "cri-o"),
            (
                format!("/system.slice/containerd.service/kubepods-x.slice:cri-containerd:{id}"),
                "containerd",
            ),
            (format!("/machine.slice/libpod-{id}.scope/container"), "podman"),
            (
                format!(
                    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"
                ),
                "podman",
            ),
            (format!("/ecs/5f1e/{id}"), "ecs"),
            (format!("/k8s.io/{id}"), "containerd"),
            (format!("/x/{id}"), "unknown"),
        ] {
            assert_eq!(container(&path), Some(Container { engine, id: id.clone() }), "{path}");
        }
        let ecs = format!("/ecs/{}/{}-1234", &id[..32], &id[..32]);
        assert_eq!(container(&ecs).map(|c| c.engine), Some("ecs"));
        assert_eq!(container("/lxc/web").map(|c| c.id).as_deref(), Some("web"));
        assert_eq!(container("/lxc.payload.web/x").map(|c| c.id).as_deref(), Some("web"));
        // Docker in Docker: the inner one.
        let inner = id.replace('0', "f");
        assert_eq!(container(&format!("/docker/{id}/docker/{inner}")).map(|c| c.id), Some(inner));
    }

    #[test]
    fn what_is_no_container() {
        let almost = "0123456789abcdef".repeat(4).replace('0', "G");
        for path in
            ["", "/", "/user.slice/user-0.slice/session-1.scope", "/system.slice/ssh.service"]
        {
            assert_eq!(container(path), None, "{path}");
        }
        assert_eq!(container(&format!("/docker/{almost}")), None);
        assert_eq!(container("/system.slice/docker-.scope"), None);
        assert_eq!(container("/docker/buildkit"), None);
    }
}
