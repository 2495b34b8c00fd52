/* Speed of each product kernel beside the machine's own limits, measured in turns in the same run: reading memory
 * (four streams a thread, prefetch 1 KB ahead) for one to four tokens, chains of f32 FMA and of VNNI from registers
 * for many (of the width of the instruction set under test). Time is the CPU time of the slowest thread, so that a busy machine disturbs it less.
 *
 * "cached": one to four tokens by weights that fit the second-level cache, beside what the memory gives: above 100% is
 * what a kernel could read faster than that.
 *
 *   bench_products [ISA] [threads] [few|cached|many|all] [format] */
#include "base/rng.h"
#include "kernels/kern.h"

#include <stdio.h>

#if defined(__x86_64__)

#include <immintrin.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MAX_THREADS = 8, ROUNDS = 5, K = 2880, MANY_ROWS = 5760 };

static const size_t weight_bytes = (size_t)1280 << 20;
static uint8_t *weights;
static int isa;        /* level of the kernels under test */
static int passes = 1; /* over the weights, for a time that can be measured */

static double cpu_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct job {
  void (*body)(struct job *job);
  int thread, threads;
  double seconds;
  const ie_product *product;
  const ie_product_args *args;
  void *scratch;
  uint64_t sink;
} job;

static void *thread_main(void *arg) {
  job *j = arg;
  double start = cpu_s();
  j->body(j);
  j->seconds = cpu_s() - start;
  return NULL;
}

/* The CPU seconds of the slowest of `threads` threads. */
static double run_threads(job *model, int threads) {
  pthread_t id[MAX_THREADS];
  job jobs[MAX_THREADS];
  for (int i = 0; i < threads; i++) {
    jobs[i] = *model;
    jobs[i].thread = i;
    jobs[i].threads = threads;
    if (model->scratch) jobs[i].scratch = (char *)model->scratch + ((size_t)i << 24);
    if (pthread_create(&id[i], NULL, thread_main, &jobs[i]) != 0) exit(1);
  }
  double slowest = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(id[i], NULL);
    if (jobs[i].seconds > slowest) slowest = jobs[i].seconds;
  }
  return slowest;
}

__attribute__((target("avx2"))) static void read_body(job *j) {
  size_t size = weight_bytes / (size_t)j->threads / 4;
  const uint8_t *p = weights + 4 * size * (size_t)j->thread;
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
  for (size_t i = 0; i < size; i += 64)
    for (size_t s = 0; s < 4; s++) {
      const uint8_t *line = p + s * size + i;
      _mm_prefetch((const char *)line + 1024, _MM_HINT_T0);
      sum[s] = _mm256_xor_si256(sum[s], _mm256_loadu_si256((const __m256i *)(const void *)line));
      sum[s] = _mm256_xor_si256(sum[s], _mm256_loadu_si256((const __m256i *)(const void *)(line + 32)));
    }
  __m256i all = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
  j->sink = (uint64_t)_mm256_movemask_epi8(all);
}

enum { PEAK_STEPS = 3000000 };

__attribute__((target("avx512f"))) static void fma_body(job *j) {
  __m512 s[12], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.5f);
  for (int i = 0; i < 12; i++) s[i] = _mm512_set1_ps((float)i);
  for (int n = 0; n < PEAK_STEPS; n++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) s[i] = _mm512_fmadd_ps(s[i], a, b);
  }
  for (int i = 1; i < 12; i++) s[0] = _mm512_add_ps(s[0], s[i]);
  j->sink = (uint64_t)_mm512_reduce_add_ps(s[0]);
}

__attribute__((target("avx2,fma"))) static void fma_256_body(job *j) {
  __m256 s[12], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.5f);
  for (int i = 0; i < 12; i++) s[i] = _mm256_set1_ps((float)i);
  for (int n = 0; n < PEAK_STEPS; n++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) s[i] = _mm256_fmadd_ps(s[i], a, b);
  }
  for (int i = 1; i < 12; i++) s[0] = _mm256_add_ps(s[0], s[i]);
  j->sink = (uint64_t)_mm256_cvtss_f32(s[0]);
}

