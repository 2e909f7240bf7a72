"""What a compliance officer asks: how the fleets stand, and what happened in a period."""
