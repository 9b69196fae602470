//! `ferry doctor`: what this machine, its tools, providers and permissions allow, each miss with its fix.

mod leftovers;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use serde::Serialize;

use crate::adapter::convert::probe;
use crate::adapter::git::GitRepo;
use crate::adapter::local::{Accelerator, Libvirt};
use crate::adapter::store::hold::HoldFile;
use crate::adapter::store::holder;
use crate::adapter::store::journal::JournalReader;
use crate::adapter::vsphere::Privilege;
use crate::cli::machine::{Machine, config, progress};
use crate::cli::settings::{Flags, Settings, program_folders};
use crate::cli::{Exit, Global, answer};
use crate::collect::collect;
use crate::controller::read::Reader;
use crate::controller::sites;
use crate::desired::Site;
use crate::domain::text::visible;
use crate::domain::unit::Bytes;
use crate::observed::{ConverterState, Gap};
use crate::port::{PlanRepo, PortError};

/// With less room than this a journal of a few hundred VMs does not fit.
const STATE_BYTES_MIN: Bytes = Bytes::mib(64);

/// Shows what this machine, its tools, providers and permissions allow, each miss with its fix, and where each setting came from
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ferry doctor --config /etc/ferry/ferry.yaml\n  ferry doctor --leftovers\n\nExit codes: 0 all is well, 1 a check failed, 64 wrong usage"
)]
pub(super) struct Arguments {
    /// Lists what stands on sources and targets and was made by Ferry instead: partial disks, VMs, marks
    #[arg(long)]
    leftovers: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Fails,
    Note,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, text: text.into(), fix: None }
    }

    fn note(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Note, text: text.into(), fix: None }
    }

    fn fails(name: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fails, text: text.into(), fix: Some(fix.into()) }
    }

    fn of_port(name: &'static str, error: PortError) -> Self {
        Self::fails(name, error.fault.text, error.fault.remedy)
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { leftovers, output, flags } = arguments;
    let settings = Settings::resolve(global, &flags)?;
    if leftovers {
        return leftovers::show(&settings, output == Output::Json);
    }
    let checks = checks(&settings);
    answer(&match output {
        Output::Text => text(&settings, &checks),
        Output::Json => json(&settings, &checks)?,
    });
    let fails = checks.iter().any(|check| check.verdict == Verdict::Fails);
    Ok(if fails { Exit::Failed } else { Exit::Done })
}

fn checks(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    let repo = repository(settings, &mut checks);
    let records = state(settings, &mut checks);
    if let (Some(repo), Some(0)) = (&repo, records) {
        checks.push(takeover(settings, repo));
    }
    checks.extend(settings.allow_paths.iter().map(|path| allow_path(path)));
    if settings.allow_paths.is_empty() {
        checks.push(Check::note(
            "allowPaths",
            "no folder is allowed, so manifests can name no files",
        ));
    }
    if let Some(file) = &settings.file {
        checks.push(permissions("settings file", file));
    }
    checks.push(program("qemu-img"));
    // Where a libvirt is set, whether it answers says more.
    checks.extend(settings.libvirt_uri.is_none().then(|| program("virsh")));
    checks.push(libvirt(settings));
    checks.push(Check::note(
        "KVM",
        match Accelerator::probe(&program_folders()) {
            Accelerator::Kvm => "guests run on KVM",
            Accelerator::Tcg => "KVM does not work here: domains are written for QEMU's emulation",
        },
    ));
    checks.extend(converter(settings));
    if repo.is_some() {
        match providers(settings) {
            Ok(found) => checks.extend(found),
            Err(error) => checks.push(Check::fails(
                "providers",
                format!("{error:#}"),
                "mend what is said above, then ask again",
            )),
        }
    }
    checks
}

/// Looks at every source and target that the watched branch names.
fn providers(settings: &Settings) -> anyhow::Result<Vec<Check>> {
    let machine = Machine::looking(settings)?;
    let progress = progress(settings)?;
    let Some(head) = machine.repo.head()? else { return Ok(Vec::new()) };
    let mut reader = Reader::new(config(settings).manifests);
    let wanted = reader.read(&machine.repo, &head, &progress)?.0.wanted;
    let sites = sites(Some(&wanted), &progress);
    let seen = collect(&machine.world(), &sites, false);
    let mut checks = Vec::new();
    for (name, seen) in &seen.sources {
        match &seen.state {
            Ok(state) => {
                let count = state.vms.len();
                checks.push(Check::ok("source", format!("{name} holds {count} VMs")));
                checks.extend(sites.get(name).into_iter().flat_map(|site| account(&machine, site)));
                checks.extend(state.gaps.iter().map(|gap| of_gap("source", gap)));
            }
            Err(gap) => checks.push(of_gap("source", gap)),
        }
    }
    for (name, seen) in &seen.targets {
        checks.push(match &seen.state {
            Ok(state) => Check::ok("target", format!("{name} has {} free", state.free)),
            Err(gap) => of_gap("target", gap),
        });
    }
    Ok(checks)
}

