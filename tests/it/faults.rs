//! Bad input and faults, against the built program and real files: what a person reads names the reason and the remedy, the
//! other VMs go on, and nothing that Ferry did not make is touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use redb::{Builder, ConcurrencyMode, TableDefinition};

use crate::course::{Halfway, PATIENCE, both_stand, commit, count, happened, names, replace};
use ferry::journal::record::RECORD_VERSION;

use crate::kill::until;
use crate::sandbox::{BRANCH, Ran};
use crate::shop::{PAIR_DISK, Shop, archive_of, system};

/// Checks that a person reads some words wherever a person looks: while it runs, in the status, and in the report in git.
#[track_caller]
fn told(shop: &Shop, ran: &Ran, words: &str, remedy: &str) {
    let status = shop.ferry(&["status", "--why"]).expect(0).stdout;
    let report: String = shop.plans.files("ferry/status").into_values().collect();
    // Tables and YAML break lines.
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (place, text) in [("stderr", &ran.stderr), ("status", &status), ("report", &report)] {
        assert!(flat(text).contains(words), "{place} does not say {words:?}:\n{text}");
    }
    assert!(flat(&status).contains(remedy), "the status does not say {remedy:?}:\n{status}");
    assert!(flat(&report).contains(remedy), "the report does not say {remedy:?}:\n{report}");
}

/// The second VM came to its end whatever became of the first, which has no VM.
#[track_caller]
fn the_other_went_on(shop: &Shop) {
    let names = names(shop);
    assert!(names.contains(&"web02".to_owned()), "{names:?}");
    assert!(!names.contains(&"web01".to_owned()), "{names:?}");
    shop.ferry(&["verify", "shop/web02"]).expect(0);
}

/// Changes bytes of the first VM's archive after a text.
fn tamper(shop: &Shop, after: &str, change: impl Fn(&mut [u8])) {
    let path = shop.sandbox.path("ova/web01.ova");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(after.len()).position(|window| window == after.as_bytes()).unwrap();
    change(&mut bytes[at + after.len()..]);
    fs::write(&path, bytes).unwrap();
}

#[test]
fn an_archive_that_is_replaced_during_the_copy_stalls_its_vm_until_a_new_migration() {
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run", "--once"]);
    let new = archive_of(&shop.sandbox.path(""), "new", vec![system("web01", PAIR_DISK)]);
    let (ova, old) = (shop.sandbox.path("ova/web01.ova"), shop.sandbox.path("old.ova"));
    fs::rename(&ova, &old).unwrap();
    fs::rename(&new, &ova).unwrap();
    let ran = halfway.end().expect(1);
    told(
        &shop,
        &ran,
        "ova/web01.ova was replaced during the copy",
        "leave the archive alone until its VMs are migrated",
    );
    the_other_went_on(&shop);
    // Back again, and a new Migration goes on from the partial disk.
    fs::rename(&old, &ova).unwrap();
    commit(&shop, |files| replace(files, "migration.yaml", "shop-1", "shop-2"));
    shop.ferry(&["run", "--once"]).expect(0);
    assert!(happened(&shop, "AreaAdopted"));
    both_stand(&shop);
}

#[test]
fn an_archive_whose_disk_is_not_what_was_exported_is_never_made_a_vm() {
    // The manifest names another hash than the disk has.
    let shop = Shop::pair();
    tamper(&shop, "SHA256(web01-disk1.vmdk)= ", |line| {
        line[0] = if line[0] == b'0' { b'1' } else { b'0' };
    });
    let ran = shop.ferry(&["run", "--once"]).expect(1);
    told(&shop, &ran, "is not what was exported: its SHA-256 is", "transfer the archive again");
    the_other_went_on(&shop);

    // A byte of the disk differs.
    let shop = Shop::pair();
    let path = shop.sandbox.path("ova/web01.ova");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    shop.ferry(&["run", "--once"]).expect(1);
    the_other_went_on(&shop);
}

