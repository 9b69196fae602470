//! Archives made by [`super::make`], by hand, and by people who mean no good.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};

use expect_test::expect;
use sha2::{Digest, Sha256};

use super::boot::{MARKER, boot_disk};
use super::make::{DiskSpec, OvaSpec, SystemSpec, make_ova};
use super::*;
use crate::adapter::image::LocalImages;
use crate::adapter::location::StoredDisk;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, DiskFormat, Firmware, Nic};
use crate::port::Images;

const CAPACITY: u64 = 8 << 20;

fn nic(network: &str, mac: Option<&str>) -> Nic {
    Nic { network: network.to_owned(), mac: mac.map(str::to_owned) }
}

fn system(name: &str) -> SystemSpec {
    let boot = DiskSpec { capacity: CAPACITY, grains: Some(boot_disk(CAPACITY, MARKER)) };
    SystemSpec {
        name: name.to_owned(),
        cpus: 2,
        memory: Bytes::mib(512),
        firmware: Firmware::Bios,
        os: "debian12_64Guest".to_owned(),
        nics: vec![nic("VM Network", Some("00:50:56:aa:bb:01"))],
        disks: vec![boot, DiskSpec { capacity: 1 << 20, grains: None }],
    }
}

fn make(path: &Path, name: &str, systems: Vec<SystemSpec>) {
    make_ova(path, OvaSpec { name: name.to_owned(), systems }).unwrap();
}

fn source(folder: &Path) -> (OvaSource, Site) {
    let path = folder.to_str().unwrap().to_owned();
    (OvaSource::new(Confine::new([folder.to_owned()])), Site::Ova { path: path.into() })
}

