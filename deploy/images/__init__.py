"""Container images made from what is on this machine, so that a lab works without any registry."""
