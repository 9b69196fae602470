//! libgit2's global options, set once: the search paths before the first repository is opened, those of the network before
//! the first connection.
//!
//! The search paths of the system's and the user's configuration are emptied: an `insteadOf` or a `safe.directory` of
//! somebody's `~/.gitconfig` must not decide which repository Ferry trusts. The home folder is one of Ferry's own, since
//! libgit2 knows SSH hosts by `.ssh/known_hosts` below it and by nothing else.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use git2::{ConfigLevel, ErrorCode, Repository, RepositoryInitOptions};

use crate::journal::record::Mend;
use crate::port::PortError;

static PREPARED: Once = Once::new();

/// Sets the options. Everything in Ferry that uses git2 calls this first; later calls do nothing.
pub fn prepare() {
    PREPARED.call_once(|| {
        let levels =
            [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData];
        for level in levels {
            empty(level);
        }
    });
}

#[expect(unsafe_code, reason = "libgit2 keeps its search paths in global variables")]
fn empty(level: ConfigLevel) {
    // SAFETY: the call must not run beside another one that reads or writes libgit2's global options. It runs within
    // `Once::call_once`, which lets all other callers of `prepare` wait until it returned, and every use of git2 in this
    // program comes after a call of `prepare`.
    unsafe { git2::opts::set_search_path(level, "") }
        .expect("the level exists and an empty path is valid");
}

/// What every connection of this process keeps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    /// The folder whose `.ssh/known_hosts` tells which SSH hosts are known.
    pub(super) home: PathBuf,
    /// How long a server may take to answer, each time.
    pub(super) timeout: Duration,
}

static NETWORK: Mutex<Option<Network>> = Mutex::new(None);

/// Sets the options of the network. The process speaks to one remote: the first call counts, and others must want the same.
pub(super) fn network(wanted: &Network) {
    prepare();
    let mut current = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(current) = &*current {
        assert_eq!(current, wanted, "one process speaks to one remote");
        return;
    }
    set_home(&wanted.home);
    set_timeouts(i32::try_from(wanted.timeout.as_millis()).unwrap_or(i32::MAX));
    *current = Some(wanted.clone());
}

#[expect(
    unsafe_code,
    reason = "libgit2 keeps its home folder in a global variable, which git2 does not wrap"
)]
fn set_home(folder: &Path) {
    let path = CString::new(folder.as_os_str().as_bytes()).expect("a path holds no zero byte");
    let option = i32::try_from(libgit2_sys::GIT_OPT_SET_HOMEDIR).expect("it is a small number");
    // SAFETY: the option takes one pointer to a text that ends in a zero byte; `path` lives past the call, and libgit2 copies
    // it. libgit2 is initialized, since `prepare` called it. The call must not run beside another one that uses the home
    // folder: `network` calls it once, under a lock, before the first connection, and nothing else in Ferry makes libgit2
    // expand a path that begins with `~`.
    let result = unsafe { libgit2_sys::git_libgit2_opts(option, path.as_ptr()) };
    assert_eq!(result, 0, "setting the home folder needs nothing but memory");
}

#[expect(unsafe_code, reason = "libgit2 keeps its time-outs in global variables")]
fn set_timeouts(milliseconds: i32) {
    // SAFETY: the call must not run beside a connection, which reads the value. `network` calls it once, under a lock, before
    // the first connection of this process.
    unsafe { git2::opts::set_server_connect_timeout_in_milliseconds(milliseconds) }
        .expect("no positive number is refused");
    // SAFETY: as above.
    unsafe { git2::opts::set_server_timeout_in_milliseconds(milliseconds) }
        .expect("no positive number is refused");
}

/// Opens the bare repository that Ferry keeps as a copy of a remote one, and makes it where it is missing.
pub(super) fn mirror(path: &Path, branch: &str) -> Result<Repository, PortError> {
    prepare();
    let repository = if path.join("HEAD").exists() {
        open(path)?
    } else {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).mkpath(true).external_template(false);
        Repository::init_opts(path, &options).map_err(|error| not_made(path, &error))?
    };
    repository.set_head(branch).map_err(|error| not_made(path, &error))?;
    Ok(repository)
}

fn not_made(path: &Path, error: &git2::Error) -> PortError {
    PortError::lasting(
        format!("cannot make the copy of the remote in {}: {}", path.display(), error.message()),
        "let ferry's user write the state folder, or name another with `--state-dir`; the copy itself may be deleted",
        Mend::Person,
    )
}

/// Opens the repository whose work tree or git folder this is; folders above it are not searched.
pub fn open(path: &Path) -> Result<Repository, PortError> {
    prepare();
    Repository::open(path).map_err(|error| not_opened(path, &error))
}

fn not_opened(path: &Path, error: &git2::Error) -> PortError {
    let shown = path.display();
    match error.code() {
        ErrorCode::NotFound => PortError::lasting(
            format!("{shown} is no git repository"),
            "name the folder that holds `.git` or a bare repository, or make a new one with `ferry init DIR`",
            Mend::Person,
        ),
        ErrorCode::Owner => PortError::lasting(
            format!(
                "the git repository {shown} belongs to another user than the one that runs ferry"
            ),
            format!(
                "run ferry as its owner, or give it to ferry's user: `chown -R USER {shown}` (`safe.directory` is not read)"
            ),
            Mend::Person,
        ),
        _ => PortError::lasting(
            format!("cannot open the git repository {shown}: {}", error.message()),
            "check that ferry's user may read the folder and that `git fsck` finds nothing",
            Mend::Person,
        ),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn nobodys_configuration_is_searched() {
        prepare();
        assert!(git2::Config::find_global().is_err());
        assert!(git2::Config::find_xdg().is_err());
        assert!(git2::Config::find_system().is_err());
    }

    #[test]
    fn a_folder_without_repository_points_at_init() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path()).err().unwrap();
        assert!(error.fault.text.ends_with("is no git repository"), "{error}");
        assert!(error.fault.remedy.contains("ferry init"), "{}", error.fault.remedy);
    }

    #[test]
    fn a_repository_of_another_owner_says_what_to_do() {
        let refused = git2::Error::new(ErrorCode::Owner, git2::ErrorClass::Config, "not owned");
        let error = not_opened(Path::new("/srv/vms"), &refused);
        expect![[r"
            the git repository /srv/vms belongs to another user than the one that runs ferry
            run ferry as its owner, or give it to ferry's user: `chown -R USER /srv/vms` (`safe.directory` is not read)"]]
        .assert_eq(&format!("{}\n{}", error.fault.text, error.fault.remedy));
    }
}
