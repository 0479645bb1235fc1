//! The page's frame with its data in it. Must not know what the data says.
//!
//! Names of programs, threads and functions are anybody's: they are in the JSON block (in which no `<` is left, so that
//! nothing in it ends it) and in the plain text (escaped), and nowhere else. Should they ever get further, the page's
//! Content-Security-Policy lets no script run but the frame's own, by its digest, lets nothing load from anywhere, and
//! has the browser refuse to make markup out of text (`require-trusted-types-for`).

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::{data::Page, sha256::base64_of};
use crate::report::format::markup;

const FRAME: &str = include_str!("page/frame.html");
const STYLE: &str = concat!(include_str!("page/style.css"), include_str!("page/parts.css"));
/// One function, so that nothing of it is global.
const SCRIPT: &str = concat!(
    "\"use strict\";\n(() => {\n",
    include_str!("page/dom.js"),
    include_str!("page/draw.js"),
    include_str!("page/table.js"),
    include_str!("page/lead.js"),
    include_str!("page/timeline.js"),
    include_str!("page/tracks.js"),
    include_str!("page/heat.js"),
    include_str!("page/gc.js"),
    include_str!("page/together.js"),
    include_str!("page/flame.js"),
    include_str!("page/tables.js"),
    include_str!("page/main.js"),
    "})();\n"
);

/// The page: its data, and the same in plain text for who has no scripts.
///
/// # Errors
/// Data that is no JSON.
pub(super) fn page(data: &Page, plain: &str) -> Result<String> {
    let json = serde_json::to_string(data).context("the page's data")?;
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; \
         form-action 'none'; require-trusted-types-for 'script'",
        base64_of(SCRIPT),
        base64_of(STYLE),
    );
    let parts = [
        ("{policy}", policy.as_str()),
        ("{title}", &markup(&data.title)),
        ("{style}", STYLE),
        ("{plain}", &markup(plain)),
        ("{data}", &block(&json)),
        ("{script}", SCRIPT),
    ];
    // In order, each once: nothing that was put in is looked at again.
    let mut out =
        String::with_capacity(json.len() + STYLE.len() + SCRIPT.len() + plain.len() + 4096);
    let mut rest = FRAME;
    for (mark, value) in parts {
        let (before, after) =
            rest.split_once(mark).with_context(|| format!("no {mark} in the frame"))?;
        out.push_str(before);
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// JSON as it may stand in a script element: what ends it, or a line of a script, is written as an escape. In JSON these
/// characters stand in strings alone.
fn block(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_frame_ends_what_it_stands_in() {
        assert!(!SCRIPT.to_lowercase().contains("</script") && !SCRIPT.contains("<!--"));
        assert!(!STYLE.to_lowercase().contains("</style"));
        for text in [SCRIPT, STYLE, FRAME] {
            assert!(!text.contains('\r'), "the browser's digest is of lines that end in LF");
        }
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http:",
            "https:",
        ] {
            let found = SCRIPT.replace("http://www.w3.org/2000/svg", "").contains(forbidden);
            assert!(!found, "{forbidden}");
        }
    }

    #[test]
    fn a_block_holds_nothing_that_ends_it_and_says_the_same() {
        let hostile = "</script><script>alert(1)</script><!-- &amp; \u{2028}\u{2029}\"\\ \u{1b}";
        let json = serde_json::to_string(hostile).unwrap();
        let block = block(&json);
        assert!(!block.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{block}");
        assert_eq!(serde_json::from_str::<String>(&block).unwrap(), hostile);
        assert_eq!(markup("<a b='\"&\">\0"), "&lt;a b=&#39;&quot;&amp;&quot;&gt;\u{fffd}");
    }
}
