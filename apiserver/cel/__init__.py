"""The Common Expression Language (docs/adr/004-cel.md): its runtime, and Kubernetes' libraries for it."""
