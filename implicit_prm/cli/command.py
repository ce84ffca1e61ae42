"""What all commands share: the YAML files, `--help`, errors as sentences, and options as a dataclass."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from implicit_prm.cli.help import help_text, leaves
from implicit_prm.config import from_mapping
from implicit_prm.config.validation import similar_option
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.allocator import keep_freed_memory
from implicit_prm.utils.progress import disable_bars_in_logs
from implicit_prm.utils.secrets import hide_argument, hide_secrets

T = TypeVar("T")

# What the user set: `command` sets the variable as well, so that Hydra raises its errors and does not print them.
_WITH_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


def configs() -> str:
    """The folder of YAML files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return str(inside if inside.is_dir() else package.parent / "configs")


def command(root: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """`hydra.main` for the YAML file `root`, with our `--help` and with Hydra's errors as one sentence."""

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(task)
        def checked(tree: DictConfig) -> None:
            sys.argv[1:] = map(hide_argument, sys.argv[1:])  # trackers and the model card record the command line
            try:
                task(tree)
            except ImplicitPRMError as error:
                if _WITH_TRACEBACK:
                    raise
                sys.exit(f"ipr-{root}: error: {error}")
            except BrokenPipeError:
                raise
            except OSError as error:
                _exit_for(root, error)

        hydra_main = hydra.main(version_base="1.3", config_path=configs(), config_name=root)(checked)

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"
            arguments = sys.argv[1:]
            _print_any_text()
            try:
                if {"--help", "-h"} & set(arguments):
                    overrides = [argument for argument in arguments if not argument.startswith("-")]
                    print(help_text(Path(configs()), root, overrides))
                else:
                    hydra_main()
                sys.stdout.flush()
            except BrokenPipeError:  # the reader has closed the pipe, as `head` does
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
                sys.exit(128 + 13)  # as if SIGPIPE had ended the process
            except (HydraException, OmegaConfBaseException) as error:
                if _WITH_TRACEBACK:
                    raise
                sys.exit(f"ipr-{root}: error: {hide_secrets(_sentence(error))}")
            except OSError as error:  # Hydra cannot write its files
                _exit_for(root, error)
            finally:
                if not _WITH_TRACEBACK:
                    del os.environ["HYDRA_FULL_ERROR"]

        return main

    return decorate


def _exit_for(root: str, error: OSError) -> NoReturn:
    """End with what the system says: no permission, a name that is too long, a full disk."""
    if _WITH_TRACEBACK or error.strerror is None:
        raise error
    sys.exit(f"ipr-{root}: error: {f'{error.filename}: ' if error.filename else ''}{error.strerror}")


def run(name: str, cls: type[T], tree: DictConfig, function: Callable[[T], Any], resume: str = "") -> None:
    """Build `cls` from Hydra's tree and call `function`.

    Ctrl-C ends the process with status 130, SIGTERM with status 143. Finished work is kept.

    Args:
        name: The command.
        cls: Dataclass of its options.
        tree: The composed options.
        function: What the command does.
        resume: Option that makes an interrupted command resume; empty if it always does.

    Raises:
        ImplicitPRMError: Invalid options or input.
    """
    disable_bars_in_logs()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # reading a file is not the progress of a run
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = f" ({error.full_key})" if error.full_key else ""
        raise ImplicitPRMError(str(error).split("\n")[0] + key) from error
    try:
        with _sigterm_raises():
            config = from_mapping(cls, values)  # type: ignore[arg-type]
            _set_allocator()
            function(config)
    except KeyboardInterrupt as error:
        terminated = isinstance(error, _Terminated)
        if int(os.environ.get("RANK", 0)) == 0:
            how = f"add {resume} to the command" if resume else "run the same command"
            what = "terminated" if terminated else "interrupted"
            print(f"\n{name}: {what}; finished work is kept. To resume, {how}.", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))


def _set_allocator() -> None:
    """Keep freed memory for reuse if the models run on the CPU."""
    import torch  # slow, so not before the options are checked

    if not torch.cuda.is_available():
        keep_freed_memory()


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill a job, ends a command in the same way as Ctrl-C."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    process, received = os.getpid(), False

    def terminate(number: int, _: Any) -> None:
        nonlocal received
        if os.getpid() != process:  # a forked worker: the first process cleans up
            os._exit(128 + number)
        received = True
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except Exception as error:
        if received:  # a library's C++ code has turned the interruption into an error of its own
            raise _Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_any_text() -> None:
    """Print characters that the terminal's encoding lacks as escapes; a problem's id may hold any."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _sentence(error: Exception) -> str:
    """An error of Hydra or OmegaConf, with the argument it is about and what to write instead."""
    if isinstance(error, OverrideParseException):
        name, _, value = error.override.partition("=")
        if (hidden := hide_argument(error.override)) != error.override:
            return f"{hidden}: cannot parse this argument; put a value with special characters in double quotes"
        quoted = f"; quote a value with special characters: '{name}=\"{value}\"'" if value else ""
        return f"{error.override}: cannot parse this argument ({str(error).splitlines()[0]}){quoted}"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        return _unknown_option(str(cause.full_key), cause.parent_node)
    message = f"{error} {cause or ''}".partition("Config search path")[0]
    return " ".join(message.split())


def _unknown_option(name: str, parent: Any) -> str:
    """The nearest option of the same group, or one of that name in another group."""
    group, _, key = name.rpartition(".")
    root = parent._get_root()
    names = [option for option, _ in leaves(root)]
    elsewhere = {option.rpartition(".")[2]: option for option in reversed(names)}
    near = similar_option(key, [str(known) for known in parent])
    if near is not None:
        near = f"{group}.{near}" if group else near
    elif (other := similar_option(key, elsewhere)) is not None:
        near = elsewhere[other]
    hint = f"did you mean {near}?" if near else "--help lists all options"
    if group in ("trainer", "grpo"):
        hint += f" (other options of transformers.TrainingArguments need a plus sign: +{name}=VALUE)"
    elif group.endswith(("extra_body", "template_kwargs")):
        hint = f"a new field needs a plus sign: +{name}=VALUE"
    return f"{name}: unknown option; {hint}"
