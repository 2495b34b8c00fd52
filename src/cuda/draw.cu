/* One id drawn from each row of logits, by the rules of engine/sampler.c in its order of operations: where that adds, this
 * adds the same numbers in the same order, but for the mass above a cut, which is exact here (fixed point) and rounded
 * there. A block has a row; what is left of it is kept as a list, in the order of ids. */
#include "cuda/common.cuh"

enum { THREADS = 1024, SUM_BLOCK = 64, BINS = 256 };
typedef unsigned long long u64;

struct draw_row {
  float *scores, *weights; /* (count), in the row's logits and scratch */
  int32_t *ids;
  double *sums; /* (count / 64 rounded up) of weights */
  int64_t count;
};

/* What the block shares. */
struct draw_shared {
  u64 hi[BINS], lo[BINS]; /* masses by 8 bits of the key */
  uint32_t warp_count[2][WARP];
  float warp_value[WARP];
  uint32_t key;
  int bin;
  double above, total;
  int64_t ties, bad;
  int32_t id;
};

/* --- Numbers ----------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ u64 rng_mix(u64 z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  return z ^ z >> 31;
}
/* base/rng.h */
static __device__ double rng_f64(u64 seed, u64 stream, u64 n) {
  u64 key = rng_mix(seed + 0x9E3779B97F4A7C15ull) ^ rng_mix(stream * 0xD1B54A32D192ED03ull + 1);
  return (double)(rng_mix(key + (n + 1) * 0x9E3779B97F4A7C15ull) >> 11) * 0x1p-53;
}

/* ie_exp_nonpositive of engine/select.h: 0 below -87 */
static __device__ __forceinline__ float exp_nonpositive(float x) {
  return x >= -87.0f ? exact_exp(x) : 0.0f;
}

