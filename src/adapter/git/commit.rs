//! Commits one file of a work tree, and pushes that commit, for `ferry migrate`, `ferry cutover` and `ferry cancel`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use git2::{Repository, RepositoryState, Signature, Status, Time};

use crate::adapter::clock::SystemClock;
use crate::adapter::git::{Author, init};
use crate::domain::text::visible;
use crate::port::Clock;

/// Why a file cannot be committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The work tree is in the middle of something.
    #[error("a merge, rebase or the like is under way in {0}: finish it first")]
    Busy(PathBuf),
    /// HEAD names no branch.
    #[error("no branch is checked out in {0}: `git switch BRANCH` first")]
    Detached(PathBuf),
    /// The file holds other changes, which would be committed along.
    #[error("{0} has changes that are not committed yet: commit or undo them first")]
    Changed(PathBuf),
    /// Nobody said who commits.
    #[error(
        "git does not know who you are: `git config user.name NAME` and `git config user.email ADDRESS`"
    )]
    Nobody,
    /// There is no place to push to.
    #[error(
        "`{0}` follows no remote of a name, and there is no remote `origin`: `git remote add origin URL` first"
    )]
    NoRemote(String),
    /// The branch follows one of another name: a push there would pass a review by.
    #[error(
        "`{branch}` follows a branch of another name, and is pushed to its own only: `git push -u {remote} {branch}` first"
    )]
    OtherBranch {
        /// The checked-out branch.
        branch: String,
        /// The remote.
        remote: String,
    },
    /// Nobody knows what the remote has.
    #[error(
        "nothing is known of {remote}/{branch}: `git fetch {remote}`, or push the branch once by hand"
    )]
    Unfetched {
        /// The checked-out branch.
        branch: String,
        /// The remote.
        remote: String,
    },
    /// Other commits would be pushed along.
    #[error(
        "`{branch}` has commits that {remote} does not have ({count}): push or drop them first"
    )]
    Ahead {
        /// The checked-out branch.
        branch: String,
        /// The remote.
        remote: String,
        /// How many.
        count: usize,
    },
    /// git did not push.
    #[error(
        "committed, and not pushed to {to}: {said} … hint: `git pull --rebase`, then `git push`, if somebody was faster"
    )]
    Push {
        /// The branch of the remote.
        to: Upstream,
        /// What git said.
        said: String,
    },
    /// The branch moved meanwhile, or git could not be written.
    #[error("cannot commit {path}")]
    Git {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: git2::Error,
    },
}

/// A branch of a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    remote: String,
    branch: String,
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", visible(&self.remote), visible(&self.branch))
    }
}

/// A work tree in which one file can be committed.
pub struct WorkTree {
    repository: Repository,
    root: PathBuf,
}

impl std::fmt::Debug for WorkTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkTree").field("root", &self.root).finish_non_exhaustive()
    }
}

impl WorkTree {
    /// Opens the work tree; `None` for a bare repository.
    pub fn open(path: &Path) -> Result<Option<Self>, crate::port::PortError> {
        let repository = init::open(path)?;
        let root = repository.workdir().map(Path::to_owned);
        Ok(root.map(|root| Self { repository, root }))
    }

