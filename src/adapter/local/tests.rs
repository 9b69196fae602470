//! Every effect twice, and after every state that a crash can leave.

mod hosted;
mod qcow2;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::libvirt::tests::Fake;
use super::*;
use crate::desired::Network;
use crate::domain::vm::{Checksum, Claim, Disk, DiskFormat, Firmware, Hosted, SourceDisk};
use crate::journal::record::Disposition;
use crate::manifest::document::NetworkType;

fn vm() -> Vm {
    let disk = |key: &str, capacity| Disk {
        key: DiskKey::new(key),
        capacity: Bytes(capacity),
        stored: None,
        format: DiskFormat::Empty,
        checksum: Checksum::Absent,
        source: SourceDisk(String::new()),
    };
    Vm {
        id: SourceVm::Ova { archive: "ab".into(), system: "web".into() },
        name: "web".into(),
        path: "web.ova/web".into(),
        power: Power::Off,
        firmware: Some(Firmware::Bios),
        secure_boot: false,
        tpm: false,
        cpus: Some(2),
        cores_per_socket: None,
        memory: Some(Bytes::mib(512)),
        os: None,
        disks: vec![disk("a", 1 << 20), disk("b", 4096)],
        nics: Vec::new(),
        claim: Claim::Impossible,
        hosted: Hosted::default(),
    }
}

/// A target below a folder of its own, and the names that the tests use.
struct Bench {
    _folder: tempfile::TempDir,
    path: PathBuf,
    target: LocalTarget,
    site: Site,
    area: Token,
    name: TargetName,
}

