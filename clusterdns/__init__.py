"""Cluster DNS: Services and EndpointSlices answered as DNS records."""
