//! Go versions as the linker writes them. Must not know what differs between them.

use std::fmt;

/// A parsed `runtime.buildVersion`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GoVersion {
    /// Always 1 so far.
    pub major: u32,
    /// E.g. 27.
    pub minor: u32,
    /// E.g. 3; 0 where none is written (`go1.27rc1`, `go1.20`).
    pub patch: u32,
    /// `rc1`, `beta2` … of a pre-release.
    pub pre: Option<String>,
    /// Built from a development tree.
    pub devel: bool,
    /// Experiments it was built with (`-X:boringcrypto,…`, `GOEXPERIMENT`).
    pub experiments: Vec<String>,
}

impl GoVersion {
    /// Parses `go1.27.3`, `go1.27rc1`, `go1.27.3-X:boringcrypto`, `go1.22.1 X:nocoverageredesign`,
    /// `go1.21.5-vendor`, `devel go1.28-4f7a9c1 Tue …`. `None` where no number is named
    /// (`devel +4f7a9c1 …` of before 1.17).
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (devel, rest) =
            text.strip_prefix("devel ").map_or((false, text), |rest| (true, rest.trim_start()));
        let rest = rest.strip_prefix("go")?;
        let (major, rest) = number(rest)?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        let (patch, rest) = match rest.strip_prefix('.') {
            Some(after) => number(after)?,
            None => (0, rest),
        };
        let pre_len = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (pre, rest) = rest.split_at(pre_len);
        let pre_is_known = pre.is_empty()
            || ["rc", "beta", "alpha"].iter().any(|p| pre.starts_with(p))
            || rest.starts_with('-');
        if !pre_is_known {
            return None;
        }
        let experiments = rest
            .split_once("X:")
            .map(|(_, list)| list.split_whitespace().next().unwrap_or_default())
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter(|e| !e.is_empty())
            .map(str::to_owned)
            .collect();
        let pre = (!pre.is_empty()).then(|| pre.to_owned());
        Some(Self { major, minor, patch, pre, devel, experiments })
    }

    /// Whether it is at least `1.minor` (pre-releases count as the release).
    pub fn at_least(&self, minor: u32) -> bool {
        (self.major, self.minor) >= (1, minor)
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "go{}.{}", self.major, self.minor)?;
        match &self.pre {
            Some(pre) => write!(f, "{pre}"),
            None => write!(f, ".{}", self.patch),
        }
    }
}

fn number(s: &str) -> Option<(u32, &str)> {
    let len = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    Some((s[..len].parse().ok()?, &s[len..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(s: &str) -> (u32, u32, Option<String>, bool, Vec<String>) {
        let v = GoVersion::parse(s).unwrap_or_else(|| panic!("{s} parses"));
        (v.minor, v.patch, v.pre, v.devel, v.experiments)
    }

    #[test]
    fn the_forms_that_occur() {
        let x = |e: &str| vec![e.to_owned()];
        assert_eq!(parts("go1.27.3"), (27, 3, None, false, vec![]));
        assert_eq!(parts("go1.20"), (20, 0, None, false, vec![]));
        assert_eq!(parts("go1.27rc1"), (27, 0, Some("rc1".into()), false, vec![]));
        assert_eq!(parts("go1.27.3-X:boringcrypto"), (27, 3, None, false, x("boringcrypto")));
        assert_eq!(parts("go1.22.1 X:aliastypeparams"), (22, 1, None, false, x("aliastypeparams")));
        assert_eq!(parts("go1.21.5-acme"), (21, 5, None, false, vec![]));
        assert_eq!(parts("go1.21.5 (Red Hat 1.21.5-1.el9)"), (21, 5, None, false, vec![]));
        assert_eq!(parts("devel go1.28-4f7a9c1 Tue Nov 3"), (28, 0, None, true, vec![]));
        assert_eq!(parts("go1.27-devel_4f7a9c1 Tue"), (27, 0, None, false, vec![]));
        assert_eq!(
            GoVersion::parse("go1.27.3-X:a,b").expect("parses").experiments,
            ["a".to_owned(), "b".to_owned()]
        );
    }

    #[test]
    fn what_is_no_version() {
        for s in ["", "go", "go1", "1.27.3", "devel +4f7a9c1 Tue", "go1.x", "go1.27evil", "gox1.2"]
        {
            assert_eq!(GoVersion::parse(s), None, "{s}");
        }
    }

    #[test]
    fn order() {
        let v = GoVersion::parse("go1.22.10").expect("parses");
        assert!(v.at_least(22) && v.at_least(21) && !v.at_least(23));
        assert_eq!(v.to_string(), "go1.22.10");
    }

    proptest! {
        #[test]
        fn any_text_is_handled(s in "\\PC{0,40}", t in "(devel )?go1\\.[0-9a-zX:.,-]{0,20}") {
            let _ = GoVersion::parse(&s);
            let _ = GoVersion::parse(&t);
        }
    }
}
