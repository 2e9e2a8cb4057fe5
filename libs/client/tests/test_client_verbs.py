"""Verbs say which platform they call where nobody has named one; those that call none are listed here."""

from __future__ import annotations

from penstock.client.cli.main import GROUPS, app


def test_every_verb_says_which_platform_it_calls_but_those_that_call_none() -> None:
    silent = [
        command.callback.__name__
        for group in (app, *GROUPS.values())
        for command in group.registered_commands
        if command.callback and not hasattr(command.callback, "__wrapped__")
    ]
    assert silent == ["up", "down", "logs", "init", "validate", "keys_init", "keys_rotate"]
