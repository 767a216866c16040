"""The native stage runtime as LLVM IR text: workers, groups of stages, patches, time stamps.

Worker threads enter `rung_worker` once and stay. `rung_run` patches the argument tables, opens
the gate, wakes the workers and walks the program together with them.

Stages without a barrier between them form a group. A group is cut into as many shares as there
are threads; share v is thread v's static part of every stage in the group. Each thread takes its
own share, and after a short wait also those whose owners have not come (asleep, or preempted by
another process): nobody ever waits for a thread that is not working. The next group starts when
all shares are done.

A claim is a compare-and-swap from the number of the last run to that of the present one, and
`done` counts up over all runs. So a thread that is late by whole runs finds every share taken and
every group done, whatever has happened meanwhile; it only reads the program's memory, which is
not given back while anybody is behind the gate.

All shared state lives in one block whose words sit on cache lines of their own (`StateOffset`),
and a program is plain memory too (`ProgramOffset`, `GroupOffset`, `StageOffset`, `PatchOffset`).
"""

from __future__ import annotations

from enum import IntEnum

from rung.runtime.native_script import SCRIPT_SYMBOLS, script_ir
from rung.runtime.native_wait import (
    CLOCK,
    PAUSE_ARM,
    PAUSE_X86,
    SLEEP_LINUX,
    SLEEP_PORTABLE,
    WAIT,
)  # fmt: skip


class StateOffset(IntEnum):
    """Byte offsets in the pool's state block; words that threads contend for are 128 B apart."""

    EPOCH = 0  # i32: raised by one for every run
    EPOCH_SLEEPERS = 128  # i32: workers asleep on EPOCH
    PROGRAM = 256  # ptr: program of the present run; null tells the workers to leave
    GATE = 384  # i32: bit 0 = a run is going on; the rest counts workers inside a program
    DONE_SLEEPERS = 512  # i32: threads asleep until a group is done
    NUM_THREADS = 768  # i64
    IDLE_SPINS = 776  # i64: pauses before an idle worker sleeps
    DONE_SPINS = 784  # i64: pauses before a thread that waits for a group yields
    SCRATCH = 792  # ptr: block of NUM_THREADS * SCRATCH_STRIDE bytes
    SCRATCH_STRIDE = 800  # i64
    STEAL_SPINS = 808  # i64: pauses before a thread takes the shares of others
    BYTES = 1024


class ProgramOffset(IntEnum):
    """Byte offsets in a program's header. A new binding gets a new header, never a changed one."""

    STAGES = 0  # ptr
    NUM_STAGES = 8  # i64
    PATCHES = 16  # ptr
    NUM_PATCHES = 24  # i64
    COUNTERS = 32  # ptr: how many tiles are taken of each share of each stage, COUNTER_STRIDE apart
    PROFILE = 48  # ptr to NUM_GROUPS + 1 time stamps (i64, ns), or null
    ALONE = 56  # i64: 1 = the caller runs everything itself
    STATE = 64  # ptr: the pool's state block
    GROUPS = 72  # ptr
    NUM_GROUPS = 80  # i64
    DONE = 88  # ptr: i32 for each group, shares done in all runs
    CLAIMS = 96  # ptr: a row of i32 for each share, one for each group: last run that took it
    CLAIM_STRIDE = 104  # i64: bytes from row to row
    RUNS = 112  # i32: number of the present run
    FAULTS = 120  # ptr: words that stages write, 0 where nothing is wrong
    NUM_FAULTS = 128  # i64
    GUARDED_STAGE = 136  # i64: the stage from which on nothing is done once a fault was found
    GUARDED_GROUP = 144  # i64: the group that it begins
    BYTES = 256


class GroupOffset(IntEnum):
    """Byte offsets in one entry of the group table."""

    FIRST = 0  # ptr: its first stage
    END = 8  # ptr: past its last stage
    WIDTH = 16  # i64: at most so many shares; 0 = one for each thread
    BYTES = 32


class StageOffset(IntEnum):
    """Byte offsets in one entry of the stage table."""

    FUNCTION = 0  # ptr: void (ptr args, i64 begin, i64 end, ptr scratch)
    ARGS = 8  # ptr
    GRID = 16  # i64: number of tiles
    WIDTH = 24  # i64: tiles are split over at most so many shares; 0 = all
    NUMBER = 32  # i64: which stage it is
    BYTES = 40


