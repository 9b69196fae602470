//! An export of oVirt 4.5, by hand: what its engine writes, as its sources say.

use std::fs;

use crate::adapter::confine::Confine;
use crate::adapter::image::files::{Files, Format};
use crate::adapter::ova::OvaSource;
use crate::adapter::ova::ovf::{OvfError, System, parse};
use crate::adapter::ova::tests::packed;
use crate::desired::Site;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, DiskFormat, Firmware, Nic};
use crate::port::Source;

/// A VM with two disks, of which the second one boots, and two network cards.
const EXPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?><ovf:Envelope
    xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
    xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
    xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovirt="http://www.ovirt.org/ovf">
  <References>
    <File ovf:href="6d1f4c1e-0a51-4b0f-9a6e-2f6d7b9f1a01" ovf:id="6d1f4c1e-0a51-4b0f-9a6e-2f6d7b9f1a01" ovf:size="983040"></File>
    <File ovf:href="0b2a8e44-77d3-4f6b-8a11-5c0f3e9d2b02" ovf:id="0b2a8e44-77d3-4f6b-8a11-5c0f3e9d2b02" ovf:size="327680"></File>
    <File ovf:href="nvram.dat" ovf:id="nvram.dat" ovf:size="1212"></File>
  </References>
  <NetworkSection><Info>List of networks</Info><Network ovf:name="ovirtmgmt"></Network><Network ovf:name="storage"></Network></NetworkSection>
  <DiskSection>
    <Info>List of Virtual Disks</Info>
    <Disk ovf:diskId="c3a1e7f0-1111-4d2c-9c55-7a0d5e1f0a01" ovf:capacity="2" ovf:capacityAllocationUnits="byte * 2^30"
      ovf:populatedSize="983040" ovf:parentRef="" ovf:fileRef="6d1f4c1e-0a51-4b0f-9a6e-2f6d7b9f1a01"
      ovf:format="http://www.gnome.org/~markmc/qcow-image-format.html" ovf:volume-format="COW" ovf:volume-type="Sparse"
      ovf:disk-interface="VirtIO_SCSI" ovf:boot="false" ovf:pass-discard="false" ovf:disk-alias="app_data"
      ovf:disk-description="" ovf:wipe-after-delete="false" ovf:description="" ovf:disk_storage_type="IMAGE"
      ovf:cinder_volume_type=""></Disk>
    <Disk ovf:diskId="c3a1e7f0-2222-4d2c-9c55-7a0d5e1f0a02" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^30"
      ovf:populatedSize="327680" ovf:parentRef="" ovf:fileRef="0b2a8e44-77d3-4f6b-8a11-5c0f3e9d2b02"
      ovf:format="http://www.gnome.org/~markmc/qcow-image-format.html" ovf:volume-format="COW" ovf:volume-type="Sparse"
      ovf:disk-interface="VirtIO" ovf:boot="true" ovf:pass-discard="false" ovf:disk-alias="app_root"
      ovf:disk-description="" ovf:wipe-after-delete="false" ovf:description="" ovf:disk_storage_type="IMAGE"
      ovf:cinder_volume_type=""></Disk>
  </DiskSection>
  <VirtualSystem ovf:id="5f0e3d2c-8b4a-4c61-9d70-1e2f3a4b5c6d">
    <Name>app-01</Name>
    <Description></Description>
    <CreationDate>2024/02/11 09:12:44</CreationDate>
    <DeleteProtected>false</DeleteProtected>
    <TimeZone>Etc/GMT</TimeZone>
    <default_boot_sequence>0</default_boot_sequence>
    <Generation>7</Generation>
    <ClusterCompatibilityVersion>4.7</ClusterCompatibilityVersion>
    <VmType>1</VmType>
    <BiosType>2</BiosType>
    <MaxMemorySizeMb>16384</MaxMemorySizeMb>
    <TemplateId>00000000-0000-0000-0000-000000000000</TemplateId>
    <Origin>3</Origin>
    <OperatingSystemSection ovf:id="80" ovirt:id="33" ovf:required="false">
      <Info>Guest Operating System</Info>
      <Description>Red Hat Enterprise Linux 9.x x64</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>4 CPU, 4096 Memory</Info>
      <System><vssd:VirtualSystemType>ENGINE 4.5.5</vssd:VirtualSystemType></System>
      <Item><rasd:Caption>4 virtual cpu</rasd:Caption><rasd:Description>Number of virtual CPU</rasd:Description>
        <rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:num_of_sockets>2</rasd:num_of_sockets><rasd:cpu_per_socket>2</rasd:cpu_per_socket>
        <rasd:threads_per_cpu>1</rasd:threads_per_cpu><rasd:max_num_of_vcpus>32</rasd:max_num_of_vcpus>
        <rasd:VirtualQuantity>4</rasd:VirtualQuantity></Item>
      <Item><rasd:Caption>4096 MB of memory</rasd:Caption><rasd:Description>Memory Size</rasd:Description>
        <rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
        <rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:VirtualQuantity>4096</rasd:VirtualQuantity></Item>
      <Item><rasd:Caption>app_data</rasd:Caption><rasd:InstanceID>6d1f4c1e-0a51-4b0f-9a6e-2f6d7b9f1a01</rasd:InstanceID>
        <rasd:ResourceType>17</rasd:ResourceType>
        <rasd:HostResource>ovf:/disk/c3a1e7f0-1111-4d2c-9c55-7a0d5e1f0a01</rasd:HostResource>
        <rasd:Parent>00000000-0000-0000-0000-000000000000</rasd:Parent>
        <rasd:Template>00000000-0000-0000-0000-000000000000</rasd:Template><rasd:ApplicationList></rasd:ApplicationList>
        <Type>disk</Type><Device>disk</Device><rasd:Address>{type=drive, bus=0, controller=0, target=0, unit=0}</rasd:Address>
        <BootOrder>0</BootOrder><IsPlugged>true</IsPlugged><IsReadOnly>false</IsReadOnly><Alias>ua-c3a1e7f0-1111</Alias></Item>
      <Item><rasd:Caption>app_root</rasd:Caption><rasd:InstanceID>0b2a8e44-77d3-4f6b-8a11-5c0f3e9d2b02</rasd:InstanceID>
        <rasd:ResourceType>17</rasd:ResourceType>
        <rasd:HostResource>ovf:/disk/c3a1e7f0-2222-4d2c-9c55-7a0d5e1f0a02</rasd:HostResource>
        <rasd:Parent>00000000-0000-0000-0000-000000000000</rasd:Parent>
        <Type>disk</Type><Device>disk</Device><rasd:Address>{type=pci, slot=0x00, bus=0x05, domain=0x0000, function=0x0}</rasd:Address>
        <BootOrder>1</BootOrder><IsPlugged>true</IsPlugged><IsReadOnly>false</IsReadOnly><Alias>ua-c3a1e7f0-2222</Alias></Item>
      <Item><rasd:Caption>Ethernet adapter on ovirtmgmt</rasd:Caption>
        <rasd:InstanceID>a7c8d9e0-3333-4b1a-8c2d-0f1e2d3c4b01</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType>
        <rasd:OtherResourceType>ovirtmgmt</rasd:OtherResourceType><rasd:ResourceSubType>3</rasd:ResourceSubType>
        <rasd:Connection>ovirtmgmt</rasd:Connection><rasd:Linked>true</rasd:Linked><rasd:Name>nic1</rasd:Name>
        <rasd:ElementName>nic1</rasd:ElementName><rasd:MACAddress>56:6f:1a:2b:00:01</rasd:MACAddress>
        <rasd:speed>10000</rasd:speed><Type>interface</Type><Device>bridge</Device>
        <rasd:Address>{type=pci, slot=0x00, bus=0x02, domain=0x0000, function=0x0}</rasd:Address>
        <BootOrder>0</BootOrder><IsPlugged>true</IsPlugged><IsReadOnly>false</IsReadOnly><Alias>ua-a7c8d9e0</Alias></Item>
      <Item><rasd:Caption>Ethernet adapter on storage</rasd:Caption>
        <rasd:InstanceID>a7c8d9e0-4444-4b1a-8c2d-0f1e2d3c4b02</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType>
        <rasd:OtherResourceType>storage</rasd:OtherResourceType><rasd:ResourceSubType>3</rasd:ResourceSubType>
        <rasd:Connection>storage</rasd:Connection><rasd:Linked>true</rasd:Linked><rasd:Name>nic2</rasd:Name>
        <rasd:ElementName>nic2</rasd:ElementName><rasd:MACAddress>56:6f:1a:2b:00:02</rasd:MACAddress>
        <rasd:speed>10000</rasd:speed></Item>
      <Item><rasd:Caption>USB Controller</rasd:Caption><rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceType>23</rasd:ResourceType><rasd:UsbPolicy>DISABLED</rasd:UsbPolicy></Item>
      <Item><rasd:Caption>CDROM</rasd:Caption><rasd:InstanceID>b0c1d2e3-5555-4a2b-9d3e-1f2a3b4c5d03</rasd:InstanceID>
        <rasd:ResourceType>15</rasd:ResourceType><Type>disk</Type><Device>cdrom</Device>
        <rasd:Address>{type=drive, bus=0, controller=0, target=0, unit=2}</rasd:Address></Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</ovf:Envelope>"#;

