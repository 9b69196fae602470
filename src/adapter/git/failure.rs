//! Why a conversation with a remote failed, in the words of a person who has to mend it.

use std::path::PathBuf;
use std::time::Duration;

use git2::ErrorCode;

use crate::adapter::distrust::Distrust;
use crate::adapter::git::wire::{FETCH_MAX, Heard, seconds};
use crate::domain::text::visible;
use crate::domain::unit::Bytes;
use crate::journal::record::Mend;
use crate::port::PortError;

/// What is known after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The conversation did not come to its end: what it was about may have happened or not.
    Unfinished,
    /// The login, or one side's proof of who it is, was refused. It is not tried again soon: accounts are locked that way.
    Denied,
    /// The server understood and said no.
    Rejected,
    /// A file or folder of ours is in the way.
    Local,
}

/// A failure.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What is known.
    pub(super) kind: Kind,
    /// What a person reads.
    pub(super) error: PortError,
}

impl Failure {
    /// Wraps an error of this machine.
    pub(super) fn local(error: PortError) -> Self {
        Self { kind: Kind::Local, error }
    }

    fn passing(kind: Kind, text: String, remedy: impl Into<String>) -> Self {
        Self { kind, error: PortError::passing(text, remedy) }
    }
}

/// Whom one speaks to, for people.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The URL; it holds no secret.
    pub(super) shown: String,
    /// The name that one logs in with (none for a key), and the file of the password or key.
    pub(super) login: Option<(String, PathBuf)>,
    /// The file of the hosts' keys.
    pub(super) known_hosts: Option<PathBuf>,
}

impl Peer {
    /// The deadline passed.
    pub(super) fn slow(&self, timeout: Duration) -> Failure {
        Failure::passing(
            Kind::Unfinished,
            format!("{} did not come to an end within {}", self.shown, seconds(timeout)),
            "look whether the server answers; raise `repository.timeout` where its first fetch takes longer",
        )
    }

    /// What was answered makes no sense.
    pub(super) fn garbled(&self) -> Failure {
        Failure::passing(
            Kind::Unfinished,
            format!("{} gave an answer that makes no sense", self.shown),
            "look whether it is a git repository that other programs can read",
        )
    }

    /// The server said no to a branch.
    pub(super) fn rejected(&self, branch: &str, status: &str, words: &str) -> Failure {
        let words = words.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        let words: Vec<_> = words.map(visible).collect();
        let words = if words.is_empty() {
            String::new()
        } else {
            format!(", and said: {}", words.join(" · "))
        };
        Failure {
            kind: Kind::Rejected,
            error: PortError::lasting(
                format!("{} refused {branch}: {}{words}", self.shown, visible(status)),
                "let ferry's account push that branch: hooks and branch protection must let it pass",
                Mend::Person,
            ),
        }
    }

    /// The login was refused.
    pub(super) fn denied(&self) -> Failure {
        let shown = &self.shown;
        let (text, remedy) = match &self.login {
            None => (
                format!("{shown} asks for a login, and none is set"),
                "name a credential in `repository.credentials` whose `hosts` list this host".to_owned(),
            ),
            Some((name, file)) if name.is_empty() => (
                format!("{shown} refused the SSH key {}", file.display()),
                "give the server the public key as a deploy key that may write; check the passphrase, if it has one".to_owned(),
            ),
            Some((name, file)) => (
                format!("{shown} refused the login of `{name}` with the secret in {}", file.display()),
                "write a valid password or token into that file; it is read again each time".to_owned(),
            ),
        };
        Failure { kind: Kind::Denied, error: PortError::passing(text, remedy) }
    }

    /// The conversation broke off, or never began.
    pub(super) fn away(&self, why: &str) -> Failure {
        Failure::passing(
            Kind::Unfinished,
            format!("{} cannot be reached: {why}", self.shown),
            "check the network, the name and the port; `ferry doctor` tries again",
        )
    }