class PatchOffset(IntEnum):
    """Byte offsets in one patch: *slot = pointers[index] + offset."""

    SLOT = 0  # ptr
    INDEX = 8  # i64
    OFFSET = 16  # i64
    BYTES = 24


SYMBOLS = ("rung_run", "rung_worker", "rung_leave", "rung_spin", "rung_now", *SCRIPT_SYMBOLS)
NUM_YIELDS = 8  # sched_yield calls between spinning for a group and sleeping
COUNTER_STRIDE = 64


def native_ir(triple: str) -> str:
    """LLVM IR text of the runtime for `triple` (x86-64 or AArch64; Linux futex or portable)."""
    text = SLEEP_LINUX if "linux" in triple else SLEEP_PORTABLE
    text = PAUSE_X86 + text if triple.startswith(("x86_64", "amd64")) else PAUSE_ARM + text
    futex = 202 if triple.startswith(("x86_64", "amd64")) else 98
    text = f'target triple = "{triple}"\n' + text + WAIT + CLOCK + _STAGE + _WALK + _RUN + _WORKER
    values = {"FUTEX": futex, "YIELDS": NUM_YIELDS, "COUNTER_STRIDE": COUNTER_STRIDE}
    for kind, offsets in (
        ("S", StateOffset),
        ("P", ProgramOffset),
        ("U", GroupOffset),
        ("G", StageOffset),
        ("A", PatchOffset),
    ):
        values |= {f"{kind}.{offset.name}": int(offset) for offset in offsets}
    for name in sorted(values, key=len, reverse=True):
        text = text.replace("$" + name, str(values[name]))
    return text + script_ir()


_STAGE = """
; A share of one stage: its own tiles, a quarter of what is left at a time, then what is left of the
; other shares'. A counter is past its end from the last tile of one run until its share is taken in
; the next, so nobody takes tiles of a share that has not begun.
define internal void @stage(ptr %entry_at, ptr %all_counters, i64 %tid, i64 %threads,
                            ptr %scratch) nounwind {
start:
  %width_at = getelementptr i8, ptr %entry_at, i64 $G.WIDTH
  %limit = load i64, ptr %width_at, align 8
  %unlimited = icmp eq i64 %limit, 0
  %fewer = call i64 @llvm.umin.i64(i64 %limit, i64 %threads)
  %width = select i1 %unlimited, i64 %threads, i64 %fewer
  %takes_part = icmp ult i64 %tid, %width
  br i1 %takes_part, label %work, label %done
work:
  %function_at = getelementptr i8, ptr %entry_at, i64 $G.FUNCTION
  %args_at = getelementptr i8, ptr %entry_at, i64 $G.ARGS
  %grid_at = getelementptr i8, ptr %entry_at, i64 $G.GRID
  %number_at = getelementptr i8, ptr %entry_at, i64 $G.NUMBER
  %function = load ptr, ptr %function_at, align 8
  %args = load ptr, ptr %args_at, align 8
  %grid = load i64, ptr %grid_at, align 8
  %number = load i64, ptr %number_at, align 8
  %alone = icmp eq i64 %width, 1
  br i1 %alone, label %whole, label %open
whole:
  %some = icmp ne i64 %grid, 0
  br i1 %some, label %all, label %done
all:
  call void %function(ptr %args, i64 0, i64 %grid, ptr %scratch)
  br label %done
open:
  %row_bytes = mul i64 %threads, $COUNTER_STRIDE
  %row_offset = mul i64 %row_bytes, %number
  %counters = getelementptr i8, ptr %all_counters, i64 %row_offset
  %mine_offset = mul i64 %tid, $COUNTER_STRIDE
  %mine = getelementptr i8, ptr %counters, i64 %mine_offset
  store atomic i64 0, ptr %mine monotonic, align 8
  %share = udiv i64 %grid, %width
  %rest = urem i64 %grid, %width
  br label %part
part:
  %u = phi i64 [0, %open], [%u1, %next]
  %around = add i64 %tid, %u
  %v = urem i64 %around, %width
  %base = mul i64 %share, %v
  %extra = call i64 @llvm.umin.i64(i64 %v, i64 %rest)
  %begin = add i64 %base, %extra
  %longer = icmp ult i64 %v, %rest
  %one_more = zext i1 %longer to i64
  %count = add i64 %share, %one_more
  %least_or_none = lshr i64 %count, 5
  %least = call i64 @llvm.umax.i64(i64 %least_or_none, i64 1)
  %counter_offset = mul i64 %v, $COUNTER_STRIDE
  %counter = getelementptr i8, ptr %counters, i64 %counter_offset
  br label %look
look:
  %taken = load atomic i64, ptr %counter monotonic, align 8
  %any = icmp ult i64 %taken, %count
  br i1 %any, label %take, label %next
take:
  %left = sub i64 %count, %taken
  %quarter = lshr i64 %left, 2
  %chunk = call i64 @llvm.umax.i64(i64 %quarter, i64 %least)
  %from = atomicrmw add ptr %counter, i64 %chunk monotonic
  %got = icmp ult i64 %from, %count
  br i1 %got, label %work_on, label %next
work_on:
  %past = add i64 %from, %chunk
  %to = call i64 @llvm.umin.i64(i64 %past, i64 %count)
  %first = add i64 %begin, %from
  %end = add i64 %begin, %to
  call void %function(ptr %args, i64 %first, i64 %end, ptr %scratch)
  br label %look
next:
  %u1 = add i64 %u, 1
  %more = icmp ult i64 %u1, %width
  br i1 %more, label %part, label %done
done:
  ret void
}
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)

; the time now, unless a later one is there already
define internal void @stamp(ptr %profile, i64 %i) noinline nounwind {
  %at = getelementptr i64, ptr %profile, i64 %i
  %now = call i64 @rung_now()
  %before = atomicrmw umax ptr %at, i64 %now monotonic
  ret void
}
"""

