//! What people do while disks are copied: stop it, hold it, cancel it, take the wish back, edit it. The worker stands still
//! at a place that is known meanwhile, so that nothing here is a race.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ferry::journal::record::{Entry, Fact};
use rustix::process::{Pid, Signal, kill_process};

use crate::kill::{somebody_works_in, until, workers};
use crate::sandbox::{Ran, Running};
use crate::shop::Shop;

/// How long anything may take that takes a second or two on a quiet machine.
pub(crate) const PATIENCE: u64 = 60;

/// A run whose worker stands still with some of the first VM's disk copied.
pub(crate) struct Halfway {
    run: Running,
    worker: Pid,
    log: PathBuf,
}

impl Halfway {
    /// Starts the program and stops its worker after a checkpoint.
    pub(crate) fn of(shop: &Shop, arguments: &[&str]) -> Self {
        let log = shop.sandbox.path("run.log");
        let run = shop.sandbox.start_logged(shop.with_settings(arguments), &log);
        until(PATIENCE, "a worker comes", || !workers(run.id()).is_empty());
        let worker = Pid::from_raw(workers(run.id())[0]).unwrap();
        until(PATIENCE, "a checkpoint comes", || {
            // In steps of a hundredth of a second, of which a copy takes several: it does not end unseen.
            let here = kill_process(worker, Signal::STOP).is_ok() && happened(shop, "Checkpointed");
            if !here {
                kill_process(worker, Signal::CONT).unwrap();
            }
            here
        });
        assert!(!happened(shop, "DiskCopied"), "it was too fast");
        Self { run, worker, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.run.id()
    }

    /// Waits until the program has said something.
    pub(crate) fn says(&self, what: &str) {
        until(PATIENCE, what, || fs::read_to_string(&self.log).unwrap().contains(what));
    }

    /// Lets the worker go on.
    pub(crate) fn go_on(&self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.worker, Signal::CONT);
    }

    /// Lets everything go on to the end of the program.
    pub(crate) fn end(self) -> Ran {
        self.go_on();
        let mut ran = self.run.wait();
        ran.stderr = fs::read_to_string(&self.log).unwrap();
        ran
    }