__attribute__((target("avx512f,avx512vnni"))) static void vnni_body(job *j) {
  __m512i s[12], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8((char)j->thread);
  for (int i = 0; i < 12; i++) s[i] = _mm512_set1_epi32(i);
  for (int n = 0; n < PEAK_STEPS; n++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) s[i] = _mm512_dpbusd_epi32(s[i], a, b);
  }
  for (int i = 1; i < 12; i++) s[0] = _mm512_add_epi32(s[0], s[i]);
  j->sink = (uint64_t)_mm512_reduce_add_epi32(s[0]);
}

/* Each thread takes blocks of rows in turn, as the thread team of the library does. */
static void product_body(job *j) {
  int64_t rows = j->args->w.rows, unit = j->product->row_multiple;
  int64_t block = 96 / unit * unit, blocks = (rows + block - 1) / block;
  int64_t b0 = blocks * j->thread / j->threads, b1 = blocks * (j->thread + 1) / j->threads;
  for (int pass = 0; pass < passes; pass++)
    for (int64_t b = b0; b < b1; b++) {
      int64_t r1 = (b + 1) * block < rows ? (b + 1) * block : rows;
      j->product->run(j->args, b * block, r1, j->scratch);
    }
}

static void *aligned(size_t bytes) {
  void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (p == NULL) exit(1);
  memset(p, 0, (bytes + 63) / 64 * 64);
  return p;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *v) {
  qsort(v, ROUNDS, sizeof *v, compare);
  return v[ROUNDS / 2];
}

static bool is_quantised(int format) {
  return format == IE_W_MXFP4 || format == IE_W_INT8 || format == IE_W_INT4;
}

/* Classes that differ in speed: float weights see the same numbers in all of them. */
static bool worth_measuring(int class, int format) {
  return class == IE_CLASS_F32 || (is_quantised(format) && class != IE_CLASS_F16);
}

static const char *const class_names[] = {"f32", "bf16", "f16", "int8"};
static float *x;

static ie_wview view_of(ie_wformat format, int64_t rows) {
  ie_wview w = {.format = format, .rows = rows, .cols = K};
  w.row_bytes[0] = ie_wformat_row_bytes(format, 0, K);
  w.row_bytes[1] = ie_wformat_row_bytes(format, 1, K);
  w.part[0] = weights;
  w.part[1] = w.row_bytes[1] ? weights + (size_t)rows * w.row_bytes[0] : NULL;
  return w;
}

/* Weights small enough that no sum overflows, whatever the format makes of the bytes: floats get a middle exponent,
 * scale bytes 120 .. 127, f16 scales 2^-8. */
static void fill_weights(ie_wformat format, const ie_wview *w) {
  size_t bytes = (size_t)w->rows * w->row_bytes[0];
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t u = ie_rng_u64(7, 0, i);
    if (format == IE_W_F32) u = (u & 0x807FFFFF807FFFFFu) | 0x3C0000003C000000u;
    if (format == IE_W_F16) u = (u & 0x83FF83FF83FF83FFu) | 0x2000200020002000u;
    if (format == IE_W_BF16) u = (u & 0x807F807F807F807Fu) | 0x3C003C003C003C00u;
    memcpy(weights + i, &u, 8);
  }
  for (size_t i = 0; i < (size_t)w->rows * w->row_bytes[1]; i++)
    weights[bytes + i] = (uint8_t)(format == IE_W_MXFP4 ? 120 + i % 8 : i % 2 ? 0x1C : 0);
}