    /// Returns its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Checks, before the file (given relative to the root) is written, that a commit of it will hold that edit alone.
    /// Returns the checked-out branch.
    pub fn committable(&self, file: &Path) -> Result<String, CommitError> {
        if self.repository.state() != RepositoryState::Clean {
            return Err(CommitError::Busy(self.root.clone()));
        }
        let failed = |source| CommitError::Git { path: file.to_owned(), source };
        let head = self.repository.find_reference("HEAD").map_err(failed)?;
        let branch =
            head.symbolic_target().ok().flatten().and_then(|name| name.strip_prefix("refs/heads/"));
        let Some(branch) = branch else { return Err(CommitError::Detached(self.root.clone())) };
        match self.repository.status_file(file) {
            Ok(Status::CURRENT) => Ok(branch.to_owned()),
            Ok(_) => Err(CommitError::Changed(file.to_owned())),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(branch.to_owned()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Commits the file as it lies in the work tree on the checked-out branch; whatever else is staged stays staged.
    pub fn commit(&self, file: &Path, message: &str, by: &Author) -> Result<String, CommitError> {
        let failed = |source| CommitError::Git { path: file.to_owned(), source };
        let branch = self.committable_branch(file)?;
        let mut index = self.repository.index().map_err(failed)?;
        index.add_path(file).map_err(failed)?;
        let entry = index.get_path(file, 0).expect("the entry was added just now");
        let parent = match self.repository.find_reference(&branch) {
            Ok(reference) => Some(reference.peel_to_commit().map_err(failed)?),
            Err(error) if error.code() == git2::ErrorCode::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let base = if let Some(parent) = &parent {
            parent.tree().map_err(failed)?
        } else {
            let empty = self.repository.treebuilder(None).and_then(|tree| tree.write());
            empty.and_then(|id| self.repository.find_tree(id)).map_err(failed)?
        };
        let tree = git2::build::TreeUpdateBuilder::new()
            .upsert(file, entry.id, git2::FileMode::Blob)
            .create_updated(&self.repository, &base)
            .and_then(|id| self.repository.find_tree(id))
            .map_err(failed)?;
        let time = Time::new(SystemClock::start().now().as_second(), 0);
        let by = Signature::new(&by.name, &by.email, &time).map_err(failed)?;
        let parents: Vec<_> = parent.iter().collect();
        let id =
            self.repository.commit(None, &by, &by, message, &tree, &parents).map_err(failed)?;
        let expected = parent.as_ref().map_or(git2::Oid::ZERO_SHA1, git2::Commit::id);
        self.repository
            .reference_matching(&branch, id, true, expected, &format!("commit: {message}"))
            .map_err(failed)?;
        index.write().map_err(failed)?;
        Ok(id.to_string())
    }

    /// Checks, before anything is committed on a branch, that a push of it pushes that commit alone, and to the branch of the
    /// same name: its remote's branch, or before that exists the watched one, has everything that it holds.
    pub fn pushable(&self, branch: &str, watched: &str) -> Result<Upstream, CommitError> {
        let failed = |source| CommitError::Git { path: self.root.clone(), source };
        let text = |name: &str| self.repository.config().and_then(|all| all.get_string(name)).ok();
        let remote =
            text(&format!("branch.{branch}.remote")).unwrap_or_else(|| "origin".to_owned());
        if remote == "." || self.repository.find_remote(&remote).is_err() {
            return Err(CommitError::NoRemote(branch.to_owned()));
        }
        let to = Upstream { remote, branch: branch.to_owned() };
        let follows = text(&format!("branch.{branch}.merge"));
        if follows.is_some_and(|name| name != format!("refs/heads/{branch}")) {
            let Upstream { remote, branch } = to;
            return Err(CommitError::OtherBranch { branch, remote });
        }
        let commit = |name: String| self.repository.refname_to_id(&name);
        let there = commit(format!("refs/remotes/{}/{branch}", to.remote))
            .or_else(|_| commit(format!("refs/remotes/{}/{watched}", to.remote)));
        let Ok(there) = there else {
            let Upstream { remote, branch } = to;
            return Err(CommitError::Unfetched { branch, remote });
        };
        let here = commit(format!("refs/heads/{branch}")).map_err(failed)?;
        match self.repository.graph_ahead_behind(here, there).map_err(failed)? {
            (0, _) => Ok(to),
            (count, _) => {
                let branch = branch.to_owned();
                Err(CommitError::Ahead { branch, remote: to.remote, count })
            }
        }
    }

    /// Pushes a commit with the git of whoever is at the keyboard: their keys, their helpers, their proxies. Never by force.
    pub fn push(&self, commit: &str, to: &Upstream) -> Result<(), CommitError> {
        let refused = |said: String| CommitError::Push { to: to.clone(), said };
        #[expect(clippy::disallowed_methods, reason = "a person's logins are their git's matter")]
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.root).args(["push", "--quiet", "--end-of-options", &to.remote]);
        git.arg(format!("{commit}:refs/heads/{}", to.branch)).stdout(Stdio::null());
        let output = git.stderr(Stdio::piped()).output();
        let output = output.map_err(|error| refused(format!("cannot run git: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let tells =
            |line: &&str| !["", "hint:", "To"].contains(&line.split(' ').next().unwrap_or(""));
        let said: Vec<_> = said.lines().map(str::trim).filter(tells).map(visible).collect();
        Err(refused(said.join("; ")))
    }

    /// Tells who commits here: the repository's own configuration, else these files (a person's own), in their order.
    pub fn author(&self, configurations: &[PathBuf]) -> Result<Author, CommitError> {
        let own = self.repository.config().ok();
        let others = configurations.iter().filter_map(|path| git2::Config::open(path).ok());
        own.into_iter()
            .chain(others)
            .find_map(|configuration| {
                let name = configuration.get_string("user.name").ok()?;
                let email = configuration.get_string("user.email").ok()?;
                Some(Author { name, email })
            })
            .ok_or(CommitError::Nobody)
    }

    fn committable_branch(&self, file: &Path) -> Result<String, CommitError> {
        let failed = |source| CommitError::Git { path: file.to_owned(), source };
        let head = self.repository.find_reference("HEAD").map_err(failed)?;
        let branch = head.symbolic_target().map_err(failed)?;
        branch.map(str::to_owned).ok_or_else(|| CommitError::Detached(self.root.clone()))
    }
}
