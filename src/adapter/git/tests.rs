//! Against real repositories on disk; `git` itself is asked once whether it agrees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use expect_test::expect;
use git2::{Oid, Repository, RepositoryInitOptions, Signature, Time};

use super::*;

/// Longer than any machine needs for an event to arrive; a test that passes never waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    folder: tempfile::TempDir,
    raw: Repository,
}

impl Fixture {
    fn new(bare: bool) -> Self {
        init::prepare();
        let folder = tempfile::tempdir().unwrap();
        let mut options = RepositoryInitOptions::new();
        options.bare(bare).initial_head("main").external_template(false);
        let raw = Repository::init_opts(folder.path(), &options).unwrap();
        Self { folder, raw }
    }

    fn settings(&self) -> RepoSettings {
        RepoSettings {
            place: Place::Folder(self.folder.path().to_owned()),
            branch: "main".into(),
            below: String::new(),
            status_branch: "ferry/status".into(),
            author: Author { name: "Ferry".into(), email: "ferry@example.org".into() },
            signers: None,
        }
    }

    fn open(&self) -> LocalRepo {
        LocalRepo::at(self.folder.path(), &self.settings()).unwrap()
    }

    /// Commits entries of any mode, straight into the object database.
    fn commit(&self, branch: &str, entries: &[(&str, i32, &[u8])]) -> CommitId {
        let mut builder = self.raw.treebuilder(None).unwrap();
        for (name, mode, bytes) in entries {
            let id = match mode {
                0o160_000 => Oid::from_str("1234567890123456789012345678901234567890").unwrap(),
                _ => self.raw.blob(bytes).unwrap(),
            };
            builder.insert(*name, id, *mode).unwrap();
        }
        self.commit_tree(branch, builder.write().unwrap())
    }

    fn commit_tree(&self, branch: &str, tree: Oid) -> CommitId {
        let tree = self.raw.find_tree(tree).unwrap();
        let by = Signature::new("P", "p@example.org", &Time::new(1, 0)).unwrap();
        let name = format!("refs/heads/{branch}");
        let parent =
            self.raw.find_reference(&name).ok().map(|found| found.peel_to_commit().unwrap());
        let parents: Vec<_> = parent.iter().collect();
        let id = self.raw.commit(Some(&name), &by, &by, "m", &tree, &parents).unwrap();
        CommitId::new(id.to_string())
    }

    fn refs(&self) -> PathBuf {
        self.raw.commondir().join("refs/heads")
    }
}

fn files(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    entries.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "git itself is the independent judge")]
    let mut command = std::process::Command::new("git");
    let output = command
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_branch_is_read_wherever_head_points() {
    for bare in [false, true] {
        let fixture = Fixture::new(bare);
        let repo = fixture.open();
        assert_eq!(repo.head().unwrap(), None);
        fixture.commit("other", &[("b.yaml", 0o100_644, b"b")]);
        let commit =
            fixture.commit("main", &[("a.yaml", 0o100_644, b"a"), ("README.md", 0o100_644, b"r")]);
        fixture.raw.set_head("refs/heads/other").unwrap();
        assert_eq!(repo.head().unwrap(), Some(commit.clone()));
        let tree = repo.tree(&commit).unwrap();
        assert_eq!(
            tree.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
            ["a.yaml"]
        );
        assert_eq!(repo.blob(&tree.files[0].blob, 10).unwrap(), b"a");
        assert_eq!(repo.work_tree().is_none(), bare);
        assert_eq!(repo.resolve("main").unwrap(), commit);
        assert!(repo.resolve("nothing~3").unwrap_err().fault.text.contains("`nothing~3`"));
    }
}

