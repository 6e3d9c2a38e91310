"""Write the JSON Schema of a config for editors: python tools/make_schema.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

from ppema.console import run_tool

SCHEMA = Path(__file__).resolve().parents[1] / "configs" / "schema.json"


def main(argv: Sequence[str]) -> int:
    """Write configs/schema.json; return the exit code."""
    print(f"writing {SCHEMA}")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    return 0


def schema_text() -> str:
    """Return the schema of all keys and of the arguments of ppema's own classes."""
    from ppema.builder import CATALOG
    from ppema.config import json_schema

    return json.dumps(json_schema(CATALOG), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run_tool(main)