#[test]
fn an_archive_that_is_cut_off_is_no_source_and_says_so() {
    let shop = Shop::pair();
    let file = fs::OpenOptions::new().write(true).open(shop.sandbox.path("ova/web01.ova")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    told(
        &shop,
        &ran,
        "ova/web01.ova: it cannot be listed: it ends in the middle of the archive",
        "copy or export it again, or take it out of the folder",
    );
    the_other_went_on(&shop);
}

#[test]
fn an_archive_that_shrinks_during_the_copy_stalls_its_vm() {
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run", "--once"]);
    let file = fs::OpenOptions::new().write(true).open(shop.sandbox.path("ova/web01.ova")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let ran = halfway.end().expect(1);
    told(&shop, &ran, "web01.ova was replaced during the copy", "leave the archive alone");
    the_other_went_on(&shop);
}

#[test]
fn a_path_outside_of_what_is_allowed_or_through_a_link_is_refused_with_the_line_to_add() {
    let shop = Shop::pair();
    let root = shop.sandbox.path("");
    let outside = root.join("private");
    fs::create_dir(&outside).unwrap();
    fs::rename(root.join("ova/web01.ova"), outside.join("web01.ova")).unwrap();
    let elsewhere = |files: &mut BTreeMap<&'static str, String>, to: &str| {
        let from = format!("path: {}ova ", root.display());
        replace(files, "providers.yaml", &from, &format!("path: {}{to} ", root.display()));
    };
    commit(&shop, |files| elsewhere(files, "private"));
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    told(
        &shop,
        &ran,
        "private lies below none of the settings' `allowPaths`",
        "add a folder above it to `allowPaths` in ferry.yaml",
    );
    std::os::unix::fs::symlink(&outside, root.join("ova/link")).unwrap();
    commit(&shop, |files| elsewhere(files, "ova/link"));
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    told(&shop, &ran, "Too many levels of symbolic links", "name the file itself");
    assert_eq!(names(&shop), Vec::<String>::new());
    // Within an allowed folder, too: the others of it are read.
    std::os::unix::fs::symlink(outside.join("web01.ova"), root.join("ova/web01.ova")).unwrap();
    commit(&shop, |_| {});
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    told(&shop, &ran, "ova/web01.ova: Too many levels of symbolic links", "name the file itself");
    the_other_went_on(&shop);
}

#[test]
fn a_foreign_folder_under_the_name_is_never_written_over() {
    let shop = Shop::pair();
    let theirs = shop.sandbox.write("vms/web01/disk-0.raw", "theirs");
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    assert!(ran.stderr.contains("shop/web01: blocked: plan.yaml"), "{}", ran.stderr);
    let said = "`web01` stands on `lab` already and was not made by this instance";
    let status = shop.ferry(&["status", "--why", "shop/web01"]).expect(0).stdout;
    assert!(status.contains(said) && status.contains("another `targetName`"), "{status}");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    shop.ferry(&["verify", "shop/web02"]).expect(0);

    // One that comes during the copy keeps neither its name nor the place of the other VM.
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run", "--once"]);
    let theirs = shop.sandbox.write("vms/web01/disk-0.raw", "theirs");
    halfway.end().expect(3);
    let status = shop.ferry(&["status", "--why", "shop/web01"]).expect(0).stdout;
    assert!(status.contains(said) && status.contains("another `targetName`"), "{status}");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    shop.ferry(&["verify", "shop/web02"]).expect(0);
    fs::remove_dir_all(shop.sandbox.path("vms/web01")).unwrap();
    shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&shop);
}

