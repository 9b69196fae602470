//! Sets when a `Migration` cuts its VMs over, in place.

use std::ops::Range;

use super::tree::{Node, Value, parse};
use super::{EditError, below, indent_of, line_before, newline_of, outline_of, quoted, verified};

/// Sets `spec.cutover` of a `Migration`, or the entry of one VM in `spec.vmCutover`.
pub fn with_cutover(
    text: &str,
    migration: &str,
    vm: Option<&str>,
    time: &str,
) -> Result<String, EditError> {
    let documents = parse(text)?;
    let is_wanted = |document: &Node| {
        outline_of(text, document)
            .is_some_and(|found| found.kind == "Migration" && found.name == migration)
    };
    let Some(index) = documents.iter().position(is_wanted) else {
        return Err(EditError::NoMigration(migration.to_owned()));
    };
    let by_hand = match vm {
        None => format!("cutover: {}", quoted(time)),
        Some(vm) => format!("vmCutover: [{{ vm: {}, cutover: {} }}]", quoted(vm), quoted(time)),
    };
    let layout =
        || EditError::LayoutOf { migration: migration.to_owned(), by_hand: by_hand.clone() };
    let spec = documents.get(index).and_then(|document| document.get("spec")).ok_or_else(layout)?;
    let (place, new) = match vm {
        None => of_plan(text, spec, time),
        Some(vm) => of_vm(text, spec, vm, time),
    }
    .ok_or_else(layout)?;
    let mut result = text.to_owned();
    result.replace_range(place, &new);
    let mut wanted = documents.clone();
    let spec = wanted.get_mut(index).and_then(|document| document.get_mut("spec"));
    spec.and_then(|spec| set(spec, vm, time)).ok_or_else(layout)?;
    verified(result, &wanted).ok_or_else(layout)
}

/// Tells what to write where for all VMs.
fn of_plan(text: &str, spec: &Node, time: &str) -> Option<(Range<usize>, String)> {
    if let Some(cutover) = spec.get("cutover") {
        return scalar(text, cutover, time);
    }
    behind_plan(text, spec, &format!("cutover: {}", quoted(time)))
}

/// Tells what to write where for one VM.
fn of_vm(text: &str, spec: &Node, vm: &str, time: &str) -> Option<(Range<usize>, String)> {
    let item = format!("{{ vm: {}, cutover: {} }}", quoted(vm), quoted(time));
    let Some(list) = spec.get("vmCutover") else {
        let newline = newline_of(text);
        if spec.flow {
            return behind_plan(text, spec, &format!("vmCutover: [{item}]"));
        }
        let indent = indent_of(text, spec.entry("plan")?.0.start)?;
        return behind_plan(text, spec, &format!("vmCutover:{newline}{indent}  - {item}"));
    };
    let items = list.items();
    if let Some(found) = items.iter().find(|item| names(item, vm)) {
        return scalar(text, found.get("cutover")?, time);
    }
    match items.last() {
        None if list.flow => Some((list.start + 1..list.start + 1, item)),
        None => None,
        Some(last) if list.flow => Some((last.end..last.end, format!(", {item}"))),
        Some(last) => {
            let prefix = line_before(text, last.start);
            if prefix.trim() != "-" {
                return None;
            }
            // A block of its own ends with its last line.
            let end = last
                .get("cutover")
                .map_or(last.end, |cutover| cutover.end)
                .max(last.get("vm").map_or(last.end, |vm| vm.end));
            let end = if last.flow { last.end } else { end };
            let newline = newline_of(text);
            let (at, line) = below(text, end, &format!("{prefix}{item}{newline}"), newline);
            Some((at..at, line))
        }
    }
}

/// Writes another scalar in the place of one that stands on one line.
fn scalar(text: &str, node: &Node, time: &str) -> Option<(Range<usize>, String)> {
    match &node.value {
        // Nothing stands behind the colon: the parser puts the empty scalar before it.
        Value::Scalar { .. } if node.start == node.end => {
            let rest = text.get(node.start..)?;
            let at = node.start + 1;
            rest.starts_with(':').then(|| (at..at, format!(" {}", quoted(time))))
        }
        Value::Scalar { .. } if !text.get(node.start..node.end)?.contains('\n') => {
            Some((node.start..node.end, quoted(time)))
        }
        Value::Scalar { .. } | Value::Sequence(_) | Value::Mapping(_) | Value::Alias(_) => None,
    }
}

/// Adds a key behind `plan`, which every migration has.
fn behind_plan(text: &str, spec: &Node, line: &str) -> Option<(Range<usize>, String)> {
    let (key, plan) = spec.entry("plan")?;
    if spec.flow {
        return Some((plan.end..plan.end, format!(", {line}")));
    }
    let (indent, newline) = (indent_of(text, key.start)?, newline_of(text));
    let (at, line) = below(text, plan.end, &format!("{indent}{line}{newline}"), newline);
    Some((at..at, line))
}

fn names(item: &Node, vm: &str) -> bool {
    item.get("vm").and_then(Node::as_text) == Some(vm)
}

