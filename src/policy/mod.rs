//! Judges each VM: the Rego rules over the VM, and the checks that need its plan and its target. [`Judge`] is the only maker
//! of [`Cleared`].
//!
//! # Flow
//!
//! An entry's selector is looked up among its source's VMs. The VM and what is wanted of it become one input, whose bytes are
//! what the rules read and what the digest is made of. What depends on the target or on other entries is added afterwards: it
//! changes while a reviewed digest stays valid.
//!
//! # Guarantees
//!
//! A gap in what was observed, or an observation that is too old, is [`Outcome::Unknown`], never "absent". The verdicts of the
//! rules are remembered by digest; forgetting them changes nothing but the time.

#![deny(clippy::wildcard_enum_match_arm)]

mod input;
mod plan;
mod rules;
mod select;
mod weigh;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::desired::{Desired, VmWanted, Wanted, target_name};
use crate::domain::id::{Digest, PlanName, ProviderName, SourceVm, TargetName, Token, VmKey};
use crate::domain::vm::Vm;
use crate::journal::phase::Begun;
use crate::manifest::diagnostic::{Finding, Place};
use crate::observed::{ConverterState, Gap, Observed, Seen, SourceState, TargetState};
use crate::planted::{Bug, planted};
use crate::policy::input::{Basis, Input};
use crate::policy::rules::{Concern, Rules};
use crate::policy::select::{Lookup, listed};
use crate::policy::weigh::Weights;

pub use crate::policy::rules::ConcernPage;
pub use crate::policy::weigh::{day, review};

/// How many verdicts are remembered by digest: several times the VMs of a large installation, some ten megabytes.
const MEMO_MAX: usize = 50_000;

/// How many entries of one pass get a "did you mean": a source that was emptied names every entry.
const ADVICE_MAX: usize = 100;

/// Proof that policy let a VM through. A forward action on a VM holds one.
#[derive(Clone, Debug)]
pub struct Cleared {
    judged: Arc<Judged>,
}

/// What was judged.
#[derive(Debug, PartialEq)]
struct Judged {
    desired: Arc<Desired>,
    vm: Arc<Vm>,
    /// Empty only where a finding says that no name can be made.
    target_name: TargetName,
    digest: Digest,
}

impl PartialEq for Cleared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.judged, &other.judged) || self.judged == other.judged
    }
}

impl Cleared {
    /// Makes one without a judgment, for tests of what comes after it.
    #[cfg(test)]
    pub(crate) fn for_tests(
        desired: Desired,
        vm: Vm,
        target_name: TargetName,
        digest: Digest,
    ) -> Self {
        let (desired, vm) = (Arc::new(desired), Arc::new(vm));
        Self { judged: Arc::new(Judged { desired, vm, target_name, digest }) }
    }

    /// Returns what is wanted.
    pub fn desired(&self) -> &Arc<Desired> {
        &self.judged.desired
    }

    /// Returns the VM as it was judged.
    pub fn vm(&self) -> &Arc<Vm> {
        &self.judged.vm
    }

    /// Returns what it is called on the target.
    pub fn target_name(&self) -> &TargetName {
        &self.judged.target_name
    }

    /// Returns the digest over everything that was judged.
    pub fn digest(&self) -> &Digest {
        &self.judged.digest
    }
}

/// What was found out about one entry of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The entry.
    pub key: VmKey,
    /// The VM that the entry names, where it names exactly one.
    pub vm: Option<SourceVm>,
    /// The digest over everything that was judged; `None` where there was nothing to judge.
    pub digest: Option<Digest>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What follows.
    pub outcome: Outcome,
}

impl Verdict {
    /// Tells whether the VM is to run and will not be started, since its target starts nothing.
    pub fn leaves_off(&self) -> bool {
        self.findings.iter().any(|finding| finding.code == plan::NOT_STARTED.0)
    }
}

/// What follows from a verdict.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It may move.
    Cleared(Box<Cleared>),
    /// A finding stands against it.
    Blocked,
    /// It could not be judged: its source or its target could not be seen, or was seen too long ago.
    Unknown(Gap),
}

/// What the rules and the checks of plans said, by digest. A digest covers the rules, too: a newer ferry finds nothing of an
/// older one's in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Said(BTreeMap<Digest, Vec<Concern>>);

/// Judges VMs, and remembers what the rules said.
#[derive(Debug)]
pub struct Judge {
    rules: Rules,
    basis: Basis,
    /// By plan, in the order of its entries: what was judged last. Equal values need not be hashed again.
    entries: HashMap<PlanName, Vec<Option<Remembered>>>,
    /// What each source held on the last pass.
    sources: BTreeMap<ProviderName, SourceState>,
    /// By digest: what the rules and the checks of the plan said.
    said: HashMap<Digest, Arc<[Concern]>>,
}

