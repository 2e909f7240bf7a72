"""The kill switch: one agent or a fleet, and the receipts of what the fronts did."""
