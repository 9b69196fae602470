//! What the project promises about itself: its files, its documentation, and what its binary needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// All that the binary loads: VMware's library brings copies of OpenSSL and zlib into the worker's process, and two copies
/// of one library in a process end in crashes. What is not here is linked statically.
const LOADED: [&str; 3] = ["libc.so.6", "libgcc_s.so.1", "libm.so.6"];

/// The loader itself, whose name ends in the machine's.
const LOADER: &str = "ld-linux";

/// All that is seen at the top: tool files are hidden there.
const TOP: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "deploy",
    "sample-plans",
    "schemas",
    "src",
    "tests",
    "vddk-sys",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_top_level_holds_what_a_visitor_looks_for() {
    let repository = match git2::Repository::open(root()) {
        Ok(repository) => repository,
        // A release's archive has no repository; there the file itself is the proof.
        Err(error) if error.code() == git2::ErrorCode::NotFound => {
            assert!(root().join("Cargo.lock").exists());
            return;
        }
        Err(error) => panic!("cannot open the repository: {error}"),
    };
    let index = repository.index().unwrap();
    assert!(index.get_path(Path::new("Cargo.lock"), 0).is_some());
    let visible: BTreeSet<String> = index
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.path).split('/').next().unwrap().to_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let unexpected: Vec<&String> =
        visible.iter().filter(|name| !TOP.contains(&name.as_str())).collect();
    assert!(unexpected.is_empty(), "{unexpected:?} is not for the top level");
}

#[test]
fn the_commands_of_the_readme_exist() {
    use std::os::unix::fs::PermissionsExt;
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("cargo run --release -- demo"));
    for script in ["tests/run", ".ci/run", "tests/tools/tiny-guest.sh", "tests/tools/make-ova.sh"] {
        let mode = fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert_ne!(mode & 0o111, 0, "{script} cannot be executed");
    }
    for named in between_backticks(&readme).filter(|text| text.starts_with("tests/")) {
        assert!(root().join(named).exists(), "README.md names {named}");
    }
}

fn between_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|text| !text.contains([' ', '\n', '*']))
}

#[test]
fn every_sample_says_what_it_shows() {
    let Ok(samples) = fs::read_dir(root().join("sample-plans")) else {
        return;
    };
    for sample in samples.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        assert!(sample.join("README.md").exists(), "{} has no README.md", sample.display());
    }
}

#[test]
fn the_binary_loads_libc_and_its_kin_only() {
    let binary = fs::read(env!("CARGO_BIN_EXE_ferry")).unwrap();
    let needed = needed(&binary).unwrap();
    assert!(needed.contains("libc.so.6"), "{needed:?}");
    let more: Vec<&String> = needed
        .iter()
        .filter(|name| !LOADED.contains(&name.as_str()) && !name.starts_with(LOADER))
        .collect();
    assert!(more.is_empty(), "the binary loads {more:?} as well");
}

#[test]
fn what_a_binary_needs_is_read_from_its_dynamic_section() {
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(needed(&own).unwrap().contains("libc.so.6"));
    assert_eq!(needed(b"#!/bin/sh\n"), None);
    assert_eq!(needed(&own[..own.len() / 50]), None);
}

/// Returns the libraries that a 64-bit little-endian ELF file names (`DT_NEEDED`); `None` where it is none.
///
/// Offsets are those of the System V ABI: a section header (64 bytes) has its type at 4, its offset at 24, its size at 32
/// and, for a dynamic section, the index of its string table at 40.
fn needed(file: &[u8]) -> Option<BTreeSet<String>> {
    const SHT_DYNAMIC: u64 = 6;
    const DT_NEEDED: u64 = 1;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = file.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    };
    let place = |at: usize, bytes: usize| usize::try_from(number(at, bytes)?).ok();
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (headers, count) = (place(40, 8)?, place(60, 2)?);
    let header = |index: usize| headers.checked_add(index.checked_mul(64)?);
    let mut dynamic = None;
    for index in 0..count {
        if number(header(index)? + 4, 4)? == SHT_DYNAMIC {
            dynamic = header(index);
        }
    }
    let dynamic = dynamic?;
    let (start, size) = (place(dynamic + 24, 8)?, place(dynamic + 32, 8)?);
    let strings = place(header(place(dynamic + 40, 4)?)? + 24, 8)?;
    let mut names = BTreeSet::new();
    for entry in (start..start.checked_add(size)?).step_by(16) {
        if number(entry, 8)? == DT_NEEDED {
            let name = file.get(strings.checked_add(place(entry + 8, 8)?)?..)?;
            let end = name.iter().position(|byte| *byte == 0)?;
            names.insert(String::from_utf8_lossy(&name[..end]).into_owned());
        }
    }
    Some(names)
}
