//! Images inside of archives and beside descriptors, whole and damaged.

use std::fs;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::*;
use crate::adapter::image::LocalImages;
use crate::adapter::image::files::{Files, source};
use crate::adapter::image::sparse::tests as sparse;
use crate::adapter::location::BlocksDisk;
use crate::adapter::ova::OvaSource;
use crate::adapter::ova::tests::packed;
use crate::desired::Site;
use crate::domain::vm::{DiskFormat, TargetDisk};
use crate::port::{Images, Source, Stored};

const QCOW2: &str = r#"ovf:format="http://www.gnome.org/~markmc/qcow-image-format.html""#;
const VMDK: &str = r#"ovf:format="http://www.vmware.com/specifications/vmdk.html#sparse""#;
const RAW: &str = r#"ovf:format="raw""#;

/// One VM with one disk, before and behind which other files lie.
struct Bench {
    folder: tempfile::TempDir,
    /// What the disk's element says besides its file.
    says: String,
    image: Vec<u8>,
    manifest: bool,
}

impl Bench {
    fn new(format: &str, capacity: usize, image: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let says = format!(r#"ovf:capacity="{capacity}" {format}"#);
        Self { folder, says, image: image.to_vec(), manifest: true }
    }

    fn confine(&self) -> Confine {
        Confine::new([self.folder.path().to_owned()])
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("web.ova")
    }

    fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let ovf = format!(
            r#"<Envelope xmlns:ovf="o" xmlns:rasd="r"><References>
                <File ovf:href="disk" ovf:id="f" ovf:size="{}"/><File ovf:href="pad1" ovf:id="p"/>
            </References><DiskSection><Disk ovf:diskId="d" ovf:fileRef="f" {}/></DiskSection>
            <VirtualSystem ovf:id="web"><VirtualHardwareSection><Item><rasd:InstanceID>1</rasd:InstanceID>
            <rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/d</rasd:HostResource>
            </Item></VirtualHardwareSection></VirtualSystem></Envelope>"#,
            self.image.len(),
            self.says
        );
        let mut files = vec![("web.ovf", ovf.into_bytes())];
        if self.manifest {
            let lines = format!("SHA256(disk)= {}\n", hex::encode(Sha256::digest(&self.image)));
            files.push(("web.mf", lines.into_bytes()));
        }
        files.push(("before", vec![0xbe; 700]));
        files.push(("disk", self.image.clone()));
        files.push(("behind", vec![0xbe; 4 << 20]));
        files
    }

    /// Packs an archive and returns the disk that the source finds in it.
    fn pack(&self) -> Disk {
        let files = self.files();
        let members: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        // With holes, at places that are none of the disk's leaves.
        let bytes = packed(&members);
        let file = File::create(self.archive()).unwrap();
        file.set_len(u64_of(bytes.len())).unwrap();
        for (at, page) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, at).unwrap();
            }
        }
        self.found(&self.archive())
    }

    /// Puts the files into a folder instead.
    fn unpack(&self) -> Disk {
        let folder = self.folder.path().join("files");
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in self.files() {
            fs::write(folder.join(name), bytes).unwrap();
        }
        self.found(&folder)
    }

    fn found(&self, path: &Path) -> Disk {
        let site = Site::Ova { path: path.to_str().unwrap().into() };
        let mut state = OvaSource::new(self.confine()).observe(&site).unwrap();
        assert!(state.gaps.is_empty(), "{:?}", state.gaps);
        let mut vm = Arc::unwrap_or_clone(state.vms.remove(0));
        vm.disks.remove(0)
    }

    fn reader(&self, disk: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        LocalImages::new(self.confine()).reader(disk, resume)
    }

    /// Reads a disk, by as many readers one after another as it has pieces.
    fn read(&self, disk: &Disk) -> Result<Vec<u8>, PortError> {
        let mut bytes = vec![0; usize::try_from(disk.capacity.0).unwrap()];
        let mut reader = self.reader(disk, None)?;
        while let Some(Piece { offset, length, stored }) = reader.next()? {
            assert_eq!(stored, Stored::Unread);
            let from = usize::try_from(offset).unwrap();
            let part = &mut bytes[from..from + usize::try_from(length).unwrap()];
            reader.blocks().unwrap().read(offset, part)?;
            let position = reader.position()?;
            reader = self.reader(disk, Some(&position.resume))?;
        }
        reader.finish()?;
        Ok(bytes)
    }

    /// Returns why the disk's format is refused.
    fn refused(&self) -> String {
        match self.pack().format {
            DiskFormat::Unsupported(why) => why,
            format => panic!("{format:?}"),
        }
    }
}

