//! Why the certificate of a server is not believed, made out of what OpenSSL says, which tells it in its text only.

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distrust {
    Expired,
    Early,
    OtherName,
    Unsigned,
}

impl Distrust {
    /// Finds it in an error; `None` where something else went wrong.
    pub(super) fn of(said: &str) -> Option<Self> {
        if said.contains("has expired") {
            Some(Self::Expired)
        } else if said.contains("not yet valid") {
            Some(Self::Early)
        } else if said.contains("ostname mismatch") || said.contains("address mismatch") {
            Some(Self::OtherName)
        } else if said.contains("certificate verify failed") {
            Some(Self::Unsigned)
        } else {
            None
        }
    }

    /// Puts it into words for a server: what is wrong, and what to do. `url` is where its address is written, `trust` what makes
    /// its signer count.
    pub(super) fn told(self, server: &str, url: &str, trust: &str) -> (String, String) {
        match self {
            Self::Expired => (
                format!("the certificate of {server} expired"),
                "renew it on the server".to_owned(),
            ),
            Self::Early => (
                format!("the certificate of {server} does not count yet"),
                "set the clock of this machine, or of the one that made the certificate".to_owned(),
            ),
            Self::OtherName => (
                format!("the certificate of {server} is made out to another name"),
                format!("name the host in `{url}` as its certificate does"),
            ),
            Self::Unsigned => (
                format!("nobody whom this machine trusts signed the certificate of {server}"),
                trust.to_owned(),
            ),
        }
    }
}