/* Larger floats have larger keys; both zeros the same. */
static __device__ __forceinline__ uint32_t key_of(float x) {
  uint32_t u = __float_as_uint(x + 0.0f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
static __device__ __forceinline__ float of_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

/* --- Passes over the row --------------------------------------------------------------------------------------------- */

static __device__ float row_largest(const draw_row &row, draw_shared &shared) {
  float most = -INFINITY;
  for (int64_t i = threadIdx.x; i < row.count; i += THREADS) most = fmaxf(most, row.scores[i]);
  most = warp_max(most);
  __syncthreads();
  if (threadIdx.x % WARP == 0) shared.warp_value[threadIdx.x / WARP] = most;
  __syncthreads();
  return warp_max(shared.warp_value[threadIdx.x % WARP]);
}

/* weights, sums and their total. */
static __device__ void row_weigh(draw_row &row, draw_shared &shared, float largest) {
  for (int64_t i = threadIdx.x; i < row.count; i += THREADS)
    row.weights[i] = exp_nonpositive(__fsub_rn(row.scores[i], largest));
  __syncthreads();
  for (int64_t b = threadIdx.x; b * SUM_BLOCK < row.count; b += THREADS) {
    const float *w = row.weights + b * SUM_BLOCK;
    if ((b + 1) * SUM_BLOCK <= row.count) {
      float lane[16];
#pragma unroll
      for (int j = 0; j < 16; j++) lane[j] = (w[j] + w[j + 16]) + (w[j + 32] + w[j + 48]);
#pragma unroll
      for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
      row.sums[b] = (double)lane[0];
    } else {
      double sum = 0;
      for (int64_t i = 0; i < row.count - b * SUM_BLOCK; i++) sum += (double)w[i];
      row.sums[b] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0;
    for (int64_t b = 0; b * SUM_BLOCK < row.count; b++) total += row.sums[b];
    shared.total = total;
  }
  __syncthreads();
}

/* How many threads before this one say yes; *all: how many of the block. */
static __device__ uint32_t block_rank(bool yes, uint32_t warp_count[WARP], uint32_t *all) {
  uint32_t votes = __ballot_sync(ALL_LANES, yes), lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  __syncthreads();
  if (lane == 0) warp_count[warp] = (uint32_t)__popc(votes);
  __syncthreads();
  uint32_t before = 0, sum = 0;
  for (uint32_t w = 0; w < THREADS / WARP; w++) {
    if (w < warp) before += warp_count[w];
    sum += warp_count[w];
  }
  *all = sum;
  return before + (uint32_t)__popc(votes & ((1u << lane) - 1));
}

/* Keeps scores above `cut` and the first `ties` of those equal to it; with least > 0 instead those of at least that
 * weight. A list may be shortened in place: what is written was read before. */
static __device__ void row_cut(draw_row &row, draw_shared &shared, float cut, int64_t ties, double least) {
  int64_t kept = 0, equal = 0;
  for (int64_t first = 0; first < row.count; first += THREADS) {
    int64_t i = first + threadIdx.x;
    bool inside = i < row.count;
    float score = inside ? row.scores[i] : 0.0f;
    int32_t id = inside ? row.ids[i] : 0;
    bool in = inside && (least > 0 ? (double)row.weights[i] >= least : score > cut);
    uint32_t all;
    if (least <= 0) {
      bool tie = inside && score == cut;
      uint32_t rank = block_rank(tie, shared.warp_count[0], &all);
      in = in || (tie && equal + rank < ties);
      equal += all;
    }
    int64_t to = kept + block_rank(in, shared.warp_count[1], &all);
    if (in) {
      row.scores[to] = score;
      row.ids[to] = id;
    }
    kept += all;
    __syncthreads();
  }
  row.count = kept;
}

/* Sum of a bin: numbers of 2^-45 and of 2^-90. */
static __device__ __forceinline__ double mass_of(u64 hi, u64 lo) {
  return (double)hi * 0x1p-45 + (double)lo * 0x1p-90;
}

/* A number's mass in these two units; what is less than the smaller one is lost. */
static __device__ __forceinline__ void mass_split(float mass, u64 *hi, u64 *lo) {
  *hi = (u64)mass;
  *lo = (u64)((mass - (float)*hi) * 0x1p45f);
}

/* The mass of all scores of at least `least`: whole numbers, so in any order the same. */
static __device__ double mass_above(const draw_row &row, draw_shared &shared, float least, bool weighted) {
  u64 hi = 0, lo = 0;
  for (int64_t i = threadIdx.x; i < row.count; i += THREADS) {
    u64 one, rest;
    mass_split(weighted ? row.weights[i] * 0x1p45f : 0x1p45f, &one, &rest);
    if (row.scores[i] >= least) hi += one, lo += rest;
  }
  for (int bits = 16; bits > 0; bits /= 2) {
    hi += __shfl_xor_sync(ALL_LANES, hi, bits);
    lo += __shfl_xor_sync(ALL_LANES, lo, bits);
  }
  __syncthreads();
  if (threadIdx.x % WARP == 0) shared.hi[threadIdx.x / WARP] = hi, shared.lo[threadIdx.x / WARP] = lo;
  __syncthreads();
  hi = lo = 0;
  for (int w = 0; w < THREADS / WARP; w++) hi += shared.hi[w], lo += shared.lo[w];
  __syncthreads();
  return mass_of(hi, lo);
}

/* The masses of the row's scores whose key begins with the `bits` upper bits of shared.key, by the next eight. */
static __device__ void masses_find(const draw_row &row, draw_shared &shared, int bits, bool weighted) {
  for (int b = (int)threadIdx.x; b < BINS; b += THREADS) shared.hi[b] = shared.lo[b] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < row.count; i += THREADS) {
    uint32_t key = key_of(row.scores[i]);
    if (bits > 0 && (key ^ shared.key) >> (32 - bits)) continue;
    uint32_t bin = key >> (24 - bits) & 255;
    u64 hi, lo;
    mass_split(weighted ? row.weights[i] * 0x1p45f : 0x1p45f, &hi, &lo);
    atomicAdd(&shared.hi[bin], hi);
    if (lo) atomicAdd(&shared.lo[bin], lo);
  }
  __syncthreads();
}

/* The score at which the masses, from the largest score down, first reach `target`; shared.ties: how many of those equal
 * to it are needed. Each pass settles eight bits of its key. */
static __device__ float mass_cut(const draw_row &row, draw_shared &shared, float largest, double target,
                                 bool weighted) {
  if (threadIdx.x == 0) shared.key = 0, shared.above = 0;
  for (int bits = 0; bits < 32; bits += 8) {
    masses_find(row, shared, bits, weighted);
    if (threadIdx.x == 0) {
      double above = shared.above;
      int bin = BINS - 1, last = -1;
      for (; bin >= 0; bin--) {
        double mass = mass_of(shared.hi[bin], shared.lo[bin]);
        if (shared.hi[bin] == 0 && shared.lo[bin] == 0) continue;
        last = bin;
        if (above + mass >= target) break;
        above += mass;
      }
      if (bin < 0) { /* only rounding leads here: all of them */
        bin = last < 0 ? 0 : last;
        above -= mass_of(shared.hi[bin], shared.lo[bin]);
      }
      shared.above = above;
      shared.key |= (uint32_t)bin << (24 - bits);
    }
    __syncthreads();
  }
  float score = of_key(shared.key);
  if (threadIdx.x == 0) {
    double one = weighted ? (double)exp_nonpositive(__fsub_rn(score, largest)) : 1.0;
    double wanted = one > 0 ? ceil((target - shared.above) / one) : 1.0;
    shared.ties = wanted < 1 ? 1 : wanted > 0x1p31 ? (int64_t)1 << 31 : (int64_t)wanted;
  }
  __syncthreads();
  return score;
}

/* --- Steps -------------------------------------------------------------------------------------------------------- */

/* The first id that is NaN or +infinity, or -1. */
static __device__ int64_t row_bad(const draw_row &row, draw_shared &shared) {
  if (threadIdx.x == 0) shared.key = 0xFFFFFFFFu;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < row.count; i += THREADS)
    if (!(row.scores[i] < INFINITY)) {
      atomicMin(&shared.key, (uint32_t)i);
      break;
    }
  __syncthreads();
  int64_t bad = shared.key == 0xFFFFFFFFu ? -1 : (int64_t)shared.key;
  __syncthreads();
  return bad;
}

/* Repetition penalty and temperature, which touch each number alone. */
static __device__ void row_scale(draw_row &row, const ie_cuda_sample_params &params, const uint32_t *seen) {
  float penalty = params.repetition_penalty, temperature = params.temperature;
  for (int64_t i = threadIdx.x; i < row.count; i += THREADS) {
    float x = row.scores[i];
    row.ids[i] = (int32_t)i;
    if (penalty != 0.0f && seen && seen[i / 32] >> i % 32 & 1)
      x = x < 0 ? __fmul_rn(x, penalty) : __fdiv_rn(x, penalty);
    if (temperature != 0.0f) x = __fdiv_rn(x, temperature);
    row.scores[i] = x;
  }
  __syncthreads();
}

/* The candidate at which the running sum of weights exceeds u times their total: weight_pick. One thread. */
static __device__ int32_t row_pick(const draw_row &row, double total, double u) {
  double target = __dmul_rn(u, total), sum = 0;
  int64_t last = 0;
  for (int64_t b = 0; b * SUM_BLOCK < row.count; b++) {
    if (row.sums[b] <= 0) continue;
    if (!(sum + row.sums[b] > target)) {
      sum += row.sums[b];
      continue;
    }
    int64_t end = least_of((b + 1) * SUM_BLOCK, row.count);
    for (int64_t i = b * SUM_BLOCK; i < end; i++) {
      if (row.weights[i] <= 0) continue;
      last = i;
      sum += (double)row.weights[i];
      if (sum > target) break;
    }
    return row.ids[last];
  }
  for (int64_t i = row.count - 1; i >= 0; i--)
    if (row.weights[i] > 0) return row.ids[i];
  return row.ids[last];
}

/* First id with the largest score. */
static __device__ int32_t row_greedy(const draw_row &row, draw_shared &shared, float largest) {
  if (threadIdx.x == 0) shared.key = 0xFFFFFFFFu;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < row.count; i += THREADS)
    if (row.scores[i] == largest) {
      atomicMin(&shared.key, (uint32_t)i);
      break;
    }
  __syncthreads();
  return row.ids[shared.key];
}

