"""What tests share: one Spark session, one prepared dataset of scikit-learn's digits."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Spark's Python workers must run in this very environment.
os.environ["PYSPARK_PYTHON"] = sys.executable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "jobs"))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A Spark session with two cores."""
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .appName("sparkdl tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={ROOT / 'conf' / 'log4j2.properties'}")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def digits(spark):
    """The raw digits: id, pixels, digit."""
    from examples.digits import read

    return read(spark).cache()


@pytest.fixture(scope="session")
def digits_dataset(digits, tmp_path_factory):
    """The digits, prepared with ids kept, divided into train, val and test."""
    import sparkdl
    from sparkdl.features import Categorical, Tensor

    config = sparkdl.PrepareConfig(
        path=str(tmp_path_factory.mktemp("digits") / "data"),
        features=[Tensor("pixels", shape=(8, 8, 1))],
        label=Categorical("digit"),
        keep=["id"],
        splits=sparkdl.Split.fraction({"train": 0.8, "val": 0.1, "test": 0.1}, seed=7, key="id"),
        seed=7,
    )
    return sparkdl.prepare(digits, config)
