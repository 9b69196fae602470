//! Makes OVA files of the shape that VMware exports: for `ferry demo` and for the tests.
//!
//! Descriptor and manifest come first and name the sizes and hashes of what follows, so each disk is written to a nameless
//! file beside the archive first.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use sha2::{Digest, Sha256};

use super::tar::{BLOCK, header};
use crate::adapter::image::vmdk_write::write_stream_optimized;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Firmware, Nic};

/// What goes into an archive.
#[derive(Debug)]
pub struct OvaSpec {
    /// What its files are called: `NAME.ovf`, `NAME.mf`, `NAME-disk1.vmdk` ….
    pub name: String,
    /// Its VMs. Several become a collection.
    pub systems: Vec<SystemSpec>,
}

/// One VM.
#[derive(Debug)]
pub struct SystemSpec {
    /// Its name, and the id of its virtual system.
    pub name: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, in whole MiB.
    pub memory: Bytes,
    /// How it boots.
    pub firmware: Firmware,
    /// The guest's operating system as VMware names it (`debian12_64Guest`).
    pub os: String,
    /// Its network cards.
    pub nics: Vec<Nic>,
    /// Its disks; the first one boots.
    pub disks: Vec<DiskSpec>,
}

/// One disk.
pub struct DiskSpec {
    /// What the guest sees: a multiple of 512.
    pub capacity: u64,
    /// What is stored of it, as [`write_stream_optimized`] takes it; `None` makes an empty disk without a file.
    pub grains: Option<Box<dyn Iterator<Item = (u64, Vec<u8>)> + Send>>,
}

impl std::fmt::Debug for DiskSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskSpec").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Makes an archive. Never replaces a file; leaves none behind where it fails.
pub fn make_ova(path: &Path, mut spec: OvaSpec) -> io::Result<()> {
    // The file is made first: who finds one there loses no time with compressing.
    let mut out = OpenOptions::new().write(true).create_new(true).open(path)?;
    let made = pack(path, &mut out, &mut spec);
    if made.is_err() {
        std::fs::remove_file(path)?;
    }
    made
}

/// A disk that was written.
struct Packed {
    name: String,
    capacity: u64,
    file: Option<(File, u64, String)>,
}

fn pack(path: &Path, out: &mut File, spec: &mut OvaSpec) -> io::Result<()> {
    let mut packed: Vec<Vec<Packed>> = Vec::new();
    let mut number = 0;
    for system in &mut spec.systems {
        let mut disks = Vec::new();
        for DiskSpec { capacity, grains } in &mut system.disks {
            number += 1;
            let name = format!("{}-disk{number}.vmdk", spec.name);
            let file = match grains {
                None => None,
                Some(grains) => Some(stored(path, number, &name, *capacity, grains.as_mut())?),
            };
            disks.push(Packed { name, capacity: *capacity, file });
        }
        packed.push(disks);
    }
    let ovf = descriptor(spec, &packed)?;
    let hash = hex::encode(Sha256::digest(&ovf));
    let mut lines = vec![format!("SHA256({}.ovf)= {hash}\n", spec.name)];
    let files = packed.iter().flatten().filter_map(|disk| Some((&disk.name, disk.file.as_ref()?)));
    lines.extend(files.map(|(name, (_, _, hash))| format!("SHA256({name})= {hash}\n")));
    let manifest = lines.concat();
    let mut out = BufWriter::new(out);
    member(&mut out, &format!("{}.ovf", spec.name), &mut ovf.as_slice(), length(&ovf))?;
    let bytes = manifest.as_bytes();
    member(&mut out, &format!("{}.mf", spec.name), &mut &*bytes, length(bytes))?;
    for disk in packed.iter_mut().flatten() {
        if let Some((file, length, _)) = &mut disk.file {
            file.rewind()?;
            member(&mut out, &disk.name, file, *length)?;
        }
    }
    out.write_all(&[0; 1024])?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Writes a disk to a file that has no name any more; returns it, its length and its hash.
fn stored(
    path: &Path,
    number: u32,
    name: &str,
    capacity: u64,
    grains: &mut dyn Iterator<Item = (u64, Vec<u8>)>,
) -> io::Result<(File, u64, String)> {
    let spool = path.with_extension(format!("disk{number}.part"));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&spool)?;
    std::fs::remove_file(&spool)?;
    let mut out = Hashing { inner: BufWriter::new(file), hash: Sha256::new() };
    let length = write_stream_optimized(&mut out, name, capacity, grains)?;
    let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok((file, length, hex::encode(out.hash.finalize())))
}

