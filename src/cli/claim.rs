//! `ferry claim`: the marks on source VMs, for the person that they wait for.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::cli::adopt::confirmed;
use crate::cli::machine::{Machine, config, progress, watched};
use crate::cli::settings::{Flags, Settings};
use crate::cli::{Exit, Global, answer, explained, tell, width};
use crate::controller::read::Reader;
use crate::controller::sites;
use crate::desired::Site;
use crate::domain::id::{ProviderName, Token};
use crate::domain::text::visible;
use crate::domain::vm::{Claim, Vm};
use crate::journal::progress::Progress;
use crate::port::PortError;
use crate::preview::{bare, trimmed};

/// Lists the marks on source VMs, or takes one away
///
/// Before a VM is powered off or copied, Ferry marks it (`ferry.claim` in its extraConfig), and after success once more
/// (`ferry.migrated`). A VM that carries the mark of another journal waits: another controller may be moving it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry claim list
  ferry claim release DC0/vm/web-01

Exit codes: 0 done, 1 error, a source could not be seen, or not confirmed, 64 wrong usage")]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists the VMs that carry a mark
    List {
        #[command(flatten)]
        flags: Flags,
    },
    /// Takes the mark off a VM; find out first whose it is
    Release {
        /// The VM: its name, path or identifier
        vm: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        flags: Flags,
    },
}

/// Runs the command.
pub(super) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.what {
        What::List { flags } => {
            let marked = Marked::look(&Settings::resolve(global, &flags)?)?;
            Ok(marked.list())
        }
        What::Release { vm, yes, flags } => {
            let marked = Marked::look(&Settings::resolve(global, &flags)?)?;
            marked.release(&vm, yes)
        }
    }
}

/// The VMs that carry a mark.
struct Marked {
    machine: Machine,
    progress: Progress,
    vms: Vec<(ProviderName, Site, Arc<Vm>)>,
    unseen: Vec<(ProviderName, PortError)>,
}

impl Marked {
    fn look(settings: &Settings) -> anyhow::Result<Self> {
        let machine = Machine::looking(settings)?;
        let progress = progress(settings)?;
        let head = watched(&machine.repo)?;
        let mut reader = Reader::new(config(settings).manifests);
        let reading = reader.read(&machine.repo, &head, &progress)?.0;
        let (mut vms, mut unseen) = (Vec::new(), Vec::new());
        for (name, site) in sites(Some(&reading.wanted), &progress) {
            if !site.holds_sources() {
                continue;
            }
            match machine.world().source.observe(&site) {
                Ok(state) => {
                    let marked = |vm: &Arc<Vm>| token(&vm.claim).is_some();
                    let state = state.vms.into_iter().filter(marked);
                    vms.extend(state.map(|vm| (name.clone(), site.clone(), vm)));
                }
                Err(error) => unseen.push((name, error)),
            }
        }
        Ok(Self { machine, progress, vms, unseen })
    }

    fn list(&self) -> Exit {
        if self.vms.is_empty() {
            answer("no mark\n");
        }
        let mut table = bare(width());
        table.set_header(["source", "vm", "mark", "token", "by"]);
        for (source, _, vm) in &self.vms {
            let kind = match &vm.claim {
                Claim::Migrated(_) => "migrated",
                Claim::Held(_) | Claim::Free | Claim::Impossible => "claimed",
            };
            let token = token(&vm.claim).unwrap_or_default();
            let by = if self.is_ours(vm) { "this journal" } else { "another" };
            let (path, token) = (visible(&vm.path), visible(token));
            table.add_row([source.as_str(), &path, kind, &token, by]);
        }
        if !self.vms.is_empty() {
            answer(&trimmed(&mut table));
        }
        for (source, error) in &self.unseen {
            tell(&format!("source {source}: {}", visible(&error.to_string())));
        }
        if self.unseen.is_empty() { Exit::Done } else { Exit::Failed }
    }

    fn is_ours(&self, vm: &Vm) -> bool {
        let held = token(&vm.claim);
        self.progress.claim_tokens(&vm.id).any(|(own, _)| Some(own.as_str()) == held)
    }

    fn release(&self, wanted: &str, yes: bool) -> anyhow::Result<Exit> {
        let found: Vec<_> = self.vms.iter().filter(|(_, _, vm)| vm.is_called(wanted)).collect();
        let (source, site, vm) = match found.as_slice() {
            [one] => one,
            [] => bail!(
                "no VM `{}` carries a mark … hint: `ferry claim list` shows those that do",
                visible(wanted)
            ),
            several => {
                let paths: Vec<_> = several.iter().map(|(_, _, vm)| visible(&vm.path)).collect();
                bail!(
                    "`{}` means several VMs: {} … hint: give a path",
                    visible(wanted),
                    paths.join(", ")
                )
            }
        };
        if self.progress.moving().any(|run| run.begun.run().vm == vm.id) {
            bail!(
                "{} is being moved by this journal … hint: cancel it in git (`ferry cancel`), which takes the mark away",
                visible(&vm.path)
            );
        }
        let held = token(&vm.claim).context("it was listed for its mark")?;
        tell(&format!(
            "The mark {} of {} goes from {} at {source}. Another controller that wrote it believes that the VM is its own: make sure that none moves it.",
            visible(held),
            if self.is_ours(vm) { "this journal" } else { "another journal" },
            visible(&vm.path),
        ));
        if !yes && !confirmed()? {
            bail!("not released");
        }
        let source = self.machine.world().source;
        source.release(site, &vm.id, &Token::new(held)).map_err(explained)?;
        answer(&format!("released {}\n", visible(&vm.path)));
        Ok(Exit::Done)
    }
}

/// Returns the token of a mark.
fn token(claim: &Claim) -> Option<&str> {
    match claim {
        Claim::Held(token) | Claim::Migrated(token) => Some(token),
        Claim::Free | Claim::Impossible => None,
    }
}
