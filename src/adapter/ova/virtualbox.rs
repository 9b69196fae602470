//! What VirtualBox says in words of its own: a `vbox:Machine` beside the standard's hardware holds the VM's whole settings.
//! Its exports state neither firmware nor MAC addresses elsewhere.

use crate::domain::vm::{Firmware, Nic};
use crate::xml::Element;

/// Returns the firmware: settings name it only where it is not BIOS.
pub(super) fn firmware(system: &Element) -> Option<Firmware> {
    let hardware = system.child("Machine")?.child("Hardware")?;
    let stated = hardware.child("Firmware").and_then(|firmware| firmware.attribute("type"));
    match stated {
        None | Some("BIOS") => Some(Firmware::Bios),
        Some("EFI" | "EFI32" | "EFI64" | "EFIDUAL") => Some(Firmware::Efi),
        Some(_) => None,
    }
}

/// Gives network cards the addresses of the machine's enabled adapters. Both stand in the order of their slots; where they are
/// not as many, which belongs to which is not known.
pub(super) fn addresses(system: &Element, nics: &mut [Nic]) {
    let network =
        system.child("Machine").and_then(|machine| machine.child("Hardware")?.child("Network"));
    let adapters = network.into_iter().flat_map(|network| network.all("Adapter"));
    let enabled = |adapter: &&Element| adapter.attribute("enabled") == Some("true");
    let macs: Vec<Option<String>> = adapters
        .filter(enabled)
        .map(|adapter| adapter.attribute("MACAddress").and_then(mac))
        .collect();
    if macs.len() == nics.len() {
        for (nic, mac) in nics.iter_mut().zip(macs) {
            nic.mac = nic.mac.take().or(mac);
        }
    }
}

/// `080027AABBCC` as everybody else writes it.
fn mac(text: &str) -> Option<String> {
    let bytes = hex::decode(text).ok().filter(|bytes| bytes.len() == 6)?;
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(parts.join(":"))
}

#[cfg(test)]
mod tests {
    use crate::adapter::ova::ovf::parse;
    use crate::domain::unit::Bytes;
    use crate::domain::vm::{Firmware, Nic};

    /// By hand, of what an export of VirtualBox 7 holds.
    const EXPORT: &str = r#"<?xml version="1.0"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/1"
    xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
    xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
    xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
    xmlns:vbox="http://www.virtualbox.org/ovf/machine">
  <References><File ovf:id="file1" ovf:href="deb-disk001.vmdk"/></References>
  <DiskSection>
    <Info>List of the virtual disks used in the package</Info>
    <Disk ovf:capacity="21474836480" ovf:diskId="vmdisk1" ovf:fileRef="file1"
        ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
        vbox:uuid="8d1b2a31-6f0e-4c1e-9f5a-0a4c7e9b1c11"/>
  </DiskSection>
  <NetworkSection><Info>Logical networks</Info><Network ovf:name="NAT"/><Network ovf:name="intnet"/></NetworkSection>
  <VirtualSystem ovf:id="deb">
    <Info>A virtual machine</Info>
    <OperatingSystemSection ovf:id="96">
      <Info>The kind of installed guest operating system</Info>
      <Description>Debian_64</Description>
      <vbox:OSType ovf:required="false">Debian_64</vbox:OSType>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType>
      </System>
      <Item><rasd:Caption>2 virtual CPU</rasd:Caption><rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
      <Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>PIIX4</rasd:ResourceSubType><rasd:ResourceType>5</rasd:ResourceType></Item>
      <Item><rasd:Address>0</rasd:Address><rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:Caption>disk1</rasd:Caption>
        <rasd:HostResource>/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>8</rasd:InstanceID>
        <rasd:Parent>5</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
      <Item><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>NAT</rasd:Connection>
        <rasd:InstanceID>9</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType></Item>
      <Item><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>intnet</rasd:Connection>
        <rasd:InstanceID>10</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType></Item>
      <Item><rasd:Caption>sound</rasd:Caption><rasd:InstanceID>11</rasd:InstanceID>
        <rasd:ResourceSubType>ensoniq1371</rasd:ResourceSubType><rasd:ResourceType>35</rasd:ResourceType></Item>
    </VirtualHardwareSection>
    <vbox:Machine ovf:required="false" version="1.19-linux" name="deb" OSType="Debian_64">
      <Hardware>
        <CPU count="2"><PAE enabled="false"/></CPU>
        <Memory RAMSize="2048"/>
        <Firmware type="EFI"/>
        <Network>
          <Adapter slot="0" enabled="true" MACAddress="080027A1B2C3" type="82540EM"><NAT/></Adapter>
          <Adapter slot="1" enabled="true" MACAddress="080027A1B2C4" type="82540EM"/>
          <Adapter slot="2" enabled="false" MACAddress="080027A1B2C5" type="82540EM"/>
        </Network>
      </Hardware>
    </vbox:Machine>
  </VirtualSystem>
</Envelope>"#;

    #[test]
    fn an_export_of_virtualbox_is_read_with_what_only_it_says() {
        let system = parse(EXPORT.as_bytes()).unwrap().remove(0);
        assert_eq!((system.id.as_str(), system.os.as_deref()), ("deb", Some("Debian_64")));
        assert_eq!((system.cpus, system.memory), (Some(2), Some(Bytes::mib(2048))));
        assert_eq!(system.firmware, Some(Firmware::Efi));
        let nic = |network: &str, mac: &str| Nic { network: network.into(), mac: Some(mac.into()) };
        let nics = [nic("NAT", "08:00:27:a1:b2:c3"), nic("intnet", "08:00:27:a1:b2:c4")];
        assert_eq!(system.nics, nics);
        assert_eq!(system.disks[0].capacity, Bytes(20 << 30));
        assert_eq!(system.disks[0].file.as_ref().unwrap().href, "deb-disk001.vmdk");
    }

    #[test]
    fn what_its_settings_leave_out_is_bios_and_what_does_not_fit_is_nothing() {
        let system = |text: &str| parse(text.as_bytes()).unwrap().remove(0);
        let bios = system(&EXPORT.replace("<Firmware type=\"EFI\"/>", ""));
        assert_eq!(bios.firmware, Some(Firmware::Bios));
        let strange = system(&EXPORT.replace("\"EFI\"", "\"coreboot\""));
        assert_eq!(strange.firmware, None);
        let more = system(&EXPORT.replace("\"false\" MACAddress", "\"true\" MACAddress"));
        assert!(more.nics.iter().all(|nic| nic.mac.is_none()));
        let odd = system(&EXPORT.replace("080027A1B2C3", "no address"));
        assert_eq!(odd.nics[0].mac, None);
        assert_eq!(odd.nics[1].mac.as_deref(), Some("08:00:27:a1:b2:c4"));
    }
}
