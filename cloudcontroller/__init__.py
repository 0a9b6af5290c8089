"""cloud-controller-manager: what a cluster asks of the cloud it runs in."""
