package ferry.guest_windows_legacy

page := {
	"id": "guest.legacy_windows",
	"category": "Warning",
	"label": "Windows release without current drivers",
	"assessment": "Current virtio drivers do not load on this release of Windows.",
	"remedy": "Use the legacy drivers (`virtio-win` 0.1.173 or older), or IDE disks and an e1000 card on the target",
}

legacy := {"winxp", "winnet", "winvista", "winlonghorn", "windows7", "win2000", "windows xp", "server 2003", "vista", "server 2008", "windows 7"}

found contains text if {
	some name in legacy
	contains(lower(input.vm.os), name)
	text := sprintf("the guest is an old Windows (`%s`)", [input.vm.os])
}
