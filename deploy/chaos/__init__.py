"""Break a running cluster on purpose, under load, and prove what survived."""
