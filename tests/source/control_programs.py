"""Programs whose control flow depends on tensors, for `rung.function`."""

from __future__ import annotations

import rung


def collatz(n):
    steps = 0
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    return steps


def newton(a, tol=1e-12):
    """The square root by Newton's method."""
    x = a
    for _ in range(60):
        step = (x * x - a) / (2 * x)
        x = x - step
        if abs(step) < tol:
            break
    return x


def bisection(low, high, target):
    while high - low > 1e-10:
        middle = 0.5 * (low + high)
        value = middle**3 + middle
        if value == target:
            return middle
        if value < target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def gcd(a, b):
    while b:
        a, b = b, a % b
    return a


def power_iteration(matrix, v, tol=1e-9):
    value = 0.0
    while True:
        w = matrix @ v
        new = rung.sqrt((w * w).sum())
        v = w / new
        done = abs(new - value) < tol and new > 0
        value = new
        if done:
            return value, v


def line_search(x, direction, slope):
    """Armijo's rule on the function of Rosenbrock."""

    def f(p):
        return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2

    start, size = f(x), 1.0
    for _ in range(40):
        if f(x + size * direction) <= start + 1e-4 * size * slope:
            break
        size = 0.5 * size
    else:
        size = 0.0
    return x + size * direction


def adaptive_ode(y, end, tol):
    """dy/dt = -2 y + t by Heun's method, with steps as long as the error allows."""
    t, h, tried = 0.0 * end, 0.1 * end, 0
    while t < end:
        tried += 1
        h = rung.minimum(h, end - t)
        k1 = -2 * y + t
        k2 = -2 * (y + h * k1) + t + h
        error = abs(0.5 * h * (k2 - k1))
        if error > tol:
            h = 0.5 * h
            continue
        y = y + 0.5 * h * (k1 + k2)
        t = t + h
        if error < 0.1 * tol:
            h = 2.0 * h
    return y, tried


def greedy_decoding(table, token, end):
    """The likeliest next token of a table, until the end token, at most twelve."""
    tokens = rung.full((12,), -1, dtype=rung.int64)
    score = 0.0
    for i in range(12):
        row = rung.log_softmax(table[token])
        token = row.argmax()
        score = score + row[token]
        tokens[i] = token
        if token == end:
            break
    return tokens, score


def beam_step(scores, logits, width, end):
    """The best continuations; beams that have ended keep what they have."""
    found = scores
    if (scores > -1e9).any():
        total = scores[:, None] + rung.log_softmax(logits)
        best, index = total.reshape(-1).topk(width)
        beam, token = index // logits.shape[1], index % logits.shape[1]
        if (token == end).all():
            found = best
        else:
            found = rung.where(token == end, best - 1.0, best) + 0.0 * beam
    return found


def first_above(rows, limit):
    """The first row whose sum is above a limit, and its place; -1 where there is none."""
    place = 0
    for row in rows:
        if row.sum() < 0:
            place += 1
            continue
        if row.sum() > limit:
            return row, place
        place += 1
    return rows[0] * 0, -1


def clipped_sum(rows):
    """A row at a time, with nested conditions and an `if` expression."""
    total = 0.0
    for row in rows:
        s = row.sum()
        part = s if -1 < s < 1 else rung.sign(s)
        if part > 0 and not total > 3:
            total = total + part
        elif part < 0 or total > 3:
            total = total - 0.5 * part
    return total


def halvings(x, limit):
    """A loop within a loop, up to a bound that is a tensor."""
    count = 0
    for i in range(limit):
        y = x + i
        while y > 1:
            y = y / 2
            count += 1
    return count
