//! A repository of plans, read through libgit2: on this machine, a work tree or bare, or a remote one ([`remote`]).
//!
//! # Guarantees
//! - Manifests are read as blobs from the object database of a commit; nothing is checked out, and nothing of a repository
//!   is executed. What is committed counts, not what lies in the work tree.
//! - The status branch is the only thing that is written. Its ref moves under git's own lock and only from the commit that
//!   the new one was made on; other writers' folders stay. It is never the watched branch.
//! - [`watch::Watch`] says "look" and nothing else, and never because of a report of ours.

pub mod commit;
mod failure;
mod https;
pub mod init;
mod publish;
pub mod remote;
pub mod sign;
mod tree;
pub mod watch;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use git2::{ErrorCode, ObjectType, Oid, Reference, Repository};

use crate::adapter::git::remote::{Polling, Remote, RemoteRepo};
use crate::domain::id::CommitId;
use crate::journal::record::Mend;
use crate::port::{Ancestry, PlanRepo, PortError, Tree};

/// The largest report file that is read back, so that a branch that somebody else filled cannot exhaust memory.
const REPORT_BYTES_MAX: u64 = 16 << 20;

/// Who a commit is by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
}

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The work tree, the git folder or the bare repository on this machine.
    Folder(PathBuf),
    /// Another machine.
    Remote(Box<Remote>),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Remote(remote) => remote.url.fmt(f),
        }
    }
}

/// Which repository, and which parts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoSettings {
    /// Where it is.
    pub place: Place,
    /// The watched branch, without `refs/heads/`.
    pub branch: String,
    /// The folder within that holds the manifests; empty for all of it.
    pub below: String,
    /// The branch that reports are committed to.
    pub status_branch: String,
    /// Who the reports are by.
    pub author: Author,
    /// The file of those who may sign commits; `None` where none need be signed.
    pub signers: Option<PathBuf>,
}

/// The repository of plans, wherever it is.
#[derive(Debug)]
pub enum GitRepo {
    /// On this machine.
    Local(LocalRepo),
    /// On another one.
    Remote(RemoteRepo),
}

/// Tells when to look; it ends when it is dropped.
#[derive(Debug)]
pub enum Watching {
    /// The refs are watched.
    Refs(watch::Watch),
    /// The remote is asked again and again.
    Remote(Polling),
}

impl GitRepo {
    /// Opens the repository. A remote one is not asked before something is read.
    pub fn open(settings: &RepoSettings) -> Result<Self, PortError> {
        Ok(match &settings.place {
            Place::Folder(path) => Self::Local(LocalRepo::at(path, settings)?),
            Place::Remote(remote) => Self::Remote(RemoteRepo::open(remote, settings)?),
        })
    }

    /// Calls `look` when something may have changed, but for reports of ours.
    pub fn watch(
        &self,
        look: impl Fn() + Send + 'static,
    ) -> Result<Watching, Box<dyn std::error::Error + Send + Sync>> {
        Ok(match self {
            Self::Local(local) => Watching::Refs(local.watch(look)?),
            Self::Remote(remote) => Watching::Remote(remote.watch(look)?),
        })
    }

    /// Returns the status branch's commit; `None` where there is none.
    pub fn status_head(&self) -> Result<Option<CommitId>, PortError> {
        match self {
            Self::Local(local) => local.status_head(),
            Self::Remote(remote) => remote.status_head(),
        }
    }

    fn port(&self) -> &dyn PlanRepo {
        match self {
            Self::Local(local) => local,
            Self::Remote(remote) => remote,
        }
    }
}

impl PlanRepo for GitRepo {
    fn branch(&self) -> &str {
        self.port().branch()
    }

    fn head(&self) -> Result<Option<CommitId>, PortError> {
        self.port().head()
    }

    fn resolve(&self, revision: &str) -> Result<CommitId, PortError> {
        self.port().resolve(revision)
    }

    fn tree(&self, commit: &CommitId) -> Result<Tree, PortError> {
        self.port().tree(commit)
    }

    fn blob(&self, blob: &str, limit: u64) -> Result<Vec<u8>, PortError> {
        self.port().blob(blob, limit)
    }

    fn ancestry(&self, older: &CommitId, newer: &CommitId) -> Result<Ancestry, PortError> {
        self.port().ancestry(older, newer)
    }

    fn distrust(&self, commit: &CommitId) -> Result<Option<String>, PortError> {
        self.port().distrust(commit)
    }

