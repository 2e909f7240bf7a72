"""Runs the platform's processes as children: start, keep alive, stop in order."""
