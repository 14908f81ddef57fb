"""The Triton kernels of linear attention; `triton_linear` launches them and says what they add up to.

All of them walk ``[B, H, N, ..]`` tensors by strides, with the last dimension dense, and accumulate in float32.
A state is packed: ``S`` row by row, then `z` if there is one, ``[F * D]`` or ``[F * D + F]`` float32. Programs are
numbered along one grid axis, because the other two end at 65,535, and offsets are 64 bit, because a tensor may have
more than 2^31 elements. Lengths and counts never select a compiled variant (`do_not_specialize`).
"""

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the triton backend needs Triton: pip install triton") from error


@triton.jit
def _dot(a, b, accumulator, PRECISION: tl.constexpr):
    """``a @ b + accumulator``; operands of different dtypes meet in float32, where no half-precision sum overflows."""
    if a.dtype == b.dtype:
        return tl.dot(a, b, accumulator, input_precision=PRECISION)
    return tl.dot(a.to(tl.float32), b.to(tl.float32), accumulator, input_precision=PRECISION)


@triton.jit
def _load_rows(base, token, token_stride, present, column, WIDTH: tl.constexpr):
    """``[tokens, columns]`` of a matrix, zero where a token is not `present` or a column not there."""
    inside = present[:, None] & (column < WIDTH)[None, :]
    return tl.load(base + token[:, None] * token_stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _load_keys_present(mask, b, mask_b, mask_n, token, inside, HAS_MASK: tl.constexpr):
    """Which tokens are inside the sequence and, as keys, real."""
    if HAS_MASK:
        return inside & (tl.load(mask + b * mask_b + token * mask_n, mask=inside, other=0) != 0)
    return inside


@triton.jit(do_not_specialize=["heads", "length", "parts", "part_length"])
def sum_kernel(
    left,
    right,
    mask,
    factor,
    shift,
    sums,
    left_b,
    left_h,
    left_n,
    right_b,
    right_h,
    right_n,
    mask_b,
    mask_n,
    factor_b,
    factor_h,
    factor_n,
    sums_row,
    sums_part,
    heads,
    length,
    parts,
    part_length,
    F: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_COLUMN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Per part of the sequence: ``S = sum_n factor_n left_n right_n^T`` and ``z = sum_n shift_n left_n``."""
    D_TILES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    TILES: tl.constexpr = D_TILES * ((F + BLOCK_F - 1) // BLOCK_F)
    program = tl.program_id(0)
    tile = program % TILES
    part = (program // TILES) % parts
    row = (program // TILES // parts).to(tl.int64)
    b, h = row // heads, row % heads
    f = (tile // D_TILES) * BLOCK_F + tl.arange(0, BLOCK_F)
    d = (tile % D_TILES) * BLOCK_D + tl.arange(0, BLOCK_D)
    left += b * left_b + h * left_h
    right += b * right_b + h * right_h

    matrix = tl.zeros([BLOCK_F, BLOCK_D], tl.float32)
    column = tl.zeros([BLOCK_F], tl.float32)
    first = part * part_length
    for start in range(first, tl.minimum(first + part_length, length), BLOCK_N):
        token = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        inside = token < length
        present = _load_keys_present(mask, b, mask_b, mask_n, token, inside, HAS_MASK)
        x = _load_rows(left, token, left_n, present, f, F)
        y = _load_rows(right, token, right_n, present, d, D)
        weight = b * factor_b + h * factor_h + token * factor_n
        if HAS_COLUMN:
            if HAS_SHIFT:
                shifts = tl.load(shift + weight, mask=inside, other=0.0).to(tl.float32)
                column += tl.sum(x.to(tl.float32) * shifts[:, None], 0)
            else:
                column += tl.sum(x.to(tl.float32), 0)
        if HAS_FACTOR:
            factors = tl.load(factor + weight, mask=inside, other=0.0).to(tl.float32)
            matrix = _dot(tl.trans(x), y.to(tl.float32) * factors[:, None], matrix, PRECISION)
        else:
            matrix = _dot(tl.trans(x), y, matrix, PRECISION)

    sums += row * sums_row + part.to(tl.int64) * sums_part
    tl.store(sums + f[:, None] * D + d[None, :], matrix, mask=(f < F)[:, None] & (d < D)[None, :])
    if HAS_COLUMN and tile % D_TILES == 0:
        tl.store(sums + F * D + f, column, mask=f < F)


@triton.jit(do_not_specialize=["slots"])
def scan_kernel(states, slots, SIZE: tl.constexpr, BLOCK: tl.constexpr, SLOTS: tl.constexpr, REVERSE: tl.constexpr):
    """Running sums over the slots of ``states [rows, slots, SIZE]``, in place; from the last one with `REVERSE`."""
    BLOCKS: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    entry = (program % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    states += (program // BLOCKS).to(tl.int64) * slots * SIZE
    running = tl.zeros([BLOCK], tl.float32)
    for start in range(0, slots, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        inside = (slot < slots)[:, None] & (entry < SIZE)[None, :]
        if REVERSE:
            slot = slots - 1 - slot
        pointers = states + slot.to(tl.int64)[:, None] * SIZE + entry[None, :]
        parts = tl.load(pointers, mask=inside, other=0.0)
        tl.store(pointers, running[None, :] + tl.cumsum(parts, 0), mask=inside)
        running += tl.sum(parts, 0)


@triton.jit
def _read(
    query,
    key,
    value,
    states,
    mask,
    b,
    token,
    first,
    d,
    length,
    eps,
    query_n,
    key_n,
    value_n,
    mask_b,
    mask_n,
    F: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    NORMALIZE: tl.constexpr,
    HAS_MASK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Columns `d` of ``q_n S``, and ``q_n z + eps``; with `CAUSAL`, keys of the chunk (from token `first`) as well."""
    inside = token < length
    numerator = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    denominator = tl.zeros([BLOCK_N], tl.float32) + eps
    for start in range(0, F, BLOCK_F):
        f = start + tl.arange(0, BLOCK_F)
        q = _load_rows(query, token, query_n, inside, f, F)
        state = tl.load(states + f[:, None] * D + d[None, :], mask=(f < F)[:, None] & (d < D)[None, :], other=0.0)
        numerator = _dot(q, state, numerator, PRECISION)
        if NORMALIZE:
            z = tl.load(states + F * D + f, mask=f < F, other=0.0)
            denominator += tl.sum(q.to(tl.float32) * z[None, :], 1)
    if CAUSAL:
        for block in range(0, BLOCK_N, BLOCK_K):
            other = first + block + tl.arange(0, BLOCK_K)
            present = _load_keys_present(mask, b, mask_b, mask_n, other, other < length, HAS_MASK)
            pairs = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
            for start in range(0, F, BLOCK_F):
                f = start + tl.arange(0, BLOCK_F)
                q = _load_rows(query, token, query_n, inside, f, F)
                k = _load_rows(key, other, key_n, present, f, F)
                pairs = _dot(q, tl.trans(k), pairs, PRECISION)
            pairs = tl.where(token[:, None] >= other[None, :], pairs, 0.0)
            denominator += tl.sum(pairs, 1)
            numerator = _dot(pairs, _load_rows(value, other, value_n, present, d, D), numerator, PRECISION)
    # Without eps: a query that sees no key, whose numerator is 0 as well, reads zeros.
    return numerator, tl.where(denominator == 0, 1.0, denominator)


@triton.jit(do_not_specialize=["heads", "length", "chunks", "eps"])
def attend_kernel(
    query,
    key,
    value,
    states,
    mask,
    scale,
    output,
    factor,
    shift,
    query_b,
    query_h,
    query_n,
    key_b,
    key_h,
    key_n,
    value_b,
    value_h,
    value_n,
    states_row,
    states_chunk,
    mask_b,
    mask_n,
    scale_b,
    scale_h,
    scale_n,
    output_b,
    output_h,
    output_n,
    heads,
    length,
    chunks,
    eps,
    F: tl.constexpr,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    NORMALIZE: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    WEIGHTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Outputs of one chunk of queries; with `WEIGHTS`, instead, what the backward pass needs to know of each query.

    That is, with ``den = q z + eps``: ``factor = scale / den`` and ``shift = -factor (dO . numerator) / den``, the
    gradient of `den`; `output` is then the gradient `dO`, which is read.
    """
    D_TILES: tl.constexpr = 1 if WEIGHTS else (D + BLOCK_D - 1) // BLOCK_D
    program = tl.program_id(0)
    chunk = ((program // D_TILES) % chunks).to(tl.int64)
    row = (program // D_TILES // chunks).to(tl.int64)
    b, h = row // heads, row % heads
    first = chunk * BLOCK_N
    token = first + tl.arange(0, BLOCK_N)
    inside = token < length
    query += b * query_b + h * query_h
    output += b * output_b + h * output_h
    states += row * states_row + chunk * states_chunk
    if CAUSAL:
        key += b * key_b + h * key_h
        value += b * value_b + h * value_h
    factors = tl.full([BLOCK_N], 1.0, tl.float32)
    if HAS_SCALE:
        factors = tl.load(scale + b * scale_b + h * scale_h + token * scale_n, mask=inside, other=0.0).to(tl.float32)

    if WEIGHTS:
        product = tl.zeros([BLOCK_N], tl.float32)
        denominator = tl.zeros([BLOCK_N], tl.float32)
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            numerator, denominator = _read(
                query, key, value, states, mask, b, token, first, d, length, eps,
                query_n, key_n, value_n, mask_b, mask_n,
                F, D, BLOCK_N, BLOCK_K, BLOCK_F, BLOCK_D, CAUSAL, NORMALIZE, HAS_MASK, PRECISION,
            )  # fmt: skip
            gradient = _load_rows(output, token, output_n, inside, d, D)
            product += tl.sum(numerator * gradient.to(tl.float32), 1)
        factors = factors / denominator
        tl.store(factor + row * length + token, factors, mask=inside)
        tl.store(shift + row * length + token, -factors * product / denominator, mask=inside)
    else:
        d = (program % D_TILES) * BLOCK_D + tl.arange(0, BLOCK_D)
        numerator, denominator = _read(
            query, key, value, states, mask, b, token, first, d, length, eps,
            query_n, key_n, value_n, mask_b, mask_n,
            F, D, BLOCK_N, BLOCK_K, BLOCK_F, BLOCK_D, CAUSAL, NORMALIZE, HAS_MASK, PRECISION,
        )  # fmt: skip
        if NORMALIZE:
            factors = factors / denominator
        pointers = output + token[:, None] * output_n + d[None, :]
        tl.store(pointers, numerator * factors[:, None], mask=inside[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["heads", "length", "chunks"])
def gradient_kernel(
    row_side,
    pair_side,
    summed,
    states,
    mask,
    factor,
    shift,
    gradient,
    row_side_b,
    row_side_h,
    row_side_n,
    pair_side_b,
    pair_side_h,
    pair_side_n,
    summed_b,
    summed_h,
    summed_n,
    states_row,
    states_chunk,
    state_in,
    state_out,
    mask_b,
    mask_n,
    factor_b,
    factor_h,
    factor_n,
    gradient_b,
    gradient_h,
    gradient_n,
    heads,
    length,
    chunks,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    BLOCK_OUTER: tl.constexpr,
    OF_QUERIES: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_COLUMN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient of queries, or that of keys or values, for one chunk of them.

    Of query `i`, with the state `S`, `z` before its chunk (of all tokens, if not `CAUSAL`):
    ``factor_i u_i S + shift_i z + sum_j (factor_i u_i . w_j + shift_i) x_j`` over the keys ``j <= i`` of the chunk.
    Of key or value `j`, with what the queries after its chunk (all of them) sum to:
    ``u_j S + z + sum_i (factor_i u_j . w_i + shift_i) x_i`` over the queries ``i >= j`` of the chunk.
    `u`, `w` and `x` are `row_side`, `pair_side` and `summed`; `S` is read as ``[INNER, OUTER]`` by its strides.
    """
    TILES: tl.constexpr = (OUTER + BLOCK_OUTER - 1) // BLOCK_OUTER
    program = tl.program_id(0)
    chunk = ((program // TILES) % chunks).to(tl.int64)
    row = (program // TILES // chunks).to(tl.int64)
    b, h = row // heads, row % heads
    first = chunk * BLOCK_N
    token = first + tl.arange(0, BLOCK_N)
    inside = token < length
    present = _load_keys_present(mask, b, mask_b, mask_n, token, inside, HAS_MASK)
    of_rows = inside if OF_QUERIES else present
    outer = (program % TILES) * BLOCK_OUTER + tl.arange(0, BLOCK_OUTER)
    row_side += b * row_side_b + h * row_side_h
    states += row * states_row + chunk * states_chunk
    weight = b * factor_b + h * factor_h
    factors = tl.full([BLOCK_N], 1.0, tl.float32)
    shifts = tl.zeros([BLOCK_N], tl.float32)
    if HAS_FACTOR and OF_QUERIES:
        factors = tl.load(factor + weight + token * factor_n, mask=inside, other=0.0).to(tl.float32)
    if HAS_SHIFT and OF_QUERIES:
        shifts = tl.load(shift + weight + token * factor_n, mask=inside, other=0.0)

    result = tl.zeros([BLOCK_N, BLOCK_OUTER], tl.float32)
    for start in range(0, INNER, BLOCK_INNER):
        inner = start + tl.arange(0, BLOCK_INNER)
        u = _load_rows(row_side, token, row_side_n, of_rows, inner, INNER)
        there = (inner < INNER)[:, None] & (outer < OUTER)[None, :]
        state = tl.load(states + inner[:, None] * state_in + outer[None, :] * state_out, mask=there, other=0.0)
        result = _dot(u, state, result, PRECISION)
    if OF_QUERIES:
        result = result * factors[:, None]
    if HAS_COLUMN:
        z = tl.load(states + INNER * OUTER + outer, mask=outer < OUTER, other=0.0)[None, :]
        result += shifts[:, None] * z if OF_QUERIES else z

    if CAUSAL:
        pair_side += b * pair_side_b + h * pair_side_h
        summed += b * summed_b + h * summed_h
        for block in range(0, BLOCK_N, BLOCK_K):
            other = first + block + tl.arange(0, BLOCK_K)
            of_pairs = other < length
            if OF_QUERIES:
                of_pairs = _load_keys_present(mask, b, mask_b, mask_n, other, of_pairs, HAS_MASK)
            pairs = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
            for start in range(0, INNER, BLOCK_INNER):
                inner = start + tl.arange(0, BLOCK_INNER)
                u = _load_rows(row_side, token, row_side_n, of_rows, inner, INNER)
                w = _load_rows(pair_side, other, pair_side_n, of_pairs, inner, INNER)
                pairs = _dot(u, tl.trans(w), pairs, PRECISION)
            if OF_QUERIES:
                pairs = pairs * factors[:, None] + shifts[:, None]
                seen = token[:, None] >= other[None, :]
            else:
                if HAS_FACTOR:
                    of_other = tl.load(factor + weight + other * factor_n, mask=of_pairs, other=0.0)
                    pairs = pairs * of_other.to(tl.float32)[None, :]
                if HAS_SHIFT:
                    pairs += tl.load(shift + weight + other * factor_n, mask=of_pairs, other=0.0)[None, :]
                seen = token[:, None] <= other[None, :]
            pairs = tl.where(seen & of_pairs[None, :], pairs, 0.0)
            result = _dot(pairs, _load_rows(summed, other, summed_n, of_pairs, outer, OUTER), result, PRECISION)
    if not OF_QUERIES:
        result = tl.where(present[:, None], result, 0.0)
    gradient += b * gradient_b + h * gradient_h + token[:, None] * gradient_n + outer[None, :]
    tl.store(gradient, result, mask=inside[:, None] & (outer < OUTER)[None, :])


KERNELS = {"sum": sum_kernel, "scan": scan_kernel, "attend": attend_kernel, "gradient": gradient_kernel}
