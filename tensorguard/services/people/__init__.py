"""Who may do what: users, sessions, second factors and persons, API keys, permissions."""
