"""Measurements, each beside the real thing or the machine's limit in the same run."""
