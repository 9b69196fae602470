//! libgit2's global options, set once before the first repository is opened.
//!
//! The search paths of the system's and the user's configuration are emptied: an `insteadOf` or a `safe.directory` of
//! somebody's `~/.gitconfig` must not decide which repository Ferry trusts.

use std::path::Path;
use std::sync::Once;

use git2::{ConfigLevel, ErrorCode, Repository};

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
