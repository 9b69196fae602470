package ferry.ova_disk_format_unsupported

page := {
	"id": "ova.disk.format.unsupported",
	"category": "Critical",
	"label": "Disk in a format that is not read",
	"assessment": "Ferry reads VMDK disks that are stream-optimized or in one sparse file, qcow2 images and raw disks that need no second file, and disks that are empty. A disk in another format would be lost.",
	"remedy": "Export the VM again with stream-optimized VMDK disks (ovftool and the vSphere client do by default), or with qcow2 disks (oVirt does)",
}

found contains text if {
	input.plan.source.ova
	some disk in input.vm.disks
	not disk.format in {"stream-optimized", "blocks", "empty"}
	text := sprintf("disk `%s` is stored as `%s`, which is not supported", [disk.key, disk.format])
}
