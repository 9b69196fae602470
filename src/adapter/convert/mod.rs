//! Converts guests for KVM with `virt-v2v-in-place`, on overlays over the disks of a local target.
//!
//! # Flow
//!
//! ```text
//! FOLDER/.ferry-AREA/disk-0.raw or .qcow2     copied, and only read while the guest is converted
//!                    disk-0.overlay.qcow2     what the converter changes
//!                    convert.lock             held by whoever converts, and by every process that it started
//! ```
//!
//! The converter changes overlays. Once they are durable, and that is a fact, each is committed to its disk; it stays, so that a
//! commit may be made again after a crash at any point of it.
//!
//! # Guarantees
//!
//! A failed or stopped conversion leaves the disks as they were copied. One converter at most works in an area: whoever comes
//! after one that was killed waits for everything that it started, see [`process`]. Every tool is told the format of every
//! file; none of them chooses one by what a guest wrote.
//!
//! # Assumptions
//!
//! Nobody but Ferry writes into its areas.

mod domain;
mod failure;
mod log;
mod probe;
mod process;
mod words;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use rustix::fs::{AtFlags, OFlags};

use self::domain::domain_xml;
use self::failure::{Attempt, failed_tool, not_started};
use self::log::Log;
pub use self::probe::{Probe, probe};
use self::process::{Ending, Order, Patience, find, run, search_path};
use self::words::{Line, Words};
use crate::adapter::clock::SystemClock;
use crate::adapter::confine::Confine;
use crate::adapter::local::folder::Folder;
use crate::adapter::local::{Accelerator, area_folder, ours};
use crate::adapter::location::{CONVERT_LOCK, LocalDisk};
use crate::adapter::lock::lock;
use crate::copy::protocol::ConvertJob;
use crate::domain::id::Token;
use crate::domain::vm::TargetDisk;
use crate::journal::record::Mend;
use crate::port::{Clock as _, Conversion, Converter, PortError};

/// How long a converter that was killed may take to end, and a worker that copied.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// How long a program may say nothing. Rebuilding an initramfs under emulation takes minutes; trimming a large file system takes
/// longer.
const SILENCE_MAX: Duration = Duration::from_mins(30);

/// How long the converter may say nothing while there is no room to write to. QEMU stops a machine whose disk has none, and
/// nobody would let it go on: without this it would take [`SILENCE_MAX`].
const FULL_MAX: SignedDuration = SignedDuration::from_secs(30);

/// How often the worker is asked whether to go on, and told what is being done.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// What makes and commits overlays.
const QEMU_IMG: &str = "qemu-img";

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Waits {
    lock: Duration,
    patience: Patience,
}

impl Default for Waits {
    fn default() -> Self {
        Self { lock: LOCK_WAIT, patience: Patience { silence: SILENCE_MAX, ask: ASK_EVERY } }
    }
}

/// A guest, the disks of which are locked against every other converter.
#[derive(Debug)]
pub struct VirtV2v {
    job: ConvertJob,
    disks: Vec<LocalDisk>,
    area: Folder,
    /// Holds the lock.
    lock: File,
    folders: Vec<PathBuf>,
    patience: Patience,
}

impl VirtV2v {
    /// Locks the disks of a job against every other converter. Programs are searched in the folders.
    pub fn open(job: &ConvertJob, folders: Vec<PathBuf>) -> Result<Self, PortError> {
        Self::open_within(job, folders, Waits::default())
    }

