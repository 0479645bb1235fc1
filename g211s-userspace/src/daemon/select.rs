//! Which processes are to be watched: rules over what is known of a process before anything of it is attached. Must
//! not know where that comes from.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// What rules look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The executable's file name.
    pub executable: String,
    /// The process's name.
    pub comm: String,
    /// The most specific cgroup path.
    pub cgroup: String,
    /// The container's id, where the cgroup's path names one.
    pub container: String,
    /// Main module's path, where built in.
    pub module: String,
    /// Import path of the main package, where built in.
    pub package: String,
    /// PID.
    pub pid: u32,
}

/// What a pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// The executable's file name, or the process's name.
    Name,
    Cgroup,
    Container,
    Module,
    Package,
    Pid,
}

/// Patterns that must all fit, as in `name=api-*,module=example.com/*`. In a pattern `*` stands for any characters
/// (also none, and `/`) and `?` for one. A container may be given by the beginning of its id.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rule(Vec<(Field, String)>);

impl FromStr for Rule {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for part in s.split(',').map(str::trim) {
            let (field, pattern) = part.split_once('=').ok_or_else(|| {
                format!("`{part}` is no rule: write name=, cgroup=, container=, module=, package= or pid=, and a pattern")
            })?;
            let field = match field.trim() {
                "name" => Field::Name,
                "cgroup" => Field::Cgroup,
                "container" => Field::Container,
                "module" => Field::Module,
                "package" => Field::Package,
                "pid" => Field::Pid,
                other => {
                    return Err(format!(
                        "`{other}` is nothing a rule looks at: name, cgroup, container, module, package, pid"
                    ));
                }
            };
            let pattern = pattern.trim();
            if pattern.is_empty() || pattern.len() > MAX_PATTERN {
                return Err(format!("`{part}`: a pattern has 1 to {MAX_PATTERN} characters"));
            }
            parts.push((field, pattern.to_owned()));
        }
        Ok(Self(parts))
    }
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (field, pattern)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}={pattern}", format!("{field:?}").to_lowercase())?;
        }
        Ok(())
    }
}

const MAX_PATTERN: usize = 512;

impl Rule {
    /// Whether all its patterns fit.
    pub fn fits(&self, facts: &Facts) -> bool {
        self.0.iter().all(|(field, pattern)| match field {
            Field::Name => fits(pattern, &facts.executable) || fits(pattern, &facts.comm),
            Field::Cgroup => fits(pattern, &facts.cgroup),
            Field::Container => {
                let id = pattern.len() >= 8 && facts.container.starts_with(pattern.as_str());
                id || !facts.container.is_empty() && fits(pattern, &facts.container)
            }
            Field::Module => fits(pattern, &facts.module),
            Field::Package => fits(pattern, &facts.package),
            Field::Pid => fits(pattern, &facts.pid.to_string()),
        })
    }
}

/// Include and exclude rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// One of them must fit; none: every Go process.
    pub include: Vec<Rule>,
    /// None of them may fit.
    pub exclude: Vec<Rule>,
}

impl Selection {
    /// Whether a process is to be watched.
    pub fn takes(&self, facts: &Facts) -> bool {
        let included = self.include.is_empty() || self.include.iter().any(|r| r.fits(facts));
        included && !self.exclude.iter().any(|r| r.fits(facts))
    }
}

/// Whether a text is as the pattern says. Takes time in proportion to both lengths at worst.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            executable: "api-server".into(),
            comm: "api".into(),
            cgroup: "/system.slice/docker-0123456789ab.scope".into(),
            container: "0123456789abcdef".into(),
            module: "example.com/shop/api".into(),
            package: "example.com/shop/api/cmd/server".into(),
            pid: 4711,
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*ab", "aab", true),
            ("ä*", "äö", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        // What a naive matcher takes for ever on.
        let began = std::time::Instant::now();
        assert!(!fits(&("a*".repeat(100) + "c"), &"a".repeat(4000)));
        assert!(began.elapsed().as_secs() < 5);
    }

    #[test]
    fn all_parts_of_a_rule_must_fit_and_one_rule_of_many() {
        let rule = |s: &str| s.parse::<Rule>().expect(s);
        assert!(rule("name=api*").fits(&facts()) && rule("name=api").fits(&facts()));
        assert!(rule("name=api-*, module=example.com/*").fits(&facts()));
        assert!(!rule("name=api-*,module=example.org/*").fits(&facts()));
        assert!(
            rule("container=01234567").fits(&facts()) && !rule("container=0123").fits(&facts())
        );
        assert!(!rule("container=*").fits(&Facts::default()), "in no container");
        assert!(rule("pid=4711").fits(&facts()));
        let mut selection = Selection::default();
        assert!(selection.takes(&facts()));
        selection.include = vec![rule("name=x"), rule("cgroup=/system.slice/*")];
        assert!(selection.takes(&facts()));
        selection.exclude = vec![rule("package=*/cmd/server")];
        assert!(!selection.takes(&facts()));
        assert_eq!(rule("name=a*, pid=7").to_string(), "name=a*,pid=7");
        for bad in ["", "name", "name=", "colour=red", "name=a,,pid=1"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }
}