/// A converter that is not there, and a folder for its temporary files.
fn tools(folder: &Path) -> ConvertTools {
    let tmp_dir = folder.join("tmp").to_str().unwrap().to_owned();
    ConvertTools { tmp_dir, ..ConvertTools::default() }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vms");
        fs::create_dir(&path).unwrap();
        let confine = Confine::new([folder.path().to_owned()]);
        let target = LocalTarget::new(confine, Vec::new(), tools(folder.path()));
        Self {
            _folder: folder,
            site: Site::folder(path.to_str().unwrap()),
            path,
            target,
            area: Token::new("0123abcd"),
            name: TargetName::new("web-01"),
        }
    }

    /// The same with a libvirt.
    fn hosted(fake: &Fake) -> Self {
        let bench = Self::new();
        let above = bench.path.parent().unwrap();
        let confine = Confine::new([above.to_owned()]);
        let target = LocalTarget::new(confine, vec![fake.folder()], tools(above))
            .with_libvirt(Some("test:///fake".to_owned()));
        Self { target, ..bench }
    }

    fn disks(&self) -> Result<Vec<(DiskKey, TargetDisk)>, PortError> {
        self.target.create_disks(&self.site, &self.area, &self.name, &vm())
    }

    fn make_vm(&self) -> Result<(), PortError> {
        let network = |kind, name: Option<&str>| Network { kind, name: name.map(str::to_owned) };
        let nics = vec![(network(NetworkType::Pod, None), None)];
        let blueprint = Blueprint { name: &self.name, vm: &vm(), nics };
        self.target.create_vm(&self.site, &self.area, &blueprint)
    }

    fn remove(&self) -> Result<(), PortError> {
        self.target.remove(&self.site, &self.area, &self.name)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Everything that stands in the folder.
    fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.path.clone()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(&self.path).unwrap().display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

const AREA: [&str; 4] = [
    ".ferry-0123abcd",
    ".ferry-0123abcd/disk-0.raw",
    ".ferry-0123abcd/disk-1.raw",
    ".ferry-0123abcd/ferry.json",
];
const MADE: [&str; 5] =
    ["web-01", "web-01/disk-0.raw", "web-01/disk-1.raw", "web-01/domain.xml", "web-01/ferry.json"];

#[test]
fn an_area_becomes_a_vm_and_every_effect_may_come_twice() {
    let bench = Bench::new();
    let disks = bench.disks().unwrap();
    assert_eq!(bench.listing(), AREA);
    fs::write(bench.at(".ferry-0123abcd/disk-1.raw"), [7; 4096]).unwrap();
    assert_eq!(bench.disks().unwrap(), disks);
    assert_eq!(fs::read(bench.at(".ferry-0123abcd/disk-1.raw")).unwrap(), [7; 4096]);
    assert_eq!(bench.target.look(&bench.site, &bench.name).unwrap(), None);
    let areas = || bench.target.observe(&bench.site).unwrap().areas;
    assert_eq!(areas(), [bench.area.clone()].into());

    bench.make_vm().unwrap();
    assert_eq!(bench.listing(), MADE);
    assert!(areas().is_empty());
    bench.make_vm().unwrap();
    assert_eq!(bench.disks().unwrap(), disks);
    assert_eq!(bench.listing(), MADE);
    let disk = LocalDisk::parse(&disks[1].1).unwrap();
    assert_eq!(fs::read(bench.at("web-01").join(disk.file)).unwrap(), [7; 4096]);

    let ours = TargetVm { made_by: Some(bench.area.clone()), power: None };
    assert_eq!(bench.target.look(&bench.site, &bench.name).unwrap(), Some(ours.clone()));
    fs::create_dir(bench.at("somebody")).unwrap();
    fs::write(bench.at("notes.txt"), b"x").unwrap();
    let state = bench.target.observe(&bench.site).unwrap();
    assert!(state.free > Bytes(0));
    let others = TargetVm { made_by: None, power: None };
    let found: Vec<_> = state.vms.iter().map(|(name, vm)| (name.as_str(), vm.clone())).collect();
    assert_eq!(found, [("notes.txt", others.clone()), ("somebody", others), ("web-01", ours)]);
    let error = bench.target.start(&bench.site, &bench.area, &bench.name).unwrap_err();
    assert!(error.fault.text.contains("libvirt.uri"), "{error:?}");
    assert_eq!(error.fault.disposition, Disposition::Stall(Mend::Person));
}

#[test]
fn removing_deletes_what_is_ours_and_nothing_else() {
    let bench = Bench::new();
    bench.remove().unwrap();
    bench.disks().unwrap();
    fs::write(bench.at(".ferry-0123abcd/disk-0.raw.map"), b"hashes").unwrap();
    bench.remove().unwrap();
    assert_eq!(bench.listing(), [""; 0]);
    bench.disks().unwrap();
    bench.make_vm().unwrap();
    fs::write(bench.at("web-01/notes.txt"), b"mine").unwrap();
    symlink("/etc/passwd", bench.at("web-01/disk-9.raw")).unwrap();
    bench.remove().unwrap();
    bench.remove().unwrap();
    assert_eq!(
        bench.listing(),
        [".ferry-0123abcd", ".ferry-0123abcd/disk-9.raw", ".ferry-0123abcd/notes.txt"]
    );
    assert!(fs::exists("/etc/passwd").unwrap());
}

#[test]
fn what_this_run_did_not_make_is_never_touched() {
    let foreign: [fn(&Bench); 4] = [
        |bench| fs::create_dir(bench.at("web-01")).unwrap(),
        |bench| fs::write(bench.at("web-01"), b"mine").unwrap(),
        |bench| symlink("/tmp", bench.at("web-01")).unwrap(),
        |bench| {
            let other = Token::new("another");
            bench.target.create_disks(&bench.site, &other, &bench.name, &vm()).unwrap();
            fs::rename(bench.at(".ferry-another"), bench.at("web-01")).unwrap();
        },
    ];
    for make in foreign {
        let bench = Bench::new();
        bench.disks().unwrap();
        make(&bench);
        let before = bench.listing();
        for error in [bench.make_vm().unwrap_err(), bench.disks().unwrap_err()] {
            assert!(error.to_string().contains("is there already"), "{error}");
        }
        bench.remove().unwrap();
        let left: Vec<_> = before.into_iter().filter(|path| !path.starts_with(".ferry")).collect();
        assert_eq!(bench.listing(), left);
    }
}

/// What a crash can leave of making and of removing, each a step on the way.
fn partial_states() -> Vec<fn(&Bench)> {
    vec![
        |_| {},
        |bench| fs::create_dir(bench.at(".ferry-0123abcd")).unwrap(),
        |bench| {
            fs::create_dir(bench.at(".ferry-0123abcd")).unwrap();
            fs::write(bench.at(".ferry-0123abcd/ferry.json.new"), b"{\"ver").unwrap();
        },
        |bench| {
            bench.disks().unwrap();
            fs::remove_file(bench.at(".ferry-0123abcd/disk-0.raw")).unwrap();
            fs::write(bench.at(".ferry-0123abcd/disk-1.raw"), b"").unwrap();
        },
        |bench| drop(bench.disks().unwrap()),
        |bench| {
            bench.disks().unwrap();
            fs::write(bench.at(".ferry-0123abcd/domain.xml.new"), b"<dom").unwrap();
        },
        |bench| {
            bench.disks().unwrap();
            fs::write(bench.at(".ferry-0123abcd/domain.xml"), b"<domain/>").unwrap();
        },
    ]
}

#[test]
fn making_goes_on_from_every_partial_state() {
    for partial in partial_states() {
        let bench = Bench::new();
        partial(&bench);
        bench.disks().unwrap();
        bench.make_vm().unwrap();
        let mut listing = bench.listing();
        listing.retain(|path| !path.contains(".new"));
        assert_eq!(listing, MADE);
        assert_eq!(fs::metadata(bench.at("web-01/disk-0.raw")).unwrap().len(), 1 << 20);
        bench.remove().unwrap();
        assert_eq!(bench.listing(), [""; 0]);
    }
}

#[test]
fn removing_goes_on_from_every_partial_state() {
    for partial in partial_states() {
        let bench = Bench::new();
        partial(&bench);
        bench.remove().unwrap();
        assert_eq!(bench.listing(), [""; 0]);
    }
    // Removing a VM itself: it became an area again, then lost file after file, the card last.
    let order = ["disk-0.raw", "disk-1.raw", "domain.xml", "ferry.json"];
    for lost in 0..=order.len() {
        let bench = Bench::new();
        bench.disks().unwrap();
        bench.make_vm().unwrap();
        fs::rename(bench.at("web-01"), bench.at(".ferry-0123abcd")).unwrap();
        for file in &order[..lost] {
            fs::remove_file(bench.at(".ferry-0123abcd").join(file)).unwrap();
        }
        assert_eq!(bench.target.look(&bench.site, &bench.name).unwrap(), None);
        bench.remove().unwrap();
        assert_eq!(bench.listing(), [""; 0]);
    }
}

#[test]
fn a_vm_is_not_made_of_disks_that_changed_or_went() {
    let changes: [fn(&Bench); 4] = [
        |bench| fs::remove_file(bench.at(".ferry-0123abcd/disk-1.raw")).unwrap(),
        |bench| fs::write(bench.at(".ferry-0123abcd/disk-1.raw"), b"short").unwrap(),
        |bench| fs::remove_file(bench.at(".ferry-0123abcd/ferry.json")).unwrap(),
        |bench| fs::remove_dir_all(bench.at(".ferry-0123abcd")).unwrap(),
    ];
    for change in changes {
        let bench = Bench::new();
        bench.disks().unwrap();
        change(&bench);
        assert!(bench.make_vm().unwrap_err().to_string().contains("gone"));
        assert!(!bench.at("web-01").exists());
    }
    let bench = Bench::new();
    bench.disks().unwrap();
    let disk = bench.at(".ferry-0123abcd/disk-1.raw");
    fs::remove_file(&disk).unwrap();
    symlink("/etc/passwd", &disk).unwrap();
    assert!(bench.disks().is_err() && bench.make_vm().is_err());
}

#[test]
fn a_disk_in_use_is_not_deleted() {
    let bench = Bench::new();
    bench.disks().unwrap();
    let disk = fs::File::open(bench.at(".ferry-0123abcd/disk-1.raw")).unwrap();
    let shared = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_RDLCK).unwrap(),
        l_whence: 0,
        l_start: 100,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&disk, FcntlArg::F_OFD_SETLK(&shared)).unwrap();
    let error = bench.remove().unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(bench.listing(), AREA);
    drop(disk);
    bench.remove().unwrap();
}

