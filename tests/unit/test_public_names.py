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
    "sparkdl.data.feed",
    "sparkdl.data.reader",
    "sparkdl.data.row_group_worker",
    "sparkdl.data.sample_rows",
    "sparkdl.data.tensors",
    "sparkdl.model.graph_encoders",
    "sparkdl.train.additive",
    "sparkdl.train.batch_norm",
    "sparkdl.train.batch_values",
    "sparkdl.train.callbacks",
    "sparkdl.train.check_data",
    "sparkdl.train.check_model",
    "sparkdl.train.checkpointer",
    "sparkdl.train.collective",
    "sparkdl.train.compiled_step",
    "sparkdl.train.csv_log",
    "sparkdl.train.describe",
    "sparkdl.train.epoch_check",
    "sparkdl.train.exact_step",
    "sparkdl.train.gradients",
    "sparkdl.train.learning_rate",
    "sparkdl.train.loop",
    "sparkdl.train.loss_parts",
    "sparkdl.train.metrics",
    "sparkdl.train.monitor",
    "sparkdl.train.moving_state",
    "sparkdl.train.optimizers",
    "sparkdl.train.own_step",
    "sparkdl.train.own_step_form",
    "sparkdl.train.probe",
    "sparkdl.train.recorder",
    "sparkdl.train.resume",
    "sparkdl.train.row_independence",
    "sparkdl.train.run_state",
    "sparkdl.train.same_model",
    "sparkdl.train.seeds",
    "sparkdl.train.steady",
    "sparkdl.train.step_function",
    "sparkdl.train.step_numbers",
    "sparkdl.train.tensorboard",
    "sparkdl.train.tried_functions",
    "sparkdl.train.verdict",
    "sparkdl.train.xla",
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
