"""README and docs tell the truth: the program runs as printed, links and named files exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`((?:sparkdl|jobs|conf|docs|tests)/[\w/.]*)`")
IN_A_ROOM = re.compile(r"`((?:cli|data|launch|model|score|spark|storage|train|user_code)/[\w/]*\.py)`")
WITH_DECISIONS = [*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
MODULES = sorted({f"sparkdl/{name}" for page in WITH_DECISIONS for name in IN_A_ROOM.findall(page.read_text())})
NAMED = sorted({name for page in PAGES for name in FILE.findall(page.read_text())})
LINKED = sorted({name for page in PAGES[:2] for name in re.findall(r"\]\(([\w/.]+)\)", page.read_text())})


def test_the_program_of_the_readme_runs_as_printed(tmp_path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 30
    (tmp_path / "program.py").write_text(program)
    activated = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    activated.pop("PYSPARK_PYTHON", None)
    told = []
    # What is there already is found the second time, though the rows come from memory: the same figures, at once.
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "program.py"], cwd=tmp_path, env=activated, capture_output=True, text=True, timeout=170
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    accuracy = float(re.search(r"'accuracy': ([0-9.]+)", told[0]).group(1))
    assert accuracy > 0.9 and "predicted" in told[0]
    assert told[1] == told[0]
    assert "prepared from the same input: nothing is written" in done.stderr


@pytest.mark.parametrize("name", NAMED + LINKED + MODULES)
def test_a_file_that_a_page_names_exists(name: str) -> None:
    assert (ROOT / name).exists()


def test_the_jobs_of_the_docs_are_those_that_the_tests_start() -> None:
    page = (ROOT / "docs" / "jobs.md").read_text()
    jobs = re.findall(r"^spark-submit .* (jobs/\w+\.py) (conf/\w+\.yaml)", page, re.MULTILINE)
    assert [Path(job).stem for job, _ in jobs] == ["prepare", "train", "evaluate", "score"]
    assert all((ROOT / file).exists() for pair in jobs for file in pair)