fn u64_of(number: usize) -> u64 {
    u64::try_from(number).unwrap()
}

/// A disk of 3 MiB with data at its start, about its middle and at its end.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 3 << 20];
    for (from, length) in [(0, 5000), (1_500_000, 200_000), (3_140_000, 5728)] {
        for (at, byte) in disk[from..from + length].iter_mut().enumerate() {
            *byte = u8::try_from((at * 31 + from) % 251).unwrap();
        }
    }
    disk
}

/// A disk as the qcow2 that is written of it.
fn qcow2(disk: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let confine = Confine::new([folder.path().to_owned()]);
    let path = folder.path().join("disk.qcow2");
    let capacity = Bytes(u64::try_from(disk.len()).unwrap());
    Files::make(&confine, &path, capacity, Format::Qcow2).unwrap();
    let files = Files::new(confine, Format::Qcow2);
    let writer = files.writer(&TargetDisk(path.to_str().unwrap().to_owned())).unwrap();
    for (offset, bytes) in (0..).step_by(64 << 10).zip(disk.chunks(64 << 10)) {
        if bytes.iter().any(|byte| *byte != 0) {
            writer.write(offset, bytes).unwrap();
        }
    }
    writer.sync().unwrap();
    fs::read(path).unwrap()
}

fn benches() -> Vec<(Bench, Vec<u8>)> {
    let disk = disk();
    let (vmdk, vmdk_disk) = sparse::sample();
    vec![
        (Bench::new(RAW, disk.len(), &disk), disk.clone()),
        // A capacity that is rounded up; the image knows better.
        (Bench::new(QCOW2, 4 << 20, &qcow2(&disk)), disk),
        (Bench::new(VMDK, vmdk_disk.len(), &vmdk), vmdk_disk),
        // A raw disk is one whatever its guest wrote.
        (Bench::new(RAW, vmdk.len(), &vmdk), vmdk),
    ]
}

#[test]
fn disks_read_as_the_guest_sees_them_in_archives_and_beside_descriptors() {
    for (bench, seen) in benches() {
        for disk in [bench.pack(), bench.unpack()] {
            assert_eq!((&disk.format, disk.capacity.0), (&DiskFormat::Blocks, u64_of(seen.len())));
            assert_eq!(disk.stored.unwrap().0, u64_of(bench.image.len()));
            assert!(matches!(disk.checksum, Checksum::Sha256(_)));
            assert!(bench.read(&disk).unwrap() == seen, "{disk:?}");
        }
        // As a person names it.
        let named = bench.archive().join("disk");
        let disk = source(&bench.confine(), named.to_str().unwrap(), None).unwrap();
        assert!(bench.read(&disk).unwrap() == seen);
    }
}

#[test]
fn what_was_not_exported_is_found_out_wherever_it_differs() {
    for (mut bench, _) in benches() {
        let whole = bench.pack();
        // Behind what any table of the image names.
        bench.image.extend([0; 512]);
        let grown = |length: usize| format!("capacity=\"{length}\"");
        let length = bench.image.len();
        bench.says = bench.says.replace(&grown(length - 512), &grown(length));
        let longer = bench.pack();
        let damaged = Disk { checksum: whole.checksum.clone(), ..longer.clone() };
        assert!(bench.read(&longer).is_ok());
        let error = bench.read(&damaged).unwrap_err().fault.text;
        assert!(
            error.contains("disk d in ") && error.contains("is not what was exported"),
            "{error}"
        );
        bench.manifest = false;
        assert!(bench.read(&bench.pack()).is_ok());
    }
}

