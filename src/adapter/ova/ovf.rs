//! Reads an OVF descriptor: the virtual systems, and for each its hardware and the files that its disks lie in.
//!
//! Names are compared without their namespaces, since exporters disagree about them (OVF 1, OVF 2, VMware's drafts) and no two
//! of them mean different things by one name. Whatever leads out of the archive is refused, used or not.

use std::collections::{BTreeMap, BTreeSet};

use super::ovirt;
use super::tar::unsafe_name;
use super::virtualbox;
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Firmware, Nic};
use crate::xml::{Element, XmlError};

/// Larger than any disk that VMware or KubeVirt make (62 TiB); it keeps sums of a thousand disks far below 2⁶⁴.
const CAPACITY_MAX: u64 = 1 << 50;

/// Three times what VMware attaches to one VM. Items are compared with each other, so their number bounds the time.
const ITEMS_MAX: usize = 1_000;

/// Why a descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OvfError {
    /// It is no XML, or no harmless one.
    #[error("the descriptor cannot be read")]
    Xml(#[source] XmlError),
    /// It describes no VM.
    #[error("the descriptor holds no VirtualSystem")]
    Empty,
    /// It is of the kind that oVirt keeps in its storage domains.
    #[error(
        "the descriptor is that of an oVirt storage domain: its VM is a Content, no VirtualSystem"
    )]
    ExportDomain,
    /// A file outside of the archive.
    #[error("the descriptor refers to the file {href:?}, {what}")]
    Outside {
        /// The reference.
        href: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something that a VM cannot be made of.
    #[error("in the descriptor, {what} {name:?} {problem}")]
    Part {
        /// Its kind.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// A virtual system of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// `ovf:id`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The guest's operating system.
    pub os: Option<String>,
    /// How it boots, where the descriptor says so.
    pub firmware: Option<Firmware>,
    /// Whether it starts only what is signed.
    pub secure_boot: bool,
    /// Whether it has a virtual TPM.
    pub tpm: bool,
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// How many of them are in one socket, where that is stated and they fill sockets.
    pub cores_per_socket: Option<u32>,
    /// Memory.
    pub memory: Option<Bytes>,
    /// Network cards, in order.
    pub nics: Vec<Nic>,
    /// Disks, in the order of their controllers and units.
    pub disks: Vec<OvfDisk>,
}

/// A disk of a virtual system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvfDisk {
    /// `ovf:diskId`.
    pub key: DiskKey,
    /// What the guest sees, as far as the descriptor knows.
    pub capacity: Bytes,
    /// The unit in which that is stated, in bytes: exporters round up to it.
    pub unit: u64,
    /// `ovf:format`.
    pub format: String,
    /// `ovf:volume-format`, which oVirt states.
    pub volume_format: Option<String>,
    /// Whether oVirt starts the guest from it.
    pub boots: bool,
    /// What its content is based on, where it is no whole disk.
    pub parent: Option<String>,
    /// The file; `None` where the disk is empty.
    pub file: Option<FileReference>,
}

/// A file that a descriptor refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReference {
    /// Its name in the archive.
    pub href: String,
    /// How many bytes it has, where that is stated.
    pub size: Option<u64>,
    /// How it is compressed, where it is.
    pub compression: Option<String>,
    /// Whether it is stored in pieces.
    pub chunked: bool,
}

/// Reads a descriptor.
pub fn parse(bytes: &[u8]) -> Result<Vec<System>, OvfError> {
    let envelope = Element::parse(bytes).map_err(OvfError::Xml)?;
    let files = files(&envelope)?;
    let disks = disks(&envelope, &files)?;
    let mut found = Vec::new();
    find_systems(&envelope, &mut found);
    let mut ids = BTreeSet::new();
    let mut systems = Vec::new();
    for element in found {
        let system = system(element, &disks, default_configuration(&envelope))?;
        if !ids.insert(system.id.clone()) {
            return Err(part("the VirtualSystem", &system.id, "is there twice"));
        }
        systems.push(system);
    }
    if !systems.is_empty() {
        return Ok(systems);
    }
    let domain = ovirt::is_export_domain(&envelope);
    Err(if domain { OvfError::ExportDomain } else { OvfError::Empty })
}

