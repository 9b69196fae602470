//! `ferry explain`: what a kind, a field or a code means, out of the types that it is made of.

use std::fmt::Write as _;

use anyhow::bail;
use serde_json::Value;

use crate::cli::{Exit, answer};
use crate::manifest::code::Code;
use crate::manifest::diagnostic::Severity;
use crate::manifest::document::{API_VERSION, Kind};
use crate::manifest::schema::{given, schema};
use crate::manifest::{nearest, shown};
use crate::policy::{ConcernPage, concerns};

/// Explains a kind, a field of it, the code of a finding, or a concern about a VM.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry explain                      list the kinds, the codes and the concerns
  ferry explain Plan                 the fields of a plan
  ferry explain Plan.vms.targetName  one field
  ferry explain FY0205               what a finding means and what to do about it
  ferry explain ova.disk.checksum.absent

Exit codes: 0 done, 1 nothing of that name, 64 wrong usage")]
pub struct Explain {
    /// `KIND`, `KIND.FIELD…` (without `spec`), a code or a concern.
    pub subject: Option<String>,
}

/// Prints the page.
pub fn run(args: Explain) -> anyhow::Result<Exit> {
    let Explain { subject } = args;
    answer(&match subject {
        None => overview(),
        Some(subject) => page(&subject)?,
    });
    Ok(Exit::Done)
}

/// Returns the page about a kind, a field, a code or a concern.
pub fn page(subject: &str) -> anyhow::Result<String> {
    if let Some(code) = Code::find(subject) {
        return Ok(format!("{code}: {}\n\n{}\n", code.title(), code.page()));
    }
    let concerns = concerns();
    if let Some(concern) = concerns.iter().find(|concern| concern.id == subject) {
        return Ok(concern_page(concern));
    }
    let mut path = subject.split('.');
    let name = path.next().unwrap_or_default();
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(name));
    let Some(kind) = found else {
        let codes = Code::ALL.iter().map(|code| code.as_str());
        let known = Kind::ALL.iter().map(|kind| kind.as_str()).chain(codes);
        let near = nearest(name, known)
            .or_else(|| nearest(subject, concerns.iter().map(|concern| concern.id.as_str())));
        match near {
            Some(near) => {
                bail!("nothing is called {}; did you mean {}?", shown(subject), shown(near))
            }
            None => {
                bail!("nothing is called {}; `ferry explain` lists what there is", shown(subject))
            }
        }
    };
    field_page(kind, path)
}

fn overview() -> String {
    let mut out = format!("Kinds ({API_VERSION}):\n");
    for kind in Kind::ALL {
        let _ = writeln!(out, "  {:<16} {}", kind.as_str(), first_line(&description(schema(kind))));
    }
    out.push_str("\nCodes:\n");
    for code in Code::ALL {
        let _ = writeln!(out, "  {:<16} {}", code.as_str(), code.title());
    }
    out.push_str("\nConcerns about VMs:\n");
    for concern in concerns() {
        let _ = writeln!(out, "  {:<32} {}", concern.id, concern.label);
    }
    out.push_str(
        "\n`ferry explain` with a KIND, a KIND.FIELD, a CODE or a CONCERN says more about it.\n",
    );
    out
}

fn concern_page(concern: &ConcernPage) -> String {
    let ConcernPage { id, category, label, assessment, remedy } = concern;
    let weight = match category {
        Severity::Critical => "Critical: the VM does not move while it holds",
        Severity::Warning => "Warning: the VM moves",
        Severity::Information => "For information: the VM moves",
    };
    format!("{id}: {label}\n\n{weight}.\n\n{assessment}\n\nWhat to do: {remedy}.\n")
}

