//! The target of a local folder: disks and a libvirt domain beside them, in a libvirt as well where there is one.
//!
//! # States
//!
//! ```text
//! FOLDER/.ferry-TOKEN/   the area of one run: ferry.json, disk-0.raw or disk-0.qcow2 …
//!        │  domain.xml is added, then one rename that replaces nothing
//!        ▼
//! FOLDER/NAME/           the VM
//!        │  where there is a libvirt, libvirt.uri names it, and domain.xml is defined there, under a UUID that is derived
//!        │  from TOKEN
//!        ▼
//! the domain NAME        off, then started
//! ```
//!
//! # Guarantees
//!
//! What was made carries the token of its area, in the folder's name or in its `ferry.json`; nothing else is ever written to
//! or deleted. Every effect may be made again, and after a crash at any point: what `ferry.json` stands in is ours, and it is
//! the first file made and the last one deleted. An effect that returned is durable. A VM is undone by turning it into its
//! area again first, so that no half of it keeps its name. A disk that a running program holds locked is not deleted.

mod accelerator;
pub mod domain;
pub(in crate::adapter) mod folder;
mod hosted;
mod libvirt;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{AtFlags, FileType, OFlags, fstatvfs};
use serde::{Deserialize, Serialize};

pub use self::domain::Accelerator;
use self::domain::{Disks, domain_xml};
use self::folder::Folder;
use self::hosted::{DEFINED_IN, add_domains, standing};
pub use self::libvirt::Libvirt;
use crate::adapter::confine::Confine;
use crate::adapter::convert::{self, Probe};
use crate::adapter::image::{make_qcow2, qcow2_capacity};
use crate::adapter::location::{CONVERT_LOCK, LocalDisk, OVERLAY};
use crate::copy::protocol::ConvertTools;
use crate::desired::{DOMAIN_FILE, Site};
use crate::domain::id::{DiskKey, SourceVm, TargetName, Token};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Power, TargetDisk, Vm};
use crate::journal::record::Mend;
use crate::manifest::document::ImageFormat;
use crate::observed::{TargetState, TargetVm};
use crate::port::{Blueprint, PortError, Target};

/// The version of `ferry.json`.
const VERSION: u32 = 1;
/// The file that says whose a folder is.
const CARD: &str = "ferry.json";
/// What the name of an area starts with.
const AREA: &str = ".ferry-";
/// The domain.
const DOMAIN: &str = DOMAIN_FILE;
/// A card is some 300 bytes.
const CARD_MAX: u64 = 64 << 10;

/// Folders of disks, and the libvirt that runs what stands in them.
#[derive(Debug)]
pub struct LocalTarget {
    confine: Confine,
    programs: Vec<PathBuf>,
    accelerator: OnceLock<Accelerator>,
    converter: Probe,
    /// Where converters keep their temporary files.
    tmp_dir: String,
    libvirt: Option<Libvirt>,
}

/// What `ferry.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Card {
    version: u32,
    /// The area's token.
    token: Token,
    /// Where the VM comes from.
    source: SourceVm,
    /// What it is called, or to be called.
    name: TargetName,
}

/// A target's folder.
#[derive(Debug)]
struct Opened {
    folder: Folder,
    /// Its path as the manifest says it.
    path: String,
    /// How disks are stored in it.
    format: ImageFormat,
}

/// Whose a folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    /// Nothing has that name.
    Nobody,
    /// Not ours.
    Other,
    /// It was made under this token.
    Token(Token),
}

impl LocalTarget {
    /// Takes what files may be made below, the folders in which programs are searched (a QEMU that tells what the domains are
    /// written for, the converter), and what guests are converted with.
    pub fn new(confine: Confine, programs: Vec<PathBuf>, tools: ConvertTools) -> Self {
        let tmp_dir = tools.tmp_dir.clone();
        let converter = Probe::new(tools, programs.clone());
        let accelerator = OnceLock::new();
        Self { confine, programs, accelerator, converter, tmp_dir, libvirt: None }
    }

    fn open(&self, site: &Site) -> Result<Opened, PortError> {
        let Site::Local { path, disk_format } = site else {
            let text = "this provider is no local folder";
            return Err(PortError::lasting(text, "name a provider of type `local`", Mend::Person));
        };
        let folder = Folder::open(&self.confine, Path::new(&**path))?;
        Ok(Opened { folder, path: path.to_string(), format: *disk_format })
    }
}

