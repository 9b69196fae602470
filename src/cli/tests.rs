//! Commands as people give them, on real repositories. Their texts are pinned where they are made.

use std::path::{Path, PathBuf};

use super::*;
use crate::adapter::git::init::prepare;
use crate::adapter::store::StateDir;
use crate::adapter::store::hold::HoldFile;
use crate::adapter::store::journal::JournalReader;
use crate::domain::id::{CommitId, Instance};
use crate::journal::record::{Entry, RepoFact};

const PLAN: &str = "\
apiVersion: ferry.dev/v1alpha1
kind: Plan
metadata: { name: web }
spec:
  vms:
    - name: web-01 # the old one
    - name: db-01
";

/// A folder with a settings file, and a work tree that holds one plan.
struct Desk {
    folder: tempfile::TempDir,
    repository: git2::Repository,
}

impl Desk {
    fn new() -> Self {
        prepare();
        let folder = tempfile::tempdir().unwrap();
        let mut options = git2::RepositoryInitOptions::new();
        options.initial_head("main").external_template(false);
        let repository = git2::Repository::init_opts(folder.path().join("vms"), &options).unwrap();
        let mut configuration = repository.config().unwrap();
        configuration.set_str("user.name", "P").unwrap();
        configuration.set_str("user.email", "p@example.org").unwrap();
        let desk = Self { folder, repository };
        std::fs::create_dir(desk.path("vms/plans")).unwrap();
        std::fs::write(desk.path("vms/plans/web.yaml"), PLAN).unwrap();
        let settings = "repository: { url: vms, path: plans }\nstateDir: state\n";
        std::fs::write(desk.path("ferry.yaml"), settings).unwrap();
        desk.commit_all();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn commit_all(&self) {
        let mut index = self.repository.index().unwrap();
        index.add_all(["*"], git2::IndexAddOption::DEFAULT, None).unwrap();
        index.write().unwrap();
        let tree = self.repository.find_tree(index.write_tree().unwrap()).unwrap();
        let by = self.repository.signature().unwrap();
        let parent = self.repository.head().ok().map(|head| head.peel_to_commit().unwrap());
        let parents: Vec<_> = parent.iter().collect();
        self.repository.commit(Some("HEAD"), &by, &by, "m", &tree, &parents).unwrap();
    }

    fn head(&self) -> String {
        self.repository.head().unwrap().target().unwrap().to_string()
    }

    fn ferry(&self, arguments: &[&str]) -> Exit {
        let config = self.path("ferry.yaml").into_os_string();
        let before = [OsString::from("ferry"), "--config".into(), config];
        main(before.into_iter().chain(arguments.iter().map(OsString::from)))
    }

    fn plan(&self) -> String {
        std::fs::read_to_string(self.path("vms/plans/web.yaml")).unwrap()
    }
}

#[test]
fn a_plan_is_run_and_canceled_through_git_alone() {
    let desk = Desk::new();
    let before = desk.head();
    assert_eq!(desk.ferry(&["migrate", "wep"]), Exit::Failed);
    assert_eq!(desk.ferry(&["cancel", "web"]), Exit::Failed);
    assert_eq!(desk.plan(), PLAN);
    assert_eq!(desk.ferry(&["migrate", "web", "--commit"]), Exit::Done);
    let parent = desk.repository.head().unwrap().peel_to_commit().unwrap().parent_id(0).unwrap();
    assert_eq!(parent.to_string(), before);
    assert!(desk.repository.statuses(None).unwrap().is_empty());
    assert!(desk.plan().starts_with(PLAN) && desk.plan().contains("name: web-1"));
    assert_eq!(desk.ferry(&["migrate", "web"]), Exit::Done);
    assert!(desk.plan().contains("name: web-2"));
    let after = desk.head();
    assert_eq!(desk.ferry(&["cancel", "web/db-01", "--commit"]), Exit::Failed);
    assert_eq!(desk.ferry(&["cancel", "web/db-01"]), Exit::Done);
    assert!(desk.plan().ends_with("  plan: web\n  cancel:\n    - db-01\n"), "{}", desk.plan());
    let once = desk.plan();
    assert_eq!(desk.ferry(&["cancel", "web/db-01"]), Exit::Done);
    assert_eq!(desk.ferry(&["cancel", "web/nobody"]), Exit::Failed);
    assert_eq!(desk.plan(), once);
    assert_eq!(desk.head(), after);
}

#[test]
fn a_push_pushes_its_own_commit_and_nothing_else() {
    let desk = Desk::new();
    let at_remote = |branch: &str| {
        let remote = git2::Repository::open(desk.path("remote.git")).unwrap();
        remote.refname_to_id(&format!("refs/heads/{branch}")).ok().map(|id| id.to_string())
    };
    let before = desk.plan();
    assert_eq!(desk.ferry(&["migrate", "web", "--push"]), Exit::Failed);
    assert_eq!(desk.plan(), before, "nothing is written where there is nothing to push to");
    git2::Repository::init_bare(desk.path("remote.git")).unwrap();
    let url = desk.path("remote.git").display().to_string();
    let mut remote = desk.repository.remote("origin", &url).unwrap();
    assert_eq!(desk.ferry(&["migrate", "web", "--push"]), Exit::Failed);
    remote.push(&["refs/heads/main:refs/heads/main"], None).unwrap();
    assert_eq!(desk.ferry(&["migrate", "web", "--push"]), Exit::Done);
    assert_eq!(at_remote("main"), Some(desk.head()));

    // A branch goes to the branch of its own name, again and again, and past no review.
    let tip = desk.repository.head().unwrap().peel_to_commit().unwrap();
    desk.repository.branch("topic", &tip, false).unwrap();
    desk.repository.set_head("refs/heads/topic").unwrap();
    let main = at_remote("main");
    for _ in 0..2 {
        assert_eq!(desk.ferry(&["migrate", "web", "--push"]), Exit::Done);
        assert_eq!((at_remote("topic"), at_remote("main")), (Some(desk.head()), main.clone()));
    }
    let mut configuration = desk.repository.config().unwrap();
    configuration.set_str("branch.topic.remote", "origin").unwrap();
    configuration.set_str("branch.topic.merge", "refs/heads/main").unwrap();
    assert_eq!(desk.ferry(&["migrate", "web", "--push"]), Exit::Failed);
    assert_eq!(at_remote("main"), main);
    desk.repository.set_head("refs/heads/main").unwrap();
    desk.repository.reset(tip.as_object(), git2::ResetType::Hard, None).unwrap();

    // Commits that somebody kept back stay where they are.
    desk.commit_all();
    let kept = desk.head();
    assert_eq!(desk.ferry(&["cancel", "web/db-01", "--push"]), Exit::Failed);
    assert_eq!((desk.head(), at_remote("main") == Some(kept.clone())), (kept, false));
    assert_eq!(desk.ferry(&["cancel", "web/db-01", "--commit"]), Exit::Done);

    // Somebody was faster: the commit is there, and the remote keeps what it has.
    let mut remote = desk.repository.find_remote("origin").unwrap();
    remote.push(&["refs/heads/main:refs/heads/main"], None).unwrap();
    let own = desk.head();
    let elsewhere = git2::Repository::open(desk.path("remote.git")).unwrap();
    let tip = elsewhere.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
    let by = desk.repository.signature().unwrap();
    let tree = tip.tree().unwrap();
    elsewhere.commit(Some("refs/heads/main"), &by, &by, "faster", &tree, &[&tip]).unwrap();
    let theirs = at_remote("main");
    assert_eq!(desk.ferry(&["migrate", "web", "--push"]), Exit::Failed);
    assert_ne!(desk.head(), own);
    assert_eq!(at_remote("main"), theirs);
}

#[test]
fn links_and_broken_files_are_passed_over() {
    let desk = Desk::new();
    let outside = desk.path("outside.yaml");
    std::fs::write(&outside, PLAN.replace("name: web", "name: outside")).unwrap();
    std::os::unix::fs::symlink(&outside, desk.path("vms/plans/outside.yaml")).unwrap();
    std::fs::write(desk.path("vms/plans/broken.yaml"), "a: [b").unwrap();
    assert_eq!(desk.ferry(&["migrate", "outside"]), Exit::Failed);
    assert_eq!(desk.ferry(&["migrate", "web"]), Exit::Done);
}

#[test]
fn the_brake_is_pulled_beside_a_running_controller() {
    let desk = Desk::new();
    let state = desk.path("state");
    let now = jiff::Timestamp::UNIX_EPOCH;
    let _running = StateDir::open(&state, &Instance::new("ferry"), now).unwrap();
    assert_eq!(desk.ferry(&["hold", "on", "--reason", "why"]), Exit::Done);
    assert_eq!(HoldFile::new(&state).held_by().unwrap().as_deref(), Some("why"));
    assert_eq!(desk.ferry(&["hold"]), Exit::Done);
    assert_eq!(desk.ferry(&["hold", "off"]), Exit::Done);
    assert_eq!(HoldFile::new(&state).held_by().unwrap(), None);
    assert_eq!(desk.ferry(&["hold", "sideways"]), Exit::Usage);
    assert_eq!(desk.ferry(&["adopt", "--yes"]), Exit::Failed);
}

fn adopted(state: &Path) -> Vec<Entry> {
    let Some(reader) = JournalReader::open(state).unwrap() else { return Vec::new() };
    reader.read().unwrap().into_iter().map(|record| record.entry).collect()
}

#[test]
fn only_a_commit_of_the_branch_is_adopted() {
    let desk = Desk::new();
    let first = desk.head();
    std::fs::write(desk.path("vms/plans/new.yaml"), "a: 1\n").unwrap();
    desk.commit_all();
    assert_eq!(desk.ferry(&["adopt", "HEAD~1", "--yes"]), Exit::Done);
    let fact = |commit: &str| Entry::Repo(RepoFact::Adopted { commit: CommitId::new(commit) });
    assert_eq!(adopted(&desk.path("state")), [fact(&first)]);
    let gone = desk.head();
    let target = git2::Oid::from_str(&first).unwrap();
    desk.repository.reference("refs/heads/main", target, true, "rewind").unwrap();
    assert_eq!(desk.ferry(&["adopt", &gone, "--yes"]), Exit::Failed);
    assert_eq!(desk.ferry(&["adopt", "nothing", "--yes"]), Exit::Failed);
    assert_eq!(adopted(&desk.path("state")).len(), 1);
}

#[test]
fn doctor_fails_where_something_is_missing() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    assert_eq!(desk.ferry(&["doctor"]), Exit::Done);
    assert_eq!(desk.ferry(&["doctor", "--output", "json"]), Exit::Done);
    assert_eq!(desk.ferry(&["doctor", "--branch", "missing"]), Exit::Failed);
    assert_eq!(
        desk.ferry(&["doctor", "--repo", desk.path("state").to_str().unwrap()]),
        Exit::Failed
    );
    let settings = desk.path("ferry.yaml");
    let open =
        |mode| std::fs::set_permissions(&settings, std::fs::Permissions::from_mode(mode)).unwrap();
    open(0o666);
    assert_eq!(desk.ferry(&["doctor"]), Exit::Failed);
    open(0o600);
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "allowPaths: [gone]\n").unwrap();
    assert_eq!(desk.ferry(&["doctor"]), Exit::Failed);
    std::fs::create_dir(desk.path("gone")).unwrap();
    assert_eq!(desk.ferry(&["doctor"]), Exit::Done);
    // Reports of this instance that the empty journal knows nothing of.
    let repo = crate::adapter::git::GitRepo::open(&crate::adapter::git::RepoSettings {
        place: crate::adapter::git::Place::Folder(desk.path("vms")),
        branch: "main".into(),
        below: String::new(),
        status_branch: "ferry/status".into(),
        author: crate::adapter::git::Author { name: "F".into(), email: "f@example.org".into() },
        signers: None,
    })
    .unwrap();
    let files = [("plans/web.yaml".to_owned(), b"x".to_vec())].into();
    crate::port::PlanRepo::publish(&repo, "ferry", &files, "m").unwrap();
    assert_eq!(desk.ferry(&["doctor"]), Exit::Failed);
    assert_eq!(desk.ferry(&["adopt", "--yes"]), Exit::Done);
    assert_eq!(desk.ferry(&["doctor"]), Exit::Done);
}
