//! The libvirt domain of a VM, as XML that `virsh create` and `virsh define` take.
//!
//! Names come from archives and from git, so every text goes through a writer that escapes it, and what XML cannot hold is
//! refused where it would mean something else, or shown as U+FFFD where only people read it.

use std::io;

use quick_xml::Writer;
use quick_xml::events::BytesText;

use crate::domain::id::Token;
use crate::domain::vm::{Firmware, Vm};
use crate::manifest::document::{ImageFormat, NetworkType};
use crate::port::Blueprint;

/// What runs the guest's instructions. Whoever starts Ferry chooses: that `/dev/kvm` opens proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// A guest whose source does not say how large it is gets one processor and 1 GiB.
const CPUS_DEFAULT: u32 = 1;
/// See [`CPUS_DEFAULT`].
const MEMORY_DEFAULT_KIB: u64 = 1 << 20;

/// The disks of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Disks<'a> {
    /// Their files, in order.
    pub paths: &'a [String],
    /// How all of them are stored.
    pub format: ImageFormat,
}

/// Why no domain can be written.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// A text that would have to be changed.
    #[error("the {what} {text:?} cannot stand in a domain's XML")]
    Text {
        /// What it is.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A network without a name.
    #[error("a network card is mapped to a `multus` network without a name")]
    Nameless,
    /// Writing failed.
    #[error("the domain cannot be written")]
    Write(#[source] io::Error),
}

/// Writes a domain.
///
/// Its UUID is derived from the area that it was made in: equal input makes equal bytes.
pub fn domain_xml(
    blueprint: &Blueprint<'_>,
    area: &Token,
    disks: Disks<'_>,
    accelerator: Accelerator,
) -> Result<String, DomainError> {
    let named = blueprint.nics.iter().filter_map(|(network, _)| network.name.as_deref());
    let exact = named.map(|name| ("network", name));
    for (what, text) in exact.chain(disks.paths.iter().map(|path| ("path", path.as_str()))) {
        if text.is_empty() || text.contains(|c| !representable(c) || c.is_control()) {
            return Err(DomainError::Text { what, text: text.to_owned() });
        }
    }
    let nameless = |kind, name: &Option<String>| kind == NetworkType::Multus && name.is_none();
    if blueprint.nics.iter().any(|(network, _)| nameless(network.kind, &network.name)) {
        return Err(DomainError::Nameless);
    }
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    domain(&mut xml, blueprint, area, disks, accelerator).map_err(DomainError::Write)?;
    let mut text = String::from_utf8(xml.into_inner()).expect("only text was written");
    text.push('\n');
    Ok(text)
}

type Xml = Writer<Vec<u8>>;

fn domain(
    xml: &mut Xml,
    blueprint: &Blueprint<'_>,
    area: &Token,
    disks: Disks<'_>,
    accelerator: Accelerator,
) -> io::Result<()> {
    let Blueprint { name, vm, nics } = blueprint;
    let (kind, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host-model"),
        Accelerator::Tcg => ("qemu", "maximum"),
    };
    xml.create_element("domain").with_attribute(("type", kind)).write_inner_content(|xml| {
        text(xml, "name", name.as_str())?;
        text(xml, "uuid", &uuid(area))?;
        text(xml, "description", &shown(&format!("{}, moved by ferry from {}", vm.name, vm.path)))?;
        let memory_kib = vm.memory.map_or(MEMORY_DEFAULT_KIB, |memory| memory.0.div_ceil(1024));
        xml.create_element("memory")
            .with_attribute(("unit", "KiB"))
            .write_text_content(BytesText::new(&memory_kib.to_string()))?;
        let cpus = vm.cpus.unwrap_or(CPUS_DEFAULT);
        text(xml, "vcpu", &cpus.to_string())?;
        os(xml, vm)?;
        xml.create_element("features").write_inner_content(|xml| {
            xml.create_element("acpi").write_empty()?;
            xml.create_element("apic").write_empty()?;
            if is_secure(vm) {
                // What a firmware verifies with must be out of the guest's reach.
                xml.create_element("smm").with_attribute(("state", "on")).write_empty()?;
            }
            Ok(())
        })?;
        // libvirt's default processor is too old for current distributions.
        processor(xml, cpu, cpus, vm.cores_per_socket)?;
        xml.create_element("clock").with_attribute(("offset", clock(vm))).write_empty()?;
        xml.create_element("devices").write_inner_content(|xml| {
            for (index, path) in disks.paths.iter().enumerate() {
                disk(xml, path, disks.format, &format!("vd{}", drive_letters(index)))?;
            }
            for (network, mac) in nics {
                match network.kind {
                    NetworkType::Pod => interface(xml, None, mac.as_deref())?,
                    NetworkType::Multus => {
                        interface(xml, network.name.as_deref(), mac.as_deref())?;
                    }
                    NetworkType::Ignored => {}
                }
            }
            if vm.tpm {
                tpm(xml)?;
            }
            xml.create_element("serial").with_attribute(("type", "pty")).write_empty()?;
            xml.create_element("console").with_attribute(("type", "pty")).write_empty()?;
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

/// Tells whether the guest's firmware starts only what is signed.
fn is_secure(vm: &Vm) -> bool {
    vm.secure_boot && vm.firmware == Some(Firmware::Efi)
}

/// Writes the processor, with the sockets that the guest knew: software is licensed by them.
fn processor(xml: &mut Xml, mode: &str, cpus: u32, cores: Option<u32>) -> io::Result<()> {
    let element = xml.create_element("cpu").with_attribute(("mode", mode));
    let Some(cores) = cores.filter(|cores| *cores > 0 && cpus.is_multiple_of(*cores)) else {
        element.write_empty()?;
        return Ok(());
    };
    element.write_inner_content(|xml| {
        let [sockets, cores] = [cpus / cores, cores].map(|count| count.to_string());
        xml.create_element("topology")
            .with_attributes([("sockets", sockets.as_str()), ("cores", &cores), ("threads", "1")])
            .write_empty()?;
        Ok(())
    })?;
    Ok(())
}

fn os(xml: &mut Xml, vm: &Vm) -> io::Result<()> {
    let efi = vm.firmware == Some(Firmware::Efi);
    let secure = if is_secure(vm) { "yes" } else { "no" };
    let element = xml.create_element("os");
    let element = if efi { element.with_attribute(("firmware", "efi")) } else { element };
    element.write_inner_content(|xml| {
        xml.create_element("type")
            .with_attributes([("arch", "x86_64"), ("machine", "q35")])
            .write_text_content(BytesText::new("hvm"))?;
        if efi {
            // Without a word libvirt may take a firmware that starts only what its vendor signed, and one that can verify and
            // knows no keys.
            xml.create_element("firmware").write_inner_content(|xml| {
                let features: &[&str] = if is_secure(vm) {
                    &["secure-boot", "enrolled-keys"]
                } else {
                    &["secure-boot"]
                };
                for feature in features {
                    xml.create_element("feature")
                        .with_attributes([("enabled", secure), ("name", feature)])
                        .write_empty()?;
                }
                Ok(())
            })?;
        }
        xml.create_element("boot").with_attribute(("dev", "hd")).write_empty()?;
        Ok(())
    })?;
    Ok(())
}

fn disk(xml: &mut Xml, path: &str, format: ImageFormat, device: &str) -> io::Result<()> {
    let element =
        xml.create_element("disk").with_attributes([("type", "file"), ("device", "disk")]);
    element.write_inner_content(|xml| {
        // The format is said: a guest that may choose how its disk is read reads other files through it.
        xml.create_element("driver")
            .with_attributes([("name", "qemu"), ("type", format.name()), ("discard", "unmap")])
            .write_empty()?;
        xml.create_element("source").with_attribute(("file", path)).write_empty()?;
        xml.create_element("target")
            .with_attributes([("dev", device), ("bus", "virtio")])
            .write_empty()?;
        Ok(())
    })?;
    Ok(())
}

/// An empty TPM: what the source's held stays there.
fn tpm(xml: &mut Xml) -> io::Result<()> {
    let element = xml.create_element("tpm").with_attribute(("model", "tpm-crb"));
    element.write_inner_content(|xml| {
        xml.create_element("backend")
            .with_attributes([("type", "emulator"), ("version", "2.0")])
            .write_empty()?;
        Ok(())
    })?;
    Ok(())
}

/// A card on a network of libvirt, or behind address translation of its own.
fn interface(xml: &mut Xml, network: Option<&str>, mac: Option<&str>) -> io::Result<()> {
    let kind = if network.is_some() { "network" } else { "user" };
    let element = xml.create_element("interface").with_attribute(("type", kind));
    element.write_inner_content(|xml| {
        if let Some(mac) = mac.and_then(hardware_address) {
            xml.create_element("mac").with_attribute(("address", mac.as_str())).write_empty()?;
        }
        if let Some(network) = network {
            xml.create_element("source").with_attribute(("network", network)).write_empty()?;
        }
        xml.create_element("model").with_attribute(("type", "virtio")).write_empty()?;
        Ok(())
    })?;
    Ok(())
}

/// The address in libvirt's form; `None` for a text that is none, and for a group's address, which libvirt refuses.
fn hardware_address(text: &str) -> Option<String> {
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    let hexadecimal = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    let sound = bytes.len() == 6 && bytes.iter().all(hexadecimal);
    let first = u8::from_str_radix(bytes.first()?, 16).ok()?;
    (sound && first & 1 == 0).then(|| bytes.join(":").to_ascii_lowercase())
}

/// `a` … `z`, `aa` …: what distinguishes `vda` from `vdb`.
pub(in crate::adapter) fn drive_letters(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index;
    loop {
        letters.push(b'a' + u8::try_from(rest % 26).expect("below 26"));
        if rest < 26 {
            break;
        }
        rest = rest / 26 - 1;
    }
    letters.iter().rev().map(|&letter| char::from(letter)).collect()
}

/// Windows keeps local time in its hardware clock.
fn clock(vm: &Vm) -> &'static str {
    if vm.is_windows() { "localtime" } else { "utc" }
}

/// Derives a domain's UUID from the area that it is made in: of version 8 (RFC 9562: the maker's own method).
pub(super) fn uuid(area: &Token) -> String {
    let hash = blake3::derive_key("ferry 2026 domain uuid", area.as_str().as_bytes());
    let mut bytes: [u8; 16] = hash[..16].try_into().expect("16 of 32 bytes");
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// What XML 1.0 can hold at all.
pub(in crate::adapter) fn representable(c: char) -> bool {
    !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

/// Shows what XML cannot hold as U+FFFD.
pub(in crate::adapter) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || !representable(c) { '\u{fffd}' } else { c }).collect()
}

fn text(xml: &mut Xml, name: &str, content: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(content))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::desired::Network;
    use crate::domain::id::{SourceVm, TargetName};
    use crate::domain::unit::Bytes;
    use crate::domain::vm::{Claim, Power};

    fn vm(name: &str) -> Vm {
        Vm {
            id: SourceVm::Ova { archive: "ab".into(), system: "web".into() },
            name: name.into(),
            path: "web.ova/web".into(),
            power: Power::Off,
            firmware: Some(Firmware::Efi),
            secure_boot: false,
            tpm: false,
            cpus: Some(2),
            cores_per_socket: None,
            memory: Some(Bytes::mib(512)),
            os: Some("windows2019srv_64Guest".into()),
            disks: Vec::new(),
            nics: Vec::new(),
            claim: Claim::Impossible,
            hosted: crate::domain::vm::Hosted::default(),
        }
    }

    fn network(kind: NetworkType, name: Option<&str>) -> Network {
        Network { kind, name: name.map(str::to_owned) }
    }

    fn written(
        vm: &Vm,
        nics: Vec<(Network, Option<String>)>,
        disks: &[&str],
        accelerator: Accelerator,
    ) -> Result<String, String> {
        let name = TargetName::new("web-01");
        let blueprint = Blueprint { name: &name, vm, nics };
        let disks: Vec<_> = disks.iter().map(|&path| path.to_owned()).collect();
        let qcow2 = disks.iter().any(|path| path.contains("qcow2"));
        let format = if qcow2 { ImageFormat::Qcow2 } else { ImageFormat::Raw };
        let disks = Disks { paths: &disks, format };
        domain_xml(&blueprint, &Token::new("0123abcd"), disks, accelerator)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nasty_names_stay_text() {
        let vm = vm("</description><devices>&x;\u{1b}[31m\u{0}\"'");
        let nics = vec![
            (network(NetworkType::Pod, None), Some("00-50-56-AA-BB-01".to_owned())),
            (network(NetworkType::Multus, Some("lan'/><x a='&\"")), Some("junk".to_owned())),
            (network(NetworkType::Ignored, None), None),
        ];
        let disks = ["/srv/it's <&> here/web-01/disk-0.raw", "/srv/b"];
        let xml = written(&vm, nics, &disks, Accelerator::Kvm).unwrap();
        expect![[r#"
            <domain type="kvm">
              <name>web-01</name>
              <uuid>c44cbc34-d7af-83b9-b27e-329a6c281aa0</uuid>
              <description>&lt;/description&gt;&lt;devices&gt;&amp;x;�[31m�&quot;&apos;, moved by ferry from web.ova/web</description>
              <memory unit="KiB">524288</memory>
              <vcpu>2</vcpu>
              <os firmware="efi">
                <type arch="x86_64" machine="q35">hvm</type>
                <firmware>
                  <feature enabled="no" name="secure-boot"/>
                </firmware>
                <boot dev="hd"/>
              </os>
              <features>
                <acpi/>
                <apic/>
              </features>
              <cpu mode="host-model"/>
              <clock offset="localtime"/>
              <devices>
                <disk type="file" device="disk">
                  <driver name="qemu" type="raw" discard="unmap"/>
                  <source file="/srv/it&apos;s &lt;&amp;&gt; here/web-01/disk-0.raw"/>
                  <target dev="vda" bus="virtio"/>
                </disk>
                <disk type="file" device="disk">
                  <driver name="qemu" type="raw" discard="unmap"/>
                  <source file="/srv/b"/>
                  <target dev="vdb" bus="virtio"/>
                </disk>
                <interface type="user">
                  <mac address="00:50:56:aa:bb:01"/>
                  <model type="virtio"/>
                </interface>
                <interface type="network">
                  <source network="lan&apos;/&gt;&lt;x a=&apos;&amp;&quot;"/>
                  <model type="virtio"/>
                </interface>
                <serial type="pty"/>
                <console type="pty"/>
              </devices>
            </domain>
        "#]].assert_eq(&xml);
    }

    #[test]
    fn a_guest_keeps_its_sockets_and_starts_only_what_is_signed() {
        let secure = Vm {
            secure_boot: true,
            tpm: true,
            cpus: Some(8),
            cores_per_socket: Some(4),
            ..vm("web")
        };
        let plain = Vm { secure_boot: false, tpm: false, cores_per_socket: None, ..secure.clone() };
        let [xml, plain] =
            [&secure, &plain].map(|vm| written(vm, Vec::new(), &[], Accelerator::Kvm).unwrap());
        let differs = |line: &&str| !plain.lines().any(|other| other == *line);
        let told: Vec<_> = xml.lines().filter(differs).map(str::trim).collect();
        expect![[r#"
            <feature enabled="yes" name="secure-boot"/>
            <feature enabled="yes" name="enrolled-keys"/>
            <smm state="on"/>
            <cpu mode="host-model">
            <topology sockets="2" cores="4" threads="1"/>
            </cpu>
            <tpm model="tpm-crb">
            <backend type="emulator" version="2.0"/>
            </tpm>"#]]
        .assert_eq(&told.join("\n"));
        // BIOS verifies nothing, and three cores fill no sockets of two.
        let odd = Vm {
            firmware: Some(Firmware::Bios),
            tpm: false,
            cpus: Some(3),
            cores_per_socket: Some(2),
            ..secure
        };
        let xml = written(&odd, Vec::new(), &[], Accelerator::Kvm).unwrap();
        assert!(
            !["secure", "smm", "tpm", "topology"].iter().any(|word| xml.contains(word)),
            "{xml}"
        );
    }

    #[test]
    fn a_plain_guest_is_emulated_with_bios() {
        let plain = Vm { firmware: None, cpus: None, memory: None, os: None, ..vm("web") };
        let xml = written(&plain, Vec::new(), &[], Accelerator::Tcg).unwrap();
        expect![[r#"
            <domain type="qemu">
              <name>web-01</name>
              <uuid>c44cbc34-d7af-83b9-b27e-329a6c281aa0</uuid>
              <description>web, moved by ferry from web.ova/web</description>
              <memory unit="KiB">1048576</memory>
              <vcpu>1</vcpu>
              <os>
                <type arch="x86_64" machine="q35">hvm</type>
                <boot dev="hd"/>
              </os>
              <features>
                <acpi/>
                <apic/>
              </features>
              <cpu mode="maximum"/>
              <clock offset="utc"/>
              <devices>
                <serial type="pty"/>
                <console type="pty"/>
              </devices>
            </domain>
        "#]]
        .assert_eq(&xml);
        assert_eq!(written(&plain, Vec::new(), &[], Accelerator::Tcg).unwrap(), xml);
    }

    #[test]
    fn the_format_of_disks_is_said() {
        let xml = written(&vm("web"), Vec::new(), &["/srv/disk-0.qcow2"], Accelerator::Tcg);
        let (xml, driver) = (xml.unwrap(), r#"<driver name="qemu" type="qcow2" discard="unmap"/>"#);
        assert!(xml.contains(driver) && !xml.contains("raw"), "{xml}");
    }

    #[test]
    fn what_xml_cannot_hold_is_refused() {
        let vm = vm("web");
        let on = |name| vec![(network(NetworkType::Multus, name), None)];
        let cases = [
            written(&vm, on(Some("a\u{1}b")), &[], Accelerator::Tcg),
            written(&vm, on(Some("")), &[], Accelerator::Tcg),
            written(&vm, on(None), &[], Accelerator::Tcg),
            written(&vm, Vec::new(), &["/srv/a\nb"], Accelerator::Tcg),
        ];
        assert!(cases.iter().all(Result::is_err), "{cases:?}");
    }

    #[test]
    fn devices_and_addresses_have_their_forms() {
        let found =
            [0, 25, 26, 51, 52, 701, 702].map(|index| format!("vd{}", drive_letters(index)));
        assert_eq!(found, ["vda", "vdz", "vdaa", "vdaz", "vdba", "vdzz", "vdaaa"]);
        let found = ["00:50:56:aa:bb:cc", "01:50:56:aa:bb:cc", "00:50:56:aa:bb", "0:50:56:a:b:c"];
        assert_eq!(found.map(|mac| hardware_address(mac).is_some()), [true, false, false, false]);
    }
}
