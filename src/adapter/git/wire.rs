//! One conversation with a remote repository: fetch some branches into Ferry's copy of it, or push one commit.
//!
//! # Guarantees
//! - A conversation ends for its caller at a deadline. Its thread, which libgit2 may keep for as long again, is told to stop, and
//!   there is no next one before it ended.
//! - A login is sent once in a conversation; a server that asks again is refused. It is read from its file each time.
//! - Redirects are not followed. Certificates and host keys are judged by OpenSSL and libssh2; nothing here makes a bad one good.
//! - A push moves the branch from exactly the commit that it was made on, or not at all, and only the server's own word for it
//!   counts as success.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use base64ct::{Base64, Base64Unpadded, Encoding};
use git2::{
    AutotagOption, CertificateCheckStatus, Cred, CredentialType, FetchOptions, Oid, PushOptions,
    RemoteCallbacks, RemoteRedirect, Repository,
};
use zeroize::Zeroizing;

use crate::adapter::git::failure::{Failure, Kind, Peer, judge};
use crate::adapter::git::https::{Link, Trouble};
use crate::adapter::git::init;
use crate::adapter::secret::Secret;
use crate::journal::record::Mend;
use crate::port::PortError;

/// How much one fetch may bring: plans are text, and a thousand of them are a few megabytes with all their history.
pub(super) const FETCH_MAX: u64 = 1 << 30;

/// How much of what a server says beside the protocol is kept.
const WORDS_MAX: usize = 4096;

/// How Ferry proves to a remote who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Not at all.
    Anonymous,
    /// By a name and a password or token, over HTTPS.
    Login {
        /// The name.
        username: String,
        /// The file of the password or token.
        secret: PathBuf,
    },
    /// By a key, over SSH.
    Key {
        /// The file of the private key.
        key: PathBuf,
        /// The file of the passphrase that opens it.
        passphrase: Option<PathBuf>,
        /// The file of the hosts' keys.
        known_hosts: PathBuf,
    },
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The branch is at the commit.
    Accepted,
    /// The branch had moved: nothing was sent.
    Stale,
}

/// A remote, and Ferry's copy of it.
#[derive(Debug)]
pub(super) struct Wire {
    talk: Talk,
    network: init::Network,
    /// A conversation that outlived its deadline.
    hanging: Mutex<Option<JoinHandle<()>>>,
}

/// What one conversation needs.
#[derive(Clone, Debug)]
struct Talk {
    address: String,
    peer: Peer,
    access: Access,
    mirror: PathBuf,
    home: PathBuf,
    authorities: Option<PathBuf>,
    timeout: Duration,
    /// How much one fetch may bring.
    bytes_max: u64,
}

impl Wire {
    /// Names a remote. `address` is what libgit2 is given.
    pub(super) fn new(
        address: String,
        access: Access,
        authorities: Option<PathBuf>,
        mirror: PathBuf,
        network: init::Network,
    ) -> Self {
        let known_hosts = match &access {
            Access::Key { known_hosts, .. } => Some(known_hosts.clone()),
            Access::Anonymous | Access::Login { .. } => None,
        };
        let login = match &access {
            Access::Anonymous => None,
            Access::Login { username, secret } => Some((username.clone(), secret.clone())),
            Access::Key { key, .. } => Some((String::new(), key.clone())),
        };
        let peer = Peer { shown: address.clone(), login, known_hosts };
        let (home, timeout) = (network.home.clone(), network.timeout);
        let talk = Talk {
            address,
            peer,
            access,
            mirror,
            home,
            authorities,
            timeout,
            bytes_max: FETCH_MAX,
        };
        Self { talk, network, hanging: Mutex::new(None) }
    }

    /// Makes refs of the copy what they are at the remote; those that it does not have go away. Where nothing changed this is
    /// one request.
    pub(super) fn fetch(&self, names: &[String]) -> Result<(), Failure> {
        let names = names.to_vec();
        self.within(move |talk, end| talk.fetch(&names, end))
    }