/// Makes the wanted value: the same document with another time.
fn set(spec: &mut Node, vm: Option<&str>, time: &str) -> Option<()> {
    let Some(vm) = vm else {
        return put(spec, "cutover", Node::text(time));
    };
    let item = Node::mapping([("vm", Node::text(vm)), ("cutover", Node::text(time))]);
    let Some(list) = spec.get_mut("vmCutover") else {
        return put(spec, "vmCutover", Node::plain(Value::Sequence(vec![item])));
    };
    let Value::Sequence(items) = &mut list.value else { return None };
    match items.iter_mut().find(|item| names(item, vm)) {
        Some(found) => put(found, "cutover", Node::text(time)),
        None => {
            items.push(item);
            Some(())
        }
    }
}

/// Sets a key; a new one comes behind `plan`.
fn put(mapping: &mut Node, key: &str, value: Node) -> Option<()> {
    let position = mapping.position("plan");
    if let Some(found) = mapping.get_mut(key) {
        *found = value;
        return Some(());
    }
    let Value::Mapping(entries) = &mut mapping.value else { return None };
    entries.insert(position? + 1, (Node::text(key), value));
    Some(())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "apiVersion: ferry.dev/v1alpha1\nkind: Migration\nmetadata: {name: web-1}\n";

    fn check(spec: &str, vm: Option<&str>, expected: Expect) {
        let text = format!("{HEAD}{spec}");
        let shown = match with_cutover(&text, "web-1", vm, "2026-11-28T22:00:00+01:00") {
            Ok(result) => result.replacen(HEAD, "", 1),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown.replace('\r', "␍"));
    }

    #[test]
    fn a_time_is_set_or_changed_and_nothing_else() {
        check(
            "spec:\n  plan: web # why\n  cancel: [x]\n",
            None,
            expect![[r#"
                spec:
                  plan: web # why
                  cutover: "2026-11-28T22:00:00+01:00"
                  cancel: [x]
            "#]],
        );
        check(
            "spec: { plan: web, cutover: now } # soon\r\n",
            None,
            expect![[r#"
                spec: { plan: web, cutover: "2026-11-28T22:00:00+01:00" } # soon␍
            "#]],
        );
        check(
            "spec:\n  cutover:   '2026-01-01T00:00:00Z'   # later\n  plan: web",
            None,
            expect![[r#"
                spec:
                  cutover:   "2026-11-28T22:00:00+01:00"   # later
                  plan: web"#]],
        );
        check(
            "spec:\n  cutover: # when?\n  plan: web\n",
            None,
            expect![[r#"
                spec:
                  cutover: "2026-11-28T22:00:00+01:00" # when?
                  plan: web
            "#]],
        );
    }

    #[test]
    fn one_vm_has_a_time_of_its_own() {
        check(
            "spec:\n  plan: web\n",
            Some("db"),
            expect![[r#"
                spec:
                  plan: web
                  vmCutover:
                    - { vm: db, cutover: "2026-11-28T22:00:00+01:00" }
            "#]],
        );
        check(
            "spec:\n  plan: web\n  vmCutover:\n    - vm: a\n      cutover: now # at once\n    - cutover: now\n      vm: db # old\n",
            Some("db"),
            expect![[r#"
                spec:
                  plan: web
                  vmCutover:
                    - vm: a
                      cutover: now # at once
                    - cutover: "2026-11-28T22:00:00+01:00"
                      vm: db # old
            "#]],
        );
        check(
            "spec:\n  plan: web\n  vmCutover:\n    - vm: a\n      cutover: now # at once\n  cancel: [a]\n",
            Some("old one"),
            expect![[r#"
                spec:
                  plan: web
                  vmCutover:
                    - vm: a
                      cutover: now # at once
                    - { vm: "old one", cutover: "2026-11-28T22:00:00+01:00" }
                  cancel: [a]
            "#]],
        );
        check(
            "spec: { plan: web, vmCutover: [] }\n",
            Some("db"),
            expect![[r#"
                spec: { plan: web, vmCutover: [{ vm: db, cutover: "2026-11-28T22:00:00+01:00" }] }
            "#]],
        );
    }

    #[test]
    fn a_layout_that_cannot_be_edited_says_what_to_write() {
        check(
            "spec:\n  plan: web\n  cutover: |\n    now\n",
            None,
            expect![[
                r#"its layout cannot be edited; write by hand: `cutover: "2026-11-28T22:00:00+01:00"` into the `spec` of `web-1`"#
            ]],
        );
        check(
            "spec:\n  plan: web\n  vmCutover: all\n",
            Some("db"),
            expect![[
                r#"its layout cannot be edited; write by hand: `vmCutover: [{ vm: db, cutover: "2026-11-28T22:00:00+01:00" }]` into the `spec` of `web-1`"#
            ]],
        );
    }

    proptest! {
        /// Whatever the text: an edit never panics, and what it returns says what was asked for.
        #[test]
        fn an_edit_says_what_was_asked_for(text in "[ -~\n\r]{0,80}", vm in "\\PC{1,12}") {
            let text = format!("{HEAD}spec:\n  plan: web\n{text}");
            for vm in [None, Some(vm.as_str())] {
                let Ok(edited) = with_cutover(&text, "web-1", vm, "never") else { continue };
                let document = parse(&edited).unwrap().remove(0);
                let spec = document.get("spec").unwrap();
                let found = match vm {
                    None => spec.get("cutover"),
                    Some(vm) => {
                        let items = spec.get("vmCutover").unwrap().items();
                        items.iter().find(|item| names(item, vm)).and_then(|item| item.get("cutover"))
                    }
                };
                prop_assert_eq!(found.and_then(Node::as_text), Some("never"));
            }
        }
    }
}
