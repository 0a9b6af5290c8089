"""Consensus of one member: the shell around the pure Raft core, the log on disk and the links to its peers."""
