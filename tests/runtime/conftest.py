"""Small native stage functions that the tests of the runtime call."""

from collections.abc import Iterator

import pytest

from rung.kernel.machine import host_machine, usable_cores
from rung.runtime.assemble import assemble
from rung.runtime.loader import Library, link
from rung.runtime.pool import set_threads

# mark: counts[i] += 1 for every tile i
# add: out[i] = a[i] + b[i], i32
# shift: out[i] = in[n-1-i] + 1 with n = grid in args[2]
# scratch_id: out[tile] = address of the scratch block
STAGES = """
define void @mark(ptr %args, i64 %begin, i64 %end, ptr %scratch) {
entry:
  %counts = load ptr, ptr %args
  br label %loop
loop:
  %i = phi i64 [%begin, %entry], [%next, %loop]
  %at = getelementptr i64, ptr %counts, i64 %i
  %old = load i64, ptr %at
  %new = add i64 %old, 1
  store i64 %new, ptr %at
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @mirror(ptr %args, i64 %begin, i64 %end, ptr %scratch) {
entry:
  %from = load ptr, ptr %args
  %to_at = getelementptr ptr, ptr %args, i64 1
  %to = load ptr, ptr %to_at
  %n_at = getelementptr ptr, ptr %args, i64 2
  %n_ptr = load ptr, ptr %n_at
  %n = load i64, ptr %n_ptr
  br label %loop
loop:
  %i = phi i64 [%begin, %entry], [%next, %loop]
  %back = sub i64 %n, %i
  %j = sub i64 %back, 1
  %from_at = getelementptr i64, ptr %from, i64 %j
  %old = load i64, ptr %from_at
  %new = add i64 %old, 1
  %out_at = getelementptr i64, ptr %to, i64 %i
  store i64 %new, ptr %out_at
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @where(ptr %args, i64 %begin, i64 %end, ptr %scratch) {
entry:
  %out = load ptr, ptr %args
  br label %loop
loop:
  %i = phi i64 [%begin, %entry], [%next, %loop]
  %at = getelementptr ptr, ptr %out, i64 %i
  store ptr %scratch, ptr %at
  store i64 %i, ptr %scratch
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

; where, but each of the first 32 tiles takes a while
define void @slow(ptr %args, i64 %begin, i64 %end, ptr %scratch) {
entry:
  %out = load ptr, ptr %args
  br label %loop
loop:
  %i = phi i64 [%begin, %entry], [%next, %kept]
  %early = icmp ult i64 %i, 32
  %turns = select i1 %early, i64 100000, i64 1
  br label %wait
wait:
  %turn = phi i64 [0, %loop], [%turn1, %wait]
  store volatile i64 %turn, ptr %scratch
  %turn1 = add i64 %turn, 1
  %again = icmp ult i64 %turn1, %turns
  br i1 %again, label %wait, label %kept
kept:
  %at = getelementptr ptr, ptr %out, i64 %i
  store ptr %scratch, ptr %at
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


@pytest.fixture(scope="session")
def stages() -> Library:
    """Library with `mark`, `mirror`, `where` and `slow`."""
    return link([assemble(STAGES, host_machine())], ["mark", "mirror", "where", "slow"])


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs a test with one, two and more threads than cores."""
    set_threads(request.param)
    yield request.param
    set_threads(usable_cores())
