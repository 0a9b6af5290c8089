"""The REST front: filters, admission, registry, storage."""
