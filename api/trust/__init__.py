"""The trust bundle: what agents believe, and asking for the next one."""
