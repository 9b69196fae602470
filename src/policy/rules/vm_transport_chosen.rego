package ferry.vm_transport_chosen

page := {
	"id": "vm.transport.chosen",
	"category": "Information",
	"label": "How the disks are read",
	"assessment": "Which ways are open depends on the settings (VMware's library), on snapshots and on how the disks are stored. None of them has been tried on servers of VMware: each disk is compared with its hash on the target, and a first migration should be one that may fail.",
	"remedy": "Let the Provider say another `transport` where this one is not wanted",
}

found contains text if {
	input.vm.reading != ""
	text := sprintf("its disks are read by %s", [input.vm.reading])
}