/// What the folder of an area is called, and the VM, where both are names and no paths.
fn names(area: &Token, name: &TargetName) -> Result<(String, String), PortError> {
    let sound = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        plain && (1..=63).contains(&text.len())
    };
    if sound(area.as_str()) && sound(name.as_str()) {
        return Ok((format!("{AREA}{area}"), name.as_str().to_owned()));
    }
    Err(PortError::lasting(
        format!("a VM cannot be called {:?} in a folder", name.as_str()),
        "set the entry's `targetName` to letters, digits and hyphens, 63 at most",
        Mend::Person,
    ))
}

/// Names the folder of a disk's area, where area and VM have names that are no paths.
pub(in crate::adapter) fn area_folder(
    area: &Token,
    name: &TargetName,
) -> Result<String, PortError> {
    names(area, name).map(|(area, _)| area)
}

fn owner(folder: &Folder, name: &str) -> Result<Owner, PortError> {
    match folder.enter(name)? {
        Some(inner) => Ok(card(&inner)?.map_or(Owner::Other, |card| Owner::Token(card.token))),
        None if folder.has(name)? => Ok(Owner::Other),
        None => Ok(Owner::Nobody),
    }
}

/// Reads a card; one that cannot be understood is nobody's.
fn card(folder: &Folder) -> Result<Option<Card>, PortError> {
    let bytes = folder.read(CARD, CARD_MAX)?;
    let card: Option<Card> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(card.filter(|card| card.version == VERSION))
}

fn taken(folder: &Folder, name: &str) -> PortError {
    PortError::lasting(
        format!("{} is there already, and this run did not make it", folder.at(name).display()),
        "take it away, or set the entry's `targetName` to another name",
        Mend::Person,
    )
}

fn gone(folder: &Folder, name: &str) -> PortError {
    PortError::lasting(
        format!("{} is gone, or no longer what this run made", folder.at(name).display()),
        "cancel the VM in its Migration and let it run again",
        Mend::Person,
    )
}

/// Names the file of a disk. Its ending is what tells the format to everybody later.
fn disk_file(index: usize, format: ImageFormat) -> String {
    format!("disk-{index}.{}", format.name())
}

/// Tells whether a file in a folder of ours was made by us: disks and what lies beside them (maps, overlays), the lock of
/// converters, the domain, and what a crash left of writing that and the card.
pub(in crate::adapter) fn ours(name: &str) -> bool {
    let beside_disk = name.strip_prefix("disk-").and_then(|rest| rest.split_once('.'));
    let numbered =
        |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    beside_disk.is_some_and(|(number, _)| numbered(number))
        || [DOMAIN, "domain.xml.new", "ferry.json.new", CONVERT_LOCK, DEFINED_IN, "libvirt.uri.new"]
            .contains(&name)
}

/// Makes a disk of the right size, unless it is there.
fn make_disk(
    area: &Folder,
    name: &str,
    capacity: Bytes,
    format: ImageFormat,
) -> Result<(), PortError> {
    let file = area.file(name, OFlags::CREATE)?.ok_or_else(|| gone(area, name))?;
    if format == ImageFormat::Qcow2 {
        return make_qcow2(&file, &area.at(name), capacity);
    }
    let failed = |error| area.io("make", name, &error);
    let length = file.metadata().map_err(failed)?.len();
    if length > capacity.0 {
        return Err(gone(area, name));
    }
    if length < capacity.0 {
        // A crash may come between making a file and giving it its size; nothing was copied into it before that.
        file.set_len(capacity.0).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

/// Whether every disk is there and as large as the guest is to see it.
fn disks_stand(folder: &Folder, vm: &Vm, format: ImageFormat) -> Result<(), PortError> {
    for (index, disk) in vm.disks.iter().enumerate() {
        let name = disk_file(index, format);
        let file = folder.file(&name, OFlags::empty())?.ok_or_else(|| gone(folder, &name))?;
        let meta = file.metadata().map_err(|error| folder.io("look at", &name, &error))?;
        let seen = match format {
            ImageFormat::Raw => Some(Bytes(meta.len())),
            ImageFormat::Qcow2 => qcow2_capacity(&file, &folder.at(&name))?,
        };
        if seen != Some(disk.capacity) {
            return Err(gone(folder, &name));
        }
    }
    Ok(())
}

/// Fails where a program holds a lock on a disk, as QEMU and Ferry's own worker do while they use it.
fn unlocked(folder: &Folder, name: &str) -> Result<(), PortError> {
    let Some(file) = folder.file(name, OFlags::empty())? else { return Ok(()) };
    let whole = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).expect("a small number"),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(PortError::passing(
            format!("{} is in use by a running program", folder.at(name).display()),
            "stop the VM or the worker that uses it",
        )),
        Err(error) => Err(folder.io("lock", name, &error.into())),
    }
}

