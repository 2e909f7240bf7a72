"""The listener for devices: joining, trust bundles, package downloads."""
