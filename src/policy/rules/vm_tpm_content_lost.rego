package ferry.vm_tpm_content_lost

page := {
	"id": "vm.tpm.content.lost",
	"category": "Warning",
	"label": "What the TPM holds is not carried over",
	"assessment": "The VM has a virtual TPM. No export contains what it holds, so the guest gets an empty one: disks that are unlocked by it (BitLocker, LUKS with clevis) ask for their recovery key at the first start.",
	"remedy": "Have the recovery keys at hand, or suspend the encryption's binding to the TPM before the export. The target's host needs `swtpm`",
}

found contains "its virtual TPM is replaced by an empty one" if input.vm.tpm
