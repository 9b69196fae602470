package ferry.vm_shutdown_deaf

page := {
	"id": "vm.shutdown.deaf",
	"category": "Warning",
	"label": "Guest that cannot be asked to shut down",
	"assessment": "VMware Tools do not run in the guest, so it does not hear the request. After `shutdown.timeout` the plan's `shutdown.force` decides: its power is cut, or the VM goes on running and its migration waits until somebody shuts it down.",
	"remedy": "Start VMware Tools (open-vm-tools) in the guest, or shut it down by hand before its cutover",
}

found contains "nobody in the guest hears a request to shut down" if input.vm.deaf
