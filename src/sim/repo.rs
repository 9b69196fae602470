//! The simulated repository of plans: a history of commits in memory.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::chance::Call;
use super::{SimWorld, State};
use crate::domain::id::{CommitId, MigrationName, VmName};
use crate::journal::record::{Entry, Mend, RECORD_VERSION, Record, RepoFact};
use crate::port::{Ancestry, PlanRepo, PortError, Tree, TreeFile};

/// What a commit really asks for, whatever its text looks like: a broken file asks for what it said before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// The migrations.
    pub migrations: BTreeMap<MigrationName, MigrationIntent>,
    /// What is canceled.
    pub canceled: BTreeSet<(MigrationName, VmName)>,
}

/// What one migration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationIntent {
    /// The VMs that its plan lists; `None` where there is no such plan.
    pub listed: Option<BTreeSet<VmName>>,
    /// Those that nothing stands against.
    pub movable: BTreeSet<VmName>,
    /// When they may be taken down.
    pub cutover: CutoverIntent,
    /// How many minutes of each hour a window bounds them to; `None` for always.
    pub open_min: Option<u8>,
}

/// When the VMs of a migration may be taken down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutoverIntent {
    /// As soon as they can be.
    #[default]
    AtOnce,
    /// Once, from the moment at which the commit is seen.
    Now,
    /// Not until another time is said.
    Never,
    /// From a time on, if that is not missed.
    At(Timestamp),
}

#[derive(Clone, Debug)]
pub(super) struct SimCommit {
    pub(super) parent: Option<CommitId>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) intent: Intent,
}

#[derive(Clone, Debug)]
pub(super) struct SimRepo {
    pub(super) commits: BTreeMap<CommitId, SimCommit>,
    pub(super) head: Option<CommitId>,
    /// Each commit that was the head, since when.
    pub(super) heads: Vec<(Timestamp, CommitId)>,
    pub(super) reachable: bool,
    blobs: BTreeMap<String, Vec<u8>>,
    status: BTreeMap<String, Vec<u8>>,
    status_commits: u64,
}

impl Default for SimRepo {
    fn default() -> Self {
        Self {
            commits: BTreeMap::new(),
            head: None,
            heads: Vec::new(),
            reachable: true,
            blobs: BTreeMap::new(),
            status: BTreeMap::new(),
            status_commits: 0,
        }
    }
}

impl SimRepo {
    pub(super) fn descends(&self, older: &CommitId, newer: &CommitId) -> bool {
        let mut at = Some(newer);
        while let Some(id) = at {
            if id == older {
                return true;
            }
            at = self.commits.get(id).and_then(|commit| commit.parent.as_ref());
        }
        false
    }
}

impl SimWorld {
    /// Commits these files onto the branch, with what they mean.
    pub fn commit(&self, files: BTreeMap<String, Vec<u8>>, intent: Intent) -> CommitId {
        let mut state = self.lock();
        let parent = state.repo.head.clone();
        let mut text = format!("{}\n{parent:?}\n", state.repo.commits.len()).into_bytes();
        for (path, bytes) in &files {
            let blob = id_of(bytes);
            text.extend_from_slice(format!("{path} {blob}\n").as_bytes());
            state.repo.blobs.insert(blob, bytes.clone());
        }
        let id = CommitId::new(id_of(&text));
        state.repo.commits.insert(id.clone(), SimCommit { parent, files, intent });
        state.move_head(Some(id.clone()));
        id
    }

    /// Moves the branch back to the parent of its commit, as a forced push does. Returns whether there was one.
    pub fn rewind(&self) -> bool {
        let mut state = self.lock();
        let head = state.repo.head.as_ref().and_then(|head| state.repo.commits.get(head));
        let Some(parent) = head.and_then(|commit| commit.parent.clone()) else { return false };
        state.move_head(Some(parent));
        true
    }

    /// Moves the branch to a commit that was on it before, or takes it away.
    pub fn force(&self, commit: Option<CommitId>) {
        self.lock().move_head(commit);
    }

    /// A person accepts the commit that the branch has now (`ferry adopt`), while no controller runs.
    pub fn adopt(&self) {
        let mut state = self.lock();
        let Some(commit) = state.repo.head.clone() else { return };
        let (at, entry) = (state.now, Entry::Repo(RepoFact::Adopted { commit }));
        state.records.push(Record { version: RECORD_VERSION, at, entry });
    }

    /// Makes the repository unreachable, or reachable again.
    pub fn repo_reachable(&self, reachable: bool) {
        self.lock().repo.reachable = reachable;
    }

    /// Returns how many commits the status branch has.
    pub fn status_commits(&self) -> u64 {
        self.lock().repo.status_commits
    }

    /// Returns the status branch's files.
    pub fn status_files(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().repo.status.clone()
    }

    fn repo_call<T>(
        &self,
        call: Call,
        answer: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        self.call(call, |state| {
            if !state.repo.reachable {
                let text = "the simulated repository is unreachable";
                return Err(PortError::passing(text, "wait until it is back"));
            }
            answer(state)
        })
    }
}

impl State {
    fn move_head(&mut self, head: Option<CommitId>) {
        if let Some(id) = &head {
            self.repo.heads.push((self.now, id.clone()));
        }
        self.repo.head = head;
    }

    fn commit(&self, id: &CommitId) -> Result<&SimCommit, PortError> {
        self.repo.commits.get(id).ok_or_else(|| unknown(id.as_str()))
    }
}

