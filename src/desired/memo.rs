//! Plans that were made out before: a commit that changes one file of a thousand makes out one plan.

use std::collections::HashMap;
use std::sync::Arc;

use crate::desired::PlanWanted;
use crate::desired::refer::Item;
use crate::manifest::document::{Manifest, Spec};
use crate::manifest::parse::Broken;

/// Remembers the plans that nothing stood against, for as long as all documents that plans may refer to stay the same.
/// Forgetting it changes nothing but the time.
#[derive(Debug, Default)]
pub struct Memo {
    /// What plans may refer to.
    around: Vec<Arc<Manifest>>,
    /// By name: the document, and what it came to.
    plans: HashMap<String, Known>,
    /// What the present pass used; the rest is dropped at its end.
    used: HashMap<String, Known>,
    usable: bool,
}

#[derive(Debug)]
struct Known {
    manifest: Arc<Manifest>,
    planned: Arc<PlanWanted>,
}

impl Memo {
    /// Begins a pass over all documents.
    pub(super) fn begin(&mut self, items: &[Item<'_>], broken: &[&Broken]) {
        let refers = |item: &&Item<'_>| match item.manifest.spec {
            Spec::Plan(_) | Spec::Migration(_) => false,
            Spec::Provider(_)
            | Spec::NetworkMapping(_)
            | Spec::StorageMapping(_)
            | Spec::CutoverWindow(_)
            | Spec::Policy(_)
            | Spec::Host(_)
            | Spec::Provisioner(_)
            | Spec::Hook(_) => true,
        };
        // What is broken may be what a plan refers to.
        self.usable = broken.is_empty();
        let same = |(item, before): (&Item<'_>, &Arc<Manifest>)| {
            Arc::ptr_eq(item.manifest, before) && item.bars.is_empty()
        };
        let around: Vec<&Item<'_>> = items.iter().filter(refers).collect();
        let stays =
            around.len() == self.around.len() && around.iter().copied().zip(&self.around).all(same);
        if !stays {
            self.plans.clear();
            self.around = around.iter().map(|item| item.manifest.clone()).collect();
        }
        self.usable &= around.iter().all(|item| item.bars.is_empty());
    }

    /// Returns what a plan came to before.
    pub(super) fn known(&mut self, item: &Item<'_>) -> Option<Arc<PlanWanted>> {
        if !self.usable || !item.bars.is_empty() {
            return None;
        }
        let known = self.plans.remove(&item.manifest.name)?;
        if !Arc::ptr_eq(&known.manifest, item.manifest) {
            return None;
        }
        let found = known.planned.clone();
        self.used.insert(item.manifest.name.clone(), known);
        Some(found)
    }

    /// Keeps what a plan came to, unless something was found.
    pub(super) fn keep(&mut self, item: &Item<'_>, planned: &Arc<PlanWanted>, found: bool) {
        let barred = planned.vms.iter().any(|vm| !vm.findings.is_empty());
        if self.usable && !found && !barred && item.bars.is_empty() {
            let known = Known { manifest: item.manifest.clone(), planned: planned.clone() };
            self.used.insert(item.manifest.name.clone(), known);
        }
    }

    /// Ends a pass: what is not wanted any more is forgotten.
    pub(super) fn end(&mut self) {
        self.plans = std::mem::take(&mut self.used);
    }
}