fn field_page<'a>(kind: Kind, path: impl Iterator<Item = &'a str>) -> anyhow::Result<String> {
    let mut node = schema(kind);
    let mut walked = Vec::new();
    for step in path.filter(|step| !step.is_empty()) {
        let mut fields = fields(node);
        // The fields of the spec are what people mean; `metadata` and `spec` are said in full.
        if walked.is_empty() && fields.iter().all(|(name, _)| *name != step) {
            node = schema(kind).pointer("/properties/spec").unwrap_or(node);
            fields = self::fields(node);
        }
        let Some((_, next)) = fields.iter().find(|(name, _)| *name == step) else {
            let owner = std::iter::once(kind.as_str()).chain(walked).collect::<Vec<_>>().join(".");
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            match nearest(step, names.iter().copied()) {
                Some(near) => {
                    bail!("{owner} has no field {}; did you mean {}?", shown(step), shown(near))
                }
                None if names.is_empty() => bail!("{owner} has no fields"),
                None => bail!("{owner} has no field {}; it has {}", shown(step), names.join(", ")),
            }
        };
        node = next;
        walked.push(step);
    }
    let mut out = format!("KIND:     {}\nVERSION:  {API_VERSION}\n", kind.as_str());
    if walked.is_empty() {
        let _ = write!(out, "\n{}\n", description(node));
        node = schema(kind).pointer("/properties/spec").unwrap_or(node);
    } else {
        let _ = writeln!(out, "FIELD:    {} <{}>", walked.join("."), type_words(node));
        let _ = write!(out, "\n{}\n", description(node));
        values(node, &mut out);
    }
    list_fields(node, &mut out);
    Ok(out)
}

fn list_fields(node: &Value, out: &mut String) {
    let fields = fields(node);
    if fields.is_empty() {
        return;
    }
    let needed = inner(node).get("required").and_then(Value::as_array);
    let needed = |name: &str| needed.is_some_and(|names| names.iter().any(|other| other == name));
    out.push_str("\nFIELDS:\n");
    for (name, node) in fields {
        let needed = if needed(name) { ", needed" } else { "" };
        let default = node.get("default").filter(|value| !value.is_null() && !value.is_object());
        let default = default.map(|value| format!(", default {value}")).unwrap_or_default();
        let _ = writeln!(out, "  {name} <{}{needed}{default}>", type_words(node));
        for line in description(node).lines() {
            let _ = writeln!(out, "      {line}");
        }
    }
}

fn values(node: &Value, out: &mut String) {
    if let Some(examples) = node.get("examples").and_then(Value::as_array) {
        out.push_str("\nEXAMPLES:\n");
        for example in examples {
            let _ = writeln!(out, "  {}", shown_example(example));
        }
    }
    let Some(values) = choices(node) else { return };
    out.push_str("\nVALUES:\n");
    for (value, meaning) in values {
        let _ = writeln!(out, "  {value:<10} {meaning}");
    }
}

/// Writes an example as it stands in a manifest.
fn shown_example(example: &Value) -> String {
    match example {
        Value::String(text) => text.replace('\n', "\n  "),
        example => example.to_string(),
    }
}

/// Returns the words that a value may be, with what they mean.
fn choices(node: &Value) -> Option<Vec<(&str, &str)>> {
    let list = |key: &str| inner(node).get(key).and_then(Value::as_array);
    let (words, meanings) = (list("enum")?.iter(), list("markdownEnumDescriptions")?.iter());
    words.zip(meanings).map(|(word, meaning)| Some((word.as_str()?, meaning.as_str()?))).collect()
}

/// Looks through "or nothing" and through lists to what a value is made of.
fn inner(node: &Value) -> &Value {
    let node = given(node);
    node.get("items").map_or(node, inner)
}

fn fields(node: &Value) -> Vec<(&str, &Value)> {
    let fields = inner(node).get("properties").and_then(Value::as_object);
    fields.into_iter().flatten().map(|(name, node)| (name.as_str(), node)).collect()
}

fn type_words(node: &Value) -> String {
    if node.get("items").is_some() {
        return format!("list of {}", type_words(inner(node)));
    }
    let node = inner(node);
    if let Some(values) = choices(node) {
        return values.iter().map(|(value, _)| *value).collect::<Vec<_>>().join(" | ");
    }
    let kind = match node.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().find(|kind| *kind != "null"),
        other => other,
    };
    match kind.and_then(Value::as_str) {
        Some("string") => "text".to_owned(),
        Some("boolean") => "true | false".to_owned(),
        Some("integer" | "number") => "number".to_owned(),
        Some("object") if node.get("properties").is_none() => "names and texts".to_owned(),
        Some("object") => "fields".to_owned(),
        _ => node.get("const").and_then(Value::as_str).unwrap_or("value").to_owned(),
    }
}

