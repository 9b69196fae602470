package ferry.ova_disk_capacity_invalid

page := {
	"id": "ova.disk.capacity.invalid",
	"category": "Critical",
	"label": "Disk without a valid size",
	"assessment": "A disk that the guest sees as zero bytes cannot be made on the target.",
	"remedy": "Export the VM again, or remove the disk from it",
}

found contains text if {
	some disk in input.vm.disks
	disk.capacity <= 0
	text := sprintf("disk `%s` has a capacity of %v bytes", [disk.key, disk.capacity])
}