/// Deletes what a conversion needed: it is committed, or there was none. One that still runs is refused.
fn remove_conversion(area: &Folder) -> Result<(), PortError> {
    let mut left = area.names()?;
    left.retain(|(name, _)| name == CONVERT_LOCK || (ours(name) && name.ends_with(OVERLAY)));
    for (name, _) in &left {
        unlocked(area, name)?;
    }
    for (name, _) in &left {
        area.delete(name, AtFlags::empty())?;
    }
    if left.is_empty() { Ok(()) } else { area.sync() }
}

/// Deletes the area and what we made in it; what others put there stays, and the folder with it.
fn remove_area(folder: &Folder, name: &str, area: &Token) -> Result<(), PortError> {
    let Some(inner) = folder.enter(name)? else { return Ok(()) };
    if card(&inner)?.is_some_and(|card| card.token != *area) {
        return Err(gone(folder, name));
    }
    // Some file systems do not tell kinds in a listing; then `unlocked` refuses what is no plain file.
    let plain = |kind| matches!(kind, FileType::RegularFile | FileType::Unknown);
    let mut mine = inner.names()?;
    mine.retain(|(name, kind)| ours(name) && plain(*kind));
    for (name, _) in &mine {
        unlocked(&inner, name)?;
    }
    for (name, _) in &mine {
        inner.delete(name, AtFlags::empty())?;
    }
    inner.sync()?;
    inner.delete(CARD, AtFlags::empty())?;
    folder.delete(name, AtFlags::REMOVEDIR)?;
    folder.sync()
}

impl Target for LocalTarget {
    fn observe(&self, site: &Site) -> Result<TargetState, PortError> {
        let folder = self.open(site)?.folder;
        let room = fstatvfs(folder.fd()).map_err(|error| {
            folder.io("look at", ".", &std::io::Error::from_raw_os_error(error.raw_os_error()))
        })?;
        let free = Bytes(room.f_bavail.saturating_mul(room.f_frsize));
        let domains = self.domains()?;
        let (mut vms, mut areas) = (BTreeMap::new(), BTreeSet::new());
        for (name, kind) in folder.names()? {
            if let Some(token) = name.strip_prefix(AREA)
                && kind == FileType::Directory
            {
                areas.insert(Token::new(token));
            }
            // Names of VMs never start with a dot: areas, and what editors leave.
            if name.starts_with('.') {
                continue;
            }
            let found = standing(owner(&folder, &name)?, &name, domains.as_ref());
            vms.extend(found.map(|vm| (TargetName::new(name), vm)));
        }
        add_domains(&mut vms, domains.as_ref());
        let (starts, converter) = (self.libvirt.is_some(), self.converter.look());
        Ok(TargetState { free, vms, areas, starts, converter })
    }

    fn look(&self, site: &Site, name: &TargetName) -> Result<Option<TargetVm>, PortError> {
        let folder = self.open(site)?.folder;
        let (_, name) = names(&Token::new("look"), name)?;
        Ok(standing(owner(&folder, &name)?, &name, self.domains()?.as_ref()))
    }