    fn open_within(
        job: &ConvertJob,
        folders: Vec<PathBuf>,
        waits: Waits,
    ) -> Result<Self, PortError> {
        let disks: Result<Vec<_>, _> =
            job.disks.iter().map(|disk| LocalDisk::parse(&disk.target)).collect();
        let disks = disks.map_err(|error| damaged(error.to_string()))?;
        let Some(first) = disks.first() else {
            return Err(damaged("a guest without disks is to be converted".to_owned()));
        };
        let together =
            |disk: &LocalDisk| (&disk.folder, &disk.area) == (&first.folder, &first.area);
        if !disks.iter().all(|disk| together(disk) && ours(&disk.file)) {
            return Err(damaged(format!("the disks of {:?} do not lie together", job.name)));
        }
        let confine = Confine::new(job.allow_paths.iter().map(PathBuf::from));
        let folder = Folder::open(&confine, Path::new(&first.folder))?;
        let name = area_folder(&first.area, &first.name)?;
        let area = folder.enter(&name)?.ok_or_else(|| gone(&folder.at(&name)))?;
        let file = area.file(CONVERT_LOCK, OFlags::CREATE)?;
        let file = file.ok_or_else(|| gone(&area.at(CONVERT_LOCK)))?;
        lock(&file, &area.at(CONVERT_LOCK), waits.lock)?;
        for disk in &disks {
            let held = area.file(&disk.file, OFlags::empty())?;
            let held = held.ok_or_else(|| gone(&area.at(&disk.file)))?;
            // A worker that copied may not be at its end. QEMU has locks of its own, which this one would be in the way of.
            lock(&held, &area.at(&disk.file), waits.lock)?;
        }
        let job = job.clone();
        Ok(Self { job, disks, area, lock: file, folders, patience: waits.patience })
    }

    fn program(&self, name: &str) -> Result<PathBuf, PortError> {
        find(name, &self.folders).ok_or_else(|| {
            let gap = probe::not_installed(name);
            PortError::lasting(gap.reason, gap.remedy, Mend::Target)
        })
    }

    fn forget_overlays(&self) -> Result<(), PortError> {
        for disk in &self.disks {
            self.area.delete(&disk.overlay(), AtFlags::empty())?;
        }
        Ok(())
    }

    fn make_overlays(&self, log: &mut Log) -> Result<Vec<String>, PortError> {
        let program = self.program(QEMU_IMG)?;
        let mut paths = Vec::new();
        for disk in &self.disks {
            let path = self.area.at(&disk.overlay());
            let mut arguments: Vec<OsString> =
                ["create", "-q", "-f", "qcow2", "-F", disk.format().name(), "-b"]
                    .map(Into::into)
                    .into();
            // A name without a folder is looked for beside the overlay.
            arguments.extend([disk.file.clone().into(), path.clone().into()]);
            // It writes some kilobytes.
            let (ending, said) = self.tool(&program, arguments, &mut || true)?;
            for line in &said {
                log.line(line);
            }
            if ending != Ending::Code(0) {
                return Err(failed_tool("make", &path, &said, ending));
            }
            let file = self.area.file(&disk.overlay(), OFlags::empty())?;
            let file = file.ok_or_else(|| gone(&path))?;
            file.set_permissions(Permissions::from_mode(0o600))
                .map_err(|error| self.area.io("protect", &disk.overlay(), &error))?;
            paths.push(path.to_string_lossy().into_owned());
        }
        Ok(paths)
    }

    /// Runs a tool to its end and returns what it said.
    fn tool(
        &self,
        program: &Path,
        arguments: Vec<OsString>,
        doing: &mut dyn FnMut() -> bool,
    ) -> Result<(Ending, Vec<String>), PortError> {
        let mut said = Vec::new();
        let environment = vec![("PATH", search_path(&self.folders)), ("LC_ALL", "C.UTF-8".into())];
        let order = Order { program, arguments, environment, lock: &self.lock };
        let mut heard = |line: Option<&str>| {
            // Its progress comes as lines, too.
            let told = line.map(str::trim).filter(|line| !line.is_empty() && !line.ends_with("%)"));
            said.extend(told.map(str::to_owned));
            said.truncate(20);
            doing()
        };
        let ending = run(&order, self.patience, &mut heard);
        Ok((ending.map_err(|error| not_started(program, &error))?, said))
    }

