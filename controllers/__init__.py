"""Controllers: one file each, one manager."""
