"""Many agents in one process, driving the reference agent's core."""
