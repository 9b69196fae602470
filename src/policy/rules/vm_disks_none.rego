package ferry.vm_disks_none

page := {
	"id": "vm.disks.none",
	"category": "Critical",
	"label": "VM without disks",
	"assessment": "There is nothing to copy. A VM that boots from the network or a CD is made on the target by hand.",
	"remedy": "Check the VM at the source: were its disks left out when it was exported?",
}

found contains "it has no disks" if count(input.vm.disks) == 0
