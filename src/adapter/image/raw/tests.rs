//! Real files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use super::*;
use crate::adapter::image::LocalImages;
use crate::adapter::image::locked::write_all;
use crate::adapter::image::vmdk_write::write_stream_optimized;
use crate::adapter::location::{LocalDisk, Stamp, StoredDisk};
use crate::copy::engine::{Bounds, Comparison, End, Flow, copy_disk, verify_disk};
use crate::copy::protocol::DiskJob;
use crate::domain::id::{DiskKey, TargetName, Token};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Disk, DiskFormat};
use crate::journal::record::{Disposition, Mend};
use crate::manifest::document::Verify;
use crate::port::Images;

const MIB: u64 = 1 << 20;

/// A target's folder with an area in it that holds one empty disk.
struct Area {
    folder: tempfile::TempDir,
    disk: LocalDisk,
}

impl Area {
    fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk {
            folder: folder.path().to_str().unwrap().to_owned(),
            area: Token::new("0123"),
            name: TargetName::new("web-01"),
            file: "disk1.raw".to_owned(),
        };
        fs::create_dir(folder.path().join(".ferry-0123")).unwrap();
        File::create(folder.path().join(".ferry-0123/disk1.raw")).unwrap().set_len(size).unwrap();
        Self { folder, disk }
    }

    fn images(&self) -> LocalImages {
        LocalImages::new(Confine::new([self.folder.path().to_owned()]))
            .with_lock_wait(Duration::from_secs(10))
    }

    fn writer(&self) -> Result<Box<dyn BlockWriter>, PortError> {
        self.images().writer(&self.disk.to_target())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(".ferry-0123/disk1.raw")
    }
}

fn text(result: Result<Box<dyn BlockWriter>, PortError>) -> String {
    result.err().expect("it fails").fault.text
}

#[test]
fn bytes_holes_and_map_are_written_and_read_again() {
    let area = Area::new(8 * MIB);
    {
        let writer = area.writer().unwrap();
        assert!(writer.read_map().unwrap().is_empty());
        writer.write(MIB, &vec![7; 200_000]).unwrap();
        writer.write(8 * MIB - 3, b"end").unwrap();
        writer.write_map(16, b"0123456789abcdef").unwrap();
        writer.sync().unwrap();
        assert!(writer.is_hole(0, MIB).unwrap());
        assert!(!writer.is_hole(0, MIB + 1).unwrap());
        writer.zero(MIB, MIB).unwrap();
        writer.sync().unwrap();
        assert!(writer.is_hole(0, 8 * MIB - 4096).unwrap());
        assert!(!writer.is_hole(0, 9 * MIB).unwrap());
    }
    let writer = area.writer().unwrap();
    let mut end = [1; 4];
    writer.read(8 * MIB - 4, &mut end).unwrap();
    assert_eq!(end, *b"\0end");
    assert_eq!(writer.read_map().unwrap(), *b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x000123456789abcdef");
    let metadata = fs::metadata(area.path()).unwrap();
    assert_eq!(metadata.len(), 8 * MIB);
    assert!(metadata.blocks() * 512 < MIB, "{} sectors", metadata.blocks());
    let short = writer.read(8 * MIB - 1, &mut [0; 2]).unwrap_err().fault.text;
    assert!(short.contains("at byte 8388607"), "{short}");
}

#[test]
fn the_disk_is_found_in_the_vm_that_its_area_became() {
    let area = Area::new(MIB);
    area.writer().unwrap().write(0, b"x").unwrap();
    let vm = area.folder.path().join("web-01");
    fs::rename(area.folder.path().join(".ferry-0123"), &vm).unwrap();
    let mut byte = [0];
    area.writer().unwrap().read(0, &mut byte).unwrap();
    assert_eq!(byte, *b"x");
    fs::remove_file(vm.join("disk1.raw")).unwrap();
    assert!(text(area.writer()).contains("web-01/disk1.raw"));
    assert!(!vm.join("disk1.raw").exists());
}

#[test]
fn a_disk_that_another_handle_holds_is_refused_with_its_holder() {
    let area = Area::new(MIB);
    let held = area.writer().unwrap();
    let refused = text(area.writer());
    assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
    assert!(refused.contains("disk1.raw is in use by "), "{refused}");
    drop(held);
    // A lock that comes free while it is waited for is taken.
    let held = area.writer().unwrap();
    let waiting = area.images().with_lock_wait(Duration::from_mins(1));
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| waiting.writer(&area.disk.to_target()).is_ok());
        drop(held);
        assert!(taken.join().unwrap());
    });
}