#[test]
fn a_target_that_goes_away_during_the_copy_is_said_and_nothing_is_made_elsewhere() {
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run"]);
    fs::remove_dir_all(shop.sandbox.path("vms")).unwrap();
    halfway.says("No such file");
    halfway.terminate().expect(0);
    let status = shop.ferry(&["status", "--why"]).expect(0).stdout;
    let said = format!("cannot open {}", shop.sandbox.path("vms").display());
    assert!(status.contains(&said), "{status}");
    assert!(status.contains("check that it exists and that ferry's user may open it"), "{status}");
    assert!(!shop.sandbox.path("vms").exists());
}

#[test]
fn a_journal_of_a_newer_version_is_refused_by_everything() {
    let shop = Shop::pair();
    shop.ferry(&["run", "--once"]).expect(0);
    let newer = (RECORD_VERSION + 1).to_string();
    let table: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
    let path = shop.sandbox.path("state/journal.redb");
    let mut builder = Builder::new();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    let database = builder.create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert("newest-record", newer.as_str()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let reported = shop.plans.tip("ferry/status");
    for command in [&["run", "--once"][..], &["run"], &["status"], &["diff"], &["verify", "shop"]] {
        let ran = shop.ferry(command).expect(1);
        let words = format!(
            "was written by a newer ferry: it holds version {newer}, and this ferry reads up to {RECORD_VERSION}"
        );
        assert!(ran.stderr.contains(&words), "{command:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("start the newer ferry again"), "{command:?}: {}", ran.stderr);
    }
    assert_eq!(shop.plans.tip("ferry/status"), reported);
}

#[test]
fn a_second_run_on_one_state_folder_names_the_first() {
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run", "--once"]);
    for command in [&["run", "--once"][..], &["adopt", "--yes"]] {
        let ran = shop.ferry(command).expect(1);
        let words = format!("ferry of the instance `test`, process {}, since ", halfway.id());
        assert!(ran.stderr.contains(&words), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("stop that process, or give this one another"),
            "{}",
            ran.stderr
        );
    }
    halfway.end().expect(0);
    both_stand(&shop);
}

#[test]
fn a_lost_state_folder_is_not_taken_for_a_beginning() {
    let shop = Shop::pair();
    shop.ferry(&["run", "--once"]).expect(0);
    let state = shop.sandbox.path("state");
    fs::rename(&state, shop.sandbox.path("lost")).unwrap();
    let before = (shop.target(), shop.plans.tip("ferry/status"));
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    let head = shop.plans.head().unwrap();
    let words = "the journal is empty, but the status branch holds a report of test";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("`ferry adopt {head}`")), "{}", ran.stderr);
    assert_eq!((shop.target(), shop.plans.tip("ferry/status")), before);
    assert_eq!(shop.journal(), []);
    shop.ferry(&["adopt"]).expect(1);
    shop.ferry(&["adopt", &head, "--yes"]).expect(0);
    // What stands on the target is not this journal's.
    shop.ferry(&["run", "--once"]).expect(3);
    let status = shop.ferry(&["status", "--why"]).expect(0).stdout;
    assert!(status.contains("was not made by this instance"), "{status}");
    assert_eq!(shop.target(), before.0);
    // The folder is found again.
    fs::remove_dir_all(&state).unwrap();
    fs::rename(shop.sandbox.path("lost"), &state).unwrap();
    shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&shop);
}

/// Points the branch of plans at a commit.
fn point(shop: &Shop, commit: &str) {
    let repository = git2::Repository::open(shop.sandbox.path("plans")).unwrap();
    let name = format!("refs/heads/{BRANCH}");
    repository.reference(&name, commit.parse().unwrap(), true, "test").unwrap();
}

