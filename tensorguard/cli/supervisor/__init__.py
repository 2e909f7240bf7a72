"""Runs the platform's processes as children: start in order, keep alive, stop in reverse."""
