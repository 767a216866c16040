"""The native stage runtime as LLVM IR text: workers, barrier, stage walk, patches, time stamps.

Worker threads enter `rung_worker` once and stay. `rung_run` patches the argument tables, wakes
the workers and walks the stage table together with them (every thread walks the whole table and
does its share of each stage); threads meet at barriers only where a stage asks for it.

All shared state lives in one block whose words sit on cache lines of their own (`StateOffset`),
and a program is plain memory too (`ProgramOffset`, `StageOffset`, `PatchOffset`).
"""

from __future__ import annotations

from enum import IntEnum


class StateOffset(IntEnum):
    """Byte offsets in the pool's state block; words that threads contend for are 128 B apart."""

    EPOCH = 0  # i32: raised by one for every run
    EPOCH_SLEEPERS = 128  # i32: workers asleep on EPOCH
    PROGRAM = 256  # ptr: program of the present run; null tells the workers to leave
    ARRIVED = 384  # i32: threads that wait at the barrier
    GENERATION = 512  # i32: barriers passed so far
    GENERATION_SLEEPERS = 640  # i32: threads asleep on GENERATION
    NUM_THREADS = 768  # i64
    IDLE_SPINS = 776  # i64: pauses before an idle worker sleeps
    BARRIER_SPINS = 784  # i64: pauses before a thread at a barrier yields
    SCRATCH = 792  # ptr: block of NUM_THREADS * SCRATCH_STRIDE bytes
    SCRATCH_STRIDE = 800  # i64
    BYTES = 1024


class ProgramOffset(IntEnum):
    """Byte offsets in a program's header."""

    STAGES = 0  # ptr
    NUM_STAGES = 8  # i64
    PATCHES = 16  # ptr
    NUM_PATCHES = 24  # i64
    COUNTERS = 32  # ptr: tile counters of dynamic stages, 64 B apart
    NUM_COUNTERS = 40  # i64
    PROFILE = 48  # ptr to NUM_STAGES + 1 time stamps (i64, ns), or null
    ALONE = 56  # i64: 1 = the caller runs everything itself
    STATE = 64  # ptr: the pool's state block
    BYTES = 128


class StageOffset(IntEnum):
    """Byte offsets in one entry of the stage table."""

    FUNCTION = 0  # ptr: void (ptr args, i64 begin, i64 end, ptr scratch)
    ARGS = 8  # ptr
    GRID = 16  # i64: number of tiles
    BARRIER = 24  # i64: 1 = all earlier stages must be complete before this one starts
    WIDTH = 32  # i64: at most so many threads take part; 0 = all
    COUNTER = 40  # ptr: tile counter when tiles are dealt out dynamically, or null
    CHUNK = 48  # i64: tiles taken from the counter at a time
    BYTES = 64


class PatchOffset(IntEnum):
    """Byte offsets in one patch: *slot = pointers[index] + offset."""

    SLOT = 0  # ptr
    INDEX = 8  # i64
    OFFSET = 16  # i64
    BYTES = 24


SYMBOLS = ("rung_run", "rung_worker", "rung_leave", "rung_spin", "rung_now")
NUM_YIELDS = 8  # sched_yield calls between spinning at a barrier and sleeping
COUNTER_STRIDE = 64


def native_ir(triple: str) -> str:
    """LLVM IR text of the runtime for `triple` (x86-64 or AArch64; Linux futex or portable)."""
    text = _SLEEP_LINUX if "linux" in triple else _SLEEP_PORTABLE
    text = _PAUSE_X86 + text if triple.startswith(("x86_64", "amd64")) else _PAUSE_ARM + text
    futex = 202 if triple.startswith(("x86_64", "amd64")) else 98
    text = f'target triple = "{triple}"\n' + text + _WAIT + _BARRIER + _STAGE + _RUN + _WORKER
    values = {"FUTEX": futex, "YIELDS": NUM_YIELDS}
    for kind, offsets in (
        ("S", StateOffset),
        ("P", ProgramOffset),
        ("G", StageOffset),
        ("A", PatchOffset),
    ):
        values |= {f"{kind}.{offset.name}": int(offset) for offset in offsets}
    for name in sorted(values, key=len, reverse=True):
        text = text.replace("$" + name, str(values[name]))
    return text


