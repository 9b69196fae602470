package ferry.ova_disk_format_unsupported

page := {
	"id": "ova.disk.format.unsupported",
	"category": "Critical",
	"label": "Disk in a format that is not read",
	"assessment": "Ferry reads stream-optimized VMDK disks and disks that are empty. A disk in another format would be lost.",
	"remedy": "Export the VM again with stream-optimized VMDK disks (ovftool and the vSphere client do by default)",
}

found contains text if {
	some disk in input.vm.disks
	not disk.format in {"stream-optimized", "empty"}
	text := sprintf("disk `%s` is stored as `%s`, which is not supported", [disk.key, disk.format])
}