fn system(text: &str) -> System {
    parse(text.as_bytes()).unwrap().remove(0)
}

#[test]
fn an_export_of_ovirt_is_read_with_what_only_it_says() {
    let system = system(EXPORT);
    assert_eq!(system.id, "5f0e3d2c-8b4a-4c61-9d70-1e2f3a4b5c6d");
    assert_eq!(system.name, "app-01");
    assert_eq!(system.os.as_deref(), Some("Red Hat Enterprise Linux 9.x x64"));
    assert_eq!((system.cpus, system.memory), (Some(4), Some(Bytes::mib(4096))));
    assert_eq!((system.firmware, system.secure_boot), (Some(Firmware::Efi), false));
    let nic = |network: &str, mac: &str| Nic { network: network.into(), mac: Some(mac.into()) };
    let nics = [nic("ovirtmgmt", "56:6f:1a:2b:00:01"), nic("storage", "56:6f:1a:2b:00:02")];
    assert_eq!(system.nics, nics);
    // The one that boots comes first, wherever it stands.
    let disks: Vec<_> = system
        .disks
        .iter()
        .map(|disk| (disk.file.as_ref().unwrap().href.as_str(), disk.capacity, disk.boots))
        .collect();
    let root = ("0b2a8e44-77d3-4f6b-8a11-5c0f3e9d2b02", Bytes(1 << 30), true);
    let data = ("6d1f4c1e-0a51-4b0f-9a6e-2f6d7b9f1a01", Bytes(2 << 30), false);
    assert_eq!(disks, [root, data]);
    // An empty parentRef is no parent.
    assert!(system.disks.iter().all(|disk| disk.parent.is_none()));
    assert!(system.disks.iter().all(|disk| disk.volume_format.as_deref() == Some("COW")));
}

