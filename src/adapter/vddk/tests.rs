//! Copies through the library's stand-in, by the engine, each in a process of its own: the library is started once a process, and
//! this one ends the process of whoever misuses it.

#![expect(clippy::disallowed_methods, reason = "the processes are its own")]

mod bench;
mod faults;
mod library;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Patience, Place, Vddk};
use crate::adapter::confine::Confine;
use crate::adapter::image::files::{Files, Format};
use crate::adapter::secret::Secret;
use crate::copy::engine::{Bounds, End, Flow, copy_disk};
use crate::copy::plan::Planned;
use crate::copy::protocol::DiskJob;
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Disk, DiskFormat, SourceDisk, TargetDisk};
use crate::journal::record::Disposition;
use crate::port::{BlockReader, BlockWriter, Blocks, Images, PortError};

/// What names the errand's file to the process that does it.
const ERRAND: &str = "FERRY_TEST_VDDK_ERRAND";

/// What one process does: it copies a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Errand {
    /// Where the library is unpacked, and everything else is.
    folder: PathBuf,
    server: String,
    user: String,
    password: String,
    session: Option<String>,
    thumbprint: String,
    vm: String,
    snapshot: Option<String>,
    disk: String,
    transports: Option<String>,
    /// How many pauses it makes before it connects again.
    pauses: usize,
    /// The size that the disk has in the simulation once it is open.
    resized: Option<u64>,
    /// What is copied first, and closed, with the same library.
    before: Option<String>,
}

/// What came of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Outcome {
    Copied { root: String, version: String },
    Failed { text: String, remedy: String, passes: bool },
}

impl Errand {
    fn place(&self, disk: &str) -> Place {
        let secret = |name: &str, text: &str| {
            let file = self.folder.join(name);
            fs::write(&file, text).unwrap();
            Secret::read(&file).unwrap()
        };
        Place {
            server: self.server.clone(),
            port: 443,
            user: self.user.clone(),
            password: secret("password", &self.password),
            session: self.session.as_deref().map(|cookie| secret("session", cookie)),
            thumbprint: self.thumbprint.clone(),
            vm: self.vm.clone(),
            snapshot: self.snapshot.clone(),
            disk: disk.to_owned(),
            transports: self.transports.clone(),
        }
    }

    fn run(&self) -> Result<Outcome, PortError> {
        let short = Duration::from_millis(50);
        let patience =
            Patience { pauses: vec![short; self.pauses], slow: short, refused: short / 10 };
        let vddk = Vddk::start_with(&self.folder, patience)?;
        if let Some(before) = &self.before {
            self.copy(&vddk, before, "before.raw")?;
            self.read_between_sectors(&vddk, before)?;
        }
        let root = self.copy(&vddk, &self.disk, "target.raw")?;
        Ok(Outcome::Copied { root, version: vddk.version().to_owned() })
    }

    /// Reads what begins and ends within sectors.
    fn read_between_sectors(&self, vddk: &Vddk, disk: &str) -> Result<(), PortError> {
        let copied = fs::read(self.folder.join("before.raw")).unwrap();
        let blocks = vddk.open(self.place(disk))?;
        for (offset, length) in [(100, 700), (12_345, 1), (511, 2), (512, 513)] {
            let mut part = vec![0xaa; length];
            blocks.read(u64::try_from(offset).unwrap(), &mut part)?;
            assert_eq!(part, copied[offset..offset + length]);
        }
        let beyond = blocks.read(blocks.size() - 1, &mut [0; 2]).unwrap_err();
        assert!(beyond.fault.text.contains("cannot read 2 bytes of"), "{beyond}");
        Ok(())
    }

    fn copy(&self, vddk: &Vddk, disk: &str, target: &str) -> Result<String, PortError> {
        let blocks = vddk.open(self.place(disk))?;
        if let Some(capacity) = self.resized {
            let file = self.folder.join("disks.json");
            let mut disks: serde_json::Value =
                serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            disks["disks"][0]["capacity"] = capacity.into();
            fs::write(&file, disks.to_string()).unwrap();
        }
        let capacity = Bytes(blocks.size());
        let confine = Confine::new([self.folder.clone()]);
        let target = self.folder.join(target);
        Files::make(&confine, &target, capacity, Format::Raw)?;
        let images = Remote { blocks, files: Files::new(confine, Format::Raw) };
        let job = DiskJob {
            disk: Disk {
                key: DiskKey::new("2000"),
                capacity,
                stored: None,
                format: DiskFormat::Blocks,
                checksum: Checksum::Absent,
                source: SourceDisk(String::new()),
            },
            target: TargetDisk(target.to_str().unwrap().to_owned()),
            checkpoint: None,
            copied: None,
        };
        let bounds =
            Bounds { threads: 2, memory: Bytes::mib(32), checkpoint_every: Bytes::mib(16) };
        let end = copy_disk(&images, &job, bounds, &mut |_| Flow::Continue)?;
        let End::Copied { root, written: _ } = end else { unreachable!("nobody stopped it") };
        Ok(root)
    }
}

/// The one disk that is read, and files.
struct Remote {
    blocks: std::sync::Arc<dyn Blocks>,
    files: Files,
}

impl Images for Remote {
    fn reader(&self, _: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        Ok(Box::new(Planned::new(std::sync::Arc::clone(&self.blocks), resume)?))
    }

    fn writer(&self, disk: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        self.files.writer(disk)
    }
}

/// Does the errand of a process that was started for one; among the other tests it has none.
#[test]
fn errand() {
    let Some(file) = std::env::var_os(ERRAND) else { return };
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
    let errand: Errand = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let outcome = errand.run().unwrap_or_else(|error| Outcome::Failed {
        text: error.fault.text,
        remedy: error.fault.remedy,
        passes: error.fault.disposition == Disposition::Retry,
    });
    fs::write(errand.folder.join("outcome"), serde_json::to_vec(&outcome).unwrap()).unwrap();
}
