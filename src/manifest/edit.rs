//! Edits manifests in place: a new `Migration` for a plan, a VM that a `Migration` cancels, the time of a cutover.
//!
//! # Guarantees
//! - Bytes are added at one place, or one value is replaced; every comment, blank line and quotation mark beside it stays.
//! - The result was parsed again and says exactly what it said before, plus what was asked for. Where the text is laid out so
//!   that this cannot be reached, nothing is changed and the error says what to write by hand.

mod cutover;
mod tree;

pub use cutover::with_cutover;

use crate::manifest::document::API_VERSION;
use tree::{Node, Value, parse};

/// Kubernetes names are labels of at most this length.
const NAME_LENGTH_MAX: usize = 63;

/// Why a text was not edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is no YAML.
    #[error("line {line}: {text}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        text: String,
    },
    /// It is nested deeper than any manifest.
    #[error("it is nested too deep")]
    TooDeep,
    /// It holds no such `Migration`.
    #[error("it holds no Migration `{0}`")]
    NoMigration(String),
    /// It is laid out in a way that a time cannot be written into.
    #[error(
        "its layout cannot be edited; write by hand: `{by_hand}` into the `spec` of `{migration}`"
    )]
    LayoutOf {
        /// The migration.
        migration: String,
        /// What to write.
        by_hand: String,
    },
    /// It is laid out in a way that cannot be added to.
    #[error("its layout cannot be edited; write by hand: `cancel: [{}]` into the `spec` of `{migration}`", vms.join(", "))]
    Layout {
        /// The migration.
        migration: String,
        /// What was to be added.
        vms: Vec<String>,
    },
}

/// One document of a file, as far as editing must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// `kind`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// The line that it starts at.
    pub line: usize,
    /// `spec.plan`, of a `Migration`.
    pub plan: Option<String>,
    /// The names of `spec.vms[]`, of a `Plan`.
    pub vms: Vec<String>,
    /// `spec.cancel[]`, of a `Migration`.
    pub cancel: Vec<String>,
}

/// Lists Ferry's documents in a text.
pub fn outline(text: &str) -> Result<Vec<Outline>, EditError> {
    let documents = parse(text)?;
    Ok(documents.iter().filter_map(|document| outline_of(text, document)).collect())
}

/// Returns a name for the next migration of a plan: `PLAN-N`, with N above every one that exists.
pub fn next_migration_name<'a>(plan: &str, existing: impl Iterator<Item = &'a str>) -> String {
    let highest = existing.filter_map(|name| number_of(plan, name)).max().unwrap_or(0);
    numbered(plan, highest.saturating_add(1))
}

/// Returns the N of a migration's name `PLAN-N`.
pub fn number_of(plan: &str, migration: &str) -> Option<u64> {
    let (_, digits) = migration.rsplit_once('-')?;
    let number = digits.parse().ok()?;
    (numbered(plan, number) == migration).then_some(number)
}

/// Adds a `Migration` of a plan as the last document.
pub fn with_migration(text: &str, name: &str, plan: &str) -> Result<String, EditError> {
    let mut wanted = parse(text)?;
    let newline = newline_of(text);
    let document = [
        format!("apiVersion: {API_VERSION}"),
        "kind: Migration".to_owned(),
        format!("metadata: {{ name: {} }}", quoted(name)),
        "spec:".to_owned(),
        format!("  plan: {}", quoted(plan)),
    ];
    let mut added = String::new();
    if !text.is_empty() && !text.ends_with('\n') {
        added.push_str(newline);
    }
    if !text.trim().is_empty() {
        added.push_str("---");
        added.push_str(newline);
    }
    for line in document {
        added.push_str(&line);
        added.push_str(newline);
    }
    let result = format!("{text}{added}");
    let metadata = Node::mapping([("name", Node::text(name))]);
    let spec = Node::mapping([("plan", Node::text(plan))]);
    wanted.push(Node::mapping([
        ("apiVersion", Node::text(API_VERSION)),
        ("kind", Node::text("Migration")),
        ("metadata", metadata),
        ("spec", spec),
    ]));
    let layout = || EditError::Layout { migration: name.to_owned(), vms: Vec::new() };
    verified(result, &wanted).ok_or_else(layout)
}

