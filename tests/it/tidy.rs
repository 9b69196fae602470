//! The text of the project keeps its own rules: who may name whom, how long a file is, which words do not occur. One crate
//! has the discipline of a layered workspace that way. Each rule has a test that it bites.

mod source;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use source::{Source, line_of};

/// The modules, each of which may name those before it. `lib.rs` lists them in this order.
const ORDER: [&str; 19] = [
    "domain",
    "extent",
    "xml",
    "manifest",
    "observed",
    "desired",
    "journal",
    "policy",
    "decide",
    "preview",
    "status",
    "port",
    "collect",
    "copy",
    "execute",
    "adapter",
    "sim",
    "controller",
    "cli",
];

/// The last of the pure ones: up to here a module is a function of its arguments.
const PURE_LAST: &str = "status";

/// What a module may not name although it stands before it, and why.
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    (
        "adapter",
        &["policy", "decide", "preview", "status"],
        "an adapter translates and never chooses",
    ),
    ("sim", &["adapter"], "the simulated world stands in for all adapters"),
    ("controller", &["adapter"], "only `cli` joins adapters to the controller"),
];

/// What a module may name although it stands behind it, and why. That no cycle comes of it is checked file by file.
const EXCEPTIONS: &[(&str, &str)] = &[
    // The port `Workers` carries the messages of the data plane, and the readers and writers of disks keep to the grid of
    // its hash tree. Both are plain data without an engine. They stand beside the engine that speaks them, since whoever
    // changes one changes both; in a module of their own they would be torn from it for the order's sake.
    ("port", "copy::protocol"),
    ("port", "copy::tree"),
];

/// Tests may plant a bug in any module.
const LEAF: &str = "planted";

/// What the pure modules do not say: a runtime, files, the network, clocks, the environment, processes, clients.
const IMPURE: [&str; 15] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::{",
    "async fn",
    "async move",
    ".await",
    "::now()",
    "git2::",
    "redb::",
    "notify::",
    "rustix::",
    "nix::",
];

/// What nothing says: work that is not done.
const UNDONE: [&str; 4] = ["todo!", "unimplemented!", "#[ignore", "#[should_panic"];

/// The same, where it stands in a comment.
const UNDONE_MARKS: [&str; 2] = [concat!("FIX", "ME"), concat!("TO", "DO")];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "misc", "manager", "managers"];

/// The longest file, in lines that hold code, its tests among them: what one reading takes in.
const LINES_MAX: usize = 600;

#[test]
fn the_text_is_tidy() {
    let files = sources();
    let test_only: BTreeSet<String> = files.iter().flat_map(Source::test_modules).collect();
    let mut said = String::new();
    let mut modules = Vec::new();
    for file in &files {
        let for_tests = file.path.starts_with("tests/")
            || test_only.iter().any(|module| {
                let rest = file.path.strip_prefix(module.as_str());
                rest.is_some_and(|rest| rest.starts_with(['.', '/']))
            });
        said += &untidy(file);
        if for_tests {
            said += &sleeps(file, &file.code);
        } else {
            said += &misplaced(file);
            modules.push(file);
        }
    }
    said += &cycles(&modules);
    assert!(modules.len() > 30, "the scan found only {} files", modules.len());
    assert!(said.is_empty(), "\n{said}");
}

#[test]
fn the_library_lists_its_modules_in_their_order() {
    let library =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let listed: Vec<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(listed, ORDER);
}

/// Reads all Rust files of the project, in the order of their paths.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.push(Source::new(name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Says what holds for every file: names, length, words, and that no test sleeps.
fn untidy(file: &Source) -> String {
    let mut said = String::new();
    for name in file.path.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&name) {
            let _ = writeln!(said, "{}: `{name}` says nothing about what is inside", file.path);
        }
    }
    let lines = file.code.lines().filter(|line| !line.trim().is_empty()).count();
    if lines > LINES_MAX {
        let _ =
            writeln!(said, "{}: {lines} lines of code, at most {LINES_MAX}: split it", file.path);
    }
    for word in UNDONE {
        said += &occurrences(file, &file.code, word, "nothing is left undone");
    }
    for word in UNDONE_MARKS {
        said += &occurrences(file, &file.text, word, "an issue says what is to be done");
    }
    let production: Vec<&str> = file.production.lines().collect();
    let tests: Vec<&str> = file
        .code
        .lines()
        .enumerate()
        .map(|(number, line)| if production.get(number) == Some(&line) { "" } else { line })
        .collect();
    said + &sleeps(file, &tests.join("\n"))
}

