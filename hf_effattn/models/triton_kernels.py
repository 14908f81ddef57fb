"""The Triton kernels of linear attention; `triton_linear` launches them.

`attend_kernel` computes outputs and `gradient_kernel` gradients. In the causal form both walk over the tokens with the
running state in registers, so that every tensor is read and written once; otherwise they read a state that is whole.
`sum_kernel` makes that state, and the sums of parts that several programs of one causal walk start from.
`step_kernel` is one step of decoding.

Rows ``[B, H, N, width]``, dense in their last dimension, and numbers ``[B, H, N]`` of tokens come as ``(pointer,
stride of B, of H, of N)``, or None. A state is ``[F, columns]``: ``S = sum_m k_m v_m^T``, and with normalisation
``z = sum_m k_m`` as its last column. Tokens that are not there are loaded as zeros, so that they add nothing. Sums
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
def _load_state(state, inner, outer, K: tl.constexpr, X: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr):
    """``[K, X]`` of a state; `IN` and `OUT` are its strides, so that it may be read transposed."""
    there = (inner < K)[:, None] & (outer < X)[None, :]
    return tl.load(state + inner[:, None] * IN + outer[None, :] * OUT, mask=there, other=0.0)


@triton.jit
def _state_before(
    edge, sums, row, begin, end, slots, inner, outer, feature, COLUMN: tl.constexpr, K: tl.constexpr,
    X: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_X: tl.constexpr, BY_FEATURE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The state that a part starts from: the `edge`, and of the `slots` sums those from `begin` to `end`.

    It comes as a matrix, whose rows are the features if `BY_FEATURE` (otherwise it is transposed), and, with `COLUMN`,
    a number for each `feature`.
    """
    F: tl.constexpr = K if BY_FEATURE else X
    IN: tl.constexpr = COLUMNS if BY_FEATURE else 1
    OUT: tl.constexpr = 1 if BY_FEATURE else COLUMNS
    matrix = tl.zeros([BLOCK_K, BLOCK_X], tl.float32)
    column = tl.zeros_like(feature).to(tl.float32)
    at_column = feature * COLUMNS + COLUMNS - 1
    if edge is not None:
        matrix += _load_state(edge + row * F * COLUMNS, inner, outer, K, X, IN, OUT)
        if COLUMN:
            column += tl.load(edge + row * F * COLUMNS + at_column, mask=feature < F, other=0.0)
    if sums is not None:
        for slot in range(begin, end):
            place = sums + (row * slots + slot) * F * COLUMNS
            matrix += _load_state(place, inner, outer, K, X, IN, OUT)
            if COLUMN:
                column += tl.load(place + at_column, mask=feature < F, other=0.0)
    return matrix, column