    fn create_disks(
        &self,
        site: &Site,
        area: &Token,
        name: &TargetName,
        vm: &Vm,
    ) -> Result<Vec<(DiskKey, TargetDisk)>, PortError> {
        let Opened { folder, path, format } = self.open(site)?;
        let (area_name, vm_name) = names(area, name)?;
        match owner(&folder, &vm_name)? {
            Owner::Token(token) if token == *area => {
                let made = folder.enter(&vm_name)?.ok_or_else(|| gone(&folder, &vm_name))?;
                disks_stand(&made, vm, format)?;
            }
            Owner::Token(_) | Owner::Other => return Err(taken(&folder, &vm_name)),
            Owner::Nobody => {
                self.is_undefined(area, &vm_name)?;
                folder.make(&area_name)?;
                let inner = folder.enter(&area_name)?.ok_or_else(|| taken(&folder, &area_name))?;
                let (token, name) = (area.clone(), name.clone());
                let wanted = Card { version: VERSION, token, source: vm.id.clone(), name };
                if inner.has(CARD)? {
                    if card(&inner)?.as_ref() != Some(&wanted) {
                        return Err(taken(&folder, &area_name));
                    }
                } else {
                    let text = serde_json::to_vec_pretty(&wanted);
                    inner.write(CARD, &text.expect("plain fields always serialize"))?;
                }
                for (index, disk) in vm.disks.iter().enumerate() {
                    make_disk(&inner, &disk_file(index, format), disk.capacity, format)?;
                }
                inner.sync()?;
                folder.sync()?;
            }
        }
        let place = |(index, disk): (usize, &crate::domain::vm::Disk)| {
            let (folder, area, name) = (path.clone(), area.clone(), name.clone());
            let local = LocalDisk { folder, area, name, file: disk_file(index, format) };
            (disk.key.clone(), local.to_target())
        };
        Ok(vm.disks.iter().enumerate().map(place).collect())
    }

    fn create_vm(
        &self,
        site: &Site,
        area: &Token,
        blueprint: &Blueprint<'_>,
    ) -> Result<(), PortError> {
        let Opened { folder, path, format } = self.open(site)?;
        let (area_name, vm_name) = names(area, blueprint.name)?;
        match owner(&folder, &vm_name)? {
            // The rename may have happened right before a crash: it is made durable before it is believed.
            Owner::Token(token) if token == *area => {
                folder.sync()?;
                return self.define(&folder, area, &vm_name);
            }
            Owner::Token(_) | Owner::Other => return Err(taken(&folder, &vm_name)),
            Owner::Nobody => self.is_undefined(area, &vm_name)?,
        }
        let inner = folder.enter(&area_name)?.ok_or_else(|| gone(&folder, &area_name))?;
        if card(&inner)?.is_none_or(|card| card.token != *area) {
            return Err(gone(&folder, &area_name));
        }
        disks_stand(&inner, blueprint.vm, format)?;
        remove_conversion(&inner)?;
        let made = format!("{}/{vm_name}", path.trim_end_matches('/'));
        let paths: Vec<_> = (0..blueprint.vm.disks.len())
            .map(|index| format!("{made}/{}", disk_file(index, format)))
            .collect();
        let disks = Disks { paths: &paths, format };
        let accelerator = self.accelerator.get_or_init(|| Accelerator::probe(&self.programs));
        let xml = domain_xml(blueprint, area, disks, *accelerator).map_err(|error| {
            let remedy = "rename it, or map the network to another name";
            PortError::lasting(error.to_string(), remedy, Mend::Person)
        })?;
        inner.write(DOMAIN, xml.as_bytes())?;
        if !folder.rename(&area_name, &vm_name)? {
            return Err(taken(&folder, &vm_name));
        }
        self.define(&folder, area, &vm_name)
    }

    /// A folder alone starts nothing; the command that does is in the error.
    fn start(&self, site: &Site, area: &Token, name: &TargetName) -> Result<Power, PortError> {
        let folder = self.open(site)?.folder;
        let (_, vm_name) = names(area, name)?;
        let Some(libvirt) = &self.libvirt else {
            return Err(PortError::lasting(
                format!("{name} was to be started, and no `libvirt.uri` is set any more"),
                "set it in ferry.yaml again: whether the VM runs is seen there only",
                Mend::Person,
            ));
        };
        if owner(&folder, &vm_name)? != Owner::Token(area.clone()) {
            return Err(gone(&folder, &vm_name));
        }
        self.define(&folder, area, &vm_name)?;
        Self::start_in(libvirt, area)
    }

    fn remove(&self, site: &Site, area: &Token, name: &TargetName) -> Result<(), PortError> {
        let folder = self.open(site)?.folder;
        let (area_name, vm_name) = names(area, name)?;
        if owner(&folder, &vm_name)? == Owner::Token(area.clone()) {
            self.is_not_elsewhere(&folder, &vm_name)?;
        }
        self.undefine(area)?;
        remove_area(&folder, &area_name, area)?;
        if owner(&folder, &vm_name)? == Owner::Token(area.clone()) {
            if !folder.rename(&vm_name, &area_name)? {
                return Err(taken(&folder, &area_name));
            }
            remove_area(&folder, &area_name, area)?;
        }
        convert::forget(&self.tmp_dir, area)
    }
}

#[cfg(test)]
mod tests;
