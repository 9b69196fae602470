//! A repository of plans on another machine. Ferry keeps a bare copy of its two branches below the state folder and reads
//! that; what changed there is fetched, what is reported is pushed.
//!
//! # Guarantees
//! - A look at a remote where nothing changed is one request. Looks that fail are repeated after pauses that grow, and what is
//!   asked meanwhile gets the same error at once.
//! - While the remote cannot be looked at, [`PlanRepo::head`] fails: the controller goes on with the last commit that it
//!   accepted, and powers nothing off (safety rule 11).
//! - The status branch is pushed from exactly the commit that the report was made on, never by force. Where somebody was
//!   faster, it is fetched and made again; where the answer was lost, the next fetch shows that the commit arrived.
//!
//! # Assumptions
//! The copy may be deleted at any time; it holds nothing that the remote or the journal does not. Old commits stay in it, so
//! that a rewound branch is told from one that went on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use git2::{Oid, Reference};
use jiff::SignedDuration;
use sha2::{Digest, Sha256};

use crate::adapter::clock::SystemClock;
use crate::adapter::git::failure::{Failure, Kind};
use crate::adapter::git::init::{self, Network};
use crate::adapter::git::publish::{self, Report, status_head};
use crate::adapter::git::wire::{Access, Sent, Wire};
use crate::adapter::git::{LocalRepo, RepoSettings, failed, reference_name};
use crate::adapter::url::RemoteUrl;
use crate::domain::id::CommitId;
use crate::port::{Ancestry, Clock, PlanRepo, PortError, Tree};

/// How soon a look that failed is repeated; each further failure doubles it.
const PAUSE_MIN: SignedDuration = SignedDuration::from_secs(5);
/// The same where a login or a proof of identity was refused, or a push: nobody mends that within seconds, and servers lock
/// accounts that try too often.
const PAUSE_DENIED: SignedDuration = SignedDuration::from_secs(60);
/// The longest pause, before the random quarter that keeps many controllers from coming back at once.
const PAUSE_MAX: SignedDuration = SignedDuration::from_mins(5);
/// How often a report is made again because somebody else was faster. Writers are few: one an instance.
const RACES_MAX: usize = 5;

/// A remote repository, as the settings name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where it is.
    pub url: RemoteUrl,
    /// How Ferry logs in.
    pub access: Access,
    /// The certificates that are trusted in place of the system's.
    pub authorities: Option<PathBuf>,
    /// How often it is looked at.
    pub poll_interval: SignedDuration,
    /// How long one look or one push may take.
    pub timeout: SignedDuration,
    /// The folder that copies are kept below.
    pub state_dir: PathBuf,
}

/// A repository on another machine.
#[derive(Debug)]
pub struct RemoteRepo {
    mirror: LocalRepo,
    link: Arc<Link>,
}

/// The way to the remote, and how it went the last time.
#[derive(Debug)]
struct Link {
    wire: Wire,
    watched: String,
    status: String,
    interval: SignedDuration,
    timeout: SignedDuration,
    clock: SystemClock,
    /// One look at a time.
    turn: Mutex<()>,
    looked: Mutex<Last>,
    pushed: Mutex<Last>,
}

/// How something went the last time.
#[derive(Clone, Debug, Default)]
struct Last {
    /// When, on the clock that nobody sets.
    at: Option<SignedDuration>,
    /// What went wrong, and until when nothing is tried.
    failed: Option<(PortError, SignedDuration)>,
    /// How often in a row.
    failures: u32,
}

impl RemoteRepo {
    /// Names the remote and opens its copy; the remote itself is not asked yet.
    pub fn open(remote: &Remote, settings: &RepoSettings) -> Result<Self, PortError> {
        let address = remote.url.to_string();
        let digest = hex::encode(Sha256::digest(address.as_bytes()));
        let folder = remote.state_dir.join("remotes").join(digest.get(..16).unwrap_or(&digest));
        Self::reached_at(address, remote, &folder, settings)
    }

    /// The same with any address that libgit2 takes.
    pub(super) fn reached_at(
        address: String,
        remote: &Remote,
        folder: &Path,
        settings: &RepoSettings,
    ) -> Result<Self, PortError> {
        let Remote { url: _, access, authorities, poll_interval, timeout, state_dir: _ } = remote;
        let watched = reference_name(&settings.branch)?;
        let status = reference_name(&settings.status_branch)?;
        let path = folder.join("copy.git");
        drop(init::mirror(&path, &watched)?);
        let mirror = LocalRepo::at(&path, settings)?;
        let network = Network {
            home: folder.join("home"),
            timeout: Duration::try_from(*timeout).unwrap_or(Duration::from_mins(1)),
        };
        let wire = Wire::new(address, access.clone(), authorities.clone(), path, network);
        let link = Link {
            wire,
            watched,
            status,
            interval: *poll_interval,
            timeout: *timeout,
            clock: SystemClock::start(),
            turn: Mutex::default(),
            looked: Mutex::default(),
            pushed: Mutex::default(),
        };
        Ok(Self { mirror, link: Arc::new(link) })
    }

