package ferry.vm_hot_plug_lost

page := {
	"id": "vm.hot_plug.lost",
	"category": "Information",
	"label": "Hot-plug is not carried over",
	"assessment": "CPUs or memory may be added to the VM while it runs. On the target it has to be started again for that.",
	"remedy": "Give it the size that it needs before it is started on the target",
}

found contains "CPUs or memory may be added while it runs" if input.vm.hotPlug
