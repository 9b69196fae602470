//! Finds documents by kind and name: the one that a reference means, or why there is none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::manifest::code::Code;
use crate::manifest::diagnostic::{Finding, Place};
use crate::manifest::document::{Kind, Manifest, Spec};
use crate::manifest::parse::Broken;
use crate::manifest::{nearest, reference};

/// Names that are compared with all others to find what was meant. A file of ten thousand wrong names must not cost more.
const SUGGESTIONS_MAX: usize = 50;
/// Findings of one document that each entry referring to it repeats.
const REPEATED_MAX: usize = 10;

/// A document that counts, and what stands against all that uses it.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) manifest: &'a Arc<Manifest>,
    /// What else stands against it: the file around it is broken.
    pub(crate) bars: Vec<Finding>,
}

/// All documents of one kind.
pub(crate) struct Index<'a> {
    kind: Kind,
    good: BTreeMap<&'a str, Item<'a>>,
    broken: HashMap<&'a str, (&'a Place, Vec<Finding>)>,
    suggestions: usize,
}

impl<'a> Index<'a> {
    /// Indexes the documents of a kind. The first of a name counts; every one of that name is barred.
    pub(crate) fn new(
        kind: Kind,
        items: &[Item<'a>],
        broken: &[&'a Broken],
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut good: BTreeMap<&'a str, Item<'a>> = BTreeMap::new();
        for item in items.iter().filter(|item| kind_of(&item.manifest.spec) == kind) {
            let name = &item.manifest.name;
            let Some(first) = good.get_mut(name.as_str()) else {
                good.insert(name, item.clone());
                continue;
            };
            let at = |manifest: &Manifest| manifest.place_of("/metadata/name");
            let (one, two) = (at(first.manifest), at(item.manifest));
            findings.push(reference::name_twice(two.clone(), kind, name, &one));
            let known = Code::NameTwice.as_str();
            if first.bars.iter().all(|bar| bar.code != known) {
                let finding = reference::name_twice(one, kind, name, &two);
                findings.push(finding.clone());
                first.bars.push(finding);
            }
        }
        let broken = broken
            .iter()
            .filter(|broken| broken.kind.as_deref() == Some(kind.as_str()))
            .filter_map(|broken| {
                let findings = broken.findings.iter().take(REPEATED_MAX).cloned().collect();
                Some((broken.name.as_deref()?, (&broken.place, findings)))
            })
            .collect();
        Self { kind, good, broken, suggestions: 0 }
    }

    /// Returns the documents that count, in the order of their names.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item<'a>> {
        self.good.values()
    }

    /// Finds what a reference means. What stands against the document is added to `findings`, and whether it was found at
    /// all to `new`: a finding that stands nowhere else yet.
    pub(crate) fn follow(
        &mut self,
        name: &str,
        at: Place,
        findings: &mut Vec<Finding>,
        new: &mut Vec<Finding>,
    ) -> Option<Item<'a>> {
        if let Some(item) = self.good.get(name) {
            let own = item.manifest.findings.iter().map(|(_, finding)| finding);
            findings.extend(own.chain(&item.bars).take(REPEATED_MAX).cloned());
            return Some(item.clone());
        }
        let finding = match self.broken.get(name) {
            Some((place, causes)) => {
                findings.extend(causes.iter().cloned());
                reference::broken(at, self.kind, name, place)
            }
            None => {
                let names = self.good.keys().chain(self.broken.keys()).copied();
                let near =
                    if self.suggestions < SUGGESTIONS_MAX { nearest(name, names) } else { None };
                self.suggestions += 1;
                reference::unknown(at, self.kind, name, near)
            }
        };
        findings.push(finding.clone());
        new.push(finding);
        None
    }
}

/// Returns the kind of a spec.
pub(crate) fn kind_of(spec: &Spec) -> Kind {
    match spec {
        Spec::Provider(_) => Kind::Provider,
        Spec::NetworkMapping(_) => Kind::NetworkMapping,
        Spec::StorageMapping(_) => Kind::StorageMapping,
        Spec::Plan(_) => Kind::Plan,
        Spec::Migration(_) => Kind::Migration,
        Spec::CutoverWindow(_) => Kind::CutoverWindow,
        Spec::Policy(_) => Kind::Policy,
        Spec::Host(_) => Kind::Host,
        Spec::Provisioner(_) => Kind::Provisioner,
        Spec::Hook(_) => Kind::Hook,
    }
}
