"""What tests look at in a package store, past the program that wrote it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Store(Protocol):
    url: str | None

    def kept(self) -> dict[str, bytes]:
        """Every package file, by its key."""

    def incoming(self) -> list[str]:
        """Whatever there is of uploads."""


@dataclass
class Files:
    """The package store in a folder."""

    folder: Path
    url: str | None = None

    def kept(self) -> dict[str, bytes]:
        found = self.folder.glob("??/*")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def incoming(self) -> list[str]:
        return [path.name for path in (self.folder / "incoming").iterdir()]


@dataclass
class Bucket:
    """The package store in a bucket, below a prefix."""

    client: Any
    name: str
    prefix: str = "a/b/"

    @property
    def url(self) -> str:
        return f"s3://{self.name}/a/b"

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [str(one["Key"]) for one in found]

    def kept(self) -> dict[str, bytes]:
        keys = [key for key in self.keys() if not key.startswith(f"{self.prefix}incoming/")]
        return {key.removeprefix(self.prefix): self.read(key) for key in keys}

    def incoming(self) -> list[str]:
        open_ones = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        objects = [key for key in self.keys() if key.startswith(f"{self.prefix}incoming/")]
        return objects + [str(one["Key"]) for one in open_ones]

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())
