#!/bin/bash
# Packs raw (or any qemu-img readable) disk images into an OVA of the shape that VMware exports.
#
#   make-ova.sh -n NAME -o OUT.ova [-c CPUS] [-m MIB] [-f bios|efi|secure] [-g GUEST_ID] [-H sha1|sha256] [-i FORMAT] DISK...
#
# Every disk becomes a stream-optimized VMDK (deflate, 64 KiB grains) on one VirtualSCSI (pvscsi) controller; there is one
# vmxnet3 network card on a network named "VM Network". The tar holds, in this order: NAME.ovf, NAME.mf, then the disks in
# the order of the References section. The manifest has one line per file: `SHA256(file)= hex` (or SHA1).
#
# Debian 12 package: qemu-utils. No root needed. About 1 s for the tiny guest.
# A member above 8 GiB does not fit into a ustar header. qemu's stream-optimized files differ from VMware's (grain markers,
# footer, unaligned capacities): this makes valid input, not all the input that there is.
set -euo pipefail

die() { echo "make-ova.sh: $*" >&2; exit 1; }

name="" out="" cpus=1 memory=1024 firmware=bios guest_id=debian12_64Guest hash=sha256 format=raw
while getopts n:o:c:m:f:g:H:i: option; do
  case $option in
    n) name=$OPTARG ;;
    o) out=$OPTARG ;;
    c) cpus=$OPTARG ;;
    m) memory=$OPTARG ;;
    f) firmware=$OPTARG ;;
    g) guest_id=$OPTARG ;;
    H) hash=$OPTARG ;;
    i) format=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
if [ -z "$name" ] || [ -z "$out" ] || [ $# -eq 0 ]; then die "usage: make-ova.sh -n NAME -o OUT.ova [options] DISK..."; fi
case $firmware in bios | efi | secure) ;; *) die "firmware is bios, efi or secure (efi that starts only what is signed)" ;; esac
case $hash in sha1 | sha256) ;; *) die "hash is sha1 or sha256" ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

virtual_size() {
  qemu-img info -f "$format" --output=json "$1" | sed -n 's/^ *"virtual-size": \([0-9]*\),*$/\1/p' | tail -n 1
}

# One pass over the disks collects the three places where an OVF speaks of a disk: the file (References), the virtual disk
# (DiskSection, which names the file) and the device (VirtualHardwareSection, which names the virtual disk).
references="" disks="" devices="" files=() number=0
for disk in "$@"; do
  number=$((number + 1))
  file=$name-disk$number.vmdk
  # Unit 7 of a SCSI controller is the controller itself.
  unit=$((number <= 7 ? number - 1 : number))
  qemu-img convert -f "$format" -O vmdk -o subformat=streamOptimized,adapter_type=lsilogic "$disk" "$work/$file"
  references+="    <File ovf:href=\"$file\" ovf:id=\"file$number\" ovf:size=\"$(stat -c %s "$work/$file")\"/>"$'\n'
  disks+="    <Disk ovf:capacity=\"$(virtual_size "$disk")\" ovf:capacityAllocationUnits=\"byte\" ovf:diskId=\"vmdisk$number\" ovf:fileRef=\"file$number\" ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>"$'\n'
  devices+="      <Item><rasd:AddressOnParent>$unit</rasd:AddressOnParent><rasd:ElementName>Hard disk $number</rasd:ElementName><rasd:HostResource>ovf:/disk/vmdisk$number</rasd:HostResource><rasd:InstanceID>$((10 + number))</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"$'\n'
  files+=("$file")
done
firmware_config=""
[ "$firmware" = bios ] || firmware_config+='      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>'$'\n'
[ "$firmware" = secure ] && firmware_config+='      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>'$'\n'

# ResourceType: 3 CPU, 4 memory, 6 SCSI controller, 10 network card, 17 disk.
cat > "$work/$name.ovf" <<OVF
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
$references  </References>
  <DiskSection>
    <Info>Virtual disk information</Info>
$disks  </DiskSection>
  <NetworkSection>
    <Info>The list of logical networks</Info>
    <Network ovf:name="VM Network"><Description>The VM Network network</Description></Network>
  </NetworkSection>
  <VirtualSystem ovf:id="$name">
    <Info>A virtual machine</Info>
    <Name>$name</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="$guest_id"><Info>The kind of installed guest operating system</Info></OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware requirements</Info>
      <System><vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemIdentifier>$name</vssd:VirtualSystemIdentifier><vssd:VirtualSystemType>vmx-19</vssd:VirtualSystemType></System>
      <Item><rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits><rasd:Description>Number of Virtual CPUs</rasd:Description><rasd:ElementName>$cpus virtual CPU(s)</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>$cpus</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:Description>Memory Size</rasd:Description><rasd:ElementName>${memory}MB of memory</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>$memory</rasd:VirtualQuantity></Item>
      <Item><rasd:Address>0</rasd:Address><rasd:Description>SCSI Controller</rasd:Description><rasd:ElementName>SCSI Controller 0</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>7</rasd:AddressOnParent><rasd:AutomaticAllocation>true</rasd:AutomaticAllocation><rasd:Connection>VM Network</rasd:Connection><rasd:ElementName>Network adapter 1</rasd:ElementName><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType></Item>
$devices$firmware_config    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
OVF

(
  cd "$work"
  for file in "$name.ovf" "${files[@]}"; do
    echo "${hash^^}($file)= $("${hash}sum" "$file" | cut -d' ' -f1)"
  done > "$name.mf"
  # ustar, as VMware writes it; owner and time are fixed so that equal input gives an equal tar but for the VMDK's random id.
  tar --format=ustar --owner=0 --group=0 --mtime=@0 -cf ova "$name.ovf" "$name.mf" "${files[@]}"
)
mv "$work/ova" "$out"
echo "packed $out: $(stat -c %s "$out") bytes, ${#files[@]} disk(s)"
