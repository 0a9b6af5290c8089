"""What every cluster starts with, put there and kept right by post-start hooks."""
