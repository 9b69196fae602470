//! Which VM an entry means: the source's VMs by name, path and identifier.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use crate::desired::Selector;
use crate::domain::id::SourceVm;
use crate::domain::vm::Vm;
use crate::observed::SourceState;

/// How many names a finding lists before it counts the rest.
const LISTED_MAX: usize = 5;

/// How many VMs of a source are compared with a name that none has. More would make a source that was emptied expensive.
const COMPARED_MAX: usize = 1000;

/// A source's VMs, to look one up.
#[derive(Debug)]
pub(super) struct Lookup<'a> {
    state: &'a SourceState,
    index: Option<Index<'a>>,
}

#[derive(Debug, Default)]
struct Index<'a> {
    names: HashMap<&'a str, Vec<&'a Vm>>,
    paths: HashMap<&'a str, Vec<&'a Vm>>,
    ids: HashMap<&'a SourceVm, Vec<&'a Vm>>,
}

impl<'a> Lookup<'a> {
    /// Looks through the list each time: for a few questions.
    pub(super) fn scan(state: &'a SourceState) -> Self {
        Self { state, index: None }
    }

    /// Makes an index first: for a question per VM.
    pub(super) fn indexed(state: &'a SourceState) -> Self {
        let mut index = Index::default();
        for vm in &state.vms {
            index.names.entry(vm.name.as_str()).or_default().push(vm);
            index.paths.entry(vm.path.as_str()).or_default().push(vm);
            index.ids.entry(&vm.id).or_default().push(vm);
        }
        Self { state, index: Some(index) }
    }

    /// Returns the source.
    pub(super) fn state(&self) -> &'a SourceState {
        self.state
    }

    /// Returns the VMs that a selector means, the same VM once: a copy of an archive holds the same VM.
    pub(super) fn find(&self, selector: &Selector) -> Vec<&'a Vm> {
        let mut found = match selector {
            Selector::Name(name) => {
                let paths = self.by(name, |index| &index.paths, |vm| &vm.path);
                if paths.is_empty() {
                    self.by(name, |index| &index.names, |vm| &vm.name)
                } else {
                    paths
                }
            }
            Selector::Id(id) => id.parse().map_or_else(|_| Vec::new(), |id| self.by_id(&id)),
        };
        if found.len() > 1 {
            let by_id: BTreeMap<&SourceVm, &'a Vm> = {
                found.sort_by(|a, b| b.path.cmp(&a.path));
                found.iter().map(|vm| (&vm.id, *vm)).collect()
            };
            found = by_id.into_values().collect();
            found.sort_by(|a, b| a.path.cmp(&b.path));
        }
        found
    }

    /// Returns a VM by what it is.
    pub(super) fn vm(&self, id: &SourceVm) -> Option<&'a Vm> {
        self.by_id(id).into_iter().min_by(|a, b| a.path.cmp(&b.path))
    }

    fn by_id(&self, id: &SourceVm) -> Vec<&'a Vm> {
        match &self.index {
            Some(index) => index.ids.get(id).cloned().unwrap_or_default(),
            None => self.state.vms.iter().filter(|vm| vm.id == *id).collect(),
        }
    }

    fn by(
        &self,
        text: &str,
        map: impl for<'i> Fn(&'i Index<'a>) -> &'i HashMap<&'a str, Vec<&'a Vm>>,
        field: impl Fn(&Vm) -> &String,
    ) -> Vec<&'a Vm> {
        match &self.index {
            Some(index) => map(index).get(text).cloned().unwrap_or_default(),
            None => self.state.vms.iter().filter(|vm| field(vm) == text).collect(),
        }
    }

    /// Says what to write instead of a name that no VM has.
    pub(super) fn advice(&self, selector: &Selector) -> String {
        let text = match selector {
            Selector::Name(text) | Selector::Id(text) => text.as_str(),
        };
        let vms = &self.state.vms;
        if vms.is_empty() {
            return "The source holds no VM".to_owned();
        }
        let near = vms
            .iter()
            .take(COMPARED_MAX)
            .flat_map(|vm| [vm.name.as_str(), vm.path.as_str()])
            .filter_map(|name| distance(text, name).map(|distance| (distance, name)))
            .min();
        match near {
            Some((_, name)) => format!("Did you mean `{name}`?"),
            None => format!("The source holds {}", listed(vms.iter().map(|vm| vm.name.as_str()))),
        }
    }
}

/// Lists a few names and counts the rest.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let mut text = names
        .iter()
        .take(LISTED_MAX)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more) = names.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        let _ = write!(text, " and {more} more");
    }
    text
}

/// Counts the edits between two texts without regard to case; `None` where they are too many for a slip of the fingers.
fn distance(wanted: &str, name: &str) -> Option<usize> {
    let wanted: Vec<char> = wanted.chars().flat_map(char::to_lowercase).take(128).collect();
    let name: Vec<char> = name.chars().flat_map(char::to_lowercase).take(128).collect();
    let most = (wanted.len() / 3).clamp(1, 4);
    if wanted.len().abs_diff(name.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (i, a) in wanted.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in name.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().filter(|distance| *distance <= most)
}
