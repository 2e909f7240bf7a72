"""Who has done something: users and API keys."""
