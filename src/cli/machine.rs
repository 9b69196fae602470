//! The adapters of this machine, made from the settings: the one place that joins them to the controller.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::adapter::clock::SystemClock;
use crate::adapter::confine::Confine;
use crate::adapter::git::GitRepo;
use crate::adapter::local::LocalTarget;
use crate::adapter::ova::OvaSource;
use crate::adapter::source::Sources;
use crate::adapter::store::hold::HoldFile;
use crate::adapter::store::journal::JournalReader;
use crate::adapter::vsphere::{Privilege, VsphereSource};
use crate::adapter::worker::Subprocesses;
use crate::cli::explained;
use crate::cli::settings::{Settings, program_folders};
use crate::controller::Config;
use crate::decide::Limits;
use crate::desired::Site;
use crate::domain::id::{CommitId, JournalId};
use crate::domain::text::visible;
use crate::domain::unit::Bytes;
use crate::execute::WorkerMeans;
use crate::journal::progress::Progress;
use crate::manifest::parse;
use crate::port::{PlanRepo, PortError, World};

/// The very program that runs, for workers: an upgrade that replaces its file meanwhile must not keep them from starting, and
/// they must speak the same protocol.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The adapters.
#[derive(Debug)]
pub(super) struct Machine {
    /// Time.
    pub clock: SystemClock,
    /// The repository of plans.
    pub repo: GitRepo,
    source: Sources,
    target: LocalTarget,
    workers: Subprocesses,
    hold: HoldFile,
}

impl Machine {
    /// Makes the adapters. The waker is called whenever a worker said something.
    pub(super) fn new(
        settings: &Settings,
        waker: Box<dyn Fn() + Send + Sync>,
    ) -> anyhow::Result<Self> {
        let confine = Confine::new(settings.allow_paths.iter().cloned());
        let repo = settings.open_repo()?;
        Ok(Self {
            clock: SystemClock::start(),
            repo,
            source: Sources {
                ova: OvaSource::new(confine.clone()),
                vsphere: VsphereSource::new(settings.instance.clone(), settings.vsphere.clone()),
            },
            target: LocalTarget::new(confine, program_folders(), settings.convert.clone())
                .with_libvirt(settings.libvirt_uri.clone()),
            workers: Subprocesses::new(PathBuf::from(OWN_PROGRAM), waker),
            hold: HoldFile::new(&settings.state_dir),
        })
    }

    /// Makes the adapters for a command that copies nothing.
    pub(super) fn looking(settings: &Settings) -> anyhow::Result<Self> {
        Self::new(settings, Box::new(|| {}))
    }

    /// Lists the privileges that the account of a server of vSphere lacks; `None` where that cannot be asked, or there are none.
    pub(super) fn lacking(&self, site: &Site) -> Result<Option<Vec<Privilege>>, PortError> {
        match site {
            Site::Vsphere(_) => self.source.vsphere.lacking(site),
            Site::Ova { .. } | Site::Local { .. } => Ok(None),
        }
    }

    /// Calls the waker whenever something changed at a source that tells.
    pub(super) fn watch_sources(&self, waker: impl Fn() + Send + Sync + 'static) {
        self.source.vsphere.watch(waker);
    }

    /// Returns the ports.
    pub(super) fn world(&self) -> World<'_> {
        World {
            clock: &self.clock,
            repo: &self.repo,
            source: &self.source,
            target: &self.target,
            workers: &self.workers,
            hold: &self.hold,
        }
    }
}

/// Returns what the settings say about the controller.
pub(super) fn config(settings: &Settings) -> Config {
    let paths = settings.allow_paths.iter();
    Config {
        instance: settings.instance.clone(),
        limits: limits(settings),
        manifests: parse::Limits {
            bytes: usize::try_from(settings.manifest_bytes.0).unwrap_or(usize::MAX),
            documents: count(settings.documents_per_file),
            ..parse::Limits::default()
        },
        copy: WorkerMeans {
            allow_paths: paths.map(|path| path.to_string_lossy().into_owned()).collect(),
            memory: Bytes(settings.copy_memory.0 / u64::from(settings.vms_in_flight.max(1))),
            checkpoint_every: settings.checkpoint_every,
            convert: settings.convert.clone(),
        },
        report_interval: settings.status_min_interval,
    }
}

fn count(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Returns the bounds on what moves.
pub(super) fn limits(settings: &Settings) -> Limits {
    Limits {
        vms_in_flight: count(settings.vms_in_flight),
        converting: count(settings.convert_parallel),
        cutover: settings.cutover,
    }
}

/// Reads what was done, beside a running `ferry run`. A folder without a journal is a beginning.
pub(super) fn progress(settings: &Settings) -> anyhow::Result<Progress> {
    match JournalReader::open(&settings.state_dir).map_err(explained)? {
        Some(reader) => {
            let records = reader.read().map_err(explained)?;
            Ok(Progress::fold(reader.id(), &records)?)
        }
        None => Ok(Progress::new(JournalId::new(""))),
    }
}

/// Returns the commit that the watched branch is at.
pub(super) fn watched(repo: &GitRepo) -> anyhow::Result<CommitId> {
    repo.head().map_err(explained)?.with_context(|| {
        format!(
            "the watched branch `{}` does not exist … hint: push a first commit to it, or name another one with `--branch`",
            visible(repo.branch())
        )
    })
}