_PAUSE_X86 = """
declare void @llvm.x86.sse2.pause()
define internal void @pause() alwaysinline nounwind {
  call void @llvm.x86.sse2.pause()
  ret void
}
"""

# `yield` is a no-op on most cores; `isb` really stalls for some nanoseconds.
_PAUSE_ARM = """
declare void @llvm.aarch64.isb(i32)
define internal void @pause() alwaysinline nounwind {
  call void @llvm.aarch64.isb(i32 15)
  ret void
}
"""

_SLEEP_LINUX = """
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)

; FUTEX_WAIT | FUTEX_PRIVATE_FLAG: sleeps while *word == old
define internal void @sleep_while(ptr %word, i32 %old) noinline nounwind {
  %r = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 128, i32 %old, ptr null, ptr null,
                                    i32 0)
  ret void
}

; FUTEX_WAKE | FUTEX_PRIVATE_FLAG: wakes everybody
define internal void @wake_all(ptr %word) noinline nounwind {
  %r = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 129, i32 2147483647, ptr null,
                                    ptr null, i32 0)
  ret void
}
"""

_SLEEP_PORTABLE = """
declare i32 @usleep(i32)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)

define internal void @sleep_while(ptr %word, i32 %old) noinline nounwind {
  %r = call i32 @usleep(i32 50)
  ret void
}

define internal void @wake_all(ptr %word) noinline nounwind {
  ret void
}
"""

# A waiter counts itself as a sleeper before the kernel compares the word, and the other side
# changes the word before it reads the count (both sequentially consistent): no lost wake-up.
_WAIT = """
define internal void @wait_change(ptr %word, i32 %old, ptr %sleepers, i64 %spins, i64 %yields)
    noinline nounwind {
entry:
  br label %spin
spin:
  %i = phi i64 [0, %entry], [%i1, %again]
  %seen = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %seen, %old
  br i1 %changed, label %done, label %more
more:
  %spinning = icmp ult i64 %i, %spins
  br i1 %spinning, label %again, label %yielding
again:
  call void @pause()
  %i1 = add i64 %i, 1
  br label %spin
yielding:
  %y = phi i64 [0, %more], [%y1, %yielded]
  %yield = icmp ult i64 %y, %yields
  br i1 %yield, label %yielded0, label %park
yielded0:
  %r = call i32 @sched_yield()
  %seen2 = load atomic i32, ptr %word acquire, align 4
  %changed2 = icmp ne i32 %seen2, %old
  br i1 %changed2, label %done, label %yielded
yielded:
  %y1 = add i64 %y, 1
  br label %yielding
park:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %asleep
asleep:
  %seen3 = load atomic i32, ptr %word seq_cst, align 4
  %changed3 = icmp ne i32 %seen3, %old
  br i1 %changed3, label %awake, label %sleep
sleep:
  call void @sleep_while(ptr %word, i32 %old)
  br label %asleep
awake:
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %done
done:
  ret void
}

define internal void @wake_sleepers(ptr %word, ptr %sleepers) nounwind {
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %count, 0
  br i1 %any, label %wake, label %done
wake:
  call void @wake_all(ptr %word)
  br label %done
done:
  ret void
}
"""

