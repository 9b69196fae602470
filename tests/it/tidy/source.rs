//! Rust text without what is not code, and the paths that it names. A scan, no parser: it knows comments, literals, `use`
//! groups and `#[cfg(test)]`, which is enough for code that rustfmt has seen.

use std::sync::LazyLock;

use regex::Regex;

/// One file, by its path below the project's root.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// `src/decide/diff.rs`
    pub(super) path: String,
    /// As it is stored.
    pub(super) text: String,
    /// Without comments and the inside of literals, line by line where it was.
    pub(super) code: String,
    /// `code` without the items under `#[cfg(test)]`.
    pub(super) production: String,
}

impl Source {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = code(&text);
        let production = production(&code);
        Self { path, text, code, production }
    }

    /// Returns the names that lead to the module which the file is: `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`.
    pub(super) fn module(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        path.split('/').filter(|name| *name != "mod").map(str::to_owned).collect()
    }

    /// Returns what the production code names of its own crate: the line, and the path from the crate's root. A group is
    /// one path for each of its members; a path that ends at the root (`use crate::{…}` apart) has no names.
    pub(super) fn names(&self) -> Vec<(usize, Vec<String>)> {
        static START: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\b(crate|ferry|super(?:::super)*)::").unwrap());
        let mut found = Vec::new();
        for start in START.captures_iter(&self.production) {
            let whole = start.get(0).unwrap();
            let before = self.production[..whole.start()].chars().next_back();
            if before == Some(':') {
                continue;
            }
            let mut base = self.module();
            match &start[1] {
                "crate" => base.clear(),
                // Only the binary names the library by its name.
                "ferry" if self.path == "src/main.rs" => base.clear(),
                "ferry" => continue,
                supers => base.truncate(base.len().saturating_sub(supers.split("::").count())),
            }
            let line = line_of(&self.production, whole.start());
            let mut paths = Vec::new();
            members(&self.production[whole.end()..], &base, &mut paths);
            found.extend(paths.into_iter().map(|path| (line, path)));
        }
        found
    }

    /// Returns the files, without `.rs`, that exist only for tests because this one declares them so: `#[cfg(test)] mod
    /// campaign;`, with a `#[path = "…"]` or without.
    pub(super) fn test_modules(&self) -> Vec<String> {
        static DECLARED: LazyLock<Regex> = LazyLock::new(|| {
            let attributes = r#"(?:#\[path = "(.+?)\.rs"\]\s*|#\[[^\n]*\]\s*)*"#;
            let declared =
                format!(r"#\[cfg\(test\)\]\s*{attributes}(?:pub(?:\([a-z]+\))? )?mod (\w+);");
            Regex::new(&declared).unwrap()
        });
        let beside = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let below = format!("src/{}", self.module().join("/"));
        let declared = DECLARED.captures_iter(&self.text);
        declared
            .map(|found| match found.get(1) {
                Some(path) => format!("{beside}/{}", path.as_str()),
                None => format!("{below}/{}", &found[2]),
            })
            .collect()
    }
}

/// Returns the line, counted from 1, that a byte stands in.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Collects the paths that start at `text`, which follows a `::`, below `base`. Returns how many bytes they take.
fn members(text: &str, base: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = base.to_vec();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with('{') {
            at += 1;
            loop {
                at += text[at..].len() - text[at..].trim_start().len();
                if at >= text.len() || text[at..].starts_with('}') {
                    return at + 1;
                }
                at += members(&text[at..], &path, paths);
                // ` as name`, a comma, or the end of the group.
                at += text[at..].find([',', '}', '{']).unwrap_or(text.len() - at);
                at += usize::from(text[at..].starts_with([',', '{']));
            }
        }
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += name.len();
        if !name.is_empty() && name != "self" {
            path.push(name);
        }
        if text[at..].starts_with("::") && !text[at..].starts_with("::<") {
            at += 2;
        } else {
            paths.push(path);
            return at;
        }
    }
}

