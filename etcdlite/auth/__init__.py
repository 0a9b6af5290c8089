"""Who may do what: users, roles, key permissions, passwords and tokens."""
