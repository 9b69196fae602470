package ferry.vm_question_open

page := {
	"id": "vm.question.open",
	"category": "Critical",
	"label": "VM that waits for an answer",
	"assessment": "The server waits for a person's answer before it does anything with the VM.",
	"remedy": "Answer the question in vCenter",
}

found contains text if {
	input.vm.question != ""
	text := sprintf("it waits for an answer: %s", [input.vm.question])
}
