package ferry.guest_addresses_unkept

page := {
	"id": "guest.addresses.unkept",
	"category": "Warning",
	"label": "Static addresses may be lost",
	"assessment": "Converting a guest gives its network cards other names (`ens192` becomes `enp1s0`). An address that the guest's configuration binds to the old name is then on no card. `preserveStaticIPs`, which would keep it, is not supported yet.",
	"remedy": "Bind addresses to the card's MAC address in the guest before it is exported, or set them on the console afterwards; with DHCP nothing is to be done",
}

found contains text if {
	not input.plan.skipGuestConversion
	count(input.vm.nics) > 0
	text := "it is converted, and static addresses bound to the names of its network cards may be lost"
}
