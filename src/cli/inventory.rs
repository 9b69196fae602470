//! `ferry inventory`: what sources and targets hold, looked at now or recorded before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::machine::{Machine, config, progress, watched};
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, tell, width};
use crate::collect::collect;
use crate::collect::recorded::{BYTES_MAX, Recorded};
use crate::controller::chain::{Assessment, Chain};
use crate::controller::read::Reader;
use crate::controller::sites;
use crate::domain::filter::Filter;
use crate::domain::text::visible;
use crate::domain::unit::{Bytes, lasting};
use crate::domain::vm::{Power, Vm};
use crate::port::{Clock, Sites};
use crate::preview::{bare, harmless, trimmed};

/// What `refresh` keeps in the state folder.
const FILE: &str = "inventory.json";

/// Looks at sources and targets, lists what they hold, and records it for previews elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry inventory refresh
  ferry inventory list vms --where 'name ~ \"web*\" and disks > 1'
  ferry inventory show web.ova/web-01
  ferry inventory export inventory.json
  ferry diff main..add-web --inventory inventory.json    in a pipeline, offline

Fields of --where: name, path, id, power, firmware, os, network, cpus, memory, disks, nics, capacity, stored

Exit codes: 0 done, 1 error, or a provider could not be seen (`refresh`), 64 wrong usage")]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Looks at every source and target of the watched branch, and keeps what it saw in the state folder
    Refresh {
        #[command(flatten)]
        flags: Flags,
    },
    /// Lists what was recorded
    List {
        /// What to list
        #[arg(value_enum, default_value = "vms")]
        kind: Kind,
        /// Only VMs that an expression means
        #[arg(long = "where", value_name = "EXPR", value_parser = filter)]
        meant: Option<Filter>,
        #[command(flatten)]
        view: View,
    },
    /// Shows one VM, by its name, path or identifier
    Show {
        /// The VM
        vm: String,
        #[command(flatten)]
        view: View,
    },
    /// Writes what was recorded into a file that `ferry diff --inventory` reads
    Export {
        /// The file; `-` for standard output
        #[arg(default_value = "-")]
        file: PathBuf,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Debug, clap::Args)]
struct View {
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// The VMs of all sources
    Vms,
    /// Their disks
    Disks,
    /// The networks that they are connected to
    Networks,
    /// The targets, with what stands there
    Targets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text).map_err(|error| error.to_string())
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.what {
        What::Refresh { flags } => refresh(&Settings::resolve(global, &flags)?),
        What::Export { file, flags } => {
            let settings = Settings::resolve(global, &flags)?;
            export(&kept(&settings)?, &file)
        }
        What::List { kind, meant, view: View { output, flags } } => {
            let settings = Settings::resolve(global, &flags)?;
            let recorded = known(&settings)?;
            let rows = rows(&recorded, kind, meant.as_ref());
            answer(&match output {
                Output::Text => table(kind, &rows),
                Output::Json => {
                    json(&serde_json::json!({ "taken": recorded.taken, "items": rows }))?
                }
            });
            Ok(Exit::Done)
        }
        What::Show { vm, view: View { output, flags } } => {
            let settings = Settings::resolve(global, &flags)?;
            show(&known(&settings)?, &vm, output)
        }
    }
}

/// Looks at everything that the watched branch names.
pub(super) fn look(settings: &Settings) -> anyhow::Result<Recorded> {
    let machine = Machine::looking(settings)?;
    let progress = progress(settings)?;
    let head = watched(&machine.repo)?;
    let mut reader = Reader::new(config(settings).manifests);
    let reading = reader.read(&machine.repo, &head, &progress)?.0;
    let places: Sites = sites(Some(&reading.wanted), &progress);
    let observed = collect(&machine.world(), &places, false);
    let now = machine.clock.now();
    let mut chain = Chain::default();
    // What is decided is of no interest here, what was said of the VMs is.
    let _ = chain.assess(&Assessment {
        reading: Some(&reading),
        observed: &observed,
        progress: &progress,
        busy: &BTreeSet::new(),
        limits: config(settings).limits,
        now,
    });
    Ok(Recorded { said: chain.said(), ..Recorded::new(observed, &places, now) })
}

