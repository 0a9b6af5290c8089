"""The node as the cluster sees it: its object, its status, its heartbeat."""
