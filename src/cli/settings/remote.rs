//! The repository of plans, wherever it is, and the credential that Ferry logs in with there. A credential is sent only to the
//! hosts that it is bound to (safety rule 23).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::{Refused, SettingsError, Sources, parse, raw};
use crate::adapter::git::Place;
use crate::adapter::git::remote::Remote;
use crate::adapter::git::wire::Access;
use crate::adapter::url::{RemoteUrl, Scheme};
use crate::adapter::vsphere::{Credential, Means};

/// The name that a token is sent with where none is set; servers look at the token only.
const TOKEN_USER: &str = "git";

/// Where the repository is, as it is written.
pub(super) enum Named {
    Folder(PathBuf),
    Url(RemoteUrl),
}

/// Reads where the repository is. A URL that holds a secret is refused without a part of it.
pub(super) fn repository(text: &str, base: &Path) -> Result<Named, Refused> {
    if let Some(rest) = text.strip_prefix("file://") {
        if !rest.starts_with('/') || rest.contains('%') {
            return Err(Refused {
                text: format!("cannot read the URL `{text}`"),
                hint: Some("write `file:///FOLDER`, or the folder alone".to_owned()),
            });
        }
        return parse::path(rest, base).map(Named::Folder);
    }
    match RemoteUrl::parse(text) {
        None => parse::path(text, base).map(Named::Folder),
        Some(Ok(url)) => Ok(Named::Url(url)),
        Some(Err(error)) => Err(Refused { text: error.to_string(), hint: Some(error.hint()) }),
    }
}

impl Sources<'_> {
    /// Resolves the repository with everything that a remote one needs.
    pub(super) fn repository(
        &mut self,
        flag: Option<(&'static str, String)>,
        file: &raw::File,
        state_dir: &Path,
    ) -> Result<Option<Place>, SettingsError> {
        let text = |value: &Option<raw::Text>| value.as_ref().map(|text| text.0.clone());
        let raw::Repository { url, poll_interval, timeout, credentials, .. } = &file.repository;
        let named = self.maybe("repository.url", flag, text(url), repository)?;
        let value = text(poll_interval);
        let interval = self.take("repository.pollInterval", None, value, "60s", parse::duration)?;
        let value = text(timeout);
        let timeout = self.take("repository.timeout", None, value, "60s", parse::duration)?;
        let plain = |text: &str, _: &Path| Ok::<_, Refused>(text.to_owned());
        let name = self.maybe("repository.credentials", None, text(credentials), plain)?;
        let url = match named {
            None => return Ok(None),
            Some(Named::Folder(folder)) => return Ok(Some(Place::Folder(folder))),
            Some(Named::Url(url)) => url,
        };
        let (access, authorities) = self.access(&url, name.as_deref(), file)?;
        Ok(Some(Place::Remote(Box::new(Remote {
            url,
            access,
            authorities,
            poll_interval: interval.max(SignedDuration::from_secs(1)),
            timeout: timeout.max(SignedDuration::from_secs(1)),
            state_dir: state_dir.to_owned(),
        }))))
    }

    /// Finds the credential for a URL.
    fn access(
        &self,
        url: &RemoteUrl,
        name: Option<&str>,
        file: &raw::File,
    ) -> Result<(Access, Option<PathBuf>), SettingsError> {
        let place = self.loaded.path.as_ref();
        let refused = |key: &str, text: String, hint: String| {
            let line = self.loaded.lines.get(key).copied().unwrap_or(1);
            let place =
                place.map_or("settings".to_owned(), |path| format!("{}:{line}", path.display()));
            SettingsError { place, text, hint: Some(hint) }
        };
        let Some(name) = name else {
            return match url.scheme {
                Scheme::Https => Ok((Access::Anonymous, None)),
                Scheme::Ssh => Err(refused(
                    "repository.url",
                    format!("{url} needs a key, and no credential is named"),
                    format!(
                        "add `repository: {{ credentials: git }}` and `credentials: {{ git: {{ hosts: [{}], sshKeyFile: /run/secrets/git, knownHostsFile: /etc/ferry/known_hosts }} }}`",
                        url.host
                    ),
                )),
            };
        };
        let Some(credential) = file.credentials.get(name) else {
            return Err(refused(
                "repository.credentials",
                format!("there is no credential `{name}`"),
                format!("add `credentials: {{ {name}: {{ hosts: [{}], … }} }}`", url.host),
            ));
        };
        let bound = credential.hosts.iter().any(|host| url.is_at(host));
        let key = format!("credentials.{name}");
        if !bound {
            return Err(refused(
                &key,
                format!(
                    "the credential `{name}` is not bound to the host {}, so it is not sent there",
                    url.host
                ),
                format!("add `{}` to `{key}.hosts` if it may be", url.host),
            ));
        }
        let base = place.and_then(|path| path.parent()).unwrap_or(self.surroundings.current);
        let access = match url.scheme {
            Scheme::Https => login(credential, base),
            Scheme::Ssh => ssh_key(credential, base, &url.host),
        };
        let access = access.map_err(|Refused { text, hint }| {
            refused(&key, format!("the credential `{name}` {text}"), hint.unwrap_or_default())
        })?;
        Ok((access, credential.ca_file.as_ref().map(|path| base.join(path))))
    }

    /// Resolves what servers of vSphere are reached with: every credential with a name and a password.
    pub(super) fn vsphere(&mut self, file: &raw::File) -> Result<Means, SettingsError> {
        let value = file.vddk.lib_dir.as_ref().map(|text| text.0.clone());
        let library = self.maybe("vddk.libDir", None, value, parse::path)?;
        let place = self.loaded.path.as_ref();
        let base = place.and_then(|path| path.parent()).unwrap_or(self.surroundings.current);
        let mut credentials = BTreeMap::new();
        for (name, credential) in &file.credentials {
            let raw::Credential { hosts, username, password_file, provider_tls, .. } = credential;
            let (Some(username), Some(file)) = (username, password_file) else { continue };
            let password_file = base.join(file).to_string_lossy().into_owned();
            let provider_tls = provider_tls.iter().map(|field| field.name().to_owned()).collect();
            let server = Credential {
                hosts: hosts.clone(),
                username: username.clone(),
                password_file,
                provider_tls,
            };
            credentials.insert(name.clone(), server);
        }
        let library = library.map(|path| path.to_string_lossy().into_owned());
        Ok(Means { credentials, library })
    }

    /// Resolves who must have signed what is followed.
    pub(super) fn signers(
        &mut self,
        verify: &raw::Verify,
    ) -> Result<Option<PathBuf>, SettingsError> {
        let raw::Verify { mode, allowed_signers } = verify;
        let text = |value: &Option<raw::Text>| value.as_ref().map(|text| text.0.clone());
        let known = |text: &str, _: &Path| match text {
            "off" => Ok(false),
            "signed" => Ok(true),
            _ => Err(Refused {
                text: format!("`{text}` is no mode"),
                hint: Some("write `off` or `signed`".to_owned()),
            }),
        };
        let signed = self.take("repository.verify.mode", None, text(mode), "off", known)?;
        let file = text(allowed_signers);
        let file = self.maybe("repository.verify.allowedSigners", None, file, parse::path)?;
        match (signed, file) {
            (false, _) => Ok(None),
            (true, Some(file)) => Ok(Some(file)),
            (true, None) => Err(SettingsError {
                place: self.loaded.path.as_ref().map_or("settings".to_owned(), |p| p.display().to_string()),
                text: "`repository.verify.mode` is `signed`, and nobody is named who may sign".to_owned(),
                hint: Some("let `repository.verify.allowedSigners` name a file as ssh-keygen(1) describes it".to_owned()),
            }),
        }
    }
}

