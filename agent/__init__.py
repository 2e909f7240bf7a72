"""The reference agent that runs on a device: a pure core and a runtime around it."""