fn part(what: &'static str, name: &str, problem: &'static str) -> OvfError {
    OvfError::Part { what, name: name.to_owned(), problem }
}

/// Collections nest; the depth is that of the tree, which is bounded.
fn find_systems<'a>(element: &'a Element, found: &mut Vec<&'a Element>) {
    for child in &element.children {
        match child.name.as_str() {
            "VirtualSystem" => found.push(child),
            "VirtualSystemCollection" => find_systems(child, found),
            _ => {}
        }
    }
}

fn files(envelope: &Element) -> Result<BTreeMap<&str, FileReference>, OvfError> {
    let mut files = BTreeMap::new();
    for file in envelope.all("References").flat_map(|references| references.all("File")) {
        let href = file.attribute("href").unwrap_or_default();
        for text in [href.to_owned(), percent_decoded(href)] {
            if let Some(what) = unsafe_name(&text) {
                return Err(OvfError::Outside { href: href.to_owned(), what });
            }
        }
        let id = file.attribute("id").unwrap_or_default();
        let compression = file.attribute("compression").filter(|&method| method != "identity");
        let reference = FileReference {
            href: href.to_owned(),
            size: file.attribute("size").and_then(|size| size.parse().ok()),
            compression: compression.filter(|method| !method.is_empty()).map(str::to_owned),
            chunked: file.attribute("chunkSize").is_some(),
        };
        if files.insert(id, reference).is_some() {
            return Err(part("the File", id, "is there twice"));
        }
    }
    Ok(files)
}