_WALK = """
; all faults of the present run together: 0 if nothing is wrong
define internal i64 @faults(ptr %program) nounwind {
entry:
  %words_at = getelementptr i8, ptr %program, i64 $P.FAULTS
  %num_at = getelementptr i8, ptr %program, i64 $P.NUM_FAULTS
  %words = load ptr, ptr %words_at, align 8
  %num = load i64, ptr %num_at, align 8
  br label %head
head:
  %i = phi i64 [0, %entry], [%i1, %body]
  %all = phi i64 [0, %entry], [%all1, %body]
  %more = icmp ult i64 %i, %num
  br i1 %more, label %body, label %leave
body:
  %word_at = getelementptr i64, ptr %words, i64 %i
  %word = load i64, ptr %word_at, align 8
  %all1 = or i64 %all, %word
  %i1 = add i64 %i, 1
  br label %head
leave:
  ret i64 %all
}

; one share of one group, if nobody has taken it yet in this run; the last share to be done leaves
; the time stamp of the group
define internal void @try_share(ptr %program, ptr %group, i64 %g, i64 %share, i64 %threads,
                                i32 %run, ptr %done, ptr %scratch) noinline nounwind {
entry:
  %claims_at = getelementptr i8, ptr %program, i64 $P.CLAIMS
  %stride_at = getelementptr i8, ptr %program, i64 $P.CLAIM_STRIDE
  %counters_at = getelementptr i8, ptr %program, i64 $P.COUNTERS
  %counters = load ptr, ptr %counters_at, align 8
  %claims = load ptr, ptr %claims_at, align 8
  %stride = load i64, ptr %stride_at, align 8
  %row_offset = mul i64 %stride, %share
  %row = getelementptr i8, ptr %claims, i64 %row_offset
  %claim = getelementptr i32, ptr %row, i64 %g
  %old = sub i32 %run, 1
  %seen = load atomic i32, ptr %claim monotonic, align 4
  %free = icmp eq i32 %seen, %old
  br i1 %free, label %take, label %leave
take:
  %pair = cmpxchg ptr %claim, i32 %old, i32 %run acq_rel monotonic
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %work, label %leave
work:
  %guarded_at = getelementptr i8, ptr %program, i64 $P.GUARDED_GROUP
  %guarded = load i64, ptr %guarded_at, align 8
  %is_guarded = icmp uge i64 %g, %guarded
  br i1 %is_guarded, label %look, label %perform
look:
  %faults = call i64 @faults(ptr %program)
  %failed = icmp ne i64 %faults, 0
  br i1 %failed, label %finish, label %perform
perform:
  %first_at = getelementptr i8, ptr %group, i64 $U.FIRST
  %end_at = getelementptr i8, ptr %group, i64 $U.END
  %first = load ptr, ptr %first_at, align 8
  %end = load ptr, ptr %end_at, align 8
  br label %loop
loop:
  %stage = phi ptr [%first, %perform], [%next, %loop]
  call void @stage(ptr %stage, ptr %counters, i64 %share, i64 %threads, ptr %scratch)
  %next = getelementptr i8, ptr %stage, i64 $G.BYTES
  %last = icmp eq ptr %next, %end
  br i1 %last, label %finish, label %loop
finish:
  %profile_at = getelementptr i8, ptr %program, i64 $P.PROFILE
  %profile = load ptr, ptr %profile_at, align 8
  %timed = icmp ne ptr %profile, null
  br i1 %timed, label %time, label %count
time:
  %g1 = add i64 %g, 1
  call void @stamp(ptr %profile, i64 %g1)
  br label %count
count:
  %before = atomicrmw add ptr %done, i32 1 seq_cst
  br label %leave
leave:
  ret void
}

define internal void @walk(ptr %state, ptr %program, i64 %tid, i64 %threads) noinline nounwind {
entry:
  %scratch_at = getelementptr i8, ptr %state, i64 $S.SCRATCH
  %stride_at = getelementptr i8, ptr %state, i64 $S.SCRATCH_STRIDE
  %steal_at = getelementptr i8, ptr %state, i64 $S.STEAL_SPINS
  %spins_at = getelementptr i8, ptr %state, i64 $S.DONE_SPINS
  %sleepers = getelementptr i8, ptr %state, i64 $S.DONE_SLEEPERS
  %scratch_all = load ptr, ptr %scratch_at, align 8
  %stride = load i64, ptr %stride_at, align 8
  %mine = mul i64 %stride, %tid
  %scratch = getelementptr i8, ptr %scratch_all, i64 %mine
  %steal_spins = load i64, ptr %steal_at, align 8
  %spins = load i64, ptr %spins_at, align 8
  %groups_at = getelementptr i8, ptr %program, i64 $P.GROUPS
  %num_at = getelementptr i8, ptr %program, i64 $P.NUM_GROUPS
  %done_at = getelementptr i8, ptr %program, i64 $P.DONE
  %run_at = getelementptr i8, ptr %program, i64 $P.RUNS
  %groups = load ptr, ptr %groups_at, align 8
  %num = load i64, ptr %num_at, align 8
  %dones = load ptr, ptr %done_at, align 8
  %run = load i32, ptr %run_at, align 4
  br label %head
head:
  %g = phi i64 [0, %entry], [%g1, %passed]
  %more = icmp ult i64 %g, %num
  br i1 %more, label %body, label %leave
body:
  %offset = mul i64 %g, $U.BYTES
  %group = getelementptr i8, ptr %groups, i64 %offset
  %width_at = getelementptr i8, ptr %group, i64 $U.WIDTH
  %limit = load i64, ptr %width_at, align 8
  %unlimited = icmp eq i64 %limit, 0
  %fewer = call i64 @llvm.umin.i64(i64 %limit, i64 %threads)
  %shares = select i1 %unlimited, i64 %threads, i64 %fewer
  %shares32 = trunc i64 %shares to i32
  %target = mul i32 %run, %shares32
  %done = getelementptr i32, ptr %dones, i64 %g
  %have_own = icmp ult i64 %tid, %shares
  br i1 %have_own, label %own, label %await
own:
  call void @try_share(ptr %program, ptr %group, i64 %g, i64 %tid, i64 %threads, i32 %run,
                       ptr %done, ptr %scratch)
  br label %await
await:
  %soon = call i1 @spin_until(ptr %done, i32 %target, i64 %steal_spins)
  br i1 %soon, label %passed, label %steal
steal:
  %v = phi i64 [0, %await], [%v1, %steal]
  call void @try_share(ptr %program, ptr %group, i64 %g, i64 %v, i64 %threads, i32 %run,
                       ptr %done, ptr %scratch)
  %v1 = add i64 %v, 1
  %others = icmp ult i64 %v1, %shares
  br i1 %others, label %steal, label %rest
rest:
  call void @wait_until(ptr %done, i32 %target, ptr %sleepers, i64 %spins, i64 $YIELDS)
  br label %passed
passed:
  call void @wake_sleepers(ptr %done, ptr %sleepers)
  %g1 = add i64 %g, 1
  br label %head
leave:
  ret void
}

; all stages in order on this thread, with a single share
define internal void @walk_alone(ptr %state, ptr %program) noinline nounwind {
entry:
  %scratch_at = getelementptr i8, ptr %state, i64 $S.SCRATCH
  %scratch = load ptr, ptr %scratch_at, align 8
  %stages_at = getelementptr i8, ptr %program, i64 $P.STAGES
  %num_at = getelementptr i8, ptr %program, i64 $P.NUM_STAGES
  %profile_at = getelementptr i8, ptr %program, i64 $P.PROFILE
  %stages = load ptr, ptr %stages_at, align 8
  %num = load i64, ptr %num_at, align 8
  %profile = load ptr, ptr %profile_at, align 8
  %timed = icmp ne ptr %profile, null
  %guarded_at = getelementptr i8, ptr %program, i64 $P.GUARDED_STAGE
  %guarded = load i64, ptr %guarded_at, align 8
  br label %head
head:
  %i = phi i64 [0, %entry], [%i1, %body]
  br i1 %timed, label %time, label %check
time:
  call void @stamp(ptr %profile, i64 %i)
  br label %check
check:
  %more = icmp ult i64 %i, %num
  br i1 %more, label %next, label %leave
next:
  %is_guarded = icmp eq i64 %i, %guarded
  br i1 %is_guarded, label %look, label %body
look:
  %faults = call i64 @faults(ptr %program)
  %failed = icmp ne i64 %faults, 0
  br i1 %failed, label %leave, label %body
body:
  %at = mul i64 %i, $G.BYTES
  %stage = getelementptr i8, ptr %stages, i64 %at
  call void @stage(ptr %stage, ptr null, i64 0, i64 1, ptr %scratch)
  %i1 = add i64 %i, 1
  br label %head
leave:
  ret void
}
"""