impl PlanRepo for SimWorld {
    fn branch(&self) -> &'static str {
        "main"
    }

    fn head(&self) -> Result<Option<CommitId>, PortError> {
        self.repo_call(Call::RepoHead, |state| Ok(state.repo.head.clone()))
    }

    /// A person asks for this, not the controller: it does not fail by chance.
    fn resolve(&self, revision: &str) -> Result<CommitId, PortError> {
        let state = self.lock();
        let (name, back) = revision.split_once('~').unwrap_or((revision, "0"));
        let back: u32 = back.parse().map_err(|_| unknown(revision))?;
        let mut id = match name {
            "HEAD" => state.repo.head.clone().ok_or_else(|| unknown(revision))?,
            id => CommitId::new(id),
        };
        for _ in 0..back {
            id = state.commit(&id)?.parent.clone().ok_or_else(|| unknown(revision))?;
        }
        state.commit(&id)?;
        Ok(id)
    }

    fn tree(&self, commit: &CommitId) -> Result<Tree, PortError> {
        self.repo_call(Call::RepoTree, |state| {
            let files = &state.commit(commit)?.files;
            let files = files.iter().filter(|(path, _)| is_manifest(path));
            let files =
                files.map(|(path, bytes)| TreeFile { path: path.clone(), blob: id_of(bytes) });
            Ok(Tree { files: files.collect(), refused: Vec::new() })
        })
    }

    fn blob(&self, blob: &str, limit: u64) -> Result<Vec<u8>, PortError> {
        self.repo_call(Call::RepoBlob, |state| {
            let bytes = state.repo.blobs.get(blob).ok_or_else(|| unknown(blob))?;
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
                let text = format!("the blob {blob} is larger than {limit} bytes");
                return Err(PortError::lasting(text, "make the file smaller", Mend::Person));
            }
            Ok(bytes.clone())
        })
    }

    fn ancestry(&self, older: &CommitId, newer: &CommitId) -> Result<Ancestry, PortError> {
        self.repo_call(Call::RepoAncestry, |state| {
            let forward = state.repo.descends(older, newer);
            Ok(if forward { Ancestry::Forward } else { Ancestry::Rewound })
        })
    }

    /// Nobody signs here; what holds a commit back is tested with real signatures.
    fn distrust(&self, _commit: &CommitId) -> Result<Option<String>, PortError> {
        Ok(None)
    }

    fn report(&self, folder: &str) -> Result<BTreeMap<String, Vec<u8>>, PortError> {
        let prefix = format!("{folder}/");
        self.repo_call(Call::RepoReport, |state| {
            let files = state.repo.status.iter();
            let within = files.filter_map(|(path, bytes)| {
                Some((path.strip_prefix(&prefix)?.to_owned(), bytes.clone()))
            });
            Ok(within.collect())
        })
    }

    fn publish(
        &self,
        folder: &str,
        files: &BTreeMap<String, Vec<u8>>,
        _message: &str,
    ) -> Result<bool, PortError> {
        let prefix = format!("{folder}/");
        self.repo_call(Call::RepoPublish, |state| {
            let mut status = state.repo.status.clone();
            status.retain(|path, _| !path.starts_with(&prefix));
            for (path, bytes) in files {
                status.insert(format!("{prefix}{path}"), bytes.clone());
            }
            if status == state.repo.status {
                return Ok(false);
            }
            state.repo.status = status;
            state.repo.status_commits += 1;
            Ok(true)
        })
    }
}

/// Names content as git does in length and alphabet.
fn id_of(bytes: &[u8]) -> String {
    hex::encode(&blake3::hash(bytes).as_bytes()[..20])
}

fn unknown(what: &str) -> PortError {
    PortError::lasting(
        format!("the simulated repository has no `{what}`"),
        "name a commit that it has",
        Mend::Person,
    )
}

/// Tells whether a path is that of a manifest.
pub(super) fn is_manifest(path: &str) -> bool {
    let extension = std::path::Path::new(path).extension();
    extension.is_some_and(|extension| extension == "yaml" || extension == "yml")
}

#[cfg(test)]
mod tests {
    use super::super::FaultPlan;
    use super::*;

    fn files(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        entries.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_rewound_branch_is_told_from_a_reverted_commit() {
        let world = SimWorld::new(&[], FaultPlan::default());
        let first = world.commit(files(&[("a.yaml", "1")]), Intent::default());
        let second = world.commit(files(&[("a.yaml", "2"), ("b.txt", "")]), Intent::default());
        assert_eq!(world.ancestry(&first, &second).unwrap(), Ancestry::Forward);
        assert_eq!(world.tree(&second).unwrap().files.len(), 1);
        assert_eq!(world.resolve("HEAD~1").unwrap(), first);
        assert!(world.resolve("HEAD~2").is_err());
        let reverted = world.commit(files(&[("a.yaml", "1")]), Intent::default());
        assert_ne!(reverted, first);
        assert_eq!(world.ancestry(&second, &reverted).unwrap(), Ancestry::Forward);
        world.force(Some(first.clone()));
        assert_eq!(world.head().unwrap(), Some(first.clone()));
        assert_eq!(world.ancestry(&reverted, &first).unwrap(), Ancestry::Rewound);
        world.repo_reachable(false);
        assert!(world.head().is_err());
    }

    #[test]
    fn equal_bytes_make_no_commit_and_other_folders_stay() {
        let world = SimWorld::new(&[], FaultPlan::default());
        assert!(world.publish("one", &files(&[("x", "1")]), "").unwrap());
        assert!(!world.publish("one", &files(&[("x", "1")]), "").unwrap());
        assert!(world.publish("two", &files(&[("y", "1")]), "").unwrap());
        assert!(world.publish("one", &files(&[("z", "1")]), "").unwrap());
        assert_eq!(world.status_commits(), 3);
        assert_eq!(world.report("one").unwrap(), files(&[("z", "1")]));
        assert_eq!(world.report("two").unwrap(), files(&[("y", "1")]));
    }
}
