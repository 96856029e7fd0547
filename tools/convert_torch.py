"""Makes safetensors of a torch file, so that nothing else has to open one.

    python tools/convert_torch.py --weights=model.pt --out=model.safetensors

A torch file is a pickle, which may run whatever its author liked. It is opened here in a process of its own, with
an empty environment, by torch's loader of tensors alone (weights_only=True), which refuses everything else. A
TorchScript archive, as OpenAI published CLIP, is opened there by torch.jit.load. Needs torch and safetensors. Names
stay what they are, but for a 'module.' that parallel training put before all of them.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Where training code keeps the weights, in the order in which they are looked for.
KEYS = ("state_dict", "model_state_dict", "model", "weights")
PARALLEL = "module."
TIMEOUT_S = 1800
SETSTATE = b"__setstate__"  # the one method of TorchScript's modules that loading calls
REFUSED = 3  # the other process's exit code for a file that cannot be converted


def main(argv: Sequence[str]) -> None:
    """Converts what the command line names."""
    from vitjax import cli
    from vitjax.errors import UserError

    options = cli.parser("tools/convert_torch.py", __doc__)
    options.add_argument("--weights", required=True, metavar="FILE", help="what torch.save or torch.jit.save wrote")
    options.add_argument("--out", required=True, metavar="FILE", help="the safetensors file to write")
    options.add_argument("--key", default="", help=f"where in it the weights are; else one of {', '.join(KEYS)}")
    values, given = cli.parse(options, argv)
    if given:
        raise UserError(f"{given[0]}: the converter has no settings of a config")
    print(convert(values.weights, values.out, values.key))


def convert(weights: str | Path, out: str | Path, key: str = "") -> str:
    """'1,234 tensors, ...': what was written to `out`; nothing is if anything fails.

    Raises:
      UserError: there is no such file, `out` is there already, or the file holds something else than tensors.
    """
    from vitjax.errors import UserError

    weights, out = Path(weights).absolute(), Path(out).absolute()
    if not weights.is_file():
        raise UserError(f"--weights={weights} is no file")
    if out.exists():
        raise UserError(f"--out={out} is there already; give a new name, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    command = [sys.executable, "-I", str(Path(__file__).absolute()), "--apart", str(weights), str(partial), key]
    try:
        done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode == REFUSED:
            raise UserError(f"--weights={weights}: {done.stderr.strip().splitlines()[-1]}")
        if done.returncode:
            raise RuntimeError(f"the process that opens {weights} ended with {done.returncode}:\n{done.stderr}")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return done.stdout.strip()


def write(weights: str, out: str, key: str) -> None:
    """The other process's work; it exits with REFUSED and a line on stderr where the file is not what it should be."""
    from safetensors.torch import save_file

    loaded = _script_weights(weights) if is_script(weights) else _weights(weights)
    tensors = state_dict(loaded, key)
    # A tensor that two names share is written twice: safetensors has no sharing.
    save_file({name: x.detach().contiguous().clone() for name, x in tensors.items()}, out, metadata={"format": "pt"})
    size = sum(x.numel() * x.element_size() for x in tensors.values())
    print(f"{len(tensors):,} tensors, {size / 1e6:,.1f} MB, {sum(x.numel() for x in tensors.values()):,} numbers")


def is_script(weights: str) -> bool:
    """Whether the file is a TorchScript archive."""
    if not zipfile.is_zipfile(weights):
        return False
    with zipfile.ZipFile(weights) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _weights(weights: str) -> Any:
    """What torch.save wrote, if it is made of tensors, numbers, texts and containers of them."""
    import torch

    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        _refuse(
            f"torch opens no weights alone in it ({_cause(error)}); a pickled module has to be saved as a state_dict "
            "by whoever trusts it"
        )


def _script_weights(weights: str) -> Any:
    """The weights of a TorchScript archive that has no code for loading.

    Its reader makes no objects of Python, but compiles the archive's own code and calls its modules' __setstate__,
    which may write files: archives that have such a method are refused. The compiler itself is trusted no further
    than this process, like the loader of pickles.
    """
    import torch

    with zipfile.ZipFile(weights) as archive:
        # Whatever its name: torch's reader takes names of either case, and the first of two that are alike.
        if any(SETSTATE in archive.read(entry) for entry in archive.infolist()):
            _refuse(
                "it is a TorchScript archive with code of its own for loading (__setstate__), as quantised modules "
                "have; it has to be saved as a state_dict by whoever trusts it"
            )
    try:
        return torch.jit.load(weights, map_location="cpu").state_dict()
    except Exception as error:
        _refuse(f"torch opens no TorchScript archive in it ({_cause(error)}); fetch it again, it may be cut")


def state_dict(loaded: Any, key: str) -> dict[str, Any]:
    """Name -> tensor, without entries of other types, such as a count of epochs."""
    if key:
        if not isinstance(loaded, Mapping) or key not in loaded:
            has = ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
            _refuse(f"--key={key} is not in it; it has {has[:500]}")
        loaded = loaded[key]
    else:
        found = (loaded[k] for k in KEYS if isinstance(loaded, Mapping) and isinstance(loaded.get(k), Mapping))
        loaded = next(found, loaded)
    tensors = {k: x for k, x in loaded.items() if hasattr(x, "numel")} if isinstance(loaded, Mapping) else {}
    if not tensors:
        _refuse("no tensors are where weights usually are; say with --key where")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): x for name, x in tensors.items()}
    return tensors


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


def _refuse(why: str) -> None:
    print(why, file=sys.stderr)
    raise SystemExit(REFUSED)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--apart"]:
        write(*sys.argv[2:5])
    else:
        from vitjax import cli

        cli.run(main)