#[test]
fn a_branch_that_is_rewound_or_emptied_counts_only_when_a_person_says_so() {
    let shop = Shop::pair();
    let first = shop.plans.head().unwrap();
    let second = commit(&shop, |files| {
        replace(files, "plan.yaml", "spec:\n", "spec:\n  description: second\n");
    });
    shop.ferry(&["run", "--once"]).expect(0);
    point(&shop, &first);
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    let words = format!("the branch was rewound: {first} does not descend from {second}");
    assert!(ran.stderr.contains(&words), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("undo it, or accept it with `ferry adopt {first}`")));
    point(&shop, &second);
    shop.ferry(&["run", "--once"]).expect(0);
    let empty = shop.plans.commit(&BTreeMap::new(), "empty");
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    assert!(ran.stderr.contains(&format!("{empty} holds no manifest any more")), "{}", ran.stderr);
    // The last commit that counts still counts.
    assert!(shop.ferry(&["status"]).expect(0).stdout.contains("shop/web01"));
    shop.ferry(&["adopt", &empty, "--yes"]).expect(0);
    let ran = shop.ferry(&["run", "--once"]).expect(0);
    assert!(!ran.stderr.contains("held"), "{}", ran.stderr);
    // What was migrated is not managed any more, and stands.
    assert_eq!(names(&shop), ["web01", "web02"]);
}

/// Splits the estate's plan into one for each VM.
fn two_plans(shop: &Shop) -> BTreeMap<&'static str, String> {
    let mut files = shop.manifests();
    let plan = files.remove("plan.yaml").unwrap();
    let migration = files.remove("migration.yaml").unwrap();
    for (file, name, other) in [("a.yaml", "web01", "web02"), ("b.yaml", "web02", "web01")] {
        let plan = plan.replace("name: shop", &format!("name: {name}"));
        let plan = plan.replace(&format!("{{ name: {other} }}"), "").replace("}, ]", "}]");
        let plan = plan.replace("[, ", "[");
        let migration = migration.replace("plan: shop", &format!("plan: {name}"));
        let migration = migration.replace("shop-1", &format!("{name}-1"));
        files.insert(file, format!("{plan}---\n{migration}"));
    }
    files
}

#[test]
fn one_broken_file_stops_its_own_vms_and_no_others() {
    // Broken from the start.
    let shop = Shop::pair();
    let mut files = two_plans(&shop);
    let whole = files["a.yaml"].clone();
    files.insert("a.yaml", whole.replace("vms:", "vmz:"));
    shop.plans.commit(&files, "broken");
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    assert!(
        ran.stderr.contains("a.yaml:") && ran.stderr.contains("did you mean `vms`"),
        "{}",
        ran.stderr
    );
    assert_eq!(names(&shop), ["web02"]);
    files.insert("a.yaml", whole.clone());
    shop.plans.commit(&files, "mended");
    shop.ferry(&["run", "--once"]).expect(0);
    assert_eq!(names(&shop), ["web01", "web02"]);

    // Broken before anything began, after a version that was whole: what it last said is known, and does not start.
    let shop = Shop::pair();
    let mut files = two_plans(&shop);
    let whole = files["a.yaml"].clone();
    shop.ferry(&["hold", "on"]).expect(0);
    shop.plans.commit(&files, "whole");
    shop.ferry(&["run", "--once"]).expect(3);
    files.insert("a.yaml", whole + "  oops: [\n");
    shop.plans.commit(&files, "broken");
    shop.ferry(&["hold", "off"]).expect(0);
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    assert!(ran.stderr.contains("a.yaml:14:3: this is no YAML"), "{}", ran.stderr);
    let status = shop.ferry(&["status", "--why"]).expect(0).stdout;
    assert!(status.contains("nothing starts from a file that is broken: a.yaml:14:3"), "{status}");
    assert!(status.contains("mend the file"), "{status}");
    assert_eq!(names(&shop), ["web02"]);
}

