"""docs/clusters.md names what is there, and marks what was not run."""

import re

import pytest
import yaml

from paths import ROOT

DOC = (ROOT / "docs" / "clusters.md").read_text()
BLOCKS = re.findall(r"^```(\S*)( not-run)?\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)


def test_every_block_of_commands_is_run_or_marked() -> None:
    assert len(BLOCKS) == DOC.count("```") // 2 and {language for language, _, _ in BLOCKS} == {"bash"}
    local = [text for _, marked, text in BLOCKS if not marked]
    assert len(local) == 5 and all("spark://master:7077" in text or text == "make pack\n" for text in local)
    for _, marked, text in BLOCKS:
        assert bool(marked) == any(word in text for word in ("yarn", "k8s://", "docker compose"))


@pytest.mark.parametrize("place", sorted(set(re.findall(r"\b(?:jobs|conf|docker)/[\w.-]+", DOC))))
def test_the_files_that_it_names_are_there(place: str) -> None:
    assert (ROOT / place).exists()


def test_options_in_commands_are_options_of_the_jobs() -> None:
    from sparkdl import LaunchConfig, TrainConfig

    known = {*TrainConfig.__dataclass_fields__, "dataset", "build_model", "dry_run", "log_format"}
    known |= {f"launch.{name}" for name in LaunchConfig.__dataclass_fields__}
    used = {option for _, _, text in BLOCKS for option in re.findall(r"(?<![-.\w])([a-z_]+(?:\.[a-z_]+)?)=", text)}
    assert used <= known | {name for name in used if name.startswith("spark.")}


def test_the_archive_is_named_as_pack_names_it() -> None:
    import sparkdl

    assert f"sparkdl-env-{sparkdl.__version__}-py3.11.tar.gz" in DOC


def test_the_pod_template_gives_a_checkpoint_time() -> None:
    pod = yaml.safe_load((ROOT / "docker" / "pod.yaml").read_text())
    assert pod["kind"] == "Pod" and pod["spec"]["terminationGracePeriodSeconds"] > 60
    (container,) = pod["spec"]["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