/// A reference is a URI: `disk%201.vmdk` may be the file `disk 1.vmdk`.
pub(crate) fn percent_decoded(href: &str) -> String {
    let mut bytes = Vec::with_capacity(href.len());
    let mut rest = href.as_bytes();
    while let [first, after @ ..] = rest {
        let code =
            after.get(..2).filter(|_| *first == b'%').and_then(|code| hex::decode(code).ok());
        if let Some(code) = code {
            bytes.extend(code);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn disks<'a>(
    envelope: &'a Element,
    files: &BTreeMap<&str, FileReference>,
) -> Result<BTreeMap<&'a str, OvfDisk>, OvfError> {
    let mut disks = BTreeMap::new();
    for disk in envelope.all("DiskSection").flat_map(|section| section.all("Disk")) {
        let id = disk.attribute("diskId").unwrap_or_default();
        let unit = disk.attribute("capacityAllocationUnits").map_or(Some(1), unit);
        let (capacity, unit) = disk
            .attribute("capacity")
            .and_then(|count| count.trim().parse::<u64>().ok())
            .zip(unit)
            .and_then(|(count, unit)| Some((count.checked_mul(unit)?, unit)))
            // Disks are made of sectors.
            .and_then(|(bytes, unit)| Some((bytes.checked_next_multiple_of(512)?, unit)))
            .filter(|(bytes, _)| (1..=CAPACITY_MAX).contains(bytes))
            .ok_or_else(|| part("the Disk", id, "has no usable capacity"))?;
        let file = match disk.attribute("fileRef") {
            None => None,
            Some(reference) => Some(files.get(reference).cloned().ok_or_else(|| {
                part("the Disk", id, "lies in a file that References does not list")
            })?),
        };
        let disk = OvfDisk {
            key: DiskKey::new(id),
            capacity: Bytes(capacity),
            unit,
            format: disk.attribute("format").unwrap_or_default().to_owned(),
            volume_format: disk.attribute("volume-format").map(str::to_owned),
            boots: disk.attribute("boot").is_some_and(|boots| boots.eq_ignore_ascii_case("true")),
            // oVirt writes an empty one of a whole disk.
            parent: disk.attribute("parentRef").filter(|id| !id.is_empty()).map(str::to_owned),
            file,
        };
        if disks.insert(id, disk).is_some() {
            return Err(part("the Disk", id, "is there twice"));
        }
    }
    Ok(disks)
}

/// `byte * 2^20` and what older exporters write; `None` for anything else.
fn unit(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let legacy = match text.as_str() {
        "bytes" => Some(1),
        "kb" | "kilobytes" => Some(1 << 10),
        "mb" | "megabytes" => Some(1 << 20),
        "gb" | "gigabytes" => Some(1 << 30),
        "tb" | "terabytes" => Some(1 << 40),
        _ => None,
    };
    if legacy.is_some() {
        return legacy;
    }
    let factors = text.strip_prefix("byte")?.trim();
    if factors.is_empty() {
        return Some(1);
    }
    factors.strip_prefix('*')?.split('*').try_fold(1_u64, |product, factor| {
        let (base, power) = factor.split_once('^').unwrap_or((factor, "1"));
        let base: u64 = base.trim().parse().ok()?;
        product.checked_mul(base.checked_pow(power.trim().parse().ok()?)?)
    })
}

/// The configuration that is deployed where nobody chooses: the one marked so, else the first.
fn default_configuration(envelope: &Element) -> Option<&str> {
    let section = envelope.child("DeploymentOptionSection")?;
    let marked = section.all("Configuration").find(|option| {
        option.attribute("default").is_some_and(|value| value == "true" || value == "1")
    });
    marked.or_else(|| section.child("Configuration"))?.attribute("id")
}

fn system(
    element: &Element,
    disks: &BTreeMap<&str, OvfDisk>,
    configuration: Option<&str>,
) -> Result<System, OvfError> {
    let id = element.attribute("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| part("a VirtualSystem", "", "has no ovf:id"))?;
    let none = Element::default();
    let hardware = element.child("VirtualHardwareSection").unwrap_or(&none);
    let items = items(hardware, configuration);
    if items.len() > ITEMS_MAX {
        return Err(part("the VirtualSystem", id, "has more than 1,000 pieces of hardware"));
    }
    let of_type = |kind: u32| items.iter().filter(move |item| item.kind() == Some(kind));

    let cpus: Option<u32> =
        of_type(3).find_map(|item| item.number("VirtualQuantity").or_else(|| ovirt::cpus(item.0)));
    let cores: Option<u32> = of_type(3)
        .find_map(|item| item.number("CoresPerSocket").or_else(|| ovirt::cores_per_socket(item.0)));
    let fill = |cores: &u32| cpus.is_some_and(|cpus| *cores > 0 && cpus.is_multiple_of(*cores));
    // VMware's own device (ovftool 4.5 and later), of the type for everything else.
    let is_tpm = |item: &Item<'_>| item.0.text_of("ResourceSubType") == Some("vmware.vtpm");
    let memory = of_type(4).find_map(|item| {
        let count = item.number::<u64>("VirtualQuantity")?;
        count.checked_mul(unit(item.0.text_of("AllocationUnits")?)?).map(Bytes)
    });
    let mut nics: Vec<Nic> = of_type(10)
        .map(|item| Nic {
            network: item.0.text_of("Connection").unwrap_or_default().to_owned(),
            mac: ovirt::mac(item.0).map(str::to_owned),
        })
        .collect();
    virtualbox::addresses(element, &mut nics);
    let os = element.child("OperatingSystemSection").and_then(|section| {
        section.attribute("osType").or_else(|| section.text_of("Description")).map(str::to_owned)
    });
    Ok(System {
        id: id.to_owned(),
        name: element.text_of("Name").unwrap_or(id).to_owned(),
        os,
        firmware: firmware(hardware)
            .or_else(|| virtualbox::firmware(element))
            .or_else(|| ovirt::firmware(element)),
        secure_boot: is_set(hardware, "bootOptions.efiSecureBootEnabled")
            || is_set(hardware, "uefi.secureBoot.enabled")
            || ovirt::secure_boot(element),
        tpm: items.iter().any(is_tpm),
        cpus,
        cores_per_socket: cores.filter(fill),
        memory,
        nics,
        disks: system_disks(&items, disks)?,
    })
}

/// Returns what VMware says of its own (`vmw:Config`, `vmw:ExtraConfig`).
fn config<'a>(hardware: &'a Element, key: &str) -> Option<&'a str> {
    let stated = hardware.all("Config").chain(hardware.all("ExtraConfig"));
    let mut named = stated.filter(|config| config.attribute("key") == Some(key));
    named.find_map(|config| config.attribute("value"))
}

