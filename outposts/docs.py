"""``outposts docs``: rewrites the parts of docs/ that come from the code (a source checkout only)."""

from __future__ import annotations

import sys
from pathlib import Path

from common import metrics, settings

ROOT = Path(__file__).resolve().parent.parent


def generated() -> dict[Path, str]:
    """Each generated file and what it must hold."""
    return {
        ROOT / "docs" / "settings.md": settings.markdown(),
        ROOT / "docs" / "metrics.md": metrics.markdown(),
    }


def main(arguments: list[str]) -> int:
    """Write the files; 1 when this is not a source checkout."""
    if not (ROOT / "pyproject.toml").exists():
        sys.stderr.write("outposts docs: only in a source checkout\n")
        return 1
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0
