"""Control loops against a whole apiserver, disturbed: the harness, and a story for every controller."""