/* Leaves out what lies so far below the largest score that the masses reach `target` above it; false: nothing was left out.
 * mass_cut then has hundreds of scores where it had a vocabulary, most of which would add to the same few numbers. */
static __device__ bool row_narrow(draw_row &row, draw_shared &shared, float largest, double target,
                                  bool weighted) {
  for (float distance = 8; distance < 100; distance *= 2) {
    float least = __fsub_rn(largest, distance);
    if (mass_above(row, shared, least, weighted) < target) continue;
    row_cut(row, shared, least, INT64_MAX, /*least=*/0);
    return true;
  }
  return false;
}

/* What the steps leave, and one of it. largest: of the scaled scores, finite. */
static __device__ int32_t row_draw(draw_row &row, draw_shared &shared, const ie_cuda_sample_params &params,
                                   float largest) {
  if (params.top_k != 0 && params.top_k < row.count) {
    row_narrow(row, shared, largest, (double)params.top_k, /*weighted=*/false);
    float cut = mass_cut(row, shared, largest, (double)params.top_k, /*weighted=*/false);
    row_cut(row, shared, cut, INT64_MAX, /*least=*/0);
  }
  if (params.top_p != 0 && params.top_p < 1) {
    row_weigh(row, shared, largest);
    double target = __dmul_rn(params.top_p, shared.total);
    if (row_narrow(row, shared, largest, target, /*weighted=*/true)) row_weigh(row, shared, largest);
    float cut = mass_cut(row, shared, largest, target, /*weighted=*/true);
    row_cut(row, shared, cut, shared.ties, /*least=*/0);
  }
  row_weigh(row, shared, largest);
  if (params.min_p != 0) {
    row_cut(row, shared, 0, 0, params.min_p);
    row_weigh(row, shared, largest);
  }
  if (threadIdx.x == 0)
    shared.id = row_pick(row, shared.total, rng_f64(params.seed, params.row, params.step));
  __syncthreads();
  return shared.id;
}

