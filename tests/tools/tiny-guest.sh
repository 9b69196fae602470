#!/bin/bash
# Builds a tiny Linux guest that really boots, and boots disk images until a line appears on their serial console.
#
#   tiny-guest.sh build OUT.raw [--name NAME] [--uefi] [--debian]
#   tiny-guest.sh boot IMAGE [--hardware virtio|vmware|ide] [--uefi] [--format raw|qcow2|vmdk]
#                            [--marker TEXT] [--timeout SECONDS] [--log FILE] [--memory MIB]
#
# The guest is Debian's cloud kernel, Debian's static busybox and GRUB on an ext4 root: 64 MiB (128 MiB with --uefi), about
# 22 MiB of it allocated. It finds its root by UUID, so it boots from any bus. At every boot it adds one to /var/boots on its
# own disk and prints one line on ttyS0:
#
#   FERRY-GUEST-UP name=NAME boots=N disks=vda nics=eth0,lo uptime=4.21
#
# A test reads from that line that the image boots, on which bus, and (from boots=N) that what the guest wrote was carried over.
#
# libguestfs does not know that guest as an operating system. --debian builds one that virt-v2v converts: Debian 12 with
# systemd, GRUB, open-vm-tools and a network configuration for ens192 (VMware's name), on a 1.2 GiB disk; it prints the
# same line at boot. With --uefi as well it is signed from the shim to the kernel, and its line also says `secureboot=1` where
# the firmware verified that. Its initramfs is kept lean, since rebuilding it under TCG is most of the time of a conversion.
# This one needs root.
#
# Debian 12 packages (one apt call, so that apt keeps one version of QEMU):
#   apt-get install --no-install-recommends qemu-system-x86 qemu-utils linux-image-cloud-amd64 busybox-static \
#       grub-common grub-pc-bin fdisk e2fsprogs cpio kmod
#   and for --uefi: grub-efi-amd64-bin mtools dosfstools ovmf; for --debian: mmdebstrap
#
# No mount, no loop device, no partition scan: the file system is filled by `mke2fs -d` at an offset and the boot loader is
# written with dd. No root needed, but for --debian. QEMU always runs under TCG (software emulation): on machines where /dev/kvm
# opens but does not work, neither the device nor a first ioctl tells, and QEMU aborts in the middle of the boot.
set -euo pipefail

# Fixed ids: the boot loader and the initramfs look the root up by this UUID.
readonly ROOT_UUID=6f657272-7900-4000-8000-00000000feed
readonly DISK_ID=0xfe44f001
# Sizes of the root file system; the partition table and GRUB take the MiB before it.
readonly TINY_ROOT_MIB=63
readonly DEBIAN_ROOT_MIB=1199
# Drivers that the initramfs loads: the hardware of the source (pvscsi, vmxnet3), of the target (virtio), and old IDE.
# The cloud kernel has no ahci module, so the guest does not boot from SATA.
readonly MODULES="virtio_pci virtio_blk virtio_scsi virtio_net sd_mod vmw_pvscsi vmxnet3 ata_piix ext4"

die() { echo "tiny-guest.sh: $*" >&2; exit 1; }

# The newest kernel that has both an image in /boot and a module tree.
kernel_version() {
  local version
  for version in $(find /lib/modules -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sort -rV); do
    if [ -e "/boot/vmlinuz-$version" ]; then echo "$version"; return; fi
  done
  die "no kernel with modules found: apt-get install linux-image-cloud-amd64"
}

