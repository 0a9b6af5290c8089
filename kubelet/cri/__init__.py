"""The container runtime: the port the kubelet asks for, CRI v1 over gRPC behind it, and a fake beside it."""
