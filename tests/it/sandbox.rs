//! A world of its own for one test: a temporary folder, the built program in a clean environment, and a repository of
//! plans that grows by commits. Nothing of the person or machine that runs the tests reaches the program.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use git2::{Repository, Signature, Time};

/// The branch that plans live on.
pub(crate) const BRANCH: &str = "main";

/// A temporary folder, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

/// How a run of the program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// The exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// The answer.
    pub(crate) stdout: String,
    /// Everything else.
    pub(crate) stderr: String,
}

impl Ran {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }

    /// Checks the exit code; where it is another, shows all that the program said.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("ferry-test-").tempdir().unwrap();
        // Other users may enter: a guest's disks are opened by the user that libvirt runs QEMU as.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    /// Returns the path of a name within. It need not exist.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with the folders above it, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Returns the program, not started yet: its home is within, no configuration of the machine is seen, the time zone and
    /// the language are fixed, nothing is coloured.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_ferry")), arguments)
    }

    /// The same with another file of the program.
    pub(crate) fn command_of<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let home = self.path("home");
        fs::create_dir_all(&home).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &home);
        command.env("XDG_CONFIG_HOME", home.join("config"));
        command.env("XDG_STATE_HOME", home.join("state"));
        command.env("NO_COLOR", "1").env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn ferry<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Ran {
        Ran::new(self.command(arguments).output().unwrap())
    }

    /// Starts the program and returns; dropping the result kills it.
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Running {
        Running(Some(self.command(arguments).spawn().unwrap()))
    }

    /// Makes the repository of plans at a name within, or opens it.
    pub(crate) fn plans(&self, name: &str) -> Plans {
        let path = self.path(name);
        let repository = Repository::open(&path).unwrap_or_else(|_| {
            let mut options = git2::RepositoryInitOptions::new();
            options.external_template(false).initial_head(BRANCH);
            Repository::init_opts(&path, &options).unwrap()
        });
        Plans { repository }
    }
}

impl Sandbox {
    /// Starts the program and returns; what it says while it runs can be read in a file.
    pub(crate) fn start_logged<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        log: &Path,
    ) -> Running {
        let log = fs::File::create(log).unwrap();
        Running(Some(self.command(arguments).stderr(log).spawn().unwrap()))
    }
}

/// The program while it runs. Dropped, it is killed: no test leaves a process behind.
#[derive(Debug)]
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ran {
        Ran::new(self.0.take().unwrap().wait_with_output().unwrap())
    }

    /// Kills it, as a power failure would, and returns what it had said.
    pub(crate) fn kill(mut self) -> Ran {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        Ran::new(child.wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A repository of plans.
pub(crate) struct Plans {
    repository: Repository,
}

impl Plans {
    /// Commits a tree that holds exactly these files, to the branch and to the work tree, and returns its id. Equal files
    /// and an equal history give an equal id: author and time are fixed.
    pub(crate) fn commit(&self, files: &BTreeMap<&str, String>, message: &str) -> String {
        let repository = &self.repository;
        let mut tree = git2::build::TreeUpdateBuilder::new();
        for (path, text) in files {
            let id = repository.blob(text.as_bytes()).unwrap();
            tree.upsert(*path, id, git2::FileMode::Blob);
        }
        let nothing = repository.treebuilder(None).unwrap().write().unwrap();
        let nothing = repository.find_tree(nothing).unwrap();
        let tree = tree.create_updated(repository, &nothing).unwrap();
        let tree = repository.find_tree(tree).unwrap();
        let who = Signature::new("Test", "test@example.org", &Time::new(1_767_225_600, 0)).unwrap();
        let branch = format!("refs/heads/{BRANCH}");
        let parent = self.head().map(|id| repository.find_commit(id.parse().unwrap()).unwrap());
        let parents: Vec<_> = parent.iter().collect();
        let id = repository.commit(Some(&branch), &who, &who, message, &tree, &parents).unwrap();
        if !repository.is_bare() {
            repository.checkout_head(Some(git2::build::CheckoutBuilder::new().force())).unwrap();
        }
        id.to_string()
    }

    /// Returns the branch's commit.
    pub(crate) fn head(&self) -> Option<String> {
        self.tip(BRANCH)
    }

    /// Returns the commit of any branch.
    pub(crate) fn tip(&self, branch: &str) -> Option<String> {
        let name = format!("refs/heads/{branch}");
        self.repository.refname_to_id(&name).ok().map(|id| id.to_string())
    }

    /// Returns the files of a branch, by path.
    pub(crate) fn files(&self, branch: &str) -> BTreeMap<String, String> {
        let Some(id) = self.tip(branch) else { return BTreeMap::new() };
        let commit = self.repository.find_commit(id.parse().unwrap()).unwrap();
        let mut files = BTreeMap::new();
        let visit = |folder: &str, entry: &git2::TreeEntry<'_>| {
            if entry.kind() == Some(git2::ObjectType::Blob) {
                let blob = self.repository.find_blob(entry.id()).unwrap();
                let text = String::from_utf8_lossy(blob.content()).into_owned();
                files.insert(format!("{folder}{}", entry.name().unwrap()), text);
            }
            git2::TreeWalkResult::Ok
        };
        commit.tree().unwrap().walk(git2::TreeWalkMode::PreOrder, visit).unwrap();
        files
    }
}

#[test]
fn the_program_runs_in_a_clean_environment() {
    let sandbox = Sandbox::new();
    let ran = sandbox.ferry(["--version"]).expect(0);
    assert_eq!(ran.stdout, concat!("ferry ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(ran.stderr, "");
    assert_eq!(sandbox.ferry(["no-such-command"]).code, Some(64));
}

#[test]
fn a_sandbox_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("deep/a.txt", "a");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a");
    drop(sandbox);
    assert!(!path.exists());
}

#[test]
fn a_repository_of_plans_grows_by_commits() {
    let sandbox = Sandbox::new();
    let plans = sandbox.plans("plans");
    assert_eq!(plans.head(), None);
    let files =
        BTreeMap::from([("a.yaml", "a: 1\n".to_owned()), ("deep/b.yaml", "b: 2\n".to_owned())]);
    let first = plans.commit(&files, "first");
    assert_eq!(fs::read_to_string(sandbox.path("plans/deep/b.yaml")).unwrap(), "b: 2\n");
    let second = plans.commit(&BTreeMap::from([("a.yaml", "a: 1\n".to_owned())]), "second");
    assert_ne!(first, second);
    assert_eq!(plans.head(), Some(second));
    assert!(!sandbox.path("plans/deep/b.yaml").exists());
    assert_eq!(plans.files(BRANCH), BTreeMap::from([("a.yaml".to_owned(), "a: 1\n".to_owned())]));
    let elsewhere = Sandbox::new();
    assert_eq!(elsewhere.plans("plans").commit(&files, "first"), first);
}

#[test]
fn a_program_that_is_dropped_is_gone() {
    let sandbox = Sandbox::new();
    let id = sandbox.start(["--help"]).id();
    assert!(!Path::new(&format!("/proc/{id}")).exists());
    assert_eq!(sandbox.start(["--version"]).wait().code, Some(0));
    let _ = sandbox.start(["--version"]).kill();
}