    /// Asks the program to end.
    pub(crate) fn interrupt(&self) {
        let pid = i32::try_from(self.run.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    }

    /// Asks the program to end, and lets everything go on to the end of the program.
    pub(crate) fn terminate(self) -> Ran {
        self.interrupt();
        self.end()
    }
}

/// Names the facts that the journal holds, in their order.
fn facts(shop: &Shop) -> Vec<String> {
    let records = shop.journal();
    let name = |entry: &Entry| match entry {
        Entry::Run { fact, .. } => Some(ferry::journal::phase::name_of(fact)),
        Entry::Repo(_) => None,
    };
    records.iter().filter_map(|record| name(&record.entry)).collect()
}

/// Counts facts of a name.
pub(crate) fn count(shop: &Shop, name: &str) -> usize {
    facts(shop).iter().filter(|fact| *fact == name).count()
}

/// Tells whether a fact of that name is journaled.
pub(crate) fn happened(shop: &Shop, name: &str) -> bool {
    count(shop, name) > 0
}

/// Tells how much of the source was read up to each checkpoint, in their order.
fn checkpoints(shop: &Shop) -> Vec<u64> {
    let records = shop.journal();
    let read = |entry: &Entry| match entry {
        Entry::Run { fact: Fact::Checkpointed(checkpoint), .. } => Some(checkpoint.read.0),
        Entry::Run { .. } | Entry::Repo(_) => None,
    };
    records.iter().filter_map(|record| read(&record.entry)).collect()
}

/// Lists what the target's folder holds.
pub(crate) fn names(shop: &Shop) -> Vec<String> {
    let entries = fs::read_dir(shop.sandbox.path("vms")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Commits the estate's manifests after an edit.
pub(crate) fn commit(
    shop: &Shop,
    edit: impl FnOnce(&mut BTreeMap<&'static str, String>),
) -> String {
    let mut files = shop.manifests();
    edit(&mut files);
    shop.plans.commit(&files, "edit")
}

/// Replaces words of one file.
pub(crate) fn replace(
    files: &mut BTreeMap<&'static str, String>,
    file: &str,
    from: &str,
    to: &str,
) {
    let text = files.get_mut(file).unwrap();
    assert!(text.contains(from), "{file} does not say {from}");
    *text = text.replace(from, to);
}

/// Both VMs stand there, as they were copied, and nothing is left to do.
#[track_caller]
pub(crate) fn both_stand(shop: &Shop) {
    assert_eq!(names(shop), ["web01", "web02"]);
    shop.ferry(&["verify", "shop"]).expect(0);
    shop.ferry(&["diff"]).expect(0);
}

#[test]
fn a_copy_that_is_asked_to_end_stops_at_a_checkpoint_and_the_next_run_goes_on_from_it() {
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run"]);
    halfway.interrupt();
    // By then the worker is told.
    halfway.says("web02: waits: Ferry is held or about to end");
    let ran = halfway.end().expect(0);
    assert!(ran.stderr.contains("stopping: nothing new begins"), "{}", ran.stderr);
    assert!(!somebody_works_in(&shop.sandbox.path("vms")));
    assert!(!happened(&shop, "DiskCopied"));
    let before = checkpoints(&shop);
    shop.ferry(&["run", "--once"]).expect(0);
    let after = checkpoints(&shop);
    let (&last, &next) = (before.last().unwrap(), &after[before.len()]);
    assert!(next > last, "from {last} it goes on, not back to {next}");
    both_stand(&shop);
}

#[test]
fn a_copy_that_is_held_stops_at_a_checkpoint_and_goes_on_when_it_is_let_go() {
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run"]);
    let held = shop.ferry(&["hold", "on", "--reason", "power works in hall 2"]).expect(0);
    assert!(held.stdout.starts_with("on: nothing new begins in "), "{}", held.stdout);
    halfway.says("web02: waits: Ferry is held or about to end");
    halfway.go_on();
    let vms = shop.sandbox.path("vms");
    until(PATIENCE, "the worker ends", || !somebody_works_in(&vms));
    assert!(!happened(&shop, "DiskCopied"));
    let status = shop.ferry(&["status", "--why"]).expect(0).stdout;
    assert!(status.contains("Ferry is held or about to end"), "{status}");
    assert!(status.contains("`ferry hold off` lets it go on"), "{status}");
    let before = checkpoints(&shop);
    assert!(shop.ferry(&["hold", "off"]).expect(0).stdout.starts_with("off: "));
    until(PATIENCE, "the migration ends", || count(&shop, "Completed") == 2);
    halfway.terminate().expect(0);
    let after = checkpoints(&shop);
    assert!(after[before.len()] > *before.last().unwrap(), "{before:?} {after:?}");
    both_stand(&shop);
}

#[test]
fn nothing_begins_under_the_brake() {
    let shop = Shop::pair();
    shop.ferry(&["hold", "on"]).expect(0);
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    assert!(ran.stderr.contains("Ferry is held"), "{}", ran.stderr);
    assert_eq!(names(&shop), Vec::<String>::new());
    shop.ferry(&["hold", "off"]).expect(0);
    shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&shop);
}

#[test]
fn a_vm_that_is_canceled_in_git_during_its_copy_is_undone_and_the_other_goes_on() {
    for (policy, kept) in [("keep", 1), ("delete", 0)] {
        let shop = Shop::pair();
        let plan = format!("spec:\n  onFailure: {policy}\n");
        commit(&shop, |files| replace(files, "plan.yaml", "spec:\n", &plan));
        let halfway = Halfway::of(&shop, &["run"]);
        commit(&shop, |files| {
            replace(files, "plan.yaml", "spec:\n", &plan);
            replace(files, "migration.yaml", "plan: shop", "plan: shop, cancel: [web01]");
        });
        until(PATIENCE, "it is given up", || happened(&shop, "UndoBegan"));
        halfway.go_on();
        until(PATIENCE, "it is undone", || happened(&shop, "Undone"));
        until(PATIENCE, "the other is migrated", || happened(&shop, "Completed"));
        halfway.terminate().expect(0);
        let partial = names(&shop).iter().filter(|name| name.starts_with(".ferry-")).count();
        assert_eq!(partial, kept, "{policy}: {:?}", names(&shop));
        assert_eq!(names(&shop).last().unwrap(), "web02");
        let status = shop.ferry(&["status", "shop/web01"]).expect(0).stdout;
        assert!(status.contains("canceled"), "{status}");
        let left = shop.ferry(&["doctor", "--leftovers"]).expect(0).stdout;
        let said = left.matches("kept: the next attempt at the VM").count();
        assert_eq!(said, kept, "{policy}: {left}");
        assert!(left.contains("shop/web02, attempt 1: Completed"), "{left}");
        // A new Migration takes it up again: from the partial disk where that was kept.
        let before = checkpoints(&shop).len();
        commit(&shop, |files| {
            replace(files, "plan.yaml", "spec:\n", &plan);
            replace(files, "migration.yaml", "shop-1", "shop-2");
        });
        shop.ferry(&["run", "--once"]).expect(0);
        assert_eq!(happened(&shop, "AreaAdopted"), kept == 1, "{policy}");
        assert!(checkpoints(&shop).len() > before, "{policy}");
        both_stand(&shop);
    }
}

#[test]
fn a_migration_that_is_deleted_during_a_copy_leaves_what_the_plan_says_and_a_new_one_takes_it_up() {
    for (policy, kept) in [("keep", 1), ("delete", 0)] {
        let shop = Shop::pair();
        let plan = format!("spec:\n  onFailure: {policy}\n");
        let edit = |files: &mut BTreeMap<&'static str, String>| {
            replace(files, "plan.yaml", "spec:\n", &plan);
        };
        commit(&shop, edit);
        let halfway = Halfway::of(&shop, &["run"]);
        let others = count(&shop, "Began");
        commit(&shop, |files| {
            edit(files);
            files.remove("migration.yaml");
        });
        until(PATIENCE, "it is given up", || happened(&shop, "UndoBegan"));
        halfway.go_on();
        until(PATIENCE, "all are undone or done", || {
            count(&shop, "Undone") + count(&shop, "Completed") == others
        });
        halfway.terminate().expect(0);
        let partial = names(&shop).iter().any(|name| name.starts_with(".ferry-"));
        assert_eq!(partial, kept == 1, "{policy}: {:?}", names(&shop));
        let before = checkpoints(&shop);
        commit(&shop, |files| {
            edit(files);
            replace(files, "migration.yaml", "shop-1", "shop-2");
        });
        shop.ferry(&["run", "--once"]).expect(0);
        let next = checkpoints(&shop)[before.len()];
        assert_eq!(happened(&shop, "AreaAdopted"), kept == 1, "{policy} {next}");
        both_stand(&shop);
    }
}

#[test]
fn an_edit_of_a_plan_during_a_copy_does_not_disturb_it() {
    let shop = Shop::pair();
    let halfway = Halfway::of(&shop, &["run", "--once"]);
    commit(&shop, |files| {
        replace(files, "plan.yaml", "{ name: web01 }", "{ name: web01, targetName: other }");
        replace(files, "plan.yaml", "spec:\n", "spec:\n  description: edited\n  verify: none\n");
    });
    halfway.end().expect(0);
    assert_eq!(count(&shop, "Began"), 2);
    assert!(!happened(&shop, "UndoBegan"));
    both_stand(&shop);
}

#[test]
fn a_vm_is_moved_again_only_when_asked_and_never_over_what_stands_there() {
    let shop = Shop::pair();
    shop.ferry(&["run", "--once"]).expect(0);
    // A new Migration alone repeats nothing.
    commit(&shop, |files| replace(files, "migration.yaml", "shop-1", "shop-2"));
    shop.ferry(&["run", "--once"]).expect(0);
    assert_eq!(count(&shop, "Began"), 2);
    let again = |files: &mut BTreeMap<&'static str, String>| {
        replace(files, "migration.yaml", "shop-1", "shop-3");
        replace(files, "migration.yaml", "plan: shop", "plan: shop, again: [web02]");
    };
    commit(&shop, again);
    let marked = shop.sandbox.write("vms/web02/mine.txt", "written since");
    let ran = shop.ferry(&["run", "--once"]).expect(3);
    assert!(ran.stderr.contains("its name on the target belongs to something else"), "{ran:?}");
    assert_eq!(fs::read_to_string(&marked).unwrap(), "written since");
    fs::rename(shop.sandbox.path("vms/web02"), shop.sandbox.path("vms/web02-before")).unwrap();
    shop.ferry(&["run", "--once"]).expect(0);
    assert_eq!(names(&shop), ["web01", "web02", "web02-before"]);
    assert_eq!(count(&shop, "Completed"), 3);
    // Once more is asked for once.
    shop.ferry(&["run", "--once"]).expect(0);
    assert_eq!(count(&shop, "Began"), 3);
    assert_eq!(
        fs::read_to_string(shop.sandbox.path("vms/web02-before/mine.txt")).unwrap(),
        "written since"
    );
}
