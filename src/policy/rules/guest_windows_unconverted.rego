package ferry.guest_windows_unconverted

page := {
	"id": "guest.windows.unconverted",
	"category": "Warning",
	"label": "Windows guest without drivers for KVM",
	"assessment": "The plan leaves the guest as it is. A Windows guest without virtio drivers does not find its disk and does not boot.",
	"remedy": "Install the virtio drivers in the guest before it is exported",
}

found contains text if {
	input.plan.skipGuestConversion
	startswith(lower(input.vm.os), "win")
	text := sprintf("the guest is Windows (`%s`) and the plan installs no drivers", [input.vm.os])
}
