//! The crates that the lock file names keep to `.deny.toml`: their licenses, where they come from, and which are refused.
//! `cargo deny` judges by the same file where it is installed; this needs nothing but cargo.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

/// The words of `.deny.toml` that are judged here.
struct Terms {
    licenses: BTreeSet<String>,
    refused: BTreeSet<String>,
    registries: BTreeSet<String>,
}

impl Terms {
    fn read(text: &str) -> Self {
        let quoted = |list: &str, item: &str| {
            let list = Regex::new(&format!(r"(?ms)^{list} = \[(.*?)^?\]$")).unwrap();
            let found = list.captures(text).map(|found| found[1].to_owned()).unwrap_or_default();
            let items = Regex::new(&format!(r#"{item}"([^"]+)""#)).unwrap();
            items.captures_iter(&found).map(|found| found[1].to_owned()).collect()
        };
        Self {
            licenses: quoted("allow", ""),
            refused: quoted("deny", "crate = "),
            registries: quoted("allow-registry", ""),
        }
    }

    /// Tells what is wrong with a crate, if anything.
    fn judge(&self, name: &str, license: Option<&str>, source: Option<&str>) -> Option<String> {
        if self.refused.contains(name) {
            return Some(format!("{name} is refused"));
        }
        if let Some(source) = source {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !self.registries.contains(registry) {
                return Some(format!("{name} comes from {source}"));
            }
        }
        match license {
            Some(license) if self.permit(license) => None,
            license => Some(format!("{name} is licensed under {license:?}")),
        }
    }

    /// Tells whether an SPDX expression can be met. `/` is how crates wrote OR before; AND binds closer than OR.
    fn permit(&self, expression: &str) -> bool {
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut at = 0;
        self.any(&words, &mut at) && at == words.len()
    }

    fn any(&self, words: &[&str], at: &mut usize) -> bool {
        let mut met = self.all(words, at);
        while words.get(*at) == Some(&"OR") {
            *at += 1;
            met |= self.all(words, at);
        }
        met
    }

    fn all(&self, words: &[&str], at: &mut usize) -> bool {
        let mut met = self.one(words, at);
        while words.get(*at) == Some(&"AND") {
            *at += 1;
            met &= self.one(words, at);
        }
        met
    }

    fn one(&self, words: &[&str], at: &mut usize) -> bool {
        let Some(word) = words.get(*at) else { return false };
        *at += 1;
        if *word == "(" {
            let met = self.any(words, at);
            *at += 1;
            return met;
        }
        let mut license = (*word).to_owned();
        if words.get(*at) == Some(&"WITH") {
            license = format!("{license} WITH {}", words.get(*at + 1).unwrap_or(&""));
            *at += 2;
        }
        self.licenses.contains(&license)
    }
}

#[test]
fn every_crate_may_be_linked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let terms = Terms::read(&fs::read_to_string(root.join(".deny.toml")).unwrap());
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    // What makes the bindings of VDDK is there only where it was asked for.
    if cfg!(feature = "peers") {
        cargo.arg("--all-features");
    }
    // Crates for other systems are named by the lock file and not there.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cargo.args(["--filter-platform", platform.as_str()]).current_dir(root);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "cargo names only {} packages", packages.len());
    let wrong: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let name = package["name"].as_str().unwrap();
            terms.judge(name, package["license"].as_str(), package["source"].as_str())
        })
        .collect();
    assert!(wrong.is_empty(), "against .deny.toml: {wrong:#?}");
}

#[test]
fn each_term_bites() {
    let terms = Terms::read(
        "[licenses]\nallow = [\n    \"MIT\",\n    \"ISC\",\n]\n[bans]\ndeny = [\n    \
         { crate = \"sled\", reason = \"no\" },\n]\n[sources]\nallow-registry = [\"https://here\"]\n",
    );
    let here = Some("registry+https://here");
    assert_eq!(terms.judge("a", Some("MIT"), here), None);
    assert_eq!(terms.judge("own", Some("MIT"), None), None);
    assert_eq!(terms.judge("sled", Some("MIT"), here).as_deref(), Some("sled is refused"));
    for (license, permitted) in [
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("GPL-3.0 AND MIT OR ISC", true),
        ("MIT WITH exception", false),
        ("MIT ISC", false),
        ("", false),
    ] {
        assert_eq!(terms.judge("a", Some(license), here).is_none(), permitted, "{license}");
    }
    assert!(terms.judge("a", None, here).is_some());
    assert!(terms.judge("a", Some("MIT"), Some("git+https://here")).is_some());
    assert!(terms.judge("a", Some("MIT"), Some("registry+https://there")).is_some());
}
