"""How threads of the native runtime pause, sleep, wait for words in memory and read the clock, as
LLVM IR text."""

from __future__ import annotations

PAUSE_X86 = """
declare void @llvm.x86.sse2.pause()
define internal void @pause() alwaysinline nounwind {
  call void @llvm.x86.sse2.pause()
  ret void
}
"""

# `yield` is a no-op on most cores; `isb` really stalls for some nanoseconds.
PAUSE_ARM = """
declare void @llvm.aarch64.isb(i32)
define internal void @pause() alwaysinline nounwind {
  call void @llvm.aarch64.isb(i32 15)
  ret void
}
"""

SLEEP_LINUX = """
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

SLEEP_PORTABLE = """
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
# It waits until *word - target >= 0, also when the numbers wrap around.
WAIT = """
define internal i1 @reached(ptr %word, i32 %target) alwaysinline nounwind {
  %seen = load atomic i32, ptr %word seq_cst, align 4
  %ahead = sub i32 %seen, %target
  %yes = icmp sge i32 %ahead, 0
  ret i1 %yes
}

; true as soon as it is reached, false after so many pauses
define internal i1 @spin_until(ptr %word, i32 %target, i64 %spins) nounwind {
entry:
  br label %spin
spin:
  %i = phi i64 [0, %entry], [%i1, %again]
  %yes = call i1 @reached(ptr %word, i32 %target)
  br i1 %yes, label %done, label %more
more:
  %spinning = icmp ult i64 %i, %spins
  br i1 %spinning, label %again, label %done
again:
  call void @pause()
  %i1 = add i64 %i, 1
  br label %spin
done:
  %result = phi i1 [true, %spin], [false, %more]
  ret i1 %result
}

define internal void @wait_until(ptr %word, i32 %target, ptr %sleepers, i64 %spins, i64 %yields)
    noinline nounwind {
entry:
  %early = call i1 @spin_until(ptr %word, i32 %target, i64 %spins)
  br i1 %early, label %done, label %yielding
yielding:
  %y = phi i64 [0, %entry], [%y1, %yielded]
  %patient = icmp ult i64 %y, %yields
  br i1 %patient, label %yielded, label %park
yielded:
  %r = call i32 @sched_yield()
  %y1 = add i64 %y, 1
  %yes = call i1 @reached(ptr %word, i32 %target)
  br i1 %yes, label %done, label %yielding
park:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %asleep
asleep:
  %seen = load atomic i32, ptr %word seq_cst, align 4
  %ahead = sub i32 %seen, %target
  %there = icmp sge i32 %ahead, 0
  br i1 %there, label %awake, label %sleep
sleep:
  call void @sleep_while(ptr %word, i32 %seen)
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

CLOCK = """
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
