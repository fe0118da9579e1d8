"""Generations of a dataset: what stays, what is swept, and who is taken for dead."""

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest

from sparkdl import DatasetError, storage
from sparkdl.data.dataset import Dataset, Part, find_dataset
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.data.generations import Lease, abandon, check_held, commit, damage, new_generation, sweep
from sparkdl.data.layout import Field, RecordLayout


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    path = str(tmp_path) if request.param == "local" else f"memory://{tmp_path}"
    storage.make_folder(path)
    yield path
    storage.delete(path)


def written(folder, generation):
    """A dataset of one part, not committed."""
    storage.write_atomic(storage.join(folder, generation, "train-0.parquet"), b"12345")
    encoder = TensorEncoder("x", (), (), np.dtype("float32"))
    return Dataset(
        path=folder,
        encoders=(encoder,),
        label_encoders=(),
        weight=None,
        keep=(),
        raw_types={"x": "double"},
        rule=None,
        seed=0,
        lanes=1,
        layout=RecordLayout((Field("feature", "x", "float32", ()),)),
        parts=(Part(f"{generation}/train-0.parquet", "train", (1,), 5),),
        fingerprint="f",
    )


def prepare(folder):
    """As `prepare` does it, without the rows."""
    with Lease(folder, new_generation()) as lease:
        sweep(folder, lease)
        return commit(written(folder, lease.generation), lease)


def test_the_manifest_names_two_generations_and_no_other_stays(folder) -> None:
    first, second, third = prepare(folder), prepare(folder), prepare(folder)
    assert find_dataset(folder) == third and third.previous == second.generation
    assert storage.listing(folder) == sorted(["dataset.json", second.generation, third.generation])
    assert damage(second) is None and damage(first) == f"{first.parts[0].file} is missing"


def test_a_handle_whose_parts_are_gone_tells_what_became_of_them(folder) -> None:
    first, second = prepare(folder), prepare(folder)
    check_held(first)
    third = prepare(folder)
    check_held(second)
    with pytest.raises(DatasetError, match="train-0.parquet is missing; the dataset was prepared anew since"):
        check_held(first)
    storage.delete(storage.join(folder, third.parts[0].file))
    with pytest.raises(DatasetError, match="is missing; the dataset was damaged; prepare it again"):
        check_held(third)
    storage.delete(storage.join(folder, "dataset.json"))
    with pytest.raises(DatasetError, match="no dataset is at .* any more: it was moved or deleted; open it where it"):
        check_held(first)


def test_files_that_no_manifest_lists_go_with_the_commit(folder) -> None:
    with Lease(folder, new_generation()) as lease:
        dataset = written(folder, lease.generation)
        storage.write_atomic(storage.join(folder, lease.generation, "train-0-again.parquet"), b"123")
        commit(dataset, lease)
    assert storage.listing(storage.join(folder, lease.generation)) == ["train-0.parquet"]


def test_what_a_dead_prepare_left_is_swept_and_a_living_ones_is_not(folder, monkeypatch) -> None:
    standing = prepare(folder)
    dead, living = new_generation(), new_generation()
    for generation in (dead, living):
        written(folder, generation)
        storage.touch(storage.join(folder, generation + ".lease"))
    unleased = new_generation()
    written(folder, unleased)
    storage.touch(storage.join(folder, "dataset.json.0af.aside"))
    monkeypatch.setattr(Lease, "expiry_s", 1.0)
    time.sleep(1.2)
    storage.touch(storage.join(folder, living + ".lease"))
    with Lease(folder, new_generation()) as lease:
        sweep(folder, lease)
    assert storage.listing(folder) == sorted(["dataset.json", standing.generation, living, living + ".lease"])


def test_a_generation_that_is_committed_during_a_sweep_stays(folder, monkeypatch) -> None:
    prepare(folder)
    other = Lease(folder, new_generation()).__enter__()
    dataset = written(folder, other.generation)
    listing, listed = storage.listing, []

    def commits_meanwhile(path):
        listed.append(path)
        if listed == [folder, folder]:
            commit(dataset, other)
            other.__exit__()
        return listing(path)

    with Lease(folder, new_generation()) as lease:
        monkeypatch.setattr(storage, "listing", commits_meanwhile)
        sweep(folder, lease)
    assert find_dataset(folder).generation == dataset.generation and damage(dataset) is None


def test_a_lease_outlives_its_expiry_by_renewal(folder, monkeypatch) -> None:
    monkeypatch.setattr(Lease, "interval_s", 0.02)
    monkeypatch.setattr(Lease, "expiry_s", 2.0)
    with Lease(folder, new_generation()) as slow:
        written(folder, slow.generation)
        time.sleep(2.5)
        second = prepare(folder)
        first = commit(written(folder, slow.generation), slow)
    assert find_dataset(folder) == first and first.previous == second.generation


def test_a_prepare_that_was_taken_for_dead_does_not_commit(folder) -> None:
    with Lease(folder, new_generation()) as lease:
        dataset = written(folder, lease.generation)
        storage.delete(lease.file)
        lease.renew()
        with pytest.raises(DatasetError, match="silent for more than 60 s.*prepare it again"):
            commit(dataset, lease)
    with Lease(folder, new_generation()) as lease:
        dataset = written(folder, lease.generation)
        storage.delete(storage.join(folder, dataset.parts[0].file))
        with pytest.raises(DatasetError, match="train-0.parquet is missing"):
            commit(dataset, lease)
    assert find_dataset(folder) is None


def test_the_last_of_two_writers_stays_and_the_firsts_handle_is_readable(folder) -> None:
    before = prepare(folder)
    with Lease(folder, new_generation()) as one, Lease(folder, new_generation()) as two:
        sweep(folder, one)
        sweep(folder, two)
        first = commit(written(folder, one.generation), one)
        assert find_dataset(folder) == first
        second = commit(written(folder, two.generation), two)
    assert find_dataset(folder) == second and damage(first) is None
    assert before.generation not in storage.listing(folder)
    assert prepare(folder).previous == second.generation


def test_a_failure_after_the_commit_does_not_delete_what_was_committed(folder) -> None:
    dataset = prepare(folder)
    failed = new_generation()
    written(folder, failed)
    abandon(folder, failed)
    abandon(folder, dataset.generation)
    assert damage(dataset) is None and failed not in storage.listing(folder)


def test_a_part_of_another_size_is_damage(folder) -> None:
    dataset = prepare(folder)
    other = dataclasses.replace(dataset, parts=(dataclasses.replace(dataset.parts[0], bytes=6),))
    assert damage(other) == f"{dataset.parts[0].file} has 5 bytes instead of 6"


def test_clocks_of_other_hosts_do_not_matter(tmp_path, monkeypatch) -> None:
    """A file system whose clock is an hour behind: its leases look old to this host, and are not."""
    other = new_generation()
    written(str(tmp_path), other)
    storage.touch(str(tmp_path / f"{other}.lease"))
    touch = storage.touch

    def touch_an_hour_ago(path):
        touch(path)
        os.utime(path, (time.time() - 3600,) * 2)

    monkeypatch.setattr(storage, "touch", touch_an_hour_ago)
    storage.touch(str(tmp_path / f"{other}.lease"))
    prepare(str(tmp_path))
    assert (Path(tmp_path) / other / "train-0.parquet").exists()
