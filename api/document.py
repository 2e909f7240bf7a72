"""The OpenAPI document without a server: `python -m api.document > ui/openapi.json`."""

import json
import sys
from pathlib import Path

from pydantic import SecretStr

from api.app import create_app
from api.settings import ApiSettings


def openapi_document() -> str:
    """Return the document as text that is the same for the same routes."""
    settings = ApiSettings(database_url=SecretStr("postgresql:///unused"), data_dir=Path("unused"))
    document = create_app(settings).openapi()
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_document())
