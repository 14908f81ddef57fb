# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The Triton kernels of linear attention; `backend_triton` launches them.

`attend_kernel` computes outputs and `gradient_kernel` gradients. In the causal form both walk over the tokens with the
running state in registers, so that every tensor is read and written once; otherwise they read a state that is whole.
`sum_kernel` makes that state, and the sums of parts that several programs of one causal walk start from. With
normalisation `chunk_kernel` and `scan_kernel` sum the features before each block of tokens, and `weigh_kernel`
prepares the gradients of numerators and denominators. `step_kernel` is one step of decoding.

Rows ``[B, H, N, width]``, dense in their last dimension, and numbers ``[B, H, N]`` of tokens come as ``(pointer,
stride of B, of H, of N)``, or None. A state is ``[F, columns]``: ``S = sum_m k_m v_m^T``, and with normalisation
``z = sum_m k_m`` as its last column. Padding, and tokens beyond the end, are loaded as zeros and add nothing. Sums
are float32. Programs are numbered along one grid axis, because the other two end at 65,535, and offsets are 64 bit,
because a tensor may have more than 2^31 elements. Lengths and counts never select a compiled variant
(`do_not_specialize`).
"""

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the triton backend needs Triton: pip install triton") from error


@triton.jit
def _dot(left, right, total, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """``total + left @ right``, with both sides in the dtype called `OPERAND`."""
    dtype: tl.constexpr = tl.bfloat16 if OPERAND == "bfloat16" else tl.float32
    return tl.dot(left.to(dtype), right.to(dtype), total, input_precision=PRECISION)


@triton.jit
def _place(TILES: tl.constexpr, parts, heads):
    """Which tile, part of the tokens and row of heads a program works on, and the row's batch entry and head."""
    program = tl.program_id(0)
    row = (program // TILES // parts).to(tl.int64)
    return program % TILES, (program // TILES) % parts, row, row // heads, row % heads


@triton.jit
def _load_rows(rows, b, h, token, present, column, WIDTH: tl.constexpr):
    """``[tokens, columns]`` of one head, zero where a token is not `present`."""
    base = rows[0] + b * rows[1] + h * rows[2]
    there = present[:, None] & (column < WIDTH)[None, :]
    return tl.load(base + token[:, None] * rows[3] + column[None, :], mask=there, other=0.0)


@triton.jit
def _store_rows(rows, b, h, token, present, column, tile, WIDTH: tl.constexpr):
    base = rows[0] + b * rows[1] + h * rows[2]
    there = present[:, None] & (column < WIDTH)[None, :]
    tl.store(base + token[:, None] * rows[3] + column[None, :], tile, mask=there)


@triton.jit
def _load_numbers(numbers, b, h, token, present, other):
    """One float32 number of each token, `other` where it is not `present`."""
    places = numbers[0] + b * numbers[1] + h * numbers[2] + token * numbers[3]
    return tl.load(places, mask=present, other=other).to(tl.float32)


@triton.jit
def _store_numbers(numbers, b, h, token, present, value):
    tl.store(numbers[0] + b * numbers[1] + h * numbers[2] + token * numbers[3], value, mask=present)


@triton.jit
def _real(mask, b, token, inside):
    """Which of the tokens `inside` the sequence are real; `mask` is ``(pointer, stride of B, of N)``."""
    present = inside
    if mask is not None:
        present = inside & (tl.load(mask[0] + b * mask[1] + token * mask[2], mask=inside, other=0) != 0)
    return present


@triton.jit
def _state_before(
    edge, sums, row, begin, end, slots, inner, outer, K: tl.constexpr, X: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """The matrix ``[K, X]`` that a part starts from: the `edge`, and of the `slots` sums those from `begin` to `end`.

    States are ``[K, COLUMNS]``, or if `TRANSPOSED` ``[X, COLUMNS]``.
    """
    SIZE: tl.constexpr = (X if TRANSPOSED else K) * COLUMNS
    places = inner[:, None] + outer[None, :] * COLUMNS if TRANSPOSED else inner[:, None] * COLUMNS + outer[None, :]
    there = (inner < K)[:, None] & (outer < X)[None, :]
    matrix = tl.zeros([BLOCK_K, BLOCK_X], tl.float32)
    if edge is not None:
        matrix += tl.load(edge + row * SIZE + places, mask=there, other=0.0)
    if sums is not None:
        for slot in range(begin, end):
            matrix += tl.load(sums + (row * slots + slot) * SIZE + places, mask=there, other=0.0)
    return matrix


@triton.jit
def _load_border(border, row, chunk, feature, FEATURES: tl.constexpr):
    """The sum of the features before a chunk, or after it; `border` is (pointer, three strides)."""
    places = border[0] + row * border[1] + chunk * border[2] + feature * border[3]
    return tl.load(places, mask=feature < FEATURES, other=0.0)


@triton.jit(do_not_specialize=["heads", "length", "first_slot", "parts", "slots", "part_length"])
def sum_kernel(
    left, right, mask, weight, sums, heads, length, first_slot, parts, slots, part_length,
    F: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, COLUMN: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_X: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of each part of the tokens ``sum_n left_n right_n^T`` and, with `COLUMN`, ``sum_n weight_n left_n``.

    The `sums` are ``[B * H, slots, F, COLUMNS]``, of which `parts` are computed, from `first_slot` on. Weights are 1
    where there are None.
    """
    D_TILES: tl.constexpr = (D + BLOCK_X - 1) // BLOCK_X
    tile, part, row, b, h = _place(D_TILES * ((F + BLOCK_K - 1) // BLOCK_K), parts, heads)
    part += first_slot
    f = (tile // D_TILES) * BLOCK_K + tl.arange(0, BLOCK_K)
    d = (tile % D_TILES) * BLOCK_X + tl.arange(0, BLOCK_X)

    matrix, column = tl.zeros([BLOCK_K, BLOCK_X], tl.float32), tl.zeros([BLOCK_K], tl.float32)
    begin = part * part_length
    for first in range(begin, tl.minimum(begin + part_length, length), BLOCK_N):
        token = (first + tl.arange(0, BLOCK_N)).to(tl.int64)
        inside = token < length
        present = _real(mask, b, token, inside)
        x = _load_rows(left, b, h, token, present, f, F)
        y = _load_rows(right, b, h, token, present, d, D)
        if COLUMN:
            if weight is None:
                column += tl.sum(x.to(tl.float32), 0)
            else:
                column += tl.sum(x.to(tl.float32) * _load_numbers(weight, b, h, token, inside, 0.0)[:, None], 0)
        matrix = _dot(tl.trans(x), y, matrix, OPERAND, PRECISION)

    sums += (row * slots + part) * F * COLUMNS
    tl.store(sums + f[:, None] * COLUMNS + d[None, :], matrix, mask=(f < F)[:, None] & (d < D)[None, :])
    if COLUMN:
        tl.store(sums + f * COLUMNS + D, column, mask=(f < F) & (tile % D_TILES == 0))


@triton.jit(do_not_specialize=["heads", "length", "chunks"])
def chunk_kernel(
    rows, mask, weight, sums, heads, length, chunks, F: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Of each chunk of `BLOCK_N` tokens ``sum_n weight_n rows_n``: ``[B * H, chunks, F]``."""
    _, chunk, row, b, h = _place(1, chunks, heads)
    f = tl.arange(0, BLOCK_F)
    token = (chunk * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    inside = token < length
    tile = _load_rows(rows, b, h, token, _real(mask, b, token, inside), f, F).to(tl.float32)
    if weight is not None:
        tile = tile * _load_numbers(weight, b, h, token, inside, 0.0)[:, None]
    tl.store(sums + (row * chunks + chunk) * F + f, tl.sum(tile, 0), mask=f < F)


@triton.jit(do_not_specialize=["chunks"])
def scan_kernel(
    sums, edge, total, chunks, F: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace the sum of each chunk ``[rows, chunks, F]`` by that of all chunks before it, with `REVERSE` after it.

    `edge` is added to all of them, and `total` is the sum of all chunks and the edge. Both are ``(pointer, stride of
    rows, stride of features)``, or None.
    """
    tile, _, row, _, _ = _place((F + BLOCK_F - 1) // BLOCK_F, 1, 1)
    f = tile * BLOCK_F + tl.arange(0, BLOCK_F)
    running = tl.zeros([BLOCK_F], tl.float32)
    if edge is not None:
        running += tl.load(edge[0] + row * edge[1] + f * edge[2], mask=f < F, other=0.0)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + tl.arange(0, BLOCK_CHUNKS)
        there = (chunk < chunks)[:, None] & (f < F)[None, :]
        if REVERSE:
            chunk = chunks - 1 - chunk
        places = sums + (row * chunks + chunk)[:, None] * F + f[None, :]
        parts = tl.load(places, mask=there, other=0.0)
        tl.store(places, running[None, :] + tl.cumsum(parts, 0) - parts, mask=there)
        running += tl.sum(parts, 0)
    if total is not None:
        tl.store(total[0] + row * total[1] + f * total[2], running, mask=f < F)


@triton.jit(do_not_specialize=["heads", "length", "parts", "part_length", "slots", "eps"])
def attend_kernel(
    query, key, value, output, mask, scale, denominator, border, edge, sums, last,
    heads, length, parts, part_length, slots, eps,
    NORMALIZE: tl.constexpr, F: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``scale_n q_n S / (q_n . z + eps)`` for one part of the tokens and one tile of the values' columns.

    With keys and values, `S` and `z` are those up to each token: the part starts from the `edge` and from the `sums`
    of the parts before, each chunk with the `z` of its `border`, and the last `S` goes to `last`. Without them every
    query reads `edge` and `border`.
    """
    COLUMNS: tl.constexpr = D + NORMALIZE
    tile, part, row, b, h = _place((D + BLOCK_X - 1) // BLOCK_X, parts, heads)
    f, d, offset = tl.arange(0, BLOCK_K), tile * BLOCK_X + tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_N)
    before = part * (slots // parts)
    state = _state_before(edge, sums, row, 0, before, slots, f, d, F, D, BLOCK_K, BLOCK_X, COLUMNS, False)

    begin = part * part_length
    for first in range(begin, tl.minimum(begin + part_length, length), BLOCK_N):
        token = (first + offset).to(tl.int64)
        inside = token < length
        q = _load_rows(query, b, h, token, inside, f, F)
        total = _dot(q, state, tl.zeros([BLOCK_N, BLOCK_X], tl.float32), OPERAND, PRECISION)
        if NORMALIZE:
            z = _load_border(border, row, first // BLOCK_N, f, F)
            den = tl.sum(q.to(tl.float32) * z[None, :], 1) + eps
        if key is not None:
            present = _real(mask, b, token, inside)
            k = _load_rows(key, b, h, token, present, f, F)
            v = _load_rows(value, b, h, token, present, d, D)
            pairs = _dot(q, tl.trans(k), tl.zeros([BLOCK_N, BLOCK_N], tl.float32), OPERAND, PRECISION)
            pairs = tl.where(offset[:, None] >= offset[None, :], pairs, 0.0)
            if NORMALIZE:
                den += tl.sum(pairs, 1)
            total = _dot(pairs, v, total, OPERAND, PRECISION)
            state = _dot(tl.trans(k), v, state, OPERAND, PRECISION)
        factor = tl.full([BLOCK_N], 1.0, tl.float32)
        if scale is not None:
            factor = _load_numbers(scale, b, h, token, inside, 0.0)
        if NORMALIZE:
            # Without eps: a query that sees no key, whose numerator is 0 as well, reads zeros.
            den = tl.where(den == 0, 1.0, den)
            factor = factor / den
            if denominator is not None:
                _store_numbers(denominator, b, h, token, inside & (tile == 0), den)
        _store_rows(output, b, h, token, inside, d, total * factor[:, None], D)

    if last is not None:
        there = (f < F)[:, None] & (d < D)[None, :] & (part == parts - 1)
        tl.store(last + row * F * COLUMNS + f[:, None] * COLUMNS + d[None, :], state, mask=there)


@triton.jit(do_not_specialize=["heads", "length", "blocks"])
def weigh_kernel(
    of_output, output, scale, denominator, weighted, shift, heads, length, blocks,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``g_n = dO_n scale_n / den_n``, and ``shift_n = -(dO_n . output_n) / den_n``, the gradient of ``den_n``.

    Scales and denominators are 1 where there are None; without denominators there are no shifts.
    """
    _, block, _, b, h = _place(1, blocks, heads)
    d = tl.arange(0, BLOCK_D)
    token = (block * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    inside = token < length
    gradient = _load_rows(of_output, b, h, token, inside, d, D).to(tl.float32)
    factor = tl.full([BLOCK_N], 1.0, tl.float32)
    if scale is not None:
        factor = _load_numbers(scale, b, h, token, inside, 0.0)
    if denominator is not None:
        den = _load_numbers(denominator, b, h, token, inside, 1.0)
        factor = factor / den
        outputs = _load_rows(output, b, h, token, inside, d, D).to(tl.float32)
        _store_numbers(shift, b, h, token, inside, -tl.sum(gradient * outputs, 1) / den)
    _store_rows(weighted, b, h, token, inside, d, gradient * factor[:, None], D)


@triton.jit(do_not_specialize=["heads", "length", "parts", "part_length", "slots"])
def gradient_kernel(
    u, w, x, gradient, mask, shift, border, edge, sums, last, heads, length, parts, part_length, slots,
    ROLE: tl.constexpr, COLUMNS: tl.constexpr, K: tl.constexpr, X: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_X: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One of the gradients, each of which is linear attention of ``u_i`` over the tokens ``j`` itself.

    | ROLE | u_i, w_j, x_j | gradient | j, if causal |
    |---|---|---|---|
    | query | g, v, k | ``dq_i = sum_j (u_i . w_j + shift_i) x_j`` | up to i |
    | key | v, g, q | ``dk_i = sum_j (u_i . w_j + shift_j) x_j`` | from i on |
    | value | k, q, g | ``dv_i = sum_j (u_i . w_j) x_j`` | from i on |

    `g` and the shifts are those of `weigh_kernel`; without normalisation there are none, and no `border`: the sums of
    ``x_j``, for "key" of ``shift_j x_j``, outside of each chunk. Without `w` and `x` every ``u_i`` reads `edge` and
    `border`. For "value" the gradient of the state before the first token goes to `last`, but for its column.
    """
    OF_QUERY: tl.constexpr = ROLE == "query"
    tile, part, row, b, h = _place((X + BLOCK_X - 1) // BLOCK_X, parts, heads)
    inner, outer, offset = tl.arange(0, BLOCK_K), tile * BLOCK_X + tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_N)
    own, each = part * (slots // parts), slots // parts
    state = _state_before(
        edge, sums, row, 0 if OF_QUERY else own + each, own if OF_QUERY else slots, slots,
        inner, outer, K, X, BLOCK_K, BLOCK_X, COLUMNS, ROLE != "value",
    )  # fmt: skip

    begin = part * part_length
    end = tl.minimum(begin + part_length, length)
    final = begin + (end - begin - 1) // BLOCK_N * BLOCK_N
    for step in range(begin, end, BLOCK_N):
        first = step if OF_QUERY else final + begin - step
        token = (first + offset).to(tl.int64)
        inside = token < length
        present = _real(mask, b, token, inside)
        rows = _load_rows(u, b, h, token, inside if OF_QUERY else present, inner, K)
        total = _dot(rows, state, tl.zeros([BLOCK_N, BLOCK_X], tl.float32), OPERAND, PRECISION)
        if border is not None:
            outside = _load_border(border, row, first // BLOCK_N, outer, X)[None, :]
            if OF_QUERY:
                outside = outside * _load_numbers(shift, b, h, token, inside, 0.0)[:, None]
            total += outside
        if w is not None:
            others = _load_rows(w, b, h, token, present if OF_QUERY else inside, inner, K)
            summed = _load_rows(x, b, h, token, present if OF_QUERY else inside, outer, X)
            pairs = _dot(rows, tl.trans(others), tl.zeros([BLOCK_N, BLOCK_N], tl.float32), OPERAND, PRECISION)
            if border is not None:
                shifts = _load_numbers(shift, b, h, token, inside, 0.0)
                pairs += shifts[:, None] if OF_QUERY else shifts[None, :]
            seen = offset[:, None] >= offset[None, :] if OF_QUERY else offset[:, None] <= offset[None, :]
            total = _dot(tl.where(seen, pairs, 0.0), summed, total, OPERAND, PRECISION)
            state = _dot(tl.trans(others), summed, state, OPERAND, PRECISION)
        if not OF_QUERY:
            total = tl.where(present[:, None], total, 0.0)
        _store_rows(gradient, b, h, token, inside, outer, total, X)

    if last is not None:
        there = (inner < K)[:, None] & (outer < X)[None, :] & (part == 0)
        tl.store(last + row * K * COLUMNS + inner[:, None] * COLUMNS + outer[None, :], state, mask=there)


@triton.jit(do_not_specialize=["heads", "eps"])
def step_kernel(
    query, key, value, output, mask, scale, state, new_state, heads, eps,
    NORMALIZE: tl.constexpr, F: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """One token: ``S = S + k v^T``, ``z = z + k``, then ``scale q S / (q . z + eps)``; one tile of the columns."""
    COLUMNS: tl.constexpr = D + NORMALIZE
    tile, _, row, b, h = _place((D + BLOCK_X - 1) // BLOCK_X, 1, heads)
    f, d = tl.arange(0, BLOCK_K), tile * BLOCK_X + tl.arange(0, BLOCK_X)
    real = f < F
    if mask is not None:
        real = real & (tl.load(mask[0] + b * mask[1]) != 0)
    q = tl.load(query[0] + b * query[1] + h * query[2] + f, mask=f < F, other=0.0).to(tl.float32)
    k = tl.load(key[0] + b * key[1] + h * key[2] + f, mask=real, other=0.0).to(tl.float32)
    v = tl.load(value[0] + b * value[1] + h * value[2] + d, mask=d < D, other=0.0).to(tl.float32)
    if mask is not None:
        # Content of padding, NaN too, changes nothing.
        v = tl.where(tl.load(mask[0] + b * mask[1]) != 0, v, 0.0)
    place = row * F * COLUMNS + f * COLUMNS
    there = (f < F)[:, None] & (d < D)[None, :]
    matrix = tl.load(state + place[:, None] + d[None, :], mask=there, other=0.0) + k[:, None] * v[None, :]
    tl.store(new_state + place[:, None] + d[None, :], matrix, mask=there)
    total = tl.sum(q[:, None] * matrix, 0)
    if NORMALIZE:
        z = tl.load(state + place + D, mask=f < F, other=0.0) + k
        tl.store(new_state + place + D, z, mask=(f < F) & (tile == 0))
        den = tl.sum(q * z, 0) + eps
        total = total / tl.where(den == 0, 1.0, den)
    if scale is not None:
        total = total * tl.load(scale[0] + b * scale[1] + h * scale[2]).to(tl.float32)
    tl.store(output[0] + b * output[1] + h * output[2] + d, total, mask=d < D)


KERNELS = {
    "sum": sum_kernel,
    "chunk": chunk_kernel,
    "scan": scan_kernel,
    "attend": attend_kernel,
    "weigh": weigh_kernel,
    "gradient": gradient_kernel,
    "step": step_kernel,
}
