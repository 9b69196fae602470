package ferry.vm_encrypted

page := {
	"id": "vm.encrypted",
	"category": "Critical",
	"label": "VM encrypted by vSphere",
	"assessment": "Its disks are stored encrypted, with a key that only vSphere has: what is read without it is of no use.",
	"remedy": "Decrypt the VM (its storage policy) before the migration",
}

found contains "its disks are encrypted by the source" if input.vm.encrypted
