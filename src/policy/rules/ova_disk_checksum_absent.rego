package ferry.ova_disk_checksum_absent

page := {
	"id": "ova.disk.checksum.absent",
	"category": "Information",
	"label": "Disk without a checksum",
	"assessment": "The archive states no checksum of the disk, so nobody can tell whether it is as it was exported.",
	"remedy": "Export the VM with a manifest file (`.mf`)",
}

found contains text if {
	input.plan.source.ova
	some disk in input.vm.disks
	disk.format != "empty"
	disk.checksum == "absent"
	text := sprintf("disk `%s` has no checksum", [disk.key])
}