fn is_set(hardware: &Element, key: &str) -> bool {
    config(hardware, key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// VMware writes `firmware` only where it is not BIOS.
fn firmware(hardware: &Element) -> Option<Firmware> {
    match config(hardware, "firmware") {
        Some("efi") => Some(Firmware::Efi),
        Some("bios") => Some(Firmware::Bios),
        Some(_) => None,
        None => {
            let family = hardware.child("System")?.text_of("VirtualSystemType")?;
            family.starts_with("vmx-").then_some(Firmware::Bios)
        }
    }
}

/// One piece of hardware.
struct Item<'a>(&'a Element);

impl Item<'_> {
    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.0.text_of(name)?.parse().ok()
    }

    fn kind(&self) -> Option<u32> {
        self.number("ResourceType")
    }
}

/// The items of the configuration that is deployed. Bounds (`ovf:bound`) are no hardware, and an item of a configuration
/// replaces the general one of its id.
fn items<'a>(hardware: &'a Element, configuration: Option<&str>) -> Vec<Item<'a>> {
    let mut items: Vec<Item<'a>> = Vec::new();
    for element in &hardware.children {
        let named = matches!(element.name.as_str(), "Item" | "StorageItem" | "EthernetPortItem");
        let real = element.attribute("bound").is_none_or(|bound| bound == "normal");
        let deployed = element
            .attribute("configuration")
            .is_none_or(|names| names.split_whitespace().any(|name| Some(name) == configuration));
        if !(named && real && deployed) || items.len() > ITEMS_MAX {
            continue;
        }
        let id = element.text_of("InstanceID");
        let same = items.iter_mut().find(|item| id.is_some() && item.0.text_of("InstanceID") == id);
        match same {
            Some(same) => *same = Item(element),
            None => items.push(Item(element)),
        }
    }
    items
}

/// Where a disk comes: in the order of boot disks, of kinds of controllers, of buses, of controllers, of units.
type DiskPlace = (u32, usize, u32, usize, u32);

