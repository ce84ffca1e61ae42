"""A whole comparison: make the variants, check that they agree, time them in turns, report."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from rich.console import Console

from benchlib import measure, options, report
from benchlib.report import Report, Variant
from benchlib.rivals import UnavailableError
from implicit_prm import ImplicitPRMError

LOW_SHARE = 0.6  # of the machine's matrix product; variants below it are profiled
OURS = "ours"  # the names of our variants start with it
_WIDTH = 170  # columns, where the output goes to a file


class Sized(Protocol):
    """The work of a case. `str` describes it."""

    @property
    def response_tokens(self) -> int: ...


def compare(
    title: str,
    makers: Mapping[str, Callable[[], Variant]],
    check: Callable[[str, Variant], dict[str, float]],
    work: Sized,
    chosen: argparse.Namespace,
    console: Console,
) -> Report:
    """Run a case.

    Args:
        title: of the report.
        makers: name to a function that makes the variant or raises `UnavailableError`. The first is the baseline.
        check: runs a variant for the first time and returns its errors relative to the baseline, which it is called
            with first; raises ImplicitPRMError if they are too large.
        work: of the case.
        chosen: the script's options.
        console: to print on.

    Raises:
        SystemExit: an unknown name in --variants or --profile.
    """
    wanted = {*(chosen.variants or makers), *(chosen.profile or ())}
    if unknown := wanted - set(makers):
        raise SystemExit(f"unknown variant {', '.join(sorted(unknown))}; choose from {', '.join(makers)}")
    ready: dict[str, Variant] = {}
    left_out: dict[str, str] = {}
    console.print(f"[bold]{title}[/bold]: {work}")
    for place, (name, make) in enumerate(makers.items()):
        if place > 0 and name not in wanted:
            continue
        with progress(console) as say:
            say(f"checking {name}")
            try:
                variant = make()
            except UnavailableError as reason:
                left_out[name] = str(reason)
                continue
            variant.agreement = check(name, variant)
        ready[name] = variant
    calls = {name: variant.run for name, variant in ready.items()}
    dtype = options.DTYPES[chosen.dtype]
    with progress(console) as say:
        rounds = measure.interleave(calls, chosen.rounds, chosen.seed, chosen.device, dtype, say)
    case = {name: str(value) for name, value in vars(chosen).items()} | {"work": str(work)}
    rows = report.summarise(ready, rounds, work.response_tokens)
    made = Report(title, case, rows, rounds, left_out)
    if chosen.profile is None or rounds.interrupted:
        return made
    slow = [row.name for row in rows if row.name.startswith(OURS) and row.useful_share < LOW_SHARE]
    with contextlib.suppress(KeyboardInterrupt), progress(console) as say:
        for name in chosen.profile or slow:
            if name in calls:
                say(f"profiling {name}")
                made.profiles[name] = measure.profiled(calls[name], chosen.device)
    return made


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A function that shows what runs: a status line on a terminal, one line each in a log."""
    if not console.is_terminal:
        yield console.print
        return
    with console.status("") as status:
        yield status.update


def main(cases: Callable[[argparse.Namespace, Console], Iterator[Report]], chosen: argparse.Namespace) -> None:
    """Run, show and write the cases of a script. Ctrl-C keeps the measurements so far."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    reports: list[Report] = []
    try:
        for one in cases(chosen, console):
            one.show(console)
            reports.append(one)
            if one.rounds.interrupted:
                break
    except ImplicitPRMError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        console.print("interrupted")
    report.write(reports, chosen.json, chosen.markdown)
