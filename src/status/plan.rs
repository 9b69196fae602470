//! One plan's documents: its VMs added up, as the report of the plan.

use crate::desired::{PlanWanted, VmWanted};
use crate::domain::id::{Instance, PlanName};
use crate::manifest::document::{API_VERSION, PlanType};
use crate::status::document::{
    Condition, ConditionType, Holds, PLAN_KIND, PlanReport, ReportName, Totals, VmLine, Word,
};
use crate::status::vm::condition;

/// What a plan's report takes of the plan itself.
#[derive(Clone, Debug)]
pub(super) struct Head {
    description: Option<String>,
    source: String,
    believed: Option<String>,
    target: String,
    kind: PlanType,
    archived: bool,
    vms: usize,
}

impl Head {
    pub(super) fn of(wanted: &PlanWanted) -> Self {
        let PlanWanted { description, source, target, kind, archived, calendar: _, place: _, vms } =
            wanted;
        Self {
            description: description.clone(),
            source: source.clone(),
            believed: believed(vms).map(str::to_owned),
            target: target.clone(),
            kind: *kind,
            archived: *archived,
            vms: vms.len(),
        }
    }

    /// Tells whether it was made of this, without copying it.
    pub(super) fn is(&self, wanted: &PlanWanted) -> bool {
        let PlanWanted { description, source, target, kind, archived, calendar: _, place: _, vms } =
            wanted;
        (&self.description, &self.source, &self.target) == (description, source, target)
            && (self.kind, self.archived, self.vms) == (*kind, *archived, vms.len())
            && self.believed.as_deref() == believed(vms)
    }
}

/// Returns the address of the source of a plan's VMs, where whoever answers there is believed.
fn believed(vms: &[VmWanted]) -> Option<&str> {
    vms.iter().find_map(|vm| vm.desired.as_ref())?.source_site.believed()
}

/// Makes a plan's report of its VMs' lines and conditions.
pub(super) fn report(
    instance: &Instance,
    name: &PlanName,
    head: &Head,
    vms: Vec<VmLine>,
    conditions: &[&[Condition]],
) -> PlanReport {
    let words: Vec<Word> = vms.iter().map(|vm| vm.status).collect();
    PlanReport {
        api_version: API_VERSION.to_owned(),
        kind: PLAN_KIND.to_owned(),
        metadata: ReportName { name: name.to_string(), plan: None },
        instance: instance.clone(),
        description: head.description.clone(),
        source: head.source.clone(),
        believed: head.believed.clone(),
        target: head.target.clone(),
        plan_type: head.kind,
        status: if head.archived { Word::Archived } else { word(&words) },
        totals: totals(&vms),
        conditions: vec![
            all(ConditionType::Ready, conditions),
            any(ConditionType::Running, conditions),
            all(ConditionType::Succeeded, conditions),
            any(ConditionType::Failed, conditions),
        ],
        vms,
    }
}

/// Counts VMs and adds them up.
pub(super) fn totals(vms: &[VmLine]) -> Totals {
    let mut totals = Totals { vms: vms.len(), ..Totals::default() };
    for vm in vms {
        match vm.status {
            Word::NotReady => totals.not_ready += 1,
            Word::Ready => totals.ready += 1,
            Word::Running => totals.moving += 1,
            Word::Completed => totals.migrated += 1,
            Word::Failed => totals.failed += 1,
            Word::Canceled | Word::Archived => totals.resting += 1,
        }
        totals.provisioned += vm.provisioned.unwrap_or_default();
        if vm.status == Word::Completed {
            totals.written += vm.written.unwrap_or_default();
        }
    }
    totals
}

/// Adds words up: what moves comes first, then what needs a person.
fn word(vms: &[Word]) -> Word {
    let any = |word: Word| vms.contains(&word);
    if vms.is_empty() {
        return Word::NotReady;
    }
    let first = [Word::Running, Word::Failed, Word::NotReady].into_iter().find(|word| any(*word));
    match first {
        Some(word) => word,
        None if any(Word::Completed) && any(Word::Ready) => Word::Running,
        None if any(Word::Ready) => Word::Ready,
        None if any(Word::Canceled) => Word::Canceled,
        None if any(Word::Completed) => Word::Completed,
        None => Word::Archived,
    }
}

fn of<'a>(
    kind: ConditionType,
    vms: &'a [&[Condition]],
) -> impl Iterator<Item = &'a Condition> + Clone {
    vms.iter().filter_map(move |conditions| conditions.iter().find(|found| found.kind == kind))
}

/// Holds where it holds for every VM, since the last of them.
fn all(kind: ConditionType, vms: &[&[Condition]]) -> Condition {
    let mut conditions = of(kind, vms);
    let missing = conditions.clone().filter(|condition| condition.status != Holds::True).count();
    let total = conditions.clone().count();
    if missing == 0 && total > 0 {
        // Only where every one of them has a time, the last of them is known.
        let times: Option<Vec<_>> =
            conditions.map(|condition| condition.last_transition_time).collect();
        let at = times.and_then(|times| times.into_iter().max());
        return condition(kind, Holds::True, "AllVms", String::new(), at);
    }
    let unknown = conditions.any(|condition| condition.status == Holds::Unknown);
    let status = if unknown { Holds::Unknown } else { Holds::False };
    condition(kind, status, "SomeVms", format!("not so for {missing} of {total} VMs"), None)
}

/// Holds where it holds for one VM, since the first of them.
fn any(kind: ConditionType, vms: &[&[Condition]]) -> Condition {
    let holding = of(kind, vms).filter(|condition| condition.status == Holds::True);
    let count = holding.clone().count();
    if count == 0 {
        return condition(kind, Holds::False, "NoVm", String::new(), None);
    }
    let at = holding.filter_map(|condition| condition.last_transition_time).min();
    condition(kind, Holds::True, "SomeVms", format!("so for {count} of {} VMs", vms.len()), at)
}