_RUN = """
define internal void @patch_all(ptr %program, ptr %pointers) nounwind {
entry:
  %patches_at = getelementptr i8, ptr %program, i64 $P.PATCHES
  %num_at = getelementptr i8, ptr %program, i64 $P.NUM_PATCHES
  %patches = load ptr, ptr %patches_at, align 8
  %num = load i64, ptr %num_at, align 8
  br label %head
head:
  %i = phi i64 [0, %entry], [%i1, %body]
  %more = icmp ult i64 %i, %num
  br i1 %more, label %body, label %done
body:
  %at = mul i64 %i, $A.BYTES
  %patch = getelementptr i8, ptr %patches, i64 %at
  %index_at = getelementptr i8, ptr %patch, i64 $A.INDEX
  %offset_at = getelementptr i8, ptr %patch, i64 $A.OFFSET
  %slot = load ptr, ptr %patch, align 8
  %index = load i64, ptr %index_at, align 8
  %offset = load i64, ptr %offset_at, align 8
  %pointer_at = getelementptr ptr, ptr %pointers, i64 %index
  %pointer = load ptr, ptr %pointer_at, align 8
  %value = getelementptr i8, ptr %pointer, i64 %offset
  store ptr %value, ptr %slot, align 8
  %i1 = add i64 %i, 1
  br label %head
done:
  ret void
}

; Runs a program. Its faults together: 0 if nothing is wrong.
define i64 @rung_run(ptr %program, ptr %pointers) nounwind {
  %state_at = getelementptr i8, ptr %program, i64 $P.STATE
  %state = load ptr, ptr %state_at, align 8
  call void @patch_all(ptr %program, ptr %pointers)
  %alone_at = getelementptr i8, ptr %program, i64 $P.ALONE
  %alone = load i64, ptr %alone_at, align 8
  %threads_at = getelementptr i8, ptr %state, i64 $S.NUM_THREADS
  %threads = load i64, ptr %threads_at, align 8
  %flagged = icmp ne i64 %alone, 0
  %single = icmp ule i64 %threads, 1
  %by_myself = or i1 %flagged, %single
  br i1 %by_myself, label %here, label %together
here:
  call void @walk_alone(ptr %state, ptr %program)
  %faults_here = call i64 @faults(ptr %program)
  ret i64 %faults_here
together:
  %runs_at = getelementptr i8, ptr %program, i64 $P.RUNS
  %runs = load i32, ptr %runs_at, align 4
  %run = add i32 %runs, 1
  store i32 %run, ptr %runs_at, align 4
  %profile_at = getelementptr i8, ptr %program, i64 $P.PROFILE
  %profile = load ptr, ptr %profile_at, align 8
  %timed = icmp ne ptr %profile, null
  br i1 %timed, label %time, label %begin
time:
  call void @stamp(ptr %profile, i64 0)
  br label %begin
begin:
  %program_at = getelementptr i8, ptr %state, i64 $S.PROGRAM
  store atomic ptr %program, ptr %program_at release, align 8
  %gate = getelementptr i8, ptr %state, i64 $S.GATE
  %closed = atomicrmw or ptr %gate, i32 1 seq_cst
  %before = atomicrmw add ptr %state, i32 1 seq_cst
  %sleepers = getelementptr i8, ptr %state, i64 $S.EPOCH_SLEEPERS
  call void @wake_sleepers(ptr %state, ptr %sleepers)
  call void @walk(ptr %state, ptr %program, i64 0, i64 %threads)
  %open = atomicrmw and ptr %gate, i32 -2 seq_cst
  %faults = call i64 @faults(ptr %program)
  ret i64 %faults
}

; Tells all workers to return: a run without a program.
define void @rung_leave(ptr %state) nounwind {
  %program_at = getelementptr i8, ptr %state, i64 $S.PROGRAM
  store atomic ptr null, ptr %program_at release, align 8
  %before = atomicrmw add ptr %state, i32 1 seq_cst
  %sleepers = getelementptr i8, ptr %state, i64 $S.EPOCH_SLEEPERS
  call void @wake_sleepers(ptr %state, ptr %sleepers)
  ret void
}
"""

