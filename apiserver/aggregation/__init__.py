"""Aggregation (kube-aggregator): group versions that other API servers serve, as part of this one's API."""
