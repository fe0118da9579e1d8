"""Keep the generations of a dataset: commit finished ones, lease those being written, delete what dead prepares left.

Runs on the driver, within prepare; ranks that cannot read a part ask what became of its generation. Every prepare
writes into a separate folder `generation-…`, beside a lease `generation-….lease` that the prepare renews while it
lives. The manifest names one generation, and the one before, which open handles may still read. A generation that is
neither named nor leased belongs to a dead prepare.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid

from sparkdl import storage
from sparkdl.data.dataset import MANIFEST_NAME, Dataset, find_dataset
from sparkdl.errors import DatasetError
from sparkdl.storage import lease as storage_lease

__all__ = [
    "Lease",
    "abandon",
    "check_held",
    "commit",
    "damage",
    "fate",
    "is_ours",
    "lease_file",
    "new_generation",
    "sweep",
]

log = logging.getLogger(__name__)

PREFIX = "generation-"
LEASE = ".lease"


def new_generation() -> str:
    """Return a folder's name that no other prepare uses."""
    return f"{PREFIX}{uuid.uuid4().hex[:12]}"


def lease_file(generation: str) -> str:
    """Return the name of the lease, the file that says that a generation is being written."""
    return generation + LEASE


def is_ours(name: str) -> bool:
    """Tell whether a name in a dataset's folder is one that prepare gives."""
    return name == MANIFEST_NAME or name.startswith((PREFIX, f"{MANIFEST_NAME}."))


class Lease(storage_lease.Lease):
    """Show other prepares that a generation is being written; who takes this one for dead deletes the file."""

    def __init__(self, path: str, generation: str) -> None:
        super().__init__(storage.join(path, lease_file(generation)))
        self.generation = generation


def sweep(path: str, lease: Lease) -> None:
    """Delete what dead prepares left. All times compared are the file system's, so hosts' clocks may differ."""
    folders = [name for name in storage.listing(path) if name.startswith(PREFIX) and "." not in name]
    # A lease is made before its folder and outlives the commit. So: folders, then leases, then the manifest; in any
    # other order a generation that was just begun, or just committed, could look dead.
    names = storage.listing(path)
    silent = _silent(path, [name for name in names if name.endswith((LEASE, storage.ASIDE))], lease)
    leased = {name.removesuffix(LEASE) for name in names if name.endswith(LEASE) and name not in silent}
    named = _named(find_dataset(path))
    dead = (set(folders) | {name.removesuffix(LEASE) for name in silent if name.endswith(LEASE)}) - leased - named
    for generation in sorted(dead):
        log.info("deleting %s of %s, which a prepare left unfinished", generation, path)
        # The lease first: a writer that was only slow must see that its generation is deleted.
        storage.delete(storage.join(path, lease_file(generation)))
        storage.delete(storage.join(path, generation))
    for name in silent:
        storage.delete(storage.join(path, name))


def commit(dataset: Dataset, lease: Lease) -> Dataset:
    """Make a dataset the one at its path, and delete the generation before the one that it replaces.

    Raises:
        DatasetError: another prepare took this one for dead, or a part is missing.
    """
    replaced = find_dataset(dataset.path)
    dataset = dataclasses.replace(dataset, previous=replaced.generation if replaced else None)
    problem = damage(dataset)
    if problem or not lease.is_held():
        reason = problem or f"its lease is gone: it was silent for more than {lease.expiry_s:g} s"
        raise DatasetError(f"{dataset.path}: what was prepared did not stay ({reason}); prepare it again")
    dataset.commit()
    # Task attempts whose results Spark did not use have left files.
    listed = {part.file for part in dataset.parts}
    for name in storage.listing(storage.join(dataset.path, dataset.generation)):
        if f"{dataset.generation}/{name}" not in listed:
            storage.delete(storage.join(dataset.path, dataset.generation, name))
    if replaced and replaced.previous:
        storage.delete(storage.join(dataset.path, replaced.previous))
    return dataset


def abandon(path: str, generation: str) -> None:
    """Delete the generation of a prepare that failed, unless the generation was committed before the failure."""
    if generation not in _named(find_dataset(path)):
        # The lease first: its absence shows tasks that still run that nobody wants their parts any more.
        storage.delete(storage.join(path, lease_file(generation)))
        storage.delete(storage.join(path, generation))


def damage(dataset: Dataset) -> str | None:
    """Describe the first part that is missing or of another size, or return None: one listing, no file is opened."""
    found = storage.sizes(storage.join(dataset.path, dataset.generation))
    for part in dataset.parts:
        size = found.get(part.file.split("/", 1)[1])
        if size is None:
            return f"{part.file} is missing"
        if size != part.bytes:
            return f"{part.file} has {size} bytes instead of {part.bytes}"
    return None


def check_held(dataset: Dataset) -> None:
    """Raise DatasetError if parts of a dataset are gone, with what became of its generation: one listing."""
    problem = damage(dataset)
    if problem:
        raise DatasetError(f"{dataset.path}: {problem}; {fate(dataset.path, dataset.generation)}")


def fate(path: str, generation: str) -> str:
    """Describe what became of a generation whose parts cannot be read, and the way out."""
    try:
        standing = find_dataset(path)
    except DatasetError as error:
        return str(error)
    if standing is None:
        return f"no dataset is at {path} any more: it was moved or deleted; open it where it is, or prepare it again"
    if generation in _named(standing):
        return "the dataset was damaged; prepare it again"
    return (
        "the dataset was prepared anew since it was opened, and its folder keeps the last two: open it again by "
        f"sparkdl.open_dataset({path!r})"
    )


def _named(dataset: Dataset | None) -> set[str]:
    """Return the generations that a manifest names."""
    return {name for name in (dataset.generation, dataset.previous) if name} if dataset else set()


def _silent(path: str, names: list[str], lease: Lease) -> list[str]:
    """Return the files that were written longer ago than a living prepare lets pass between renewals of its lease."""
    lease.renew()
    now = storage.modified(lease.file)
    silent = []
    for name in names:
        try:
            age = now - storage.modified(storage.join(path, name))
        except FileNotFoundError:  # its prepare ended meanwhile
            continue
        if age.total_seconds() > lease.expiry_s:
            silent.append(name)
    return silent
