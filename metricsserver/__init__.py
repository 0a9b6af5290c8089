"""metrics-server: what nodes and pods use now, as the API group metrics.k8s.io."""
