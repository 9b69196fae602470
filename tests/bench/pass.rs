//! What a pass over 1,000 plans of 10 VMs each costs besides the disks, the network and git: `cargo bench --bench pass`.
//!
//! The bounds: a pass without change under 50 ms, since one comes with every event; a cold one, after a start, under 3 s. What
//! the ports of this world cost by themselves stands first, since it is a part of every pass that follows.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "the table is the answer")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

#[expect(dead_code, reason = "another benchmark uses more of it")]
mod fleet;
mod measure;

use std::fs;

use ferry::adapter::store::StateDir;
use ferry::controller::{Controller, Pass};
use ferry::decide::{Rest, Stand, Standing};
use ferry::desired::Site;
use ferry::domain::id::Instance;

use fleet::{Fleet, config};
use measure::Times;

const PLANS: usize = 1_000;
const VMS_PER_PLAN: usize = 10;

fn main() {
    let fleet = Fleet::new(PLANS, VMS_PER_PLAN);
    let world = fleet.world();
    println!("{PLANS} plans, {} VMs", fleet.vms());
    println!("{:<34}{:>12}   {:>9}", "", "median", "spread");

    let read = || {
        let head = world.repo.head().unwrap().unwrap();
        let tree = world.repo.tree(&head).unwrap();
        tree.files.iter().map(|file| world.repo.blob(&file.blob, 1 << 20).unwrap().len()).sum()
    };
    let all: usize = read();
    row("reading all manifests", Times::of(|| (), |()| assert_eq!(read(), all)));
    let site = Site::Ova { path: "/srv/ova".into() };
    let look = || world.source.observe(&site).unwrap().vms.len();
    row("looking at the source", Times::of(|| (), |()| assert_eq!(look(), fleet.vms())));

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let state = StateDir::open(folder.path(), &Instance::new("bench"), world.clock.now()).unwrap();
    let mut journal = state.journal().unwrap();
    let cold = Times::of(
        || (),
        |()| {
            let mut controller = Controller::new(world, &mut journal, config()).unwrap();
            still(&controller.pass().unwrap(), &fleet);
        },
    );
    row("a cold pass", cold);
    let mut controller = Controller::new(world, &mut journal, config()).unwrap();
    still(&controller.pass().unwrap(), &fleet);
    let unchanged = Times::of(|| (), |()| still(&controller.pass().unwrap(), &fleet));
    row("a pass without change", unchanged);

    println!("resident {}, at most {}", status("VmRSS"), status("VmHWM"));
}

/// Checks that a pass saw every VM, and that none has a reason to move or to be blocked.
fn still(pass: &Pass, fleet: &Fleet) {
    assert!(pass.tasks.is_empty() && pass.unread.is_none() && pass.report_error.is_none());
    assert_eq!(pass.stands.len(), fleet.vms());
    let resting = |stand: &Stand| matches!(stand.state, Standing::Resting(Rest::NoMigration));
    let other = pass.stands.iter().find(|stand| !resting(stand));
    assert!(other.is_none(), "{other:?}");
}

fn row(name: &str, times: Times) {
    println!("{name:<34}{times}");
}

/// Reads a line of what the kernel says of this process.
fn status(name: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or("unknown").trim().to_owned()
}