static void bench(const ie_product *p, const char *kind, ie_class class, ie_wformat format, int64_t T,
                  int threads, int64_t rows) {
  ie_wview w = view_of(format, rows);
  void *packed = aligned(p->pack_bytes(T, K));
  float *y = aligned((size_t)(T * rows) * sizeof(float));
  double start = cpu_s();
  p->pack(packed, x, K, NULL, T, 0, T, K);
  double pack_s = cpu_s() - start;
  ie_product_args args = {.w = w, .packed = packed, .T = T, .y = y, .y_stride = rows};
  void *scratch = aligned((size_t)threads << 24);
  job product_job = {.body = product_body, .product = p, .args = &args, .scratch = scratch};
  bool few = kind[0] == 'f';
  bool integers = class == IE_CLASS_INT8 && is_quantised(format);
  job limit_job = {.body = few                   ? read_body
                           : isa < IE_ISA_AVX512 ? fma_256_body
                           : integers            ? vnni_body
                                                 : fma_body};
  double bytes = (double)(w.row_bytes[0] + w.row_bytes[1]) * (double)rows * passes;
  double flop = 2.0 * (double)T * (double)rows * K * passes;
  double limit_flop = (limit_job.body == vnni_body  ? 128.0
                       : limit_job.body == fma_body ? 32.0
                                                    : 16.0) *
                      12 * PEAK_STEPS * threads;
  double rate[ROUNDS], limit[ROUNDS], share[ROUNDS];
  for (int i = 0; i < ROUNDS; i++) {
    limit[i] = (few ? (double)weight_bytes : limit_flop) / run_threads(&limit_job, threads) * 1e-9;
    rate[i] = (few ? bytes : flop) / run_threads(&product_job, threads) * 1e-9;
    share[i] = rate[i] / limit[i];
  }
  printf("%-4s %-4s x %-5s T=%-4ld threads=%d  %8.1f %s of %8.1f  %5.1f%%   %7.1f GFLOP/s  pack %.1f us\n",
         kind, class_names[class], ie_wformat_describe(format)->name, (long)T, threads, median(rate),
         few ? "GB/s" : "GF/s", median(limit), 100 * median(share), flop / bytes * (few ? median(rate) : 0),
         1e6 * pack_s);
  fflush(stdout);
  free(scratch);
  free(y);
  free(packed);
}

int main(int argc, char **argv) {
  isa = argc > 1 ? ie_isa_from_name(argv[1]) : (int)ie_isa_best();
  int threads = argc > 2 ? atoi(argv[2]) : 1;
  const char *what = argc > 3 ? argv[3] : "all", *only = argc > 4 ? argv[4] : NULL;
  if (isa < 0 || isa > (int)ie_isa_best() || threads < 1 || threads > MAX_THREADS) return 2;
  ie_kernels kernels;
  ie_kernels_fill(&kernels, (ie_isa)isa);
  weights = mmap(NULL, weight_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (weights == MAP_FAILED) return 1;
  x = aligned((size_t)1024 * K * sizeof(float));
  for (size_t i = 0; i < (size_t)1024 * K; i++) x[i] = ie_rng_f32(1, 0, i) - 0.5f;
  static const int64_t few_tok[] = {1, 2, 4}, many_tok[] = {8, 16, 32, 64, 512};
  for (int format = 0; format < IE_W_COUNT; format++) {
    if (only && strcmp(only, ie_wformat_describe((ie_wformat)format)->name) != 0) continue;
    ie_wview one = view_of((ie_wformat)format, 1);
    bool cached = strcmp(what, "cached") == 0;
    passes = cached ? 512 : 1;
    size_t size = cached ? (size_t)threads << 20 : weight_bytes - 4096;
    int64_t rows = (int64_t)(size / (one.row_bytes[0] + one.row_bytes[1])) / 96 * 96;
    ie_wview all = view_of((ie_wformat)format, rows), some = view_of((ie_wformat)format, MANY_ROWS);
    if (strcmp(what, "many") != 0) {
      if (cached)
        memset(weights, 1, weight_bytes); /* pages of its own, so that the ceiling is the memory's */
      fill_weights((ie_wformat)format, &all);
      for (int class = 0; class < IE_CLASS_COUNT; class ++)
        for (int i = 0; i < 3; i++)
          if (worth_measuring(class, format))
            bench(&kernels.few[class][format], "few", (ie_class) class, (ie_wformat)format, few_tok[i],
                  threads, rows);
    }
    if (cached || strcmp(what, "few") == 0) continue;
    fill_weights((ie_wformat)format, &some);
    for (int class = 0; class < IE_CLASS_COUNT; class ++)
      for (int i = 0; i < 5; i++) {
        if (!worth_measuring(class, format)) continue;
        if (i < 2) /* where few and many meet */
          bench(&kernels.few[class][format], "Few", (ie_class) class, (ie_wformat)format, many_tok[i],
                threads, MANY_ROWS);
        if (kernels.many[class][format].run != NULL)
          bench(&kernels.many[class][format], "many", (ie_class) class, (ie_wformat)format, many_tok[i],
                threads, MANY_ROWS);
      }
  }
  return 0;
}

#else

int main(void) {
  fputs("this processor has no vector kernels to measure\n", stderr);
  return 2;
}

#endif
