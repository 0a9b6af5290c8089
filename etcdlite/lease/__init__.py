"""Leases: keys that live as long as someone renews them."""
