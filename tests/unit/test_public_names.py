"""The public surface: what is importable, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparkdl

HEAVY = {"tensorflow", "keras", "horovod", "petastorm"}
PACKAGE = Path(sparkdl.__file__).parent
# Modules of rank processes, of Petastorm and of graphs; nobody imports them at the top of a driver-side module.
RANK_SIDE = {
    "sparkdl.data.feed.feed",
    "sparkdl.data.feed.reader",
    "sparkdl.data.feed.row_group_worker",
    "sparkdl.data.feed.sample_rows",
    "sparkdl.data.feed.tensors",
    "sparkdl.model.graph_encoders",
    "sparkdl.train.exactness.find",
    "sparkdl.train.exact.batch_norm",
    "sparkdl.train.exact.batch_values",
    "sparkdl.train.rank.callbacks.chain",
    "sparkdl.train.checks.check_data",
    "sparkdl.train.checks.check_model",
    "sparkdl.train.rank.callbacks.checkpointer",
    "sparkdl.train.exact.collective",
    "sparkdl.train.exact.keras_step",
    "sparkdl.train.rank.callbacks.csv_log",
    "sparkdl.train.rank.facts",
    "sparkdl.train.exactness.epoch_check",
    "sparkdl.train.exact.instrument",
    "sparkdl.train.exact.gradients",
    "sparkdl.train.rank.callbacks.learning_rate",
    "sparkdl.train.rank.loop",
    "sparkdl.train.exact.loss_parts",
    "sparkdl.train.exact.metrics",
    "sparkdl.train.checks.monitor",
    "sparkdl.train.exact.moving_state",
    "sparkdl.train.exact.optimizers",
    "sparkdl.train.exact.custom_step",
    "sparkdl.train.exactness.custom_steps",
    "sparkdl.train.exactness.probe",
    "sparkdl.train.rank.callbacks.recorder",
    "sparkdl.train.rank.resume",
    "sparkdl.train.exactness.row_independence",
    "sparkdl.train.run.state",
    "sparkdl.train.rank.callbacks.same_model",
    "sparkdl.train.exact.rng",
    "sparkdl.train.exactness.steady",
    "sparkdl.train.exact.step_function",
    "sparkdl.train.exact.counters",
    "sparkdl.train.rank.callbacks.tensorboard",
    "sparkdl.train.exactness.functions",
    "sparkdl.train.exactness.judge",
    "sparkdl.train.exact.xla",
}


def test_all_is_what_is_there() -> None:
    assert sorted(sparkdl.__all__) == sparkdl.__all__
    assert all(hasattr(sparkdl, name) for name in sparkdl.__all__)


def test_importing_sparkdl_loads_no_heavy_library_and_no_spark() -> None:
    code = "import sparkdl, sparkdl.features, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    roots = {name.split(".")[0] for name in loaded.stdout.split()}
    assert not roots & (HEAVY | {"pyspark", "pandas", "matplotlib"})


def module_name(file: Path) -> str:
    return ".".join(["sparkdl", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def top_level_imports(tree: ast.Module) -> set[str]:
    """Modules imported when the module is, `if TYPE_CHECKING` left out, `with` blocks included."""
    found: set[str] = set()
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.With | ast.Try):
            pending.extend(node.body)
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_only_rank_modules_import_heavy_libraries_at_the_top(file: Path) -> None:
    imports = top_level_imports(ast.parse(file.read_text()))
    if module_name(file) not in RANK_SIDE:
        assert not {name.split(".")[0] for name in imports} & HEAVY
        assert not imports & RANK_SIDE


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 2 or parts[-1] in ("data", "launch", "model", "train", "score") else ""


# Which rooms a room may import; the modules beside the rooms (config, errors, storage, …) are open to all.
MAY_IMPORT = {
    "data": {"data"},
    "launch": {"launch"},
    "model": {"model", "data"},
    "train": {"train", "model", "launch", "data"},
    "score": {"score", "model", "data"},
}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_nobody_imports_upward(file: Path) -> None:
    own = room(module_name(file))
    if own not in MAY_IMPORT:
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sparkdl."):
            target = node.module.split(".")[1]
            assert target not in MAY_IMPORT or target in MAY_IMPORT[own], f"{own} imports {node.module}"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))
