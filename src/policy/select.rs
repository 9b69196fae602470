//! Which VM an entry means: the source's VMs by name, path and identifier.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

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
    /// Made with the first question.
    index: OnceCell<Index<'a>>,
    /// Whether all of it is as it was on the last pass.
    pub(super) unchanged: bool,
}

#[derive(Debug, Default)]
struct Index<'a> {
    names: HashMap<&'a str, Vec<&'a Arc<Vm>>>,
    paths: HashMap<&'a str, Vec<&'a Arc<Vm>>>,
    ids: HashMap<&'a SourceVm, Vec<&'a Arc<Vm>>>,
    /// By what the source calls them besides.
    other: HashMap<&'a str, Vec<&'a Arc<Vm>>>,
}

impl<'a> Lookup<'a> {
    /// Makes no index yet.
    pub(super) fn new(state: &'a SourceState, unchanged: bool) -> Self {
        Self { state, index: OnceCell::new(), unchanged }
    }

    /// Returns the source.
    pub(super) fn state(&self) -> &'a SourceState {
        self.state
    }

    /// Returns the VMs that a selector means, the same VM once: a copy of an archive holds the same VM.
    pub(super) fn find(&self, selector: &Selector) -> Vec<&'a Arc<Vm>> {
        let index = self.index.get_or_init(|| Index::of(self.state));
        let found = match selector {
            Selector::Name(name) => {
                index.paths.get(name.as_str()).or_else(|| index.names.get(name.as_str()))
            }
            Selector::Id(id) => match id.parse::<SourceVm>() {
                Ok(id) => index.ids.get(&id),
                Err(_) => index.other.get(id.to_ascii_lowercase().as_str()),
            },
        };
        let mut found = found.cloned().unwrap_or_default();
        if found.len() > 1 {
            let by_id: BTreeMap<&SourceVm, &'a Arc<Vm>> = {
                found.sort_by(|a, b| b.path.cmp(&a.path));
                found.iter().map(|vm| (&vm.id, *vm)).collect()
            };
            found = by_id.into_values().collect();
            found.sort_by(|a, b| a.path.cmp(&b.path));
        }
        found
    }

    /// Returns a VM by what it is.
    pub(super) fn vm(&self, id: &SourceVm) -> Option<&'a Arc<Vm>> {
        let same = self.state.vms.iter().filter(|vm| vm.id == *id);
        same.min_by(|a, b| a.path.cmp(&b.path))
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

impl<'a> Index<'a> {
    fn of(state: &'a SourceState) -> Self {
        let mut index = Self::default();
        for vm in &state.vms {
            index.names.entry(vm.name.as_str()).or_default().push(vm);
            index.paths.entry(vm.path.as_str()).or_default().push(vm);
            index.ids.entry(&vm.id).or_default().push(vm);
            for id in &vm.hosted.ids {
                index.other.entry(id).or_default().push(vm);
            }
        }
        index
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
