"""What is sent to the ranks: its limit, and the name of what is too large."""

import dataclasses
import functools
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from sparkdl.errors import ConfigError
from sparkdl.launch.checks.payload_size import MAX_CLOSURE_BYTES, largest_part, pickled_task

KB = 1 << 10
TABLE = bytes(100 * KB)


def read(*args, **kwargs):
    """A module's function: it travels by name."""
    return TABLE, args, kwargs


@dataclasses.dataclass
class Settings:
    rate: float
    table: object


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    name: str
    table: object


class Trainer:
    def __init__(self, table):
        self.rate = 0.1
        self._table = table

    def fit(self):
        return len(self._table)

    def __call__(self):
        return self.fit()


class Dropping:
    """An object that does not send its cache."""

    def __init__(self, table, cache):
        self.table, self.cache = table, cache

    def __getstate__(self):
        return {"table": self.table}


@dataclasses.dataclass
class Locked:
    """A dataclass that travels without its lock."""

    lock: object
    table: bytes

    def __reduce__(self):
        return Settings, (0.1, self.table)


def with_variable(table):
    def train():
        return table

    return train


def with_default(table):
    def train(rate, table=table, *, other=1):
        return rate, table, other

    return train


def with_keyword_default(table):
    def train(*, table=table):
        return table

    return train


def with_nested_variable(table):
    def train():
        def step():
            return table

        return step()

    return train


def with_function(table):
    def load():
        return table

    def train():
        return load()

    return train


def with_global(table):
    """A function that is sent by value and names a global, in nested code only."""
    names = {"table": table}
    exec("def train():\n    return [table[i] for i in (lambda: [table])()]", names)
    names["train"].__module__ = "__main__"
    return names["train"]


def recursive(table):
    def train(again=True):
        return train(False) if again else table

    return train


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "path"),
    [
        (read, (1, TABLE), {}, "args[1]"),
        (read, ({"a": 1, "k": [0, 1, TABLE]},), {}, "args[0]['k'][2]"),
        (read, (), {"table": (TABLE, b"")}, "kwargs['table'][0]"),
        (read, (Settings(0.1, TABLE),), {}, "args[0].table"),
        (read, (), {"settings": Slots("a", TABLE)}, "kwargs['settings'].table"),
        (read, (Trainer(np.zeros(20 * KB)),), {}, "args[0]._table"),
        (read, (Dropping(TABLE, 2 * TABLE),), {}, "args[0]"),
        (Trainer(TABLE).fit, (), {}, "Trainer.fit.__self__._table"),
        (Trainer(TABLE), (), {}, "Trainer._table"),
        (functools.partial(read, 1, TABLE), (), {}, "partial(read).args[1]"),
        (functools.partial(read, table={"x": TABLE}), (), {}, "partial(read).keywords['table']['x']"),
        (functools.partial(with_variable(TABLE)), (), {}, "train's variable 'table'"),
        (with_variable(TABLE), (b"small",), {}, "train's variable 'table'"),
        (with_variable({"k": TABLE}), (), {}, "train's variable 'table'['k']"),
        (with_default(TABLE), (), {}, "train's default of 'table'"),
        (with_keyword_default(TABLE), (), {}, "train's default of 'table'"),
        (with_nested_variable(TABLE), (), {}, "train's variable 'table'"),
        (with_function(TABLE), (), {}, "load's variable 'table'"),
        (with_global(TABLE), (), {}, "train's global 'table'"),
        (recursive(TABLE), (), {}, "train's variable 'table'"),
        # The function is a module's: its global stays at home, though it is larger than the argument.
        (read, (TABLE[: 50 * KB],), {}, "args[0]"),
        # Not one of these carries half.
        (with_variable([TABLE, bytes(90 * KB), bytes(80 * KB)]), (), {}, "train's variable 'table'"),
    ],
)
def test_the_path_of_the_largest_part_is_found(fn, args, kwargs, path):
    found, size = largest_part(fn, args, kwargs)
    assert found == path
    assert 50 * KB <= size <= 300 * KB


def test_the_size_is_that_of_the_part_and_not_of_the_whole():
    _, size = largest_part(with_variable({"a": bytes(60 * KB), "b": bytes(40 * KB)}), (), {})
    assert 60 * KB <= size <= 61 * KB


def test_long_lists_are_not_taken_apart():
    assert largest_part(read, ([TABLE, *range(200)],), {})[0] == "args[0]"


