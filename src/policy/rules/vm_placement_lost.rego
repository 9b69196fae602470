package ferry.vm_placement_lost

page := {
	"id": "vm.placement.lost",
	"category": "Warning",
	"label": "Binding to CPUs is not carried over",
	"assessment": "The VM is bound to certain CPUs or NUMA nodes of its host. The target's scheduler places it freely.",
	"remedy": "Set the placement on the target if the guest needs it",
}

found contains "it is bound to certain CPUs or NUMA nodes" if input.vm.pinned
