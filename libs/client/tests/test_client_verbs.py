"""Verbs: none is forgotten, and each says which platform it calls where nobody has named one; those that
call none are listed here.
"""

from __future__ import annotations

import importlib
import inspect
from types import FunctionType, ModuleType

from penstock.client.cli.main import GROUPS, app
from penstock.client.client import Penstock

MAIN = importlib.import_module("penstock.client.cli.main")  # the package's `main` is the app
COMMANDS = [
    command.callback
    for group in (app, *GROUPS.values())
    for command in group.registered_commands
    if command.callback
]


def is_verb(function: FunctionType) -> bool:
    """Tells a verb from the other public functions of its module: it is described, returns nothing, and
    opens its platform itself.
    """
    signature = inspect.signature(function, eval_str=True)
    given = any(one.annotation is Penstock for one in signature.parameters.values())
    return bool(function.__doc__) and signature.return_annotation is None and not given


def test_no_verb_of_a_module_that_main_imports_is_forgotten() -> None:
    verbs = {
        function
        for module in vars(MAIN).values()
        if isinstance(module, ModuleType)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_") and is_verb(function)
    }
    assert len(verbs) > len(GROUPS)
    registered = {inspect.unwrap(command) for command in COMMANDS}
    assert sorted(map(repr, verbs - registered)) == []


def test_every_verb_says_which_platform_it_calls_but_those_that_call_none() -> None:
    silent = [command.__name__ for command in COMMANDS if not hasattr(command, "__wrapped__")]
    assert silent == ["up", "down", "logs", "init", "validate", "keys_init", "keys_rotate"]