    fn report(&self, folder: &str) -> Result<BTreeMap<String, Vec<u8>>, PortError> {
        self.port().report(folder)
    }

    fn publish(
        &self,
        folder: &str,
        files: &BTreeMap<String, Vec<u8>>,
        message: &str,
    ) -> Result<bool, PortError> {
        self.port().publish(folder, files, message)
    }
}

/// A repository on this machine.
pub struct LocalRepo {
    /// `Repository` is Send, not Sync.
    repository: Mutex<Repository>,
    /// `refs/heads/…` of the watched branch.
    watched: String,
    below: String,
    /// `refs/heads/…` of the status branch.
    status: String,
    author: Author,
    signers: Option<PathBuf>,
}

impl std::fmt::Debug for LocalRepo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { repository: _, watched, below, status, author, signers } = self;
        f.debug_struct("LocalRepo")
            .field("watched", watched)
            .field("below", below)
            .field("status", status)
            .field("author", author)
            .field("signers", signers)
            .finish_non_exhaustive()
    }
}

impl LocalRepo {
    /// Opens the repository in a folder. Refuses a status branch that is the watched one.
    pub fn at(path: &Path, settings: &RepoSettings) -> Result<Self, PortError> {
        let RepoSettings { place: _, branch, below, status_branch, author, signers } = settings;
        let (watched, status) = (reference_name(branch)?, reference_name(status_branch)?);
        if watched == status {
            return Err(PortError::lasting(
                format!("the status branch `{status_branch}` is the watched branch"),
                "give reports a branch of their own: `status: { branch: ferry/status }`",
                Mend::Person,
            ));
        }
        let repository = Mutex::new(init::open(path)?);
        let below = below.trim_matches('/').to_owned();
        let (author, signers) = (author.clone(), signers.clone());
        Ok(Self { repository, watched, below, status, author, signers })
    }

    /// Opens the same repository a second time, for another thread.
    fn same(other: &Self) -> Result<Self, PortError> {
        let Self { repository: _, watched, below, status, author, signers } = other;
        let repository = Mutex::new(init::open(&other.common_folder())?);
        let (watched, below, status) = (watched.clone(), below.clone(), status.clone());
        let (author, signers) = (author.clone(), signers.clone());
        Ok(Self { repository, watched, below, status, author, signers })
    }

    /// Returns the folder that holds the refs.
    pub fn common_folder(&self) -> PathBuf {
        self.lock().commondir().to_owned()
    }

    /// Returns the work tree; `None` for a bare repository.
    pub fn work_tree(&self) -> Option<PathBuf> {
        self.lock().workdir().map(Path::to_owned)
    }

    /// Watches the refs, but for the status branch, and calls `look` when something may have changed.
    pub fn watch(
        &self,
        look: impl Fn() + Send + 'static,
    ) -> Result<watch::Watch, watch::WatchError> {
        watch::Watch::start(&self.common_folder(), &self.watched, &self.status, look)
    }

    /// Returns the status branch's commit; `None` where there is none. Refuses a branch that stands for another one.
    pub fn status_head(&self) -> Result<Option<CommitId>, PortError> {
        let repository = self.lock();
        let head = publish::status_head(&repository, &self.status)?;
        Ok(head.map(|id| CommitId::new(id.to_string())))
    }

