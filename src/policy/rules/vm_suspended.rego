package ferry.vm_suspended

page := {
	"id": "vm.suspended",
	"category": "Critical",
	"label": "Suspended VM",
	"assessment": "What the guest had not written is in a file of its host, and its disks are not consistent without it.",
	"remedy": "Resume it and shut it down, or power it off if what it ran may be lost",
}

found contains "it is suspended" if input.vm.suspended