    fn environment(
        &self,
        scratch: &Path,
        accelerator: Accelerator,
    ) -> Vec<(&'static str, OsString)> {
        let tools = &self.job.tools;
        let mut environment = vec![
            ("PATH", search_path(&self.folders)),
            ("LC_ALL", "C.UTF-8".into()),
            ("LIBGUESTFS_BACKEND", "direct".into()),
            ("LIBGUESTFS_CACHEDIR", OsString::from(&tools.tmp_dir)),
            ("TMPDIR", scratch.into()),
            ("VIRT_V2V_TMPDIR", scratch.into()),
        ];
        if accelerator == Accelerator::Tcg {
            environment.push(("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg".into()));
        }
        if Path::new(&tools.virtio_win).exists() {
            environment.push(("VIRTIO_WIN", OsString::from(&tools.virtio_win)));
        }
        environment
    }

    /// Runs the converter on the overlays. What it leaves is thrown away by the caller unless it is done.
    fn run(
        &self,
        log: &mut Log,
        doing: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Conversion, PortError> {
        let program = self.program(&self.job.tools.program)?;
        let scratch = Scratch::make(&self.job.tools.tmp_dir, &self.disks[0])?;
        if !doing("Making overlays") {
            return Ok(Conversion::Stopped);
        }
        let overlays = self.make_overlays(log)?;
        let xml = domain_xml(&self.job.name, &overlays).ok_or_else(|| {
            PortError::lasting(
                format!("the path {:?} cannot stand in a domain's XML", overlays[0]),
                "name the target's folder without control characters",
                Mend::Person,
            )
        })?;
        let domain = scratch.path.join("domain.xml");
        fs::write(&domain, xml).map_err(|error| scratch_failed(&domain, &error))?;
        let mut words = Words::new("Starting the converter");
        if !doing(&words.step) {
            return Ok(Conversion::Stopped);
        }
        let accelerator = Accelerator::probe(&self.folders);
        let arguments = ["--machine-readable", "-i", "libvirtxml"].map(OsString::from);
        let order = Order {
            program: &program,
            arguments: arguments.into_iter().chain([domain.into()]).collect(),
            environment: self.environment(&scratch.path, accelerator),
            lock: &self.lock,
        };
        log.line(&format!("{} converts {}", program.display(), self.job.name));
        let attempt = Attempt {
            job: &self.job,
            area: &self.area,
            program: &program,
            log: log.path().to_string(),
            overlays: self.disks.iter().map(LocalDisk::overlay).collect(),
        };
        let mut standstill = Standstill::none();
        let ending = run(&order, self.patience, &mut |line| {
            if let Some(line) = line
                && words.hear(line) == Line::Text
            {
                log.line(line);
            }
            standstill.hear(line.is_none() && attempt.is_full());
            !standstill.over && doing(&words.step)
        });
        let ending = ending.map_err(|error| not_started(&program, &error))?;
        log.line(&format!("it ended: {ending:?}"));
        match ending {
            Ending::Stopped if !standstill.over => return Ok(Conversion::Stopped),
            Ending::Code(0) if words.slow.is_none() => {}
            Ending::Code(_) | Ending::Signal(_) | Ending::Silent | Ending::Stopped => {
                return Err(attempt.failed(ending, &words, self.patience));
            }
        }
        self.make_durable()?;
        let mut warnings = words.warnings;
        if accelerator == Accelerator::Tcg {
            warnings.push(
                "KVM does not work here, so the guest was converted under emulation, which takes several times as long"
                    .to_owned(),
            );
        }
        Ok(Conversion::Done { warnings })
    }

    fn make_durable(&self) -> Result<(), PortError> {
        for disk in &self.disks {
            let overlay = disk.overlay();
            let file = self.area.file(&overlay, OFlags::empty())?;
            let file = file.ok_or_else(|| gone(&self.area.at(&overlay)))?;
            file.sync_all().map_err(|error| self.area.io("write", &overlay, &error))?;
        }
        self.area.sync()
    }
}

impl Converter for VirtV2v {
    fn convert(&mut self, doing: &mut dyn FnMut(&str) -> bool) -> Result<Conversion, PortError> {
        self.forget_overlays()?;
        let mut log = Log::open(&self.job)?;
        let done = self.run(&mut log, doing);
        if !matches!(done, Ok(Conversion::Done { .. })) {
            // Nothing of it counts, and it takes room. What cannot be deleted goes before the next try.
            let _ = self.forget_overlays();
        }
        done
    }