/// Hashes what is written.
struct Hashing {
    inner: BufWriter<File>,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn member(
    out: &mut dyn Write,
    name: &str,
    content: &mut dyn io::Read,
    size: u64,
) -> io::Result<()> {
    out.write_all(&header(name, size)?)?;
    io::copy(content, out)?;
    let padding = size.next_multiple_of(BLOCK) - size;
    out.write_all(&[0; 512][..usize::try_from(padding).expect("below a block")])
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("memory is below 16 EiB")
}

type Xml = Writer<Vec<u8>>;

const ATTRIBUTES: [(&str, &str); 5] = [
    ("xmlns", "http://schemas.dmtf.org/ovf/envelope/1"),
    ("xmlns:ovf", "http://schemas.dmtf.org/ovf/envelope/1"),
    (
        "xmlns:rasd",
        "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    ),
    (
        "xmlns:vssd",
        "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    ),
    ("xmlns:vmw", "http://www.vmware.com/schema/ovf"),
];
const FORMAT: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

fn descriptor(spec: &OvaSpec, packed: &[Vec<Packed>]) -> io::Result<Vec<u8>> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    xml.create_element("Envelope").with_attributes(ATTRIBUTES).write_inner_content(|xml| {
        references(xml, packed)?;
        disk_section(xml, packed)?;
        let networks: std::collections::BTreeSet<_> =
            spec.systems.iter().flat_map(|system| &system.nics).map(|nic| &nic.network).collect();
        xml.create_element("NetworkSection").write_inner_content(|xml| {
            text(xml, "Info", "The list of logical networks")?;
            for network in networks {
                xml.create_element("Network")
                    .with_attribute(("ovf:name", network.as_str()))
                    .write_empty()?;
            }
            Ok(())
        })?;
        let mut first_disk = 1;
        let mut systems = |xml: &mut Xml| {
            for (system, disks) in spec.systems.iter().zip(packed) {
                virtual_system(xml, system, first_disk)?;
                first_disk += disks.len();
            }
            Ok(())
        };
        if spec.systems.len() == 1 {
            return systems(xml);
        }
        xml.create_element("VirtualSystemCollection")
            .with_attribute(("ovf:id", spec.name.as_str()))
            .write_inner_content(|xml| {
                text(xml, "Info", "A collection of virtual machines")?;
                systems(xml)
            })
            .map(|_| ())
    })?;
    let mut bytes = xml.into_inner();
    bytes.push(b'\n');
    Ok(bytes)
}

fn references(xml: &mut Xml, packed: &[Vec<Packed>]) -> io::Result<()> {
    xml.create_element("References").write_inner_content(|xml| {
        for (number, disk) in (1..).zip(packed.iter().flatten()) {
            let Some((_, size, _)) = &disk.file else { continue };
            xml.create_element("File")
                .with_attribute(("ovf:href", disk.name.as_str()))
                .with_attribute(("ovf:id", format!("file{number}").as_str()))
                .with_attribute(("ovf:size", size.to_string().as_str()))
                .write_empty()?;
        }
        Ok(())
    })?;
    Ok(())
}

fn disk_section(xml: &mut Xml, packed: &[Vec<Packed>]) -> io::Result<()> {
    xml.create_element("DiskSection").write_inner_content(|xml| {
        text(xml, "Info", "Virtual disk information")?;
        for (number, disk) in (1..).zip(packed.iter().flatten()) {
            let reference = format!("file{number}");
            let file = disk.file.as_ref().map(|_| ("ovf:fileRef", reference.as_str()));
            xml.create_element("Disk")
                .with_attribute(("ovf:capacity", disk.capacity.to_string().as_str()))
                .with_attribute(("ovf:capacityAllocationUnits", "byte"))
                .with_attribute(("ovf:diskId", format!("vmdisk{number}").as_str()))
                .with_attributes(file)
                .with_attribute(("ovf:format", FORMAT))
                .write_empty()?;
        }
        Ok(())
    })?;
    Ok(())
}

fn virtual_system(xml: &mut Xml, system: &SystemSpec, first_disk: usize) -> io::Result<()> {
    let SystemSpec { name, cpus, memory, firmware, os, nics, disks } = system;
    let memory_mib = (memory.0 >> 20).to_string();
    let element = xml.create_element("VirtualSystem").with_attribute(("ovf:id", name.as_str()));
    element.write_inner_content(|xml| {
        text(xml, "Info", "A virtual machine")?;
        text(xml, "Name", name)?;
        xml.create_element("OperatingSystemSection")
            .with_attribute(("ovf:id", "1"))
            .with_attribute(("vmw:osType", os.as_str()))
            .write_inner_content(|xml| text(xml, "Info", "The kind of installed guest"))?;
        xml.create_element("VirtualHardwareSection").write_inner_content(|xml| {
            text(xml, "Info", "Virtual hardware requirements")?;
            xml.create_element("System").write_inner_content(|xml| {
                text(xml, "vssd:ElementName", "Virtual Hardware Family")?;
                text(xml, "vssd:InstanceID", "0")?;
                text(xml, "vssd:VirtualSystemIdentifier", name)?;
                text(xml, "vssd:VirtualSystemType", "vmx-19")
            })?;
            let cpu_units = ("AllocationUnits", "hertz * 10^6");
            item(xml, 1, 3, "CPUs", &[cpu_units, ("VirtualQuantity", &cpus.to_string())])?;
            let memory_units = ("AllocationUnits", "byte * 2^20");
            item(xml, 2, 4, "Memory", &[memory_units, ("VirtualQuantity", &memory_mib)])?;
            let kind = ("ResourceSubType", "VirtualSCSI");
            item(xml, 3, 6, "SCSI Controller 0", &[("Address", "0"), kind])?;
            for (number, nic) in (0..).zip(nics) {
                let kind = ("ResourceSubType", "VmxNet3");
                let mut fields = vec![("Connection", nic.network.as_str()), kind];
                fields.extend(nic.mac.as_deref().map(|mac| ("Address", mac)));
                item(xml, 100 + number, 10, "Network adapter", &fields)?;
            }
            for number in 0..disks.len() {
                // Unit 7 of a SCSI controller is the controller itself.
                let unit = if number < 7 { number } else { number + 1 };
                let resource = format!("ovf:/disk/vmdisk{}", first_disk + number);
                let unit = unit.to_string();
                let fields = [
                    ("AddressOnParent", unit.as_str()),
                    ("HostResource", &resource),
                    ("Parent", "3"),
                ];
                item(xml, 1_000 + number, 17, "Hard disk", &fields)?;
            }
            if *firmware == Firmware::Efi {
                xml.create_element("vmw:Config")
                    .with_attributes([("ovf:required", "false"), ("vmw:key", "firmware")])
                    .with_attribute(("vmw:value", "efi"))
                    .write_empty()?;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

/// Writes a piece of hardware; its fields in the order of their names, as the schema wants it.
fn item(
    xml: &mut Xml,
    id: usize,
    kind: u32,
    name: &str,
    fields: &[(&str, &str)],
) -> io::Result<()> {
    let (id, kind) = (id.to_string(), kind.to_string());
    let own = [("ElementName", name), ("InstanceID", &id), ("ResourceType", &kind)];
    let mut fields = [&own, fields].concat();
    fields.sort_unstable();
    xml.create_element("Item").write_inner_content(|xml| {
        fields.iter().try_for_each(|(key, value)| text(xml, &format!("rasd:{key}"), value))
    })?;
    Ok(())
}

fn text(xml: &mut Xml, name: &str, content: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(content))?;
    Ok(())
}
