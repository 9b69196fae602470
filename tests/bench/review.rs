//! What people and pipelines wait for, on real git repositories: `cargo bench --bench review`.
//!
//! The bounds: a check of 10,000 manifests under 1 s; a preview of a branch over 1,000 plans and 10,000 VMs under 300 ms with an
//! inventory that carries verdicts, and under 3 s without; a new decision after a commit to one file under 20 ms; 100 reports that
//! change at once in at most 2 commits.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "the table is the answer")]
#![expect(clippy::disallowed_methods, reason = "it measures time, and runs the program")]

mod fleet;
mod measure;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferry::adapter::git::{Author, GitRepo, Place, RepoSettings};
use ferry::adapter::store::StateDir;
use ferry::collect::recorded::Recorded;
use ferry::controller::chain::{Assessment, Chain};
use ferry::controller::read::Reader;
use ferry::controller::{Controller, sites};
use ferry::domain::id::{CommitId, Instance, JournalId};
use ferry::domain::unit::Bytes;
use ferry::journal::progress::Progress;
use ferry::policy::Said;
use ferry::port::World;
use git2::build::TreeUpdateBuilder;
use git2::{FileMode, Oid, Repository, Signature, Time};

use fleet::{Fleet, config};
use measure::Times;

const PLANS: usize = 1_000;
const VMS_PER_PLAN: usize = 10;

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("{:<46}{:>12}   {:>9}", "", "median", "spread");
    check(&folder.path().join("check"));
    let fleet = Fleet::new(PLANS, VMS_PER_PLAN);
    preview(&folder.path().join("preview"), &fleet);
    follow(&folder.path().join("follow"), &fleet);
}

/// A person checks 10,000 manifests: the program from its start to its end.
fn check(folder: &Path) {
    let fleet = Fleet::new(9_997, 1);
    let repository = Plans::new(folder, &fleet);
    let path = repository.path.display().to_string();
    row(
        "check of 10,000 manifests in git",
        Times::of(|| (), |()| assert_eq!(ferry(folder, &["check", &path, "--rev", "main"]), 0)),
    );
}

/// A pipeline previews a branch that adds a migration for one plan.
fn preview(folder: &Path, fleet: &Fleet) {
    let repository = Plans::new(folder, fleet);
    let base = repository.head().to_string();
    let wish = "apiVersion: ferry.dev/v1alpha1\nkind: Migration\nmetadata: { name: one }\nspec: { plan: plan-0500 }\n";
    repository.change("migration.yaml", wish);
    let bare = fleet.recorded();
    let said = said(&repository, &bare, &base);
    let repo = repository.path.display().to_string();
    let range = format!("{base}..main");
    for (name, recorded) in [
        ("commit to preview, rules asked", bare.clone()),
        ("commit to preview, verdicts recorded", Recorded { said, ..bare }),
    ] {
        let path = folder.join("inventory.json");
        let text = recorded.text();
        fs::write(&path, &text).unwrap();
        let path = path.display().to_string();
        let arguments =
            ["diff", "--repo", &repo, &range, "--inventory", &path, "--output", "markdown"];
        row(name, Times::of(|| (), |()| assert_eq!(ferry(folder, &arguments), 2)));
        println!("  with an inventory of {}", Bytes(text.len().try_into().unwrap()));
    }
}

/// Judges all VMs once, as `ferry inventory refresh` does.
fn said(plans: &Plans, recorded: &Recorded, commit: &str) -> Said {
    let progress = Progress::new(JournalId::new("bench"));
    let mut reader = Reader::new(config().manifests);
    let commit = CommitId::new(commit);
    let reading = reader.read(&plans.open(), &commit, &progress).unwrap().0;
    let mut chain = Chain::default();
    let _ = chain.assess(&Assessment {
        reading: Some(&reading),
        observed: &recorded.observed(&sites(Some(&reading.wanted), &progress)),
        progress: &progress,
        busy: &BTreeSet::new(),
        limits: config().limits,
        now: recorded.taken,
    });
    chain.said()
}