/// What was said about an entry.
#[derive(Clone, Debug)]
struct Remembered {
    judged: Arc<Judged>,
    concerns: Arc<[Concern]>,
}

/// What a pass sees of the world.
struct View<'a> {
    sources: BTreeMap<&'a ProviderName, Result<Lookup<'a>, Gap>>,
    targets: BTreeMap<&'a ProviderName, Result<&'a TargetState, Gap>>,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

impl Judge {
    /// Loads the rules of this binary.
    pub fn new() -> Self {
        let rules = Rules::load(rules::FILES).expect("a test loads every rule of this binary");
        let basis = Basis::new(rules::FILES);
        Self {
            rules,
            basis,
            entries: HashMap::new(),
            sources: BTreeMap::new(),
            said: HashMap::new(),
        }
    }

    /// Takes over what was said elsewhere: the same questions are not asked again.
    pub fn recall(&mut self, said: &Said) {
        let said = said.0.iter().take(MEMO_MAX);
        self.said = said.map(|(digest, said)| (digest.clone(), said.as_slice().into())).collect();
    }

    /// Returns all that is remembered of what was said.
    pub fn said(&self) -> Said {
        let said = self.said.iter();
        Said(said.map(|(digest, said)| (digest.clone(), said.to_vec())).collect())
    }

    /// Judges every entry of every plan, in the order of the plans and their entries. `ours` holds the tokens of all areas
    /// and VMs that the runs of this journal made.
    pub fn clear(
        &mut self,
        wanted: &Wanted,
        observed: &Observed,
        ours: &BTreeSet<Token>,
        now: Timestamp,
    ) -> Vec<Verdict> {
        self.rules.begin_pass();
        let before = std::mem::take(&mut self.sources);
        let view = View::new(observed, now, |name, state| {
            Lookup::new(state, before.get(name) == Some(state))
        });
        let weights = Weights::new(wanted, now);
        let mut verdicts = Vec::new();
        let mut advice = ADVICE_MAX;
        let mut remembered = std::mem::take(&mut self.entries);
        for (name, plan) in &wanted.plans {
            let mut slots = remembered.remove(name).unwrap_or_default();
            slots.resize(plan.vms.len(), None);
            for (entry, slot) in plan.vms.iter().zip(&mut slots) {
                verdicts.push(self.judge_in(entry, slot, (&view, &weights), ours, &mut advice));
            }
            self.entries.insert(name.clone(), slots);
        }
        let seen = view.sources.iter().filter_map(|(name, lookup)| {
            Some(((*name).clone(), lookup.as_ref().ok()?.state().clone()))
        });
        self.sources = seen.collect();
        collide(wanted, observed, &mut verdicts);
        verdicts
    }

    /// Judges the instructions of an attempt again: the same VM, whatever its entry means by now. What stands on the target
    /// under its name is a conflict only where Ferry certainly did not make it.
    pub fn judge_begun(
        &mut self,
        begun: &Begun,
        wanted: Option<&Wanted>,
        observed: &Observed,
        now: Timestamp,
    ) -> Verdict {
        self.rules.begin_pass();
        let instructions = begun.instructions();
        let desired = &instructions.desired;
        let view = View::new(observed, now, |_, state| Lookup::new(state, false));
        let mut found = Found::new(&desired.key, &desired.place, &[]);
        let vm = match view.source(&desired.source) {
            Err(gap) => return found.unknown(gap),
            Ok(lookup) => {
                let Some(vm) = lookup.vm(&begun.run().vm) else {
                    if let Some(gap) = gaps_of(&desired.source, lookup) {
                        return found.unknown(gap);
                    }
                    let text =
                        format!("the VM that moves, {}, left `{}`", begun.run().vm, desired.source);
                    found.say(plan::say(plan::VM_ABSENT, text));
                    return found.verdict(None, None);
                };
                vm
            }
        };
        let (judged, concerns) = self.consider(desired, vm, Some(instructions.target_name.clone()));
        let weights = wanted.map(|wanted| Weights::new(wanted, now)).unwrap_or_default();
        let weighed = concerns.iter().map(|concern| weights.weigh(&desired.key, concern.clone()));
        weighed.for_each(|concern| found.say(concern));
        let unseen = view.target(&desired.target).map(|target| {
            if let Some(there) = target.vms.get(&judged.target_name)
                && there.made_by.is_none()
            {
                found.say(taken(&judged));
            }
        });
        found.verdict(Some(judged), unseen.err())
    }