/// Sorts by what boots, where that is stated, then by the controllers (kinds in the order in which they occur, then by their bus
/// number) and the units on them.
fn system_disks(
    items: &[Item<'_>],
    disks: &BTreeMap<&str, OvfDisk>,
) -> Result<Vec<OvfDisk>, OvfError> {
    let mut placed: Vec<(DiskPlace, OvfDisk)> = Vec::new();
    for item in items.iter().filter(|item| item.kind() == Some(17)) {
        let resource = item.0.text_of("HostResource").unwrap_or_default();
        let id = resource.strip_prefix("ovf:").unwrap_or(resource).strip_prefix("/disk/");
        let disk = id.and_then(|id| disks.get(id));
        let disk = disk.ok_or_else(|| {
            part("the hard disk", resource, "is no `ovf:/disk/ID` of the DiskSection")
        })?;
        if placed.iter().any(|(_, other)| other.key == disk.key) {
            return Err(part("the Disk", disk.key.as_str(), "is attached twice to one VM"));
        }
        let parent = item.0.text_of("Parent");
        let controller = items
            .iter()
            .position(|other| parent.is_some() && other.0.text_of("InstanceID") == parent);
        let (kind, bus) = controller.map_or((usize::MAX, u32::MAX), |at| {
            let kind = items[at].kind();
            let first = items.iter().position(|other| other.kind() == kind).unwrap_or(at);
            (first, items[at].number("Address").unwrap_or(u32::MAX))
        });
        let unit = item.number("AddressOnParent").unwrap_or(u32::MAX);
        let boot = ovirt::boot_order(disk.boots, item.0);
        let place = (boot, kind, bus, controller.unwrap_or(usize::MAX), unit);
        placed.push((place, disk.clone()));
    }
    placed.sort_by_key(|(place, _)| *place);
    Ok(placed.into_iter().map(|(_, disk)| disk).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(body: &str) -> String {
        let fields = body.split(' ').filter_map(|field| field.split_once('='));
        let fields = fields.map(|(key, value)| format!("<rasd:{key}>{value}</rasd:{key}>"));
        format!("<Item>{}</Item>", fields.collect::<Vec<_>>().concat())
    }

    fn envelope(references: &str, disks: &str, hardware: &str) -> String {
        format!(
            "<Envelope xmlns:ovf='o' xmlns:rasd='r' xmlns:vmw='v' xmlns:vssd='s'>\
             <References>{references}</References><DiskSection>{disks}</DiskSection>\
             <VirtualSystem ovf:id='vm'><VirtualHardwareSection>{hardware}\
             </VirtualHardwareSection></VirtualSystem></Envelope>"
        )
    }

    fn disk(id: &str) -> String {
        format!("<Disk ovf:diskId='{id}' ovf:capacity='1' ovf:capacityAllocationUnits='MB'/>")
    }

    #[test]
    fn units_are_read_as_they_occur() {
        let found = ["byte", "byte * 2^20", "byte*2^30", "MegaBytes", "GB", "byte * 512", "hertz"];
        let found = found.map(unit);
        let expected = [1, 1 << 20, 1 << 30, 1 << 20, 1 << 30, 512].map(Some);
        assert_eq!(found[..6], expected);
        assert_eq!((found[6], unit("byte * 2^64"), unit("byte * x")), (None, None, None));
    }

    #[test]
    fn disks_come_in_the_order_of_controllers_and_units() {
        let hardware: String = [
            "InstanceID=3 ResourceType=6 Address=1",
            "InstanceID=4 ResourceType=5 Address=1",
            "InstanceID=5 ResourceType=5 Address=0",
            "InstanceID=6 ResourceType=6 Address=0",
            "InstanceID=10 ResourceType=17 Parent=4 AddressOnParent=0 HostResource=/disk/e",
            "InstanceID=11 ResourceType=17 Parent=5 AddressOnParent=0 HostResource=ovf:/disk/d",
            "InstanceID=12 ResourceType=17 Parent=3 AddressOnParent=0 HostResource=ovf:/disk/c",
            "InstanceID=13 ResourceType=17 Parent=6 AddressOnParent=10 HostResource=ovf:/disk/b",
            "InstanceID=14 ResourceType=17 Parent=6 AddressOnParent=2 HostResource=ovf:/disk/a",
        ]
        .map(item)
        .concat();
        let disks: String = ["a", "b", "c", "d", "e"].map(disk).concat();
        let systems = parse(envelope("", &disks, &hardware).as_bytes()).unwrap();
        let order: Vec<_> = systems[0].disks.iter().map(|disk| disk.key.as_str()).collect();
        assert_eq!(order, ["a", "b", "c", "d", "e"]);
        assert_eq!(systems[0].disks[0].capacity, Bytes::mib(1));
    }

    #[test]
    fn hardware_is_that_of_the_default_configuration() {
        let options = "<DeploymentOptionSection><Configuration ovf:id='small'/>\
             <Configuration ovf:id='big' ovf:default='true'/></DeploymentOptionSection><References>";
        let cpu =
            |count: u32| item(&format!("InstanceID=1 ResourceType=3 VirtualQuantity={count}"));
        let [small, big] = [("small", 2), ("big", 8)].map(|(name, count)| {
            cpu(count).replace("<Item>", &format!("<Item ovf:configuration='{name}'>"))
        });
        let max = cpu(99).replace("<Item>", "<Item ovf:bound='max'>");
        let memory = item("InstanceID=2 ResourceType=4 VirtualQuantity=4");
        let hardware = cpu(1) + &small + &big + &max + &memory;
        let text = envelope("", "", &hardware).replace("<References>", options);
        let system = parse(text.as_bytes()).unwrap().remove(0);
        assert_eq!(system.cpus, Some(8));
        // Memory without a unit is not guessed at.
        assert_eq!(system.memory, None);
        assert_eq!((system.firmware, system.name.as_str()), (None, "vm"));
    }

    #[test]
    fn what_only_vmware_says_is_read() {
        let hardware = [
            item("InstanceID=1 ResourceType=3 VirtualQuantity=8 CoresPerSocket=4"),
            item("InstanceID=2 ResourceType=1 ResourceSubType=vmware.vtpm"),
            "<vmw:Config vmw:key='firmware' vmw:value='efi'/>".to_owned(),
            "<vmw:Config vmw:key='bootOptions.efiSecureBootEnabled' vmw:value='true'/>".to_owned(),
        ];
        let read =
            |hardware: String| parse(envelope("", "", &hardware).as_bytes()).unwrap().remove(0);
        let system = read(hardware.concat());
        assert_eq!((system.firmware, system.secure_boot), (Some(Firmware::Efi), true));
        assert_eq!((system.cpus, system.cores_per_socket, system.tpm), (Some(8), Some(4), true));
        let odd = read(hardware.concat().replace("CoresPerSocket>4", "CoresPerSocket>3"));
        assert_eq!(odd.cores_per_socket, None);
        let none = read(hardware[0].replace('4', "0"));
        assert_eq!((none.cores_per_socket, none.secure_boot, none.tpm), (None, false, false));
        let workstation = "<vmw:ExtraConfig vmw:key='uefi.secureBoot.enabled' vmw:value='TRUE'/>";
        assert!(read(workstation.to_owned()).secure_boot);
    }

    #[test]
    fn hostile_descriptors_are_refused() {
        let file = |href: &str| format!("<File ovf:id='f' ovf:href='{href}'/>");
        let attached = item("InstanceID=9 ResourceType=17 HostResource=ovf:/disk/d InstanceID=9");
        let lost = "<Disk ovf:diskId='d' ovf:capacity='1' ovf:fileRef='nowhere'/>";
        let huge = "<Disk ovf:diskId='d' ovf:capacity='18446744073709551615' \
                    ovf:capacityAllocationUnits='byte * 2^40'/>";
        let cases = [
            ("absolute", envelope(&file("/etc/shadow"), "", "")),
            ("absolute", envelope(&file("http://127.0.0.1/x"), "", "")),
            ("astray", envelope(&file("a/../../x"), "", "")),
            ("astray", envelope(&file("%2e%2e/x"), "", "")),
            ("without a name", envelope(&file(""), "", "")),
            ("control", envelope(&file("a&#27;b"), "", "")),
            ("there twice", envelope(&file("a").repeat(2), "", "")),
            ("does not list", envelope("", lost, "")),
            ("no usable capacity", envelope("", huge, "")),
            ("no usable capacity", envelope("", "<Disk ovf:diskId='d' ovf:capacity='0'/>", "")),
            ("there twice", envelope("", &disk("d").repeat(2), "")),
            ("DiskSection", envelope("", "", &attached)),
            ("twice", envelope("", &disk("d"), &(attached.replace('9', "8") + &attached))),
            ("no VirtualSystem", "<Envelope/>".to_owned()),
            ("no ovf:id", "<Envelope><VirtualSystem/></Envelope>".to_owned()),
            ("cannot be read", "<!DOCTYPE a><a/>".to_owned()),
        ];
        for (expected, text) in cases {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
