"""How long a test waits for what has to come.

It guards against waiting for ever and is no limit on speed: CI machines are slow at times.
"""

PATIENCE_S = 60.0
