"""A module of LLVM IR as text: functions, deduplicated declarations, metadata, debug info."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Printable(Protocol):
    """Something that prints itself as a top-level definition."""

    def text(self) -> str:
        """The definition as LLVM IR text."""
        ...


class Module:
    """Collects functions, declarations, globals and metadata, and prints them once.

    `attributes` are the function attributes of every definition (see `Target.attributes`).
    `features` are facts about the machine that change what is emitted (`"avx512f"`, ...);
    without any, only portable IR is written.
    """

    def __init__(self, attributes: str = "nounwind", features: frozenset[str] = frozenset()):
        self.attributes = attributes
        self.features = features
        self.functions: list[Printable] = []
        self._declarations: dict[str, str] = {}
        self._defined: set[str] = set()
        self._globals: dict[str, str] = {}
        self._metadata: list[str] = []
        self._uniqued: dict[str, str] = {}
        self._compile_unit: str | None = None

    def define(self, name: str, function: Printable) -> None:
        """Add a definition; a declaration of the same name is dropped."""
        self._defined.add(name)
        self.functions.append(function)

    def declare(self, name: str, result: str, args: Sequence[str], attributes: str = "") -> None:
        """Declare an outside function or intrinsic, once."""
        if name not in self._declarations:
            suffix = f" {attributes}" if attributes else ""
            self._declarations[name] = f"declare {result} @{name}({', '.join(args)}){suffix}"

    def is_declared(self, name: str) -> bool:
        """Whether `declare` was called for the name."""
        return name in self._declarations

    def add_global(self, name: str, text: str) -> str:
        """Define a global, `text` being all that follows `=`; gives its name with `@`.

        >>> Module().add_global("table", "private unnamed_addr constant [2 x i32] [i32 1, i32 2]")
        '@table'
        """
        self._globals.setdefault(name, f"@{name} = {text}")
        return f"@{name}"

    def metadata(self, text: str) -> str:
        """A metadata node with this text (`!{...}` or `!DI...`), the same one for equal texts."""
        known = self._uniqued.get(text)
        if known is None:
            known = self._uniqued[text] = self._append(text)
        return known

    def distinct_metadata(self, text: str) -> str:
        """A new `distinct` node; `{self}` in the text stands for the node itself."""
        name = f"!{len(self._metadata)}"
        return self._append("distinct " + text.replace("{self}", name))

    def _append(self, text: str) -> str:
        self._metadata.append(text)
        return f"!{len(self._metadata) - 1}"

    def loop_metadata(self, unroll: int = 1) -> str:
        """Metadata for a loop's back edge: `unroll` 1 forbids unrolling, 0 leaves it to LLVM."""
        if unroll == 0:
            hint = ""
        elif unroll == 1:
            hint = ", " + self.metadata('!{!"llvm.loop.unroll.disable"}')
        else:
            hint = ", " + self.metadata(f'!{{!"llvm.loop.unroll.count", i32 {unroll}}}')
        return self.distinct_metadata("!{{self}" + hint + "}")

    def alias_scopes(self, names: Sequence[str]) -> list[str]:
        """Metadata suffixes that say that `names` never overlap, one suffix a name.

        Append the suffix (`meta=`) to every load and store of that buffer.
        """
        domain = self.distinct_metadata('!{{self}, !"buffers"}')
        scopes = [self.distinct_metadata(f'!{{{{self}}, {domain}, !"{name}"}}') for name in names]
        suffixes = []
        for scope in scopes:
            others = ", ".join(other for other in scopes if other != scope)
            own = self.metadata(f"!{{{scope}}}")
            suffix = f", !alias.scope {own}"
            if others:
                suffix += f", !noalias {self.metadata(f'!{{{others}}}')}"
            suffixes.append(suffix)
        return suffixes

    def debug_file(self, path: str) -> str:
        """The debug-info node of a source file."""
        directory, _, name = path.rpartition("/")
        return self.metadata(
            f'!DIFile(filename: "{_escape(name)}", directory: "{_escape(directory)}")'
        )

    def debug_subprogram(self, name: str, path: str, line: int) -> str:
        """The debug-info node of a function that was generated for `path:line`."""
        file = self.debug_file(path)
        if self._compile_unit is None:
            self._compile_unit = self.distinct_metadata(
                f"!DICompileUnit(language: DW_LANG_C99, file: {file}, "
                'producer: "rung", isOptimized: true, emissionKind: LineTablesOnly)'
            )
        type = self.metadata(f"!DISubroutineType(types: {self.metadata('!{null}')})")
        return self.distinct_metadata(
            f'!DISubprogram(name: "{name}", scope: {file}, file: {file}, line: {line}, '
            f"type: {type}, scopeLine: {line}, spFlags: DISPFlagDefinition | DISPFlagOptimized, "
            f"unit: {self._compile_unit})"
        )

    def debug_location(self, subprogram: str, path: str, line: int) -> str:
        """The debug-info node of one source line inside a function."""
        block = self.metadata(
            f"!DILexicalBlockFile(scope: {subprogram}, file: {self.debug_file(path)}, "
            "discriminator: 0)"
        )
        return self.metadata(f"!DILocation(line: {line}, column: 1, scope: {block})")

    def text(self) -> str:
        """The whole module as LLVM IR text."""
        bodies = [function.text() for function in self.functions]
        parts = list(self._globals.values())
        parts += [t for name, t in self._declarations.items() if name not in self._defined]
        parts += bodies
        nodes = list(self._metadata)
        named = []
        if self._compile_unit is not None:
            named.append(f"!llvm.dbg.cu = !{{{self._compile_unit}}}")
            flags = ('!{i32 2, !"Debug Info Version", i32 3}', '!{i32 7, !"Dwarf Version", i32 4}')
            names = ", ".join(f"!{len(nodes) + i}" for i in range(len(flags)))
            nodes += flags
            named.append(f"!llvm.module.flags = !{{{names}}}")
        parts += named
        parts += [f"!{i} = {node}" for i, node in enumerate(nodes)]
        return "\n".join(parts) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\5C").replace('"', "\\22")
