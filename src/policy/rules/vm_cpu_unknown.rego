package ferry.vm_cpu_unknown

page := {
	"id": "vm.cpu.unknown",
	"category": "Warning",
	"label": "Number of CPUs is not known",
	"assessment": "The source does not say how many virtual CPUs the VM has, so the target gives it the least.",
	"remedy": "Set the number on the target afterwards",
}

found contains "the source does not say how many CPUs it has" if "vm.cpus" in input.unknown

found contains "the source gives it no CPU" if {
	not "vm.cpus" in input.unknown
	input.vm.cpus == 0
}
