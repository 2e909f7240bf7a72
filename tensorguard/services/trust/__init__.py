"""What agents believe: trust bundles, root keys and publishers."""
