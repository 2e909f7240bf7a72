"""How a device becomes an agent: by token, by its maker's certificate, by admission."""
