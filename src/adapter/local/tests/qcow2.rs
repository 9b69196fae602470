//! A target of qcow2 disks: the same effects, and what a crash can leave of making an image.

use super::*;
use crate::adapter::image::LocalImages;
use crate::domain::vm::TargetDisk;
use crate::port::{BlockWriter, Images};

const AREA: [&str; 4] = [
    ".ferry-0123abcd",
    ".ferry-0123abcd/disk-0.qcow2",
    ".ferry-0123abcd/disk-1.qcow2",
    ".ferry-0123abcd/ferry.json",
];
const MADE: [&str; 5] = [
    "web-01",
    "web-01/disk-0.qcow2",
    "web-01/disk-1.qcow2",
    "web-01/domain.xml",
    "web-01/ferry.json",
];

fn qcow2() -> Bench {
    let bench = Bench::new();
    let path = bench.path.to_str().unwrap().into();
    let site = Site::Local { path, disk_format: ImageFormat::Qcow2 };
    Bench { site, ..bench }
}

fn writer(bench: &Bench, disk: &TargetDisk) -> Box<dyn BlockWriter> {
    LocalImages::new(Confine::new([bench.path.clone()])).writer(disk).unwrap()
}

/// Reads the first bytes of the first disk, as the guest sees them.
fn seen(bench: &Bench, disks: &[(DiskKey, TargetDisk)]) -> [u8; 512] {
    let mut bytes = [0; 512];
    writer(bench, &disks[0].1).read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn an_area_becomes_a_vm_and_every_effect_may_come_twice() {
    let bench = qcow2();
    let disks = bench.disks().unwrap();
    assert_eq!(bench.listing(), AREA);
    let disk = writer(&bench, &disks[0].1);
    disk.write(0, &[7; 512]).unwrap();
    disk.sync().unwrap();
    drop(disk);
    assert_eq!(bench.disks().unwrap(), disks);
    assert_eq!(seen(&bench, &disks), [7; 512]);
    fs::remove_file(bench.at(".ferry-0123abcd/disk-0.qcow2.map")).unwrap();

    bench.make_vm().unwrap();
    bench.make_vm().unwrap();
    assert_eq!(bench.disks().unwrap(), disks);
    assert_eq!(bench.listing(), MADE);
    assert_eq!(seen(&bench, &disks), [7; 512]);
    let domain = fs::read_to_string(bench.at("web-01/domain.xml")).unwrap();
    assert!(domain.contains(r#"type="qcow2""#) && domain.contains("/web-01/disk-1.qcow2\""));
    bench.remove().unwrap();
    assert_eq!(bench.listing(), [""; 0]);
}

#[test]
fn an_image_that_was_half_made_is_made_again() {
    let bench = qcow2();
    bench.disks().unwrap();
    let path = bench.at(".ferry-0123abcd/disk-0.qcow2");
    let whole = fs::read(&path).unwrap();
    // It is made cluster after cluster, and what makes it an image comes last.
    let clusters = (65_536..=whole.len()).step_by(65_536);
    for written in clusters {
        let mut half = vec![0; whole.len()];
        half[65_536..written].copy_from_slice(&whole[65_536..written]);
        fs::write(&path, half).unwrap();
        bench.disks().unwrap();
        assert!(fs::read(&path).unwrap() == whole, "{written}");
    }
    fs::write(&path, b"").unwrap();
    bench.disks().unwrap();
    assert!(fs::read(&path).unwrap() == whole);
    bench.make_vm().unwrap();
}

#[test]
fn a_vm_is_not_made_of_images_that_changed_or_went() {
    let changes: [fn(&Bench); 4] = [
        |bench| fs::remove_file(bench.at(".ferry-0123abcd/disk-1.qcow2")).unwrap(),
        // As long as the guest is to see it, and no image.
        |bench| fs::write(bench.at(".ferry-0123abcd/disk-1.qcow2"), [0; 4096]).unwrap(),
        |bench| {
            let at = |name: &str| bench.at(&format!(".ferry-0123abcd/{name}"));
            fs::copy(at("disk-0.qcow2"), at("disk-1.qcow2")).unwrap();
        },
        |bench| {
            let at = |name: &str| bench.at(&format!(".ferry-0123abcd/{name}"));
            fs::rename(at("disk-1.qcow2"), at("disk-1.raw")).unwrap();
        },
    ];
    for change in changes {
        let bench = qcow2();
        bench.disks().unwrap();
        change(&bench);
        assert!(bench.make_vm().unwrap_err().to_string().contains("gone"));
        assert!(!bench.at("web-01").exists());
    }
    let bench = qcow2();
    bench.disks().unwrap();
    fs::write(bench.at(".ferry-0123abcd/disk-1.qcow2"), [9; 4096]).unwrap();
    let error = bench.disks().unwrap_err();
    assert!(error.to_string().contains("something else stands there"), "{error}");
    assert_eq!(fs::read(bench.at(".ferry-0123abcd/disk-1.qcow2")).unwrap(), [9; 4096]);
}

#[test]
fn a_disk_that_no_image_holds_is_refused_with_the_way_out() {
    let bench = qcow2();
    let mut vm = vm();
    vm.disks[0].capacity = Bytes((8 << 40) + 512);
    let made = bench.target.create_disks(&bench.site, &bench.area, &bench.name, &vm);
    let fault = made.unwrap_err().fault;
    assert!(fault.text.contains("at most 8"), "{}", fault.text);
    assert!(fault.remedy.contains("diskFormat: raw"), "{}", fault.remedy);
    assert_eq!(fault.disposition, Disposition::Stall(Mend::Person));
}
