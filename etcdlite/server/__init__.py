"""The etcd v3 API of one member."""
