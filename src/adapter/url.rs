//! Where a remote repository or a server is. URLs are taken apart here, once, and put together again: what reaches libgit2 and what a
//! person reads is made from the parts, never from the text.

use std::fmt;

/// How a remote is spoken to. Both are encrypted and prove who answers; what is not (`http`, `git`) is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Git's smart protocol over HTTPS.
    Https,
    /// Git's protocol over SSH.
    Ssh,
}

/// The URL of a remote repository or a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUrl {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Who logs in, over SSH only.
    pub user: Option<String>,
    /// The host, in lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The port, where it is not the usual one.
    pub port: Option<u16>,
    /// The path, with the slash that it begins with.
    pub path: String,
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, user, host: _, port: _, path } = self;
        f.write_str(match scheme {
            Scheme::Https => "https://",
            Scheme::Ssh => "ssh://",
        })?;
        if let Some(user) = user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}{path}", self.authority())
    }
}

/// Why a text is no URL that Ferry takes. It never holds a part of the text that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A password or token stands in it.
    #[error("the URL holds a user name or password, which would reach logs and process lists")]
    Secret,
    /// It names another scheme.
    #[error("`{0}://` proves nobody's identity, or is none that Ferry speaks")]
    Scheme(String),
    /// The short form of SSH.
    #[error("`{0}` is the short form of SSH, which Ferry does not read")]
    Short(String, String),
    /// Something is missing or odd.
    #[error("the URL's {0}")]
    Malformed(&'static str),
}

impl UrlError {
    /// Says what to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Secret => "write the URL without it; `credentials.NAME` in ferry.yaml takes a `passwordFile` or `tokenFile`".to_owned(),
            Self::Scheme(_) => "use `https://HOST/PATH` or `ssh://git@HOST/PATH`".to_owned(),
            Self::Short(_, long) => format!("write `{long}`"),
            Self::Malformed(_) => {
                "write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`".to_owned()
            }
        }
    }
}

impl RemoteUrl {
    /// Takes a URL apart; `None` where the text names a folder, as git reads it.
    pub fn parse(text: &str) -> Option<Result<Self, UrlError>> {
        if let Some((scheme, rest)) = text.split_once("://") {
            return Some(Self::parts(scheme, rest));
        }
        // `git@host:path` is a remote, `./a:b` is a folder.
        let (before, path) = text.split_once(':')?;
        if before.contains('/') {
            return None;
        }
        let long = format!("ssh://{before}/{}", path.trim_start_matches('/'));
        // `user:secret@host:path` is a wrong URL that somebody may write, too.
        let safe = !path.contains('@') && Self::parse(&long).is_some_and(|parsed| parsed.is_ok());
        Some(Err(if safe { UrlError::Short(text.to_owned(), long) } else { UrlError::Secret }))
    }

    fn parts(scheme: &str, rest: &str) -> Result<Self, UrlError> {
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(UrlError::Secret);
        }
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            // A name alone is how tokens are often given: who can tell them apart?
            "https" if user.is_some() => return Err(UrlError::Secret),
            "https" => Scheme::Https,
            "ssh" => Scheme::Ssh,
            _ if user.is_some() => return Err(UrlError::Secret),
            _ if scheme
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter)) =>
            {
                return Err(UrlError::Scheme(scheme.to_owned()));
            }
            _ => return Err(UrlError::Malformed("scheme is none")),
        };
        if user.is_some_and(|user| {
            user.is_empty() || user.starts_with('-') || !user.chars().all(is_plain)
        }) {
            return Err(UrlError::Malformed("user name holds something odd"));
        }
        let (host, port) = host_and_port(place)?;
        if path.trim_matches('/').is_empty() {
            return Err(UrlError::Malformed("path is missing"));
        }
        if path.contains(['?', '#'])
            || path.chars().any(|letter| letter.is_control() || letter == ' ')
        {
            return Err(UrlError::Malformed("path holds `?`, `#`, a blank or a control character"));
        }
        let (user, path) = (user.map(str::to_owned), path.to_owned());
        Ok(Self { scheme, user, host, port, path })
    }

    /// Returns the host with its port, where that is not the usual one.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Tells whether a credential's entry names this host: `host` for each of its ports, `host:port` for one of them.
    pub fn is_at(&self, bound: &str) -> bool {
        bound.eq_ignore_ascii_case(&self.host) || bound.eq_ignore_ascii_case(&self.authority())
    }
}

