"""What a pod should be on this node, decided without any I/O: observation, plan, configuration, status."""
