"""Where objects live: the store's interface, its etcd and in-memory forms, encryption at rest, and the
watch cache.
"""
