"""Elements of HTML and SVG. Text is escaped where it is put into one, so a name from outside stays text."""

from __future__ import annotations

from html import escape

from penstock.client.cli.output import visible


class Html(str):
    """Markup. All other text that an element is given is escaped."""

    __slots__ = ()


def joined(*parts: str) -> Html:
    return Html("".join(part if isinstance(part, Html) else escape(visible(part)) for part in parts))


def element(name: str, *inside: str, **attributes: object) -> Html:
    """Keywords are attributes: `class_` is `class`, `aria_label` is `aria-label`; floats get one digit."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{joined(_text(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>{joined(*inside)}</{name}>")


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
