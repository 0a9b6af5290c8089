"""The node agent: pods from the API become containers over CRI v1."""
