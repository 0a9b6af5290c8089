"""The durable side of Raft: segmented write-ahead log, snapshot files, and the disk port they stand on."""