    fn judge_in(
        &mut self,
        wanted: &VmWanted,
        slot: &mut Option<Remembered>,
        (view, weights): (&View<'_>, &Weights<'_>),
        ours: &BTreeSet<Token>,
        advice: &mut usize,
    ) -> Verdict {
        // Only what is said on this very pass is remembered for the next one.
        let before = slot.take();
        let VmWanted { key, place, entry: _, desired, findings } = wanted;
        let mut found = Found::new(key, place, findings);
        let Some(desired) = desired else {
            // A finding of the manifest says why there is nothing to judge; were it missing, this must not pass as cleared.
            return found.verdict(None, None);
        };
        let lookup = match view.source(&desired.source) {
            Err(gap) => return found.unknown(gap),
            Ok(lookup) => lookup,
        };
        let same = |known: &Remembered| lookup.unchanged && known.judged.desired == *desired;
        let (answer, lasting) = match before {
            Some(known) if same(&known) => (known, true),
            before => match resolve(desired, lookup, advice) {
                Ok(vm) => self.remember(before, desired, vm),
                Err(Unresolved::Unseen(gap)) => return found.unknown(gap),
                Err(Unresolved::Wrong(concern)) => {
                    found.say(concern);
                    return found.verdict(None, None);
                }
            },
        };
        *slot = lasting.then(|| answer.clone());
        let Remembered { judged, concerns } = answer;
        concerns.iter().for_each(|concern| found.say(weights.weigh(key, concern.clone())));
        let unseen = view.target(&desired.target).map(|target| {
            if let Some(there) = target.vms.get(&judged.target_name)
                && !there.made_by.as_ref().is_some_and(|token| ours.contains(token))
            {
                found.say(taken(&judged));
            }
            found.say_any(inconvertible(&judged, target));
            found.say_any(left_off(&judged, target));
        });
        found.verdict(Some(judged), unseen.err())
    }

    /// Asks about an entry, unless neither it nor its VM changed. Tells whether that answers it for good: what a rule failed to
    /// say is asked for again on the next pass.
    fn remember(
        &mut self,
        before: Option<Remembered>,
        desired: &Arc<Desired>,
        vm: &Arc<Vm>,
    ) -> (Remembered, bool) {
        let same = |known: &Remembered| known.judged.desired == *desired && known.judged.vm == *vm;
        if let Some(known) = before.filter(same) {
            return (known, true);
        }
        let name = desired.target_name.clone().or_else(|| target_name(&vm.name));
        let (judged, concerns) = self.consider(desired, vm, name);
        let answered = self.said.contains_key(&judged.digest);
        (Remembered { judged, concerns }, answered)
    }

    /// Makes the input, and asks the rules and checks unless they answered for its digest before.
    fn consider(
        &mut self,
        desired: &Arc<Desired>,
        vm: &Arc<Vm>,
        name: Option<TargetName>,
    ) -> (Arc<Judged>, Arc<[Concern]>) {
        let input = Input::new(desired, vm, name.as_ref());
        let json = input.json();
        let digest = self.basis.digest(&json);
        let concerns = if let Some(said) = self.said.get(&digest) {
            said.clone()
        } else {
            let (mut concerns, answered) = self.rules.ask(&json);
            concerns.extend(plan::check(&input));
            concerns.sort();
            let concerns: Arc<[Concern]> = concerns.into();
            if answered {
                if self.said.len() >= MEMO_MAX {
                    self.said.clear();
                }
                self.said.insert(digest.clone(), concerns.clone());
            }
            concerns
        };
        let target_name = name.unwrap_or_else(|| TargetName::new(""));
        let judged = Judged { desired: desired.clone(), vm: vm.clone(), target_name, digest };
        (Arc::new(judged), concerns)
    }
}

/// Lists everything that `ferry explain CONCERN` knows, by name.
pub fn concerns() -> Vec<ConcernPage> {
    let rules = Rules::load(rules::FILES).expect("a test loads every rule of this binary");
    let mut pages: Vec<ConcernPage> = rules.pages().cloned().chain(plan::pages()).collect();
    pages.sort();
    pages
}

