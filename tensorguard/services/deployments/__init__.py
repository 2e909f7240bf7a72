"""Packages, releases, deployments and the controller that rolls them out."""