fn description(node: &Value) -> String {
    node.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn first_line(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_kind_field_and_code_has_a_page() {
        for kind in Kind::ALL {
            let mut open = vec![(kind.as_str().to_owned(), schema(kind))];
            while let Some((path, node)) = open.pop() {
                let text = page(&path).unwrap();
                assert!(!description(node).is_empty(), "{path} is not described:\n{text}");
                open.extend(
                    fields(node).into_iter().map(|(name, node)| (format!("{path}.{name}"), node)),
                );
            }
        }
        for code in Code::ALL {
            assert!(page(code.as_str()).unwrap().contains(code.title()));
        }
        for concern in concerns() {
            assert!(page(&concern.id).unwrap().contains(&concern.assessment));
        }
    }

    #[test]
    fn a_page_reads_like_a_manual() {
        expect![[r#"
            KIND:     Plan
            VERSION:  ferry.dev/v1alpha1
            FIELD:    vms <list of fields>

            The VMs.

            FIELDS:
              name <text>
                  Its name or path in the source's inventory: at a vCenter `DATACENTER/vm/FOLDER/NAME`, for an OVA the name of the virtual
                  system, or `FILE.ova/SYSTEM`.
              id <text>
                  Its identifier at the source: of a vCenter `vm-123`, for an OVA `ova:HASH/SYSTEM`, as reports show it.
              targetName <text>
                  What it is called on the target; its name, made an RFC 1123 label, where left out.
              targetPowerState <auto | on | off>
                  Overrides the plan's `targetPowerState`.
              uuid <text>
                  Its instance UUID, or its BIOS UUID where no other VM has the same.
              hooks <list of fields>
                  (Not supported yet) What runs before and after this VM, instead of the plan's hooks.
              rootDisk <text>
                  (Not supported yet) The disk that holds the root of the guest; found by looking into it where left out.
              luks <text>
                  (Not supported yet) Names a credential of the controller's settings that holds the keys of encrypted disks.
              instanceType <text>
                  (Not supported yet) An instance type of KubeVirt, instead of the VM's own CPUs and memory.
              disks <list of fields>
                  (Not supported yet) What is different for single disks.
              networks <list of fields>
                  (Not supported yet) What is different for single network cards.
              labels <names and texts>
                  (Not supported yet) Labels of the VM on the target, besides the plan's.
              cpu <number>
                  (Not supported yet) How many CPUs it gets on the target.
              memory <text>
                  (Not supported yet) How much memory it gets on the target, as `8Gi`.
              patch <names and texts>
                  (Not supported yet) A merge patch of its definition on the target.
        "#]].assert_eq(&page("Plan.vms").unwrap());
        expect![[r#"
            KIND:     Plan
            VERSION:  ferry.dev/v1alpha1
            FIELD:    targetPowerState <auto | on | off>

            Whether the VMs run on the target afterwards.

            VALUES:
              auto       As the source was; an OVA counts as off.
              on         It is started.
              off        It is created and stays off.
        "#]]
        .assert_eq(&page("plan.targetPowerState").unwrap());
        let refused = [
            "Plam",
            "Plan.vms.nmae",
            "Plan.spec.vms.name.x",
            "Plan.colour",
            "vm.disk.none",
            "zzzzzz",
        ];
        let refused = refused.map(|subject| format!("{:#}\n", page(subject).unwrap_err()));
        expect![[r#"
            nothing is called `Plam`; did you mean `Plan`?
            Plan.vms has no field `nmae`; did you mean `name`?
            Plan.spec.vms.name has no fields
            Plan has no field `colour`; it has description, provider, map, type, vms, targetPowerState, skipGuestConversion, window, shutdown, verify, onFailure, archived, select, hooks, targetNamespace, preserveStaticIPs, migrateSharedDisks, pvcNameTemplate, volumeNameTemplate, networkNameTemplate, targetLabels, targetNodeSelector, targetAffinity, precopy, fence, wave, dependsOn
            nothing is called `vm.disk.none`; did you mean `vm.disks.none`?
            nothing is called `zzzzzz`; `ferry explain` lists what there is
        "#]].assert_eq(&refused.concat());
    }
}