/// Adds VMs to the `cancel` of a `Migration`. Those that stand there already are not added again.
pub fn with_cancel(text: &str, migration: &str, vms: &[String]) -> Result<String, EditError> {
    let documents = parse(text)?;
    let is_wanted = |document: &Node| {
        outline_of(text, document)
            .is_some_and(|found| found.kind == "Migration" && found.name == migration)
    };
    let Some(index) = documents.iter().position(is_wanted) else {
        return Err(EditError::NoMigration(migration.to_owned()));
    };
    let document = documents.get(index).expect("the position was found in it");
    let already = outline_of(text, document).map(|outline| outline.cancel).unwrap_or_default();
    let new: Vec<String> = vms.iter().filter(|vm| !already.contains(vm)).cloned().collect();
    if new.is_empty() {
        return Ok(text.to_owned());
    }
    let layout = || EditError::Layout { migration: migration.to_owned(), vms: new.clone() };
    let (place, added) = splice(text, document, &new).ok_or_else(layout)?;
    let mut result = text.to_owned();
    result.insert_str(place, &added);
    let mut wanted = documents.clone();
    wanted.get_mut(index).and_then(|document| cancel_more(document, &new)).ok_or_else(layout)?;
    verified(result, &wanted).ok_or_else(layout)
}

/// Returns a text that says what is wanted, and nothing else.
fn verified(text: String, wanted: &[Node]) -> Option<String> {
    let found = parse(&text).ok()?;
    let same = found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(found, wanted)| found.says_the_same(wanted));
    same.then_some(text)
}

/// Tells where to add what.
fn splice(text: &str, document: &Node, vms: &[String]) -> Option<(usize, String)> {
    let newline = newline_of(text);
    let listed = vms.iter().map(|vm| quoted(vm)).collect::<Vec<_>>().join(", ");
    let spec = document.get("spec")?;
    let Some(cancel) = spec.get("cancel") else {
        // Behind `plan`, which every migration has.
        let (key, plan) = spec.entry("plan")?;
        if spec.flow {
            return Some((plan.end, format!(", cancel: [{listed}]")));
        }
        let indent = indent_of(text, key.start)?;
        let lines = item_lines(&format!("{indent}  - "), vms, newline);
        return Some(below(text, plan.end, &format!("{indent}cancel:{newline}{lines}"), newline));
    };
    match &cancel.value {
        Value::Sequence(items) => match items.last() {
            None if cancel.flow => Some((cancel.start + 1, listed)),
            None => None,
            Some(last) if cancel.flow => Some((last.end, format!(", {listed}"))),
            Some(last) => {
                let prefix = line_before(text, last.start);
                if prefix.trim() != "-" {
                    return None;
                }
                let lines = item_lines(prefix, vms, newline);
                Some(below(text, last.end, &lines, newline))
            }
        },
        // `cancel:` with nothing behind it: the parser puts the empty scalar before the colon.
        Value::Scalar { plain: true, .. } if cancel.start == cancel.end => {
            let rest = text.get(cancel.start..)?;
            rest.starts_with(':').then(|| (cancel.start + 1, format!(" [{listed}]")))
        }
        Value::Scalar { .. } | Value::Mapping(_) | Value::Alias(_) => None,
    }
}

/// Writes one line for each VM.
fn item_lines(prefix: &str, vms: &[String], newline: &str) -> String {
    vms.iter().fold(String::new(), |lines, vm| lines + prefix + &quoted(vm) + newline)
}

/// Adds lines below the one that a byte stands in.
fn below(text: &str, place: usize, lines: &str, newline: &str) -> (usize, String) {
    let rest = text.get(place..).unwrap_or_default();
    match rest.find('\n') {
        Some(end) => (place + end + 1, lines.to_owned()),
        None => (text.len(), format!("{newline}{lines}")),
    }
}

fn line_before(text: &str, place: usize) -> &str {
    let before = text.get(..place).unwrap_or_default();
    before.rsplit('\n').next().unwrap_or_default()
}

/// Returns the blanks before a key that stands first in its line.
fn indent_of(text: &str, place: usize) -> Option<&str> {
    let before = line_before(text, place);
    before.trim().is_empty().then_some(before)
}

/// Makes the wanted value: the same document with more in `spec.cancel`.
fn cancel_more(document: &mut Node, vms: &[String]) -> Option<()> {
    let spec = document.get_mut("spec")?;
    let new = vms.iter().map(|vm| Node::text(vm));
    let plan = spec.position("plan")?;
    if let Some(cancel) = spec.get_mut("cancel") {
        match &mut cancel.value {
            Value::Sequence(items) => items.extend(new),
            Value::Scalar { .. } => cancel.value = Value::Sequence(new.collect()),
            Value::Mapping(_) | Value::Alias(_) => return None,
        }
    } else {
        let Value::Mapping(entries) = &mut spec.value else { return None };
        let list = Node::plain(Value::Sequence(new.collect()));
        entries.insert(plan + 1, (Node::text("cancel"), list));
    }
    Some(())
}

