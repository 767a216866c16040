"""The script runner as LLVM IR text: loops and branches around whole programs.

A script is a table of instructions over a *frame*, a table of words: addresses, and counters of
loops. Each instruction is four words, an `Opcode` and up to three operands.

Where a script jumps back it looks at the clock. Past the deadline `rung_script` notes the number of
the next instruction and returns; another call goes on there. So a caller can look after signals. In
the same way it returns at a `HOST` instruction, whose work is the caller's, and behind a program
that found a fault.
"""

from __future__ import annotations

from enum import IntEnum

ROW_BYTES = 32


class Opcode(IntEnum):
    """What an instruction (a, b, c) does; f is the frame."""

    END = 0
    SET = 1  # f[a] = f[b] + c
    VALUE = 2  # f[a] = b
    COPY = 3  # c bytes from address f[b] to address f[a]
    CALL = 4  # run the program whose header is at address a, with the pointers from &f[b] on
    LOOP = 5  # f[a] -= 1; back to instruction b if that is more than 0
    UNLESS = 6  # to instruction b if the byte at address f[a] is 0
    ABOVE = 7  # to instruction c if the i32 at address f[a] is more than b
    JUMP = 8  # to instruction a
    BACK = 9  # back to instruction a
    HOST = 10  # return; the caller does host call a, then goes on


class ProgressOffset(IntEnum):
    """Byte offsets in the block that says how far a script has come."""

    NEXT = 0  # i64: the instruction to go on with, -1 at the end
    DEADLINE = 8  # i64: in ns of `rung_now`
    HOST = 16  # i64: the host call to do before going on, -1 for none; the caller puts -1 back
    FAULT = 24  # i64: the instruction whose program found a fault, -1 for none
    BYTES = 32


SCRIPT_SYMBOLS = ("rung_script",)


def script_ir() -> str:
    """LLVM IR text of `void rung_script(ptr code, ptr frame, ptr progress)`."""
    text = _SCRIPT.replace("$ROW_BYTES", str(ROW_BYTES))
    text = text.replace("$DEADLINE", str(int(ProgressOffset.DEADLINE)))
    text = text.replace("$HOST_CALL", str(int(ProgressOffset.HOST)))
    text = text.replace("$FAULT_CALL", str(int(ProgressOffset.FAULT)))
    for opcode in Opcode:
        text = text.replace(f"${opcode.name}", str(int(opcode)))
    return text


_SCRIPT = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define void @rung_script(ptr %code, ptr %frame, ptr %progress) nounwind {
entry:
  %deadline_at = getelementptr i8, ptr %progress, i64 $DEADLINE
  %first = load i64, ptr %progress, align 8
  %deadline = load i64, ptr %deadline_at, align 8
  br label %next
next:
  %pc = phi i64 [%first, %entry], [%pc1, %set], [%pc1, %value], [%pc1, %copy], [%pc1, %call],
                [%pc1, %loop], [%goal, %in_time], [%pc_unless, %unless], [%pc_above, %above],
                [%a, %jump]
  %row_offset = mul i64 %pc, $ROW_BYTES
  %row = getelementptr i8, ptr %code, i64 %row_offset
  %a_at = getelementptr i8, ptr %row, i64 8
  %b_at = getelementptr i8, ptr %row, i64 16
  %c_at = getelementptr i8, ptr %row, i64 24
  %opcode = load i64, ptr %row, align 8
  %a = load i64, ptr %a_at, align 8
  %b = load i64, ptr %b_at, align 8
  %c = load i64, ptr %c_at, align 8
  %pc1 = add i64 %pc, 1
  switch i64 %opcode, label %end [
    i64 $SET, label %set
    i64 $VALUE, label %value
    i64 $COPY, label %copy
    i64 $CALL, label %call
    i64 $LOOP, label %loop
    i64 $UNLESS, label %unless
    i64 $ABOVE, label %above
    i64 $JUMP, label %jump
    i64 $BACK, label %back
    i64 $HOST, label %host
  ]
set:
  %set_to = getelementptr i64, ptr %frame, i64 %a
  %set_from = getelementptr i64, ptr %frame, i64 %b
  %set_base = load i64, ptr %set_from, align 8
  %set_value = add i64 %set_base, %c
  store i64 %set_value, ptr %set_to, align 8
  br label %next
value:
  %value_to = getelementptr i64, ptr %frame, i64 %a
  store i64 %b, ptr %value_to, align 8
  br label %next
copy:
  %copy_to_at = getelementptr i64, ptr %frame, i64 %a
  %copy_from_at = getelementptr i64, ptr %frame, i64 %b
  %copy_to = load ptr, ptr %copy_to_at, align 8
  %copy_from = load ptr, ptr %copy_from_at, align 8
  call void @llvm.memcpy.p0.p0.i64(ptr %copy_to, ptr %copy_from, i64 %c, i1 false)
  br label %next
call:
  %program = inttoptr i64 %a to ptr
  %pointers = getelementptr i64, ptr %frame, i64 %b
  %faults = call i64 @rung_run(ptr %program, ptr %pointers)
  %failed = icmp ne i64 %faults, 0
  br i1 %failed, label %wrong, label %next
wrong:
  %fault_at = getelementptr i8, ptr %progress, i64 $FAULT_CALL
  store i64 %pc, ptr %fault_at, align 8
  store i64 %pc1, ptr %progress, align 8
  ret void
loop:
  %count_at = getelementptr i64, ptr %frame, i64 %a
  %count = load i64, ptr %count_at, align 8
  %fewer = sub i64 %count, 1
  store i64 %fewer, ptr %count_at, align 8
  %again = icmp sgt i64 %fewer, 0
  br i1 %again, label %backward, label %next
unless:
  %byte_at_at = getelementptr i64, ptr %frame, i64 %a
  %byte_at = load ptr, ptr %byte_at_at, align 8
  %byte = load i8, ptr %byte_at, align 1
  %is_zero = icmp eq i8 %byte, 0
  %pc_unless = select i1 %is_zero, i64 %b, i64 %pc1
  br label %next
above:
  %index_at_at = getelementptr i64, ptr %frame, i64 %a
  %index_at = load ptr, ptr %index_at_at, align 8
  %index32 = load i32, ptr %index_at, align 4
  %index = sext i32 %index32 to i64
  %is_above = icmp sgt i64 %index, %b
  %pc_above = select i1 %is_above, i64 %c, i64 %pc1
  br label %next
jump:
  br label %next
back:
  br label %backward
backward:
  %goal = phi i64 [%b, %loop], [%a, %back]
  %now = call i64 @rung_now()
  %late = icmp sgt i64 %now, %deadline
  br i1 %late, label %interrupted, label %in_time
in_time:
  br label %next
interrupted:
  store i64 %goal, ptr %progress, align 8
  ret void
host:
  %host_at = getelementptr i8, ptr %progress, i64 $HOST_CALL
  store i64 %a, ptr %host_at, align 8
  store i64 %pc1, ptr %progress, align 8
  ret void
end:
  store i64 -1, ptr %progress, align 8
  ret void
}
"""
