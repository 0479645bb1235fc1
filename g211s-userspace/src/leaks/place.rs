//! Places in the source: which line of a stack is to blame for an allocation. Must not know where stacks come from.

use serde::{Deserialize, Serialize};

use crate::profile::is_of_runtime;
use crate::record::SymbolFrame;
use crate::report::format::clean;

/// A place in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The function, as Go prints it.
    pub function: String,
    /// Its file, as the compiler was given it.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
}

impl Place {
    fn of(frame: &SymbolFrame) -> Self {
        let file = frame.file.as_deref().map(clean);
        Self { function: clean(&frame.function), file, line: frame.line }
    }

    /// `main.f  cache.go:41`: the function, and the file by its name alone.
    pub fn short(&self) -> String {
        let name = self.file.as_deref().map(|f| f.rsplit('/').next().unwrap_or(f));
        match (name, self.line) {
            (Some(name), Some(line)) => format!("{} {name}:{line}", self.function),
            (Some(name), None) => format!("{} {name}", self.function),
            (None, _) => self.function.clone(),
        }
    }
}

/// The places of a stack that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Places {
    /// The innermost line that is neither the runtime's nor the standard library's; where there is none, the innermost that
    /// is not the runtime's; else the outermost.
    pub place: Place,
    /// The function that really allocates, where that is another: of the standard library.
    pub inside: Option<Place>,
    /// The innermost line of the main module, where `place` is a dependency's.
    pub called_from: Option<Place>,
}

/// Of a stack's frames, innermost first.
pub fn places<'f>(
    frames: impl Iterator<Item = &'f SymbolFrame>,
    module: Option<&str>,
) -> Option<Places> {
    let (mut inner, mut own, mut main, mut outermost) = (None, None, None, None);
    for frame in frames {
        if outermost.is_none() || !is_root(&frame.function) {
            outermost = Some(frame);
        }
        if is_of_runtime(&frame.function) {
            continue;
        }
        inner = inner.or(Some(frame));
        if own.is_none() && !is_standard(&frame.function, module) {
            own = Some(frame);
        }
        if is_main(&frame.function, module) {
            main = Some(frame);
            break;
        }
    }
    let blamed = own.or(inner).or(outermost)?;
    let place = Place::of(blamed);
    let other = |frame: Option<&SymbolFrame>| frame.map(Place::of).filter(|p| *p != place);
    Some(Places { inside: other(inner.filter(|_| own.is_some())), called_from: other(main), place })
}

fn is_root(function: &str) -> bool {
    matches!(
        function,
        "runtime.goexit" | "runtime.mstart" | "runtime.rt0_go" | "runtime.systemstack"
    )
}

/// Whether a function is the main module's own.
fn is_main(function: &str, module: Option<&str>) -> bool {
    let of_module = module
        .is_some_and(|m| function.strip_prefix(m).is_some_and(|rest| rest.starts_with(['.', '/'])));
    function.starts_with("main.") || of_module
}

/// Whether a function is the standard library's: its packages alone have no dot in the first part of their path (go help
/// packages).
fn is_standard(function: &str, module: Option<&str>) -> bool {
    if is_main(function, module) {
        return false;
    }
    let first = match function.split_once('/') {
        Some((first, _)) => first,
        None => function.split('.').next().unwrap_or(function),
    };
    // Names without a package are the linker's, or another language's.
    !first.contains('.') && function.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str) -> SymbolFrame {
        let file = Some(format!("/src/{}.go", function.len()));
        SymbolFrame { function: function.to_owned(), file, line: Some(7), inlined: false }
    }

    fn of(functions: &[&str], module: Option<&str>) -> (String, Option<String>, Option<String>) {
        let frames: Vec<SymbolFrame> = functions.iter().map(|f| frame(f)).collect();
        let p = places(frames.iter(), module).expect("places");
        (p.place.function, p.inside.map(|p| p.function), p.called_from.map(|p| p.function))
    }

    #[test]
    fn the_users_line_is_to_blame() {
        let own = |s: &str| s.to_owned();
        let stack =
            ["runtime.mallocgc", "runtime.growslice", "main.put", "main.main", "runtime.goexit"];
        assert_eq!(of(&stack, None), (own("main.put"), None, None));
        let stack = ["runtime.mallocgc", "strings.(*Builder).grow", "fmt.Sprintf", "main.key"];
        assert_eq!(of(&stack, None), (own("main.key"), Some(own("strings.(*Builder).grow")), None));
        let stack = ["runtime.x", "github.com/a/b.F", "net/http.serve", "shop/orders.(*S).Get"];
        assert_eq!(
            of(&stack, Some("shop")),
            (own("github.com/a/b.F"), None, Some(own("shop/orders.(*S).Get")))
        );
        let stack = [
            "runtime.x",
            "bufio.NewReaderSize",
            "net/http.(*Transport).dialConn",
            "runtime.goexit",
        ];
        assert_eq!(of(&stack, Some("shop")), (own("bufio.NewReaderSize"), None, None));
        assert_eq!(
            of(&["runtime.malg", "runtime.newproc1", "runtime.goexit"], None).0,
            "runtime.newproc1"
        );
        assert_eq!(
            of(&["runtime.x", "vendor/golang.org/x/net.F"], Some("shop")).0,
            "vendor/golang.org/x/net.F"
        );
        assert_eq!(
            of(&["runtime.x", "os.Open", "shopping.F", "shop.main"], Some("shop")).0,
            "shop.main"
        );
        assert_eq!(places([].iter(), None), None);
    }

    #[test]
    fn a_place_is_short() {
        let place =
            Place { function: "main.f".into(), file: Some("/a/b/c.go".into()), line: Some(3) };
        assert_eq!(place.short(), "main.f c.go:3");
        assert_eq!(Place { line: None, ..place.clone() }.short(), "main.f c.go");
        assert_eq!(Place { file: None, ..place }.short(), "main.f");
    }
}
