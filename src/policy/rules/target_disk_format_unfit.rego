package ferry.target_disk_format_unfit

page := {
	"id": "target.disk.format.unfit",
	"category": "Critical",
	"label": "Disk does not fit into a qcow2",
	"assessment": "The target stores disks as qcow2 (`diskFormat`), which Ferry writes up to 8 TiB and in whole sectors of 512 bytes.",
	"remedy": "Set `diskFormat: raw` in the target's provider, or move this VM to a provider of another folder that stores raw disks",
}

tebibytes_8 := 8796093022208

found contains text if {
	input.target.site.local.diskFormat == "qcow2"
	some disk in input.vm.disks
	disk.capacity > tebibytes_8
	text := sprintf("disk `%s` has %v bytes, and a qcow2 holds 8 TiB (%v)", [disk.key, disk.capacity, tebibytes_8])
}

found contains text if {
	input.target.site.local.diskFormat == "qcow2"
	some disk in input.vm.disks
	disk.capacity % 512 != 0
	text := sprintf("disk `%s` has %v bytes, and a qcow2 holds whole sectors of 512 bytes", [disk.key, disk.capacity])
}