fn sleeps(file: &Source, tests: &str) -> String {
    occurrences(file, tests, "sleep(", "a test waits for what it needs, with a bound")
}

/// Says what is wrong with what a module of the library names.
fn misplaced(file: &Source) -> String {
    let mut said = String::new();
    let own = match file.module().into_iter().next() {
        Some(name) if name != "lib" => name,
        _ => return said,
    };
    let place = |module: &str| ORDER.iter().position(|name| *name == module);
    let at = place(&own).unwrap_or(if own == "main" { ORDER.len() } else { 0 });
    let mut told = BTreeSet::new();
    for (line, path) in file.names() {
        let Some(named) = path.first() else {
            let _ = writeln!(said, "{}:{line}: the root has nothing to name", file.path);
            continue;
        };
        let excepted = || {
            let path = path.join("::");
            EXCEPTIONS.iter().any(|(from, to)| {
                own == *from
                    && path
                        .strip_prefix(to)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
        };
        let forbidden =
            FORBIDDEN.iter().find(|(from, to, _)| own == *from && to.contains(&named.as_str()));
        let verdict = if *named == own || named == LEAF || excepted() {
            None
        } else if own == "main" && named != "cli" {
            Some("only `cli` joins the parts".to_owned())
        } else if let Some((_, _, why)) = forbidden {
            Some((*why).to_owned())
        } else {
            match place(named) {
                None => Some("`lib.rs` lists no such module".to_owned()),
                Some(place) if place < at => None,
                Some(_) => Some("it stands behind it in `lib.rs`".to_owned()),
            }
        };
        if let Some(why) = verdict
            && told.insert((line, named.clone()))
        {
            let _ = writeln!(said, "{}:{line}: {own} may not name `{named}`: {why}", file.path);
        }
    }
    if place(&own).is_some_and(|at| Some(at) <= place(PURE_LAST)) {
        for word in IMPURE {
            said += &occurrences(file, &file.production, word, "the module is pure");
        }
    }
    said
}

/// Says where a word occurs that is not a part of a longer one.
fn occurrences(file: &Source, text: &str, word: &str, why: &str) -> String {
    let mut said = String::new();
    for (at, _) in text.match_indices(word) {
        let letter = |c: char| c.is_alphanumeric() || c == '_';
        let before = text[..at].ends_with(letter) && word.starts_with(letter);
        let behind = text[at + word.len()..].starts_with(letter) && word.ends_with(letter);
        if !before && !behind {
            let _ = writeln!(said, "{}:{}: `{word}`: {why}", file.path, line_of(text, at));
        }
    }
    said
}

/// Says which files of different top-level modules name each other, over any number of others.
fn cycles(files: &[&Source]) -> String {
    let known: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in files {
        for (_, path) in file.names() {
            let resolved = (1..=path.len()).rev().find_map(|count| {
                let stem = format!("src/{}", path[..count].join("/"));
                let names = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
                names.iter().find_map(|name| known.get(name.as_str()).copied())
            });
            edges.entry(&file.path).or_default().extend(resolved);
        }
    }
    let top =
        |path: &str| path.split('/').nth(1).map(|name| name.trim_end_matches(".rs").to_owned());
    let mut said = String::new();
    for (from, named) in &edges {
        for to in named.iter().filter(|to| top(to) != top(from)) {
            // Each cycle is told once, from its least file on.
            let way = way(&edges, to, from);
            if let Some(way) = way
                && way.iter().all(|file| from <= file)
            {
                let _ = writeln!(said, "{from} -> {}: a cycle of imports", way.join(" -> "));
            }
        }
    }
    said
}

/// Returns the shortest way along the edges, both ends included.
fn way<'a>(
    edges: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    from: &'a str,
    to: &'a str,
) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, Option<&'a str>> = BTreeMap::from([(from, None)]);
    let mut next = VecDeque::from([from]);
    while let Some(file) = next.pop_front() {
        if file == to {
            let mut way = vec![to];
            while let Some(Some(earlier)) = way.last().and_then(|last| before.get(last)) {
                way.push(earlier);
            }
            way.reverse();
            return Some(way);
        }
        for named in edges.get(file).into_iter().flatten() {
            if !before.contains_key(named) {
                before.insert(named, Some(file));
                next.push_back(named);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> String {
        let file = Source::new(path, text);
        untidy(&file) + &if path.starts_with("src/") { misplaced(&file) } else { String::new() }
    }

    #[test]
    fn a_module_names_only_those_before_it() {
        assert_eq!(
            of("src/decide/diff.rs", "use crate::adapter::git::Git;\n"),
            "src/decide/diff.rs:1: decide may not name `adapter`: it stands behind it in `lib.rs`\n"
        );
        assert_eq!(
            of("src/observed.rs", "\nfn f(a: &crate::policy::Cleared) {}\n"),
            "src/observed.rs:2: observed may not name `policy`: it stands behind it in `lib.rs`\n"
        );
        assert_eq!(
            of("src/collect.rs", "use super::{port::Clock, cli::tell};\n"),
            "src/collect.rs:1: collect may not name `cli`: it stands behind it in `lib.rs`\n"
        );
        assert_eq!(of("src/decide/diff.rs", "use crate::policy::Cleared;\nuse super::Wait;\n"), "");
        assert_eq!(
            of("src/cli/run.rs", "use crate::elsewhere::X;\n"),
            "src/cli/run.rs:1: cli may not name `elsewhere`: `lib.rs` lists no such module\n"
        );
    }

    #[test]
    fn adapters_never_choose_and_only_the_command_line_joins_them() {
        assert_eq!(
            of("src/adapter/git.rs", "use crate::decide::Decision;\n"),
            "src/adapter/git.rs:1: adapter may not name `decide`: an adapter translates and never chooses\n"
        );
        assert_eq!(
            of("src/controller.rs", "use crate::adapter::git::Git;\n"),
            "src/controller.rs:1: controller may not name `adapter`: only `cli` joins adapters to the controller\n"
        );
        assert_eq!(
            of("src/sim/mod.rs", "use crate::adapter::git::Git;\n"),
            "src/sim/mod.rs:1: sim may not name `adapter`: the simulated world stands in for all adapters\n"
        );
        assert_eq!(
            of("src/cli/run.rs", "use crate::adapter::git::Git;\nuse crate::controller;\n"),
            ""
        );
        assert_eq!(
            of("src/main.rs", "fn main() { ferry::controller::run() }\n"),
            "src/main.rs:1: main may not name `controller`: only `cli` joins the parts\n"
        );
        assert_eq!(of("src/main.rs", "fn main() { ferry::cli::main() }\n"), "");
    }

    #[test]
    fn the_port_names_messages_and_no_engine() {
        assert_eq!(of("src/port.rs", "use crate::copy::protocol::CopyJob;\n"), "");
        assert_eq!(
            of("src/port.rs", "use crate::copy::{protocol::CopyJob, engine::copy_disk};\n"),
            "src/port.rs:1: port may not name `copy`: it stands behind it in `lib.rs`\n"
        );
        assert!(!of("src/status.rs", "use crate::copy::protocol::CopyJob;\n").is_empty());
    }

    #[test]
    fn anyone_may_plant_a_bug_and_tests_may_name_anything() {
        assert_eq!(of("src/extent.rs", "use crate::planted::planted;\n"), "");
        assert!(!of("src/planted.rs", "use crate::domain::id::VmKey;\n").is_empty());
        assert_eq!(of("src/extent.rs", "#[cfg(test)]\nmod tests { use crate::cli::tell; }\n"), "");
    }

    #[test]
    fn the_pure_modules_touch_nothing() {
        for line in [
            "use tokio::time;",
            "use std::fs::File;",
            "use std::{fs, env};",
            "fn f() { std::env::args(); }",
            "fn f() { std::process::id(); }",
            "use std::net::TcpStream;",
            "async fn f() {}",
            "fn f() { x.await }",
            "fn f() { Timestamp::now(); }",
            "use git2::Repository;",
        ] {
            assert!(of("src/decide/diff.rs", line).contains("the module is pure"), "{line}");
            assert_eq!(of("src/adapter/git.rs", line), "", "{line}");
        }
        assert_eq!(
            of("src/status.rs", "use tokio::x;\n"),
            "src/status.rs:1: `tokio`: the module is pure\n"
        );
        assert_eq!(of("src/port.rs", "use std::fs::File;\n"), "");
        assert_eq!(of("src/decide/diff.rs", "// tokio, std::fs\nconst A: &str = \"tokio\";\n"), "");
        assert_eq!(
            of(
                "src/decide/diff.rs",
                "fn f(now: Timestamp) { g(now); self.awaits(); unit2::x() }\n"
            ),
            ""
        );
    }

    #[test]
    fn files_are_short_and_named_after_what_they_hold() {
        let long = "fn f() {}\n".repeat(601);
        assert_eq!(
            of("src/cli/run.rs", &long),
            "src/cli/run.rs: 601 lines of code, at most 600: split it\n"
        );
        assert_eq!(of("src/cli/run.rs", &long[..6000]), "");
        let tested = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(of("src/cli/run.rs", &tested).contains("604 lines of code"));
        assert_eq!(of("src/cli/run.rs", &"// why\n\n".repeat(601)), "");
        for name in ["src/utils.rs", "src/common/mod.rs", "tests/it/helpers.rs"] {
            assert!(of(name, "").contains("says nothing about what is inside"), "{name}");
        }
    }

    #[test]
    fn nothing_is_left_undone_and_no_test_sleeps() {
        assert_eq!(
            of("src/cli/run.rs", "fn f() { todo!() }\n"),
            "src/cli/run.rs:1: `todo!`: nothing is left undone\n"
        );
        assert!(!of("src/cli/run.rs", "fn f() { unimplemented!() }\n").is_empty());
        assert!(!of("tests/it/x.rs", "#[ignore = \"later\"]\n#[test]\nfn f() {}\n").is_empty());
        assert!(!of("tests/it/x.rs", "#[test]\n#[should_panic]\nfn f() {}\n").is_empty());
        assert!(!of("src/cli/run.rs", concat!("// FIX", "ME: later\n")).is_empty());
        assert_eq!(of("src/cli/run.rs", "fn f() { thread::sleep(pause) }\n"), "");
        assert_eq!(
            of(
                "src/cli/run.rs",
                "#[cfg(test)]\nmod tests {\n fn f() { thread::sleep(pause) }\n}\n"
            ),
            "src/cli/run.rs:3: `sleep(`: a test waits for what it needs, with a bound\n"
        );
        let file = Source::new("tests/it/x.rs", "fn f() { thread::sleep(pause) }\n");
        assert!(!sleeps(&file, &file.code).is_empty());
    }

    #[test]
    fn a_cycle_between_modules_is_found_file_by_file() {
        let file = |path: &str, text: &str| Source::new(path, text);
        let port = file("src/port.rs", "use crate::copy::protocol::Job;\n");
        let protocol = file("src/copy/protocol.rs", "use crate::domain::id::RunId;\n");
        let engine =
            file("src/copy/engine.rs", "use crate::port::Images;\nuse super::protocol::Job;\n");
        let id = file("src/domain/id.rs", "");
        assert_eq!(cycles(&[&port, &protocol, &engine, &id]), "");
        let protocol = file("src/copy/protocol.rs", "use super::engine::Bounds;\n");
        assert_eq!(
            cycles(&[&port, &protocol, &engine, &id]),
            "src/copy/engine.rs -> src/port.rs -> src/copy/protocol.rs -> src/copy/engine.rs: a cycle of imports\n"
        );
    }
}