#[test]
fn links_and_places_outside_are_refused() {
    let area = Area::new(MIB);
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::remove_file(area.path()).unwrap();
    symlink(outside.path(), area.path()).unwrap();
    assert!(text(area.writer()).contains("disk1.raw"));
    fs::remove_file(area.path()).unwrap();
    fs::create_dir(area.path()).unwrap();
    assert!(area.writer().is_err());
    fs::remove_dir(area.path()).unwrap();
    File::create(area.path()).unwrap();
    let mut map = area.path().into_os_string();
    map.push(".map");
    symlink(outside.path(), &map).unwrap();
    assert!(text(area.writer()).contains("disk1.raw.map"));
    let elsewhere = LocalImages::new(Confine::new([PathBuf::from("/nonexistent")]));
    assert!(text(elsewhere.writer(&area.disk.to_target())).contains("allowPaths"));
}

#[test]
fn a_full_file_system_says_how_much_it_lacks() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let error = write_all(&full, Path::new("/dev/full"), 0, &[1; 4096]).unwrap_err();
    assert_eq!(error.fault.disposition, Disposition::Stall(Mend::Space(Bytes(4096))));
    assert!(error.fault.text.contains("cannot write /dev/full at byte 0: No space left"));
}

#[test]
fn a_sync_that_failed_never_succeeds_again() {
    // A pipe has nothing to sync and says so.
    let (_reader, writer) = std::io::pipe().unwrap();
    let pipe = || File::from(std::os::fd::OwnedFd::from(writer.try_clone().unwrap()));
    let (disk, map) = (pipe(), tempfile::tempfile().unwrap());
    let raw = RawDisk { files: LockedDisk::of("disk".into(), disk, "map".into(), map) };
    assert!(raw.sync().unwrap_err().fault.text.contains("cannot sync disk: Invalid argument"));
    assert!(raw.sync().unwrap_err().fault.text.contains("an earlier sync failed"));
}

#[test]
fn an_image_is_copied_to_a_file_interrupted_and_compared() {
    let area = Area::new(5 * MIB + 512);
    let expected: Vec<u8> =
        (0..5 * MIB + 512)
            .map(|at| {
                if (at / MIB).is_multiple_of(2) { u8::try_from(at * 31 % 251).unwrap() } else { 0 }
            })
            .collect();
    let path = area.folder.path().join("disk.vmdk");
    let mut image = Vec::new();
    let mut grains = (0..).step_by(64 << 10).zip(expected.chunks(64 << 10).map(<[u8]>::to_vec));
    write_stream_optimized(&mut image, "disk.vmdk", 5 * MIB + 512, &mut grains).unwrap();
    fs::write(&path, &image).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let stamp = Stamp {
        inode: metadata.ino(),
        size: metadata.len(),
        mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
    };
    let path = path.to_str().unwrap().to_owned();
    let source = StoredDisk { path, stamp, offset: 0, length: metadata.len() }.to_source();
    let mut job = DiskJob {
        disk: Disk {
            key: DiskKey::new("d"),
            capacity: Bytes(5 * MIB + 512),
            stored: None,
            format: DiskFormat::StreamOptimized,
            checksum: Checksum::Sha256(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&image))),
            source,
        },
        target: area.disk.to_target(),
        checkpoint: None,
        copied: None,
    };
    let bounds = Bounds { threads: 2, memory: Bytes(MIB), checkpoint_every: Bytes(MIB) };
    let images = area.images();
    let mut stops = 0;
    let root = loop {
        let mut checkpoint = None;
        let mut heard = 0;
        let mut hear = |now| {
            heard += 1;
            if let crate::copy::engine::Heard::Checkpointed(made) = now {
                checkpoint = Some(made);
            }
            if heard == 20 { Flow::Stop } else { Flow::Continue }
        };
        match copy_disk(&images, &job, bounds, &mut hear).unwrap() {
            End::Stopped => job.checkpoint = checkpoint,
            End::Copied { root, .. } => break root,
        }
        stops += 1;
    };
    assert!(stops > 2);
    assert!(fs::read(area.path()).unwrap() == expected);
    assert_eq!(root, crate::copy::memory::root_of(&expected));
    assert!(fs::metadata(area.path()).unwrap().blocks() * 512 < 4 * MIB);
    job.disk.capacity.0 += 1;
    let short = copy_disk(&images, &job, bounds, &mut |_| Flow::Continue).unwrap_err();
    assert!(short.fault.remedy.contains("became shorter"), "{short:?}");
    job.disk.capacity.0 -= 1;
    let verify = || verify_disk(&images, &job, &root, Verify::Full, &mut |_| Flow::Continue);
    assert_eq!(verify(), Ok(Comparison::Equal));
    let file = File::options().write(true).open(area.path()).unwrap();
    file.write_all_at(b"!", MIB + 70_000).unwrap();
    let error = verify().unwrap_err().fault.text;
    assert!(error.contains("at byte 1114112"), "{error}");
}