#[test]
fn another_file_of_the_same_name_is_none() {
    for (bench, _) in benches() {
        let disk = bench.pack();
        let mut reader = bench.reader(&disk, None).unwrap();
        while reader.next().unwrap().is_some() {}
        let file = File::options().append(true).open(bench.archive()).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_hours(1)).unwrap();
        let replaced = |error: PortError| {
            assert!(error.fault.text.contains("was replaced during the copy"), "{error}");
        };
        replaced(reader.finish().unwrap_err());
        replaced(bench.reader(&disk, None).err().unwrap());
        // The open file is what it was, its name is another's.
        let disk = bench.pack();
        let mut reader = bench.reader(&disk, None).unwrap();
        fs::rename(bench.archive(), bench.folder.path().join("old")).unwrap();
        fs::copy(bench.folder.path().join("old"), bench.archive()).unwrap();
        replaced(reader.finish().unwrap_err());
        // It was cut off.
        let disk = bench.pack();
        File::options().write(true).open(bench.archive()).unwrap().set_len(2048).unwrap();
        replaced(bench.reader(&disk, None).err().unwrap());
    }
}

#[test]
fn a_copy_goes_on_with_its_checksum_and_a_damaged_checkpoint_is_none() {
    let (bench, _) = benches().remove(0);
    let disk = bench.pack();
    let mut reader = bench.reader(&disk, None).unwrap();
    reader.next().unwrap();
    let Position { resume, .. } = reader.position().unwrap();
    let Resume { place, hashed, hash } = serde_json::from_str(&resume).unwrap();
    assert!((1..=3 << 20).contains(&hashed), "{hashed}");
    let again = bench.reader(&disk, Some(&resume)).unwrap();
    assert_eq!(again.position().unwrap().resume, resume);

    let text = |resume: &Resume| serde_json::to_string(resume).unwrap();
    let damaged = [
        text(&Resume { place: place.clone(), hashed, hash: None }),
        text(&Resume { place: place.clone(), hashed, hash: Some("00".to_owned()) }),
        text(&Resume { place, hashed: u64::MAX, hash: hash.clone() }),
        text(&Resume { place: "99999999 0".to_owned(), hashed, hash }),
        "1 2".to_owned(),
    ];
    for resume in damaged {
        let error = bench.reader(&disk, Some(&resume)).err().expect("it is refused");
        assert!(error.fault.remedy.contains("start"), "{error}");
    }
    let larger = Disk { capacity: Bytes(4 << 20), ..disk };
    assert!(bench.reader(&larger, None).is_err());
}

#[test]
fn nothing_of_the_neighbours_is_read() {
    let disk = disk();
    let image = qcow2(&disk);
    let mut cut = Bench::new(QCOW2, disk.len(), &image[..image.len() - 65_536]);
    let error = cut.read(&cut.pack()).unwrap_err().fault.text;
    let (_, why) = error.split_once("/web.ova/disk at byte ").unwrap();
    assert!(why.contains("ends behind the file's"), "{why}");

    // An L1 table that the image ends within.
    cut.image = image.clone();
    let end = (image.len().next_multiple_of(1 << 16)).to_be_bytes();
    cut.image[40..48].copy_from_slice(&end);
    assert!(cut.refused().contains("L1 table of 8 bytes ends behind the file's"));

    // A part outside of its file, as only a damaged journal says it.
    let found = Bench::new(RAW, disk.len(), &disk);
    let found = (found.pack(), found);
    let outside = |offset: u64| {
        let BlocksDisk::Member(mut member) = BlocksDisk::parse(&found.0.source).unwrap() else {
            panic!("it is a member");
        };
        member.stored.offset = offset;
        let disk = Disk { source: BlocksDisk::Member(member).to_source(), ..found.0.clone() };
        found.1.reader(&disk, None).err().unwrap().fault.text
    };
    for offset in [6 << 20, 1 << 40, u64::MAX] {
        assert!(outside(offset).contains("goes past the end of the file"), "{}", outside(offset));
    }
}

