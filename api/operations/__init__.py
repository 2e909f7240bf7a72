"""Whether the process lives, is ready, and how busy it is."""
