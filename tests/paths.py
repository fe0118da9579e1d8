"""Name the folders that tests read."""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
FIXTURES = Path(os.environ.get("SPARKDL_FIXTURES", TESTS / "fixtures"))
# Real data beside the repository; its tests are skipped without it.
DATA = Path(os.environ.get("SPARKDL_DATA", ROOT.parent / "shared" / "data"))