    fn commit(
        &mut self,
        disk: &TargetDisk,
        doing: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Conversion, PortError> {
        let disk = LocalDisk::parse(disk).map_err(|error| damaged(error.to_string()))?;
        if !self.disks.contains(&disk) {
            return Err(damaged(format!("{} is no disk of {:?}", disk.file, self.job.name)));
        }
        let overlay = disk.overlay();
        let path = self.area.at(&overlay);
        if self.area.file(&overlay, OFlags::empty())?.is_none() {
            return Err(gone(&path));
        }
        let program = self.program(QEMU_IMG)?;
        // What it says of the disk ends here (safety rule 19).
        self.area.delete(&disk.map(), AtFlags::empty())?;
        self.area.sync()?;
        // `-d` keeps the overlay as it is, `-p` tells that something happens.
        let mut arguments: Vec<OsString> =
            ["commit", "-p", "-f", "qcow2", "-d"].map(Into::into).into();
        arguments.push(path.clone().into());
        let step = format!("Committing the conversion of {}", disk.file);
        match self.tool(&program, arguments, &mut || doing(&step))? {
            (Ending::Code(0), _) => {}
            (Ending::Stopped, _) => return Ok(Conversion::Stopped),
            (ending, said) => return Err(failed_tool("commit", &path, &said, ending)),
        }
        let file = self.area.file(&disk.file, OFlags::empty())?;
        let file = file.ok_or_else(|| gone(&self.area.at(&disk.file)))?;
        file.sync_data().map_err(|error| self.area.io("write", &disk.file, &error))?;
        Ok(Conversion::Done { warnings: Vec::new() })
    }
}

/// How long a converter says nothing and has no room to write to.
#[derive(Debug)]
struct Standstill {
    clock: SystemClock,
    since: Option<SignedDuration>,
    /// It was too long.
    over: bool,
}

impl Standstill {
    fn none() -> Self {
        Self { clock: SystemClock::start(), since: None, over: false }
    }

    fn hear(&mut self, still: bool) {
        let now = self.clock.elapsed();
        self.since = still.then(|| self.since.unwrap_or(now));
        self.over |= self.since.is_some_and(|since| now - since >= FULL_MAX);
    }
}

fn scratch(tmp_dir: &str, area: &Token) -> PathBuf {
    Path::new(tmp_dir).join(format!("ferry-{area}"))
}

/// Deletes what a converter that was killed left of the temporary files of an area.
pub(super) fn forget(tmp_dir: &str, area: &Token) -> Result<(), PortError> {
    let path = scratch(tmp_dir, area);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(scratch_failed(&path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The folder of one run's temporary files, deleted with it. A run that was killed leaves it to the next one, or to whoever
/// removes the area.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make(tmp_dir: &str, disk: &LocalDisk) -> Result<Self, PortError> {
        forget(tmp_dir, &disk.area)?;
        let path = scratch(tmp_dir, &disk.area);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| scratch_failed(&path, &error))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is deleted by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn scratch_failed(path: &Path, error: &io::Error) -> PortError {
    PortError::lasting(
        format!("cannot write {}: {error}", path.display()),
        "let `convert.tmpDir` in ferry.yaml name a folder with room that ferry's user may write",
        Mend::Target,
    )
}

fn damaged(text: String) -> PortError {
    PortError::lasting(
        text,
        "the journal is damaged: see `ferry doctor`, then cancel the VM and let it run again",
        Mend::Person,
    )
}

fn gone(path: &Path) -> PortError {
    PortError::lasting(
        format!("{} is gone", path.display()),
        "find out who took it away; cancel the VM in its Migration and let it run again",
        Mend::Person,
    )
}

#[cfg(test)]
#[cfg(feature = "peers")]
mod peers;
#[cfg(test)]
mod tests;
