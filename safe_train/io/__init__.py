"""Files, checksums and text: what every other room stands on."""
