"""What is kept of a job's options."""

import yaml

from sparkdl.cli.record import record_job, shown_options


def test_secrets_and_environments_are_left_out() -> None:
    options = {
        "source": {"format": "jdbc", "options": {"url": "jdbc:x", "password": "p", "fs.s3a.access.key": "k"}},
        "splits": {"fraction": {"train": 1.0}, "key": "id"},
        "launch": {"env": {"A": "1", "B": "2"}, "num_workers": 2},
        "features": [{"tensor": "pixels"}],
    }
    assert shown_options(options) == {
        "source": {"format": "jdbc", "options": {"url": "jdbc:x", "password": "***", "fs.s3a.access.key": "***"}},
        "splits": {"fraction": {"train": 1.0}, "key": "id"},
        "launch": {"env": {"A": "***", "B": "***"}, "num_workers": 2},
        "features": [{"tensor": "pixels"}],
    }


def test_the_record_is_a_job_file_beside_the_output_and_written_once(tmp_path) -> None:
    options = {"epochs": 3, "run_dir": str(tmp_path / "run"), "launch": {"num_workers": 2}}
    path = record_job(options, options["run_dir"], job="train")
    assert path == str(tmp_path / "run.job.yaml")
    with open(path) as file:
        assert yaml.safe_load(file) == options
    written = (tmp_path / "run.job.yaml").stat().st_mtime_ns
    record_job(options, options["run_dir"], job="train")
    assert (tmp_path / "run.job.yaml").stat().st_mtime_ns == written
    record_job({**options, "epochs": 4}, options["run_dir"], job="train")
    with open(path) as file:
        assert yaml.safe_load(file)["epochs"] == 4