_BARRIER = """
define internal void @barrier(ptr %state, i64 %threads) nounwind {
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %done, label %meet
meet:
  %arrived = getelementptr i8, ptr %state, i64 $S.ARRIVED
  %generation = getelementptr i8, ptr %state, i64 $S.GENERATION
  %sleepers = getelementptr i8, ptr %state, i64 $S.GENERATION_SLEEPERS
  %now = load atomic i32, ptr %generation acquire, align 4
  %before = atomicrmw add ptr %arrived, i32 1 acq_rel
  %n = trunc i64 %threads to i32
  %last_index = sub i32 %n, 1
  %last = icmp eq i32 %before, %last_index
  br i1 %last, label %release, label %wait
release:
  store atomic i32 0, ptr %arrived monotonic, align 4
  %next = add i32 %now, 1
  store atomic i32 %next, ptr %generation seq_cst, align 4
  call void @wake_sleepers(ptr %generation, ptr %sleepers)
  br label %done
wait:
  %spins_at = getelementptr i8, ptr %state, i64 $S.BARRIER_SPINS
  %spins = load i64, ptr %spins_at, align 8
  call void @wait_change(ptr %generation, i32 %now, ptr %sleepers, i64 %spins, i64 $YIELDS)
  br label %done
done:
  ret void
}

define i64 @rung_now() nounwind {
  %time = alloca [2 x i64], align 8
  %r = call i32 @clock_gettime(i32 1, ptr %time)
  %s = load i64, ptr %time, align 8
  %ns_at = getelementptr i8, ptr %time, i64 8
  %ns = load i64, ptr %ns_at, align 8
  %whole = mul i64 %s, 1000000000
  %now = add i64 %whole, %ns
  ret i64 %now
}

define void @rung_spin(i64 %count) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  call void @pause()
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

_STAGE = """
define internal void @stage(ptr %entry_at, i64 %tid, i64 %threads, ptr %scratch) nounwind {
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
  %counter_at = getelementptr i8, ptr %entry_at, i64 $G.COUNTER
  %function = load ptr, ptr %function_at, align 8
  %args = load ptr, ptr %args_at, align 8
  %grid = load i64, ptr %grid_at, align 8
  %counter = load ptr, ptr %counter_at, align 8
  %static = icmp eq ptr %counter, null
  %one = icmp eq i64 %width, 1
  %fixed = or i1 %static, %one
  br i1 %fixed, label %range, label %dynamic
range:
  %share = udiv i64 %grid, %width
  %rest = urem i64 %grid, %width
  %base = mul i64 %share, %tid
  %extra = call i64 @llvm.umin.i64(i64 %tid, i64 %rest)
  %begin = add i64 %base, %extra
  %longer = icmp ult i64 %tid, %rest
  %one_more = zext i1 %longer to i64
  %count = add i64 %share, %one_more
  %end = add i64 %begin, %count
  %some = icmp ult i64 %begin, %end
  br i1 %some, label %call_range, label %done
call_range:
  call void %function(ptr %args, i64 %begin, i64 %end, ptr %scratch)
  br label %done
dynamic:
  %chunk_at = getelementptr i8, ptr %entry_at, i64 $G.CHUNK
  %chunk = load i64, ptr %chunk_at, align 8
  br label %take
take:
  %from = atomicrmw add ptr %counter, i64 %chunk monotonic
  %left = icmp ult i64 %from, %grid
  br i1 %left, label %call_chunk, label %done
call_chunk:
  %past = add i64 %from, %chunk
  %to = call i64 @llvm.umin.i64(i64 %past, i64 %grid)
  call void %function(ptr %args, i64 %from, i64 %to, ptr %scratch)
  br label %take
done:
  ret void
}
declare i64 @llvm.umin.i64(i64, i64)

define internal void @stamp(ptr %profile, i64 %i, i64 %tid) noinline nounwind {
  %first = icmp eq i64 %tid, 0
  br i1 %first, label %write, label %done
write:
  %at = getelementptr i64, ptr %profile, i64 %i
  %now = call i64 @rung_now()
  store i64 %now, ptr %at, align 8
  br label %done
done:
  ret void
}

