//! What Ferry made and what still stands on sources and targets: partial disks, VMs, marks. Each with the attempt that made
//! it, and what becomes of it.

use anyhow::Context;
use serde::Serialize;

use crate::cli::machine::{Machine, config, progress};
use crate::cli::settings::Settings;
use crate::cli::{Exit, answer, width};
use crate::collect::collect;
use crate::controller::read::Reader;
use crate::controller::sites;
use crate::domain::id::Token;
use crate::domain::text::visible;
use crate::domain::vm::Claim;
use crate::journal::progress::{Progress, Run};
use crate::observed::Observed;
use crate::port::{PlanRepo, Sites};
use crate::preview::{bare, trimmed};

/// One thing that Ferry made.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Leftover {
    /// What it is.
    what: &'static str,
    /// The provider.
    provider: String,
    /// Its token, or the VM's name there.
    name: String,
    /// The attempt of this journal that made it, with where it stands.
    made_by: Option<String>,
    /// What becomes of it.
    next: String,
}

/// Looks at every source and target that plans or attempts name, and lists what Ferry made there.
pub(super) fn show(settings: &Settings, json: bool) -> anyhow::Result<Exit> {
    let machine = Machine::looking(settings)?;
    let progress = progress(settings)?;
    let wanted = match machine.repo.head()? {
        Some(head) => {
            let mut reader = Reader::new(config(settings).manifests);
            Some(reader.read(&machine.repo, &head, &progress)?.0.wanted)
        }
        None => None,
    };
    let mut places: Sites = sites(wanted.as_deref(), &progress);
    for run in progress.attempts().filter(|run| run.area().is_some()) {
        let desired = &run.begun.instructions().desired;
        places.entry(desired.target.clone()).or_insert_with(|| desired.target_site.clone());
    }
    let observed = collect(&machine.world(), &places, false);
    let found = list(&observed, &progress);
    let gaps = gaps(&observed);
    answer(&if json {
        let all = serde_json::json!({ "leftovers": found, "unseen": gaps });
        serde_json::to_string_pretty(&all).context("cannot print the list")? + "\n"
    } else {
        text(&found, &gaps, width())
    });
    Ok(if gaps.is_empty() { Exit::Done } else { Exit::Failed })
}

fn list(observed: &Observed, progress: &Progress) -> Vec<Leftover> {
    let mut found = Vec::new();
    for (provider, seen) in &observed.sources {
        for vm in seen.state.iter().flat_map(|state| &state.vms) {
            let (what, token) = match &vm.claim {
                Claim::Impossible | Claim::Free => continue,
                Claim::Held(token) => ("claim", token),
                Claim::Migrated(token) => ("mark", token),
            };
            let of = progress.claim_tokens(&vm.id).find(|(own, _)| own.as_str() == token);
            let run = of.map(|(_, run)| run);
            let next = match run {
                Some(run) if !run.phase.ended() => "goes when the attempt ends",
                Some(_) if what == "mark" => "stays: the VM is migrated",
                Some(_) | None => "waits for a person",
            };
            found.push(leftover(what, provider.as_str(), &vm.path, run, next));
        }
    }
    for (provider, seen) in &observed.targets {
        let Ok(state) = &seen.state else { continue };
        for area in &state.areas {
            let run = maker(progress, area);
            let next = match run {
                Some(run) if !run.phase.ended() => {
                    "in use: becomes the VM, or goes with the attempt"
                }
                Some(_) => "kept: the next attempt at the VM goes on from it or removes it",
                None => "delete it, unless another ferry works there",
            };
            found.push(leftover("partial disks", provider.as_str(), area.as_str(), run, next));
        }
        for (name, vm) in &state.vms {
            let Some(token) = &vm.made_by else { continue };
            let run = maker(progress, token);
            let next = match run {
                Some(run) if !run.phase.ended() => "in use: the attempt is not over",
                Some(_) => "stays: it is what the plan asked for",
                None => "stays: another journal made it",
            };
            found.push(leftover("VM", provider.as_str(), name.as_str(), run, next));
        }
    }
    found
}

/// Finds the attempt that made an area. One that goes on from an earlier attempt's area has it from then on.
fn maker<'a>(progress: &'a Progress, area: &Token) -> Option<&'a Run> {
    progress.attempts().filter(|run| run.area() == Some(area)).last()
}

fn leftover(
    what: &'static str,
    provider: &str,
    name: &str,
    run: Option<&Run>,
    next: &str,
) -> Leftover {
    let made_by = run.map(|run| {
        let key = &run.begun.instructions().desired.key;
        format!("{key}, attempt {}: {}", run.begun.run().attempt, run.phase.name())
    });
    let (provider, name) = (provider.to_owned(), visible(name).into_owned());
    Leftover { what, provider, name, made_by, next: next.to_owned() }
}

/// Says which providers could not be seen: what stands there is unknown.
fn gaps(observed: &Observed) -> Vec<String> {
    let sources = observed.sources.iter().map(|(name, seen)| (name, seen.state.as_ref().err()));
    let targets = observed.targets.iter().map(|(name, seen)| (name, seen.state.as_ref().err()));
    let unseen = sources.chain(targets);
    unseen
        .filter_map(|(name, gap)| Some(format!("{name}: {} … hint: {}", gap?.reason, gap?.remedy)))
        .collect()
}

fn text(found: &[Leftover], gaps: &[String], width: u16) -> String {
    let mut table = bare(width);
    table.set_header(["what", "where", "name", "made by", "what becomes of it"]);
    for row in found {
        let made_by = row.made_by.as_deref().unwrap_or("no attempt of this journal");
        table.add_row([row.what, &row.provider, &row.name, made_by, &row.next]);
    }
    let mut text = if found.is_empty() {
        "nothing that Ferry made stands anywhere\n".to_owned()
    } else {
        trimmed(&mut table)
    };
    for gap in gaps {
        text.push_str(&format!("unknown  {gap}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::domain::id::{JournalId, ProviderName, TargetName};
    use crate::observed::{Gap, Seen, TargetState, TargetVm};

    #[test]
    fn what_no_attempt_made_is_said_to_be_nobodys() {
        let vm = TargetVm { made_by: Some(Token::new("aa11")), power: None };
        let other = TargetVm { made_by: None, power: None };
        let vms = [("web", vm), ("old", other)].map(|(name, vm)| (TargetName::new(name), vm));
        let areas = [Token::new("bb22")].into();
        let state = TargetState { vms: BTreeMap::from(vms), areas, ..TargetState::default() };
        let lost = Gap { reason: "no such folder".to_owned(), remedy: "make it".to_owned() };
        let at = Timestamp::UNIX_EPOCH;
        let observed = Observed {
            targets: [
                (ProviderName::new("gone"), Seen { at, state: Err(lost) }),
                (ProviderName::new("local"), Seen { at, state: Ok(state) }),
            ]
            .into(),
            ..Observed::default()
        };
        let found = list(&observed, &Progress::new(JournalId::new("j")));
        expect_test::expect![[r#"
             what           where  name  made by                     what becomes of it
             partial disks  local  bb22  no attempt of this journal  delete it, unless another ferry works there
             VM             local  web   no attempt of this journal  stays: another journal made it
             unknown  gone: no such folder … hint: make it
        "#]]
        .assert_eq(&text(&found, &gaps(&observed), 120));
    }
}
