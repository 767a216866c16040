"""Random small programs as Python text: state that is updated in place, random numbers, branches
and inner loops, in a body that is performed a few times."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SIZE = 3
"""The length of the vectors."""
LENGTH = 3
"""The iterations of a round."""
VECTORS = ("u", "v")
LOCALS = ("u", "v", "s")
"""The names that a body hands on to the next iteration: two vectors and a scalar."""
STATE = ("S.t", "S.d['k']", "S.l[0]")
"""Vectors from outside that a body may update."""
DTYPES = ("int64", "int32", "float64", "float32")


@dataclass
class Statement:
    """A line, or a branch (`test`, two blocks), or an inner loop (one block)."""

    text: str
    blocks: list[list[Statement]] = field(default_factory=list)
    index: str = ""


class Program:
    """The program of a seed. `text(kind)`: its module, whose branches and inner loops are those of
    Python (`python`) or of the graph (`graph`)."""

    def __init__(self, seed: int) -> None:
        r = self.random = random.Random(seed)
        self.seed = seed
        self.dtype = r.choice(DTYPES)
        self.floats = self.dtype.startswith("float")
        self.gradient = self.dtype == "float64" and r.random() < 0.5
        self.weak = r.random() < 0.4
        self.start = r.choice((0, 1, 2) if not self.floats else (0, 1, 0.5))
        self.reads = r.random() < 0.9
        """Whether the body may read tensors from outside."""
        self.updates = self.reads and r.random() < 0.8
        self.draws = r.random() < 0.7
        self.rebinds = r.random() < 0.5
        """Whether the state gets other tensors between the rounds."""
        self.rounds = 2 if r.random() < 0.3 and not self.gradient else 1
        self.indices = 0
        self.body = self._block(4 if r.random() < 0.3 else 2, 0, ())
        self.result = self._vector(1, ())

    # ---- statements

    def _block(self, most: int, depth: int, inner: tuple[str, ...]) -> list[Statement]:
        return [self._statement(depth, inner) for _ in range(self.random.randint(1, most))]

    def _statement(self, depth: int, inner: tuple[str, ...]) -> Statement:
        r = self.random
        kind = r.random()
        if kind < 0.3 and self.updates:
            return Statement(self._update(inner))
        if kind < 0.45 and depth < 2:
            other = self._block(2, depth + 1, inner) if r.random() < 0.6 else []
            return Statement(self._test(inner), [self._block(2, depth + 1, inner), other])
        if kind < 0.55 and depth < 2:
            self.indices += 1
            name = f"j{self.indices}"
            return Statement("", [self._block(2, depth + 1, (*inner, name))], name)
        if kind < 0.68:
            return Statement(f"s = {self._scalar(1, inner)}")
        return Statement(f"{r.choice(VECTORS)} = {self._vector(r.choice((1, 1, 2)), inner)}")

    def _update(self, inner: tuple[str, ...]) -> str:
        r = self.random
        place = r.choice(STATE)
        at = r.choice(("0", "-1", f"{self._index(inner)} % {SIZE}"))
        sliced = r.choice(("1:", ":2", "::2"))
        value = self._vector(1, inner)
        return r.choice(
            (
                f"{place} += {value}", f"{place} -= {value}", f"{place}.add_({value})",
                f"{place}.assign({value})", f"{place}[{at}] = {self._scalar(1, inner)}",
                f"{place}[{sliced}] = ({value})[{sliced}]", "S.n += 1",
                f"S.n.add_({r.randint(1, 3)})", f"S.n += S.n % 3 + {self._index(inner)}",
            )
        )  # fmt: skip

    # ---- expressions

    def _index(self, inner: tuple[str, ...]) -> str:
        return self.random.choice(("i", *inner))

    def _test(self, inner: tuple[str, ...]) -> str:
        r = self.random
        forms = [f"{r.choice(VECTORS)}.sum() > {self._number()}", f"s < {self._number()}",
                 f"{self._index(inner)} % 2 == {r.randint(0, 1)}"]  # fmt: skip
        if self.updates:
            forms += ["S.n % 2 == 0", f"{r.choice(STATE)}[0] >= {self._number()}"]
        if self.draws:
            forms.append("draw()[0] > 0")
        if self.weak:
            del forms[1]
        return r.choice(forms)

    def _number(self) -> str:
        return str(self.random.choice((-1, 0, 1, 2) if not self.floats else (-0.5, 0.25, 1.0, 2)))

    def _atom(self, inner: tuple[str, ...]) -> str:
        r = self.random
        forms = [*VECTORS, *VECTORS, "x"]
        if self.reads:
            forms += [r.choice(STATE), "cast(S.n)"]
        if self.draws:
            forms += ["draw()", r.choice(("draw()", "draw_given()"))]
        if self.gradient:
            forms += ["S.w", "S.w"]
        return r.choice(forms)

    def _vector(self, depth: int, inner: tuple[str, ...]) -> str:
        r = self.random
        a = self._vector(depth - 1, inner) if depth and r.random() < 0.5 else self._atom(inner)
        b = self._vector(depth - 1, inner) if depth and r.random() < 0.3 else self._atom(inner)
        index, number, vector = self._index(inner), self._number(), r.choice(VECTORS)
        forms = [f"({a} + {b})", f"({a} - {b})", f"({a} + {index})", f"minimum({a}, {b} + x)",
                 f"maximum({a}, {b} - x)", f"where({a} > {b}, {a} * 1, {b} + {number})",
                 f"flip({a} + {vector})", f"({vector} + ({a})[{index} % {SIZE}])" if "cast" not in a
                 else f"({vector} - {a})", f"({vector} + total({a} + {vector}))"]  # fmt: skip
        if self.floats:
            forms += [f"tanh({a})", f"({a} * 0.5 + {b})", f"({a} * ({index} + 1) * 0.125)",
                      f"({a} * {b} * 0.25)"]  # fmt: skip
            if self.draws:
                forms.append(f"dropout({a} + {vector})")
            if "cast" in a:
                return f"tanh({vector} * 0.5 + {a})"
        else:
            forms += [f"({a} * 3 + {b}) % 13", f"(({a} + {vector}) // 2)", f"({a} * {index})",
                      f"({a} - {index} * 2) % 7"]  # fmt: skip
        found = r.choice(forms)
        whole = any(v in found for v in (*VECTORS, "x", "draw", "S.w"))
        return found if whole else f"({found} + x)"

    def _scalar(self, depth: int, inner: tuple[str, ...]) -> str:
        r = self.random
        vector = self._vector(depth - 1, inner)
        forms = [f"s + total({vector})", f"({vector})[{r.randint(0, 2)}] + s * 1",
                 f"({vector}).max() - s"]  # fmt: skip
        return r.choice(forms)

    # ---- text

    def text(self, kind: str) -> str:
        """The module: `body(S, i, x, u, v, s)` gives (u, v, s, y)."""
        lines = ["def body(S, i, x, u, v, s):"]
        lines += self._lines(self.body, 1, kind, [0])
        lines += [f"    y = {self.result}", "    return u, v, s, y", ""]
        if kind == "python":
            lines += ["def loop(S, n, xs, u, v, s, ys):", "    for i in range(n):",
                      "        x = xs[i]"]  # fmt: skip
            lines += self._lines(self.body, 2, kind, [0])
            lines += [f"        ys[i] = {self.result}", "    return u, v, s, ys", ""]
        return "\n".join(lines)

    def _lines(self, block: list[Statement], depth: int, kind: str, count: list[int]) -> list[str]:
        pad = "    " * depth
        lines: list[str] = []
        for s in block:
            if not s.blocks:
                lines.append(pad + s.text)
            elif kind == "graph":
                lines += self._graph_lines(s, pad, depth, count)
            elif s.index:
                lines.append(f"{pad}for {s.index} in range(2):")
                lines += self._lines(s.blocks[0], depth + 1, kind, count)
            else:
                lines.append(f"{pad}if {s.text}:")
                lines += self._lines(s.blocks[0], depth + 1, kind, count)
                if s.blocks[1]:
                    lines.append(f"{pad}else:")
                    lines += self._lines(s.blocks[1], depth + 1, kind, count)
        return lines or [pad + "pass"]

    def _graph_lines(self, s: Statement, pad: str, depth: int, count: list[int]) -> list[str]:
        count[0] += 1
        number, names, lines = count[0], ", ".join(LOCALS), []
        for which, block in enumerate(s.blocks):
            first = f"{s.index}, carry" if s.index else names
            lines.append(f"{pad}def part{number}_{which}({first}):")
            if s.index:
                lines.append(f"{pad}    {names} = carry")
            if block:
                lines += self._lines(block, depth + 1, "graph", count)
            lines.append(f"{pad}    return {names}")
        if s.index:
            call = f"rung.fori_loop(0, 2, part{number}_0, ({names}))"
        else:
            call = f"rung.cond({s.text}, part{number}_0, part{number}_1, {names})"
        return [*lines, f"{pad}{names} = {call}"]
