"""Refuse phrases that read as translated, and docstrings that begin with a relative clause (CONTRIBUTING.md, Prose).

    python scripts/check_words.py

Prints each place; exit code 1 if there are any.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PHRASES = re.compile(
    r"\b(is|are) (no|none|told)\b(?! longer)|\b(of (its|their|one's) own|for ever|all the same|so many|so long)\b"
)
CLAUSES = ("How", "What", "When", "Where", "Whether", "Which", "Who", "Why")


def phrases(path: Path) -> list[str]:
    """Return the lines of a file that hold a banned phrase."""
    lines = enumerate(path.read_text().splitlines(), 1)
    found = [(number, match[0]) for number, line in lines if (match := PHRASES.search(line))]
    return [f"{path.relative_to(ROOT)}:{number}: say {phrase!r} in other words" for number, phrase in found]


def clauses(path: Path) -> list[str]:
    """Return the docstrings of a module whose first line is a relative clause."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").split()[:1]
            if first and first[0] in CLAUSES:
                line = getattr(node, "lineno", 1)
                found.append(f"{path.relative_to(ROOT)}:{line}: begin with a verb and its object, not {first[0]!r}")
    return found


def main() -> int:
    """Check the package's modules and the documentation."""
    modules = sorted((ROOT / "sparkdl").rglob("*.py"))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [line for path in (*modules, *pages) for line in phrases(path)]
    found += [line for path in modules for line in clauses(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
