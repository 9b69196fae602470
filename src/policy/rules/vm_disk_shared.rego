package ferry.vm_disk_shared

page := {
	"id": "vm.disk.shared",
	"category": "Critical",
	"label": "Disk that several VMs share",
	"assessment": "Another VM may write to the disk while it is copied, and both would go on with a disk of their own.",
	"remedy": "Take the disk off all VMs but one, or move its content in another way",
}

found contains text if {
	some disk in input.vm.sharedDisks
	text := sprintf("disk `%s` is shared with other VMs", [disk])
}