#[test]
fn what_older_exports_leave_out_is_made_up_for() {
    let bios = |number: &str| {
        let stated = format!("<BiosType>{number}</BiosType>");
        system(&EXPORT.replace("<BiosType>2</BiosType>", &stated)).firmware
    };
    let found = ["0", "1", "2", "3", "-1", "4", ""].map(bios);
    let (bios, efi) = (Some(Firmware::Bios), Some(Firmware::Efi));
    assert_eq!(found, [bios, bios, efi, efi, None, None, bios]);
    let secure = EXPORT.replace("<BiosType>2</BiosType>", "<BiosType>3</BiosType>");
    assert!(system(&secure).secure_boot);
    let none = EXPORT.replace("<BiosType>2</BiosType>", "");
    assert_eq!(system(&none).firmware, bios);
    let nobody = none.replace("ClusterCompatibilityVersion>", "Version>");
    assert_eq!(system(&nobody).firmware, None);

    let arranged = EXPORT.replace("<rasd:VirtualQuantity>4</rasd:VirtualQuantity>", "");
    assert_eq!(system(&arranged).cpus, Some(4));
    let threads = arranged.replace("<rasd:threads_per_cpu>1</", "<rasd:threads_per_cpu>2</");
    assert_eq!((system(&threads).cpus, system(&threads).cores_per_socket), (Some(8), Some(4)));
    let odd = arranged.replace("<rasd:threads_per_cpu>1</", "<rasd:threads_per_cpu>some</");
    assert_eq!(system(&odd).cpus, None);

    // Before 4.4 the ids of items were spelled otherwise, and with no disk marked the numbers decide.
    let older = EXPORT.replace("InstanceID>", "InstanceId>").replace("boot=\"true\"", "boot=\"\"");
    let keys: Vec<_> = system(&older).disks.into_iter().map(|disk| disk.key).collect();
    assert!(keys[0].as_str().contains("-2222-") && keys.len() == 2, "{keys:?}");

    // A card without an address of its own still stands on a bus.
    let template = EXPORT.replace("<rasd:MACAddress>56:6f:1a:2b:00:01</rasd:MACAddress>", "");
    assert_eq!(system(&template).nics[0].mac, None);
}

