//! `ferry demo`: the main job end to end, with nothing installed.

use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use crate::adapter::clock::SystemClock;
use crate::adapter::ova::boot::{MARKER, boot_disk};
use crate::cli::run::reconcile;
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, diff, init, tell, width};
use crate::controller::run::Until;
use crate::domain::unit::Bytes;
use crate::port::PlanRepo;
use crate::sim::vsphere::{Scenario, Server};

/// What the VMs of the sample's plan are called: the first one runs, the other one is off.
const VMS: [&str; 2] = ["web-01", "db-01"];

/// What their guests see. A quarter of it holds data: enough for a bar to move, little enough for any machine.
const DISK: u64 = 256 << 20;

/// Lies in a folder that a demo made, so that the next one may take its place; says where its vCenter listens.
const MADE_BY: &str = ".ferry-demo";

/// Migrates two VMs from a simulated vCenter, with a repository and a target of its own.
///
/// Starts a vCenter with a VM that runs and one that is off, makes a git repository with a plan for them, and settings; shows
/// what would be done, does it, and shows the report, a VM and what to do next. Nothing outside its folder is touched.
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
    step(1, "The source: a simulated vCenter with two VMs, whose disks boot");
    let vcenter = start(&dir, kept)?;
    answer(&format!(
        "   {}  ({}; each disk: the guest sees {})\n",
        vcenter.url(),
        VMS.join(" runs, ") + " is off",
        Bytes(DISK)
    ));
    step(2, "The wish: a plan in git");
    if !kept {
        make(&dir, &vcenter)?;
    }
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
    let page = report.get("plans/shop.md").context("the report lacks the plan")?;
    answer(&indented(&String::from_utf8_lossy(page)));
    step(6, "A VM: its raw disk and a libvirt domain");
    let folder = dir.join("vms").join(VMS[0]);
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
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(false)
}

/// Starts the vCenter; where an earlier demo is gone on with, where that one had it.
fn start(dir: &Path, kept: bool) -> anyhow::Result<Server> {
    let disk = dir.join("boots.raw");
    if !kept {
        tell("writing disks …");
        write_disk(&disk).with_context(|| format!("cannot write {}", disk.display()))?;
    }
    let marker = dir.join(MADE_BY);
    let listen = if kept { std::fs::read_to_string(&marker)? } else { "127.0.0.1:0".to_owned() };
    let listen: SocketAddr = listen.trim().parse().context("where the vCenter listened")?;
    let vm = |name: &str, power: &str| {
        format!(
            "      - {{ name: {name}, folder: shop, power: \"{power}\", shutdown: 2s, memory: 64MiB, \
             disks: [{{ image: {} }}], nics: [{{ network: VM Network }}] }}\n",
            serde_json::Value::from(disk.to_string_lossy())
        )
    };
    let scenario = format!(
        "username: {}\npassword: demo\ndatacenters:\n  - name: DC1\n    hosts: [{{ name: esx1 }}]\n    \
         datastores: [{{ name: ds1, capacity: 1TiB, free: 400GiB }}]\n    networks: [{{ name: VM Network }}]\n    vms:\n{}{}",
        init::USER,
        vm(VMS[0], "on"),
        vm(VMS[1], "off")
    );
    let scenario = Scenario::parse("demo", &scenario)?;
    let clock = Arc::new(SystemClock::start());
    let vcenter = Server::start(&scenario, listen, &dir.join("vcenter"), clock)?;
    std::fs::write(&marker, vcenter.address().to_string())
        .with_context(|| format!("cannot write {}", marker.display()))?;
    Ok(vcenter)
}

fn write_disk(path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::create(path)?;
    file.set_len(DISK)?;
    boot_disk(DISK, MARKER).try_for_each(|(offset, bytes)| file.write_all_at(&bytes, offset))
}

/// Makes the repository and the settings out of the sample, for this vCenter.
fn make(dir: &Path, vcenter: &Server) -> anyhow::Result<()> {
    let address = vcenter.address().to_string();
    let instead =
        [(init::VCENTER, address.as_str()), (init::FINGERPRINT, vcenter.sha256_fingerprint())];
    init::make_sample(dir, "vsphere", &instead)?;
    let password = dir.join("vcenter.password");
    std::fs::write(&password, "demo\n")
        .with_context(|| format!("cannot write {}", password.display()))
}

fn step(number: u32, title: &str) {
    answer(&format!("\n{number}  {title}\n"));
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}").trim_end().to_owned() + "\n").collect()
}

fn next(dir: &Path, folder: &Path) {
    let (dir, folder) = (dir.display(), folder.display());
    let vm = VMS[0];
    answer(&format!(
        "\nNext\n   \
         boot it        qemu-system-x86_64 -nographic -drive file={folder}/disk-0.raw,format=raw   (prints {MARKER}; Ctrl-A X ends it)\n   \
         or             virsh create --console {folder}/domain.xml\n   \
         compare it     ferry verify --config {dir}/ferry.yaml shop\n   \
         run it again   ferry demo --keep --dir {dir}   (nothing is left to do)\n   \
         see the report git -C {dir}/plans show ferry/status:main/vms/shop/{vm}.yaml\n   \
         start your own ferry init vms --sample vsphere\n"
    ));
}