#[test]
fn what_contradicts_its_descriptor_or_needs_a_second_file_is_refused_by_name() {
    let disk = disk();
    let image = qcow2(&disk);
    let bench = |format: &str, image: &[u8]| Bench::new(format, disk.len(), image).refused();
    let changed = |change: &dyn Fn(&mut [u8])| {
        let mut image = image.clone();
        change(&mut image);
        bench(QCOW2, &image)
    };
    let vmdk = |from: &str, to: &str| {
        let descriptor = sparse::DESCRIPTOR.replace(from, to);
        bench(VMDK, &sparse::image(4805, &sparse::GRAINS, &descriptor).0)
    };
    let found = [
        bench(QCOW2, &disk),
        bench(VMDK, &image),
        bench(RAW, &image),
        bench(RAW, &disk[512..]),
        bench(r#"ovf:format="x" ovf:volume-format="RAW""#, &image),
        changed(&|image| {
            image[8..16].copy_from_slice(&512_u64.to_be_bytes());
            image[16..20].copy_from_slice(&11_u32.to_be_bytes());
            image[512..523].copy_from_slice(b"/etc/shadow");
        }),
        changed(&|image| image[79] = 4),
        changed(&|image| image[35] = 1),
        vmdk("parentCID=ffffffff", "parentCID=12345678"),
        vmdk("monolithicSparse", "vmfsSparse"),
        bench(VMDK, b"KDMV"),
    ];
    expect_test::expect![[r#"
        an unknown image that the descriptor calls `http://www.gnome.org/~markmc/qcow-image-format.html`
        qcow2 that the descriptor calls `http://www.vmware.com/specifications/vmdk.html#sparse`
        720896 raw bytes of a disk that has 3145728 by the descriptor
        3145216 raw bytes of a disk that has 3145728 by the descriptor
        qcow2 that the descriptor calls `RAW`
        qcow2: cannot read the disk in disk at byte 8: it holds only the differences from the backing file `/etc/shadow`
        qcow2: cannot read the disk in disk at byte 72: its data lies in a second file (`data_file`)
        qcow2: cannot read the disk in disk at byte 32: it is encrypted (AES)
        vmdk: cannot read disk: it holds only the differences from a parent disk (parentCID 12345678)
        vmdk: cannot read disk: createType `vmfsSparse` is not read here
        an unknown image that the descriptor calls `http://www.vmware.com/specifications/vmdk.html#sparse`"#]].assert_eq(&found.join("\n"));
}

/// Made by QEMU, packed as oVirt does, and read by both.
#[cfg(feature = "peers")]
mod peers {
    use std::process::Command;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "runs the peer that writes")]
    fn qemu_img(folder: &Path, arguments: &[&str]) {
        let mut command = Command::new("qemu-img");
        let run = command.args(arguments).current_dir(folder).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{arguments:?}: {said}");
    }

    #[test]
    fn images_of_qemu_are_read_inside_of_archives() {
        let mut disk = disk();
        disk.resize(70 << 20, 0);
        disk[(69 << 20)..].fill(7);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.raw"), &disk).unwrap();
        let ovirt = format!(
            "{QCOW2} ovf:capacityAllocationUnits=\"byte * 2^30\" \
             ovf:parentRef=\"\" ovf:volume-format=\"COW\" ovf:boot=\"true\""
        );
        let cases: [(&str, usize, &[&str]); 5] = [
            (&ovirt, 1, &["-O", "qcow2"]),
            (&ovirt, 1, &["-c", "-O", "qcow2", "-o", "compat=0.10"]),
            (QCOW2, disk.len(), &["-O", "qcow2", "-o", "cluster_size=4096"]),
            (VMDK, disk.len(), &["-O", "vmdk", "-o", "subformat=monolithicSparse"]),
            (RAW, disk.len(), &["-O", "raw"]),
        ];
        for (says, capacity, options) in cases {
            let from = ["convert", "-f", "raw"];
            qemu_img(folder.path(), &[&from, options, &["a.raw", "disk"]].concat());
            let mut image = fs::read(folder.path().join("disk")).unwrap();
            if says == ovirt {
                // oVirt reserves what the image may need at most; what is left over follows as zeros.
                image.resize(image.len() + 65_536, 0);
            }
            let bench = Bench::new(says, capacity, &image);
            for found in [bench.pack(), bench.unpack()] {
                assert_eq!(found.format, DiskFormat::Blocks, "{options:?}");
                assert!(bench.read(&found).unwrap() == disk, "{options:?}");
            }
        }
        qemu_img(
            folder.path(),
            &["create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", "disk"],
        );
        let image = fs::read(folder.path().join("disk")).unwrap();
        let why = Bench::new(QCOW2, disk.len(), &image).refused();
        assert!(why.contains("differences from the backing file `a.raw`"), "{why}");
    }
}
