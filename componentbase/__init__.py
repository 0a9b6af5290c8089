"""What every daemon has: flags, logging, health and metrics endpoints, TLS, task ownership."""