/// Names what the account of a server lacks.
fn account(machine: &Machine, site: &Site) -> Vec<Check> {
    let lacking = match machine.lacking(site) {
        Ok(None) => return Vec::new(),
        Ok(Some(lacking)) => lacking,
        Err(error) => return vec![Check::of_port("privileges", error)],
    };
    if lacking.is_empty() {
        return vec![Check::ok("privileges", "the account has all that are needed")];
    }
    let check = |Privilege { id, purpose, transports: _ }| {
        Check::fails(
            "privileges",
            format!("the account lacks {id} on the root of the inventory: Ferry {purpose} with it"),
            "give the account's role that privilege, on the root and what is below it",
        )
    };
    lacking.into_iter().map(check).collect()
}

fn of_gap(name: &'static str, gap: &Gap) -> Check {
    Check::fails(name, gap.reason.clone(), gap.remedy.clone())
}

fn repository(settings: &Settings, checks: &mut Vec<Check>) -> Option<GitRepo> {
    let place = match settings.repository() {
        Ok(place) => place,
        Err(error) => {
            let fix = error.hint.unwrap_or_default();
            checks.push(Check::fails("repository", error.text, fix));
            return None;
        }
    };
    let repo = match GitRepo::open(&settings.repo_settings(place)) {
        Ok(repo) => repo,
        Err(error) => {
            checks.push(Check::of_port("repository", error));
            return None;
        }
    };
    checks.push(Check::ok("repository", place.to_string()));
    let branch = &settings.branch;
    checks.push(match repo.head() {
        Ok(Some(commit)) => Check::ok("branch", format!("`{branch}` is at {commit}")),
        Ok(None) => Check::fails(
            "branch",
            format!("the branch `{branch}` does not exist"),
            "commit to it, or name another: `repository: { branch: BRANCH }`",
        ),
        Err(error) => Check::of_port("branch", error),
    });
    let status = &settings.status_branch;
    let writable = match &repo {
        GitRepo::Local(local) => access(local.common_folder().join("refs"), Access::WRITE_OK)
            .map_err(|error| {
                PortError::passing(error.to_string(), "let ferry's user write the repository")
            }),
        GitRepo::Remote(remote) => remote.may_push(),
    };
    checks.push(match (repo.status_head(), writable) {
        (Err(error), _) => Check::of_port("status branch", error),
        (Ok(_), Err(error)) => Check::fails(
            "status branch",
            format!("`{status}` cannot be written: {}", error.fault.text),
            error.fault.remedy,
        ),
        (Ok(None), Ok(())) => {
            Check::ok("status branch", format!("`{status}` will be made with the first report"))
        }
        (Ok(Some(commit)), Ok(())) => {
            Check::ok("status branch", format!("`{status}` is at {commit}"))
        }
    });
    Some(repo)
}

/// Checks the state folder. Returns how many records its journal holds, where that could be told.
fn state(settings: &Settings, checks: &mut Vec<Check>) -> Option<usize> {
    let folder = settings.state_dir.as_path();
    let shown = folder.display();
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let fix = "let ferry's user write it, or set another `stateDir`";
    checks.push(match access(existing, Access::WRITE_OK) {
        Err(error) => {
            Check::fails("state folder", format!("{shown} cannot be written: {error}"), fix)
        }
        Ok(()) if existing != folder => {
            Check::ok("state folder", format!("{shown} will be made by `ferry run`"))
        }
        Ok(()) => permissions("state folder", folder),
    });
    checks.push(match statvfs(existing) {
        Err(error) => Check::fails("free space", format!("{shown}: {error}"), fix),
        Ok(found) => {
            let free = Bytes(found.f_bavail.saturating_mul(found.f_frsize));
            if free < STATE_BYTES_MIN {
                let text = format!("{free} free for {shown}, less than {STATE_BYTES_MIN}");
                Check::fails("free space", text, "make room there, or set another `stateDir`")
            } else {
                Check::ok("free space", format!("{free} for {shown}"))
            }
        }
    });
    if existing != folder {
        return Some(0);
    }
    checks.push(match holder(folder) {
        Ok(None) => Check::note("lock", "no ferry holds the state folder"),
        Ok(Some(by)) => Check::note(
            "lock",
            format!(
                "held by the instance `{}`, process {}, since {}",
                by.instance, by.pid, by.since
            ),
        ),
        Err(error) => Check::of_port("lock", error),
    });
    match HoldFile::new(folder).held_by() {
        Ok(None) => {}
        Ok(Some(reason)) => {
            let reason = visible(&reason);
            checks.push(Check::note("hold", format!("the brake is on: {reason}")));
        }
        Err(error) => checks.push(Check::of_port("hold", error)),
    }
    let read = JournalReader::open(folder)
        .and_then(|reader| reader.map(|reader| reader.read()).transpose());
    match read {
        Ok(records) => {
            let count = records.map_or(0, |records| records.len());
            checks.push(Check::ok("journal", format!("{count} records, all readable")));
            Some(count)
        }
        Err(error) => {
            checks.push(Check::of_port("journal", error));
            None
        }
    }
}

