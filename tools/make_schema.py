"""Write what is made from the config's schema: python tools/make_schema.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

from ppema.console import run_tool

REPOSITORY = Path(__file__).resolve().parents[1]
SCHEMA = REPOSITORY / "configs" / "schema.json"
REFERENCE = REPOSITORY / "docs" / "config.md"


def main(argv: Sequence[str]) -> int:
    """Write configs/schema.json, for editors, and docs/config.md; return the exit code."""
    from ppema.builder import CATALOG
    from ppema.config import reference_text

    for path, text in ((SCHEMA, schema_text()), (REFERENCE, reference_text(CATALOG))):
        print(f"writing {path}")
        path.write_text(text, encoding="utf-8")
    return 0


def schema_text() -> str:
    """Return the schema of all keys and of the arguments of ppema's own classes."""
    from ppema.builder import CATALOG
    from ppema.config import json_schema

    return json.dumps(json_schema(CATALOG), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run_tool(main)