def test_a_part_that_does_not_pickle_alone_is_left_out():
    assert largest_part(read, (Locked(threading.Lock(), TABLE),), {})[0] == "args[0].table"


def test_what_holds_itself_comes_to_an_end():
    ring = [TABLE[: 10 * KB]]
    for _ in range(30):
        ring = [ring, ring]
    ring[0].append(ring)
    path, size = largest_part(read, (ring,), {})
    assert path.startswith("args[0]") and size >= 10 * KB


def test_a_dense_graph_is_not_pickled_for_ever():
    nodes = [Trainer(bytes(KB)) for _ in range(90)]
    for node in nodes:
        node.peers = nodes  # alone, each part is the whole
    writes = []

    class Counting:
        def __reduce__(self):
            writes.append(1)
            return int, ()

    nodes[0].counting = Counting()
    assert largest_part(read, (nodes,), {})[0].startswith("args[0]")
    assert len(writes) <= 25


def test_a_task_is_what_pickle_reads():
    fn, args, kwargs = pickle.loads(pickled_task(with_variable(7), (1,), {"a": 2}))
    assert (fn(), args, kwargs) == (7, (1,), {"a": 2})


def test_a_task_over_the_limit_is_refused_in_one_line():
    def train(table):
        return table

    settings = Settings(0.1, np.zeros(2 * MAX_CLOSURE_BYTES, "uint8"))
    with pytest.raises(ConfigError) as refused:
        pickled_task(train, (settings,), {})
    assert str(refused.value) == (
        "test_a_task_over_the_limit_is_refused_in_one_line.<locals>.train and its arguments are 20.0 MB, over the "
        "limit of 10 MB for what is sent to each rank; the largest part is args[0].table (20.0 MB): load it inside "
        "the function, or write it to a path that all ranks read"
    )


def test_a_task_at_the_limit_is_sent():
    task = pickled_task(read, (), {})
    assert pickled_task(read, (), {}, limit=len(task)) == task
    with pytest.raises(ConfigError, match="read and its arguments"):
        pickled_task(read, (), {}, limit=len(task) - 1)


def test_a_refusal_keeps_no_second_copy_in_memory():
    table = np.zeros(64 << 20, "uint8")
    tracemalloc.start()
    try:
        largest_part(with_variable({"a": table}), (), {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def by_value(source, **names):
    """A function that is sent by value, with what it names."""
    namespace = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace["build_model"]


GLOBAL = by_value("def build_model(ds): return [LOCK for _ in (1, 2)]", LOCK=threading.Lock())


class WithSession:
    """Stands for what Spark refuses to pickle."""

    def __init__(self):
        self.session = threading.RLock()

    def build(self, ds):
        return self.session


@pytest.mark.parametrize(
    ("fn", "args", "path", "kind"),
    [
        (functools.partial(read, TABLE), (threading.Lock(),), "args[0]", "_thread.lock"),
        (Trainer(TABLE), ({"a": [1, threading.Lock()]},), "args[0]['a'][1]", "_thread.lock"),
        (read, (Settings(GLOBAL, 1),), "build_model's global 'LOCK'", "_thread.lock"),
        (read, (Settings(with_nested_variable(threading.Lock()), 1),), "train's variable 'table'", "_thread.lock"),
        (read, (Settings(with_function(threading.RLock()), 1),), "load's variable 'table'", "_thread.RLock"),
        (read, (WithSession().build,), "args[0].__self__.session", "_thread.RLock"),
        (by_value("class Own:\n lock = LOCK\ndef build_model(ds): return Own", LOCK=threading.Lock()), (),
         "build_model's global 'Own'.lock", "_thread.lock"),
        (read, ((number for number in TABLE),), "args[0]", "builtins.generator"),
    ],
)  # fmt: skip
def test_what_does_not_pickle_is_named_with_its_path(fn, args, path, kind):
    with pytest.raises(ConfigError) as refused:
        pickled_task(fn, args, {})
    message = str(refused.value)
    assert message.startswith(f"{path}, a {kind}, cannot be sent to the ranks (") and "\n" not in message
    assert message.endswith("; make it inside the function, in every rank")


def test_what_pickles_in_parts_and_not_as_a_whole_is_refused_by_a_short_name():
    class Odd:
        def __reduce__(self):
            raise ValueError("not here,\nnever")

    with pytest.raises(ConfigError, match=r"^args\[0\], a .*Odd, cannot be sent to the ranks \(not here, never\);"):
        pickled_task(functools.partial(read, TABLE), (Odd(),), {})