fn refresh(settings: &Settings) -> anyhow::Result<Exit> {
    let recorded = look(settings)?;
    let path = settings.state_dir.join(FILE);
    std::fs::create_dir_all(&settings.state_dir)
        .and_then(|()| replace(&path, recorded.text().as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut exit = Exit::Done;
    for (name, part) in &recorded.sources {
        match &part.seen.state {
            Ok(state) => {
                answer(&format!("source {name}: {} VMs\n", state.vms.len()));
                for gap in &state.gaps {
                    answer(&format!("  unseen: {} … hint: {}\n", visible(&gap.reason), gap.remedy));
                }
            }
            Err(gap) => {
                answer(&format!(
                    "source {name}: {} … hint: {}\n",
                    visible(&gap.reason),
                    gap.remedy
                ));
                exit = Exit::Failed;
            }
        }
    }
    for (name, part) in &recorded.targets {
        match &part.seen.state {
            Ok(state) => answer(&format!("target {name}: {} free\n", state.free)),
            Err(gap) => {
                answer(&format!(
                    "target {name}: {} … hint: {}\n",
                    visible(&gap.reason),
                    gap.remedy
                ));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

/// Reads what `refresh` kept, and says how old it is.
fn kept(settings: &Settings) -> anyhow::Result<Recorded> {
    let path = settings.state_dir.join(FILE);
    if !path.exists() {
        bail!("no inventory is recorded in {} … hint: `ferry inventory refresh`", path.display());
    }
    let recorded = read(&path)?;
    let age = crate::adapter::clock::SystemClock::start().now().duration_since(recorded.taken);
    tell(&format!("recorded {} ago", lasting(age)));
    Ok(recorded)
}

/// Reads what `refresh` kept, else looks.
fn known(settings: &Settings) -> anyhow::Result<Recorded> {
    if settings.state_dir.join(FILE).exists() { kept(settings) } else { look(settings) }
}

/// Reads a recorded inventory.
pub(super) fn read(path: &Path) -> anyhow::Result<Recorded> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BYTES_MAX) {
        bail!("{} is larger than {}", path.display(), Bytes(BYTES_MAX));
    }
    Recorded::read(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

fn export(recorded: &Recorded, file: &Path) -> anyhow::Result<Exit> {
    if file == Path::new("-") {
        answer(&recorded.text());
    } else {
        replace(file, recorded.text().as_bytes())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(Exit::Done)
}

/// Puts a new file in the place of the old one, whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

fn vms(recorded: &Recorded) -> impl Iterator<Item = (&str, &Vm)> {
    let states = recorded.sources.iter().filter_map(|(name, part)| {
        part.seen.state.as_ref().ok().map(|state| (name.as_str(), state))
    });
    states.flat_map(|(name, state)| state.vms.iter().map(move |vm| (name, &**vm)))
}

/// Returns the cells of each row, by the heads of their columns.
fn rows(recorded: &Recorded, kind: Kind, filter: Option<&Filter>) -> Vec<serde_json::Value> {
    let meant = vms(recorded).filter(|(_, vm)| filter.is_none_or(|filter| filter.matches(vm)));
    let mut rows: Vec<serde_json::Value> = match kind {
        Kind::Vms => meant.map(|(source, vm)| vm_row(source, vm)).collect(),
        Kind::Disks => meant
            .flat_map(|(source, vm)| {
                vm.disks.iter().map(move |disk| {
                    serde_json::json!({
                        "source": source, "vm": vm.path, "disk": disk.key.to_string(),
                        "capacity": disk.capacity.to_string(),
                        "stored": disk.stored.map(|stored| stored.to_string()),
                        "format": format!("{:?}", disk.format), "checksum": checksum(disk),
                    })
                })
            })
            .collect(),
        Kind::Networks => {
            let mut networks: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for (source, vm) in meant {
                for nic in &vm.nics {
                    *networks.entry((source, &nic.network)).or_default() += 1;
                }
            }
            let row = |((source, network), cards): ((&str, &str), usize)| serde_json::json!({ "source": source, "network": network, "cards": cards.to_string() });
            networks.into_iter().map(row).collect()
        }
        Kind::Targets => recorded
            .targets
            .iter()
            .map(|(name, part)| match &part.seen.state {
                Ok(state) => serde_json::json!({
                    "target": name, "free": state.free.to_string(),
                    "vms": state.vms.len().to_string(), "unseen": null,
                }),
                Err(gap) => serde_json::json!({
                    "target": name, "free": null, "vms": null, "unseen": gap.reason,
                }),
            })
            .collect(),
    };
    rows.iter_mut().for_each(harmless);
    rows
}

fn vm_row(source: &str, vm: &Vm) -> serde_json::Value {
    let stored: Option<Bytes> = vm.disks.iter().map(|disk| disk.stored).sum();
    let power = match vm.power {
        Power::On => "on",
        Power::Off => "off",
    };
    serde_json::json!({
        "source": source, "vm": vm.path, "power": power, "os": vm.os,
        "cpus": vm.cpus.map(|cpus| cpus.to_string()),
        "memory": vm.memory.map(|memory| memory.to_string()),
        "disks": vm.disks.len().to_string(),
        "capacity": vm.capacity().to_string(),
        "stored": stored.map(|stored| stored.to_string()),
    })
}

fn checksum(disk: &crate::domain::vm::Disk) -> String {
    match (&disk.checksum, disk.checksum.stated()) {
        (_, Some((method, _))) => method.to_owned(),
        (crate::domain::vm::Checksum::Unchecked(method), None) => format!("{method}, not checked"),
        (_, None) => "none".to_owned(),
    }
}

fn table(kind: Kind, rows: &[serde_json::Value]) -> String {
    let Some(first) = rows.first().and_then(serde_json::Value::as_object) else {
        return match kind {
            Kind::Vms => "no VM\n",
            Kind::Disks => "no disk\n",
            Kind::Networks => "no network\n",
            Kind::Targets => "no target\n",
        }
        .to_owned();
    };
    let mut table = bare(width());
    table.set_header(first.keys());
    for row in rows {
        let cells = row.as_object().into_iter().flat_map(|row| row.values());
        table.add_row(cells.map(|cell| cell.as_str().unwrap_or("–")));
    }
    trimmed(&mut table)
}

fn show(recorded: &Recorded, wanted: &str, output: Output) -> anyhow::Result<Exit> {
    let found: Vec<(&str, &Vm)> = vms(recorded).filter(|(_, vm)| vm.is_called(wanted)).collect();
    let vm = match found.as_slice() {
        [(_, vm)] => *vm,
        [] => {
            bail!("no source holds a VM `{wanted}` … hint: `ferry inventory list vms` lists them")
        }
        several => {
            let paths: Vec<&str> = several.iter().map(|(_, vm)| vm.path.as_str()).collect();
            bail!(
                "`{wanted}` names {} VMs … hint: name one by its path: {}",
                several.len(),
                paths.join(", ")
            )
        }
    };
    let mut value = serde_json::to_value(vm).context("cannot print the VM")?;
    harmless(&mut value);
    answer(&match output {
        Output::Json => json(&value)?,
        Output::Text => serde_yaml::to_string(&value).context("cannot print the VM")?,
    });
    Ok(Exit::Done)
}

fn json(value: &serde_json::Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("cannot print the answer")? + "\n")
}
