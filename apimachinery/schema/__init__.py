"""The schema of every built-in type: which fields there are, what they hold, how they merge."""

TABLE_NAME = "table.json"  # made at build time, beside this file
