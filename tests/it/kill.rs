//! `kill -9` of the controller, of the worker and of both: after every kind of fact and at points of a copy. The next run
//! comes to the same end, and nothing is left behind.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::Running;
use crate::shop::{DISK, Shop, archive};

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Controller,
    Worker,
    Both,
}

/// When.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As soon as the journal holds so many records.
    Records(usize),
    /// As soon as so many bytes stand on the target.
    Occupied(u64),
}

fn reached(shop: &Shop, moment: Moment) -> bool {
    match moment {
        Moment::Records(count) => shop.journal().len() >= count,
        Moment::Occupied(bytes) => shop.occupied() >= bytes,
    }
}

/// Lists the processes that a process started and that live.
pub(crate) fn children(parent: u32) -> Vec<i32> {
    let list = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        let alive = *fields.first()? != "Z";
        (alive && *fields.get(1)? == parent.to_string()).then_some(pid)
    });
    list.collect()
}

/// Lists the workers that a process of this program started and that live.
pub(crate) fn workers(parent: u32) -> Vec<i32> {
    let works = |process: &i32| {
        fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.ends_with(b"\0worker\0"))
    };
    children(parent).into_iter().filter(works).collect()
}

/// Tells whether a process of this program still has a file below a folder open.
pub(crate) fn somebody_works_in(folder: &Path) -> bool {
    let folder = folder.to_str().unwrap();
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { return false };
        files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|path| path.to_string_lossy().starts_with(folder))
        })
    })
}

/// Waits until something holds, for at most so many seconds.
#[expect(clippy::panic, reason = "a wait that is too long fails the test")]
pub(crate) fn until(seconds: u64, what: &str, holds: impl Fn() -> bool) {
    let (done, ticks) = std::sync::mpsc::channel::<()>();
    for _ in 0..seconds * 100 {
        if holds() {
            return;
        }
        // A pause without a sleep: nobody ever sends.
        let _ = ticks.recv_timeout(std::time::Duration::from_millis(10));
    }
    drop(done);
    panic!("{what} within {seconds} s");
}

/// Makes a new estate.
type Estate<'a> = dyn Fn() -> Shop + Sync + 'a;

/// Kills a first run at a moment, lets others finish, and compares the end.
fn trial(estate: &Estate<'_>, victim: Victim, moment: Moment, wanted: &End) {
    let shop = estate();
    let run = shop.sandbox.start(shop.with_settings(&["run", "--once"]));
    let pid = run.id();
    until(60, &format!("{victim:?} at {moment:?} comes"), || {
        reached(&shop, moment) || children_gone(pid)
    });
    strike(run, victim);
    until(20, "the worker ends", || !somebody_works_in(&shop.sandbox.path("vms")));
    let mut ran = shop.ferry(&["run", "--once"]);
    // A worker that was killed under a living controller is started again by it, or by the next run.
    if ran.code == Some(1) {
        ran = shop.ferry(&["run", "--once"]);
    }
    let journal = shop.journal();
    let last: Vec<_> = journal.iter().rev().take(6).map(|record| &record.entry).collect();
    assert_eq!(ran.code, Some(0), "{victim:?} {moment:?}\n{}\n{last:#?}", ran.stderr);
    assert_eq!(End::of(&shop), *wanted, "{victim:?} {moment:?}");
}

fn children_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn strike(run: Running, victim: Victim) {
    let workers = workers(run.id());
    let slay = || {
        for pid in &workers {
            // It may have ended by itself.
            let _ = Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    };
    match victim {
        Victim::Controller => drop(run.kill()),
        Victim::Worker => {
            slay();
            drop(run.wait());
        }
        Victim::Both => {
            slay();
            drop(run.kill());
        }
    }
}

/// What a migration comes to.
#[derive(Debug, PartialEq, Eq)]
struct End {
    files: std::collections::BTreeMap<String, String>,
}

impl End {
    fn of(shop: &Shop) -> Self {
        shop.ferry(&["diff"]).expect(0);
        shop.ferry(&["verify", "shop"]).expect(0);
        let files = shop.target();
        #[cfg(feature = "peers")]
        for image in files
            .keys()
            .filter(|name| Path::new(name).extension().is_some_and(|end| end == "qcow2"))
        {
            let image = shop.sandbox.path("vms").join(image);
            crate::peers::run("qemu-img", ["check", "-q", "-f", "qcow2", image.to_str().unwrap()]);
        }
        Self { files }
    }
}

#[test]
fn whoever_is_killed_whenever_the_end_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    whoever_is_killed(&|| Shop::around(&archive));
}

#[test]
fn whoever_is_killed_over_qcow2_disks_the_end_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    whoever_is_killed(&|| Shop::around_with_qcow2(&archive));
}

fn whoever_is_killed(estate: &Estate<'_>) {
    let shop = estate();
    shop.ferry(&["run", "--once"]).expect(0);
    let records = shop.journal().len();
    let wanted = End::of(&shop);
    assert_eq!(
        wanted.files.len(),
        8,
        "two VMs of a disk, its map, a domain and a card: {wanted:?}"
    );
    let mut trials: Vec<(Victim, Moment)> = Vec::new();
    for count in 1..=records {
        trials.push((Victim::Controller, Moment::Records(count)));
    }
    for part in 1..6_u64 {
        let moment = Moment::Occupied(DISK / 4 * part / 6);
        for victim in [Victim::Controller, Victim::Worker, Victim::Both] {
            trials.push((victim, moment));
        }
    }
    // Two at a time: there are machines with two cores.
    let next = std::sync::Mutex::new(trials.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let trial_of = next.lock().unwrap().next();
                    let Some((victim, moment)) = trial_of else { break };
                    trial(estate, victim, moment, &wanted);
                }
            });
        }
    });
}
