//! `ferry demo`: the main job end to end, with nothing installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::adapter::ova::boot::{MARKER, boot_disk};
use crate::adapter::ova::make::{DiskSpec, OvaSpec, SystemSpec, make_ova};
use crate::cli::run::reconcile;
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, diff, init, tell, width};
use crate::controller::run::Until;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Firmware, Nic};
use crate::port::PlanRepo;

/// What the demo's VM is called in the sample's plan.
const VM: &str = "web-01";

/// What its guest sees. A quarter of it is stored: enough for a bar to move, little enough for any machine.
const DISK: u64 = 512 << 20;

/// Lies in a folder that a demo made, so that the next one may take its place.
const MADE_BY: &str = ".ferry-demo";

/// Migrates a VM with a source, a repository and a target of its own.
///
/// Makes an OVA file, a git repository with a plan for its VM, and settings; shows what would be done, does it, and shows the
/// report, the VM and what to do next. Nothing outside its folder is touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry demo
  ferry demo --dir /tmp/ferry
  ferry demo --dir /tmp/ferry --keep   goes on with what is there: nothing is left to do

Exit codes:
  0   done
  1   an error
  64  wrong usage")]
pub(super) struct Arguments {
    /// Where everything is made [default: `ferry-demo` in the folder for temporary files].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keeps what an earlier demo made there and goes on with it.
    #[arg(long)]
    keep: bool,
}

/// Makes everything, migrates, and shows it.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { dir, keep } = arguments;
    let dir = dir.unwrap_or_else(|| std::env::temp_dir().join("ferry-demo"));
    let kept = prepare(&dir, keep)?;
    let dir = dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?;
    let at = |name: &str| dir.join(name).display().to_string();
    step(1, "The source: an OVA file with one VM, whose disk boots");
    let ova = dir.join("ova").join(format!("{VM}.ova"));
    if !kept {
        tell("packing …");
        pack(&ova)?;
    }
    let size = std::fs::metadata(&ova).with_context(|| format!("cannot open {}", ova.display()))?;
    answer(&format!(
        "   {}  ({}, the guest sees {})\n",
        ova.display(),
        Bytes(size.len()),
        Bytes(DISK)
    ));
    step(2, "The wish: a plan in git");
    answer(&format!("   {}\n   {}\n", at("plans/plan.yaml"), at("plans/migration.yaml")));
    step(3, "The preview: ferry diff");
    let global = Global { config: Some(dir.join("ferry.yaml")), ..Global::default() };
    let settings = Settings::resolve(&global, &Flags::default())?;
    let preview = diff::look(&settings, None, None)?;
    answer(&indented(&preview.text(width().saturating_sub(3))));
    step(4, "The migration: ferry run --once");
    let exit = reconcile(&settings, Until::Idle)?;
    ensure!(
        exit == Exit::Done,
        "the migration did not come to its end; see `ferry status --config {} --why`",
        at("ferry.yaml")
    );
    step(5, "The report: committed to the branch ferry/status");
    let report = settings.open_repo()?.report(settings.instance.as_str())?;
    let page = report.get("plans/first.md").context("the report lacks the plan")?;
    answer(&indented(&String::from_utf8_lossy(page)));
    step(6, "The VM: a raw disk and a libvirt domain");
    let folder = dir.join("vms").join(VM);
    let domain = folder.join("domain.xml");
    let xml = std::fs::read_to_string(&domain)
        .with_context(|| format!("cannot read {}", domain.display()))?;
    answer(&format!("   {}\n{}", domain.display(), indented(&xml)));
    next(&dir, &folder);
    Ok(Exit::Done)
}

/// Makes the folder, or finds that an earlier demo made it and that it is to be kept.
fn prepare(dir: &Path, keep: bool) -> anyhow::Result<bool> {
    let ours = dir.join(MADE_BY).exists();
    if ours && keep {
        return Ok(true);
    }
    if ours {
        std::fs::remove_dir_all(dir)
            .with_context(|| format!("cannot remove the earlier demo {}", dir.display()))?;
    } else if dir.exists() && std::fs::read_dir(dir).is_ok_and(|mut some| some.next().is_some()) {
        bail!(
            "{} holds something that no demo made … hint: name another folder with --dir",
            dir.display()
        );
    }
    init::make_sample(dir, "single-ova")?;
    std::fs::write(dir.join(MADE_BY), "made by ferry demo; the next one takes its place\n")
        .with_context(|| format!("cannot write into {}", dir.display()))?;
    Ok(false)
}

fn pack(ova: &Path) -> anyhow::Result<()> {
    let nic = Nic { network: "VM Network".to_owned(), mac: None };
    let disk = DiskSpec { capacity: DISK, grains: Some(boot_disk(DISK, MARKER)) };
    let system = SystemSpec {
        name: VM.to_owned(),
        cpus: 1,
        memory: Bytes::mib(64),
        firmware: Firmware::Bios,
        os: "otherGuest".to_owned(),
        nics: vec![nic],
        disks: vec![disk],
    };
    make_ova(ova, OvaSpec { name: VM.to_owned(), systems: vec![system] })
        .with_context(|| format!("cannot make {}", ova.display()))
}

fn step(number: u32, title: &str) {
    answer(&format!("\n{number}  {title}\n"));
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}").trim_end().to_owned() + "\n").collect()
}

fn next(dir: &Path, folder: &Path) {
    let (dir, folder) = (dir.display(), folder.display());
    answer(&format!(
        "\nNext\n   \
         boot it        qemu-system-x86_64 -nographic -drive file={folder}/disk-0.raw,format=raw   (prints {MARKER}; Ctrl-A X ends it)\n   \
         or             virsh create --console {folder}/domain.xml\n   \
         compare it     ferry verify --config {dir}/ferry.yaml first\n   \
         run it again   ferry run --once --config {dir}/ferry.yaml   (nothing is left to do)\n   \
         see the report git -C {dir}/plans show ferry/status:main/vms/first/{VM}.yaml\n   \
         start your own ferry init vms\n"
    ));
}
