"""Which values are stored, and which stored nodes share a kernel.

Three decisions, each from the index maps alone:

1. *Storage*: element-wise and movement nodes are inlined into their readers unless recomputing them
   would read more memory or cost more than storing them does.
2. *Groups*: a stored node joins the kernel of a producer when it reads it row by row (`rows`), or
   when it is an element-wise epilogue of a contraction (`contract`).
3. *Local*: what only its own group reads needs no buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

from rung.ir.expr import (
    Call,
    Expr,
    Read,
    Var,
    bounds,
    imul,
    isub,
    linear_terms,
    postorder,
    reads_data,
    substitute,
    variables,
    walk,
)  # fmt: skip
from rung.ir.node import PARAMETER, Graph, Node, Value, users
from rung.kernel.bijection import invert
from rung.kernel.element import Body, Elements, canonical, linearize
from rung.kernel.loop import Buffer
from rung.kernel.rowsplit import row_split
from rung.ops.broadcast import reshape
from rung.ops.creation import array_constant

REMATERIALIZE_COST = 60
"""Operations per element up to which a value of at most one large read is computed again."""
AMPLIFIED_COST = 4
"""Operations per element from which a value that is read many times is stored."""
MOST_WRITTEN = 1000
"""Operations of an element that are written out within one expression; above that, the value is
kept as if computing it again were dear."""
MOST_DEEP = 48
"""Operations one within the other that are written out within one expression; above that, the value
is kept: in a register of the kernel, or in memory."""
POSITION_DEPTH = 6
"""What a position that is read from memory itself adds to the depth, beside its own."""
MOST_OPERATIONS = 2000
"""Operations of an element that share one kernel: machine code is made kernel by kernel, in a time
that grows faster than the kernel does."""
MOST_MOVES = 64
"""Values made by movement alone through which readers of a value are looked for."""
MOST_REDUCTIONS = 24
"""Reductions and cumulative operations, each with a loop of its own, that share one kernel."""
MIN_ROWS = 16
"""Rows that a group keeps at least (they are what the threads share), unless its work is small."""
SMALL_WORK = 8192
"""Elements up to which one thread does a kernel anyway."""
ROW_BYTES = 1 << 20
"""Bytes of local values per row that stay in the second-level cache."""


def is_map(node: Node, elements: Elements) -> bool:
    """Whether every result element is a scalar expression of operand elements."""
    if node.op in (PARAMETER, array_constant):
        return False
    form = elements.form(node)
    return bool(form.bodies) and not (form.reduce or form.scan or form.write or form.opaque)


def is_contraction(node: Node, elements: Elements) -> bool:
    """Whether the node is a sum of products of two operands (matmul, convolution)."""
    form = elements.form(node)
    if form.combine != "add" or not form.reduce or form.scan or form.write:
        return False
    body = form.bodies[0]
    while isinstance(body, Call) and body.op == "cast":
        body = body.args[0]
    return isinstance(body, Call) and body.op == "multiply" and len(node.inputs) == 2


@dataclass(eq=False)
class Group:
    """Nodes that share a kernel. `kind`: rows, contract, scatter or opaque; `rows`: the number of
    independent rows; `position`: linear place of each member value over `domain` (contract)."""

    kind: str
    index: int
    rows: int
    members: list[Node]
    domain: tuple[Var, ...] = ()
    binding: dict[Node, tuple[Expr, ...]] = field(default_factory=dict)
    position: dict[Value, Expr] = field(default_factory=dict)
    local_bytes: int = 0
    operations: int = 0
    reductions: int = 0


class Storage:
    """Decides which values are stored and builds the bodies of the stored nodes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.elements = Elements()
        self.users = users(graph)
        self.outputs = set(graph.outputs)
        self.stored: list[Node] = []
        self.bodies: dict[Node, Body] = {}
        self.read_often: set[Node] = set()
        self.long: set[Node] = set()  # kept, not written out wherever they are read
        self._written: dict[Node, int] = {}
        self._written_deep: dict[Node, int] = {}
        self.operations: dict[Node, int] = {}  # of an element of each stored node
        self._length: dict[Value, int] = {}
        self._deep: dict[Value, int] = {}
        self._cost: dict[Value, int] = {}
        self._reads: dict[Value, frozenset[Value]] = {}
        for node in graph.nodes:
            self._place(node)

    def _place(self, node: Node) -> None:
        empty = not any(r.type.size for r in node.results)
        if node.op is PARAMETER or node.op is array_constant or empty:
            self._store_leaf(node)
        elif node.op is reshape and self.elements.memory(node.inputs[0]) is not None:
            self.elements.alias(node.results[0], node.inputs[0])
            self._inlined(node.results[0], 0, frozenset(node.inputs))
        elif is_map(node, self.elements) and not self._wants_storage(node):
            length, deep = self._inlined_length(node), self._inlined_depth(node)
            for value in node.results:
                self._inlined(value, *self.inlined_cost(node))
                self._length[value], self._deep[value] = length, deep
        else:
            self._store(node)

    def _store_leaf(self, node: Node) -> None:
        """What is in memory without a kernel: parameters, array constants, empty values."""
        for value in node.results:
            self.elements.store(value)
            self._inlined(value, 0, frozenset((value,)))

    def _store(self, node: Node) -> None:
        body = self.elements.body(node, len(self.stored))
        self.bodies[node] = body
        self.stored.append(node)
        self._written[node] = self._written_length(node, body)
        self._written_deep[node] = self._written_depth(node, body)
        self.operations[node] = sum(isinstance(x, Call) for x in walk(*body.exprs)) or 1
        if self._written[node] > MOST_WRITTEN or self._written_deep[node] > MOST_DEEP:
            self.long.add(node)
            self._written[node], self._written_deep[node] = 1, 0
        for value in node.results:
            self.elements.store(value)
            self._inlined(value, 0, frozenset((value,)))

    def _inlined_length(self, node: Node) -> int:
        """The operations of an element of `node` with its operands written out."""

        def operand(r: Read) -> int:
            assert isinstance(r.source, int)
            return self._length.get(node.inputs[r.source], 1)

        return sum(_length_of(e, operand) for e in self.elements.form(node).bodies)

    def _written_length(self, node: Node, body: Body) -> int:
        """The operations of an element of `node` with the maps before it written out, once for each
        reading: it doubles from one node to the next where each reads the one before twice."""

        def member(r: Read) -> int:
            assert isinstance(r.source, Buffer)
            return self._written.get(self.elements.owner(r.source).node, 1)

        if not is_map(node, self.elements):
            return 1
        return sum(_length_of(e, member) for e in body.exprs)

    def _inlined_depth(self, node: Node) -> int:
        """How many operations lie one within the other in an element of `node` with its operands
        written out, at most."""

        def operand(r: Read) -> int:
            assert isinstance(r.source, int)
            return self._deep.get(node.inputs[r.source], 0)

        return max((_depth_of(e, operand) for e in self.elements.form(node).bodies), default=0)

    def _written_depth(self, node: Node, body: Body) -> int:
        """The same with the maps before it written out that are stored, but not kept."""

        def member(r: Read) -> int:
            assert isinstance(r.source, Buffer)
            return self._written_deep.get(self.elements.owner(r.source).node, 0)

        if not is_map(node, self.elements):
            return 0
        return max(_depth_of(e, member) for e in body.exprs)

    def _inlined(self, value: Value, cost: int, reads: frozenset[Value]) -> None:
        self._cost[value] = cost
        self._reads[value] = reads

    def _own_cost(self, node: Node) -> int:
        out = [r.type for r in node.results]
        flops = node.op.cost(node.attrs, [v.type for v in node.inputs], out).flops
        return -(-flops // max(out[0].size, 1))

    def inlined_cost(self, node: Node) -> tuple[int, frozenset[Value]]:
        """(operations per element, values in memory read) when `node` is inlined."""
        cost = self._own_cost(node) + sum(self._cost[v] for v in dict.fromkeys(node.inputs))
        return cost, frozenset().union(*(self._reads[v] for v in node.inputs))

    def _wants_storage(self, node: Node) -> bool:
        value = node.results[0]
        cost, reads = self.inlined_cost(node)
        readers = self.users[value]
        if self._inlined_length(node) > MOST_WRITTEN or self._inlined_depth(node) > MOST_DEEP:
            return True
        if any(self.elements.form(user).opaque for user in readers):
            return True
        if (cost or len(reads) > 1) and self._amplified(value, value.type.size, cost, len(reads)):
            self.read_often.add(node)
            return True
        if any(r in self.outputs for r in node.results):
            return True
        if len(readers) < 2 or not cost:
            return False
        large = sum(v.type.size * 2 > value.type.size for v in reads)
        return large > 1 or cost > REMATERIALIZE_COST

    def _amplified(self, value: Value, size: int, cost: int, reads: int) -> bool:
        """Whether a reader, directly or through movement, reads each element many times."""
        seen = {value}
        stack = [value]
        while stack and len(seen) <= MOST_MOVES:
            for user in self.users[stack.pop()]:
                if self._amplifies(user, size, cost, reads):
                    return True
                if is_map(user, self.elements) and not self._own_cost(user):
                    stack.extend(r for r in user.results if r not in seen)
                    seen.update(user.results)
        return False

    def _amplifies(self, user: Node, size: int, cost: int, reads: int) -> bool:
        """Whether `user` reads each of `size` elements many times."""
        form = self.elements.form(user)
        if form.write is not None:
            return False
        points = prod(v.extent for v in form.axes + form.reduce)
        ratio = points // max(size, 1)
        if is_contraction(user, self.elements):
            return cost >= AMPLIFIED_COST or reads > 1
        return ratio >= 8 and cost > 2


def _length_of(e: Expr, read_length: Callable[[Read], int]) -> int:
    """The operations of an expression written out as a tree. What is read at a position that is
    read itself has that position in it wherever it reads."""
    memo: dict[Expr, int] = {}
    for x in postorder(e):
        memo[x] = 0
        if isinstance(x, Call):
            memo[x] = 1 + sum(memo[a] for a in x.args)
        elif isinstance(x, Read):
            positions = [i for i in x.index if reads_data(i)]
            memo[x] = max(1, sum(memo[i] for i in positions)) * read_length(x)
    return memo[e]


def _depth_of(e: Expr, read_depth: Callable[[Read], int]) -> int:
    """The operations one within the other. Where a map is written out, the positions at which it is
    read stand within what it reads."""
    memo: dict[Expr, int] = {}
    for x in postorder(e):
        deep = max((memo[c] for c in x.children()), default=0)
        if isinstance(x, Call):
            memo[x] = 1 + deep
        elif isinstance(x, Read):
            memo[x] = deep + read_depth(x) + POSITION_DEPTH * any(map(reads_data, x.index))
        else:
            memo[x] = 0
    return memo[e]


class Grouping:
    """Assigns stored nodes to groups, in topological order."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.groups: list[Group] = []
        self.of: dict[Node, Group] = {}
        self._before: dict[int, int] = {}  # group -> bit set of groups it depends on
        self._after: dict[int, int] = {}
        self._readers: dict[Value, list[Group]] = {}  # of reductions, by what they read
        for node in storage.stored:
            self._assign(node)

    # ---- joining

    def _assign(self, node: Node) -> None:
        body = self.storage.bodies[node]
        producers = self._producers(body)
        for group in sorted(producers, key=lambda g: -g.index):
            if self._reaches_any(group, producers):
                continue
            if self._join(group, node, body):
                self._depend(group, producers)
                self._absorb(group, node, producers)
                return
        sibling = self._sibling(body, producers)
        if sibling is not None:
            self._add(sibling, node)
            self._depend(sibling, producers)
            return
        group = self._start(node, body)
        self._depend(group, producers)
        for value in self._large_reads(body):
            self._readers.setdefault(value, []).append(group)

    def _large_reads(self, body: Body) -> list[Value]:
        """What a plain reduction reads of at least its own iteration space."""
        form = body.form
        if (
            not form.reduce
            or form.scan
            or form.write
            or is_contraction(body.node, self.storage.elements)
        ):
            return []
        points = prod(v.extent for v in body.axes + body.reduce)
        owners = dict.fromkeys(self._owner(r) for r in body.reads)
        return [v for v in owners if v.type.size >= points >= SMALL_WORK]

    def _sibling(self, body: Body, producers: Iterable[Group]) -> Group | None:
        """A group that starts with a reduction of the same shape over the same memory."""
        for value in self._large_reads(body):
            for group in self._readers.get(value, ()):
                if not group.members or any(p is group for p in producers):
                    continue
                first = self.storage.bodies[group.members[0]]
                same = _space(first) == _space(body) and first.form.combine == body.form.combine
                if same and len(group.members) < 6 and not self._reaches_any(group, producers):
                    return group
        return None

    def _producers(self, body: Body) -> list[Group]:
        found: dict[int, Group] = {}
        for r in body.reads:
            owner = self._owner(r)
            if owner.node in self.of:
                group = self.of[owner.node]
                found[group.index] = group
        for v in body.node.inputs if body.form.opaque else ():
            root = self.storage.elements.memory(v)
            if root is not None and self.storage.elements.owner(root).node in self.of:
                group = self.of[self.storage.elements.owner(root).node]
                found[group.index] = group
        return list(found.values())

    def _owner(self, r: Read) -> Value:
        assert isinstance(r.source, Buffer)
        return self.storage.elements.owner(r.source)

    def _start(self, node: Node, body: Body) -> Group:
        group = Group("rows", len(self.groups), max(prod(v.extent for v in body.axes), 1), [])
        self.groups.append(group)
        self._before[group.index] = self._after[group.index] = 0
        if body.form.opaque:
            group.kind = "opaque"
        elif body.form.write is not None:
            group.kind = "scatter"
        elif body.form.scan is not None:
            group.rows = scan_rows(body)
        elif is_contraction(node, self.storage.elements):
            rows = batch_rows(body)
            if rows >= MIN_ROWS // 2 and contraction_bytes(body) // rows <= ROW_BYTES:
                group.rows = rows
            else:
                group.kind = "contract"
                group.domain = body.axes
                group.position[node.results[0]] = linearize(body.axes, node.results[0].shape)
                group.binding[node] = body.axes
        self._add(group, node)
        return group

    def _add(self, group: Group, node: Node) -> None:
        group.members.append(node)
        self.of[node] = group
        group.local_bytes += sum(r.type.nbytes for r in node.results)
        group.operations += self.storage.operations[node]
        group.reductions += not is_map(node, self.storage.elements)

    def _join(self, group: Group, node: Node, body: Body) -> bool:
        if body.form.opaque or body.form.write is not None:
            return False
        if group.operations + self.storage.operations[node] > MOST_OPERATIONS:
            return False
        if group.reductions >= MOST_REDUCTIONS and not is_map(node, self.storage.elements):
            return False
        if group.kind == "contract":
            return self._join_epilogue(group, node, body)
        return group.kind == "rows" and self._join_rows(group, node, body)

    def _join_epilogue(self, group: Group, node: Node, body: Body) -> bool:
        if not is_map(node, self.storage.elements):
            return False
        hero = group.members[0].results[0]
        if node.results[0].type.size != hero.type.size:
            return False
        inside = [r for r in body.reads if self.of.get(self._owner(r).node) is group]
        if any(self._owner(r).node in self.storage.long for r in inside):
            return False
        binding: tuple[Expr, ...] | None = None
        for r in inside:
            place = group.position.get(self._owner(r))
            if place is None or r.guard is not None:
                return False
            if binding is None:
                binding = invert(r.index[0], body.axes, place, hero.type.size)
                if binding is None:
                    return False
            else:
                bound = dict(zip(body.axes, binding, strict=True))
                if substitute(r.index[0], bound) is not canonical(place):
                    return False
        if binding is None:
            return False
        group.binding[node] = binding
        for value in node.results:
            group.position[value] = canonical(linearize(binding, value.shape))
        self._add(group, node)
        return True

    def _join_rows(self, group: Group, node: Node, body: Body) -> bool:
        if is_contraction(node, self.storage.elements) and (
            batch_rows(body) % group.rows and group.rows % batch_rows(body)
        ):
            return False
        rows = self._common_rows(group, body)
        if rows is None:
            return False
        self._add(group, node)
        group.rows = rows
        return True

    def _common_rows(self, group: Group, body: Body) -> int | None:
        """The finest row count at which `body` reads the group row by row."""
        limit = group.rows
        contraction = is_contraction(body.node, self.storage.elements)
        if contraction:
            limit = min(limit, batch_rows(body))
        if body.form.scan is not None:
            limit = min(limit, scan_rows(body))
        nbytes = group.local_bytes + sum(r.type.nbytes for r in body.node.results)
        work = max(prod(v.extent for v in body.axes + body.reduce), 1)
        for rows in row_counts(tuple(v.extent for v in body.axes), limit):
            if group.rows % rows:
                continue
            few = rows < MIN_ROWS and not (rows >= MIN_ROWS // 2 and group.rows == rows)
            if few and (contraction or max(work, nbytes // 4) > SMALL_WORK):
                return None
            if nbytes // rows > 4 * ROW_BYTES:
                return None
            if self._row_local(group, body, rows):
                return rows
        return None

    def _row_local(self, group: Group, body: Body, rows: int) -> bool:
        split = row_split(tuple(v.extent for v in body.axes), rows)
        if split is None:
            return False
        row, index, _ = split
        bound = dict(zip(body.axes, index, strict=True))
        for r in body.reads:
            owner = self._owner(r)
            if self.of.get(owner.node) is not group:
                continue
            size = owner.type.size // rows
            inner = bounds(isub(substitute(r.index[0], bound), imul(row, size)))
            if inner is None or inner[0] < 0 or inner[1] >= size:
                return False
        return True

    def _absorb(self, group: Group, node: Node, producers: Iterable[Group]) -> None:
        """Merge other producers of `node` into its group where that stays legal."""
        body = self.storage.bodies[node]
        for other in producers:
            if other is group or other.kind != "rows" or group.kind != "rows":
                continue
            rows = group.rows if other.rows % group.rows == 0 else other.rows
            if group.rows % rows or other.rows % rows or rows < min(MIN_ROWS, group.rows):
                continue
            if group.operations + other.operations > MOST_OPERATIONS:
                continue
            if group.reductions + other.reductions > MOST_REDUCTIONS:
                continue
            nbytes = group.local_bytes + other.local_bytes
            coarser = rows < min(MIN_ROWS, max(group.rows, other.rows))
            if coarser and not all(map(self._is_small, (*group.members, *other.members))):
                continue
            if nbytes // rows > 4 * ROW_BYTES or self._path_between(group, other):
                continue
            members = [self.storage.bodies[m] for m in group.members]
            if not all(self._row_local(other, b, rows) for b in (*members, body)):
                continue
            if not all(row_split(_extents(m), rows) for m in other.members):
                continue
            self._merge(group, other, rows)

    def _is_small(self, node: Node) -> bool:
        body = self.storage.bodies[node]
        points = prod(v.extent for v in body.axes + body.reduce)
        return points <= SMALL_WORK and not is_contraction(node, self.storage.elements)

    def _merge(self, group: Group, other: Group, rows: int) -> None:
        order = {n: i for i, n in enumerate(self.storage.stored)}
        group.members = sorted(group.members + other.members, key=order.__getitem__)
        group.rows = rows
        group.local_bytes += other.local_bytes
        group.operations += other.operations
        group.reductions += other.reductions
        for m in other.members:
            self.of[m] = group
        other.members = []
        self._link(group.index, self._before[other.index], self._after[other.index])

    # ---- order among groups

    def _reaches_any(self, group: Group, producers: Iterable[Group]) -> bool:
        bit = 1 << group.index
        return any(p is not group and self._before[p.index] & bit for p in producers)

    def _path_between(self, a: Group, b: Group) -> bool:
        own = (1 << a.index) | (1 << b.index)
        through_ab = self._after[a.index] & self._before[b.index] & ~own
        through_ba = self._after[b.index] & self._before[a.index] & ~own
        return bool(through_ab or through_ba)

    def _depend(self, group: Group, producers: Iterable[Group]) -> None:
        before = 0
        for p in producers:
            if p is not group and p.members:
                before |= self._before[p.index] | (1 << p.index)
        self._link(group.index, before, 0)

    def _link(self, index: int, before: int, after: int) -> None:
        own = 1 << index
        before = (self._before[index] | before) & ~own
        after = (self._after[index] | after) & ~own
        self._before[index], self._after[index] = before, after
        for g in bits(before):
            self._after[g] |= after | own
        for g in bits(after):
            self._before[g] |= before | own

    def ordered(self) -> list[Group]:
        """The groups that have members, producers first."""
        done: set[int] = set()
        order: list[Group] = []
        stack = [g for g in reversed(self.groups) if g.members]
        while stack:
            g = stack[-1]
            before = [] if g.index in done else self._before_group(g)
            missing = [p for p in before if p.index not in done]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if g.index not in done:
                done.add(g.index)
                order.append(g)
        return order

    def _before_group(self, group: Group) -> list[Group]:
        """The groups that `group` reads from."""
        found: dict[int, Group] = {}
        for m in group.members:
            for p in sorted(self._producers(self.storage.bodies[m]), key=lambda p: p.index):
                if p is not group:
                    found[p.index] = p
        return list(found.values())


def bits(mask: int) -> Iterator[int]:
    """Positions of the ones in `mask`."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def row_counts(shape: tuple[int, ...], limit: int) -> list[int]:
    """Products of leading dims, finest first, not above `limit`; `limit` itself when it divides."""
    counts = {1}
    total = 1
    for n in shape:
        total *= n
        if 0 < total <= limit:
            counts.add(total)
    if limit and total and total % limit == 0:
        counts.add(limit)
    return sorted(counts, reverse=True)


def _space(body: Body) -> tuple[int, ...]:
    return (*(v.extent for v in body.axes), -1, *(v.extent for v in body.reduce))


def _extents(node: Node) -> tuple[int, ...]:
    return node.results[0].shape


def scan_rows(body: Body) -> int:
    """Independent rows of a cumulative op: the axes before the one it runs along."""
    position = body.form.axes.index(body.form.scan)
    return max(prod(v.extent for v in body.axes[:position]), 1)


def batch_rows(body: Body) -> int:
    """Product of the leading axes of a contraction that both operands share."""
    rows = 1
    product = [frozenset(_vars_of(r)) for r in body.reads]
    for axis in body.axes:
        if not product or not all(axis in p for p in product):
            break
        rows *= axis.extent
    return rows


def _vars_of(r: Read) -> set[Var]:
    terms, _ = linear_terms(r.index[0])
    return variables(*terms)


def contraction_bytes(body: Body) -> int:
    """Bytes of both operands and the result."""
    node = body.node
    return sum(v.type.nbytes for v in (*node.inputs, *node.results))