fn host_and_port(place: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) =
                rest.split_once(']').ok_or(UrlError::Malformed("host lacks its `]`"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(UrlError::Malformed("host is no IPv6 address"));
            }
            (host, port.strip_prefix(':'))
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let odd = |letter: char| !(letter.is_ascii_alphanumeric() || ".-:".contains(letter));
    if host.is_empty() || host.starts_with('-') || host.chars().any(odd) {
        return Err(UrlError::Malformed("host is missing or holds something odd"));
    }
    let port = port.map(|port| match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(UrlError::Malformed("port is no number from 1 to 65535")),
    });
    Ok((host.to_ascii_lowercase(), port.transpose()?))
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "._-".contains(letter)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(texts: &[&str], expected: Expect) {
        let shown: String = texts
            .iter()
            .map(|text| match RemoteUrl::parse(text) {
                None => format!("{text}: a folder\n"),
                Some(Ok(url)) => {
                    assert_eq!(RemoteUrl::parse(&url.to_string()), Some(Ok(url.clone())));
                    format!("{text}: {url} at {}\n", url.authority())
                }
                Some(Err(error)) => format!("{error} … hint: {}\n", error.hint()),
            })
            .collect();
        expected.assert_eq(&shown);
    }

    #[test]
    fn urls_are_taken_apart() {
        check(
            &[
                "https://Git.Example.org/team/vms.git",
                "https://git.example.org:8443/vms",
                "ssh://git@git.example.org/vms.git",
                "ssh://git.example.org:2222/srv/vms.git",
                "ssh://git@[::1]:22/vms.git",
                "/srv/vms.git",
                "./a:b",
                "vms",
            ],
            expect![[r"
                https://Git.Example.org/team/vms.git: https://git.example.org/team/vms.git at git.example.org
                https://git.example.org:8443/vms: https://git.example.org:8443/vms at git.example.org:8443
                ssh://git@git.example.org/vms.git: ssh://git@git.example.org/vms.git at git.example.org
                ssh://git.example.org:2222/srv/vms.git: ssh://git.example.org:2222/srv/vms.git at git.example.org:2222
                ssh://git@[::1]:22/vms.git: ssh://git@[::1]:22/vms.git at [::1]:22
                /srv/vms.git: a folder
                ./a:b: a folder
                vms: a folder
            "]],
        );
    }

    #[test]
    fn what_is_refused_says_what_to_write() {
        check(
            &[
                "http://git.example.org/vms.git",
                "git://git.example.org/vms.git",
                "git@git.example.org:team/vms.git",
                "https://git.example.org",
                "https:///vms.git",
                "https://git.example.org:0/vms.git",
                "https://git.example.org/vms.git?token=canary",
                "ssh://-oProxyCommand=x/vms.git",
                "ssh://-l@git.example.org/vms.git",
                "ssh://git@[zz]/vms.git",
            ],
            expect![[r"
                `http://` proves nobody's identity, or is none that Ferry speaks … hint: use `https://HOST/PATH` or `ssh://git@HOST/PATH`
                `git://` proves nobody's identity, or is none that Ferry speaks … hint: use `https://HOST/PATH` or `ssh://git@HOST/PATH`
                `git@git.example.org:team/vms.git` is the short form of SSH, which Ferry does not read … hint: write `ssh://git@git.example.org/team/vms.git`
                the URL's path is missing … hint: write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`
                the URL's host is missing or holds something odd … hint: write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`
                the URL's port is no number from 1 to 65535 … hint: write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`
                the URL's path holds `?`, `#`, a blank or a control character … hint: write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`
                the URL's host is missing or holds something odd … hint: write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`
                the URL's user name holds something odd … hint: write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`
                the URL's host is no IPv6 address … hint: write it as `https://HOST/PATH` or `ssh://git@HOST/PATH`
            "]],
        );
    }

    #[test]
    fn a_secret_in_a_url_is_refused_without_being_printed() {
        for text in [
            "https://canary@git.example.org/vms.git",
            "https://user:canary@git.example.org/vms.git",
            "ssh://git:canary@git.example.org/vms.git",
            "http://user:canary@git.example.org/vms.git",
            "ftp://canary@git.example.org/vms.git",
            "user:canary@git.example.org:vms.git",
        ] {
            let error = RemoteUrl::parse(text).unwrap().unwrap_err();
            assert_eq!(error, UrlError::Secret, "{text}");
            assert!(!format!("{error} {}", error.hint()).contains("canary"), "{text}");
        }
    }

    #[test]
    fn a_credential_is_bound_to_a_host_or_to_one_of_its_ports() {
        let url = RemoteUrl::parse("https://git.example.org:8443/vms.git").unwrap().unwrap();
        assert!(url.is_at("git.example.org") && url.is_at("GIT.example.org:8443"));
        for other in ["example.org", "git.example.org:443", "git.example.org.evil.org", ""] {
            assert!(!url.is_at(other), "{other}");
        }
    }
}
