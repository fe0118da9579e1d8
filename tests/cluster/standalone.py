"""A Spark standalone cluster on hosts of its own: a master, workers, and a host for drivers.

    python tests/cluster/standalone.py --workers 3 -- spark-submit jobs/prepare.py conf/prepare.yaml

starts one, runs the command on the driver's host, ends everything, and exits with the command's code. As root, with
iproute2. Hosts share the file system, so a folder of this machine is one that all hosts see.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyspark

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import jvm
from hosts import Host, Network, missing

__all__ = ["MASTER_URL", "SparkCluster"]

ROOT = Path(__file__).resolve().parents[2]
MASTER_URL = "spark://master:7077"
START_LIMIT_S = 60.0
DEFAULTS = f"""
spark.master                      {MASTER_URL}
spark.executor.memory             600m
spark.ui.enabled                  false
spark.ui.showConsoleProgress      false
spark.sql.shuffle.partitions      4
spark.driver.extraJavaOptions     -Dlog4j2.configurationFile={ROOT / "conf" / "log4j2.properties"}
"""


class SparkCluster:
    """A running cluster. A context manager; at its end no process of it is left.

    Args:
        folder: an empty one, for all that the cluster writes.
        workers: the hosts of workers, by name; what `Network.add` takes for each.
        cores: each worker's, which are its task slots.
        settings: lines for spark-defaults.conf.
        env: more variables for all hosts.
    """

    def __init__(
        self,
        folder: Path,
        workers: Mapping[str, Mapping[str, Any]] | Sequence[str] = ("worker-1", "worker-2"),
        *,
        cores: int = 1,
        settings: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._workers = dict(workers) if isinstance(workers, Mapping) else {name: {} for name in workers}
        self._cores = cores
        self._settings = settings
        self._env = dict(env or {})
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> SparkCluster:
        (self.folder / "conf").mkdir(parents=True)
        (self.folder / "conf" / "spark-defaults.conf").write_text(DEFAULTS + self._settings)
        (self.folder / "logs").mkdir()
        with contextlib.ExitStack() as stack:
            self.network = stack.enter_context(Network(self.folder / "hosts"))
            self.driver = self._add("driver")
            command = ("org.apache.spark.deploy.master.Master", "--host", "master", "--port", "7077")
            self._start(self._add("master"), command)
            for name, options in self._workers.items():
                self._add_worker(name, options)
            self.await_workers(len(self._workers))
            self._life = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()
        for file in self._files:
            file.close()

    def environment(self, host: str) -> dict[str, str]:
        """The variables of a host's programs: this Python, and folders of the host's own for all that they write."""
        place = self.folder / "hosts" / host
        path = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
        variables = {
            **os.environ,
            "JDK_JAVA_OPTIONS": f"{jvm.OPTIONS} -XX:-UsePerfData -Djava.io.tmpdir={place / 'tmp'}",
            "MASTER": MASTER_URL,
            "PATH": os.pathsep.join(path),
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "SPARK_CONF_DIR": str(self.folder / "conf"),
            "SPARK_DAEMON_MEMORY": "200m",
            "SPARK_HOME": str(Path(pyspark.__file__).parent),
            "SPARK_LOCAL_DIRS": str(place / "spark"),
            "SPARK_WORKER_CORES": str(self._cores),
            "SPARK_WORKER_DIR": str(place / "work"),
            "SPARK_WORKER_MEMORY": "4g",
            "TMPDIR": str(place / "tmp"),
            **self._env,
        }
        return {name: value for name, value in variables.items() if name != "SPARK_SUBMIT_OPTS"}

    def submit(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> Any:
        """Run spark-submit on the driver's host to its end; `returncode` and `stdout` (errors too) tell about it."""
        env = {**self.environment("driver"), **(env or {})}
        return self.driver.run([f"{env['SPARK_HOME']}/bin/spark-submit", *arguments], cwd=cwd, env=env, timeout=timeout)

    def start_driver(self, *arguments: str, cwd: Path, output: Path) -> subprocess.Popen[bytes]:
        """Start spark-submit on the driver's host; what it prints goes to a file."""
        env = self.environment("driver")
        command = [f"{env['SPARK_HOME']}/bin/spark-submit", *arguments]
        with output.open("wb") as file:
            return self.driver.popen(command, cwd=cwd, env=env, stdout=file, stderr=subprocess.STDOUT)

    def add_worker(self, name: str, **options: Any) -> Host:
        """A further worker, registered when this returns; applications that want more cores get executors on it."""
        before = self._registered()
        host = self._add_worker(name, options)
        self.await_workers(before + 1)
        return host

    def await_workers(self, number: int) -> None:
        """Wait until the master has registered so many workers in all."""
        limit = time.monotonic() + START_LIMIT_S
        while self._registered() < number:
            if time.monotonic() > limit:
                raise TimeoutError(f"{self._registered()} of {number} workers registered; see {self.folder / 'logs'}")
            time.sleep(0.1)

    def _registered(self) -> int:
        return (self.folder / "logs" / "master.log").read_text(errors="replace").count("Registering worker")

    def _add(self, name: str, options: Mapping[str, Any] | None = None) -> Host:
        for folder in ("spark", "tmp", "work"):
            (self.folder / "hosts" / name / folder).mkdir(parents=True)
        return self.network.add(name, **(options or {}))

    def _add_worker(self, name: str, options: Mapping[str, Any]) -> Host:
        host = self._add(name, options)
        self._start(host, ("org.apache.spark.deploy.worker.Worker", "--host", host.address, MASTER_URL))
        return host

    def _start(self, host: Host, arguments: Sequence[str]) -> None:
        log = (self.folder / "logs" / f"{host.name}.log").open("wb")
        self._files.append(log)
        env = self.environment(host.name)
        program = f"{env['SPARK_HOME']}/bin/spark-class"
        host.popen([program, *arguments], cwd=self.folder, env=env, stdout=log, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def _folder(given: str | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="spark-hosts-") as folder:
        yield Path(folder)


def main() -> int:
    """Run a command on a cluster of its own. Returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="hosts with a Spark worker each")
    parser.add_argument("--cores", type=int, default=1, help="cores of a worker: its task slots")
    parser.add_argument("--folder", help="a new folder for logs and what executors leave; else a temporary one")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    lacking = missing()
    if lacking:
        parser.error(lacking)
    names = [f"worker-{number}" for number in range(1, options.workers + 1)]
    with _folder(options.folder) as folder, SparkCluster(folder, names, cores=options.cores) as cluster:
        env = cluster.environment("driver")
        return cluster.driver.popen(options.command, cwd=Path.cwd(), env=env).wait()


if __name__ == "__main__":
    sys.exit(main())
