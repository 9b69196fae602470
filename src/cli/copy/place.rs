//! Where a copy is written, and what is kept beside it until it is whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, SeekFrom, flock, major, minor, seek};
use serde::{Deserialize, Serialize};

use crate::adapter::confine::Confine;
use crate::adapter::image::files::{Files, Format};
use crate::adapter::lock::LockFile;
use crate::cli::explained;
use crate::domain::text::visible;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Disk, TargetDisk};
use crate::journal::record::Checkpoint;

/// What is kept beside an unfinished copy.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// What is copied: another file of the same name is another disk.
    disk: Disk,
    /// How the copy is stored.
    format: Format,
    /// Which block device it is written to, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// How far it came.
    pub(super) checkpoint: Option<Checkpoint>,
}

/// What a person allowed.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    /// To replace what exists.
    pub(super) force: bool,
    /// To throw away what an earlier copy left.
    pub(super) restart: bool,
}

/// The files of one copy: its name, where it grows, and what is kept beside it.
pub(super) struct Place {
    target: PathBuf,
    format: Format,
    /// Where it is written: a file beside its name, or the device.
    part: PathBuf,
    map: PathBuf,
    kept: PathBuf,
    device: Option<Device>,
}

/// A block device.
struct Device {
    /// Itself, or the disk of which it is a partition.
    disk: PathBuf,
    size: Bytes,
    /// What no other device is called until the machine starts again; `None` where the kernel does not tell.
    identity: Option<String>,
}

impl Place {
    /// Finds out where a copy to a name is written, and how.
    pub(super) fn of(target: &Path, format: Option<Format>) -> anyhow::Result<Self> {
        let shown = visible(&target.display().to_string()).into_owned();
        let device = Device::of(target).with_context(|| format!("cannot look at {shown}"))?;
        if device.is_none() && is_among_devices(target) {
            bail!("there is no device {shown} … hint: `lsblk` lists those that are there");
        }
        let format = match (&device, format.or_else(|| Format::of(target))) {
            (Some(_), None | Some(Format::Raw)) => Format::Raw,
            (Some(_), Some(format)) => {
                bail!(
                    "{shown} is a block device, which holds no {} … hint: leave `--target-format` out",
                    format.name()
                )
            }
            (None, Some(format)) => format,
            (None, None) => {
                bail!("the end of {shown} tells no format … hint: `--target-format raw` or `qcow2`")
            }
        };
        // One device has many names.
        let path = match &device {
            Some(_) => {
                fs::canonicalize(target).with_context(|| format!("cannot look at {shown}"))?
            }
            None => target.to_owned(),
        };
        let Some(name) = path.file_name() else { bail!("{shown} names no file") };
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        // Folders of devices are gone with the next start of the machine, and hold no files of people.
        let folder = folder.filter(|_| device.is_none()).unwrap_or(Path::new("."));
        let folder = fs::canonicalize(folder)
            .with_context(|| format!("cannot open the folder {}", folder.display()))?;
        let beside = |end: &str| {
            let mut name = name.to_owned();
            name.push(end);
            folder.join(name)
        };
        let part = if device.is_some() { path.clone() } else { beside(".part") };
        let target = if device.is_some() { path.clone() } else { beside("") };
        let (map, kept) = (beside(".part.map"), beside(".part.json"));
        Ok(Self { target, format, part, map, kept, device })
    }

    /// Opens sources, and what this copy is written to.
    pub(super) fn files(&self, confine: Confine) -> Files {
        match self.device {
            Some(_) => Files::on_device(confine, self.map.clone()),
            None => Files::new(confine, self.format),
        }
    }

    /// Names what is written.
    pub(super) fn disk(&self) -> TargetDisk {
        TargetDisk(self.part.to_string_lossy().into_owned())
    }

    /// Keeps every other copy to this name away for as long as the answer lives.
    pub(super) fn alone(&self) -> anyhow::Result<(LockFile, Option<File>)> {
        let lock = LockFile::take(self.kept.with_extension("lock")).map_err(explained)?;
        let device = self.device.as_ref().map(Device::lock).transpose();
        let name = self.part.display();
        let device = device.with_context(|| {
            format!("cannot lock {name} … hint: end what uses it: `lsblk` and `fuser -v` tell")
        })?;
        Ok((lock, device))
    }

    /// Makes what the copy grows in, or finds what an earlier one of the same disk left.
    pub(super) fn begin(
        &self,
        confine: &Confine,
        disk: &Disk,
        may: Allowed,
    ) -> anyhow::Result<Kept> {
        match &self.device {
            None => self.is_free(may.force)?,
            Some(device) => self.is_given(device, disk.capacity, may.force)?,
        }
        let device = self.device.as_ref().and_then(|device| device.identity.clone());
        let fresh = Kept { disk: disk.clone(), format: self.format, device, checkpoint: None };
        if !may.restart
            && let Some(kept) = self.earlier()?
        {
            let known = self.device.is_none() || kept.device.is_some();
            let same =
                (&kept.disk, kept.format, &kept.device) == (disk, fresh.format, &fresh.device);
            if !(known && same) {
                bail!(
                    "{} holds a part of another disk, or of this one before it changed{} … hint: `--restart` starts again",
                    self.part.display(),
                    if self.device.is_some() { ", or was another device" } else { "" }
                );
            }
            // Before its first checkpoint nothing of a copy is worth going on with, not even the file itself.
            if kept.checkpoint.is_some() {
                return Ok(kept);
            }
        }
        self.begin_anew(confine, &fresh)?;
        Ok(fresh)
    }

