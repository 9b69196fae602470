package ferry.vm_disk_unreadable

page := {
	"id": "vm.disk.unreadable",
	"category": "Critical",
	"label": "Disk that cannot be read",
	"assessment": "Ferry reads disks that are files of a datastore. A device of the host or the storage network that is mapped into the VM is none, and a file that snapshots lie over is no disk by itself.",
	"remedy": "Turn the mapping into a disk (Storage vMotion does), delete the snapshots, or choose another `transport`",
}

found contains text if {
	input.plan.source.vsphere
	some disk in input.vm.disks
	not disk.format in {"stream-optimized", "blocks", "empty"}
	text := sprintf("disk `%s` is a `%s`, which cannot be read", [disk.key, disk.format])
}