/// Blanks comments and the inside of literals. Lines stay where they are.
fn code(text: &str) -> String {
    // In this order: what starts earliest wins, and a quote within a comment starts nothing.
    static NO_CODE: LazyLock<Regex> = LazyLock::new(|| {
        let comment = r"//[^\n]*|/\*(?s:.*?)\*/";
        let raw = r##"\bb?c?r#"(?s:.*?)"#|\bb?c?r"(?s:[^"]*)""##;
        let string = r#""(?s:\\.|[^"\\])*""#;
        let character = r"'(?:\\[^\n]{1,9}?|[^'\\\n])'";
        Regex::new(&format!("{comment}|{raw}|{string}|{character}")).unwrap()
    });
    let blank = |found: &regex::Captures<'_>| {
        let inside = &found[0];
        let lines = "\n".repeat(inside.matches('\n').count());
        if inside.starts_with('/') { lines } else { format!("\"{lines}\"") }
    };
    NO_CODE.replace_all(text, blank).into_owned()
}

/// Blanks the items under `#[cfg(test)]`.
fn production(code: &str) -> String {
    if code.contains("#![cfg(test)]") {
        return "\n".repeat(code.matches('\n').count());
    }
    let mut rest = code;
    let mut kept = String::new();
    while let Some(start) = rest.find("#[cfg(test)]").or_else(|| rest.find("#[cfg(all(test,")) {
        let (before, item) = rest.split_at(start);
        let end = item_end(item);
        kept.push_str(before);
        kept.push_str(&"\n".repeat(item[..end].matches('\n').count()));
        rest = &item[end..];
    }
    kept + rest
}

/// Returns where an item ends: behind its first block, or at the first `;` outside of brackets.
fn item_end(item: &str) -> usize {
    let mut depth = 0_i32;
    for (at, character) in item.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str, text: &str) -> Vec<String> {
        let names = Source::new(path, text).names();
        names.iter().map(|(line, path)| format!("{line} {}", path.join("::"))).collect()
    }

    #[test]
    fn groups_and_supers_are_followed() {
        let text = "use crate::copy::{self, engine::{Bounds, End}, tree as hashes};\n\
                    use super::Sibling;\nfn f() { crate::port::look(super::super::desired::X) }\n";
        assert_eq!(
            named("src/adapter/git/read.rs", text),
            [
                "1 copy",
                "1 copy::engine::Bounds",
                "1 copy::engine::End",
                "1 copy::tree",
                "2 adapter::git::Sibling",
                "3 port::look",
                "3 adapter::desired::X",
            ]
        );
        assert_eq!(named("src/port.rs", "use super::adapter::git;\n"), ["1 adapter::git"]);
        assert_eq!(named("src/port.rs", "use crate::{adapter, copy};\n"), ["1 adapter", "1 copy"]);
    }

    #[test]
    fn comments_literals_and_tests_are_no_code() {
        let text = "/// crate::a\nfn f<'a>() { \"crate::b \\\" crate::c\"; '\"'; crate::d::x(); }\n\
                    /* crate::e\n */ const R: &str = r#\"crate::f \" \"#;\n\
                    #[cfg(test)]\nmod tests {\n    use crate::g::G;\n}\nuse crate::h;\n";
        assert_eq!(named("src/port.rs", text), ["2 d::x", "9 h"]);
    }

    #[test]
    fn a_module_declared_for_tests_only_is_known() {
        let file =
            Source::new("src/controller/mod.rs", "#[cfg(test)]\nmod campaign;\nmod state;\n");
        assert_eq!(file.test_modules(), ["src/controller/campaign"]);
        let text = "#[cfg(test)]\n#[path = \"engine_tests.rs\"]\nmod tests;\n";
        assert_eq!(
            Source::new("src/copy/engine.rs", text).test_modules(),
            ["src/copy/engine_tests"]
        );
        let text = "#[cfg(test)]\nmod tests {}\n#[path = \"unix.rs\"]\nmod system;\n";
        assert!(Source::new("src/copy/engine.rs", text).test_modules().is_empty());
    }
}