    /// Makes what the copy grows in, whatever an earlier one left.
    pub(super) fn begin_anew(&self, confine: &Confine, fresh: &Kept) -> anyhow::Result<()> {
        // Without its file nothing counts; on a device, without what tells how far it came: with it and no map that were a lie.
        if self.device.is_none() {
            remove(&self.part)?;
        }
        remove(&self.kept)?;
        remove(&self.map)?;
        self.keep(fresh)?;
        if self.device.is_none() {
            Files::make(confine, &self.part, fresh.disk.capacity, self.format)
                .map_err(explained)?;
        }
        Ok(())
    }

    /// Tells whether it is written in place, where others may have written since.
    pub(super) fn is_device(&self) -> bool {
        self.device.is_some()
    }

    /// Refuses a name that something has, unless it is a file that may be replaced.
    fn is_free(&self, force: bool) -> anyhow::Result<()> {
        let name = self.target.display();
        match fs::symlink_metadata(&self.target).as_ref().map(fs::Metadata::is_file) {
            Ok(true) if !force => {
                bail!("{name} exists … hint: name another file, or replace it with `--force`")
            }
            Ok(false) => bail!("{name} is no file … hint: name a file that does not exist yet"),
            Ok(true) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => bail!("cannot look at {name}: {error}"),
        }
    }

    /// Refuses a device that is too small, and one of which nobody said that it may be written.
    fn is_given(&self, device: &Device, capacity: Bytes, force: bool) -> anyhow::Result<()> {
        let name = self.target.display();
        if device.size < capacity {
            bail!(
                "{name} has {} and the disk {capacity} … hint: name a device that holds all of it",
                device.size
            );
        }
        if !force {
            bail!(
                "{name} is a block device: everything that the disk covers would be lost … hint: look at `lsblk -f {name}`, then say `--force`"
            );
        }
        Ok(())
    }

    /// Returns what an earlier copy kept. Without the file that it grew in there is nothing to go on with.
    fn earlier(&self) -> anyhow::Result<Option<Kept>> {
        if !self.part.exists() {
            return Ok(None);
        }
        let text = match fs::read(&self.kept) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.device.is_some() => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "{} exists and nothing tells whose copy it is … hint: `--restart` starts again",
                self.part.display()
            ),
            Err(error) => bail!("cannot read {}: {error}", self.kept.display()),
        };
        let kept = serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged … hint: `--restart` starts again", self.kept.display())
        })?;
        Ok(Some(kept))
    }

    /// Writes down how far the copy came, whole or not at all.
    pub(super) fn keep(&self, kept: &Kept) -> anyhow::Result<()> {
        let new = self.kept.with_extension("new");
        let written = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(kept)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.kept)?;
            sync_folder(&self.kept)
        };
        written().with_context(|| format!("cannot write {}", self.kept.display()))
    }

    /// Gives the copy, which is durable, its name.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        if self.device.is_none() {
            let named =
                fs::rename(&self.part, &self.target).and_then(|()| sync_folder(&self.target));
            named.with_context(|| format!("cannot name the copy {}", self.target.display()))?;
        }
        remove(&self.kept)?;
        remove(&self.map)
    }
}

impl Device {
    /// Looks at what a name leads to; `None` where that is no block device, or nothing.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.file_type().is_block_device() => metadata,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = Bytes(seek(&File::open(path)?, SeekFrom::End(0))?);
        let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
        let known = Path::new("/sys/dev/block").join(&number);
        let read = |path: PathBuf| fs::read_to_string(path).map(|text| text.trim().to_owned());
        // The kernel counts disks as they appear. A partition is below its disk.
        let count = read(known.join("diskseq")).or_else(|_| read(known.join("../diskseq")));
        let started = read("/proc/sys/kernel/random/boot_id".into());
        // A partition may be made anew elsewhere on its disk; only partitions have a start.
        let begins = read(known.join("start")).unwrap_or_default();
        let identity = count.ok().zip(started.ok()).map(|(count, started)| {
            format!("disk {count} of start {started}, {number}, {} bytes at {begins:?}", size.0)
        });
        Ok(Some(Self { disk: whole_disk(path, &known), size, identity }))
    }

    /// Keeps udev, and whoever starts what it finds on a device, away from it: systemd's `BLOCK_DEVICE_LOCKING`, which looks at
    /// the lock of the whole disk for its partitions, too.
    fn lock(&self) -> io::Result<File> {
        let disk = File::open(&self.disk)?;
        flock(&disk, FlockOperation::NonBlockingLockExclusive)?;
        Ok(disk)
    }
}

/// Returns the disk that a partition is on, else the device itself. A container may have the partition and not its disk.
fn whole_disk(device: &Path, known: &Path) -> PathBuf {
    let above = known.join("partition").exists().then(|| known.join("../uevent"));
    let text = above.and_then(|above| fs::read_to_string(above).ok()).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let disk = name.map(|name| Path::new("/dev").join(name)).filter(|disk| disk.exists());
    disk.unwrap_or_else(|| device.to_owned())
}

/// Tells whether a path lies where the kernel keeps devices, in memory: a file there is a mistake.
fn is_among_devices(path: &Path) -> bool {
    let number = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let folder = path.parent().and_then(number);
    folder.is_some() && folder == number(Path::new("/dev")) && folder != number(Path::new("/"))
}

/// Makes a file's name durable.
fn sync_folder(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
