//! The guest as virt-v2v is told of it: its name and the overlays over its disks. Everything else it finds in the disks.

use std::io;

use quick_xml::Writer;
use quick_xml::events::BytesText;

use crate::adapter::local::domain::{drive_letters, representable, shown};

/// Writes a domain whose disks are the qcow2 files given, in order. `None` where XML cannot hold a path.
pub(super) fn domain_xml(name: &str, overlays: &[String]) -> Option<String> {
    let sound = |path: &String| !path.contains(|c: char| c.is_control() || !representable(c));
    if !overlays.iter().all(sound) {
        return None;
    }
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    domain(&mut xml, name, overlays).ok()?;
    String::from_utf8(xml.into_inner()).ok().map(|text| text + "\n")
}

fn domain(xml: &mut Writer<Vec<u8>>, name: &str, overlays: &[String]) -> io::Result<()> {
    xml.create_element("domain").with_attribute(("type", "kvm")).write_inner_content(|xml| {
        xml.create_element("name").write_text_content(BytesText::new(&shown(name)))?;
        xml.create_element("memory")
            .with_attribute(("unit", "KiB"))
            .write_text_content(BytesText::new("1048576"))?;
        xml.create_element("vcpu").write_text_content(BytesText::new("1"))?;
        xml.create_element("os").write_inner_content(|xml| {
            xml.create_element("type").write_text_content(BytesText::new("hvm"))?;
            xml.create_element("boot").with_attribute(("dev", "hd")).write_empty()?;
            Ok(())
        })?;
        xml.create_element("features").write_inner_content(|xml| {
            for feature in ["acpi", "apic", "pae"] {
                xml.create_element(feature).write_empty()?;
            }
            Ok(())
        })?;
        xml.create_element("devices").write_inner_content(|xml| {
            for (index, path) in overlays.iter().enumerate() {
                disk(xml, path, &format!("hd{}", drive_letters(index)))?;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

fn disk(xml: &mut Writer<Vec<u8>>, path: &str, device: &str) -> io::Result<()> {
    let element =
        xml.create_element("disk").with_attributes([("type", "file"), ("device", "disk")]);
    element.write_inner_content(|xml| {
        xml.create_element("driver")
            .with_attributes([("name", "qemu"), ("type", "qcow2")])
            .write_empty()?;
        xml.create_element("source").with_attribute(("file", path)).write_empty()?;
        xml.create_element("target")
            .with_attributes([("dev", device), ("bus", "ide")])
            .write_empty()?;
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn names_and_paths_stay_text() {
        let overlays = ["/srv/a'\"<&>/x".to_owned(), "/b".to_owned()];
        let xml = domain_xml("\"><evil a='\u{1b}", &overlays).unwrap();
        expect![[r#"
            <domain type="kvm">
              <name>&quot;&gt;&lt;evil a=&apos;�</name>
              <memory unit="KiB">1048576</memory>
              <vcpu>1</vcpu>
              <os>
                <type>hvm</type>
                <boot dev="hd"/>
              </os>
              <features>
                <acpi/>
                <apic/>
                <pae/>
              </features>
              <devices>
                <disk type="file" device="disk">
                  <driver name="qemu" type="qcow2"/>
                  <source file="/srv/a&apos;&quot;&lt;&amp;&gt;/x"/>
                  <target dev="hda" bus="ide"/>
                </disk>
                <disk type="file" device="disk">
                  <driver name="qemu" type="qcow2"/>
                  <source file="/b"/>
                  <target dev="hdb" bus="ide"/>
                </disk>
              </devices>
            </domain>
        "#]]
        .assert_eq(&xml);
        assert_eq!(domain_xml("a", &["/srv/\n".to_owned()]), None);
    }
}
