//! Commits reports to the status branch.
//!
//! # Flow
//! Read the ref, edit the tree of its commit in the object database, make a commit, move the ref under git's lock from the
//! commit that was read to the new one. Where somebody was faster the whole is done again on their commit.
//!
//! All publishers of a repository take turns by a lock that the kernel drops with its holder. Who has it and finds git's own
//! lock on the ref in the way, unchanged for [`LEFT_BEHIND`], knows that a killed publisher left it: it is taken away.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use git2::{ErrorCode, FileMode, ObjectType, Oid, ReferenceType, Repository, Signature, Time};

use crate::adapter::clock::SystemClock;
use crate::adapter::git::{Author, failed, find_reference};
use crate::adapter::lock::lock;
use crate::journal::record::Mend;
use crate::port::{Clock, PortError};

/// How often a lost race is run again. Writers are few (one an instance), and each needs milliseconds.
const ATTEMPTS_MAX: u32 = 250;
/// How long to wait before the next attempt: about as long as another writer holds the lock.
const PAUSE: Duration = Duration::from_millis(20);
/// After how many attempts in a row that found the same lock of git on the ref it was left behind: two seconds, while git
/// holds one for a millisecond.
const LEFT_BEHIND: u32 = 100;
/// How long another publisher may take.
const TURN: Duration = Duration::from_secs(30);
/// What the publishers take turns by, in the folder that holds the refs.
const TURN_FILE: &str = "ferry-publish.lock";

/// What one commit says.
pub(super) struct Report<'a> {
    /// The folder that is replaced.
    pub(super) folder: &'a str,
    /// Its files, by path within.
    pub(super) files: &'a BTreeMap<String, Vec<u8>>,
    /// The commit's message.
    pub(super) message: &'a str,
    /// Who it is by.
    pub(super) author: &'a Author,
}

/// Makes the commit, unless the branch holds these bytes already.
pub(super) fn publish(
    repository: &Repository,
    branch: &str,
    report: &Report<'_>,
) -> Result<bool, PortError> {
    let folder = folder(report.folder)?;
    let _turn = turn(repository)?;
    let mut in_the_way = InTheWay::default();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let old = status_head(repository, branch)?;
        let Some(new) = prepare(repository, old, &folder, report)? else { return Ok(false) };
        match advance(repository, branch, old, new) {
            Ok(()) => return Ok(true),
            Err(error) if error.code() == ErrorCode::Locked => {
                in_the_way.seen(repository, branch)?;
            }
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(not_moved(branch, &error)),
        }
    }
    Err(PortError::passing(
        format!("{branch} was moved or locked by others {ATTEMPTS_MAX} times in a row"),
        format!("look who else writes it; a `{branch}.lock` that nobody holds can be deleted"),
    ))
}

/// Waits until no other publisher is at work. The lock goes with the file.
pub(super) fn turn(repository: &Repository) -> Result<File, PortError> {
    let path = repository.commondir().join(TURN_FILE);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|error| {
        PortError::lasting(
            format!("cannot open {}: {error}", path.display()),
            "check that ferry's user may write the repository",
            Mend::Person,
        )
    })?;
    lock(&file, &path, TURN)?;
    Ok(file)
}

/// The lock of git that stands on the ref, and for how many attempts it has been the same.
#[derive(Debug, Default)]
struct InTheWay {
    inode: u64,
    attempts: u32,
}

impl InTheWay {
    /// Counts an attempt that found git's lock, and takes away one that was left behind.
    fn seen(&mut self, repository: &Repository, branch: &str) -> Result<(), PortError> {
        let path = repository.commondir().join(format!("{branch}.lock"));
        let inode = std::fs::metadata(&path).map_or(0, |metadata| metadata.ino());
        let attempts = if inode == self.inode { self.attempts + 1 } else { 1 };
        *self = Self { inode, attempts };
        if inode == 0 || attempts < LEFT_BEHIND {
            return Ok(());
        }
        tracing::warn!(lock = %path.display(), "took away a lock that a killed writer left");
        std::fs::remove_file(&path).map_err(|error| {
            PortError::lasting(
                format!("cannot take away {}, which a killed writer left: {error}", path.display()),
                "delete it by hand, and check that ferry's user may write the repository",
                Mend::Person,
            )
        })
    }
}

/// Returns the branch's commit. A symbolic ref is refused: writing through it would move another branch.
pub(super) fn status_head(repository: &Repository, branch: &str) -> Result<Option<Oid>, PortError> {
    let Some(reference) = find_reference(repository, branch)? else { return Ok(None) };
    if reference.kind() != Some(ReferenceType::Direct) {
        return Err(PortError::lasting(
            format!("the status branch {branch} stands for another branch"),
            format!(
                "delete that symbolic ref (`git symbolic-ref -d {branch}`) or name another status branch"
            ),
            Mend::Person,
        ));
    }
    let commit = reference.peel_to_commit();
    commit
        .map(|commit| Some(commit.id()))
        .map_err(|error| failed(&format!("cannot read {branch}"), &error))
}

