package ferry.vm_device_passthrough

page := {
	"id": "vm.device.passthrough",
	"category": "Critical",
	"label": "Device of the host that is passed through",
	"assessment": "The guest uses a device of its host directly. The target has no such device, and the guest may not start without it.",
	"remedy": "Take the device off the VM before the migration",
}

found contains text if {
	some device in input.vm.passedThrough
	text := sprintf("a device of the host is passed through (`%s`)", [device])
}
