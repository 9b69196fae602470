//! The source of exports: one `.ova` archive, one `.ovf` with its disks beside it, or a folder of them.
//!
//! # Guarantees
//!
//! Exports are opened below `allowPaths` and only read. A broken one is a gap beside the sound ones, and so is whatever cannot
//! be looked into. An archive is read once: as long as inode, size and time of its file stay what they were, a second look only
//! asks for those. Beside a descriptor files come and go without it, so they are looked at each time, and only the hash of all
//! their bytes is remembered. A VM is what its descriptor and manifest say (their SHA-256, the `.mf` behind the `.ovf`), so a
//! renamed, copied or unpacked export is the same VM; one without a manifest is what its whole content is.

pub mod archive;
pub mod boot;
pub mod make;
pub mod manifest;
pub(crate) mod member;
pub mod ovf;
mod ovirt;
pub mod package;
pub mod tar;
mod told;
mod virtualbox;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, statat};

use self::archive::{ArchiveError, Files, read_package};
use self::ovf::OvfError;
use self::package::{Package, is_descriptor, open, stamp, whole_hash};
use self::tar::TarError;
use crate::adapter::clock::SystemClock;
use crate::adapter::confine::Confine;
use crate::adapter::location::Stamp;
use crate::desired::Site;
use crate::domain::id::{SourceVm, Token};
use crate::domain::vm::Vm;
use crate::journal::record::Mend;
use crate::observed::{Gap, SourceState};
use crate::port::{Clock, PortError, PoweredOn, Source};

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
    /// Its files, each with what it was; the one that names it first.
    files: Files,
    /// The SHA-256 of all of them, where it was needed.
    whole: Option<String>,
    /// Its VMs, or what is wrong with it.
    vms: Result<Vec<Arc<Vm>>, Gap>,
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
        let path = Path::new(&**path);
        // Without blocking: a named pipe would wait for its writer.
        let root = self.confine.open(path, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from)?;
        let meta = root.metadata().map_err(|error| unreadable(path, &error))?;
        if !meta.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok((vec![(path.to_owned(), name)], Vec::new()));
        }
        let mut listing = Listing::default();
        listing.folder(&root, path, "")?;
        for name in std::mem::take(&mut listing.folders) {
            let below = path.join(&name);
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::DIRECTORY;
            let folder = self.confine.open(&below, flags).map(File::from);
            let listed = folder.and_then(|it| listing.folder(&it, &below, &format!("{name}/")));
            // A VM may be in what cannot be read: its absence is not certain.
            if let Err(PortError { fault, .. }) = listed {
                listing.gaps.push(Gap { reason: fault.text, remedy: fault.remedy });
            }
        }
        let Listing { mut found, gaps, folders: _ } = listing;
        found.sort();
        Ok((found, gaps))
    }

    /// Returns what an archive holds, from memory where that will do.
    fn read(&self, path: &Path, name: &str, reading: Reading) -> Known {
        let mut known = match self.open(path) {
            Ok((file, fresh)) => {
                let before = self.remembered(path).filter(|old| self.stays(old, &fresh));
                match before {
                    // What lies beside a descriptor may come and go without it.
                    Some(old) if reading == Reading::Remembered && !is_descriptor(name) => {
                        return old;
                    }
                    before => self.vms_of(file, path, name, before.unwrap_or(fresh)),
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
            let vms = Err(Gap { reason, remedy });
            Box::new(Known { files: Vec::new(), whole: None, vms })
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
        let files = vec![(path.to_owned(), stamp)];
        Ok((file, Known { files, whole: None, vms: Ok(Vec::new()) }))
    }

    /// Tells whether all files are still what they were.
    fn stays(&self, old: &Known, fresh: &Known) -> bool {
        let same = |(path, stamp_before): &(PathBuf, Stamp)| {
            let file = open(&self.confine, path).ok().flatten();
            file.and_then(|file| stamp(&file).ok()).as_ref() == Some(stamp_before)
        };
        let (named, others) = (&fresh.files[0], old.files.iter());
        old.files.contains(named) && others.filter(|(path, _)| *path != named.0).all(same)
    }

    fn vms_of(&self, file: File, path: &Path, name: &str, mut known: Known) -> Known {
        let whole = &mut known.whole;
        let result = Package::new(&self.confine, file, path).and_then(|package| {
            let now = SystemClock::start().now();
            read_package(&package, name, now, &mut |parts| match whole {
                Some(hash) => Ok(hash.clone()),
                None => Ok(whole.insert(whole_hash(parts)?).clone()),
            })
        });
        known.vms = match result {
            Ok((vms, files)) => {
                known.files = files;
                Ok(vms.into_iter().map(Arc::new).collect())
            }
            Err(error) => Err(gap(path, &error)),
        };
        known
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

/// What a folder of exports holds.
#[derive(Default)]
struct Listing {
    found: Vec<Place>,
    gaps: Vec<Gap>,
    /// Folders in which one export each may lie.
    folders: Vec<String>,
}

impl Listing {
    /// Lists a folder; one that lies below another, whose name is the prefix, is searched for descriptors only.
    fn folder(&mut self, folder: &File, path: &Path, prefix: &str) -> Result<(), PortError> {
        let entries = Dir::read_from(folder).map_err(|error| unreadable(path, &error.into()))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(path, &error.into()))?;
            let name = entry.file_name().to_string_lossy();
            let extension = Path::new(name.as_ref()).extension();
            let archive = extension.is_some_and(|end| end.eq_ignore_ascii_case("ova"));
            let is_folder = match entry.file_type() {
                // Some file systems do not say with the name what it is.
                FileType::Unknown => statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Directory),
                kind => kind == FileType::Directory,
            };
            // Hidden ones are unfinished downloads and what macOS leaves beside files.
            if name.starts_with('.') {
                continue;
            }
            let named = (archive && prefix.is_empty()) || is_descriptor(&name);
            let searched = is_folder && prefix.is_empty();
            if (!named || is_folder) && !searched {
                continue;
            }
            if entry.file_name().to_str().is_err() {
                self.gaps.push(Gap {
                    reason: format!("{}: its name is no UTF-8", path.join(&*name).display()),
                    remedy: "rename it".into(),
                });
                continue;
            }
            if searched {
                if self.folders.len() < ARCHIVES_MAX {
                    self.folders.push(name.into_owned());
                }
                continue;
            }
            self.found.push((path.join(&*name), format!("{prefix}{name}")));
            if self.found.len() > ARCHIVES_MAX {
                let text = format!("{} holds more than {ARCHIVES_MAX} archives", path.display());
                return Err(PortError::lasting(text, "split the folder", Mend::Person));
            }
        }
        Ok(())
    }
}

/// What to do about an archive that cannot be read.
const REMEDY_READ: &str = "check the disk that it lies on, and that ferry's user may read it";
/// What to do about one that changes.
const REMEDY_WAIT: &str = "wait until it is copied completely";

fn gap(path: &Path, error: &ArchiveError) -> Gap {
    let remedy = match error {
        ArchiveError::Changing | ArchiveError::Incomplete { .. } | ArchiveError::Fresh { .. } => {
            REMEDY_WAIT
        }
        ArchiveError::Read(_) | ArchiveError::Tar(TarError::Read { .. }) => REMEDY_READ,
        ArchiveError::Altered { .. } => "export it again: somebody edited it after its export",
        ArchiveError::Ovf { source: OvfError::ExportDomain, .. } => {
            "export the VM as an OVA in oVirt's Administration Portal, or take it out of the folder"
        }
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
        let vms = found.and_then(|(_, known)| known.vms.ok());
        let found = vms.and_then(|vms| vms.into_iter().find(|found| found.id == *vm));
        Ok(found.map(Arc::unwrap_or_clone))
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
pub(super) mod tests;