_WORKER = """
; arg = {ptr state, i64 tid, i64 epoch at birth}; what pthread_create calls
define ptr @rung_worker(ptr %arg) nounwind {
entry:
  %state = load ptr, ptr %arg, align 8
  %tid_at = getelementptr i8, ptr %arg, i64 8
  %tid = load i64, ptr %tid_at, align 8
  %epoch_at = getelementptr i8, ptr %arg, i64 16
  %born = load i64, ptr %epoch_at, align 8
  %first = trunc i64 %born to i32
  %sleepers = getelementptr i8, ptr %state, i64 $S.EPOCH_SLEEPERS
  %program_at = getelementptr i8, ptr %state, i64 $S.PROGRAM
  %threads_at = getelementptr i8, ptr %state, i64 $S.NUM_THREADS
  %spins_at = getelementptr i8, ptr %state, i64 $S.IDLE_SPINS
  %gate = getelementptr i8, ptr %state, i64 $S.GATE
  br label %idle
idle:
  %last = phi i32 [%first, %entry], [%epoch, %outside]
  %spins = load i64, ptr %spins_at, align 8
  %next = add i32 %last, 1
  call void @wait_until(ptr %state, i32 %next, ptr %sleepers, i64 %spins, i64 0)
  %epoch = load atomic i32, ptr %state acquire, align 4
  %sign = load atomic ptr, ptr %program_at acquire, align 8
  %dismissed = icmp eq ptr %sign, null
  br i1 %dismissed, label %done, label %enter
enter:
  %before = atomicrmw add ptr %gate, i32 2 seq_cst
  %bit = and i32 %before, 1
  %open = icmp ne i32 %bit, 0
  br i1 %open, label %work, label %outside
work:
  %program = load atomic ptr, ptr %program_at acquire, align 8
  %threads = load i64, ptr %threads_at, align 8
  call void @walk(ptr %state, ptr %program, i64 %tid, i64 %threads)
  br label %outside
outside:
  %after = atomicrmw sub ptr %gate, i32 2 seq_cst
  br label %idle
done:
  ret ptr null
}
"""
