"""Print the variables with which Horovod is built, as pyproject.toml has them, for a shell to evaluate."""

import shlex
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pyproject = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
for name, value in pyproject["tool"]["uv"]["extra-build-variables"]["horovod"].items():
    print(f"export {name}={shlex.quote(value)}")
