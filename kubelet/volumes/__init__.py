"""Volumes: what goes into them (pure), how it gets there atomically, and where containers see it."""