#[test]
fn an_archive_as_ovirt_packs_it_holds_its_vm() {
    let folder = tempfile::tempdir().unwrap();
    let confine = Confine::new([folder.path().to_owned()]);
    let image = |name: &str, mib: u64| {
        let path = folder.path().join(name);
        Files::make(&confine, &path, Bytes::mib(mib), Format::Qcow2).unwrap();
        let mut image = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::remove_file(format!("{}.map", path.display())).ok();
        // What was reserved for it and not needed.
        image.resize(image.len() + 4096, 0);
        image
    };
    let (data, root) = (image("data", 1536), image("root", 700));
    let members: [(&str, &[u8]); 6] = [
        ("vm.ovf", EXPORT.as_bytes()),
        ("nvram.dat", &[b'A'; 1212]),
        ("pad", &[0; 3072]),
        ("6d1f4c1e-0a51-4b0f-9a6e-2f6d7b9f1a01", &data),
        ("pad", &[0; 1024]),
        ("0b2a8e44-77d3-4f6b-8a11-5c0f3e9d2b02", &root),
    ];
    fs::write(folder.path().join("app.ova"), packed(&members)).unwrap();
    let site = Site::Ova { path: folder.path().to_str().unwrap().into() };
    let state = OvaSource::new(confine.clone()).observe(&site).unwrap();
    assert!(state.gaps.is_empty() && state.vms.len() == 1, "{:?}", state.gaps);
    let vm = &state.vms[0];
    assert_eq!((vm.name.as_str(), vm.disks.len()), ("app-01", 2));
    // Whole GiB stand in the descriptor.
    let capacities: Vec<_> = vm.disks.iter().map(|disk| disk.capacity).collect();
    assert_eq!(capacities, [Bytes::mib(700), Bytes::mib(1536)]);
    let disks = vm.disks.iter();
    assert!(disks.clone().all(|disk| disk.format == DiskFormat::Blocks), "{vm:?}");
    assert!(disks.clone().all(|disk| disk.checksum == Checksum::Absent), "{vm:?}");

    let domain = EXPORT.replace("<VirtualSystem ", "<Content xsi:type=\"ovf:VirtualSystem_Type\" ");
    let domain = domain.replace("</VirtualSystem>", "</Content>");
    fs::write(folder.path().join("app.ova"), packed(&[("vm.ovf", domain.as_bytes())])).unwrap();
    let gaps = OvaSource::new(confine.clone()).observe(&site).unwrap().gaps;
    assert!(gaps[0].remedy.contains("Administration Portal"), "{gaps:?}");
}

#[test]
fn a_descriptor_of_a_storage_domain_is_named() {
    let domain = r#"<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/"
        xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ovf:version="4.4.0.0">
      <References><File ovf:href="c3a1/6d1f" ovf:id="6d1f" ovf:size="1073741824"/></References>
      <Section xsi:type="ovf:DiskSection_Type"><Disk ovf:diskId="6d1f" ovf:size="1" ovf:fileRef="c3a1/6d1f"/></Section>
      <Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type"><Name>app-01</Name></Content>
    </ovf:Envelope>"#;
    let error = parse(domain.as_bytes()).unwrap_err();
    assert!(matches!(error, OvfError::ExportDomain), "{error}");
    assert!(error.to_string().contains("oVirt storage domain"), "{error}");
}