/// An empty journal beside reports of this instance: the folder was lost, or another one is in use (safety rule 5).
fn takeover(settings: &Settings, repo: &GitRepo) -> Check {
    match repo.report(settings.instance.as_str()) {
        Ok(files) if files.is_empty() => Check::ok("takeover", "no other journal reported here"),
        Ok(_) => Check::fails(
            "takeover",
            format!(
                "`{}` holds reports of the instance `{}`, and the journal is empty",
                settings.status_branch, settings.instance
            ),
            "name the right `stateDir`; if it is lost, `ferry adopt` takes over",
        ),
        Err(error) => Check::of_port("takeover", error),
    }
}

fn allow_path(path: &Path) -> Check {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Check::ok("allowPaths", path.display().to_string()),
        Ok(_) => Check::fails(
            "allowPaths",
            format!("{} is no folder", path.display()),
            "name the folder itself, not a link to it and no file",
        ),
        Err(error) => Check::fails(
            "allowPaths",
            format!("{}: {error}", path.display()),
            format!("make it: `mkdir -p {}`", path.display()),
        ),
    }
}

/// What others may write decides over other people's VMs.
fn permissions(name: &'static str, path: &Path) -> Check {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.permissions().mode() & 0o022 != 0 => Check::fails(
            name,
            format!("{shown} can be written by others"),
            format!("`chmod go-w {shown}`"),
        ),
        Ok(_) => Check::ok(name, shown.to_string()),
        Err(error) => Check::fails(name, format!("{shown}: {error}"), "check its permissions"),
    }
}

/// Asks the libvirt of local targets, where there is one. Whether the user that runs QEMU may enter the folders of the disks
/// shows only when a guest is started.
fn libvirt(settings: &Settings) -> Check {
    let Some(uri) = &settings.libvirt_uri else {
        return Check::note("libvirt", "no `libvirt.uri` is set: VMs are made and not started");
    };
    match Libvirt::new(uri.clone(), program_folders()).version() {
        Ok(version) => Check::ok("libvirt", format!("{uri} answers: {version}")),
        Err(error) => Check::of_port("libvirt", error),
    }
}

fn program(name: &'static str) -> Check {
    let found = program_folders()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok());
    match found {
        Some(path) => Check::note(name, path.display().to_string()),
        None => Check::note(
            name,
            "is not installed; Ferry does not need it, its results can be tried with it",
        ),
    }
}

/// Tells whether guests can be converted here. Those that have their drivers need it not, so a miss is no failure.
fn converter(settings: &Settings) -> Vec<Check> {
    let ConverterState { missing, missing_for_windows } =
        probe(&settings.convert, &program_folders());
    let miss = |gap: Gap| Check { fix: Some(gap.remedy), ..Check::note("converter", gap.reason) };
    match (missing, missing_for_windows) {
        (Some(gap), _) => vec![miss(gap)],
        (None, for_windows) => {
            let text = format!("{} converts Linux", settings.convert.program);
            let text = if for_windows.is_none() { text + " and Windows" } else { text };
            let windows = for_windows.map(|gap| {
                let reason = format!("Windows cannot be converted here: {}", gap.reason);
                miss(Gap { reason, ..gap })
            });
            [Check::ok("converter", text)].into_iter().chain(windows).collect()
        }
    }
}

fn text(settings: &Settings, checks: &[Check]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for check in checks {
        let sign = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Fails => "FAILS",
            Verdict::Note => "note",
        };
        table.add_row([sign, check.name, check.text.as_str()]);
        if let Some(fix) = &check.fix {
            table.add_row(["", "", &format!("fix: {fix}")]);
        }
    }
    let mut origins = comfy_table::Table::new();
    origins.load_style(comfy_table::presets::NOTHING);
    for shown in &settings.origins {
        origins.add_row([shown.key, shown.value.as_str(), &shown.origin.to_string()]);
    }
    format!("{}\n\nSettings\n{}\n", table.trim_fmt(), origins.trim_fmt())
}

fn json(settings: &Settings, checks: &[Check]) -> anyhow::Result<String> {
    let origins: Vec<_> = settings
        .origins
        .iter()
        .map(|shown| {
            let origin = shown.origin.to_string();
            serde_json::json!({ "key": shown.key, "value": shown.value, "origin": origin })
        })
        .collect();
    let all = serde_json::json!({ "checks": checks, "settings": origins });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}
