"""What is wrong with the way a run told of a fault. Pure."""

import re
from collections.abc import Collection

from launch_faults.table import Case


def first_line(answer: dict) -> str:
    """The error's type and first line, or the values; "-" where nothing was said."""
    if "types" not in answer:
        return f"values {answer['values']}" if answer else "-"
    return f"{answer['types'][0]}: {(answer['text'].splitlines() or [''])[0]}"


def complaints(case: Case, answer: dict, detected_s: float | None, hosts: Collection[str]) -> list[str]:
    """What is wrong with an answer: `types`, `text`, `rank`, `host` of the error, or `values`; empty if none came.

    Args:
        detected_s: from the fault to the error; None if the run ended before the fault.
        hosts: the names that the machine may have.
    """
    if not answer and case.what.ends != "killed":
        return ["nothing was told"]
    if detected_s is None:
        return ["the run ended before the fault struck"]
    wrong = [f"told after {detected_s:.1f} s, not {case.limit_s:g} s"] if detected_s > case.limit_s else []
    if case.what.ends == "killed":
        return wrong  # nobody is left to tell: all that counts is when the last process ended
    if case.what.ends == "value":
        return wrong + ([] if answer.get("values") == [0, 1] else ["no values came back"])
    if "types" not in answer:
        return [*wrong, "no error was raised"]
    if case.what.ends == "interrupt":
        return wrong + ([] if "KeyboardInterrupt" in answer["types"] else ["not a KeyboardInterrupt"])
    head = (answer["text"].splitlines() or [""])[0]
    if not re.search(case.what.says, head):
        wrong.append(f"the first line lacks /{case.what.says}/")
    if case.what.ends == "cancelled":
        return wrong + ([] if {"LaunchError", "WorkerError"} & {*answer["types"]} else ["an error of another type"])
    return wrong + _blame(case, answer, head, hosts) + _detail(case, answer["text"])


def _blame(case: Case, answer: dict, head: str, hosts: Collection[str]) -> list[str]:
    wrong = [] if "WorkerError" in answer["types"] else ["not a WorkerError"]
    if not re.search(rf"\brank {case.rank}/2\b", head):
        wrong.append(f"the first line lacks 'rank {case.rank}/2'")
    if re.search(rf"\brank {1 - case.rank}/2\b", head):
        wrong.append(f"the first line blames rank {1 - case.rank}, which only lost its peer")
    if answer["rank"] != case.rank:
        wrong.append(f"error.rank is {answer['rank']}")
    if answer["host"] not in hosts or answer["host"] not in head:
        wrong.append(f"the first line lacks the host, or error.host={answer['host']!r} is none")
    return wrong


def _detail(case: Case, text: str) -> list[str]:
    strike = case.what.strike
    if case.what.ends == "stall":
        stacks = [strike.__name__, f"wait_in_{case.peer}"]
        return [f"no stack holds {name}" for name in stacks if name not in text]
    words = f"last words of rank {case.rank}"
    return [f"it lacks the line {words!r}"] if case.what.tells and words not in text else []
