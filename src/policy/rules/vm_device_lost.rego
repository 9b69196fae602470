package ferry.vm_device_lost

page := {
	"id": "vm.device.lost",
	"category": "Warning",
	"label": "Device that no target gets",
	"assessment": "The VM has a device that is not made on the target.",
	"remedy": "Check whether the guest needs it",
}

found contains text if {
	some device in input.vm.devices
	text := sprintf("its device `%s` is not carried over", [device])
}
