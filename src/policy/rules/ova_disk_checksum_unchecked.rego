package ferry.ova_disk_checksum_unchecked

page := {
	"id": "ova.disk.checksum.unchecked",
	"category": "Warning",
	"label": "Disk checksum that is not checked",
	"assessment": "The archive states a checksum of the disk by a method that Ferry does not check. A damaged archive would go unnoticed.",
	"remedy": "Check the archive with the tool that made it, or export it again with SHA-256",
}

found contains text if {
	some disk in input.vm.disks
	disk.checksum == "unchecked"
	text := sprintf("the checksum of disk `%s` (%s) is not checked", [disk.key, disk.checksumMethod])
}
