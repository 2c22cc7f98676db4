"""Triton kernels of embedding_dropout: rows of a table, and the sums of their gradients.

Sizes: n ids, V rows of the table, E embedding size. Arithmetic is in float32, or float64 beside
float64. Word v of the mask has index v: keep = words[v % 4] of Philox block v // 4.

Gradient. The ids are sorted, equal ones keep their order. _sum_chunks_kernel takes CHUNK
neighbouring places in that order and adds what belongs to one id, in the order of the places. A run
of equal ids that lies inside of a chunk is a finished row; of one that goes on, the chunk writes a
partial sum: as "head" where the run began before the chunk, else as "tail". _sum_runs_kernel
finishes runs from where they began: a tail and the heads of the chunks after it, HEADS at a time.
So the order of a sum depends on the ids alone, there is no atomic operation, and a word that is a
twentieth of the text (224 of 4,480 places) is 28 partial sums, two steps of a program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ulmfit_fast.kernels.lstm_cell import _philox_words


@triton.jit
def _kept(word, seed_ptr, threshold):
    # Whether words of any shape stay in this call.
    w0, w1, w2, w3 = _philox_words(word >> 2, tl.load(seed_ptr))
    low, high = tl.where(word & 1 == 0, w0, w1), tl.where(word & 1 == 0, w2, w3)
    drawn = tl.where(word & 2 == 0, low, high)
    return drawn >= threshold.to(tl.uint32, bitcast=True)


@triton.jit(
    do_not_specialize=[
        *("n", "inner", "V", "ids_stride_outer", "ids_stride_inner", "threshold", "scale_bits")
    ]
)
def _embedding_dropout_kernel(
    out_ptr,
    ids_ptr,
    weight_ptr,
    seed_ptr,
    n,
    inner,
    V,
    E,
    ids_stride_outer,
    ids_stride_inner,
    weight_stride_v,
    weight_stride_e,
    threshold,
    scale_bits,
    WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write out [n, E]: rows of weight [V, E], scaled or 0; NaN for an id outside 0..V-1.

    ids [n / inner, inner] and weight of any strides; seed None where nothing is dropped.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = place < n
    id_ptrs = ids_ptr + place // inner * ids_stride_outer + place % inner * ids_stride_inner
    word = tl.load(id_ptrs, mask=there, other=0)
    exists = (word >= 0) & (word < V)
    offs_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask = there[:, None] & (offs_e < E)[None, :]
    row = tl.where(exists, word, 0)
    places = row[:, None] * weight_stride_v + offs_e.to(tl.int64)[None, :] * weight_stride_e
    x = tl.load(weight_ptr + places, mask=mask & exists[:, None], other=float("nan"))
    if seed_ptr is not None:
        keep = _kept(row, seed_ptr, threshold) | ~exists
        scaled = x.to(WIDE) * scale_bits.to(tl.float64, bitcast=True).to(WIDE)
        x = tl.where(keep[:, None], scaled, 0.0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place[:, None] * E + offs_e[None, :], x, mask=mask)


@triton.jit
def _store_row(dw_ptr, sums, word, V, seed_ptr, threshold, scale_bits, padding, E, offs_e, stores):
    # A finished row: masked, scaled and rounded once.
    if seed_ptr is not None:
        scale = scale_bits.to(tl.float64, bitcast=True).to(sums.dtype)
        sums = tl.where(_kept(word, seed_ptr, threshold), sums * scale, 0.0)
    stores = stores & (word >= 0) & (word < V) & (word != padding)
    mask = (offs_e < E) & stores
    tl.store(dw_ptr + word * E + offs_e, sums.to(dw_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "V", "padding", "threshold", "scale_bits"])
def _sum_chunks_kernel(
    dw_ptr,
    partial_ptr,
    grad_ptr,
    ids_ptr,
    order_ptr,
    seed_ptr,
    n,
    V,
    E,
    padding,
    threshold,
    scale_bits,
    CHUNK: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write the rows of dw [V, E] whose ids lie in one chunk, and partial [2, chunks, E] of others.

    grad [n, E], ids [n] sorted, order [n]: where each stood. partial: heads, then tails.
    """
    chunk = tl.program_id(0).to(tl.int64)
    offs_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask_e = offs_e < E
    wide = partial_ptr.dtype.element_ty
    head_ptr = partial_ptr + chunk * E + offs_e
    tail_ptr = head_ptr + tl.num_programs(0).to(tl.int64) * E
    first = chunk * CHUNK
    last = tl.minimum(first + CHUNK, n) - 1
    before = tl.load(ids_ptr + tl.maximum(first - 1, 0))
    began_before = (first > 0) & (before == tl.load(ids_ptr + first))
    sums = tl.zeros((BLOCK_E,), wide)
    for i in tl.static_range(CHUNK):
        place = first + i
        there = place <= last
        at = tl.minimum(place, last)
        word = tl.load(ids_ptr + at)
        row_ptr = grad_ptr + tl.load(order_ptr + at) * E + offs_e
        sums += tl.load(row_ptr, mask=mask_e & there, other=0.0).to(wide)
        is_last = at == n - 1
        ends = is_last | (tl.load(ids_ptr + tl.minimum(at + 1, n - 1)) != word)
        # A run is over where the next id is another; a chunk is over after its last place.
        finished = there & ends & (began_before == 0)
        _store_row(
            dw_ptr, sums, word, V, seed_ptr, threshold, scale_bits, padding, E, offs_e, finished
        )
        closes = there & (ends | (place == last))
        tl.store(head_ptr, sums, mask=mask_e & closes & began_before)
        tl.store(tail_ptr, sums, mask=mask_e & closes & (ends == 0) & (began_before == 0))
        sums = tl.where(closes, 0.0, sums)
        began_before = began_before & (closes == 0)


