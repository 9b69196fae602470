package ferry.vm_fault_tolerance

page := {
	"id": "vm.fault_tolerance",
	"category": "Warning",
	"label": "Fault Tolerance is not carried over",
	"assessment": "A second copy of the VM runs in step with it, and no target does that.",
	"remedy": "Turn Fault Tolerance off, and plan the availability on the target in another way",
}

found contains "a second copy of it runs in step (Fault Tolerance)" if input.vm.faultTolerant
