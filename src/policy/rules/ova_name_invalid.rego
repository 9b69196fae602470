package ferry.ova_name_invalid

page := {
	"id": "ova.name.invalid",
	"category": "Warning",
	"label": "VM is renamed",
	"assessment": "The VM's name is no RFC 1123 label (lower-case letters, digits and `-`, at most 63 characters), so it gets another one on the target.",
	"remedy": "Set `targetName` in its entry",
}

found contains text if {
	input.plan.targetName == ""
	input.target.name != ""
	input.target.name != input.vm.name
	text := sprintf("`%s` is called `%s` on the target", [input.vm.name, input.target.name])
}
