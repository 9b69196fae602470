//! What `Policy` documents say of concerns: how much they weigh, and who answers for them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::desired::{WaiverWanted, Wanted};
use crate::domain::id::VmKey;
use crate::manifest::diagnostic::{Finding, Severity};
use crate::manifest::{nearest, reference};
use crate::policy::plan;
use crate::policy::rules::Concern;

/// Concerns of rules that tell of something that cannot be moved at all: nobody can answer for them.
const IMPOSSIBLE: [&str; 3] =
    ["ova.disk.capacity.invalid", "ova.disk.format.unsupported", "vm.disks.none"];

/// The weights and waivers that count on a day.
#[derive(Debug, Default)]
pub(super) struct Weights<'a> {
    severities: BTreeMap<&'a str, Severity>,
    waivers: Vec<&'a WaiverWanted>,
    today: Option<Date>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(wanted: &'a Wanted, now: Timestamp) -> Self {
        let mut severities: BTreeMap<&str, Severity> = BTreeMap::new();
        for weight in wanted.weights.iter().filter(|weight| !is_fixed(&weight.concern)) {
            // Where two policies differ the graver one counts.
            let known = severities.entry(&weight.concern).or_insert(weight.severity);
            *known = (*known).min(weight.severity);
        }
        let waivers = wanted.waivers.iter().filter(|waiver| !is_fixed(&waiver.concern)).collect();
        Self { severities, waivers, today: Some(day(now)) }
    }

    /// Weighs a concern about a VM. One that would block and is waived becomes a warning that says so.
    pub(super) fn weigh(&self, key: &VmKey, mut concern: Concern) -> Concern {
        if let Some(severity) = self.severities.get(concern.code.as_str()) {
            concern.severity = *severity;
        }
        if concern.severity != Severity::Critical {
            return concern;
        }
        let speaks = |waiver: &&&WaiverWanted| waiver.concern == concern.code && waiver.names(key);
        let Some(waiver) = self.waivers.iter().filter(speaks).max_by_key(|waiver| waiver.expires)
        else {
            return concern;
        };
        let WaiverWanted { expires, place, .. } = waiver;
        if self.today.is_some_and(|today| today > *expires) {
            concern.text.push_str(&format!(" (its waiver expired after {expires}: {place})"));
        } else {
            concern.severity = Severity::Warning;
            concern.text.push_str(&waiver.words());
        }
        concern
    }
}

/// Returns the day on which waivers are judged.
pub fn day(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// Judges policies by themselves: concerns that do not exist or cannot be answered for, VMs that no plan names.
pub fn review(wanted: &Wanted) -> Vec<Finding> {
    if wanted.weights.is_empty() && wanted.waivers.is_empty() {
        return Vec::new();
    }
    let pages = super::concerns();
    let known: BTreeSet<&str> = pages.iter().map(|page| page.id.as_str()).collect();
    let weights = wanted.weights.iter().map(|weight| (&weight.concern, &weight.place));
    let waivers = wanted.waivers.iter().map(|waiver| (&waiver.concern, &waiver.place));
    let mut findings = Vec::new();
    for (concern, place) in weights.chain(waivers) {
        if !known.contains(concern.as_str()) {
            let near = nearest(concern, known.iter().copied());
            findings.push(reference::concern_unknown(place.clone(), concern, near));
        } else if is_fixed(concern) {
            findings.push(reference::unwaivable(place.clone(), concern));
        }
    }
    let keys = || wanted.plans.values().flat_map(|plan| plan.vms.iter().map(|vm| &vm.key));
    for waiver in &wanted.waivers {
        if !keys().any(|key| waiver.names(key)) {
            findings.push(reference::waiver_unused(waiver.place.clone(), &waiver.vm));
        }
    }
    findings
}

/// Tells whether a concern is no risk that somebody could take: what it speaks of is missing, ambiguous, taken or not done.
fn is_fixed(concern: &str) -> bool {
    let looked_up =
        plan::pages().any(|page| page.id == concern && page.category == Severity::Critical);
    looked_up || IMPOSSIBLE.contains(&concern)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::desired::{FileVersions, load};
    use crate::manifest::parse::{Limits, parse_file};

    const POLICY: &str = "\
apiVersion: ferry.dev/v1alpha1
kind: Policy
metadata: { name: house }
spec:
  severity:
    - { concern: guest.legacy_windows, category: Critical }
    - { concern: vm.disks.none, category: Information }
    - { concern: guest.legacy_window, category: Warning }
  waivers:
    - { concern: guest.legacy_windows, vm: p/old, reason: retired in March, expires: 2026-12-31 }
    - { concern: guest.legacy_windows, vm: late, reason: it was to be retired, expires: 2026-01-31 }
    - { concern: source.vm.absent, vm: old, reason: never mind, expires: 2026-12-31 }
    - { concern: guest.legacy_windows, vm: gone, reason: r, expires: 2026-02-30 }
---
apiVersion: ferry.dev/v1alpha1
kind: Plan
metadata: { name: p }
spec:
  provider: { source: a, destination: b }
  skipGuestConversion: true
  vms: [{ name: old }, { name: late }, { name: other }]
";

    fn wanted() -> Wanted {
        let file = parse_file("policy.yaml", POLICY.as_bytes(), &Limits::default());
        load(&[FileVersions { now: &file, last_good: None }])
    }

    #[test]
    fn a_policy_is_judged_by_itself() {
        let wanted = wanted();
        let expiry = wanted.findings.iter().filter(|finding| finding.code == "FY0415");
        let all = expiry.cloned().chain(review(&wanted));
        let told: Vec<String> = all.map(|finding| finding.to_string()).collect();
        expect![[r#"
            policy.yaml:13:70: there is no day `2026-02-30` [FY0415] … hint: the last day on which the waiver counts, as `2026-12-31`
            policy.yaml:7:18: `vm.disks.none` cannot be weighed or waived [FY0417] … hint: `ferry explain vm.disks.none` says what to do instead
            policy.yaml:8:18: no rule has a concern `guest.legacy_window` [FY0416] … hint: did you mean `guest.legacy_windows`?
            policy.yaml:12:7: `source.vm.absent` cannot be weighed or waived [FY0417] … hint: `ferry explain source.vm.absent` says what to do instead
        "#]].assert_eq(&(told.join("\n") + "\n"));
    }

    #[test]
    fn a_waived_concern_warns_and_says_who_answers_for_it_until_when() {
        let wanted = wanted();
        let weights = Weights::new(&wanted, "2026-11-25T12:00:00Z".parse().unwrap());
        let told: Vec<String> = ["old", "late", "other"]
            .into_iter()
            .map(|vm| {
                let entries = &wanted.plans.values().next().unwrap().vms;
                let entry = entries.iter().find(|entry| entry.key.vm.as_str() == vm).unwrap();
                let concern = Concern {
                    severity: Severity::Warning,
                    code: "guest.legacy_windows".to_owned(),
                    text: "it is old".to_owned(),
                    hint: None,
                };
                let concern = weights.weigh(&entry.key, concern);
                format!("{vm}: {} {}", concern.severity, concern.text)
            })
            .collect();
        expect![[r#"
            old: Warning it is old (waived until 2026-12-31: retired in March)
            late: Critical it is old (its waiver expired after 2026-01-31: policy.yaml:11:7)
            other: Critical it is old
        "#]]
        .assert_eq(&(told.join("\n") + "\n"));
    }
}
