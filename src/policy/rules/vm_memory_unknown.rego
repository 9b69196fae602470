package ferry.vm_memory_unknown

page := {
	"id": "vm.memory.unknown",
	"category": "Warning",
	"label": "Size of memory is not known",
	"assessment": "The source does not say how much memory the VM has, so the target gives it a small default.",
	"remedy": "Set the size on the target afterwards",
}

found contains "the source does not say how much memory it has" if "vm.memory" in input.unknown

found contains "the source gives it no memory" if {
	not "vm.memory" in input.unknown
	input.vm.memory == 0
}