    /// Moves a branch of the remote from `old` (`None`: it does not exist) to `new`.
    pub(super) fn push(&self, branch: &str, old: Option<Oid>, new: Oid) -> Result<Sent, Failure> {
        let branch = branch.to_owned();
        self.within(move |talk, end| talk.push(&branch, old, new, end))
    }

    /// Asks whether a push would be heard, and pushes nothing.
    pub(super) fn ask_to_push(&self, branch: &str) -> Result<(), Failure> {
        let branch = branch.to_owned();
        self.within(move |talk, end| talk.ask_to_push(&branch, end))
    }

    /// Holds a conversation on a thread of its own and waits for its end, or for the deadline.
    fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Talk, &AtomicBool) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let timeout = self.network.timeout;
        init::network(&self.network);
        let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        if hanging.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Err(self.talk.peer.slow(timeout));
        }
        *hanging = None;
        let (talk, end) = (self.talk.clone(), Arc::new(AtomicBool::new(false)));
        let (answer, answered) = channel();
        let ended = end.clone();
        let thread = Builder::new().name("git-remote".to_owned()).spawn(move || {
            // Nobody listens any more after the deadline.
            let _ = answer.send(work(&talk, &ended));
        });
        let thread = thread.map_err(|error| {
            Failure::local(PortError::passing(
                format!("cannot start a thread: {error}"),
                "let ferry's user run more threads (`ulimit -u`)",
            ))
        })?;
        match answered.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                end.store(true, Ordering::Relaxed);
                *hanging = Some(thread);
                Err(self.talk.peer.slow(timeout))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.talk.peer.garbled()),
        }
    }
}

/// What was seen and heard in a conversation.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The server's SSH key, as `ssh-keygen -l` shows it.
    pub(super) host_key: RefCell<Option<String>>,
    /// The login was refused.
    pub(super) denied: Cell<bool>,
    /// What the server said beside the protocol.
    pub(super) words: RefCell<String>,
    /// It sends more than anybody can mean.
    pub(super) huge: Cell<bool>,
    /// The branch had moved.
    stale: Cell<bool>,
    /// What the server said of the branch, for good or not.
    verdict: RefCell<Option<Result<(), String>>>,
    /// A file of ours could not be read.
    unread: RefCell<Option<PortError>>,
}

impl Talk {
    fn fetch(&self, names: &[String], end: &AtomicBool) -> Result<(), Failure> {
        let heard = Heard::default();
        let repository = init::open(&self.mirror).map_err(Failure::local)?;
        let trouble = self.prepare()?;
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(self.callbacks(&heard, end))
            .download_tags(AutotagOption::None)
            .update_fetchhead(false)
            .follow_redirects(RemoteRedirect::None);
        let refspecs: Vec<String> = names.iter().map(|name| format!("+{name}:{name}")).collect();
        let talked = || -> Result<(), git2::Error> {
            let mut remote = repository.remote_anonymous(&self.address)?;
            remote.fetch(&refspecs, Some(&mut options), Some("ferry: fetch"))?;
            let there = remote.list()?;
            for name in names {
                if there.iter().all(|head| head.name() != name) {
                    forget(&repository, name)?;
                }
            }
            Ok(())
        };
        let mut talked = talked;
        talked().map_err(|error| self.failure(&error, &heard, &trouble))
    }

    fn push(
        &self,
        branch: &str,
        old: Option<Oid>,
        new: Oid,
        end: &AtomicBool,
    ) -> Result<Sent, Failure> {
        let heard = Heard::default();
        let result = self.send(branch, new, &heard, end, |present| {
            heard.stale.set(present != old.unwrap_or(Oid::ZERO_SHA1));
            if heard.stale.get() { Err(git2::Error::from_str("the branch moved")) } else { Ok(()) }
        });
        if heard.stale.get() {
            return Ok(Sent::Stale);
        }
        match heard.verdict.take() {
            Some(Err(words)) => Err(self.peer.rejected(branch, &words, &heard.words.borrow())),
            Some(Ok(())) => result.map(|()| Sent::Accepted),
            // What is not confirmed may have happened or not.
            None => Err(result.err().unwrap_or_else(|| self.peer.garbled())),
        }
    }

