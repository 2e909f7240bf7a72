"""Enrollment tokens and the join strings that carry them."""