    /// Looks at the remote again and again, from a thread of its own, and calls `look` when something changed.
    pub fn watch(&self, look: impl Fn() + Send + 'static) -> Result<Polling, std::io::Error> {
        let link = self.link.clone();
        let mirror = LocalRepo::same(&self.mirror).map_err(std::io::Error::other)?;
        let (stop, stopped) = channel();
        let poll = move || {
            let mut before = None;
            loop {
                let reached = link.look(link.interval).is_ok();
                let now = (reached, mirror.head().ok().flatten());
                if before.as_ref().is_some_and(|before| *before != now) {
                    look();
                }
                before = Some(now);
                let pause = Duration::try_from(link.due_in()).unwrap_or(Duration::from_secs(1));
                // An answer means that nobody wants to know any more.
                if stopped.recv_timeout(pause) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("git-poll".to_owned()).spawn(poll)?;
        Ok(Polling { _stop: stop })
    }

    /// Asks whether the status branch could be pushed, and pushes nothing. Whether a hook or a rule of the server stands against
    /// it shows with the first report only.
    pub fn may_push(&self) -> Result<(), PortError> {
        self.link.wire.ask_to_push(&self.link.status).map_err(|failure| failure.error)
    }

    /// Returns the status branch's commit.
    pub fn status_head(&self) -> Result<Option<CommitId>, PortError> {
        self.look()?;
        self.mirror.status_head()
    }

    fn look(&self) -> Result<(), PortError> {
        // The thread that watches looks in time; only where there is none this look is the first.
        self.link.look(self.link.interval.saturating_add(self.link.timeout))
    }

    /// Fetches a branch or a tag that a person named.
    fn fetch_named(&self, revision: &str) -> Result<(), PortError> {
        let name = revision.split(['~', '^', ':', '@']).next().unwrap_or(revision);
        let name = name.strip_prefix("refs/heads/").unwrap_or(name);
        let names = [format!("refs/heads/{name}"), format!("refs/tags/{name}")];
        let [branch, _] = &names;
        if [&self.link.watched, &self.link.status].contains(&branch)
            || name == "HEAD"
            || !names.iter().all(|name| Reference::is_valid_name(name))
        {
            return Ok(());
        }
        self.link.wire.fetch(&names).map_err(|failure| failure.error)
    }

    fn push_report(&self, report: &Report<'_>) -> Result<bool, Failure> {
        let link = &self.link;
        let deadline = link.clock.elapsed().saturating_add(link.timeout);
        let folder = publish::folder(report.folder).map_err(Failure::local)?;
        let mut tried = BTreeSet::new();
        let mut last = None;
        for _ in 0..RACES_MAX {
            let (old, new) = {
                let repository = self.mirror.lock();
                let old = status_head(&repository, &link.status).map_err(Failure::local)?;
                if old.is_some_and(|old| tried.contains(&old)) {
                    // Ours arrived, and only the answer was lost.
                    return Ok(true);
                }
                let new = publish::prepare(&repository, old, &folder, report);
                let Some(new) = new.map_err(Failure::local)? else { return Ok(!tried.is_empty()) };
                (old, new)
            };
            let failure = match link.wire.push(&link.status, old, new) {
                Ok(Sent::Accepted) => {
                    self.moved_to(new).map_err(Failure::local)?;
                    return Ok(true);
                }
                Ok(Sent::Stale) => None,
                Err(failure) if failure.kind == Kind::Local || failure.kind == Kind::Denied => {
                    return Err(failure);
                }
                Err(failure) => {
                    tried.insert(new);
                    Some(failure)
                }
            };
            // Whoever was faster, whatever became of the push: the branch itself tells.
            link.fetch()?;
            let present = status_head(&self.mirror.lock(), &link.status).map_err(Failure::local)?;
            if present == Some(new) {
                return Ok(true);
            }
            if link.clock.elapsed() >= deadline {
                return Err(failure.unwrap_or_else(|| self.outrun()));
            }
            if let Some(failure) = failure {
                if present == old && failure.kind == Kind::Rejected {
                    return Err(failure);
                }
                last = Some(failure);
            }
        }
        Err(last.unwrap_or_else(|| self.outrun()))
    }

    fn outrun(&self) -> Failure {
        let text = format!("{} was moved by others again and again", self.link.status);
        Failure {
            kind: Kind::Rejected,
            error: PortError::passing(text, "look who else writes it; it is tried again"),
        }
    }

    fn moved_to(&self, commit: Oid) -> Result<(), PortError> {
        let repository = self.mirror.lock();
        let moved = repository.reference(&self.link.status, commit, true, "ferry: report");
        moved.map(drop).map_err(|error| failed("cannot move the status branch of the copy", &error))
    }
}

impl Link {
    /// Looks at the remote, unless the last look is younger than `age` or its failure says to wait.
    fn look(&self, age: SignedDuration) -> Result<(), PortError> {
        if let Some(known) = self.known(age) {
            return known;
        }
        let _turn = lock(&self.turn);
        if let Some(known) = self.known(age) {
            return known;
        }
        self.fetch().map_err(|failure| failure.error)
    }

    /// Fetches both branches and remembers how it went.
    fn fetch(&self) -> Result<(), Failure> {
        let result = self.wire.fetch(&[self.watched.clone(), self.status.clone()]);
        note(&self.looked, self.clock.elapsed(), result.as_ref().err());
        result
    }

    fn known(&self, age: SignedDuration) -> Option<Result<(), PortError>> {
        let now = self.clock.elapsed();
        let last = lock(&self.looked);
        match (&last.failed, last.at) {
            (Some((error, until)), _) => (now < *until).then(|| Err(error.clone())),
            (None, Some(at)) => (now < at.saturating_add(age)).then_some(Ok(())),
            (None, None) => None,
        }
    }

    fn due_in(&self) -> SignedDuration {
        let last = lock(&self.looked);
        let due = match (&last.failed, last.at) {
            (Some((_, until)), _) => *until,
            (None, Some(at)) => at.saturating_add(self.interval),
            (None, None) => SignedDuration::ZERO,
        };
        due.saturating_sub(self.clock.elapsed()).max(SignedDuration::ZERO)
    }
}

/// Remembers how something went.
fn note(last: &Mutex<Last>, now: SignedDuration, failure: Option<&Failure>) {
    let mut last = lock(last);
    last.at = Some(now);
    last.failures = if failure.is_some() { last.failures.saturating_add(1) } else { 0 };
    let until = |failure: &Failure| {
        now.saturating_add(pause(failure.kind, last.failures, random_quarter()))
    };
    last.failed = failure.map(|failure| (failure.error.clone(), until(failure)));
}

/// Says how long to wait after so many failures in a row; `chance` is from 0 to 255.
fn pause(kind: Kind, failures: u32, chance: u8) -> SignedDuration {
    let begin = match kind {
        Kind::Unfinished | Kind::Local => PAUSE_MIN,
        Kind::Denied | Kind::Rejected => PAUSE_DENIED,
    };
    let doubled = begin.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(PAUSE_MAX);
    let more = doubled.saturating_mul(i32::from(chance)) / (4 * 255);
    doubled.saturating_add(more)
}

fn random_quarter() -> u8 {
    let mut byte = [0];
    // Without randomness the pauses are the shortest, which is no harm.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    byte[0]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is written in one step and never half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that looks at a remote; it ends soon after this is dropped.
#[derive(Debug)]
pub struct Polling {
    /// Its drop is the sign.
    _stop: Sender<()>,
}

impl PlanRepo for RemoteRepo {
    fn branch(&self) -> &str {
        self.mirror.branch()
    }

    fn head(&self) -> Result<Option<CommitId>, PortError> {
        self.look()?;
        self.mirror.head()
    }

    fn resolve(&self, revision: &str) -> Result<CommitId, PortError> {
        self.look()?;
        self.fetch_named(revision)?;
        self.mirror.resolve(revision)
    }

    fn tree(&self, commit: &CommitId) -> Result<Tree, PortError> {
        self.mirror.tree(commit)
    }

    fn blob(&self, blob: &str, limit: u64) -> Result<Vec<u8>, PortError> {
        self.mirror.blob(blob, limit)
    }

    fn ancestry(&self, older: &CommitId, newer: &CommitId) -> Result<Ancestry, PortError> {
        self.mirror.ancestry(older, newer)
    }

    fn distrust(&self, commit: &CommitId) -> Result<Option<String>, PortError> {
        self.mirror.distrust(commit)
    }

    fn report(&self, folder: &str) -> Result<BTreeMap<String, Vec<u8>>, PortError> {
        self.look()?;
        self.mirror.report(folder)
    }

    fn publish(
        &self,
        folder: &str,
        files: &BTreeMap<String, Vec<u8>>,
        message: &str,
    ) -> Result<bool, PortError> {
        let link = &self.link;
        // While the remote cannot be looked at, a push would only wait for its deadline once more.
        self.look()?;
        let now = link.clock.elapsed();
        if let Some((error, _)) =
            lock(&link.pushed).failed.as_ref().filter(|(_, until)| now < *until)
        {
            return Err(error.clone());
        }
        let author = self.mirror.author.clone();
        let result = self.push_report(&Report { folder, files, message, author: &author });
        note(&link.pushed, link.clock.elapsed(), result.as_ref().err());
        result.map_err(|failure| failure.error)
    }
}
