"""The command line: plain options, a config and its overrides; a user's mistake ends with one message and code 2.

ml_collections reads config files and overrides; what is added here is that every mistake names the flag, its
value and the remedy.
"""

import argparse
import errno
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags as ml_flags

from vitjax import names
from vitjax.errors import RunError, UserError

RUN_ERROR = RunError.exit_code
USAGE_ERROR = 2
LEAVE_S = 15.0
NO_MEMORY = (
    "the device's memory is too small for this: use a smaller config.batch_size, or more config.accum, "
    "config.model.remat=True where the model has it, or more devices with config.mesh.fsdp=-1"
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_OVERRIDE = re.compile(r"^--config\.([^=]+)(?:=(.*))?$", re.DOTALL)


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Calls `main(argv)` and exits with its code.

    What a user can mend ends with the message alone: code 2 for a wrong setting or file, 1 for a run that
    cannot go on.
    """
    # Grain reads absl's flags in its workers and refuses to start before they are parsed.
    flags.FLAGS.mark_as_parsed()
    _spare_children()
    code: int | None = RUN_ERROR
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        code = _ended(error, USAGE_ERROR)
    except RunError as error:
        code = _ended(error, error.exit_code)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        code = _ended(f"{error.filename or 'a file of the run'}: {error.strerror}; make room, and go on", RUN_ERROR)
    except Exception as error:
        # jax's own class, which this module does without importing jax.
        if type(error).__name__ != "JaxRuntimeError" or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        code = _ended(f"{NO_MEMORY} ({str(error).splitlines()[0]})", RUN_ERROR)
    finally:
        _leave_at_last(code or 0)
    sys.exit(code or 0)


def _spare_children() -> None:
    """Processes that are spawned run `vitjax.data.worker_main` in place of this command."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None and main.__spec__.name.startswith("vitjax."):
        main.__spec__ = importlib.util.find_spec("vitjax.data.worker_main")


def _leave_at_last(code: int) -> None:
    """Ends the process soon, although Python waits for threads that hang, in a reader of a dead disk for one."""
    timer = threading.Timer(LEAVE_S, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _ended(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """An argument parser for `python -m <module>`; options are added to it, configs are not its business."""
    return _Parser(
        prog=f"python -m {module}",
        description=doc,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(options: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The plain options, and the `--config...` flags, which are left for `load_config` or `override`.

    Raises:
      UserError: an unknown or incomplete option.
    """
    values, rest = options.parse_known_args(_joined(argv))
    # Where it is an option, so that --help can show it, it comes out among them.
    rest = [f"--config={file}" for file in getattr(values, "config", None) or ()] + rest
    for flag in rest:
        if not re.match(r"^--config([.=]|$)", flag):
            known = [o for action in options._actions for o in action.option_strings] + ["--config"]
            raise UserError(f"{flag}: no such option{names.nearest(flag.split('=')[0], known)}")
    return values, rest


def _joined(argv: Sequence[str]) -> list[str]:
    """The arguments with '--config FILE' as '--config=FILE'."""
    argv = list(argv)
    if "--config" in argv[:-1]:
        at = argv.index("--config")
        argv[at : at + 2] = [f"--config={argv[at + 1]}"]
    return argv


def config_flags(argv: Sequence[str]) -> list[str]:
    """The arguments that are about the config, whatever stands beside them."""
    return [flag for flag in _joined(argv) if re.match(r"^--config[.=]", flag)]


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether the parser will answer with its help."""
    return bool({"-h", "--help"} & set(argv))


def load_config(config_flags_given: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of `--config=FILE[:arg]` with the `--config.key=value` overrides applied.

    Raises:
      UserError: no or no such file, or an override that `override` refuses.
    """
    files = [flag for flag in config_flags_given if not _OVERRIDE.match(flag)]
    if len(files) != 1 or "=" not in files[0]:
        raise UserError("give one config file: --config=configs/quickstart.py")
    path = files[0].split("=", 1)[1]
    if not Path(path.split(":")[0]).is_file():
        raise UserError(f"--config={path}: there is no such file")
    values = flags.FlagValues()
    holder = ml_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["vitjax", files[0]])
    try:
        values(["vitjax", files[0]])
    except flags.Error as error:
        # absl wraps what `get_config` raises.
        raise UserError(f"--config={path}: {_cause(error)}") from error
    return override(holder.value, [flag for flag in config_flags_given if flag not in files])


def _cause(error: BaseException) -> str:
    """What went wrong in a config file: ml_collections hands on the whole stack, as text."""
    *stack, last = str(error.__cause__ or error.__context__ or error).strip().splitlines()
    return last.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ") if stack else last


def override(
    config: ml_collections.ConfigDict, config_flags_given: Sequence[str]
) -> ml_collections.ConfigDict:
    """`config` with `--config.key=value` flags applied to it, each to a value of the type that was there.

    Raises:
      UserError: an unknown key (the nearest one is named) or a value of another type.
    """
    for flag in config_flags_given:
        match = _OVERRIDE.match(flag)
        if not match:
            raise UserError(f"{flag}: here only single settings can be given, as --config.key=value")
        _set(config, *match.groups())
    return config


def _set(config: ml_collections.ConfigDict, key: str, text: str | None) -> None:
    """Sets one key from its text."""
    section, name = _find(config, key)
    if text == "None":
        _clear(section, key, name)
        return
    argv = ["vitjax", f"--config.{key}" + ("" if text is None else f"={text}")]
    values = flags.FlagValues()
    try:
        ml_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError) as error:
        kind = section.get_type(name).__name__
        raise UserError(f"--config.{key}={text}: the value must be of type {kind}") from error


def _clear(section: ml_collections.ConfigDict, key: str, name: str) -> None:
    """Leaves a setting open, such as a length that another setting gives."""
    try:
        section[name] = None
    except TypeError as error:
        raise UserError(f"--config.{key}=None: this setting needs a value") from error


def _find(config: ml_collections.ConfigDict, key: str) -> tuple[ml_collections.ConfigDict, str]:
    """The section that holds a setting, and the setting's name in it."""
    *above, name = key.split(".")
    section = config
    for depth, part in enumerate([*above, name]):
        path = ".".join(["config", *above[:depth]])
        if not isinstance(section, ml_collections.ConfigDict):
            raise UserError(f"--config.{key}: {path} is a single value, not a section")
        if part not in section:
            near = names.nearest(part, section)
            have = ", ".join(sorted(section)) or "no settings"
            raise UserError(f"--config.{key}: there is no such setting{near}; {path} has {have}")
        holder, section = section, section[part]
    if isinstance(section, ml_collections.ConfigDict):
        raise UserError(
            f"--config.{key} is a section; give one of its settings: {', '.join(sorted(section))}"
        )
    return holder, name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message}; see {self.prog} --help")


def add_config(options: argparse.ArgumentParser) -> None:
    """The config of commands that begin something; its settings are flags of their own, see `parse`."""
    options.add_argument(
        "--config", action="append", metavar="FILE[:FORM]", help="the experiment; --config.KEY=VALUE changes a setting"
    )


def add_workdir(options: argparse.ArgumentParser, meaning: str) -> None:
    """The option of commands that train, evaluate or export."""
    options.add_argument("--workdir", required=True, metavar="DIR", help=meaning)


def add_run(options: argparse.ArgumentParser, meaning: str) -> None:
    """What a command looks at, as DIR or as --workdir=DIR; `run_directory` says which was given."""
    options.add_argument("directory", nargs="?", metavar="DIR", help=meaning)
    options.add_argument("--workdir", metavar="DIR", help="the same, said as to the other commands")


def run_directory(values: argparse.Namespace) -> str:
    """
    Raises:
      UserError: none was given, or two.
    """
    if bool(values.workdir) == bool(values.directory):
        raise UserError("name one directory, as DIR or as --workdir=DIR")
    return values.workdir or values.directory


def add_allow_cpu(options: argparse.ArgumentParser) -> None:
    """The option of commands that compute."""
    options.add_argument(
        "--allow_cpu", action="store_true", help="use the CPU although an accelerator is there"
    )


def keys(config_flags_given: Sequence[str]) -> list[str]:
    """The settings that the flags name, as 'config.a.b'."""
    return [f"config.{match[1]}" for match in map(_OVERRIDE.match, config_flags_given) if match]
