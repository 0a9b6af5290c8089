"""A container runtime of plain processes: CRI v1 without containerd, runc or root. See docs/adr/006."""