    fn ask_to_push(&self, branch: &str, end: &AtomicBool) -> Result<(), Failure> {
        let heard = Heard::default();
        let asked = Cell::new(false);
        let repository = init::open(&self.mirror).map_err(Failure::local)?;
        let something = repository.blob(b"").map_err(|error| judge(&error, &heard, &self.peer))?;
        let result = self.send(branch, something, &heard, end, |_| {
            asked.set(true);
            Err(git2::Error::from_str("it was only asked"))
        });
        if asked.get() { Ok(()) } else { result }
    }

    /// Connects, lets `lease` judge the branch's present commit, and sends.
    fn send(
        &self,
        branch: &str,
        new: Oid,
        heard: &Heard,
        end: &AtomicBool,
        lease: impl Fn(Oid) -> Result<(), git2::Error>,
    ) -> Result<(), Failure> {
        let repository = init::open(&self.mirror).map_err(Failure::local)?;
        let trouble = self.prepare()?;
        let mut callbacks = self.callbacks(heard, end);
        callbacks.push_negotiation(|updates| updates.iter().try_for_each(|one| lease(one.src())));
        callbacks.push_update_reference(|name, status| {
            if name == branch {
                *heard.verdict.borrow_mut() =
                    Some(status.map_or(Ok(()), |words| Err(words.to_owned())));
            }
            Ok(())
        });
        let mut options = PushOptions::new();
        options.remote_callbacks(callbacks).follow_redirects(RemoteRedirect::None);
        let result = repository
            .remote_anonymous(&self.address)
            .and_then(|mut remote| remote.push(&[format!("{new}:{branch}")], Some(&mut options)));
        drop(options);
        result.map_err(|error| self.failure(&error, heard, &trouble))
    }

    /// Reads what the login needs. A password is sent along with the first request: a request without it, only to be told that
    /// one is needed, would double what a look costs.
    fn prepare(&self) -> Result<Trouble, Failure> {
        let login = match &self.access {
            Access::Key { key, passphrase: _, known_hosts } => {
                self.know(key, known_hosts)?;
                return Ok(Trouble::default());
            }
            Access::Anonymous => None,
            Access::Login { username, secret } => {
                let secret = Secret::read(secret).map_err(Failure::local)?;
                let both = Zeroizing::new(format!("{username}:{}", secret.expose()));
                let encoded = Zeroizing::new(Base64::encode_string(both.as_bytes()));
                Some(Zeroizing::new(format!("Basic {}", *encoded)))
            }
        };
        let Self { address, peer, authorities, timeout, .. } = self;
        Ok(Link::new(address, login, authorities.as_deref(), peer, *timeout)?.take_over())
    }

    /// Looks whether the key is there, and takes the hosts over.
    fn know(&self, key: &Path, known_hosts: &Path) -> Result<(), Failure> {
        std::fs::File::open(key).map_err(|error| {
            Failure::local(PortError::lasting(
                format!("cannot read the SSH key {}: {error}", key.display()),
                "let `sshKeyFile` name a private key that ferry's user may read",
                Mend::Person,
            ))
        })?;
        self.know_hosts(known_hosts).map_err(|error| {
            Failure::local(PortError::lasting(
                format!("cannot take the hosts over from {}: {error}", known_hosts.display()),
                "let `knownHostsFile` name a file that ferry's user may read, and the state folder be one that it may write",
                Mend::Person,
            ))
        })
    }

    /// Copies the hosts' keys to the one place where libgit2 looks for them.
    fn know_hosts(&self, known_hosts: &Path) -> std::io::Result<()> {
        let folder = self.home.join(".ssh");
        let wanted = std::fs::read(known_hosts)?;
        let place = folder.join("known_hosts");
        if std::fs::read(&place).is_ok_and(|present| present == wanted) {
            return Ok(());
        }
        std::fs::create_dir_all(&folder)?;
        let draft = folder.join(format!("known_hosts.{}", std::process::id()));
        std::fs::write(&draft, wanted)?;
        std::fs::rename(draft, place)
    }