/// The controller follows commits: one file, then 100.
fn follow(folder: &Path, fleet: &Fleet) {
    let repository = Plans::new(folder, fleet);
    let git = repository.open();
    let world = World { repo: &git, ..fleet.world() };
    let state =
        StateDir::open(&folder.join("state"), &Instance::new("bench"), world.clock.now()).unwrap();
    let mut journal = state.journal().unwrap();
    let mut controller = Controller::new(world, &mut journal, config()).unwrap();
    let mut pass = controller.pass().unwrap();
    assert_eq!(pass.stands.len(), fleet.vms());
    controller.report(&mut pass);
    let plan = "plans/plan-0500.yaml";
    let text = fleet.manifests().find(|(path, _)| *path == plan).unwrap().1;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let mut round = 0;
    let change = || {
        round += 1;
        repository
            .change(plan, &text.replace("  vms:", &format!("  description: v{round}\n  vms:")));
    };
    let one = Times::of(change, |()| drop(controller.pass().unwrap()));
    row("a commit to one file, to a new decision", one);

    let before = git_log(&repository.path);
    let many: Vec<(String, String)> = fleet
        .manifests()
        .skip(1)
        .take(100)
        .map(|(path, text)| {
            let text = String::from_utf8(text.to_vec()).unwrap();
            (path.to_owned(), text.replace("name: vm-", "name: no-vm-"))
        })
        .collect();
    repository.change_all(&many);
    for _ in 0..3 {
        fleet.wait();
        let mut pass = controller.pass().unwrap();
        controller.report(&mut pass);
    }
    println!("100 reports that change at once: {} commits", git_log(&repository.path) - before);
}

fn git_log(path: &Path) -> usize {
    let repository = Repository::open(path).unwrap();
    let Ok(tip) = repository.refname_to_id("refs/heads/ferry/status") else { return 0 };
    let mut walk = repository.revwalk().unwrap();
    walk.push(tip).unwrap();
    walk.count()
}

fn ferry(folder: &Path, arguments: &[&str]) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder);
    let output = command.output().unwrap();
    let code = output.status.code().unwrap();
    assert!(code == 0 || code == 2, "{}", String::from_utf8_lossy(&output.stderr));
    code
}

fn row(name: &str, times: Times) {
    println!("{name:<46}{times}");
}

/// A bare repository on disk, which grows by commits.
struct Plans {
    path: PathBuf,
    repository: Repository,
}

impl Plans {
    fn new(folder: &Path, fleet: &Fleet) -> Self {
        let path = folder.join("plans.git");
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).mkpath(true).initial_head("main").external_template(false);
        let repository = Repository::init_opts(&path, &options).unwrap();
        let nothing = repository.treebuilder(None).unwrap().write().unwrap();
        let plans = Self { path, repository };
        plans.commit(nothing, fleet.manifests());
        plans
    }

    /// Commits files over a tree.
    fn commit<'f>(&self, over: Oid, files: impl Iterator<Item = (&'f str, &'f [u8])>) {
        let repository = &self.repository;
        let mut update = TreeUpdateBuilder::new();
        for (path, text) in files {
            update.upsert(path, repository.blob(text).unwrap(), FileMode::Blob);
        }
        let over = repository.find_tree(over).unwrap();
        let tree = update.create_updated(repository, &over).unwrap();
        let tree = repository.find_tree(tree).unwrap();
        let who = Signature::new("P", "p@example.org", &Time::new(1_767_225_600, 0)).unwrap();
        let head = repository.head().ok().map(|head| head.peel_to_commit().unwrap());
        let parents: Vec<_> = head.iter().collect();
        repository.commit(Some("refs/heads/main"), &who, &who, "m", &tree, &parents).unwrap();
    }

    fn change(&self, path: &str, text: &str) {
        self.change_all(&[(path.to_owned(), text.to_owned())]);
    }

    fn change_all(&self, files: &[(String, String)]) {
        let head = self.repository.find_commit(self.head()).unwrap();
        let files = files.iter().map(|(path, text)| (path.as_str(), text.as_bytes()));
        self.commit(head.tree_id(), files);
    }

    fn head(&self) -> Oid {
        self.repository.refname_to_id("refs/heads/main").unwrap()
    }

    fn open(&self) -> GitRepo {
        let author = Author { name: "Ferry".to_owned(), email: "ferry@example.org".to_owned() };
        GitRepo::open(&RepoSettings {
            place: Place::Folder(self.path.clone()),
            branch: "main".to_owned(),
            below: String::new(),
            status_branch: "ferry/status".to_owned(),
            author,
            signers: None,
        })
        .unwrap()
    }
}