fn outline_of(text: &str, document: &Node) -> Option<Outline> {
    if document.get("apiVersion")?.as_text()? != API_VERSION {
        return None;
    }
    let kind = document.get("kind")?.as_text()?.to_owned();
    let name = document.get("metadata")?.get("name")?.as_text()?.to_owned();
    let spec = document.get("spec");
    let of_spec = |key: &str| spec.and_then(|spec| spec.get(key));
    let list = |key: &str| of_spec(key).map(Node::items).unwrap_or_default();
    let vm_name = |vm: &Node| {
        let named = vm.get("name").or_else(|| vm.get("id")).or_else(|| vm.get("uuid"))?;
        named.as_text().map(str::to_owned)
    };
    let before = text.get(..document.start).unwrap_or_default();
    Some(Outline {
        kind,
        name,
        line: before.matches('\n').count() + 1,
        plan: of_spec("plan").and_then(Node::as_text).map(str::to_owned),
        vms: list("vms").iter().filter_map(vm_name).collect(),
        cancel: list("cancel").iter().filter_map(Node::as_text).map(str::to_owned).collect(),
    })
}

fn numbered(plan: &str, number: u64) -> String {
    let digits = number.to_string();
    // A label is ASCII; a name that is none is refused elsewhere, and must only not panic here.
    let room = NAME_LENGTH_MAX.saturating_sub(digits.len() + 1);
    let short: String = plan.chars().take(room).collect();
    format!("{}-{digits}", short.trim_end_matches('-'))
}