@triton.jit(do_not_specialize=["n", "V", "padding", "threshold", "scale_bits"])
def _sum_runs_kernel(
    dw_ptr,
    partial_ptr,
    ids_ptr,
    seed_ptr,
    n,
    V,
    E,
    padding,
    threshold,
    scale_bits,
    CHUNK: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Write the row of the run that begins in this chunk and goes on after it, if there is one."""
    chunk = tl.program_id(0).to(tl.int64)
    n_chunks = tl.num_programs(0).to(tl.int64)
    offs_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    mask_e = offs_e < E
    first = chunk * CHUNK
    last = tl.minimum(first + CHUNK, n) - 1
    word = tl.load(ids_ptr + last)
    goes_on = (last < n - 1) & (tl.load(ids_ptr + tl.minimum(last + 1, n - 1)) == word)
    # It began here unless the chunk has no other id and the place before has the same one.
    before = tl.load(ids_ptr + tl.maximum(first - 1, 0))
    began_here = (tl.load(ids_ptr + first) != word) | (first == 0) | (before != word)
    if goes_on & began_here:
        tail_ptr = partial_ptr + (n_chunks + chunk) * E + offs_e
        sums = tl.load(tail_ptr, mask=mask_e, other=0.0)
        following = chunk + 1
        while following < n_chunks:
            chunks = following + tl.arange(0, HEADS)
            inside = chunks < n_chunks
            ids = tl.load(ids_ptr + tl.where(inside, chunks, 0) * CHUNK)
            belongs = inside & (ids == word)
            head_ptrs = partial_ptr + chunks[:, None] * E + offs_e[None, :]
            mask = belongs[:, None] & mask_e[None, :]
            sums += tl.sum(tl.load(head_ptrs, mask=mask, other=0.0), axis=0)
            all_belong = tl.sum(belongs.to(tl.int32)) == HEADS
            following = tl.where(all_belong, following + HEADS, n_chunks)
        _store_row(
            dw_ptr, sums, word, V, seed_ptr, threshold, scale_bits, padding, E, offs_e, goes_on
        )
