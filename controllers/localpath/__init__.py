"""A provisioner outside the manager: directories of nodes as volumes, for the StorageClass `local-path`."""
