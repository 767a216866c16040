"""Random programs of numbers: nested loops, branches, jumps, assignments."""

from __future__ import annotations

import random
from pathlib import Path
from types import FunctionType

VARIABLES = ("x", "y", "z")


class Program:
    """The text of a function of x and y, with loops of at most n iterations."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counters = 0
        lines = ["def program(x, y, n=3):", "    z = x * y"]
        lines += self.block(1, loops=0)
        lines += ["    return x + 2.0 * y + 3.0 * z"]
        self.text = "\n".join(lines) + "\n"

    def expression(self) -> str:
        """An expression whose values stay small."""
        a, b = self.random.choice(VARIABLES), self.random.choice(VARIABLES)
        c = round(self.random.uniform(-1.5, 1.5), 2)
        forms = (
            f"{a} * {b}", f"{a} - {b}", f"{a} / (1.0 + {b} * {b})", f"{c} * {a}", f"-{a} + {c}",
            f"({a} * 1.0 if {a} > {b} else {c} * {b})", f"{a} + 0.0", f"({a} + {b}) * {c}",
        )  # fmt: skip
        return self.random.choice(forms)

    def condition(self) -> str:
        """A comparison."""
        a, b = self.random.choice(VARIABLES), self.random.choice(VARIABLES)
        c = round(self.random.uniform(-1, 1), 2)
        forms = (f"{a} > {b}", f"{a} < {c}", f"{a} > {c} and {b} < 1.0", f"not {a} > {c}")
        return self.random.choice(forms)

    def block(self, depth: int, loops: int) -> list[str]:
        """Some statements."""
        found: list[str] = []
        for _ in range(self.random.randint(1, 3)):
            found += self.statement(depth, loops)
        return found

    def statement(self, depth: int, loops: int) -> list[str]:
        """One statement, indented."""
        pad = "    " * depth
        kind = self.random.random()
        if depth > 3 or kind < 0.35:
            name = self.random.choice(VARIABLES)
            return [f"{pad}{name} = {self.expression()}"]
        if kind < 0.45:
            return [f"{pad}{self.random.choice(VARIABLES)} += {self.expression()}"]
        if kind < 0.5:
            return [f"{pad}x, y = {self.expression()}, {self.expression()}"]
        if kind < 0.7:
            lines = [f"{pad}if {self.condition()}:", *self.jumping(depth + 1, loops)]
            if self.random.random() < 0.5:
                lines += [f"{pad}else:", *self.jumping(depth + 1, loops)]
            return lines
        return self.loop(depth, loops)

    def jumping(self, depth: int, loops: int) -> list[str]:
        """A block that may end in a jump."""
        lines = self.block(depth, loops)
        pad = "    " * depth
        if self.random.random() < 0.35:
            ways = ["return x * z - y"] + ["break", "continue"] * bool(loops)
            lines.append(pad + self.random.choice(ways))
        return lines

    def loop(self, depth: int, loops: int) -> list[str]:
        """A loop of a few iterations."""
        pad = "    " * depth
        self.counters += 1
        name = f"k{self.counters}"
        if self.random.random() < 0.5:
            body = self.block(depth + 1, loops + 1)
            return [f"{pad}for {name} in range(n):", f"{pad}    z = z + 0.1 * x * {name}", *body]
        test = f"{name} < n and {self.condition()}"
        first = [f"{pad}{name} = 0", f"{pad}while {test}:", f"{pad}    {name} += 1"]
        return [*first, *self.block(depth + 1, loops + 1)]


def function_of(program: Program, path: Path) -> FunctionType:
    """The function, from a file that its source can be read from."""
    path.write_text(program.text)
    made: dict[str, object] = {}
    exec(compile(program.text, str(path), "exec"), made)
    found = made["program"]
    assert isinstance(found, FunctionType)
    return found