/// A tar archive of members.
pub(in crate::adapter) fn packed(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in members {
        archive.extend(tar::header(name, u64::try_from(content.len()).unwrap()).unwrap());
        archive.extend(*content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// An archive's members, to be packed again with something else in them.
fn unpacked(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = File::open(path).unwrap();
    let members = tar::index(&file, file.metadata().unwrap().len()).unwrap();
    let content = |member: &tar::Member| {
        let mut content = vec![0; usize::try_from(member.size).unwrap()];
        file.read_exact_at(&mut content, member.offset).unwrap();
        content
    };
    members.iter().map(|member| (member.name.clone(), content(member))).collect()
}

fn repacked(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<_> =
        members.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    packed(&members)
}

#[test]
fn a_vm_is_read_as_it_was_packed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.ova");
    let mut web = system("web-01 <\"&'>\u{9}\u{1f4a9}");
    web.firmware = Firmware::Efi;
    web.nics.push(nic("back & <front>", None));
    make(&file, "web", vec![web]);
    let (source, site) = source(folder.path());
    let mut state = source.observe(&site).unwrap();
    assert_eq!(state.gaps, []);
    let vm = state.vms.remove(0);
    assert_eq!(source.look(&site, &vm.id).unwrap().as_ref(), Some(&*vm));
    // Where it lies differs with the machine; what it is does not.
    let text = serde_json::to_string_pretty(&vm).unwrap();
    let place = vm.disks[0].source.0.clone();
    let place = serde_json::to_string(&place).unwrap();
    let empty = serde_json::to_string(&vm.disks[1].source.0).unwrap();
    expect![[r#"
        {
          "id": "ova:8f5081d281652cab943dae616cb0484d08b2bf1297825a8cb86b272dac542636/web-01 <\"&'>\t💩",
          "name": "web-01 <\"&'>\t💩",
          "path": "web.ova/web-01 <\"&'>\t💩",
          "power": "off",
          "firmware": "efi",
          "cpus": 2,
          "memory": 536870912,
          "os": "debian12_64Guest",
          "disks": [
            {
              "key": "vmdisk1",
              "capacity": 8388608,
              "stored": 1135616,
              "format": {
                "kind": "stream-optimized"
              },
              "checksum": {
                "kind": "sha256",
                "value": "0eb9f9e49e86e27709bd72b955c19b74730210e3a530305249a81f55c574c6d6"
              },
              "source": PLACE
            },
            {
              "key": "vmdisk2",
              "capacity": 1048576,
              "stored": 0,
              "format": {
                "kind": "empty"
              },
              "checksum": {
                "kind": "absent"
              },
              "source": NOWHERE
            }
          ],
          "nics": [
            {
              "network": "VM Network",
              "mac": "00:50:56:aa:bb:01"
            },
            {
              "network": "back & <front>",
              "mac": null
            }
          ],
          "claim": {
            "kind": "impossible"
          }
        }"#]]
    .assert_eq(&text.replace(&place, "PLACE").replace(&empty, "NOWHERE"));
}

#[test]
fn a_disk_is_found_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.ova");
    make(&file, "a", vec![system("a")]);
    let (source, site) = source(folder.path());
    let vm = source.observe(&site).unwrap().vms.remove(0);
    let stored = StoredDisk::parse(&vm.disks[0].source).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let at = usize::try_from(stored.offset).unwrap();
    assert_eq!((stored.path.as_str(), &bytes[at..at + 4]), (file.to_str().unwrap(), &b"KDMV"[..]));
    assert_eq!(stored.length, vm.disks[0].stored.unwrap().0);

    // The manifest vouches for the disk, so the VM stays the same where only its bytes differ; the place does not.
    let mut members = unpacked(&file);
    members[2].1[70_000] ^= 1;
    std::fs::write(&file, repacked(&members)).unwrap();
    let again = source.look(&site, &vm.id).unwrap().unwrap();
    assert_ne!(again.disks[0].source, vm.disks[0].source);
    assert_eq!(again.disks[0].checksum, vm.disks[0].checksum);
}

#[test]
fn several_vms_share_one_archive() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("both.ova");
    make(&file, "both", vec![system("one"), system("two")]);
    // The provider may name the file itself.
    let source = OvaSource::new(Confine::new([folder.path().to_owned()]));
    let site = Site::Ova { path: file.to_str().unwrap().into() };
    let state = source.observe(&site).unwrap();
    let found: Vec<_> = state
        .vms
        .iter()
        .map(|vm| (vm.path.as_str(), vm.disks[0].key.as_str(), vm.disks.len()))
        .collect();
    assert_eq!(found, [("both.ova/one", "vmdisk1", 2), ("both.ova/two", "vmdisk3", 2)]);
    assert_ne!(state.vms[0].id, state.vms[1].id);
}

#[test]
fn a_broken_archive_is_a_gap_beside_the_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    make(&at("good.ova"), "good", vec![system("good")]);
    let whole = std::fs::read(at("good.ova")).unwrap();
    std::fs::write(at("cut.ova"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(at("copy.OVA"), &whole).unwrap();
    std::fs::write(at("noise.ova"), [7; 3000]).unwrap();
    std::fs::write(at("two.ova"), packed(&[("a.ovf", b"<a/>"), ("b.ovf", b"<a/>")])).unwrap();
    std::fs::write(at("dtd.ova"), packed(&[("a.ovf", b"<!DOCTYPE a><a/>")])).unwrap();
    std::fs::write(at("._good.ova"), b"x").unwrap();
    std::fs::write(at("notes.txt"), b"x").unwrap();
    std::fs::create_dir(at("folder.ova")).unwrap();
    symlink(at("good.ova"), at("link.ova")).unwrap();
    let mut members = unpacked(&at("good.ova"));
    members[0].1.extend(b"<!-- edited -->");
    std::fs::write(at("edited.ova"), repacked(&members)).unwrap();
    members.truncate(2);
    members[1].1.clear();
    std::fs::write(at("lost.ova"), repacked(&members)).unwrap();

    let (source, site) = source(folder.path());
    let state = source.observe(&site).unwrap();
    // The copy sorts before the original, so it is the one that is listed.
    assert_eq!(state.vms.iter().map(|vm| &vm.path).collect::<Vec<_>>(), ["copy.OVA/good"]);
    let reasons: Vec<_> = state.gaps.iter().map(|gap| gap.reason.as_str()).collect();
    let reasons = reasons.join("\n").replace(folder.path().to_str().unwrap(), "FOLDER");
    expect![[r#"
        FOLDER/cut.ova: it cannot be listed: it ends in the middle of the archive: good-disk1.vmdk needs 1135616 bytes
        FOLDER/dtd.ova: a.ovf cannot be used: the descriptor cannot be read: it has a document type (DTD)
        FOLDER/edited.ova: good.ovf is not what was exported: the manifest says SHA-256 c9d8797ac36c40bcf2920214f37987395df2aa477c634307da5a9cab595c30ed, it has 1aa354bae374520e3cdcb5b1c2616da9a9129ccec3f00e6ee23a56a0aa28daa6
        good.ova/good is the same VM as copy.OVA/good
        cannot open FOLDER/link.ova: Too many levels of symbolic links (os error 40)
        FOLDER/lost.ova: the file "good-disk1.vmdk" of the disk "vmdisk1" is not in the archive
        FOLDER/noise.ova: it cannot be listed: the header at byte 0 is damaged or no tar header
        FOLDER/two.ova: it holds 2 `.ovf` files where one is expected"#]].assert_eq(&reasons);
    // A VM that nobody sees may be in what cannot be read.
    let nobody = SourceVm::Ova { archive: "0".repeat(64).into(), system: "x".into() };
    assert!(source.look(&site, &nobody).unwrap_err().to_string().contains("not every archive"));
}

#[test]
fn an_export_of_files_is_the_same_vm_as_its_archive_and_waits_until_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("archives")).unwrap();
    std::fs::create_dir_all(at("files/web")).unwrap();
    make(&at("archives/web.ova"), "web", vec![system("web")]);
    let observe = |name: &str| {
        let (source, site) = source(&at(name));
        let SourceState { mut vms, gaps, .. } = source.observe(&site).unwrap();
        (vms.pop(), gaps)
    };
    let packed = observe("archives").0.unwrap();
    let members = unpacked(&at("archives/web.ova"));
    let (whole, _) = members.iter().max_by_key(|(_, content)| content.len()).unwrap();
    for (name, content) in &members {
        let half = if name == whole { content.len() / 2 } else { content.len() };
        std::fs::write(at("files/web").join(name), &content[..half]).unwrap();
    }
    let (nothing, gaps) = observe("files");
    assert!(nothing.is_none() && gaps.len() == 1);
    assert!(gaps[0].reason.contains("bytes of the") && gaps[0].remedy.contains("wait"), "{gaps:?}");

    // The descriptor stays what it is while the disk arrives.
    let (source, site) = source(&at("files"));
    assert!(source.observe(&site).unwrap().vms.is_empty());
    let content = &members.iter().find(|(name, _)| name == whole).unwrap().1;
    std::fs::write(at("files/web").join(whole), content).unwrap();
    let vm = source.observe(&site).unwrap().vms.remove(0);
    assert_eq!((&vm.id, &vm.name), (&packed.id, &packed.name));
    assert_eq!(vm.path, "web/web.ovf/web");
    assert_eq!(source.look(&site, &vm.id).unwrap().as_ref(), Some(&*vm));
    let images = LocalImages::new(Confine::new([folder.path().to_owned()]));
    let read = |vm: &Vm| {
        let mut reader = images.reader(&vm.disks[0], None).unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = reader.next().unwrap() {
            pieces.push(piece);
        }
        reader.finish().unwrap();
        pieces
    };
    assert_eq!(read(&vm), read(&packed));

    // A link may lead anywhere, and a disk that is gone is told.
    std::fs::rename(at("files/web").join(whole), at("elsewhere")).unwrap();
    symlink(at("elsewhere"), at("files/web").join(whole)).unwrap();
    let (nothing, gaps) = observe("files");
    assert!(nothing.is_none() && gaps[0].reason.contains("symbolic link"), "{gaps:?}");
    std::fs::remove_file(at("files/web").join(whole)).unwrap();
    let (nothing, gaps) = observe("files");
    assert!(nothing.is_none() && gaps[0].reason.contains("is not in the archive"), "{gaps:?}");

    // A manifest that is there and cannot be read is no missing one: the VM would be another.
    std::fs::rename(at("elsewhere"), at("files/web").join(whole)).unwrap();
    std::fs::rename(at("files/web/web.mf"), at("files/web/web.MF")).unwrap();
    assert_eq!(observe("files").0.unwrap().id, packed.id);
    std::fs::remove_file(at("files/web/web.MF")).unwrap();
    std::fs::create_dir(at("files/web/web.mf")).unwrap();
    let (nothing, gaps) = observe("files");
    assert!(nothing.is_none() && gaps[0].reason.contains("is no plain file"), "{gaps:?}");

    // Where nothing states a size, a file that was just written may not be whole.
    std::fs::remove_dir(at("files/web/web.mf")).unwrap();
    let sized = std::fs::read_to_string(at("files/web/web.ovf")).unwrap();
    let sizes = regex::Regex::new(r#" ovf:size="[0-9]+""#).unwrap();
    std::fs::write(at("files/web/web.ovf"), &*sizes.replace_all(&sized, "")).unwrap();
    let (nothing, gaps) = observe("files");
    assert!(nothing.is_none() && gaps[0].reason.contains("a moment ago"), "{gaps:?}");
    let before = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(1);
    for (name, _) in &members {
        if let Ok(file) = File::options().append(true).open(at("files/web").join(name)) {
            file.set_modified(before).unwrap();
        }
    }
    assert_eq!(observe("files").0.unwrap().name, packed.name);
}

#[test]
fn a_folder_that_is_not_searched_is_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    make(&folder.path().join("a.ova"), "a", vec![system("a")]);
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    std::fs::create_dir(odd).unwrap();
    let (source, site) = source(folder.path());
    let SourceState { vms, gaps, .. } = source.observe(&site).unwrap();
    assert_eq!((vms.len(), gaps.len()), (1, 1));
    assert!(gaps[0].reason.contains("UTF-8"), "{gaps:?}");
}

#[test]
fn a_second_look_remembers_and_a_changed_file_is_another_vm() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.ova");
    make(&file, "a", vec![system("a")]);
    let mut members = unpacked(&file);
    members.remove(1);
    std::fs::write(&file, repacked(&members)).unwrap();
    let (source, site) = source(folder.path());
    let vm = source.observe(&site).unwrap().vms.remove(0);
    // Without a manifest it is what its whole content is, and nothing says what was exported.
    let whole = hex::encode(Sha256::digest(std::fs::read(&file).unwrap()));
    assert_eq!(vm.id, SourceVm::Ova { archive: whole.into(), system: "a".into() });
    assert_eq!(vm.disks[0].checksum, Checksum::Absent);

    // One byte of a disk.
    let last = members.len() - 1;
    members[last].1[5000] ^= 1;
    std::fs::write(&file, repacked(&members)).unwrap();
    assert_eq!(source.look(&site, &vm.id).unwrap(), None);
    let changed = source.observe(&site).unwrap().vms.remove(0);
    assert_ne!(changed.id, vm.id);
}

#[test]
fn disks_that_are_not_read_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.ova");
    make(&file, "a", vec![system("a")]);
    let members = unpacked(&file);
    let format = |edit: &dyn Fn(&mut String, &mut Vec<u8>)| {
        let mut members = members.clone();
        let mut ovf = String::from_utf8(members[0].1.clone()).unwrap();
        edit(&mut ovf, &mut members[2].1);
        members[0].1 = ovf.into_bytes();
        members.remove(1);
        std::fs::write(&file, repacked(&members)).unwrap();
        let (source, site) = source(folder.path());
        match source.observe(&site).unwrap().vms[0].disks[0].format.clone() {
            DiskFormat::Unsupported(name) => name,
            DiskFormat::StreamOptimized => "streamOptimized".to_owned(),
            DiskFormat::Blocks => "blocks".to_owned(),
            DiskFormat::Empty => "empty".to_owned(),
        }
    };
    let found = [
        format(&|_, _| {}),
        format(&|ovf, _| *ovf = ovf.replace("ovf:size=", "ovf:compression=\"gzip\" ovf:size=")),
        format(&|ovf, _| *ovf = ovf.replace("-disk1.vmdk\"", "-x\" ovf:chunkSize=\"9\"")),
        format(&|ovf, _| *ovf = ovf.replace("ovf:fileRef", "ovf:parentRef=\"b\" ovf:fileRef")),
        format(&|ovf, _| *ovf = ovf.replace("vmdk.html#streamOptimized", "vmdk.html#sparse")),
        format(&|_, disk| disk[..4].copy_from_slice(b"QFI\xfb")),
        format(&|_, disk| disk[10] = 0),
        format(&|_, disk| disk.truncate(0)),
        format(&|_, disk| disk[12..20].fill(0xff)),
    ];
    expect![[r"
        streamOptimized
        compressed with gzip
        a file in pieces (ovf:chunkSize)
        a difference to another disk (ovf:parentRef)
        a stream-optimized VMDK that the descriptor calls `http://www.vmware.com/interfaces/specifications/vmdk.html#sparse`
        qcow2 that the descriptor calls `http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized`
        a sparse VMDK of another kind that the descriptor calls `http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized`
        an unknown image that the descriptor calls `http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized`
        a sparse VMDK of another kind that the descriptor calls `http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized`"]].assert_eq(&found.join("\n"));
}

/// Whatever is done to an archive's text and headers, it is read or refused.
#[test]
fn damage_is_refused_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.ova");
    make(&file, "a", vec![system("a"), system("b")]);
    let mut members = unpacked(&file);
    members.remove(1);
    members[1].1.truncate(2048);
    let sound = repacked(&members);
    let ovf_end = 512 + members[0].1.len();
    let mut noise = blake3::Hasher::new().update(b"damage").finalize_xof();
    let mut refused = 0;
    for round in 0..1_500 {
        let mut bytes = sound.clone();
        for _ in 0..=round % 3 {
            let mut random = [0; 16];
            noise.fill(&mut random);
            let place = u64::from_le_bytes(random[..8].try_into().unwrap());
            let place = usize::try_from(place).unwrap();
            // Half of the damage hits the descriptor.
            let at = place % if round % 2 == 0 { ovf_end } else { bytes.len() };
            match random[8] % 3 {
                0 => bytes[at] ^= 1 << (random[9] % 8),
                1 => bytes[at] = random[9],
                _ => drop(bytes.drain(at..(at + usize::from(random[9])).min(bytes.len()))),
            }
        }
        let mut damaged = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut damaged, &bytes).unwrap();
        let confine = Confine::default();
        let package = Package::new(&confine, damaged, Path::new("/a.ova"));
        let read = package.and_then(|package| {
            read_package(&package, "a.ova", Timestamp::UNIX_EPOCH, &mut |_| Ok(String::new()))
        });
        refused += usize::from(read.is_err());
    }
    assert!((300..1_500).contains(&refused), "{refused}");
}

#[test]
fn an_archive_has_no_power_and_nothing_outside_is_read() {
    let folder = tempfile::tempdir().unwrap();
    make(&folder.path().join("a.ova"), "a", vec![system("a")]);
    let (source, site) = source(folder.path());
    let vm = source.observe(&site).unwrap().vms.remove(0).id.clone();
    assert!(source.power_off(&site, &vm).is_err());
    assert!(source.claim(&site, &vm, &Token::new("t")).is_err());
    let outside = Site::Ova { path: "/etc".into() };
    assert!(source.observe(&outside).unwrap_err().to_string().contains("allowPaths"));
    let inside = folder.path().join("to-etc");
    symlink("/etc", &inside).unwrap();
    let linked = Site::Ova { path: inside.to_str().unwrap().into() };
    assert!(source.observe(&linked).is_err());
}

#[test]
fn making_an_archive_replaces_nothing_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.ova");
    std::fs::write(&file, b"mine").unwrap();
    let spec = || OvaSpec { name: "a".into(), systems: vec![system("a")] };
    assert!(make_ova(&file, spec()).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    let mut broken = spec();
    broken.systems[0].disks[0].capacity = 1000;
    assert!(make_ova(&folder.path().join("b.ova"), broken).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(feature = "peers")]
mod peers {
    use std::io::{BufReader, Read};
    use std::process::{Command, Stdio};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "runs the peers that judge")]
    fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
        let run = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
        let text = [run.stdout, run.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(run.status.success(), "{program} {arguments:?}: {text}");
        text
    }

    #[test]
    fn tar_sha256sum_and_qemu_img_take_what_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        make(&at.join("web.ova"), "web", vec![system("one"), system("two")]);
        let listed = run(at, "tar", &["-xvf", "web.ova"]);
        let expected = ["web.ovf", "web.mf", "web-disk1.vmdk", "web-disk3.vmdk"];
        assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
        // `SHA256(file)= hash` is OpenSSL's form; sha256sum reads BSD's, which differs in a space.
        let manifest = std::fs::read_to_string(at.join("web.mf")).unwrap();
        let bsd = manifest.replace("SHA256(", "SHA256 (").replace(")= ", ") = ");
        std::fs::write(at.join("sums"), bsd).unwrap();
        assert_eq!(run(at, "sha256sum", &["--strict", "-c", "sums"]).matches(": OK").count(), 3);
        run(at, "qemu-img", &["convert", "-f", "vmdk", "-O", "raw", "web-disk1.vmdk", "a.raw"]);
        let mut expected = vec![0; usize::try_from(CAPACITY).unwrap()];
        for (offset, bytes) in boot_disk(CAPACITY, MARKER) {
            let offset = usize::try_from(offset).unwrap();
            expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        assert!(std::fs::read(at.join("a.raw")).unwrap() == expected, "the content differs");
    }

    /// The guest halts for good: QEMU is ended once the line is there, or by `timeout` where it never comes.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "runs the peer that judges")]
    fn the_boot_disk_prints_its_marker() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        make(&at.join("web.ova"), "web", vec![system("one")]);
        run(at, "tar", &["-xf", "web.ova"]);
        let machine = "30 qemu-system-x86_64 -machine q35,accel=tcg -m 32 -display none -monitor none \
             -nic none -no-reboot -serial stdio";
        // A snapshot, since the file is opened for reading and the device wants to write.
        let drive = "file=web-disk1.vmdk,format=vmdk,if=virtio,snapshot=on";
        let mut guest = Command::new("timeout")
            .args(machine.split_whitespace())
            .args(["-drive", drive])
            .current_dir(at)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut serial = BufReader::new(guest.stdout.take().unwrap());
        let mut printed = Vec::new();
        while !printed.ends_with(MARKER.as_bytes()) {
            let mut byte = [0];
            serial.read_exact(&mut byte).expect("the guest ended, or time did, without the marker");
            printed.push(byte[0]);
        }
        // `timeout` hands its end on to QEMU.
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&guest),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        guest.wait().unwrap();
    }
}