    fn callbacks<'a>(&'a self, heard: &'a Heard, end: &'a AtomicBool) -> RemoteCallbacks<'a> {
        let goes_on = || !end.load(Ordering::Relaxed);
        let mut callbacks = RemoteCallbacks::new();
        callbacks.transfer_progress(move |progress| {
            let received = u64::try_from(progress.received_bytes()).unwrap_or(u64::MAX);
            heard.huge.set(heard.huge.get() || received > self.bytes_max);
            goes_on() && !heard.huge.get()
        });
        callbacks.sideband_progress(move |bytes| {
            let mut words = heard.words.borrow_mut();
            if words.len() < WORDS_MAX {
                words.push_str(&String::from_utf8_lossy(bytes));
            }
            goes_on()
        });
        callbacks.certificate_check(|certificate, _| {
            if let Some(hash) = certificate.as_hostkey().and_then(|key| key.hash_sha256()) {
                let shown = format!("SHA256:{}", Base64Unpadded::encode_string(hash));
                *heard.host_key.borrow_mut() = Some(shown);
            }
            Ok(CertificateCheckStatus::CertificatePassthrough)
        });
        if let Access::Key { key, passphrase, .. } = &self.access {
            let asked = Cell::new(false);
            callbacks.credentials(move |_, user, allowed| {
                if asked.replace(true) || !allowed.contains(CredentialType::SSH_KEY) {
                    heard.denied.set(true);
                    return Err(git2::Error::from_str("the key was refused"));
                }
                let passphrase = passphrase.as_deref().map(Secret::read).transpose();
                let passphrase = passphrase.map_err(|error| {
                    *heard.unread.borrow_mut() = Some(error);
                    git2::Error::from_str("the passphrase cannot be read")
                })?;
                let passphrase = passphrase.as_ref().map(Secret::expose);
                Cred::ssh_key(user.unwrap_or("git"), None, key, passphrase)
            });
        }
        callbacks
    }

    fn failure(&self, error: &git2::Error, heard: &Heard, trouble: &Trouble) -> Failure {
        if let Some(failure) = trouble.take() {
            return failure;
        }
        if let Some(error) = heard.unread.take() {
            return Failure { kind: Kind::Denied, error };
        }
        judge(error, heard, &self.peer)
    }
}

/// Takes a ref of the copy away that the remote does not have.
fn forget(repository: &Repository, name: &str) -> Result<(), git2::Error> {
    match repository.find_reference(name) {
        Ok(mut reference) => reference.delete(),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Names how long a conversation may take, for people.
pub(super) fn seconds(timeout: Duration) -> String {
    format!("{} s", timeout.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_that_sends_without_end_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let remote = Repository::init_bare(path("remote.git")).unwrap();
        // Bytes that no packing makes smaller.
        let mut bytes = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let blob = remote.blob(&bytes).unwrap();
        let mut tree = remote.treebuilder(None).unwrap();
        tree.insert("disk", blob, 0o100_644).unwrap();
        let tree = remote.find_tree(tree.write().unwrap()).unwrap();
        let by = git2::Signature::new("P", "p@example.org", &git2::Time::new(0, 0)).unwrap();
        remote.commit(Some("refs/heads/main"), &by, &by, "m", &tree, &[]).unwrap();
        let mirror = path("copy.git");
        drop(init::mirror(&mirror, "refs/heads/main").unwrap());
        let network = init::Network { home: path("home"), timeout: Duration::from_mins(1) };
        let address = path("remote.git").display().to_string();
        let mut wire = Wire::new(address, Access::Anonymous, None, mirror.clone(), network);
        wire.talk.bytes_max = 1 << 16;
        let failure = wire.fetch(&["refs/heads/main".to_owned()]).unwrap_err();
        assert!(failure.error.fault.text.contains("sends more than 1.0 GiB"), "{failure:?}");
        wire.talk.bytes_max = FETCH_MAX;
        wire.fetch(&["refs/heads/main".to_owned()]).unwrap();
        let copy = Repository::open(&mirror).unwrap();
        assert!(copy.find_reference("refs/heads/main").is_ok());
    }
}
