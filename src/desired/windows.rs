//! Windows, the times of cutovers, and policies: what they say, and which plan is bounded by what.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use crate::desired::{Cutover, WaiverWanted, Wanted, WeightWanted};
use crate::domain::id::VmName;
use crate::domain::window::{Calendar, Rule, Window};
use crate::manifest::diagnostic::Finding;
use crate::manifest::document::{
    CutoverWindow, LabelSelector, Manifest, Migration, Policy, WindowRule, duration_s,
};
use crate::manifest::parse::ParsedFile;
use crate::manifest::reference;

/// A window and the plans that it picks.
#[derive(Debug)]
pub(super) struct Bounds<'a> {
    /// Its name.
    name: &'a str,
    /// What it says; `Err` where a rule of it cannot be used.
    pub(super) window: Result<Window, String>,
    selector: Option<&'a LabelSelector>,
}

impl<'a> Bounds<'a> {
    /// Makes a window out.
    pub(super) fn of(
        manifest: &'a Manifest,
        window: &'a CutoverWindow,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let CutoverWindow { allow, deny, selector } = window;
        let before = findings.len();
        let mut rules = |field: &str, rules: &[WindowRule]| -> Vec<Rule> {
            let rules = rules.iter().enumerate();
            rules
                .filter_map(|(index, rule)| {
                    let WindowRule { schedule, duration, time_zone, description } = rule;
                    let duration = i64::from(duration_s(duration).unwrap_or(0));
                    let duration = SignedDuration::from_secs(duration);
                    match Rule::new(schedule, duration, time_zone, description.clone()) {
                        Ok(rule) => Some(rule),
                        Err(error) => {
                            let place = manifest.place_of(&format!("/spec/{field}/{index}"));
                            findings.push(reference::window_rule(place, &error.to_string()));
                            None
                        }
                    }
                })
                .collect()
        };
        let name = manifest.name.as_str();
        let (allow, deny) = (rules("allow", allow), rules("deny", deny));
        let window = if findings.len() == before {
            Ok(Window { name: name.to_owned(), allow, deny })
        } else {
            Err(format!("a rule of the window `{name}` cannot be used: {}", manifest.place))
        };
        Self { name, window, selector: selector.as_ref() }
    }
}

/// The windows of all plans. Plans that are bounded by the same ones share what is found out about them.
#[derive(Debug, Default)]
pub(super) struct Calendars<'a> {
    pub(super) bounds: Vec<Bounds<'a>>,
    joined: BTreeMap<(Vec<usize>, Option<String>), Arc<Calendar>>,
}

impl Calendars<'_> {
    /// Joins the window that a plan names and those whose selectors match its labels. What cannot be made out closes.
    pub(super) fn of(
        &mut self,
        named: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Arc<Calendar> {
        let there = |name: &str| self.bounds.iter().any(|bounds| bounds.name == name);
        let mut closed = named
            .filter(|name| !there(name))
            .map(|name| format!("the window `{name}` is not there"));
        let applies = |bounds: &Bounds<'_>| {
            let picks = bounds.selector.is_some_and(|selector| selector.matches(labels));
            named == Some(bounds.name) || picks
        };
        let mut members = Vec::new();
        for (index, bounds) in self.bounds.iter().enumerate().filter(|(_, b)| applies(b)) {
            match &bounds.window {
                Ok(_) => members.push(index),
                Err(why) => closed = Some(why.clone()),
            }
        }
        let key = (members, closed);
        if let Some(calendar) = self.joined.get(&key) {
            return calendar.clone();
        }
        let windows = key.0.iter().filter_map(|member| self.bounds[*member].window.clone().ok());
        let calendar = Arc::new(Calendar::new(windows.collect(), key.1.clone()));
        self.joined.entry(key).or_insert(calendar).clone()
    }
}

/// Tells why a file closes all windows: it is broken and speaks of one, or did when it was whole last.
pub(super) fn closed(now: &ParsedFile, last_good: Option<&ParsedFile>) -> Option<String> {
    let spoke = last_good.is_some_and(|file| file.mentions_windows);
    if now.whole() || !(now.mentions_windows || spoke) {
        return None;
    }
    let place = now.findings.first().map(|finding| finding.place.to_string()).unwrap_or_default();
    Some(format!("a file that holds a CutoverWindow, or held one, is broken: {place}"))
}

/// When the VMs of a migration are cut over.
#[derive(Debug, Default)]
pub(super) struct Cutovers {
    pub(super) plan: Option<Cutover>,
    pub(super) vms: BTreeMap<VmName, Cutover>,
}

/// Reads the times of a migration. One that does not exist bars every VM: nobody knows when it was meant.
pub(super) fn cutovers(
    manifest: &Manifest,
    migration: &Migration,
    bars: &mut Vec<Finding>,
    findings: &mut Vec<Finding>,
) -> Cutovers {
    let mut read = |text: &str, pointer: String| match text.parse::<Timestamp>() {
        _ if text == "now" => Some(Cutover::Now),
        _ if text == "never" => Some(Cutover::Never),
        Ok(at) => Some(Cutover::At(at)),
        Err(_) => {
            let finding = reference::cutover_time(manifest.place_of(&pointer), text);
            bars.push(finding.clone());
            findings.push(finding);
            None
        }
    };
    let plan = migration.cutover.as_ref();
    let plan = plan.and_then(|text| read(text, "/spec/cutover".to_owned()));
    let vms = migration.vm_cutover.iter().enumerate().filter_map(|(index, of)| {
        let cutover = read(&of.cutover, format!("/spec/vmCutover/{index}/cutover"))?;
        Some((VmName::new(&of.vm), cutover))
    });
    Cutovers { plan, vms: vms.collect() }
}

/// Reads what a policy says. A waiver without a day on which it ends does not count.
pub(super) fn policy(manifest: &Manifest, policy: &Policy, wanted: &mut Wanted) {
    let Policy { severity, waivers, rules: _ } = policy;
    for (index, weight) in severity.iter().enumerate() {
        wanted.weights.push(WeightWanted {
            concern: weight.concern.clone(),
            severity: weight.category,
            place: manifest.place_of(&format!("/spec/severity/{index}/concern")),
        });
    }
    for (index, waiver) in waivers.iter().enumerate() {
        let Ok(expires) = waiver.expires.parse::<Date>() else {
            let place = manifest.place_of(&format!("/spec/waivers/{index}/expires"));
            wanted.findings.push(reference::expiry(place, &waiver.expires));
            continue;
        };
        wanted.waivers.push(WaiverWanted {
            concern: waiver.concern.clone(),
            vm: waiver.vm.clone(),
            reason: waiver.reason.clone(),
            expires,
            place: manifest.place_of(&format!("/spec/waivers/{index}")),
        });
    }
}
