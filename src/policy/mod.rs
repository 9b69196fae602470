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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use crate::desired::{Desired, VmWanted, Wanted};
use crate::domain::id::{Digest, ProviderName, SourceVm, TargetName, Token, VmKey};
use crate::domain::vm::Vm;
use crate::journal::phase::Begun;
use crate::manifest::diagnostic::{Finding, Place};
use crate::observed::{Gap, Observed, Seen, TargetState};
use crate::planted::{Bug, planted};
use crate::policy::input::{Basis, Input};
use crate::policy::rules::{Concern, Rules};
use crate::policy::select::{Lookup, listed};

pub use crate::policy::rules::ConcernPage;

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
    desired: Desired,
    vm: Vm,
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
        Self { judged: Arc::new(Judged { desired, vm, target_name, digest }) }
    }

    /// Returns what is wanted.
    pub fn desired(&self) -> &Desired {
        &self.judged.desired
    }

    /// Returns the VM as it was judged.
    pub fn vm(&self) -> &Vm {
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

/// Judges VMs, and remembers what the rules said.
#[derive(Debug)]
pub struct Judge {
    rules: Rules,
    basis: Basis,
    /// By entry: what was judged last. Equal values need not be hashed again.
    entries: HashMap<VmKey, Remembered>,
    /// By digest: what the rules and the checks of the plan said.
    said: HashMap<Digest, Arc<[Concern]>>,
    pass: u64,
}

#[derive(Debug)]
struct Remembered {
    judged: Arc<Judged>,
    concerns: Arc<[Concern]>,
    pass: u64,
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
        Self { rules, basis, entries: HashMap::new(), said: HashMap::new(), pass: 0 }
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
        self.begin_pass();
        let view = View::new(observed, now, Lookup::indexed);
        let mut verdicts = Vec::new();
        let mut advice = ADVICE_MAX;
        for plan in wanted.plans.values() {
            for entry in &plan.vms {
                verdicts.push(self.judge_in(entry, &view, ours, &mut advice));
            }
        }
        let pass = self.pass;
        self.entries.retain(|_, remembered| remembered.pass == pass);
        collide(wanted, &mut verdicts);
        verdicts
    }

    /// Judges one entry. Names that two entries give on the target are seen by [`Judge::clear`] only.
    pub fn judge(
        &mut self,
        wanted: &VmWanted,
        observed: &Observed,
        ours: &BTreeSet<Token>,
        now: Timestamp,
    ) -> Verdict {
        self.begin_pass();
        let view = View::new(observed, now, Lookup::scan);
        self.judge_in(wanted, &view, ours, &mut 1)
    }

    /// Judges the instructions of an attempt again: the same VM, whatever its entry means by now. What stands on the target
    /// under its name is a conflict only where Ferry certainly did not make it.
    pub fn judge_begun(&mut self, begun: &Begun, observed: &Observed, now: Timestamp) -> Verdict {
        self.begin_pass();
        let instructions = begun.instructions();
        let desired = &instructions.desired;
        let view = View::new(observed, now, Lookup::scan);
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
        concerns.iter().for_each(|concern| found.say(concern.clone()));
        let unseen = view.target(&desired.target).map(|target| {
            if let Some(there) = target.vms.get(&judged.target_name)
                && there.made_by.is_none()
            {
                found.say(taken(&judged));
            }
        });
        found.verdict(Some(judged), unseen.err())
    }

    fn begin_pass(&mut self) {
        self.pass += 1;
        self.rules.begin_pass();
    }

    fn judge_in(
        &mut self,
        wanted: &VmWanted,
        view: &View<'_>,
        ours: &BTreeSet<Token>,
        advice: &mut usize,
    ) -> Verdict {
        let VmWanted { key, place, entry: _, desired, findings } = wanted;
        let mut found = Found::new(key, place, findings);
        let Some(desired) = desired else {
            // A finding of the manifest says why there is nothing to judge; were it missing, this must not pass as cleared.
            return found.verdict(None, None);
        };
        let vm = match view.source(&desired.source) {
            Err(gap) => return found.unknown(gap),
            Ok(lookup) => match resolve(desired, lookup, advice) {
                Ok(vm) => vm,
                Err(Unresolved::Unseen(gap)) => return found.unknown(gap),
                Err(Unresolved::Wrong(concern)) => {
                    found.say(concern);
                    return found.verdict(None, None);
                }
            },
        };
        let (judged, concerns) = self.remember(key, desired, vm);
        concerns.iter().for_each(|concern| found.say(concern.clone()));
        let unseen = view.target(&desired.target).map(|target| {
            if let Some(there) = target.vms.get(&judged.target_name)
                && !there.made_by.as_ref().is_some_and(|token| ours.contains(token))
            {
                found.say(taken(&judged));
            }
        });
        found.verdict(Some(judged), unseen.err())
    }

    /// Takes what was said about an entry last time where neither it nor its VM changed.
    fn remember(
        &mut self,
        key: &VmKey,
        desired: &Desired,
        vm: &Vm,
    ) -> (Arc<Judged>, Arc<[Concern]>) {
        if let Some(remembered) = self.entries.get_mut(key)
            && remembered.judged.desired == *desired
            && remembered.judged.vm == *vm
        {
            remembered.pass = self.pass;
            return (remembered.judged.clone(), remembered.concerns.clone());
        }
        let name = desired.target_name.clone().or_else(|| target_name(&vm.name));
        let (judged, concerns) = self.consider(desired, vm, name);
        // An answer that a rule failed to give is asked for again on the next pass.
        if self.said.contains_key(&judged.digest) {
            let remembered =
                Remembered { judged: judged.clone(), concerns: concerns.clone(), pass: self.pass };
            self.entries.insert(key.clone(), remembered);
        }
        (judged, concerns)
    }

    /// Makes the input, and asks the rules and checks unless they answered for its digest before.
    fn consider(
        &mut self,
        desired: &Desired,
        vm: &Vm,
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

/// Makes an RFC 1123 label of a name; `None` where nothing of it can stand in one.
pub fn target_name(name: &str) -> Option<TargetName> {
    const LABEL_MAX: usize = 63;
    let mut label = String::with_capacity(name.len());
    for letter in name.chars().flat_map(char::to_lowercase) {
        if label.len() >= LABEL_MAX {
            break;
        }
        if letter.is_ascii_alphanumeric() {
            label.push(letter);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| TargetName::new(label))
}

impl<'a> View<'a> {
    fn new(
        observed: &'a Observed,
        now: Timestamp,
        lookup: impl Fn(&'a crate::observed::SourceState) -> Lookup<'a>,
    ) -> Self {
        let sources = observed
            .sources
            .iter()
            .map(|(name, seen)| (name, fresh(name, seen, now).map(&lookup)))
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
) -> Result<&'a Vm, Unresolved> {
    let vms = lookup.find(&desired.selector);
    let (crate::desired::Selector::Name(text) | crate::desired::Selector::Id(text)) =
        &desired.selector;
    match vms.as_slice() {
        [vm] => Ok(vm),
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

/// Blocks entries that mean different VMs and give them one name on one target.
fn collide(wanted: &Wanted, verdicts: &mut [Verdict]) {
    let mut first: HashMap<(ProviderName, TargetName), usize> = HashMap::new();
    let mut pairs = Vec::new();
    let archived = wanted.plans.values().flat_map(|plan| plan.vms.iter().map(|_| plan.archived));
    for (at, (verdict, archived)) in verdicts.iter().zip(archived).enumerate() {
        let Outcome::Cleared(cleared) = &verdict.outcome else { continue };
        if archived {
            continue;
        }
        let place = (cleared.desired().target.clone(), cleared.target_name().clone());
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
pub(crate) mod sample;
#[cfg(test)]
mod tests;
