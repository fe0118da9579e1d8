"""Keep the generations of a dataset: finished ones, those being written, and what dead ones left.

Driver, within prepare; where a part cannot be read, ranks ask what became of it. Every prepare writes into a folder of
its own, `generation-…`, beside a lease `generation-….lease` that it renews while it lives. The manifest names one
generation, and the one before, whose open handles may still be read. A generation that is neither named nor leased is
nobody's.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import uuid

from sparkdl import storage
from sparkdl.data.dataset import MANIFEST_NAME, Dataset, find_dataset
from sparkdl.errors import DatasetError

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
LEASE_INTERVAL_S = 5.0
# A writer that is silent for so long is taken for dead: longer than pauses of machines and stores.
LEASE_EXPIRY_S = 60.0


def new_generation() -> str:
    """A folder's name that no other prepare uses."""
    return f"{PREFIX}{uuid.uuid4().hex[:12]}"


def lease_file(generation: str) -> str:
    """The name of the file that says that a generation is being written."""
    return generation + LEASE


def is_ours(name: str) -> bool:
    """Whether a name in a dataset's folder is one that prepare gives."""
    return name == MANIFEST_NAME or name.startswith((PREFIX, f"{MANIFEST_NAME}."))


class Lease:
    """Tells other prepares that a generation is being written. A context manager; renews itself meanwhile."""

    def __init__(self, path: str, generation: str) -> None:
        self.generation = generation
        self.file = storage.join(path, lease_file(generation))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {generation}", daemon=True)

    def __enter__(self) -> Lease:
        storage.touch(self.file)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        storage.delete(self.file)

    def is_held(self) -> bool:
        """Whether no other prepare took this one for dead."""
        return storage.exists(self.file)

    def renew(self) -> None:
        """Count as alive from now on, unless taken for dead already."""
        if self.is_held():
            storage.touch(self.file)

    def _keep(self) -> None:
        while not self._ended.wait(LEASE_INTERVAL_S):
            try:
                self.renew()
            except Exception as error:  # stores have errors of their own; the next renewal, or the commit, will tell
                log.warning("%s cannot be renewed: %s", self.file, error)


def sweep(path: str, lease: Lease) -> None:
    """Delete what dead prepares left. Times are compared as the file system tells them, so clocks may differ."""
    folders = [name for name in storage.listing(path) if name.startswith(PREFIX) and "." not in name]
    # A lease is made before its folder and outlives the commit. So: folders, then leases, then the manifest; in any
    # other order a generation that is just born, or just committed, could look dead.
    names = storage.listing(path)
    silent = _silent(path, [name for name in names if name.endswith((LEASE, storage.ASIDE))], lease)
    leased = {name.removesuffix(LEASE) for name in names if name.endswith(LEASE) and name not in silent}
    named = _named(find_dataset(path))
    dead = (set(folders) | {name.removesuffix(LEASE) for name in silent if name.endswith(LEASE)}) - leased - named
    for generation in sorted(dead):
        log.info("deleting %s of %s, which a prepare left unfinished", generation, path)
        # The lease first: a writer that was only slow must see that it was taken for dead.
        storage.delete(storage.join(path, lease_file(generation)))
        storage.delete(storage.join(path, generation))
    for name in silent:
        storage.delete(storage.join(path, name))


def commit(dataset: Dataset, lease: Lease) -> Dataset:
    """Make it the dataset at its path, and forget the generation before the one that it replaces.

    Raises:
        DatasetError: another prepare took this one for dead, or a part is not there.
    """
    replaced = find_dataset(dataset.path)
    dataset = dataclasses.replace(dataset, previous=replaced.generation if replaced else None)
    problem = damage(dataset)
    if problem or not lease.is_held():
        reason = problem or f"its lease is gone: it was silent for more than {LEASE_EXPIRY_S:g} s"
        raise DatasetError(f"{dataset.path}: what was prepared did not stay ({reason}); prepare it again")
    dataset.commit()
    _delete_unlisted(dataset)
    if replaced and replaced.previous:
        storage.delete(storage.join(dataset.path, replaced.previous))
    return dataset


def abandon(path: str, generation: str) -> None:
    """Delete the generation of a prepare that failed, unless it was committed before that."""
    if generation not in _named(find_dataset(path)):
        # The lease first: tasks that still run see by it that nobody wants their parts any more.
        storage.delete(storage.join(path, lease_file(generation)))
        storage.delete(storage.join(path, generation))


def damage(dataset: Dataset) -> str | None:
    """What is missing of a dataset's parts, or None: one listing, no file is opened."""
    found = storage.sizes(storage.join(dataset.path, dataset.generation))
    for part in dataset.parts:
        size = found.get(part.file.split("/", 1)[1])
        if size is None:
            return f"{part.file} is missing"
        if size != part.bytes:
            return f"{part.file} has {size} bytes instead of {part.bytes}"
    return None


def check_held(dataset: Dataset) -> None:
    """Raise DatasetError where a dataset's parts are not there any more, with what became of them: one listing."""
    problem = damage(dataset)
    if problem:
        raise DatasetError(f"{dataset.path}: {problem}; {fate(dataset.path, dataset.generation)}")


def fate(path: str, generation: str) -> str:
    """What became of a generation whose parts cannot be read, and the way out."""
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
    """The generations that a manifest names."""
    if dataset is None:
        return set()
    return {dataset.generation} | ({dataset.previous} if dataset.previous else set())


def _silent(path: str, names: list[str], lease: Lease) -> list[str]:
    """Those of the files that were not written for longer than a living prepare leaves its lease alone."""
    lease.renew()
    now = storage.modified(lease.file)
    silent = []
    for name in names:
        try:
            age = now - storage.modified(storage.join(path, name))
        except FileNotFoundError:  # given back meanwhile
            continue
        if age.total_seconds() > LEASE_EXPIRY_S:
            silent.append(name)
    return silent


def _delete_unlisted(dataset: Dataset) -> None:
    """Delete files of task attempts that did not count."""
    listed = {part.file.split("/", 1)[1] for part in dataset.parts}
    folder = storage.join(dataset.path, dataset.generation)
    for name in storage.listing(folder):
        if name not in listed:
            storage.delete(storage.join(folder, name))
