"""Things that are found by the name of their file: objectives, models, evaluators."""

import difflib
import importlib
import importlib.util
import pkgutil
from types import ModuleType

from vitjax.errors import UserError


def find(package: str, name: str, setting: str) -> ModuleType:
    """The module `vitjax.<package>.<name>`.

    Args:
      package: a subpackage, such as 'objectives'.
      name: what the user asked for; a file of that name with a function `make` is the only registration.
      setting: the config key that holds `name`, for the error message.

    Raises:
      UserError: there is no such module; the message lists those there are.
    """
    parent = importlib.import_module(f"vitjax.{package}")
    known = [m.name for m in pkgutil.iter_modules(parent.__path__)]
    if name in known:
        module = importlib.import_module(f"vitjax.{package}.{name}")
        if hasattr(module, "make"):
            return module
    offered = sorted(k for k in known if _has_make(parent, k))
    choices = f"choose from {', '.join(offered)}{nearest(name, offered)}"
    raise UserError(f"{setting}={name!r} is not known; {choices}")


def nearest(name: str, known) -> str:
    """'; did you mean X?' where a known name is close, else ''."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _has_make(parent: ModuleType, name: str) -> bool:
    return hasattr(importlib.import_module(f"{parent.__name__}.{name}"), "make")
