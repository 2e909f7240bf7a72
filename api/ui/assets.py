"""The built files, read once: what is not among them cannot be asked for."""

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent.parent / "static"
INDEX: Final = "/index.html"
_HASHED: Final = "/assets/"  # Vite puts a digest of the content into these names
_COMPRESSIBLE: Final = frozenset(
    {"text/html", "text/css", "text/javascript", "image/svg+xml", "application/json"}
)
# Not from the machine's own list, which may know another type for .js, or none.
_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is answered."""

    path: str
    body: bytes

    @cached_property
    def media_type(self) -> str:
        """The type by the name's suffix."""
        suffix = Path(self.path).suffix
        return _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")

    @cached_property
    def etag(self) -> str:
        """A strong ETag of the bytes."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    @cached_property
    def gzipped(self) -> bytes | None:
        """The bytes compressed, the same every time; None where that gains nothing."""
        if self.media_type not in _COMPRESSIBLE:
            return None
        packed = gzip.compress(self.body, mtime=0)
        return packed if len(packed) < len(self.body) else None

    @property
    def is_immutable(self) -> bool:
        """Tell whether another content would have another name."""
        return self.path.startswith(_HASHED)


def read_assets(directory: Path = STATIC) -> dict[str, Asset]:
    """Return every file of a build by its URL path; nothing where nothing was built."""
    if not (directory / INDEX.lstrip("/")).is_file():
        return {}
    found = (file for file in sorted(directory.rglob("*")) if file.is_file())
    paths = {f"/{file.relative_to(directory).as_posix()}": file for file in found}
    return {path: Asset(path, file.read_bytes()) for path, file in paths.items()}