@triton.jit(do_not_specialize=["heads", "length", "first_slot", "parts", "slots", "part_length"])
def sum_kernel(
    left, right, mask, factor, shift, sums, heads, length, first_slot, parts, slots, part_length,
    F: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of each part of the tokens ``sum_n factor_n left_n right_n^T`` and, if `COLUMNS` > D, ``sum_n shift_n left_n``.

    The `sums` are ``[B * H, slots, F, COLUMNS]``, of which `parts` are computed, from `first_slot` on. Factors and
    shifts are 1 where there are None.
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
        if COLUMNS > D:
            if shift is None:
                column += tl.sum(x.to(tl.float32), 0)
            else:
                column += tl.sum(x.to(tl.float32) * _load_numbers(shift, b, h, token, inside, 0.0)[:, None], 0)
        if factor is not None:
            y = y.to(tl.float32) * _load_numbers(factor, b, h, token, inside, 0.0)[:, None]
        matrix = _dot(tl.trans(x), y, matrix, OPERAND, PRECISION)

    sums += (row * slots + part) * F * COLUMNS
    tl.store(sums + f[:, None] * COLUMNS + d[None, :], matrix, mask=(f < F)[:, None] & (d < D)[None, :])
    if COLUMNS > D:
        tl.store(sums + f * COLUMNS + D, column, mask=(f < F) & (tile % D_TILES == 0))


@triton.jit(do_not_specialize=["heads", "length", "parts", "part_length", "slots", "eps"])
def attend_kernel(
    query, key, value, output, mask, scale, denominator, edge, sums, last,
    heads, length, parts, part_length, slots, eps,
    NORMALIZE: tl.constexpr, F: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``scale_n q_n S / (q_n . z + eps)`` for one part of the tokens and one tile of the values' columns.

    With keys and values, `S` and `z` are those up to each token: the part starts from the `edge` and from the `sums`
    of the parts before. Without them every query reads the `edge`. The state behind the last part goes to `last`.
    """
    COLUMNS: tl.constexpr = D + NORMALIZE
    tile, part, row, b, h = _place((D + BLOCK_X - 1) // BLOCK_X, parts, heads)
    f, d, offset = tl.arange(0, BLOCK_K), tile * BLOCK_X + tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_N)
    state, z = _state_before(
        edge, sums, row, 0, part * (slots // parts), slots, f, d, f, NORMALIZE, F, D, BLOCK_K, BLOCK_X, True, COLUMNS
    )

    begin = part * part_length
    for first in range(begin, tl.minimum(begin + part_length, length), BLOCK_N):
        token = (first + offset).to(tl.int64)
        inside = token < length
        q = _load_rows(query, b, h, token, inside, f, F)
        total = _dot(q, state, tl.zeros([BLOCK_N, BLOCK_X], tl.float32), OPERAND, PRECISION)
        if NORMALIZE:
            den = tl.sum(q.to(tl.float32) * z[None, :], 1) + eps
        if key is not None:
            present = _real(mask, b, token, inside)
            k = _load_rows(key, b, h, token, present, f, F)
            v = _load_rows(value, b, h, token, present, d, D)
            pairs = _dot(q, tl.trans(k), tl.zeros([BLOCK_N, BLOCK_N], tl.float32), OPERAND, PRECISION)
            pairs = tl.where(offset[:, None] >= offset[None, :], pairs, 0.0)
            total = _dot(pairs, v, total, OPERAND, PRECISION)
            state = _dot(tl.trans(k), v, state, OPERAND, PRECISION)
            if NORMALIZE:
                den += tl.sum(pairs, 1)
                z += tl.sum(k.to(tl.float32), 0)
        if scale is not None:
            total = total * _load_numbers(scale, b, h, token, inside, 0.0)[:, None]
        if NORMALIZE:
            # Without eps: a query that sees no key, whose numerator is 0 as well, reads zeros.
            den = tl.where(den == 0, 1.0, den)
            total = total / den[:, None]
            if denominator is not None:
                _store_numbers(denominator, b, h, token, inside & (tile == 0), den)
        _store_rows(output, b, h, token, inside, d, total, D)

    if last is not None:
        last += row * F * COLUMNS
        ends = (f < F) & (part == parts - 1)
        tl.store(last + f[:, None] * COLUMNS + d[None, :], state, mask=ends[:, None] & (d < D)[None, :])
        if NORMALIZE:
            tl.store(last + f * COLUMNS + D, z, mask=ends & (tile == 0))


@triton.jit
def _query_weights(u, output, scale, denominator, factor, shift, b, h, token, inside, stores, inner, K: tl.constexpr):
    """``scale / den`` of each query and the gradient of its ``den``, from its output and the output's gradient `u`."""
    weight = tl.zeros_like(token).to(tl.float32) + 1.0
    if scale is not None:
        weight = _load_numbers(scale, b, h, token, inside, 0.0)
    of_denominator = tl.zeros_like(token).to(tl.float32)
    if denominator is not None:
        den = _load_numbers(denominator, b, h, token, inside, 1.0)
        outputs = _load_rows(output, b, h, token, inside, inner, K)
        weight = weight / den
        of_denominator = -tl.sum(u.to(tl.float32) * outputs.to(tl.float32), 1) / den
        _store_numbers(factor, b, h, token, inside & stores, weight)
        _store_numbers(shift, b, h, token, inside & stores, of_denominator)
    return weight, of_denominator


@triton.jit(do_not_specialize=["heads", "length", "parts", "part_length", "slots"])
def gradient_kernel(
    u, w, x, gradient, mask, output, scale, denominator, factor, shift, edge, sums, last,
    heads, length, parts, part_length, slots,
    ROLE: tl.constexpr, NORMALIZE: tl.constexpr, K: tl.constexpr, X: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_X: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One of the gradients, each of which is linear attention of ``u_i`` over the tokens ``j`` itself.

    | ROLE | u_i, w_j, x_j | gradient of u's partner | j, if causal |
    |---|---|---|---|
    | query | dO, v, k | ``dq_i = sum_j (factor_i u_i . w_j + shift_i) x_j`` | up to i |
    | key | v, dO, q | ``dk_i = sum_j (factor_j u_i . w_j + shift_j) x_j`` | from i on |
    | value | k, q, dO | ``dv_i = sum_j (factor_j u_i . w_j) x_j`` | from i on |

    With ``den_n = q_n . z + eps``, ``factor_n = scale_n / den_n`` and ``shift_n = -(dO_n . output_n) / den_n``, the
    gradient of ``den_n``. The role "query" computes and stores them, the other two load them. Without normalisation
    the shifts are 0 and the factors the scales. Without `w` and `x` the state that the `edge` holds is read alone.
    The gradient of the state before the first token goes to `last`: from "value" the matrix, from "key" the column.
    """
    OF_QUERY: tl.constexpr = ROLE == "query"
    BY_FEATURE: tl.constexpr = ROLE == "value"
    SHIFTS: tl.constexpr = NORMALIZE and not BY_FEATURE
    COLUMNS: tl.constexpr = (X if BY_FEATURE else K) + NORMALIZE
    tile, part, row, b, h = _place((X + BLOCK_X - 1) // BLOCK_X, parts, heads)
    inner, outer, offset = tl.arange(0, BLOCK_K), tile * BLOCK_X + tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_N)
    own = part * (slots // parts)
    state, column = _state_before(
        edge, sums, row, 0 if OF_QUERY else own + slots // parts, own if OF_QUERY else slots, slots,
        inner, outer, outer, SHIFTS, K, X, BLOCK_K, BLOCK_X, BY_FEATURE, COLUMNS,
    )  # fmt: skip

    begin = part * part_length
    end = tl.minimum(begin + part_length, length)
    final = begin + (end - begin - 1) // BLOCK_N * BLOCK_N
    for first in range(begin, end, BLOCK_N):
        token = ((first if OF_QUERY else final + begin - first) + offset).to(tl.int64)
        inside = token < length
        present = _real(mask, b, token, inside)
        rows = _load_rows(u, b, h, token, inside if OF_QUERY else present, inner, K)
        total = _dot(rows, state, tl.zeros([BLOCK_N, BLOCK_X], tl.float32), OPERAND, PRECISION)
        if OF_QUERY:
            weight, of_denominator = _query_weights(
                rows, output, scale, denominator, factor, shift, b, h, token, inside, tile == 0, inner, K
            )
            total = total * weight[:, None]
            if SHIFTS:
                total += of_denominator[:, None] * column[None, :]
        elif SHIFTS:
            total += column[None, :]
        if w is not None:
            others = _load_rows(w, b, h, token, present if OF_QUERY else inside, inner, K)
            summed = _load_rows(x, b, h, token, present if OF_QUERY else inside, outer, X)
            if not OF_QUERY and factor is not None:
                others = others.to(tl.float32) * _load_numbers(factor, b, h, token, inside, 0.0)[:, None]
            pairs = _dot(rows, tl.trans(others), tl.zeros([BLOCK_N, BLOCK_N], tl.float32), OPERAND, PRECISION)
            if OF_QUERY:
                pairs = pairs * weight[:, None] + of_denominator[:, None]
                pairs = tl.where(offset[:, None] >= offset[None, :], pairs, 0.0)
                if SHIFTS:
                    column += tl.sum(summed.to(tl.float32), 0)
            else:
                if SHIFTS:
                    shifts = _load_numbers(shift, b, h, token, inside, 0.0)
                    pairs += shifts[None, :]
                    column += tl.sum(summed.to(tl.float32) * shifts[:, None], 0)
                pairs = tl.where(offset[:, None] <= offset[None, :], pairs, 0.0)
            total = _dot(pairs, summed, total, OPERAND, PRECISION)
            state = _dot(tl.trans(others), summed, state, OPERAND, PRECISION)
        if not OF_QUERY:
            total = tl.where(present[:, None], total, 0.0)
        _store_rows(gradient, b, h, token, inside, outer, total, X)

    if last is not None and not OF_QUERY:
        F: tl.constexpr = K if BY_FEATURE else X
        last += row * F * COLUMNS
        if BY_FEATURE:
            there = (inner < K)[:, None] & (outer < X)[None, :] & (part == 0)
            tl.store(last + inner[:, None] * COLUMNS + outer[None, :], state, mask=there)
        elif SHIFTS:
            tl.store(last + outer * COLUMNS + COLUMNS - 1, column, mask=(outer < X) & (part == 0))


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


KERNELS = {"sum": sum_kernel, "attend": attend_kernel, "gradient": gradient_kernel, "step": step_kernel}
