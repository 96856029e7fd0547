"""Things that are found by name: objectives, models, evaluators, vitjax's own by the name of their file.

A name with a dot is the import path of somebody's own module, so that nothing has to be added to vitjax.
"""

import difflib
import importlib
import importlib.util
import pkgutil
from types import ModuleType

from vitjax.errors import UserError


def find(package: str, name: str, setting: str) -> ModuleType:
    """The module `vitjax.<package>.<name>`, or for a name with a dot the module of that import path.

    Args:
      package: a subpackage, such as 'objectives'.
      name: what the user asked for; a file of that name with a function `make` is the only registration.
      setting: the config key that holds `name`, for the error message.

    Raises:
      UserError: there is no such module; the message lists those there are.
    """
    if "." in name.strip("."):
        return _own(name, setting)
    parent = importlib.import_module(f"vitjax.{package}")
    known = [m.name for m in pkgutil.iter_modules(parent.__path__)]
    if name in known:
        module = importlib.import_module(f"vitjax.{package}.{name}")
        if hasattr(module, "make"):
            return module
    offered = sorted(k for k in known if _has_make(parent, k))
    choices = f"choose from {', '.join(offered)}{nearest(name, offered)}"
    own = "or give the import path of your own module (my_project.my_module)"
    raise UserError(f"{setting}={name!r} is not known; {choices}, {own}")


def _own(name: str, setting: str) -> ModuleType:
    """The module of an import path; what its own imports lack is raised as it is."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"{setting}={name!r}: there is no module {error.name!r} on Python's path; start in the folder "
            f"that holds {name.split('.')[0]}, or add that folder to PYTHONPATH"
        ) from error
    if not hasattr(module, "make"):
        raise UserError(f"{setting}={name!r}: {module.__file__} has no function make(config, ...)")
    return module


def nearest(name: str, known) -> str:
    """'; did you mean X?' where a known name is close, else ''."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _has_make(parent: ModuleType, name: str) -> bool:
    return hasattr(importlib.import_module(f"{parent.__name__}.{name}"), "make")
