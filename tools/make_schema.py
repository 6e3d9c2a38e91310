"""Write what is made from the code itself: python tools/make_schema.py"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Sequence

from ppema.console import run_tool

REPOSITORY = Path(__file__).resolve().parents[1]
SCHEMA = REPOSITORY / "configs" / "schema.json"
REFERENCE = REPOSITORY / "docs" / "config.md"
LIBRARY = REPOSITORY / "docs" / "library.md"
# What stands between them is made.
MARKS = "<!-- signatures -->\n", "<!-- end of signatures -->"


def main(argv: Sequence[str]) -> int:
    """Write the schema for editors and what docs/ lists of the code; return the exit code."""
    from ppema.builder import CATALOG
    from ppema.config import reference_text

    texts = {SCHEMA: schema_text(), REFERENCE: reference_text(CATALOG), LIBRARY: library_text()}
    for path, text in texts.items():
        print(f"writing {path}")
        path.write_text(text, encoding="utf-8")
    return 0


def schema_text() -> str:
    """Return the schema of all keys and of the arguments of ppema's own classes."""
    from ppema.builder import CATALOG
    from ppema.config import json_schema

    return json.dumps(json_schema(CATALOG), indent=1, ensure_ascii=False) + "\n"


def library_text() -> str:
    """Return docs/library.md with the table of all that `ppema` gives brought up to date."""
    import ppema

    rows = ["| name | arguments | what it is |", "|---|---|---|"]
    for name in sorted(set(ppema.__all__) - {"__version__"}, key=str.lower):
        found = getattr(ppema, name)
        summary = (inspect.getdoc(found) or "").partition("\n")[0].replace("``", "`")
        parameters = inspect.signature(found).parameters.values()
        shown = str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters]))[1:-1]
        rows.append(f"| `{name}` | `{shown}` | {summary} |")
    before, _, rest = LIBRARY.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    return "".join((before, MARKS[0], "\n".join(rows), "\n", MARKS[1], after))


if __name__ == "__main__":
    run_tool(main)
