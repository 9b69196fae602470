//! The source of OVA files: one archive, or a folder of them.
//!
//! # Guarantees
//!
//! Archives are opened below `allowPaths` and only read. A broken archive is a gap beside the sound ones. An archive is read
//! once: as long as inode, size and time of a file stay what they were, a second look only asks for those. A VM is what its
//! descriptor and manifest say (their SHA-256, the `.mf` behind the `.ovf`), so a renamed or copied file is the same VM; an
//! archive without a manifest is what its whole content is.

pub mod archive;
pub mod boot;
pub mod make;
pub mod manifest;
pub mod ovf;
pub mod tar;
pub mod xml;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rustix::fs::{Dir, FileType, OFlags};

use self::archive::{ArchiveError, read_archive, stamp, whole_hash};
use self::tar::TarError;
use crate::adapter::confine::Confine;
use crate::adapter::location::Stamp;
use crate::desired::Site;
use crate::domain::id::{SourceVm, Token};
use crate::domain::vm::Vm;
use crate::journal::record::Mend;
use crate::observed::{Gap, SourceState};
use crate::port::{PortError, PoweredOn, Source};

/// More archives than one folder has where people still find anything; it bounds memory and the time of a look.
const ARCHIVES_MAX: usize = 10_000;

/// Archives of virtual machines.
#[derive(Debug)]
pub struct OvaSource {
    confine: Confine,
    /// What was read, by the file's path. Only a memo: it may be dropped at any time.
    known: Mutex<BTreeMap<PathBuf, Known>>,
}

/// An archive's path, and what the inventory calls it.
type Place = (PathBuf, String);

/// What is known of a file, as long as its stamp stays.
#[derive(Clone, Debug)]
struct Known {
    stamp: Stamp,
    /// The SHA-256 of the whole file, where it was needed.
    whole: Option<String>,
    /// Its VMs, or what is wrong with it.
    vms: Result<Vec<Vm>, Gap>,
}

/// Whether what is known of an unchanged file will do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It will.
    Remembered,
    /// Descriptor and manifest are read again.
    Again,
}

impl OvaSource {
    /// Takes what files may be opened below.
    pub fn new(confine: Confine) -> Self {
        Self { confine, known: Mutex::default() }
    }

    /// Lists the archives of a site: their paths, names, and what cannot be an archive.
    fn archives(&self, site: &Site) -> Result<(Vec<Place>, Vec<Gap>), PortError> {
        let Site::Ova { path } = site else {
            let text = "this provider is no OVA file or folder";
            return Err(PortError::lasting(text, "name a provider of type `ova`", Mend::Person));
        };
        let path = Path::new(path);
        // Without blocking: a named pipe would wait for its writer.
        let root = self.confine.open(path, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from)?;
        let meta = root.metadata().map_err(|error| unreadable(path, &error))?;
        if !meta.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok((vec![(path.to_owned(), name)], Vec::new()));
        }
        let (mut found, mut gaps) = (Vec::new(), Vec::new());
        let entries = Dir::read_from(&root).map_err(|error| unreadable(path, &error.into()))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(path, &error.into()))?;
            let name = entry.file_name().to_string_lossy();
            let extension = Path::new(name.as_ref()).extension();
            let named = extension.is_some_and(|end| end.eq_ignore_ascii_case("ova"));
            // Hidden ones are unfinished downloads and what macOS leaves beside files.
            if !named || name.starts_with('.') || entry.file_type() == FileType::Directory {
                continue;
            }
            if entry.file_name().to_str().is_err() {
                gaps.push(Gap {
                    reason: format!("{}: its name is no UTF-8", path.join(&*name).display()),
                    remedy: "rename the file".into(),
                });
                continue;
            }
            found.push((path.join(&*name), name.into_owned()));
            if found.len() > ARCHIVES_MAX {
                let text = format!("{} holds more than {ARCHIVES_MAX} archives", path.display());
                return Err(PortError::lasting(text, "split the folder", Mend::Person));
            }
        }
        found.sort();
        Ok((found, gaps))
    }

    /// Returns what an archive holds, from memory where that will do.
    fn read(&self, path: &Path, name: &str, reading: Reading) -> Known {
        let mut known = match self.open(path) {
            Ok((file, fresh)) => {
                let before = self.remembered(path).filter(|old| old.stamp == fresh.stamp);
                match before {
                    Some(old) if reading == Reading::Remembered => return old,
                    before => vms_of(&file, path, name, before.unwrap_or(fresh)),
                }
            }
            Err(known) => *known,
        };
        // A file that is still written to, or lies on a disk that failed, is no broken archive: it is looked at again,
        // whatever its stamp says.
        let passes = |gap: &Gap| [REMEDY_WAIT, REMEDY_READ].contains(&gap.remedy.as_str());
        let lasting = !known.vms.as_ref().is_err_and(passes);
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if lasting {
            if all.len() > 2 * ARCHIVES_MAX {
                all.clear();
            }
            all.insert(path.to_owned(), known.clone());
        } else {
            all.remove(path);
            known.whole = None;
        }
        known
    }

    fn open(&self, path: &Path) -> Result<(File, Known), Box<Known>> {
        let fault = |reason: String, remedy: String| {
            let stamp = Stamp { inode: 0, size: 0, mtime_ns: 0 };
            let vms = Err(Gap { reason, remedy });
            Box::new(Known { stamp, whole: None, vms })
        };
        let file = self
            .confine
            .open(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|error| fault(error.fault.text, error.fault.remedy))?;
        let file = File::from(file);
        let failed = |error| fault(format!("{}: {error}", path.display()), REMEDY_READ.to_owned());
        if !file.metadata().map_err(failed)?.is_file() {
            let reason = format!("{} is no plain file", path.display());
            return Err(fault(reason, "put an archive there, or take it away".into()));
        }
        let stamp = stamp(&file).map_err(failed)?;
        Ok((file, Known { stamp, whole: None, vms: Ok(Vec::new()) }))
    }

    fn remembered(&self, path: &Path) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    /// Finds the archive of a VM, read again.
    fn find(&self, site: &Site, wanted: &SourceVm) -> Result<Option<(PathBuf, Known)>, PortError> {
        let (archives, mut gaps) = self.archives(site)?;
        for (path, name) in archives {
            let holds = |known: &Known| {
                known.vms.as_ref().is_ok_and(|vms| vms.iter().any(|vm| vm.id == *wanted))
            };
            let remembered = self.read(&path, &name, Reading::Remembered);
            if !holds(&remembered) {
                gaps.extend(remembered.vms.err());
                continue;
            }
            let known = self.read(&path, &name, Reading::Again);
            if holds(&known) {
                return Ok(Some((path, known)));
            }
            gaps.extend(known.vms.err());
        }
        // The VM may be in what could not be read: its absence is not certain.
        match gaps.into_iter().next() {
            Some(Gap { reason, remedy }) => Err(PortError::passing(
                format!("{wanted} was not found, and not every archive can be read: {reason}"),
                remedy,
            )),
            None => Ok(None),
        }
    }
}

