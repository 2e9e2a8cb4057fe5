"""Odd messages made of valid ones, for whatever reads what others wrote. A seed makes the same ones
each time.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

Headers = list[tuple[str, bytes | None]]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 5e-324, 1.7e308, 2**31, 2**53 + 1, 2**63, 2**64, 10**30),
    *("", " ", "x", "1", "true", "null", "nan", "a\0b", "\ud800", "\u202e\u2028", "\x1b[2J", "$x^{$"),
    *("é" * 300, "x" * 1_001, "../../etc/passwd", "'; DROP TABLE x; --", "😀", "e\u0301"),
    *("0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", 1e11, -1e11),
    *([], [[]], [None], {}, {"": None}, {"x": {"x": {}}}),
)
_NESTED = (5, 100, 5_000)
_RAW = (
    *("NaN", "-Infinity", "1e999", "-1E400", "01", "0x1", "+1", ".5", "nul", "'x'", "[1,]", '"\\x"', '"\t"'),
    *('"\\u0000"', '"\\ud800"', '"\\ude00\\ud83d"', "", "9" * 5_000, "1" + "0" * 400, "0." + "3" * 400),
    *("[" * deep + "]" * deep for deep in _NESTED),
    *('{"a":' * deep + "1" + "}" * deep for deep in _NESTED),
)
_HOLE = "@@odd{}"  # a text in whose place raw JSON is written

_PUNCTUATION = "{}[]:,&*#!|>'\"%@`?-~ \t\0"
_SCALAR = re.compile(r"(?<=[:,\[{] )[^,\]}\n]+|(?<=[\[{])[^,\]}\n]+")
_YAML = (
    *(
        "~",
        "no",
        "0o17",
        "0x1F",
        "1_000",
        "1:30",
        ".nan",
        "-.inf",
        "1e400",
        "9" * 400,
        "2001-01-01",
        "<<: *a",
    ),
    *(
        "!!binary aGk=",
        "!!python/object/apply:os.system [id]",
        "!x y",
        "*a",
        "&a [*a]",
        "&a {b: *a}",
        "? [a]",
    ),
    *(
        '"\\0"',
        '"\\ud800"',
        '"\\x1b[2J"',
        "'",
        '"',
        "|",
        ">-",
        "---",
        "...",
        "%YAML 1.1",
        "%TAG ! !!",
        "\ufeff",
    ),
    *("- " * 100, "- " * 3_000, "? " * 100, "[" * 99 + "]" * 99, "[" * 3_000, "{a: " * 60 + "1" + "}" * 60),
    *("x" * 5_000, "word " * 4_000, "x" * 300_000, "[" + "1, " * 3_000 + "1]", "&a x", "{}", "[]", "null"),
)


class Mutations:
    """Draws one after the other from `seed`."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def message(self, value: Any) -> bytes:
        """JSON of `value`, odd in what it says or in its bytes; one of ten is left as it is."""
        chance = self.draw.random()
        said = json.dumps(value) if chance < 0.2 else self.text(value)
        data = said.encode("utf-8", "surrogatepass")
        return self.damaged(data) if 0.1 < chance < 0.3 else data

    def text(self, value: Any) -> str:
        """JSON of `value` with odd, missing, further, doubled or misplaced members."""
        value, raw = copy.deepcopy(value), list[str]()
        for _ in range(self.draw.choice((1, 1, 1, 2, 4))):
            self._spoil(value, raw)
        said = json.dumps(value, ensure_ascii=self.draw.random() < 0.5)
        for number, text in enumerate(raw):
            said = said.replace(json.dumps(_HOLE.format(number)), text)
        return said

    def _spoil(self, value: Any, raw: list[str]) -> None:
        spots = [*_spots(value)]
        if not spots:
            return
        holder, key = self.draw.choice(spots)
        old, odd = holder[key], self._odd()
        match self.draw.randrange(10):
            case 0 | 1 | 2:
                holder[key] = odd
            case 3 | 4:
                holder[key] = self.near(old)
            case 5:
                del holder[key]
            case 6 if isinstance(holder, dict):
                holder[str(self.near(key))] = odd
            case 6:
                holder.insert(key, odd)
            case 7:
                other, there = self.draw.choice(spots)
                holder[key] = copy.deepcopy(other[there])
            case 8:
                holder[key] = _HOLE.format(len(raw))
                again = f"{json.dumps(key)}: " if isinstance(holder, dict) else ""
                raw.append(f"{json.dumps(old)}, {again}{json.dumps(odd)}")
            case _:
                holder[key] = _HOLE.format(len(raw))
                raw.append(self.draw.choice(_RAW))

    def _odd(self) -> Any:
        if self.draw.random() < 0.01:
            return "x" * self.draw.randrange(300_000)
        return copy.deepcopy(self.draw.choice(ODD))

    def near(self, old: Any) -> Any:
        """Makes a value that looks like `old`."""
        match old:
            case bool() | None:
                return self.draw.choice([not old, str(old).lower(), int(bool(old))])
            case int() | float():
                return self.draw.choice([old + 1, old - 1, -old, old * 10, float(old), str(old)])
            case str():
                at = self.draw.randrange(len(old) + 1)
                letter = self.draw.choice("aZ0-_. \0é")
                return self.draw.choice(
                    [old[:at], old + old, old.upper(), f"{old} ", old[:at] + letter + old[at + 1 :]]
                )
            case list():
                return self.draw.choice([old[1:], old[::-1], old + old, old[:1]])
            case _:
                return dict(self.draw.sample([*old.items()], len(old)))

    def damaged(self, data: bytes) -> bytes:
        """Bytes flipped, cut, doubled, put in or before, or others altogether."""
        at, draw = self.draw.randrange(len(data) + 1), self.draw
        return draw.choice(
            [
                data[:at]
                + bytes(byte ^ (1 << draw.randrange(8)) for byte in data[at : at + 1])
                + data[at + 1 :],
                data[:at],
                data[at:],
                data + data,
                data[:at] + draw.randbytes(draw.choice((1, 1, 4))) + data[at + draw.choice((0, 1, 2)) :],
                data[:at] + data[at // 2 :],
                draw.choice((b"\xef\xbb\xbf", b"\0\0\0\0\7", b" \n\t", b"[", b"\x1f\x8b", b"\xff\xfe"))
                + data,
                data + draw.choice((b"\0", b" \r\n", b"]", b"{}", b"\x1a")),
                data.decode("utf-8", "replace").encode("utf-16"),
                draw.randbytes(draw.choice((0, 1, 8, 200))),
            ]
        )

    def headers(self, genuine: Mapping[str, str]) -> Headers:
        """Kafka headers: one missing, odd, doubled or added; or many."""
        said: Headers = [(name, value.encode()) for name, value in genuine.items()]
        at = self.draw.randrange(len(said)) if said else 0
        odd = self.draw.choice((None, b"", b"\0", b"\xff\xfe", self.draw.randbytes(9), b"x" * 20_000))
        named = said[at][0] if said else "x"
        match self.draw.randrange(5):
            case 0:
                return said[:at] + said[at + 1 :]
            case 1:
                return [*said[:at], (named, odd), *said[at + 1 :]]
            case 2:
                return [*said, (named, odd)]
            case 3:
                return [("traceparent", odd), ("content-type", b"text/html"), *said]
            case _:
                return [*said, *((f"x{number}", odd and odd[:9]) for number in range(300))]

    def key(self, genuine: bytes | None) -> bytes | None:
        """A Kafka key, most often the genuine one."""
        odd = (None, b"", b"\0", b"\xff", b"k" * 10_000, self.draw.randbytes(8))
        return genuine if self.draw.random() < 0.8 else self.draw.choice(odd)

    def yaml(self, text: str) -> str:
        """A YAML file with other lines, words or signs."""
        lines = text.splitlines()
        for _ in range(self.draw.choice((1, 1, 1, 2, 4))):
            at = self.draw.randrange(len(lines))
            lines[at : at + 1] = self._line(lines[at], self.draw.choice(lines))
            lines = lines or [""]
        return "\n".join(lines) + "\n"

    def _line(self, line: str, other: str) -> list[str]:
        at, odd = self.draw.randrange(len(line) + 1), self.draw.choice(_YAML)
        match self.draw.randrange(10):
            case 0:
                return []
            case 1:
                return [line, other]
            case 2:
                return [" " * self.draw.randrange(9) + line.lstrip()]
            case 3:
                return [line[:at] + self.draw.choice(_PUNCTUATION) + line[at + self.draw.choice((0, 1)) :]]
            case 4:
                return [line[:at] + line[at : at + 1] * 2 + line[at + 1 :]]
            case 5:
                return [line[:at] + odd]
            case 6:
                return [line, " " * (len(line) - len(line.lstrip())) + odd]
            case _:
                scalars = [*_SCALAR.finditer(line)]
                if not scalars:
                    return [f"{line} {odd}"]
                found = self.draw.choice(scalars)
                new = odd if self.draw.random() < 0.6 else str(self.near(found[0]))
                return [line[: found.start()] + new + line[found.end() :]]


def _spots(node: Any) -> Iterator[tuple[Any, Any]]:
    """Holder of each value, and its key or index there."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _spots(value)
