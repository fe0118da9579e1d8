"""The set-up script, scripts/setup.sh: it says what a machine lacks before it downloads anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

from paths import ROOT

BASH = shutil.which("bash")

PYTHON_311 = "exit 0"
PYTHON_314 = "exit 1"  # the script asks it whether its version will do
PYTHON_WITHOUT_VENV = 'case "$*" in *ensurepip*) exit 1 ;; esac'
COMPLETE = {
    "uname": "echo Linux x86_64",
    "python3": PYTHON_311,
    "java": """echo 'openjdk version "17.0.15" 2025-04-15' >&2""",
    "g++": "",
    "make": "",
}


def check(
    bin_dir: Path,
    commands: dict[str, str | None],
    *,
    java_home: Path | None = None,
    asked: dict[str, str] | None = None,
):
    """Run the check on a machine that has these commands (name -> shell line) and no others."""
    bin_dir.mkdir(parents=True)
    for name, line in commands.items():
        if line is not None:
            (bin_dir / name).write_text(f"#!{BASH}\n{line}\n")
            (bin_dir / name).chmod(0o755)
    env = {"PATH": str(bin_dir), **(asked or {})} | ({"JAVA_HOME": str(java_home)} if java_home else {})
    script = [BASH, str(ROOT / "scripts" / "setup.sh"), "--check-only"]
    return subprocess.run(script, env=env, capture_output=True, text=True, timeout=20)


def test_a_complete_machine_passes_in_silence(tmp_path):
    done = check(tmp_path / "bin", COMPLETE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"java": None}, "missing Java 17 or 21 (found none); run: apt-get install openjdk-17-jdk-headless"),
        (
            {"java": """echo 'java version "1.8.0_292"' >&2"""},
            "missing Java 17 or 21 (found 8); run: apt-get install openjdk-17-jdk-headless",
        ),
        (
            {"java": """echo 'openjdk version "25" 2025-09-16' >&2"""},
            "missing Java 17 or 21 (found 25); run: apt-get install openjdk-17-jdk-headless",
        ),
        ({"g++": None}, "missing g++; run: apt-get install g++"),
        ({"make": None}, "missing make; run: apt-get install make"),
        ({"python3": PYTHON_WITHOUT_VENV}, "missing the venv module of python3; run: apt-get install python3-venv"),
        (
            {"python3": PYTHON_314, "python3.12": PYTHON_WITHOUT_VENV},
            "missing the venv module of python3.12; run: apt-get install python3.12-venv",
        ),
        ({"python3": PYTHON_314}, "missing Python 3.10 to 3.13; run: apt-get install python3.11 python3.11-venv"),
        ({"python3": None}, "missing Python 3.10 to 3.13; run: apt-get install python3.11 python3.11-venv"),
        (
            {"java": None, "g++": None},
            "missing Java 17 or 21 (found none), g++; run: apt-get install openjdk-17-jdk-headless g++",
        ),
        (
            {"uname": "echo Darwin arm64"},
            "needs Linux x86_64 (TensorFlow and Horovod), this is Darwin arm64; use such a machine or container",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, change, line):
    done = check(tmp_path / "bin", COMPLETE | change)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"setup: {line}\n")


def test_a_later_supported_python_beside_an_unsupported_one_is_enough(tmp_path):
    done = check(tmp_path / "bin", COMPLETE | {"python3": PYTHON_314, "python3.12": PYTHON_311})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("version", "is_enough"), [("0.9.0", True), ("1.0.2", True), ("0.8.24", False)])
def test_a_recent_uv_makes_up_for_a_missing_venv_module(tmp_path, version, is_enough):
    machine = COMPLETE | {"python3": PYTHON_WITHOUT_VENV, "uv": f"echo 'uv {version} (abc 2026-01-01)'"}
    assert (check(tmp_path / "bin", machine).returncode == 0) is is_enough


def test_java_home_goes_before_path(tmp_path):
    done = check(tmp_path / "bin", COMPLETE, java_home=tmp_path / "gone")
    assert done.returncode == 1
    assert f"(found none in JAVA_HOME={tmp_path / 'gone'})" in done.stderr
    assert done.stderr.endswith("then unset JAVA_HOME\n")


def test_a_finished_set_up_is_left_alone(tmp_path):
    """On a machine that could not be set up, the script is content as long as its stamp fits, and only then."""
    checkout, machine = tmp_path / "checkout", tmp_path / "machine"
    for name in ("scripts/setup.sh", "pyproject.toml"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/true")
    (venv / "synced").write_text(f"{checkout.resolve()}\n{(ROOT / 'pyproject.toml').read_text()}")
    machine.mkdir()
    (machine / "cat").symlink_to(shutil.which("cat"))

    def is_content() -> bool:
        script = [BASH, str(checkout / "scripts" / "setup.sh")]
        return subprocess.run(script, env={"PATH": str(machine)}, capture_output=True, timeout=20).returncode == 0

    assert is_content()
    (venv / "unfinished").touch()
    assert not is_content()
    (venv / "unfinished").unlink()
    assert is_content()
    with (checkout / "pyproject.toml").open("a") as config:
        config.write("# changed\n")
    assert not is_content()


def test_a_version_of_python_that_is_asked_for_must_be_there(tmp_path):
    python = """case "$*" in *"wanted = '3.12'"*) exit 1 ;; esac"""
    done = check(tmp_path / "bin", COMPLETE | {"python3": python}, asked={"PYTHON": "3.12"})
    assert done.stderr == "setup: missing Python 3.12; run: apt-get install python3.12 python3.12-venv\n"


def test_a_stack_brings_its_python_with_it(tmp_path):
    python = """case "$*" in *"wanted = '3.10'"*) exit 1 ;; esac"""
    done = check(
        tmp_path / "bin", COMPLETE | {"python3": python, "sed": 'exec /usr/bin/sed "$@"'}, asked={"STACK": "oldest"}
    )
    assert done.stderr == "setup: missing Python 3.10; run: apt-get install python3.10 python3.10-venv\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"SSL_CERT_FILE": "company.pem"}, "uv true true company.pem"),
        # Before the one of the system: what was said of uv, and of the library in pip.
        (
            {"SSL_CERT_FILE": "company.pem", "UV_NATIVE_TLS": "false", "CURL_CA_BUNDLE": "other.pem"},
            "uv false false other.pem",
        ),
        ({"SSL_CERT_FILE": "company.pem", "UV_SYSTEM_CERTS": "false"}, "uv false false company.pem"),
    ],
)
@pytest.mark.parametrize("uv", ["in the PATH", "to be installed"])
def test_uv_and_pip_take_the_certificates_of_the_system(tmp_path, given, told, uv) -> None:
    """Behind a company's proxy neither would get anything with the authorities that it brings along."""
    checkout, machine = tmp_path / "checkout", tmp_path / "machine"
    for name in ("scripts/setup.sh", "pyproject.toml"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "company.pem").touch()
    tell = f'echo "$UV_NATIVE_TLS $UV_SYSTEM_CERTS $REQUESTS_CA_BUNDLE" | sed "s/^/$1 /" >>{tmp_path}/told'
    fake_uv = f"[[ $1 == --version ]] && echo uv 0.9.0 && exit; set -- uv; {tell}"
    (tmp_path / "uv").write_text(f"#!{BASH}\n{fake_uv}\n")
    (tmp_path / "uv").chmod(0o755)
    python = f"""case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"-m pip install"*) cp {tmp_path}/uv .venv/bin/uv; set -- pip; {tell} ;;
    esac"""
    commands = COMPLETE | {"python3": python}
    if uv == "in the PATH":
        commands["uv"] = fake_uv
    machine.mkdir()
    for name, line in commands.items():
        (machine / name).write_text(f"#!{BASH}\n{line}\n")
        (machine / name).chmod(0o755)
    for tool in ("cat", "head", "flock", "rm", "mkdir", "touch", "cp", "sed"):
        (machine / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [BASH, str(checkout / "scripts" / "setup.sh")],
        env={"PATH": str(machine), **given},
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "told").read_text().splitlines()
    assert lines == ([] if uv == "in the PATH" else [f"pip{told[2:]}"]) + [told]