#[test]
fn what_a_conversion_left_goes_before_the_vm_is_made_and_with_the_area() {
    let bench = Bench::new();
    let disks = bench.disks().unwrap();
    let overlay = LocalDisk::parse(&disks[1].1).unwrap().overlay();
    assert_eq!(overlay, "disk-1.overlay.qcow2");
    let left = |name: &str| bench.at(".ferry-0123abcd").join(name);
    let convert = || {
        fs::write(left(&overlay), b"overlay").unwrap();
        fs::write(left("convert.lock"), b"").unwrap();
        fs::write(left("disk-0.raw.map"), b"hashes").unwrap();
    };
    convert();
    let scratch = bench.path.with_file_name("tmp");
    for area in ["ferry-0123abcd", "ferry-other"] {
        fs::create_dir_all(scratch.join(area).join("v2v")).unwrap();
    }
    bench.remove().unwrap();
    assert_eq!(bench.listing(), [""; 0]);
    let kept: Vec<_> = fs::read_dir(&scratch).unwrap().flatten().collect();
    assert_eq!(kept.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(), ["ferry-other"]);

    bench.disks().unwrap();
    convert();
    // A converter that still runs is waited for, in both ways.
    for held in [overlay.as_str(), "convert.lock"] {
        let file = fs::File::options().write(true).open(left(held)).unwrap();
        crate::adapter::lock::lock(&file, &left(held), std::time::Duration::ZERO).unwrap();
        for error in [bench.make_vm().unwrap_err(), bench.remove().unwrap_err()] {
            assert!(
                error.fault.text.contains(held) && error.fault.text.contains("in use"),
                "{error}"
            );
            assert_eq!(error.fault.disposition, Disposition::Retry);
        }
        assert!(left(&overlay).exists() && left("convert.lock").exists());
    }
    fs::write(left("mine.overlay.qcow2"), b"mine").unwrap();
    bench.make_vm().unwrap();
    let mut made = MADE.to_vec();
    made.extend(["web-01/disk-0.raw.map", "web-01/mine.overlay.qcow2"]);
    made.sort_unstable();
    assert_eq!(bench.listing(), made);
}

#[test]
fn what_keeps_guests_from_being_converted_is_observed() {
    let bench = Bench::new();
    let converter = bench.target.observe(&bench.site).unwrap().converter;
    assert!(converter.missing.unwrap().reason.contains("is not installed"));
    assert!(converter.missing_for_windows.is_some());
}

#[test]
fn names_that_are_paths_and_folders_elsewhere_are_refused() {
    let bench = Bench::new();
    for name in ["", "..", "a/b", ".ferry-x", "a\nb", &"x".repeat(64)] {
        let name = TargetName::new(name);
        let made = bench.target.create_disks(&bench.site, &bench.area, &name, &vm());
        assert!(made.is_err() && bench.target.remove(&bench.site, &bench.area, &name).is_err());
    }
    assert_eq!(bench.listing(), [""; 0]);
    let outside = Site::folder("/etc");
    assert!(bench.target.observe(&outside).unwrap_err().to_string().contains("allowPaths"));
    let missing = Site::folder(format!("{}/nowhere", bench.path.display()));
    let fault = bench.target.observe(&missing).unwrap_err().fault;
    assert_eq!(fault.disposition, Disposition::Stall(Mend::Target));
}
