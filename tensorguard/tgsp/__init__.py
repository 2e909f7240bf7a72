"""The TGSP/1 package format: manifest, container, signing, grants."""
