"""Methods, models and evaluators are found by name, vitjax's own and other people's."""

import sys

import pytest

from vitjax import names
from vitjax.errors import UserError


def module_of(tmp_path, monkeypatch, text):
    package = tmp_path / "my_project"
    package.mkdir()
    (package / "my_method.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_project", "my_project.my_method"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def find(name):
    return names.find("objectives", name, "config.objective.name")


def test_a_file_of_the_package_is_found_by_its_name():
    assert find("mae").__name__ == "vitjax.objectives.mae"


def test_a_name_with_a_dot_is_an_import_path(tmp_path, monkeypatch):
    module_of(tmp_path, monkeypatch, "def make(config, run):\n    return 'mine'\n")
    assert find("my_project.my_method").make(None, None) == "mine"


@pytest.mark.parametrize(
    "name, match",
    [
        ("mea", r"config\.objective\.name='mea' is not known.*did you mean 'mae'.*my_project\.my_module"),
        ("my_project.my_methd", r"'my_project\.my_methd'.*no module 'my_project\.my_methd'.*PYTHONPATH"),
        ("their_project.method", r"no module 'their_project' on Python's path.*holds their_project"),
        ("my_project.my_method", r"my_method\.py has no function make"),
        (".mae", r"'\.mae' is not known"),
    ],
)
def test_a_module_that_is_not_there_or_has_no_door_is_refused(tmp_path, monkeypatch, name, match):
    module_of(tmp_path, monkeypatch, "MAKE = 1\n")
    with pytest.raises(UserError, match=match):
        find(name)


def test_what_an_own_module_lacks_itself_is_not_hidden(tmp_path, monkeypatch):
    module_of(tmp_path, monkeypatch, "import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        find("my_project.my_method")