define internal void @walk(ptr %state, ptr %program, i64 %tid, i64 %threads) noinline nounwind {
entry:
  %scratch_at = getelementptr i8, ptr %state, i64 $S.SCRATCH
  %stride_at = getelementptr i8, ptr %state, i64 $S.SCRATCH_STRIDE
  %scratch_all = load ptr, ptr %scratch_at, align 8
  %stride = load i64, ptr %stride_at, align 8
  %mine = mul i64 %stride, %tid
  %scratch = getelementptr i8, ptr %scratch_all, i64 %mine
  %stages_at = getelementptr i8, ptr %program, i64 $P.STAGES
  %num_at = getelementptr i8, ptr %program, i64 $P.NUM_STAGES
  %profile_at = getelementptr i8, ptr %program, i64 $P.PROFILE
  %stages = load ptr, ptr %stages_at, align 8
  %num = load i64, ptr %num_at, align 8
  %profile = load ptr, ptr %profile_at, align 8
  %timed = icmp ne ptr %profile, null
  br label %head
head:
  %i = phi i64 [0, %entry], [%i1, %run]
  %more = icmp ult i64 %i, %num
  br i1 %more, label %body, label %finish
body:
  %at = mul i64 %i, $G.BYTES
  %stage = getelementptr i8, ptr %stages, i64 %at
  %barrier_at = getelementptr i8, ptr %stage, i64 $G.BARRIER
  %wanted = load i64, ptr %barrier_at, align 8
  %asked = icmp ne i64 %wanted, 0
  %needed = or i1 %asked, %timed
  br i1 %needed, label %meet, label %run
meet:
  call void @barrier(ptr %state, i64 %threads)
  br i1 %timed, label %time, label %run
time:
  call void @stamp(ptr %profile, i64 %i, i64 %tid)
  br label %run
run:
  call void @stage(ptr %stage, i64 %tid, i64 %threads, ptr %scratch)
  %i1 = add i64 %i, 1
  br label %head
finish:
  call void @barrier(ptr %state, i64 %threads)
  br i1 %timed, label %last, label %done
last:
  call void @stamp(ptr %profile, i64 %num, i64 %tid)
  br label %done
done:
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
  br i1 %more, label %body, label %counters
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
counters:
  %counters_at = getelementptr i8, ptr %program, i64 $P.COUNTERS
  %num_counters_at = getelementptr i8, ptr %program, i64 $P.NUM_COUNTERS
  %first = load ptr, ptr %counters_at, align 8
  %num_counters = load i64, ptr %num_counters_at, align 8
  br label %zero_head
zero_head:
  %j = phi i64 [0, %counters], [%j1, %zero]
  %counters_left = icmp ult i64 %j, %num_counters
  br i1 %counters_left, label %zero, label %done
zero:
  %counter_offset = mul i64 %j, 64
  %counter = getelementptr i8, ptr %first, i64 %counter_offset
  store atomic i64 0, ptr %counter monotonic, align 8
  %j1 = add i64 %j, 1
  br label %zero_head
done:
  ret void
}

define void @rung_run(ptr %program, ptr %pointers) nounwind {
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
  call void @walk(ptr %state, ptr %program, i64 0, i64 1)
  ret void
together:
  %program_at = getelementptr i8, ptr %state, i64 $S.PROGRAM
  store ptr %program, ptr %program_at, align 8
  %before = atomicrmw add ptr %state, i32 1 seq_cst
  %sleepers = getelementptr i8, ptr %state, i64 $S.EPOCH_SLEEPERS
  call void @wake_sleepers(ptr %state, ptr %sleepers)
  call void @walk(ptr %state, ptr %program, i64 0, i64 %threads)
  ret void
}

; Tells all workers to return: a run without a program.
define void @rung_leave(ptr %state) nounwind {
  %program_at = getelementptr i8, ptr %state, i64 $S.PROGRAM
  store ptr null, ptr %program_at, align 8
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
  br label %idle
idle:
  %last = phi i32 [%first, %entry], [%epoch, %work]
  %spins = load i64, ptr %spins_at, align 8
  call void @wait_change(ptr %state, i32 %last, ptr %sleepers, i64 %spins, i64 0)
  %epoch = load atomic i32, ptr %state acquire, align 4
  %program = load ptr, ptr %program_at, align 8
  %leave = icmp eq ptr %program, null
  br i1 %leave, label %done, label %work
work:
  %threads = load i64, ptr %threads_at, align 8
  call void @walk(ptr %state, ptr %program, i64 %tid, i64 %threads)
  br label %idle
done:
  ret ptr null
}
"""