# initramfs: busybox, the drivers in load order, and a script that mounts the root by UUID and moves into it.
make_initramfs() {
  local root=$1 out=$2 kernel=$3 number=0 module path
  mkdir -p "$root"/{bin,proc,sys,dev,mnt,modules}
  cp /bin/busybox "$root/bin/"
  # `modprobe -S` prints the insmod order of a module and what it needs; a built-in one prints nothing to load.
  for module in $MODULES; do
    modprobe -S "$kernel" --show-depends "$module" 2>/dev/null || true
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
    number=$((number + 1))
    cp "$path" "$root/modules/$(printf %02d "$number")-$(basename "$path")"
  done
  cat > "$root/init" <<INIT
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t proc proc /proc; \$b mount -t sysfs sysfs /sys; \$b mount -t devtmpfs dev /dev
for m in /modules/*.ko; do \$b insmod \$m 2>/dev/null; done
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  disk=\$(\$b findfs UUID=$ROOT_UUID 2>/dev/null) && break
  \$b usleep 200000
done
\$b mount -t ext4 "\$disk" /mnt && exec \$b switch_root /mnt /sbin/init
echo "FERRY-GUEST-NO-ROOT" > /dev/ttyS0
exec \$b sh
INIT
  chmod +x "$root/init"
  (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$out"
}

# Root file system: busybox and an init that counts boots, prints the marker line and gives a shell on ttyS0.
make_root() {
  local root=$1 name=$2 kernel=$3 initramfs=$4 applet
  mkdir -p "$root"/{bin,sbin,proc,sys,dev,etc,boot/grub,var,tmp}
  cp /bin/busybox "$root/bin/"
  for applet in sh cat ls mount sync; do ln -s busybox "$root/bin/$applet"; done
  cat > "$root/sbin/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev 2>/dev/null
$b mount -o remount,rw /
boots=$(( $($b cat /var/boots 2>/dev/null || echo 0) + 1 ))
echo $boots > /var/boots
$b sync
disks=$($b ls /sys/block | $b grep -v -e loop -e ram | $b tr '\n' , | $b sed 's/,$//')
nics=$($b ls /sys/class/net | $b tr '\n' , | $b sed 's/,$//')
echo "FERRY-GUEST-UP name=$($b cat /etc/hostname) boots=$boots disks=$disks nics=$nics uptime=$($b cut -d' ' -f1 /proc/uptime)" > /dev/ttyS0
exec $b sh < /dev/ttyS0 > /dev/ttyS0 2>&1
INIT
  chmod +x "$root/sbin/init"
  echo "$name" > "$root/etc/hostname"
  printf 'NAME="Ferry test guest"\nID=ferry-test\nVERSION_ID=1\n' > "$root/etc/os-release"
  cp "/boot/vmlinuz-$kernel" "$root/boot/vmlinuz"
  cp "$initramfs" "$root/boot/initrd.img"
  grub_config > "$root/boot/grub/grub.cfg"
}

grub_config() {
  cat <<GRUB
set timeout=0
search --no-floppy --fs-uuid --set=root $ROOT_UUID
linux /boot/vmlinuz root=UUID=$ROOT_UUID console=ttyS0 quiet
initrd /boot/initrd.img
boot
GRUB
}

# A Debian 12 that looks as if it ran on VMware. What differs from a plain installation is done in a hook inside the new root.
make_debian() {
  local root=$1 name=$2 hook=$3 kind=$4 grub=grub-pc
  [ "$kind" = bios ] || grub=grub-efi-amd64,grub-efi-amd64-signed,shim-signed
  [ "$(id -u)" = 0 ] || die "--debian needs root (mmdebstrap and its chroot)"
  cat > "$hook" <<HOOK
#!/bin/sh
set -e
root=\$1
echo "$name" > "\$root/etc/hostname"
echo "UUID=$ROOT_UUID / ext4 errors=remount-ro 0 1" > "\$root/etc/fstab"
printf 'auto lo\niface lo inet loopback\nallow-hotplug ens192\niface ens192 inet dhcp\n' > "\$root/etc/network/interfaces"
printf 'MODULES=list\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n' > "\$root/etc/initramfs-tools/conf.d/lean"
printf 'virtio_pci\nvirtio_blk\nvirtio_scsi\nvmw_pvscsi\nsd_mod\next4\n' >> "\$root/etc/initramfs-tools/modules"
cat > "\$root/usr/local/sbin/ferry-up" <<'UP'
#!/bin/sh
udevadm settle
boots=\$((\$(cat /var/boots 2>/dev/null || echo 0) + 1))
echo \$boots > /var/boots
sync
disks=\$(ls /sys/block | grep -v -e loop -e ram | tr '\n' , | sed 's/,\$//')
nics=\$(ls /sys/class/net | tr '\n' , | sed 's/,\$//')
secure=\$(cat /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null | od -An -t u1 -j 4 | tr -d ' ')
echo "FERRY-GUEST-UP name=\$(cat /etc/hostname) boots=\$boots disks=\$disks nics=\$nics secureboot=\${secure:-none} uptime=\$(cut -d' ' -f1 /proc/uptime)" > /dev/ttyS0
UP
chmod +x "\$root/usr/local/sbin/ferry-up"
printf '[Unit]\nDescription=Says that the guest is up\n[Service]\nType=oneshot\nExecStart=/usr/local/sbin/ferry-up\n[Install]\nWantedBy=multi-user.target\n' > "\$root/etc/systemd/system/ferry-up.service"
printf 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="console=ttyS0"\nGRUB_TERMINAL=serial\nGRUB_DISABLE_OS_PROBER=true\n' > "\$root/etc/default/grub"
chroot "\$root" sh -c 'echo root:root | chpasswd; systemctl -q enable serial-getty@ttyS0 ferry-up; update-initramfs -u'
# virt-v2v takes the boot loader from this folder and grub.cfg, not from the boot sector.
mkdir -p "\$root/boot/grub" "\$root/boot/efi"
[ $kind = uefi ] || cp -r /usr/lib/grub/i386-pc "\$root/boot/grub/"
[ $kind = bios ] || echo "LABEL=ESP /boot/efi vfat umask=0077 0 1" >> "\$root/etc/fstab"
kernel=\$(basename "\$root"/boot/vmlinuz-* | sed s/vmlinuz-//)
cat > "\$root/boot/grub/grub.cfg" <<GRUB
set default=0
set timeout=0
insmod ext2
search --no-floppy --fs-uuid --set=root $ROOT_UUID
menuentry 'Debian GNU/Linux' {
	linux /boot/vmlinuz-\$kernel root=UUID=$ROOT_UUID ro console=ttyS0
	initrd /boot/initrd.img-\$kernel
}
GRUB
HOOK
  chmod +x "$hook"
  mmdebstrap --quiet --variant=minbase --customize-hook="$hook" \
    --include=linux-image-cloud-amd64,systemd-sysv,udev,kmod,initramfs-tools,iproute2,ifupdown,$grub,open-vm-tools bookworm "$root"
}

# Writes the ext4 root with the content of a folder at a byte offset of the image. metadata_csum is off because the ext2
# driver of GRUB 2.06 does not read such a file system.
write_root() {
  local root=$1 image=$2 offset=$3 size_mib=$4
  mke2fs -q -F -t ext4 -O ^metadata_csum -U "$ROOT_UUID" -E "offset=$offset,root_owner=0:0" -d "$root" "$image" "$((size_mib * 1024))k"
}

# BIOS: an MBR with one partition at 1 MiB; GRUB's boot.img in the first 440 bytes, its core image right behind the MBR.
write_bios() {
  local root=$1 image=$2 core=$3 size_mib=$4
  truncate -s "$((1 + size_mib))M" "$image"
  printf 'label: dos\nlabel-id: %s\nstart=2048, type=83, bootable\n' "$DISK_ID" | sfdisk -q "$image"
  write_root "$root" "$image" 1048576 "$size_mib"
  grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$core" biosdisk part_msdos ext2 normal linux search search_fs_uuid configfile
  dd if=/usr/lib/grub/i386-pc/boot.img of="$image" bs=440 count=1 conv=notrunc status=none
  dd if="$core" of="$image" bs=512 seek=1 conv=notrunc status=none
}

# UEFI: a GPT with a 32 MiB FAT system partition at 1 MiB, filled by mtools, and the root at 33 MiB. Where the root has Debian's
# signed boot loaders they are taken, else one is made.
write_uefi() {
  local root=$1 image=$2 work=$3 size_mib=$4 esp=$3/esp shim=$1/usr/lib/shim/shimx64.efi.signed
  truncate -s "$((33 + size_mib + 1))M" "$image"
  printf 'label: gpt\nstart=2048, size=65536, type=U\nstart=67584, size=%s, type=L\n' "$((size_mib * 2048))" | sfdisk -q "$image"
  write_root "$root" "$image" $((33 * 1048576)) "$size_mib"
  truncate -s 32M "$esp"
  mkfs.vfat -n ESP "$esp" > /dev/null
  mmd -i "$esp" ::/EFI ::/EFI/BOOT ::/EFI/debian
  if [ -e "$shim" ]; then
    printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' "$ROOT_UUID" > "$work/grub.cfg"
    mcopy -i "$esp" "$shim" ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$esp" "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::/EFI/BOOT/grubx64.efi
    mcopy -i "$esp" "$work/grub.cfg" ::/EFI/debian/grub.cfg
  else
    grub_config > "$work/grub.cfg"
    grub-mkimage -O x86_64-efi -p /EFI/BOOT -c "$work/grub.cfg" -o "$work/bootx64.efi" part_gpt ext2 normal linux search search_fs_uuid configfile
    mcopy -i "$esp" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
  fi
  dd if="$esp" of="$image" bs=1M seek=1 conv=notrunc,sparse status=none
}

build() {
  local image="" name=tiny kind=bios debian=no size_mib=$TINY_ROOT_MIB work kernel
  while [ $# -gt 0 ]; do
    case $1 in
      --name) name=$2; shift 2 ;;
      --uefi) kind=uefi; shift ;;
      --debian) debian=yes; size_mib=$DEBIAN_ROOT_MIB; shift ;;
      -*) die "unknown option $1" ;;
      *) image=$1; shift ;;
    esac
  done
  [ -n "$image" ] || die "build needs a file to write"
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder's name is wanted as it is now
  trap "rm -rf '$work'" EXIT
  rm -f "$image"
  if [ $debian = yes ]; then
    make_debian "$work/root" "$name" "$work/hook" $kind
  else
    kernel=$(kernel_version)
    make_initramfs "$work/initramfs" "$work/initrd.img" "$kernel"
    make_root "$work/root" "$name" "$kernel" "$work/initrd.img"
  fi
  case $kind in
    bios) write_bios "$work/root" "$image" "$work/core.img" "$size_mib" ;;
    uefi) write_uefi "$work/root" "$image" "$work" "$size_mib" ;;
  esac
  echo "built $image: $(stat -c %s "$image") bytes, $(($(stat -c %b "$image") * 512)) allocated"
}

boot() {
  local image="" hardware=virtio uefi=no format=raw marker=FERRY-GUEST-UP timeout=120 log="" memory=256
  local machine=q35 args pid end line=""
  while [ $# -gt 0 ]; do
    case $1 in
      --hardware) hardware=$2; shift 2 ;;
      --uefi) uefi=yes; shift ;;
      --format) format=$2; shift 2 ;;
      --marker) marker=$2; shift 2 ;;
      --timeout) timeout=$2; shift 2 ;;
      --log) log=$2; shift 2 ;;
      --memory) memory=$2; shift 2 ;;
      -*) die "unknown option $1" ;;
      *) image=$1; shift ;;
    esac
  done
  [ -n "$image" ] || die "boot needs an image"
  log=${log:-$image.serial.log}
  [ "$hardware" = ide ] && machine=pc
  # accel=tcg is said outright: with kvm:tcg QEMU aborts, instead of falling back, where /dev/kvm opens but does not work.
  args=(-machine "$machine,accel=tcg" -cpu max -smp 1 -m "$memory" -display none -monitor none -no-reboot -serial "file:$log"
        -drive "file=$image,format=$format,if=none,id=disk0,cache=writeback")
  case $hardware in
    virtio) args+=(-device "virtio-blk-pci,drive=disk0,bootindex=1" -nic "user,model=virtio-net-pci") ;;
    vmware) args+=(-device pvscsi -device "scsi-hd,drive=disk0,bootindex=1" -nic "user,model=vmxnet3") ;;
    ide)    args+=(-device "ide-hd,drive=disk0,bootindex=1" -nic none) ;;
    *) die "unknown hardware $hardware" ;;
  esac
  if [ $uefi = yes ]; then
    [ "$hardware" = virtio ] || die "--uefi boots from virtio only: Debian 12's OVMF finds no boot disk on pvscsi"
    # The variable store is written to: give every run its own copy.
    cp /usr/share/OVMF/OVMF_VARS_4M.fd "$log.vars"
    args+=(-drive "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd" -drive "if=pflash,format=raw,file=$log.vars")
  fi
  rm -f "$log"
  qemu-system-x86_64 "${args[@]}" 2> "$log.qemu" &
  pid=$!
  # shellcheck disable=SC2064
  trap "kill $pid 2>/dev/null; wait $pid 2>/dev/null || true; rm -f '$log.vars'" EXIT
  end=$((SECONDS + timeout))
  while [ $SECONDS -lt $end ]; do
    line=$(grep -a -m1 -e "$marker" "$log" 2>/dev/null | tr -d '\r') && break
    line=""
    kill -0 $pid 2>/dev/null || die "QEMU ended early: $(head -c 400 "$log.qemu")"
    sleep 0.1
  done
  [ -n "$line" ] || die "no '$marker' on the serial console within ${timeout}s; last line: $(tail -n1 "$log" 2>/dev/null)"
  echo "$line"
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
  build) build "$@" ;;
  boot) boot "$@" ;;
  *) die "usage: tiny-guest.sh build OUT.raw [--name NAME] [--uefi] [--debian] | tiny-guest.sh boot IMAGE [options]" ;;
esac
