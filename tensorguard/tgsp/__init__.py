"""The package format TGSP/1: build, verify and open packages. What is named here is its public API.

The format, and an example of ten lines, are in docs/tgsp.md. Nothing of a server is needed.
"""

from tensorguard.tgsp.builder import BuiltPackage, build
from tensorguard.tgsp.errors import TgspError
from tensorguard.tgsp.keys import (
    compute_kid,
    load_publisher_private,
    load_publisher_public,
    load_recipient_private,
    load_recipient_public,
    write_key_pair,
)
from tensorguard.tgsp.manifest import FileEntry, Manifest, Payload, Target
from tensorguard.tgsp.opener import (
    OpenedPackage,
    open_package,
    unwrap_detached,
    unwrap_embedded,
)
from tensorguard.tgsp.reader import PackageHeader, VerifiedPackage, read_header, verify
from tensorguard.tgsp.signing import PublisherKey
from tensorguard.tgsp.target import SeqFloor

__all__ = [
    "BuiltPackage",
    "FileEntry",
    "Manifest",
    "OpenedPackage",
    "PackageHeader",
    "Payload",
    "PublisherKey",
    "SeqFloor",
    "Target",
    "TgspError",
    "VerifiedPackage",
    "build",
    "compute_kid",
    "load_publisher_private",
    "load_publisher_public",
    "load_recipient_private",
    "load_recipient_public",
    "open_package",
    "read_header",
    "unwrap_detached",
    "unwrap_embedded",
    "verify",
    "write_key_pair",
]