    /// Puts an error of the HTTP client into words.
    pub(super) fn unreached(&self, error: &ureq::Error, timeout: Duration) -> Failure {
        match error {
            ureq::Error::Timeout(_) => self.slow(timeout),
            ureq::Error::HostNotFound => self.away("nobody knows that name"),
            // OpenSSL says why it does not believe the server, in parentheses.
            ureq::Error::NativeTls(error) => self.untrusted(&error.to_string()),
            error => self.away(&visible(&error.to_string())),
        }
    }

    fn untrusted(&self, said: &str) -> Failure {
        let Some(distrust) = Distrust::of(said) else { return self.away(&visible(said)) };
        let trust =
            "let `caFile` of the credential name the certificates of the authority that did";
        let (text, remedy) = distrust.told(&self.shown, "repository.url", trust);
        Failure::passing(Kind::Denied, text, remedy)
    }

    /// The SSH key of the host is not a known one.
    fn unknown_host(&self, heard: &Heard) -> Failure {
        let file = self.known_hosts.clone().unwrap_or_default();
        let key = heard.host_key.borrow();
        let key = key.as_ref().map(|key| format!(" ({key})")).unwrap_or_default();
        Failure::passing(
            Kind::Denied,
            format!(
                "the SSH key of {}{key} is not one that {} names for this host",
                self.shown,
                file.display()
            ),
            "compare it with what the server's administrator says; only if it is right, add the line that `ssh-keyscan` prints",
        )
    }

    /// The server sends elsewhere.
    pub(super) fn redirects(&self, location: &str) -> Failure {
        Failure::passing(
            Kind::Denied,
            format!("{} redirects to {}, which is not followed", self.shown, visible(location)),
            "name the new place in `repository.url`, if it is the right one, and bind the credential to its host",
        )
    }

    /// What answers is no git server.
    pub(super) fn no_git(&self) -> Failure {
        Failure::passing(
            Kind::Denied,
            format!("{} answers, and not as a git server does", self.shown),
            "check `repository.url`: it is the one that `git clone` takes",
        )
    }

    /// The server says no with a status code of HTTP.
    pub(super) fn answered(&self, status: u16) -> Failure {
        let shown = &self.shown;
        let (kind, text, remedy) = match status {
            403 => (
                Kind::Denied,
                format!("{shown} does not let this account do that (HTTP 403)"),
                "give the account of the credential the right to read the repository and to push the status branch",
            ),
            404 => (
                Kind::Denied,
                format!(
                    "there is no repository at {shown}, or this account may not see it (HTTP 404)"
                ),
                "check `repository.url`, and that the account of the credential may read it",
            ),
            _ => (
                Kind::Unfinished,
                format!("{shown} cannot answer (HTTP {status})"),
                "look at the server's log",
            ),
        };
        Failure::passing(kind, text, remedy)
    }
}

/// Puts an error of libgit2 into words.
pub(super) fn judge(error: &git2::Error, heard: &Heard, peer: &Peer) -> Failure {
    let shown = &peer.shown;
    let said = visible(error.message());
    if error.code() == ErrorCode::Certificate {
        return peer.unknown_host(heard);
    }
    if error.code() == ErrorCode::Auth || heard.denied.get() {
        return peer.denied();
    }
    if heard.huge.get() {
        return Failure::passing(
            Kind::Rejected,
            format!(
                "{shown} sends more than {}, which is no repository of plans",
                Bytes(FETCH_MAX)
            ),
            "keep disks and archives out of it; a clone that was made by hand may be larger: `repository: { url: DIR }`",
        );
    }
    let words = heard.words.borrow();
    if words.is_empty() {
        return peer.away(&said);
    }
    Failure::passing(
        Kind::Unfinished,
        format!("{shown} broke off: {said}; it said: {}", visible(words.trim())),
        "look at the server's log",
    )
}