/// Says how to log in over HTTPS.
fn login(credential: &raw::Credential, base: &Path) -> Result<Access, Refused> {
    let raw::Credential { username, password_file, token_file, .. } = credential;
    let refused =
        |text: &str, hint: &str| Refused { text: text.to_owned(), hint: Some(hint.to_owned()) };
    let (username, secret) = match (username, password_file, token_file) {
        (_, None, None) => return Ok(Access::Anonymous),
        (Some(username), Some(file), None) => (username.as_str(), file),
        (None, Some(_), None) => {
            return Err(refused(
                "has a password and no `username`",
                "add `username`, or let `tokenFile` name a token",
            ));
        }
        (username, None, Some(file)) => (username.as_deref().unwrap_or(TOKEN_USER), file),
        (_, Some(_), Some(_)) => {
            return Err(refused("has a `passwordFile` and a `tokenFile`", "leave one of them"));
        }
    };
    Ok(Access::Login { username: username.to_owned(), secret: base.join(secret) })
}

/// Says how to log in over SSH. Without the hosts' keys whoever answers would be believed.
fn ssh_key(credential: &raw::Credential, base: &Path, host: &str) -> Result<Access, Refused> {
    let raw::Credential { ssh_key_file, passphrase_file, known_hosts_file, .. } = credential;
    let Some(key) = ssh_key_file else {
        return Err(Refused {
            text: "has no `sshKeyFile`".to_owned(),
            hint: Some("let `sshKeyFile` name a private key".to_owned()),
        });
    };
    let Some(known_hosts) = known_hosts_file else {
        return Err(Refused {
            text: "has no `knownHostsFile`, without which nobody can tell who answers".to_owned(),
            hint: Some(format!(
                "`ssh-keyscan {host}` prints lines for it; compare them with what the server's people say"
            )),
        });
    };
    Ok(Access::Key {
        key: base.join(key),
        passphrase: passphrase_file.as_ref().map(|path| base.join(path)),
        known_hosts: base.join(known_hosts),
    })
}
