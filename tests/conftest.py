"""What tests share: one Spark session, one prepared dataset of scikit-learn's digits, a server that speaks S3."""

import os
import sys
import uuid
from collections.abc import Iterator

import pytest

import jvm
from paths import ROOT, TESTS

# Spark's Python workers must run in this very environment.
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["SPARK_SUBMIT_OPTS"] = jvm.OPTIONS
LOG4J = ROOT / "conf" / "log4j2.properties"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the archive of Spark's classes before any test's JVM starts."""
    if not hasattr(session.config, "workerinput"):
        jvm.make_archive()


@pytest.fixture(autouse=True)
def single_floats() -> Iterator[None]:
    """What a test set in Keras for all of this process is forgotten: the next test may be another file's."""
    yield
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A Spark session with two cores."""
    from pyspark.sql import SparkSession

    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # where Spark finds warm_daemon
        session = (
            SparkSession.builder.master("local[2]")
            .appName("sparkdl tests")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.sql.shuffle.partitions", "4")
            .config("spark.python.daemon.module", "warm_daemon")
            .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
            .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={LOG4J}")
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


@pytest.fixture(scope="module")
def s3_environment() -> Iterator[dict[str, str]]:
    """A server on loopback, for one module; its environment variables, set, are all that tells where it is."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield environment
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(s3_environment: dict[str, str]) -> str:
    """The name of an empty bucket of the test's own."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return name
