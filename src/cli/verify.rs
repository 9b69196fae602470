//! `ferry verify`: reads target disks again.

use std::io::Write as _;

use crate::adapter::confine::Confine;
use crate::adapter::image::LocalImages;
use crate::cli::machine::progress;
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, tell};
use crate::copy::engine::{Flow, verify_disk};
use crate::copy::protocol::DiskJob;
use crate::domain::text::visible;
use crate::journal::phase::Phase;
use crate::journal::progress::Run;
use crate::journal::record::DiskCopy;
use crate::manifest::document::Verify;

/// Reads the target's disks again and compares them with the recorded hashes.
///
/// A conversion writes to the guest's disks, and so does a guest that was started on the target: from then on they differ by
/// design. Of a conversion that is said, and nothing is compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry verify --config prod/ferry.yaml shop
  ferry verify --config prod/ferry.yaml shop/web01

Exit codes:
  0   every disk holds what was copied
  1   an error, a disk that differs or was converted, or nothing to compare
  64  wrong usage")]
pub(super) struct Arguments {
    /// The plan, or one VM of it.
    #[arg(value_name = "PLAN[/VM]")]
    what: String,
    #[command(flatten)]
    flags: Flags,
}

/// Compares and prints one line for each disk.
pub(super) fn run(arguments: Arguments, global: &Global) -> anyhow::Result<Exit> {
    let Arguments { what, flags } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    let progress = progress(&settings)?;
    let (plan, vm) = match what.split_once('/') {
        Some((plan, vm)) => (plan, Some(vm)),
        None => (what.as_str(), None),
    };
    let images = LocalImages::new(Confine::new(settings.allow_paths.iter().cloned()));
    let mut exit = Exit::Done;
    let mut compared = 0;
    for run in progress.newest() {
        let key = &run.begun.instructions().desired.key;
        if key.plan.as_str() != plan || vm.is_some_and(|vm| key.vm.as_str() != vm) {
            continue;
        }
        let Phase::Completed { area } = &run.phase else {
            let phase = run.phase.name();
            tell(&format!("{}: not migrated, it is {phase}", visible(&key.to_string())));
            exit = Exit::Failed;
            continue;
        };
        for copy in &area.disks {
            compared += 1;
            let disk = visible(copy.disk.as_str()).into_owned();
            let name = format!("{}  {disk}", visible(&key.to_string()));
            let line = match compare(&images, run, copy) {
                Ok(root) => format!("{name}  as copied  {root}\n"),
                Err(error) => {
                    exit = Exit::Failed;
                    format!("{name}  {}\n", visible(&error.to_string()))
                }
            };
            answer(&line);
        }
    }
    if compared == 0 {
        let mut out = anstream::stderr();
        let _ = writeln!(
            out,
            "error: nothing of {} was migrated … hint: `ferry status` lists what was",
            visible(&what)
        );
        exit = Exit::Failed;
    }
    Ok(exit)
}

fn compare(images: &LocalImages, run: &Run, copy: &DiskCopy) -> anyhow::Result<String> {
    if copy.converted {
        let ended = run.trail.iter().find(|(_, phase)| *phase == "Converted");
        let at = ended.map_or_else(String::new, |(at, _)| format!(", {at:.0}"));
        anyhow::bail!(
            "its hashes ended when its guest was converted{at}: that writes to the disks"
        );
    }
    let disks = &run.begun.instructions().vm.disks;
    let disk = disks.iter().find(|disk| disk.key == copy.disk);
    let (Some(disk), Some(root)) = (disk, &copy.root) else {
        anyhow::bail!("the journal has no hash of it");
    };
    let job = DiskJob {
        disk: disk.clone(),
        target: copy.target.clone(),
        checkpoint: None,
        copied: Some(root.clone()),
    };
    verify_disk(images, &job, root, Verify::Full, &mut |_| Flow::Continue)?;
    Ok(root.clone())
}
