/* Weights from global memory into operand A of the tensor cores, without a stop in shared memory, and x from shared
 * memory into operand B.
 *
 * A warp multiplies 16 rows of the weight at a time: lane 4 g + t has rows g and g + 8. The sum over k may run in any
 * order as long as both operands agree on it, so a lane takes 8 or 16 neighbouring bytes of its rows and calls their
 * columns the k that the instruction wants from it. Columns come in chunks (of the warp) of CHUNK columns, a chunk in
 * quads: 8 columns of each lane, two steps of k = 16.
 *
 *   format  chunk  lane t's columns of it        quads
 *   bf16      32   8 t .. 8 t + 7                  1
 *   MXFP4    128   32 t .. 32 t + 31: a block      4
 *   int8      32   8 t .. 8 t + 7                  1    the scale of the chunk multiplies the sums
 *   int4      64   16 t .. 16 t + 15               2    likewise
 *
 * MXFP4's scales are powers of two and go into the operand, exactly. */
#ifndef CLOCHER_CUDA_MMA_CUH
#define CLOCHER_CUDA_MMA_CUH

#include "cuda/products.cuh"

/* x in shared memory: 32 columns take 64 bytes and 16 that are left free, and a token's row an odd multiple of 64, so
 * that the 8 lanes of a quarter of a warp (2 tokens, 4 t) read different banks. */
enum { SUB_COLS = 32, SUB_BYTES = 80 };
static __host__ __device__ __forceinline__ int64_t x_row_bytes(int64_t columns) {
  int64_t bytes = blocks_for(columns, 4 * SUB_COLS) * 4 * SUB_BYTES;
  return bytes % 128 == 0 ? bytes + 64 : bytes;
}
static __device__ __forceinline__ int x_offset(int column) {
  return column / SUB_COLS * SUB_BYTES + column % SUB_COLS * 2;
}

template <ie_wformat F> struct format_traits;
template <> struct format_traits<IE_W_BF16> {
  enum { CHUNK = 32, QUADS = 1, LANE = 8, SCALED = 0, AHEAD = 6 };
};
template <> struct format_traits<IE_W_MXFP4> {
  enum { CHUNK = 128, QUADS = 4, LANE = 32, SCALED = 0, AHEAD = 4 };
};
template <> struct format_traits<IE_W_INT8> {
  enum { CHUNK = 32, QUADS = 1, LANE = 8, SCALED = 1, AHEAD = 4 };
};
template <> struct format_traits<IE_W_INT4> {
  enum { CHUNK = 64, QUADS = 2, LANE = 16, SCALED = 1, AHEAD = 4 };
};

/* What a lane holds of one row of one chunk. */
struct row_chunk {
  uint4 data;     /* of int8 and int4: x and y */
  uint32_t scale; /* MXFP4: the byte; int8 and int4: the bits of a float */
};

/* Lane t's part of chunk c of a row of K columns; zero beyond the last one. */
template <ie_wformat F>
static __device__ __forceinline__ row_chunk chunk_load(const weight_rows &r, int64_t c, int t, int64_t K) {
  typedef format_traits<F> format;
  row_chunk out = {};
  int64_t k = c * format::CHUNK + t * format::LANE;
  /* a row of int8 and int4 is whole blocks, which are chunks */
  if (format::SCALED ? c * format::CHUNK >= K : k >= K) return out;
  if (F == IE_W_BF16) out.data = load_once(r.part[0] + 2 * k);
  if (F == IE_W_MXFP4) {
    out.data = load_once(r.part[0] + k / 2);
    out.scale = r.part[1][k / 32];
  }
  if (format::SCALED) {
    uint2 v = load_once8(r.part[0] + (F == IE_W_INT8 ? k : k / 2));
    out.data.x = v.x, out.data.y = v.y;
    out.scale = __float_as_uint(scale_f16(r.part[1], c));
  }
  return out;
}

