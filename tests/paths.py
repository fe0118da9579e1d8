"""Name the folders that tests read."""

import os
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
FIXTURES = Path(os.environ.get("SPARKDL_FIXTURES", TESTS / "fixtures"))
# Real data beside the repository; its tests are skipped without it.
DATA = Path(os.environ.get("SPARKDL_DATA", ROOT.parent / "shared" / "data"))


def python_of(page: str) -> list[str]:
    """The blocks of Python in a page of the docs."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
