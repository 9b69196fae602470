package ferry.vm_firmware_unknown

page := {
	"id": "vm.firmware.unknown",
	"category": "Warning",
	"label": "Firmware is not known",
	"assessment": "The source does not say whether the VM boots by BIOS or UEFI. A guest that is started by the wrong one does not boot.",
	"remedy": "Start the VM on the target once and look; if it does not boot, set the firmware in its domain file",
}

found contains "the source does not say whether it boots by BIOS or UEFI" if "vm.firmware" in input.unknown