/// Writes trees and a commit; `None` where the files stand there already.
pub(super) fn prepare(
    repository: &Repository,
    old: Option<Oid>,
    folder: &[&str],
    report: &Report<'_>,
) -> Result<Option<Oid>, PortError> {
    let unwritten =
        |error: git2::Error| failed("cannot write a report into the object database", &error);
    let parent = old.map(|old| repository.find_commit(old)).transpose().map_err(unwritten)?;
    let base = parent.as_ref().map(git2::Commit::tree).transpose().map_err(unwritten)?;
    let mut paths = BTreeMap::new();
    for (path, bytes) in report.files {
        let id = repository.blob(bytes).map_err(unwritten)?;
        paths.insert(path.split('/').collect::<Vec<_>>(), id);
    }
    let files: Vec<(&[&str], Oid)> =
        paths.iter().map(|(path, id)| (path.as_slice(), *id)).collect();
    let files = write_files(repository, &files).map_err(unwritten)?;
    let root = graft(repository, base.as_ref(), folder, files).map_err(unwritten)?;
    let before = base.as_ref().map(git2::Tree::id);
    if before == Some(root) || (before.is_none() && report.files.is_empty()) {
        return Ok(None);
    }
    let tree = repository.find_tree(root).map_err(unwritten)?;
    let time = Time::new(SystemClock::start().now().as_second(), 0);
    let by = Signature::new(&report.author.name, &report.author.email, &time).map_err(unwritten)?;
    let parents: Vec<_> = parent.iter().collect();
    let commit = repository.commit(None, &by, &by, report.message, &tree, &parents);
    commit.map(Some).map_err(unwritten)
}

/// Writes a folder of exactly these files, given with their paths split; `None` where there are none.
fn write_files(
    repository: &Repository,
    files: &[(&[&str], Oid)],
) -> Result<Option<Oid>, git2::Error> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut builder = repository.treebuilder(None)?;
    let mut folders: BTreeMap<&str, Vec<(&[&str], Oid)>> = BTreeMap::new();
    for (path, id) in files {
        match path {
            [] => {}
            [name] => {
                builder.insert(*name, *id, FileMode::Blob.into())?;
            }
            [name, rest @ ..] => folders.entry(name).or_default().push((rest, *id)),
        }
    }
    for (name, files) in folders {
        if let Some(id) = write_files(repository, &files)? {
            builder.insert(name, id, FileMode::Tree.into())?;
        }
    }
    builder.write().map(Some)
}

/// Puts a folder in its place and leaves everything beside it as it is.
fn graft(
    repository: &Repository,
    base: Option<&git2::Tree<'_>>,
    path: &[&str],
    files: Option<Oid>,
) -> Result<Oid, git2::Error> {
    let mut builder = repository.treebuilder(base)?;
    if let [name, rest @ ..] = path {
        let inner = if rest.is_empty() {
            files
        } else {
            let below = base.and_then(|base| base.get_name(name));
            let below = below
                .filter(|entry| entry.kind() == Some(ObjectType::Tree))
                .map(|entry| repository.find_tree(entry.id()))
                .transpose()?;
            let id = graft(repository, below.as_ref(), rest, files)?;
            let holds_something = !repository.find_tree(id)?.is_empty();
            holds_something.then_some(id)
        };
        match inner {
            Some(id) => {
                builder.insert(*name, id, FileMode::Tree.into())?;
            }
            None if builder.get(*name)?.is_some() => builder.remove(*name)?,
            None => {}
        }
    }
    builder.write()
}

/// Moves the ref, under its lock, from exactly `old` to `new`; from nothing where `old` is `None`.
pub(super) fn advance(
    repository: &Repository,
    branch: &str,
    old: Option<Oid>,
    new: Oid,
) -> Result<(), git2::Error> {
    let expected = old.unwrap_or(Oid::ZERO_SHA1);
    repository.reference_matching(branch, new, true, expected, "ferry: report").map(|_| ())
}

fn is_race(error: &git2::Error) -> bool {
    matches!(error.code(), ErrorCode::Modified | ErrorCode::NotFound)
}

fn not_moved(branch: &str, error: &git2::Error) -> PortError {
    PortError::lasting(
        format!("cannot write {branch}: {}", error.message()),
        "check that ferry's user may write the repository, and that no branch has the name of a folder of it (`ferry` beside `ferry/status`)",
        Mend::Person,
    )
}

pub(super) fn folder(path: &str) -> Result<Vec<&str>, PortError> {
    let parts: Vec<_> = path.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || part.starts_with('.')) {
        return Err(PortError::lasting(
            format!("`{path}` cannot be the folder of a report"),
            "name the instance with letters, digits and `-`",
            Mend::Person,
        ));
    }
    Ok(parts)
}
