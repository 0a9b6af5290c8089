"""Admission: one class a plugin, mutating ones first; what a plugin refuses is never stored."""