fn newline_of(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Writes a scalar so that every YAML reader takes it for that text: plain where nobody can take it for anything else.
fn quoted(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    // A JSON string is a double-quoted YAML scalar.
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    const PLAN: &str = "\
# The first wave.
apiVersion: ferry.dev/v1alpha1
kind: Plan
metadata:
  name: web
spec:
  provider: { source: a, destination: b }
  vms:
    - name: web-01   # the old one
    - id: \"ova:ab/db\"
";

    fn migration(spec: &str) -> String {
        format!(
            "apiVersion: ferry.dev/v1alpha1\nkind: Migration\nmetadata: {{name: web-1}}\n{spec}"
        )
    }

    fn check(spec: &str, expected: Expect) {
        let text = migration(spec);
        let vms = ["db".to_owned(), "old one".to_owned()];
        let shown = match with_cancel(&text, "web-1", &vms) {
            Ok(result) => result.replacen(&migration(""), "", 1),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown.replace('\r', "␍"));
    }

    #[test]
    fn an_outline_tells_what_stands_where() {
        let text = format!(
            "{PLAN}---\nkind: ConfigMap\n---\n{}",
            migration("spec: {plan: web, cancel: [a]}\n")
        );
        let outline = outline(&text).unwrap();
        let shown: Vec<_> = outline
            .iter()
            .map(|o| {
                format!("{} {} {} {:?} {:?} {:?}", o.line, o.kind, o.name, o.plan, o.vms, o.cancel)
            })
            .collect();
        expect![[r#"
            2 Plan web None ["web-01", "ova:ab/db"] []
            14 Migration web-1 Some("web") [] ["a"]"#]]
        .assert_eq(&shown.join("\n"));
    }

    #[test]
    fn a_migration_becomes_the_last_document() {
        expect![[r"
            PLAN
            ---
            apiVersion: ferry.dev/v1alpha1
            kind: Migration
            metadata: { name: web-1 }
            spec:
              plan: web
        "]]
        .assert_eq(&with_migration(PLAN, "web-1", "web").unwrap().replacen(PLAN, "PLAN\n", 1));
        expect![[r#"
            apiVersion: ferry.dev/v1alpha1
            kind: Migration
            metadata: { name: n-1 }
            spec:
              plan: "007"
        "#]]
        .assert_eq(&with_migration("", "n-1", "007").unwrap());
        expect![[r#"
            # only␍
            a: |␍
              text␍
            ---␍
            apiVersion: ferry.dev/v1alpha1␍
            kind: Migration␍
            metadata: { name: n-1 }␍
            spec:␍
              plan: "n"␍
        "#]]
        .assert_eq(
            &with_migration("# only\r\na: |\r\n  text", "n-1", "n").unwrap().replace('\r', "␍"),
        );
        expect!["line 1: unclosed bracket '['"]
            .assert_eq(&with_migration("a: [b", "n-1", "n").unwrap_err().to_string());
    }

    #[test]
    fn names_count_upwards_and_stay_labels() {
        let names = ["web-1", "web-12", "web-x", "web-012", "db-40", "web-2-3"];
        assert_eq!(next_migration_name("web", names.into_iter()), "web-13");
        assert_eq!(next_migration_name("new", names.into_iter()), "new-1");
        let long = "a".repeat(63);
        let name = next_migration_name(&long, std::iter::empty());
        assert_eq!(name.len(), 63);
        assert_eq!(
            next_migration_name(&long, [name.as_str()].into_iter()),
            format!("{}-2", &long[..61])
        );
    }

    #[test]
    fn a_list_is_made_where_there_is_none() {
        check(
            "spec:\n  plan: web # why\n  again: [x]\n",
            expect![[r#"
            spec:
              plan: web # why
              cancel:
                - db
                - "old one"
              again: [x]
        "#]],
        );
        check(
            "spec:\n    plan: web",
            expect![[r#"
            spec:
                plan: web
                cancel:
                  - db
                  - "old one"
        "#]],
        );
        check(
            "spec: { plan: web }\n",
            expect![[r#"
            spec: { plan: web, cancel: [db, "old one"] }
        "#]],
        );
        check(
            "spec:\n  cancel: # none\n  plan: web\n",
            expect![[r#"
            spec:
              cancel: [db, "old one"] # none
              plan: web
        "#]],
        );
    }

    #[test]
    fn a_list_is_gone_on_with_as_it_is_laid_out() {
        check(
            "spec:\n  plan: web\n  cancel:\n  - a # first\n  # last\n\n  again: [x]\n",
            expect![[r#"
                spec:
                  plan: web
                  cancel:
                  - a # first
                  - db
                  - "old one"
                  # last

                  again: [x]
            "#]],
        );
        check(
            "spec:\n  plan: web\n  cancel:\n      -   \"a\"",
            expect![[r#"
            spec:
              plan: web
              cancel:
                  -   "a"
                  -   db
                  -   "old one"
        "#]],
        );
        check(
            "spec:\n  plan: web\n  cancel: [ a ] # ours\n",
            expect![[r#"
            spec:
              plan: web
              cancel: [ a, db, "old one" ] # ours
        "#]],
        );
        check(
            "spec:\n  plan: web\n  cancel: []\n",
            expect![[r#"
            spec:
              plan: web
              cancel: [db, "old one"]
        "#]],
        );
        check(
            "spec:\n  plan: web\n  cancel: [db]\n",
            expect![[r#"
            spec:
              plan: web
              cancel: [db, "old one"]
        "#]],
        );
        check(
            "spec:\r\n  plan: web\r\n  cancel:\r\n  - a\r\n",
            expect![[r#"
                spec:␍
                  plan: web␍
                  cancel:␍
                  - a␍
                  - db␍
                  - "old one"␍
            "#]],
        );
    }

    #[test]
    fn a_layout_that_cannot_be_edited_says_what_to_write() {
        check(
            "spec:\n  plan: web\n  again: &l [x]\n  cancel: *l\n",
            expect![
                "its layout cannot be edited; write by hand: `cancel: [db, old one]` into the `spec` of `web-1`"
            ],
        );
        check(
            "spec:\n  plan: web\n  cancel: all\n",
            expect![
                "its layout cannot be edited; write by hand: `cancel: [db, old one]` into the `spec` of `web-1`"
            ],
        );
        check(
            "spec:\n  plan: |\n    web\n",
            expect![[r#"
            spec:
              plan: |
                web

              cancel:
                - db
                - "old one"
        "#]],
        );
        let error = with_cancel(PLAN, "web-1", &["a".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "it holds no Migration `web-1`");
    }

    proptest! {
        /// Whatever the text: an edit never panics, and keeps every byte that was there.
        #[test]
        fn an_edit_only_adds(text in "[ -~\n\r]{0,80}", vm in "\\PC{0,12}") {
            for edited in [with_migration(&text, "m-1", &vm), with_cancel(&migration(&text), "web-1", std::slice::from_ref(&vm))].into_iter().flatten() {
                prop_assert!(edited.len() >= text.len());
            }
        }

        /// Any name survives quoting.
        #[test]
        fn any_vm_can_be_canceled(vms in proptest::collection::vec("\\PC{1,12}", 1..4)) {
            let text = with_cancel(&migration("spec:\n  plan: web\n"), "web-1", &vms).unwrap();
            let listed = outline(&text).unwrap().remove(0).cancel;
            prop_assert!(vms.iter().all(|vm| listed.contains(vm)), "{text}");
        }
    }
}
