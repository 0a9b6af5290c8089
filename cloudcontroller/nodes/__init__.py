"""Nodes as the cloud knows them: what a new one is, and whether an old one is still there."""
