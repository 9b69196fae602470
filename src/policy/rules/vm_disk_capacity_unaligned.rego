package ferry.vm_disk_capacity_unaligned

page := {
	"id": "vm.disk.capacity.unaligned",
	"category": "Warning",
	"label": "Disk size is no multiple of a sector",
	"assessment": "Disks are made of sectors of 512 bytes. The guest may see the last, broken sector or not.",
	"remedy": "Check the end of the last partition in the guest, or grow the disk to a multiple of 512 bytes",
}

found contains text if {
	some disk in input.vm.disks
	disk.capacity % 512 != 0
	text := sprintf("disk `%s` has %v bytes, no multiple of 512", [disk.key, disk.capacity])
}
