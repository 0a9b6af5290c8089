"""One member of the cluster: the shell around the pure Raft core, its log on disk, its links to the peers."""
