"""Deployments: releases on their way to agents."""
