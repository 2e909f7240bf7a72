"""The demo: what a new user would do by hand, done through the same doors."""