static __global__ void __launch_bounds__(THREADS)
    draw_kernel(const __grid_constant__ ie_cuda_sample_args args) {
  __shared__ draw_shared shared;
  launch_wait();
  launch_next();
  int64_t r = blockIdx.x, V = args.vocab, blocks = blocks_for(V, SUM_BLOCK);
  const ie_cuda_sample_params params = args.params[r];
  draw_row row;
  row.sums = (double *)args.scratch + r * blocks;
  row.weights = (float *)((double *)args.scratch + args.rows * blocks) + r * V;
  row.ids = (int32_t *)((float *)((double *)args.scratch + args.rows * blocks) + args.rows * V) + r * V;
  row.scores = args.logits + r * V;
  row.count = V;
  int64_t bad = row_bad(row, shared);
  float largest = -INFINITY;
  int32_t id = 0;
  if (bad < 0) {
    /* steps that keep the order decide nothing of a greedy choice */
    ie_cuda_sample_params scale = params;
    if (params.greedy && params.repetition_penalty == 0.0f) scale.temperature = 0.0f;
    row_scale(row, scale, args.seen ? args.seen + r * blocks_for(V, 32) : NULL);
    largest = row_largest(row, shared);
    if (is_finite(largest))
      id = params.greedy ? row_greedy(row, shared, largest) : row_draw(row, shared, params, largest);
  }
  if (threadIdx.x != 0) return;
  args.id[r] = id;
  if (args.check.fault && !is_finite(largest))
    fault_report(args.check, (args.first_row + r) * V + (bad < 0 ? 0 : bad),
                 bad < 0 ? largest : row.scores[bad]);
}

size_t ie_cuda_sample_scratch(const ie_cuda_sample_args *args) {
  size_t V = (size_t)args->vocab, blocks = (size_t)blocks_for(args->vocab, SUM_BLOCK);
  return (size_t)args->rows * (blocks * sizeof(double) + V * (sizeof(float) + sizeof(int32_t)));
}

cudaError_t ie_cuda_sample(const ie_cuda_queue *queue, const ie_cuda_sample_args *args) {
  if (args->rows == 0) return cudaSuccess;
  if (args->vocab > IE_CUDA_SAMPLE_VOCAB_MAX) return cudaErrorNotSupported;
  if (args->vocab < 1 || !args->scratch || !args->params || !grid_fits(args->rows))
    return cudaErrorInvalidValue;
  return launch(queue, {grid_of(args->rows), dim3(THREADS), 0}, draw_kernel, *args);
}
