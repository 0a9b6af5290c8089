"""`hardway console`: a page on loopback that shows the cluster as it lives, and breaks it on request."""
