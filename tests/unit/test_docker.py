"""The files in docker/ parse, name what is there, and ask for the versions of pyproject.toml. No Docker is needed."""

import re
import shlex
import subprocess

import pytest
import yaml

from paths import ROOT

DOCKER = ROOT / "docker"
IMAGES = ("Dockerfile", "Dockerfile.gpu")
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT"}
PROJECT = (ROOT / "pyproject.toml").read_text()
VERSION = re.search(r'^version = "(.+)"$', PROJECT, re.MULTILINE)[1]


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_built_in_two_stages_and_does_not_run_as_root(name: str) -> None:
    found = instructions(name)
    assert {word for word, _ in found} <= INSTRUCTIONS
    stages = [rest for word, rest in found if word == "FROM"]
    assert len(stages) == 2 and stages[0].endswith(" AS build") and ":" in stages[1]
    assert ("USER", "185") in found and found[-1][0] == "ENTRYPOINT"


@pytest.mark.parametrize("name", IMAGES)
def test_what_an_image_copies_is_in_the_project(name: str) -> None:
    for word, rest in instructions(name):
        sources = shlex.split(rest)[:-1]
        if word == "COPY" and not sources[0].startswith("--from="):
            # A pattern may match nothing: what `make wheel` makes.
            assert all("*" in source or (ROOT / source).exists() for source in sources), rest
    entry = DOCKER / "entrypoint.sh"
    assert entry.stat().st_mode & 0o111


@pytest.mark.parametrize(("name", "extra"), [("Dockerfile", "cpu"), ("Dockerfile.gpu", "gpu")])
def test_an_image_has_the_versions_of_the_project(name: str, extra: str) -> None:
    text = " ".join(rest for _, rest in instructions(name))
    assert f"--extra {extra}" in text and f"sparkdl:{VERSION}-{extra}" in (DOCKER / name).read_text()
    (python,) = set(re.findall(r"python(3\.\d+)", text))
    assert python in re.findall(r"Python :: (3\.\d+)", PROJECT)
    for pinned in re.findall(r"horovod==[\d.]+", text):
        assert pinned in PROJECT
    java = re.search(r"openjdk-(\d+)", text)[1]
    assert java in ("17", "21") and f"java-{java}-openjdk" in text


def test_horovod_is_built_for_gpus_as_for_processors_but_with_nccl() -> None:
    text = " ".join(rest for word, rest in instructions("Dockerfile.gpu") if word == "ENV")
    recipe = re.search(r"horovod = (\{ HOROVOD_.* \})", PROJECT)[1]
    for name, value in re.findall(r'(HOROVOD_\w+) = "(\d)"', recipe):
        assert f"{name}={value}" in text
    assert "HOROVOD_GPU_OPERATIONS=NCCL" in text


def test_the_compose_cluster_is_whole() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    services = compose["services"]
    assert {"master", "worker-1", "worker-2", "history", "demo"} <= set(services)
    for service in services.values():
        assert service["image"] == f"sparkdl:{VERSION}-cpu"
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
    assert services["demo"]["command"][-1] == "/opt/sparkdl/demo.sh"


@pytest.mark.parametrize("script", ["docker/entrypoint.sh", "docker/demo.sh", "docker/gpus.sh", "scripts/pack.sh"])
def test_a_script_is_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_the_discovery_script_tells_gpus_as_spark_reads_them(tmp_path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([str(DOCKER / "gpus.sh")], env=env, text=True, capture_output=True, check=True)
    assert done.stdout == '{"name": "gpu", "addresses": ["0","1"]}\n'


def test_the_entry_point_starts_an_executor_with_its_java_options(tmp_path) -> None:
    tini = tmp_path / "tini"
    tini.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    tini.chmod(0o755)
    given = {"MEMORY": "1g", "ID": "3", "CORES": "2", "POD_IP": "198.51.100.9", "POD_NAME": "pod-3"}
    env = {f"SPARK_EXECUTOR_{name}": value for name, value in given.items()}
    env |= {"SPARK_DRIVER_URL": "spark://driver", "SPARK_APPLICATION_ID": "app", "SPARK_RESOURCE_PROFILE_ID": "0"}
    env |= {"SPARK_JAVA_OPT_0": "-Dfirst=a b", "SPARK_JAVA_OPT_1": "-Dsecond"}
    env |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "JAVA_HOME": "/java", "SPARK_HOME": "/spark"}
    done = subprocess.run(
        [str(DOCKER / "entrypoint.sh"), "executor"], env=env, text=True, capture_output=True, check=True
    )
    words = done.stdout.splitlines()
    assert words[:6] == ["-s", "--", "/java/bin/java", "-Dfirst=a b", "-Dsecond", "-Xms1g"]
    assert words[words.index("--hostname") + 1] == "198.51.100.9" and "/spark/jars/*" in words[words.index("-cp") + 1]