impl<'a> View<'a> {
    fn new(
        observed: &'a Observed,
        now: Timestamp,
        lookup: impl Fn(&ProviderName, &'a SourceState) -> Lookup<'a>,
    ) -> Self {
        let sources = observed
            .sources
            .iter()
            .map(|(name, seen)| (name, fresh(name, seen, now).map(|state| lookup(name, state))))
            .collect();
        let targets =
            observed.targets.iter().map(|(name, seen)| (name, fresh(name, seen, now))).collect();
        Self { sources, targets }
    }

    fn source(&self, name: &ProviderName) -> Result<&Lookup<'a>, Gap> {
        self.sources.get(name).ok_or_else(|| unseen(name))?.as_ref().map_err(Clone::clone)
    }

    fn target(&self, name: &ProviderName) -> Result<&'a TargetState, Gap> {
        self.targets.get(name).ok_or_else(|| unseen(name))?.clone()
    }
}

/// Returns what was seen, or why it proves nothing. The text holds no age, which would differ from pass to pass.
fn fresh<'a, T>(name: &ProviderName, seen: &'a Seen<T>, now: Timestamp) -> Result<&'a T, Gap> {
    match (seen.fresh(now), &seen.state) {
        (Some(state), _) => Ok(state),
        (None, Err(gap)) => Err(gap.clone()),
        (None, Ok(_)) => Err(Gap {
            reason: format!("`{name}` was last seen too long ago to prove anything"),
            remedy: "Wait for the next look".to_owned(),
        }),
    }
}

fn unseen(name: &ProviderName) -> Gap {
    Gap {
        reason: format!("`{name}` was not looked at yet"),
        remedy: "Wait for the next look".to_owned(),
    }
}

/// Returns the gap of a source parts of which could not be read: what is not seen there may lie in them.
fn gaps_of(name: &ProviderName, lookup: &Lookup<'_>) -> Option<Gap> {
    let gap = lookup.state().gaps.first()?;
    let more = lookup.state().gaps.len() - 1;
    let others = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    Some(Gap {
        reason: format!("not found in what could be read of `{name}`: {}{others}", gap.reason),
        remedy: gap.remedy.clone(),
    })
}

enum Unresolved {
    Unseen(Gap),
    Wrong(Concern),
}

/// Finds the one VM that an entry means.
fn resolve<'a>(
    desired: &Desired,
    lookup: &Lookup<'a>,
    advice: &mut usize,
) -> Result<&'a Arc<Vm>, Unresolved> {
    let vms = lookup.find(&desired.selector);
    let (crate::desired::Selector::Name(text) | crate::desired::Selector::Id(text)) =
        &desired.selector;
    match vms.as_slice() {
        [vm] => Ok(*vm),
        [] => {
            if let Some(gap) = gaps_of(&desired.source, lookup) {
                return Err(Unresolved::Unseen(gap));
            }
            let mut concern =
                plan::say(plan::VM_ABSENT, format!("`{}` holds no VM `{text}`", desired.source));
            if let Some(left) = advice.checked_sub(1) {
                *advice = left;
                concern.hint = Some(lookup.advice(&desired.selector));
            }
            Err(Unresolved::Wrong(concern))
        }
        several => {
            let paths = listed(several.iter().map(|vm| vm.path.as_str()));
            let count = several.len();
            let text = format!("`{text}` names {count} VMs of `{}`: {paths}", desired.source);
            Err(Unresolved::Wrong(plan::say(plan::VM_AMBIGUOUS, text)))
        }
    }
}

fn taken(judged: &Judged) -> Concern {
    let text = format!(
        "`{}` stands on `{}` already and was not made by this instance",
        judged.target_name, judged.desired.target
    );
    plan::say(plan::NAME_TAKEN, text)
}

/// Tells what keeps a guest from being converted on its target, where that is wanted.
fn inconvertible(judged: &Judged, target: &TargetState) -> Option<Concern> {
    let ConverterState { missing, missing_for_windows } = &target.converter;
    let for_windows = missing_for_windows.as_ref().filter(|_| judged.vm.is_windows());
    let gap = missing.as_ref().or(for_windows).filter(|_| !judged.desired.skip_guest_conversion)?;
    let concern = plan::say(plan::CONVERTER_MISSING, gap.reason.clone());
    Some(Concern { hint: Some(gap.remedy.clone()), ..concern })
}

/// Tells that a VM is not started although it is to run, and who can start it.
fn left_off(judged: &Judged, target: &TargetState) -> Option<Concern> {
    let Judged { desired, vm, target_name, .. } = judged;
    if target.starts || !desired.power.starts(vm.power) {
        return None;
    }
    let command = desired.target_site.start_command(target_name)?;
    let text = format!("`{}` starts no VMs, so `{target_name}` stays off there", desired.target);
    let hint = format!("Start it by hand afterwards, `{command}`; or set `libvirt.uri`");
    Some(Concern { hint: Some(hint), ..plan::say(plan::NOT_STARTED, text) })
}

