"""Recoveries: agents that ask to come back after their certificate's end."""