#[test]
fn a_link_and_a_submodule_in_the_tree_are_refused_by_name() {
    let shop = Shop::pair();
    let repository = git2::Repository::open(shop.sandbox.path("plans")).unwrap();
    let head = repository.head().unwrap().peel_to_commit().unwrap();
    let mut tree = repository.treebuilder(Some(&head.tree().unwrap())).unwrap();
    let target = repository.blob(b"/etc/passwd").unwrap();
    tree.insert("link.yaml", target, 0o120_000).unwrap();
    tree.insert("module", head.id(), 0o160_000).unwrap();
    let tree = repository.find_tree(tree.write().unwrap()).unwrap();
    let who = head.author();
    let branch = format!("refs/heads/{BRANCH}");
    repository.commit(Some(&branch), &who, &who, "odd", &tree, &[&head]).unwrap();
    let plans = shop.sandbox.path("plans");
    let check = [Path::new("check"), &plans, Path::new("--rev"), Path::new("main")];
    let checked = shop.sandbox.ferry(check).expect(1).stdout;
    for name in ["link.yaml", "module", "it is a symbolic link", "it is a submodule"] {
        assert!(checked.contains(name), "{checked}");
    }
    let words =
        ["link.yaml: not read: it is a symbolic link", "module: not read: it is a submodule"];
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    for words in words {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert_eq!(names(&shop), ["web01", "web02"]);
    shop.ferry(&["diff"]).expect(3);
}

#[test]
fn an_archive_that_may_not_be_read_is_said_and_the_others_go_on() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    let shop = Shop::pair();
    let root = shop.sandbox.path("");
    let mut command = shop.sandbox.command(shop.with_settings(&["run", "--once"]));
    // Root reads whatever the mode says: then the program, a copy that anybody may start, runs as nobody.
    if rustix::process::geteuid().is_root() {
        const NOBODY: u32 = 65_534;
        let program = root.join("ferry");
        fs::copy(command.get_program(), &program).unwrap();
        let mut open = vec![root.clone()];
        while let Some(path) = open.pop() {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            if path.is_dir() {
                open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        command = shop.sandbox.command_of(&program, shop.with_settings(&["run", "--once"]));
        command.uid(NOBODY).gid(NOBODY);
    }
    fs::set_permissions(root.join("ova/web01.ova"), fs::Permissions::from_mode(0o000)).unwrap();
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("ova/web01.ova: Permission denied"), "{said}");
    the_other_went_on(&shop);
}

#[test]
fn a_program_whose_file_is_replaced_while_it_runs_goes_on() {
    let shop = Shop::pair();
    let program = shop.sandbox.path("ferry");
    fs::copy(env!("CARGO_BIN_EXE_ferry"), &program).unwrap();
    shop.ferry(&["hold", "on"]).expect(0);
    let mut run = shop.sandbox.command_of(&program, shop.with_settings(&["run"]));
    let mut run = run.stderr(std::process::Stdio::null()).spawn().unwrap();
    let status = "ferry/status";
    until(PATIENCE, "it stands under the brake", || shop.plans.tip(status).is_some());
    fs::remove_file(&program).unwrap();
    fs::write(&program, "an upgrade, half written").unwrap();
    shop.ferry(&["hold", "off"]).expect(0);
    until(PATIENCE, "the migration ends", || count(&shop, "Completed") == 2);
    run.kill().unwrap();
    run.wait().unwrap();
    both_stand(&shop);
}

#[test]
fn a_folder_of_plans_that_is_renamed_is_held_and_not_taken_for_a_wish() {
    let shop = Shop::pair();
    let below = |folder: &str| -> BTreeMap<String, String> {
        let files = shop.manifests().into_iter();
        files.map(|(name, text)| (format!("{folder}/{name}"), text)).collect()
    };
    let commit = |folder: &str| {
        let files = below(folder);
        let named = files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
        shop.plans.commit(&named, folder)
    };
    commit("plans");
    shop.ferry(&["run", "--once", "--path", "plans"]).expect(0);
    let renamed = commit("vms");
    let ran = shop.ferry(&["run", "--once", "--path", "plans"]).expect(3);
    assert!(ran.stderr.contains("holds no manifest any more"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("ferry adopt {renamed}")), "{}", ran.stderr);
}