    fn lock(&self) -> MutexGuard<'_, Repository> {
        // A panic elsewhere leaves a handle that is as good as before: it holds no half-made change.
        self.repository.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PlanRepo for LocalRepo {
    fn branch(&self) -> &str {
        self.watched.strip_prefix("refs/heads/").unwrap_or(&self.watched)
    }

    fn head(&self) -> Result<Option<CommitId>, PortError> {
        let repository = self.lock();
        let commit = find_reference(&repository, &self.watched)?
            .map(|reference| reference.peel_to_commit())
            .transpose()
            .map_err(|error| failed(&format!("cannot read {}", self.watched), &error))?;
        Ok(commit.map(|commit| CommitId::new(commit.id().to_string())))
    }

    fn resolve(&self, revision: &str) -> Result<CommitId, PortError> {
        let repository = self.lock();
        let commit = repository.revparse_single(revision).and_then(|found| found.peel_to_commit());
        match commit {
            Ok(commit) => Ok(CommitId::new(commit.id().to_string())),
            Err(error) => Err(PortError::lasting(
                format!("`{revision}` names no commit of this repository: {}", error.message()),
                "name a branch, a tag or a commit that it holds: `git log --oneline` lists some",
                Mend::Person,
            )),
        }
    }

    fn tree(&self, commit: &CommitId) -> Result<Tree, PortError> {
        let repository = self.lock();
        tree::list(&repository, object_id(commit.as_str())?, &self.below)
    }

    fn blob(&self, blob: &str, limit: u64) -> Result<Vec<u8>, PortError> {
        let repository = self.lock();
        read_blob(&repository, object_id(blob)?, limit)
    }

    fn ancestry(&self, older: &CommitId, newer: &CommitId) -> Result<Ancestry, PortError> {
        let (older, newer) = (object_id(older.as_str())?, object_id(newer.as_str())?);
        if older == newer {
            return Ok(Ancestry::Forward);
        }
        let repository = self.lock();
        match repository.find_commit(older) {
            // A commit that was cleaned away is an ancestor of nothing that is left.
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(Ancestry::Rewound),
            Err(error) => return Err(failed(&format!("cannot read the commit {older}"), &error)),
            Ok(_) => {}
        }
        match repository.graph_descendant_of(newer, older) {
            Ok(true) => Ok(Ancestry::Forward),
            Ok(false) => Ok(Ancestry::Rewound),
            Err(error) => Err(failed(&format!("cannot compare {older} with {newer}"), &error)),
        }
    }

    fn distrust(&self, commit: &CommitId) -> Result<Option<String>, PortError> {
        let Some(signers) = &self.signers else { return Ok(None) };
        sign::distrust(&self.lock(), object_id(commit.as_str())?, signers)
    }

    fn report(&self, folder: &str) -> Result<BTreeMap<String, Vec<u8>>, PortError> {
        let repository = self.lock();
        let Some(head) = publish::status_head(&repository, &self.status)? else {
            return Ok(BTreeMap::new());
        };
        tree::files(&repository, head, folder)?
            .into_iter()
            .map(|(path, blob)| Ok((path, read_blob(&repository, blob, REPORT_BYTES_MAX)?)))
            .collect()
    }

    fn publish(
        &self,
        folder: &str,
        files: &BTreeMap<String, Vec<u8>>,
        message: &str,
    ) -> Result<bool, PortError> {
        let repository = self.lock();
        let report = publish::Report { folder, files, message, author: &self.author };
        publish::publish(&repository, &self.status, &report)
    }
}

/// Makes `refs/heads/…` of a branch's name, which may be written in full already.
fn reference_name(branch: &str) -> Result<String, PortError> {
    let name = format!("refs/heads/{}", branch.strip_prefix("refs/heads/").unwrap_or(branch));
    if Reference::is_valid_name(&name) {
        return Ok(name);
    }
    Err(PortError::lasting(
        format!("`{branch}` cannot be the name of a branch"),
        "write it as `git branch` shows it, such as `main` or `ferry/status`",
        Mend::Person,
    ))
}

fn find_reference<'a>(
    repository: &'a Repository,
    name: &str,
) -> Result<Option<Reference<'a>>, PortError> {
    match repository.find_reference(name) {
        Ok(reference) => Ok(Some(reference)),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(failed(&format!("cannot read {name}"), &error)),
    }
}

fn object_id(text: &str) -> Result<Oid, PortError> {
    Oid::from_str(text).map_err(|error| failed(&format!("`{text}` is no object id"), &error))
}

/// Reads a blob whose size the object database was asked for first, so that a huge one is never in memory.
fn read_blob(repository: &Repository, id: Oid, limit: u64) -> Result<Vec<u8>, PortError> {
    let unreadable = |error: git2::Error| failed(&format!("cannot read the blob {id}"), &error);
    let objects = repository.odb().map_err(unreadable)?;
    let (size, kind) = objects.read_header(id).map_err(unreadable)?;
    if kind != ObjectType::Blob {
        return Err(PortError::lasting(
            format!("the object {id} is no file"),
            "run `git fsck` in the repository",
            Mend::Person,
        ));
    }
    if u64::try_from(size).map_or(true, |size| size > limit) {
        return Err(PortError::lasting(
            format!("the file is {size} bytes long, more than the limit of {limit} bytes"),
            "split it, or raise `limits.manifestBytes` in ferry.yaml",
            Mend::Person,
        ));
    }
    Ok(objects.read(id).map_err(unreadable)?.data().to_vec())
}

/// An error of libgit2 that may pass: the repository can be mended while Ferry watches it.
fn failed(what: &str, error: &git2::Error) -> PortError {
    PortError::passing(
        format!("{what}: {}", error.message()),
        "run `git fsck` in the repository, and check that ferry's user may read and write it",
    )
}