/// Blocks entries that mean different VMs and give them one name on one target. Targets that start their VMs do so in one
/// libvirt, which knows each name once.
fn collide(wanted: &Wanted, observed: &Observed, verdicts: &mut [Verdict]) {
    let starts = |target: &ProviderName| {
        let state = observed.targets.get(target).map(|seen| &seen.state);
        state.is_some_and(|state| state.as_ref().is_ok_and(|state| state.starts))
    };
    let mut first: HashMap<(Option<&ProviderName>, &TargetName), usize> = HashMap::new();
    let mut pairs = Vec::new();
    let archived = wanted.plans.values().flat_map(|plan| plan.vms.iter().map(|_| plan.archived));
    for (at, (verdict, archived)) in verdicts.iter().zip(archived).enumerate() {
        let Outcome::Cleared(cleared) = &verdict.outcome else { continue };
        if archived {
            continue;
        }
        let target = Some(&cleared.desired().target).filter(|target| !starts(target));
        let place = (target, cleared.target_name());
        let other = *first.entry(place).or_insert(at);
        if verdicts[other].vm != verdict.vm {
            pairs.push((other, at));
        }
    }
    for (one, other) in pairs {
        for (at, with) in [(one, other), (other, one)] {
            let with = verdicts[with].key.clone();
            duplicate(&mut verdicts[at], &with);
        }
    }
}

/// Notes that another VM gets the same name, once.
fn duplicate(verdict: &mut Verdict, with: &VmKey) {
    let Outcome::Cleared(cleared) = &verdict.outcome else { return };
    let text = format!("`{with}` gets the same name on the target, `{}`", cleared.target_name());
    let concern = plan::say(plan::NAME_DUPLICATE, text);
    verdict.findings.push(placed(concern, &cleared.desired().place));
    sort(&mut verdict.findings);
    verdict.outcome = Outcome::Blocked;
}

/// What was found about one entry so far.
struct Found<'a> {
    key: &'a VmKey,
    place: &'a Place,
    findings: Vec<Finding>,
    manifest_blocks: bool,
}

impl<'a> Found<'a> {
    fn new(key: &'a VmKey, place: &'a Place, said: &[Finding]) -> Self {
        let manifest_blocks = said.iter().any(Finding::blocks);
        Self { key, place, findings: said.to_vec(), manifest_blocks }
    }

    fn say(&mut self, concern: Concern) {
        // What a blocking finding of the manifest says already is not said twice.
        if self.manifest_blocks && plan::SAID_BY_MANIFEST.contains(&concern.code.as_str()) {
            return;
        }
        self.findings.push(placed(concern, self.place));
    }

    fn say_any(&mut self, concern: Option<Concern>) {
        if let Some(concern) = concern {
            self.say(concern);
        }
    }

    fn unknown(mut self, gap: Gap) -> Verdict {
        sort(&mut self.findings);
        let blocked = self.findings.iter().any(Finding::blocks);
        let outcome = if blocked { Outcome::Blocked } else { Outcome::Unknown(gap) };
        let Self { key, findings, .. } = self;
        Verdict { key: key.clone(), vm: None, digest: None, findings, outcome }
    }

    fn verdict(mut self, judged: Option<Arc<Judged>>, unseen: Option<Gap>) -> Verdict {
        sort(&mut self.findings);
        let blocked =
            self.findings.iter().any(Finding::blocks) && !planted(Bug::ClearsWhatIsBlocked);
        let (vm, digest) = match &judged {
            Some(judged) => (Some(judged.vm.id.clone()), Some(judged.digest.clone())),
            None => (None, None),
        };
        let outcome = match (blocked, unseen, judged) {
            (true, _, _) | (false, None, None) => Outcome::Blocked,
            (false, Some(gap), _) => Outcome::Unknown(gap),
            (false, None, Some(judged)) => Outcome::Cleared(Box::new(Cleared { judged })),
        };
        let Self { key, findings, .. } = self;
        Verdict { key: key.clone(), vm, digest, findings, outcome }
    }
}

fn placed(concern: Concern, place: &Place) -> Finding {
    let Concern { severity, code, text, hint } = concern;
    Finding { code, severity, place: place.clone(), text, hint }
}

fn sort(findings: &mut [Finding]) {
    findings.sort_by(|a, b| (a.severity, &a.code, &a.text).cmp(&(b.severity, &b.code, &b.text)));
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
