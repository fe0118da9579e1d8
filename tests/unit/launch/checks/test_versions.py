"""Versions: what differs between the driver and the executors, and in which words."""

import subprocess
import sys
from importlib import metadata

import pytest

import sparkdl
from sparkdl.launch.checks.versions import installed, mismatch
from sparkdl.spark.worker_python import explain_worker_error

ALL = {"Python": "3.11", "sparkdl": "0.1.0", "TensorFlow": "2.18.1", "Keras": "3.8.0", "Horovod": "0.28.1"}
ENVIRONMENT = (
    "; spark.pyspark.python (or PYSPARK_PYTHON) must name the same environment on the driver and on all executors"
)
OWN = "; send the driver's with --py-files, or install the same version in the executors' environment"


def without(*packages):
    return {package: version for package, version in ALL.items() if package not in packages}


def test_what_is_installed_here_is_found():
    here = installed()
    assert here["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert here["sparkdl"] == sparkdl.__version__
    assert here["Horovod"] == metadata.version("horovod")
    assert set(here) == set(ALL)


def test_looking_imports_none_of_the_packages():
    code = "from sparkdl.launch.checks.versions import installed; installed(); import sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"tensorflow", "keras", "horovod"} & set(told.stdout.split())


def test_equal_versions_are_no_mismatch():
    assert mismatch(ALL, [("a", dict(ALL)), ("b", dict(ALL))]) is None
    assert mismatch(without("TensorFlow", "Horovod"), [("a", ALL), ("b", ALL)]) is None
    assert mismatch(without("Keras"), [("a", without("Keras"))]) is None


@pytest.mark.parametrize(
    ("driver", "workers", "message"),
    [
        (
            ALL,
            [("a", ALL), ("c", {**ALL, "TensorFlow": "2.17.0"}), ("b", {**ALL, "TensorFlow": "2.17.0"})],
            "the driver has TensorFlow 2.18.1, but b, c have TensorFlow 2.17.0" + ENVIRONMENT,
        ),
        (
            ALL,
            [("a", ALL), ("b", without("TensorFlow")), ("b", without("TensorFlow"))],
            "the driver has TensorFlow 2.18.1, but b has no TensorFlow" + ENVIRONMENT,
        ),
        (
            without("Horovod"),
            [("a", ALL), ("b", without("Horovod"))],
            "a has Horovod 0.28.1, but b has no Horovod" + ENVIRONMENT,
        ),
        (
            without("Keras"),
            [("a", ALL), ("b", {**ALL, "Keras": "3.9.0"})],
            "a has Keras 3.8.0, but b has Keras 3.9.0" + ENVIRONMENT,
        ),
        (
            ALL,
            [("a", {**ALL, "sparkdl": "0.0.9"})],
            "the driver has sparkdl 0.1.0, but a has sparkdl 0.0.9" + OWN,
        ),
        (
            ALL,
            [(host, {**ALL, "Keras": "3.9.0"}) for host in "abcdefg"],
            "the driver has Keras 3.8.0, but a, b, c and 4 more have Keras 3.9.0" + ENVIRONMENT,
        ),
        (
            ALL,
            [("a", {**ALL, "Keras": "3.9.0"}), ("b", without("Keras"))],
            "the driver has Keras 3.8.0, but a has Keras 3.9.0 and b has no Keras" + ENVIRONMENT,
        ),
        # A host with two environments.
        (
            without("Keras"),
            [("a", ALL), ("a", without("Keras"))],
            "a has Keras 3.8.0, but a has no Keras" + ENVIRONMENT,
        ),
        # The one that explains the others goes first.
        (
            ALL,
            [("a", {"Python": "3.10", "sparkdl": "0.1.0"})],
            "the driver has Python 3.11, but a has Python 3.10" + ENVIRONMENT,
        ),
    ],
)
def test_a_mismatch_is_named_in_one_line(driver, workers, message):
    assert mismatch(driver, workers) == message


# The tail of what Spark 4.0 says: its own stack follows.
TRACE = """An error occurred while calling o44.collectToPython.
: org.apache.spark.SparkException: Could not recover from a failed barrier ResultStage.
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/env/lib/python3.11/site-packages/pyspark/serializers.py", line 500, in loads
    return cloudpickle.loads(obj, encoding=encoding)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
%s

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:581)
"""
NAMES = "the environment that spark.pyspark.python (or PYSPARK_PYTHON) names"


@pytest.mark.parametrize(
    ("last_line", "meaning"),
    [
        # Spark 4.0
        (
            "pyspark.errors.exceptions.base.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has "
            "different version: 3.10 than that in driver: 3.11, PySpark cannot run with different minor versions.",
            "the executors have Python 3.10, the driver has Python 3.11" + ENVIRONMENT,
        ),
        # Spark 3.5
        (
            "pyspark.errors.exceptions.base.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has "
            "different version (3, 9) than that in driver 3.10, PySpark cannot run with different minor versions.",
            "the executors have Python 3.9, the driver has Python 3.10" + ENVIRONMENT,
        ),
        (
            "ModuleNotFoundError: No module named 'sparkdl'",
            f"the executors have no sparkdl; send it with --py-files, or install sparkdl-tf in {NAMES}",
        ),
        (
            "ModuleNotFoundError: No module named 'sparkdl.launch'",
            "the executors have another sparkdl, without sparkdl.launch" + OWN,
        ),
        (
            "AttributeError: Can't get attribute 'run_rank' on <module 'sparkdl.launch.worker.task' from '/e/task.py'>",
            "the executors have another version of sparkdl, without sparkdl.launch.worker.task.run_rank" + OWN,
        ),
        (
            "ImportError: cannot import name 'mailbox' from 'sparkdl.launch' (/env/sparkdl/launch/__init__.py)",
            "the executors have another version of sparkdl, without sparkdl.launch.mailbox" + OWN,
        ),
        (
            "ModuleNotFoundError: No module named 'pyarrow'",
            f"the executors have no pyarrow, which sparkdl needs there; install it in {NAMES}",
        ),
        # Spark 3.5 under Python 3.12
        (
            "ModuleNotFoundError: No module named 'distutils'",
            f"the executors have no setuptools, which Spark 3.5 needs there; install it in {NAMES}",
        ),
        (
            'java.io.IOException: Cannot run program "/env/bin/python3": error=2, No such file or directory',
            "the executors have no program /env/bin/python3; spark.pyspark.python (or PYSPARK_PYTHON) must name theirs",
        ),
    ],
)
def test_what_ended_a_worker_is_explained_in_one_line(last_line, meaning):
    assert explain_worker_error(TRACE % last_line) == meaning


@pytest.mark.parametrize(
    "last_line",
    [
        "ValueError: boom",
        "ModuleNotFoundError: No module named 'mymodel'",
        "AttributeError: Can't get attribute 'Net' on <module 'mymodel' from 'mymodel.py'>",
        "ModuleNotFoundError: No module named 'sparkdlx'",
        "",
    ],
)
def test_other_errors_are_left_to_speak_for_themselves(last_line):
    assert explain_worker_error(TRACE % last_line) is None


def test_pysparks_own_words_are_understood():
    """As the PySpark that is installed says it."""
    from pyspark.errors import PySparkRuntimeError

    versions = {"worker_version": "3.10", "driver_version": "3.11"}
    # By place: Spark 3.5 and 4.0 call these differently.
    text = str(PySparkRuntimeError(None, "PYTHON_VERSION_MISMATCH", versions))
    assert explain_worker_error(text) == "the executors have Python 3.10, the driver has Python 3.11" + ENVIRONMENT
