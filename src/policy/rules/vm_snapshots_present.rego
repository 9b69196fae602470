package ferry.vm_snapshots_present

page := {
	"id": "vm.snapshots.present",
	"category": "Warning",
	"label": "VM with snapshots",
	"assessment": "Its disks are copied as they are now. The target has no snapshots, and the way back to earlier states ends with the source.",
	"remedy": "Delete snapshots that are not needed; the copy is faster without them",
}

found contains text if {
	input.vm.snapshots > 0
	text := sprintf("it has %d snapshots", [input.vm.snapshots])
}
