package ferry.source_tls_unchecked

page := {
	"id": "source.tls.unchecked",
	"category": "Warning",
	"label": "Source that is believed unchecked",
	"assessment": "Nobody checks the certificate of the source, so whoever answers in its place gets the password and decides what is copied.",
	"remedy": "Write the fingerprint of its certificate into the Provider's `tls.sha256Fingerprint`",
}

found contains text if {
	input.plan.source.vsphere.trust == "anyone"
	text := sprintf("whoever answers at %s is believed (`tls.insecureSkipVerify`)", [input.plan.source.vsphere.url])
}