/// What to do about an archive that cannot be read.
const REMEDY_READ: &str = "check the disk that it lies on, and that ferry's user may read it";
/// What to do about one that changes.
const REMEDY_WAIT: &str = "wait until it is copied completely";

fn vms_of(file: &File, path: &Path, name: &str, mut known: Known) -> Known {
    let text = path.to_string_lossy();
    let whole = &mut known.whole;
    let result = read_archive(file, &text, name, &mut |file| match whole {
        Some(hash) => Ok(hash.clone()),
        None => Ok(whole.insert(whole_hash(file)?).clone()),
    });
    known.vms = result.map_err(|error| gap(path, &error));
    known
}

fn gap(path: &Path, error: &ArchiveError) -> Gap {
    let remedy = match error {
        ArchiveError::Changing => REMEDY_WAIT,
        ArchiveError::Read(_) | ArchiveError::Tar(TarError::Read { .. }) => REMEDY_READ,
        ArchiveError::Altered { .. } => "export it again: somebody edited it after its export",
        ArchiveError::Tar(_)
        | ArchiveError::Count { .. }
        | ArchiveError::Ovf { .. }
        | ArchiveError::Manifest { .. }
        | ArchiveError::Missing { .. } => "copy or export it again, or take it out of the folder",
    };
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |error| error.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    let reason = format!("{}: {}", path.display(), causes.join(": "));
    Gap { reason, remedy: remedy.to_owned() }
}

fn unreadable(path: &Path, error: &std::io::Error) -> PortError {
    PortError::passing(format!("cannot read {}: {error}", path.display()), REMEDY_READ)
}

fn no_power() -> PortError {
    PortError::lasting(
        "an archive is a file: it has no power and keeps no mark",
        "this is a mistake of ferry's; please report it",
        Mend::Person,
    )
}

impl Source for OvaSource {
    fn observe(&self, site: &Site) -> Result<SourceState, PortError> {
        let (archives, gaps) = self.archives(site)?;
        let mut state = SourceState { gaps, ..SourceState::default() };
        let mut first: BTreeMap<SourceVm, String> = BTreeMap::new();
        for (path, name) in archives {
            match self.read(&path, &name, Reading::Remembered).vms {
                Err(gap) => state.gaps.push(gap),
                Ok(vms) => {
                    for vm in vms {
                        match first.get(&vm.id) {
                            None => {
                                first.insert(vm.id.clone(), vm.path.clone());
                                state.vms.push(vm);
                            }
                            Some(same) => state.gaps.push(Gap {
                                reason: format!("{} is the same VM as {same}", vm.path),
                                remedy: "take one of the two archives away".into(),
                            }),
                        }
                    }
                }
            }
        }
        Ok(state)
    }

    fn look(&self, site: &Site, vm: &SourceVm) -> Result<Option<Vm>, PortError> {
        let found = self.find(site, vm)?;
        Ok(found.and_then(|(_, known)| known.vms.ok()?.into_iter().find(|found| found.id == *vm)))
    }

    fn claim(&self, _: &Site, _: &SourceVm, _: &Token) -> Result<(), PortError> {
        Err(no_power())
    }

    fn release(&self, _: &Site, _: &SourceVm, _: &Token) -> Result<(), PortError> {
        Err(no_power())
    }

    fn mark_migrated(&self, _: &Site, _: &SourceVm, _: &Token) -> Result<(), PortError> {
        Err(no_power())
    }

    fn shut_down(&self, _: &Site, _: &SourceVm) -> Result<(), PortError> {
        Err(no_power())
    }

    fn power_off(&self, _: &Site, _: &SourceVm) -> Result<(), PortError> {
        Err(no_power())
    }

    fn power_on(&self, _: &Site, _: &SourceVm) -> Result<(), PortError> {
        Err(no_power())
    }

    /// A file never runs. Whether it is still the file that was copied the places of its disks say: they hold what the file
    /// was when it was observed.
    fn powered_on_since(
        &self,
        _site: &Site,
        _vm: &SourceVm,
        _since: Timestamp,
    ) -> Result<PoweredOn, PortError> {
        Ok(PoweredOn::Never)
    }
}

#[cfg(test)]
mod tests;