#[test]
fn a_hostile_tree_is_refused_by_name_and_the_rest_is_read() {
    let fixture = Fixture::new(true);
    let inner = fixture.raw.blob(b"inner").unwrap();
    let mut folder = fixture.raw.treebuilder(None).unwrap();
    folder.insert("deep.yml", inner, 0o100_644).unwrap();
    let folder = folder.write().unwrap();
    let blob = fixture.raw.blob(b"x").unwrap();
    // Written as bytes: libgit2 and git refuse to make such trees, and a push may bring them all the same.
    let entries: [(&[u8], &str, Oid); 9] = [
        (b"..", "40000", folder),
        (b".github", "40000", folder),
        (b"caf\xe9.yaml", "100644", blob),
        (b"good.yaml", "100755", blob),
        (b"link.yaml", "120000", blob),
        (b"note.txt", "100644", blob),
        (b"odd\\name.yaml", "100644", blob),
        (b"plans", "40000", folder),
        (b"sub", "160000", blob),
    ];
    let mut bytes = Vec::new();
    for (name, mode, id) in entries {
        bytes.extend_from_slice(mode.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend_from_slice(id.as_bytes());
    }
    let tree = fixture.raw.odb().unwrap().write(ObjectType::Tree, &bytes).unwrap();
    let commit = fixture.commit_tree("main", tree);
    let tree = fixture.open().tree(&commit).unwrap();
    let read: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(read, ["good.yaml", "plans/deep.yml"]);
    let refused: Vec<_> = tree.refused.iter().map(|(path, why)| format!("{path}: {why}")).collect();
    expect![[r"
        ..: no file system takes it by that name; rename it
        caf�.yaml: its name is not UTF-8; rename it
        link.yaml: it is a symbolic link; commit the file itself
        odd\name.yaml: no file system takes it by that name; rename it
        sub: it is a submodule; commit its files themselves"]]
    .assert_eq(&refused.join("\n"));
}

#[test]
fn the_folder_of_plans_must_be_a_folder() {
    let fixture = Fixture::new(true);
    let commit =
        fixture.commit("main", &[("plans", 0o120_000, b"/etc"), ("a.yaml", 0o100_644, b"a")]);
    let reason = |below: &str| {
        let mut settings = fixture.settings();
        settings.below = below.into();
        let tree = LocalRepo::at(fixture.folder.path(), &settings).unwrap().tree(&commit).unwrap();
        assert!(tree.files.is_empty());
        tree.refused[0].1.replace(commit.as_str(), "COMMIT")
    };
    assert_eq!(reason("plans"), "`plans` of `plans` is no folder in COMMIT");
    assert_eq!(reason("gone/below/"), "the commit COMMIT holds no folder `gone/below`");
}

#[test]
fn a_huge_blob_is_refused_before_it_is_read() {
    let fixture = Fixture::new(true);
    let commit = fixture.commit("main", &[("a.yaml", 0o100_644, &vec![b'a'; 3 << 20])]);
    let repo = fixture.open();
    let blob = repo.tree(&commit).unwrap().files[0].blob.clone();
    let error = repo.blob(&blob, 1 << 20).unwrap_err();
    assert_eq!(
        error.fault.text,
        "the file is 3145728 bytes long, more than the limit of 1048576 bytes"
    );
    assert_eq!(repo.blob(&blob, 3 << 20).unwrap().len(), 3 << 20);
    assert!(repo.blob(commit.as_str(), 1 << 20).unwrap_err().fault.text.contains("is no file"));
}

#[test]
fn a_rewound_branch_is_told_from_one_that_went_on() {
    let fixture = Fixture::new(true);
    let first = fixture.commit("main", &[("a.yaml", 0o100_644, b"1")]);
    let second = fixture.commit("main", &[("a.yaml", 0o100_644, b"2")]);
    let other = fixture.commit("other", &[("a.yaml", 0o100_644, b"3")]);
    let gone = CommitId::new("1234567890123456789012345678901234567890");
    let repo = fixture.open();
    assert_eq!(repo.ancestry(&first, &first).unwrap(), Ancestry::Forward);
    assert_eq!(repo.ancestry(&first, &second).unwrap(), Ancestry::Forward);
    assert_eq!(repo.ancestry(&second, &first).unwrap(), Ancestry::Rewound);
    assert_eq!(repo.ancestry(&second, &other).unwrap(), Ancestry::Rewound);
    assert_eq!(repo.ancestry(&gone, &second).unwrap(), Ancestry::Rewound);
}

#[test]
fn reports_are_committed_once_and_beside_those_of_others() {
    for bare in [false, true] {
        let fixture = Fixture::new(bare);
        let main = fixture.commit("main", &[("a.yaml", 0o100_644, b"a")]);
        let repo = fixture.open();
        assert_eq!(repo.report("prod").unwrap(), BTreeMap::new());
        assert!(!repo.publish("prod", &BTreeMap::new(), "nothing").unwrap());
        let one = files(&[("plans/web.yaml", "1"), ("vms/web/db.yaml", "2"), ("top.md", "3")]);
        assert!(repo.publish("prod", &one, "Report\n\nInstance: prod\n").unwrap());
        assert!(!repo.publish("prod", &one, "again").unwrap());
        let two = files(&[("plans/db.yaml", "4")]);
        assert!(repo.publish("test", &two, "Report\n\nInstance: test\n").unwrap());
        let three = files(&[("plans/web.yaml", "5")]);
        assert!(repo.publish("prod", &three, "Report\n\nInstance: prod\n").unwrap());
        assert_eq!(repo.report("prod").unwrap(), three);
        assert_eq!(repo.report("test").unwrap(), two);
        assert_eq!(repo.head().unwrap(), Some(main));

        let folder = fixture.folder.path();
        git(folder, &["fsck", "--strict", "--full"]);
        let log = git(
            folder,
            &[
                "log",
                "--format=%an <%ae> %s [%(trailers:key=Instance,valueonly,separator=%x2C)]",
                "ferry/status",
            ],
        );
        expect![[r"
            Ferry <ferry@example.org> Report [prod]
            Ferry <ferry@example.org> Report [test]
            Ferry <ferry@example.org> Report [prod]
        "]]
        .assert_eq(&log);
        let listed = git(folder, &["ls-tree", "-r", "--name-only", "ferry/status"]);
        assert_eq!(listed, "prod/plans/web.yaml\ntest/plans/db.yaml\n");
    }
}

#[test]
fn a_folder_that_is_emptied_leaves_the_others() {
    let fixture = Fixture::new(true);
    let repo = fixture.open();
    repo.publish("a/b", &files(&[("x.yaml", "1")]), "m").unwrap();
    repo.publish("c", &files(&[("x.yaml", "1")]), "m").unwrap();
    assert!(repo.publish("a/b", &BTreeMap::new(), "m").unwrap());
    assert_eq!(
        git(fixture.folder.path(), &["ls-tree", "-r", "--name-only", "ferry/status"]),
        "c/x.yaml\n"
    );
    for folder in ["", "..", "a//b", ".git", "/a"] {
        assert!(repo.publish(folder, &BTreeMap::new(), "m").is_err(), "{folder}");
    }
}

#[test]
fn two_publishers_lose_nothing() {
    const COMMITS: usize = 20;
    let fixture = Fixture::new(true);
    std::thread::scope(|scope| {
        for folder in ["one", "two"] {
            let repo = fixture.open();
            scope.spawn(move || {
                for round in 0..COMMITS {
                    let text = round.to_string();
                    assert!(repo.publish(folder, &files(&[("x.yaml", &text)]), "m").unwrap());
                }
            });
        }
    });
    let repo = fixture.open();
    let last = (COMMITS - 1).to_string();
    assert_eq!(repo.report("one").unwrap(), files(&[("x.yaml", &last)]));
    assert_eq!(repo.report("two").unwrap(), files(&[("x.yaml", &last)]));
    let count = git(fixture.folder.path(), &["rev-list", "--count", "ferry/status"]);
    assert_eq!(count.trim(), (2 * COMMITS).to_string());
}

#[test]
fn the_status_branch_is_nobody_elses() {
    let fixture = Fixture::new(true);
    fixture.commit("main", &[("a.yaml", 0o100_644, b"a")]);
    let mut settings = fixture.settings();
    settings.status_branch = "refs/heads/main".into();
    let error = LocalRepo::at(fixture.folder.path(), &settings).unwrap_err();
    assert_eq!(error.fault.text, "the status branch `refs/heads/main` is the watched branch");

    fixture
        .raw
        .reference_symbolic("refs/heads/ferry/status", "refs/heads/main", false, "m")
        .unwrap();
    let repo = fixture.open();
    let before = repo.head().unwrap();
    let error = repo.publish("prod", &files(&[("x.yaml", "1")]), "m").unwrap_err();
    assert!(error.fault.text.contains("stands for another branch"), "{error}");
    assert_eq!(repo.head().unwrap(), before);

    let blocked = Fixture::new(true);
    blocked.commit("ferry", &[("a.yaml", 0o100_644, b"a")]);
    let error = blocked.open().publish("prod", &files(&[("x.yaml", "1")]), "m").unwrap_err();
    assert!(error.fault.remedy.contains("`ferry` beside `ferry/status`"), "{error:?}");

    for name in ["", "a..b", "has space", "-"] {
        let mut settings = fixture.settings();
        settings.branch = name.into();
        let opened = LocalRepo::at(fixture.folder.path(), &settings);
        assert_eq!(opened.is_ok(), name == "-", "{name}");
    }
}

fn watched(fixture: &Fixture) -> (LocalRepo, watch::Watch, Receiver<()>) {
    let repo = fixture.open();
    let (sender, looks) = channel();
    let watch = repo.watch(move || sender.send(()).unwrap_or_default()).unwrap();
    (repo, watch, looks)
}

#[test]
fn a_commit_wakes_and_a_report_does_not() {
    for bare in [false, true] {
        let fixture = Fixture::new(bare);
        let (repo, _watch, looks) = watched(&fixture);
        for round in 0..5 {
            repo.publish("prod", &files(&[("x.yaml", &round.to_string())]), "m").unwrap();
            repo.head().unwrap();
        }
        looks.recv_timeout(3 * watch::GATHER).expect_err("reports wake nobody");
        fixture.commit("main", &[("a.yaml", 0o100_644, b"a")]);
        looks.recv_timeout(PATIENCE).expect("a commit wakes");
    }
}

#[test]
fn packed_refs_and_other_branches_wake_too() {
    let fixture = Fixture::new(true);
    fixture.commit("main", &[("a.yaml", 0o100_644, b"a")]);
    let (repo, _watch, looks) = watched(&fixture);
    let head = repo.head().unwrap();
    git(fixture.folder.path(), &["pack-refs", "--all", "--prune"]);
    looks.recv_timeout(PATIENCE).expect("packing wakes");
    assert_eq!(repo.head().unwrap(), head);
}

#[test]
fn a_person_commits_one_file_and_nothing_else() {
    let fixture = Fixture::new(false);
    let root = fixture.folder.path();
    let by = Author { name: "P".into(), email: "p@example.org".into() };
    std::fs::create_dir(root.join("plans")).unwrap();
    std::fs::write(root.join("plans/web.yaml"), "one\n").unwrap();
    let tree = commit::WorkTree::open(root).unwrap().unwrap();
    let file = Path::new("plans/web.yaml");
    tree.commit(file, "plans: web", &by).unwrap();
    std::fs::write(root.join("staged.txt"), "staged\n").unwrap();
    git(root, &["add", "staged.txt"]);
    assert_eq!(tree.committable(file).unwrap(), "main");
    std::fs::write(root.join("plans/web.yaml"), "two\n").unwrap();
    assert!(matches!(tree.committable(file), Err(commit::CommitError::Changed(_))));
    tree.commit(file, "plans: web again", &by).unwrap();
    assert_eq!(git(root, &["status", "--porcelain"]), "A  staged.txt\n");
    assert_eq!(
        git(root, &["log", "--format=%s", "--name-only"]),
        "plans: web again\n\nplans/web.yaml\nplans: web\n\nplans/web.yaml\n"
    );
    git(root, &["fsck", "--strict"]);
    assert!(matches!(tree.author(&[]), Err(commit::CommitError::Nobody)));
    let own = root.join("own");
    std::fs::write(&own, "[user]\nname = Own\nemail = own@example.org\n").unwrap();
    assert_eq!(tree.author(&[own]).unwrap().name, "Own");
}

#[test]
fn a_branch_that_moved_meanwhile_is_never_overwritten() {
    let fixture = Fixture::new(true);
    let repo = fixture.open();
    assert!(repo.publish("one", &files(&[("x.yaml", "1")]), "m").unwrap());
    let first = fixture.raw.refname_to_id("refs/heads/ferry/status").unwrap();
    assert!(repo.publish("one", &files(&[("x.yaml", "2")]), "m").unwrap());
    let moved = publish::advance(&fixture.raw, "refs/heads/ferry/status", Some(first), first);
    assert_eq!(moved.unwrap_err().code(), git2::ErrorCode::Modified);
    assert_eq!(repo.report("one").unwrap(), files(&[("x.yaml", "2")]));
}

#[test]
fn a_lock_that_a_killed_publisher_left_is_taken_away() {
    let fixture = Fixture::new(true);
    let repo = fixture.open();
    assert!(repo.publish("one", &files(&[("x.yaml", "1")]), "m").unwrap());
    let left = fixture.refs().join("ferry/status.lock");
    std::fs::write(&left, "").unwrap();
    assert!(repo.publish("one", &files(&[("x.yaml", "2")]), "m").unwrap());
    assert!(!left.exists());
    assert_eq!(repo.report("one").unwrap(), files(&[("x.yaml", "2")]));
}