static __device__ __forceinline__ uint32_t word_of(const uint4 &v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* 2^(scale - 127) of MXFP4 times 2^126, in both halves; what exceeds bf16 is left to `rest` (1 where nothing does). */
struct mxfp4_factor {
  uint32_t first, rest;
};
enum { MXFP4_FIRST_MOST = 128 }; /* scales up to that have no rest */
static __device__ __forceinline__ mxfp4_factor mxfp4_factor_of(uint32_t scale) {
  uint32_t most = MXFP4_FIRST_MOST, fits = scale < most ? scale : most;
  mxfp4_factor f = {(fits + 126) << 7, (scale - fits + 127) << 7};
  if (scale == 255) f.first = 0x7FC0;
  f.first |= f.first << 16;
  f.rest |= f.rest << 16;
  return f;
}

/* Nibbles i and i + 4 of a word (i of 0 .. 3) as both halves of a bf16x2 whose exponents lack 126: the sign to bit 15, the
 * other three bits to 6 .. 8. */
static __device__ __forceinline__ uint32_t mxfp4_bits(uint32_t word, int i) {
  uint32_t top = word << 4 * (3 - i);
  return (top & 0x80008000u) | (top >> 6 & 0x01C001C0u);
}
static __device__ __forceinline__ uint32_t mxfp4_pair(uint32_t word, int i, const mxfp4_factor &f) {
  uint32_t v = bf16x2_mul(mxfp4_bits(word, i), f.first);
  return f.rest == 0x3F803F80u ? v : bf16x2_mul(v, f.rest);
}
/* nibble - 8: 128 + nibble is an integer of bf16's 8 bits. */
static __device__ __forceinline__ uint32_t int4_pair(uint32_t word, int i) {
  return bf16x2_add((word >> 4 * i & 0x000F000Fu) | 0x43004300u, 0xC308C308u);
}
static __device__ __forceinline__ uint32_t int8_pair(uint32_t word, int i) {
  return bf16x2_of((float)(int8_t)(word >> 16 * i), (float)(int8_t)(word >> (16 * i + 8)));
}

/* Quad q of a row: pair[2 s + h] is what step s wants, h = 0 for its first 8 k and 1 for the others. */
template <ie_wformat F>
static __device__ __forceinline__ void quad_decode(uint32_t pair[4], const row_chunk &c, int q,
                                                   const mxfp4_factor &f) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (F == IE_W_BF16) pair[i] = word_of(c.data, i);
    if (F == IE_W_MXFP4) pair[i] = mxfp4_pair(word_of(c.data, q), i, f);
    if (F == IE_W_INT4) pair[i] = int4_pair(word_of(c.data, q), i);
    if (F == IE_W_INT8) pair[i] = int8_pair(word_of(c.data, i / 2), i % 2);
  }
}

/* Where lane t's columns of a chunk stand in a row of x in shared memory. */
template <ie_wformat F> static __device__ __forceinline__ int x_lane(int t) {
  return x_offset(t * format_traits<F>::LANE);
}

/* Two steps: 8 columns of each lane, of MT x 16 rows and one group of 8 tokens. */
template <ie_wformat F, int MT>
static __device__ __forceinline__ void quad_multiply(float *sum, int64_t sum_step,
                                                     const uint32_t pair[MT][2][4],
                                                     const row_chunk rows[MT][2], const uint4 &b) {
  const uint32_t b0[2] = {b.x, b.y}, b1[2] = {b.z, b.w};
#pragma unroll
  for (int m = 0; m < MT; m++) {
    const uint32_t *low = pair[m][0], *high = pair[m][1];
    const uint32_t a0[4] = {low[0], high[0], low[1], high[1]}, a1[4] = {low[2], high[2], low[3], high[3]};
    float *d = sum + m * sum_step;
    if (!format_traits<F>::SCALED) {
      mma_bf16(d, a0, b0);
      mma_bf16(d, a1, b1);
      continue;
    }
    float part[4] = {}, scale[2] = {__uint_as_float(rows[m][0].scale), __uint_as_float(rows[m][1].scale)};
    mma_bf16(part, a0, b0);
    mma_bf16(part, a1, b1);
    for (int i = 0; i < 4; i++) d[i] += scale[i / 2] * part[i];
  }
}

/* 16 MT rows x 8 NT tokens x one chunk: sum[m][n] += A B. `x` is where token g's columns of the chunk stand in shared
 * memory for this lane (its t included: x_lane), tokens 8 apart `x_step` bytes. The first `active` of the NT are
 * multiplied; use false: this lane's token is zero. */
template <ie_wformat F, int MT, int NT>
static __device__ __forceinline__ void chunk_multiply(float sum[MT][NT][4], const row_chunk rows[MT][2],
                                                      const unsigned char *x, int64_t x_step, int active,
                                                      bool use) {
  mxfp4_factor factor[MT][2] = {};
#pragma unroll
  for (int i = 0; i < 2 * MT; i++)
    if (F == IE_W_MXFP4) factor[i / 2][i % 2] = mxfp4_factor_of(rows[i / 2][i % 2].scale);
#pragma unroll
  for (int q = 0; q < format_traits<F>::QUADS; q++) {
    uint32_t pair[MT][2][4];
#pragma unroll
    for (int i = 0; i < 2 * MT; i++)
      quad_decode<F>(pair[i / 2][i % 2], rows[i / 2][i % 2], q, factor[i / 2][i % 2]);
#pragma unroll
    for (int n = 0; n < NT; n++) {
      if (n >= active) continue; /* all lanes alike */
      uint4 b = make_uint4(0, 0, 0, 0);
      if (use) b = *(const uint4 *)(x + n * x_step + 16 * q);
      quad_multiply<F, MT>(sum[0][n], 4 * NT, pair, rows, b);
    }
  }
}

#endif
