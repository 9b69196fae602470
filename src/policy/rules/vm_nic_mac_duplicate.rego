package ferry.vm_nic_mac_duplicate

page := {
	"id": "vm.nic.mac.duplicate",
	"category": "Warning",
	"label": "Two network cards with one address",
	"assessment": "Two network cards of the VM have the same hardware address; on one network neither would work.",
	"remedy": "Give one of the cards another address at the source",
}

plain(mac) := replace(replace(lower(mac), ":", ""), "-", "")

found contains text if {
	some i, first in input.vm.nics
	some j, second in input.vm.nics
	i < j
	first.mac != ""
	plain(first.mac) == plain(second.mac)
	text := sprintf("network cards %v and %v both have the address %s", [i + 1, j + 1, first.mac])
}
