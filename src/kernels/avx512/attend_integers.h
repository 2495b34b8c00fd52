/* A tile of int8 keys and values for eight rows that see all of it, in integers: twice as fast as attend_eight.h, which
 * converts every number to f32. Included by attend_body.h alone, where ie_attend_args.integers allows it.
 *
 * The scales of the tile's channels are multiplied into the queries, and those of its positions into the weights, where
 * there are 8 rows to multiply and not 64. Each row then becomes 16-bit integers of one quantum,
 *
 *   Q[d] = rint(q[d] k_scale[d] / quantum),  |Q| <= 32512     logit[s] = scale quantum sum_d Q[d] k[s, d]
 *   P[s] = rint(p[s] v_scale[s] / quantum'), 0 <= P <= 65280  acc[e] = keep acc[e] + quantum' sum_s P[s] v[s, e]
 *
 * in two base-256 digits, so that VNNI multiplies four numbers a lane. The sums are exact: |Q| 127 D < 2^29 for D = 128.
 * What is lost is at most half a quantum of a query's or a weight's number, 2^-16 and 2^-17 of the row's largest; int8
 * itself loses 2^-8 of keys and values. */
#ifndef CLOCHER_KERNELS_AVX512_ATTEND_INTEGERS_H
#define CLOCHER_KERNELS_AVX512_ATTEND_INTEGERS_H

enum {
  INTEGERS_KEYS = 16, /* chains of logits: their sums and what they need fit 32 registers */
  FOURS = TILE / 4    /* groups of four keys: one lane of VNNI */
};

/* Vectors whose 128 bits L hold, for rows 2L and 2L + 1, four numbers each of the lower digit and then of the upper one. */
typedef struct integers_scratch {
  __m512i q[128 / 4];                 /* of numbers 4 i to 4 i + 3 of the queries; signed digits */
  __m512i p[FOURS];                   /* of keys 4 i to 4 i + 3; unsigned digits */
  _Alignas(64) float x[128 * EIGHT];  /* numbers on their way: (n / 2, EIGHT, 2) */
  _Alignas(64) uint8_t k[TILE * 128]; /* keys + 128, without gaps */
  __m512i
      v[FOURS * 128 / 16]; /* values, four keys a lane: (FOURS, D / 64, 4), dword t of 128 bits L of vector i:
                                         number 16 L + 4 i + t of 64 */
} integers_scratch;

/* Two vectors (EIGHT, 2) of 16-bit integers as digits. */
INLINE __m512i integers_digits(__m512i words) {
  const __m512i order =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 8, 10, 4, 6, 12, 14, 1, 3, 9, 11, 5, 7, 13, 15));
  return _mm512_shuffle_epi8(words, order);
}

/* The largest of each row, in both of its lanes; bits of floats that are not negative are ordered as integers are, NaN last. */
INLINE vf integers_most(__m512i bits) {
  return _mm512_castsi512_ps(_mm512_max_epu32(bits, _mm512_shuffle_epi32(bits, _MM_PERM_CDAB)));
}

/* Digits of the queries times the tile's scales; *quantum of each row; *start: -128 times the digits' sums, which the 128 in
 * the keys adds. False where a row cannot be written so: nothing but zeros, or a NaN. */
INLINE bool integers_queries(const eight_scratch *eight, integers_scratch *s, vf *quantum, __m512i *start,
                             int64_t D) {
  const __m512i size = _mm512_set1_epi32(0x7FFFFFFF);
  __m512i bits = _mm512_setzero_si512();
  for (int64_t i = 0; i < D / 2; i++) {
    vf even = vf_load(eight->q + 2 * i * VF_LANES), odd = vf_load(eight->q + (2 * i + 1) * VF_LANES);
    vf x = vf_mul(_mm512_mask_blend_ps(0xAAAA, even, odd), vf_load_eighth(eight->k_scale + 2 * i));
    vf_store(s->x + i * VF_LANES, x);
    bits = _mm512_max_epu32(bits, _mm512_and_si512(_mm512_castps_si512(x), size));
  }
  vf most = integers_most(bits);
  if ((_mm512_cmp_ps_mask(most, vf_set1(1e-30f), _CMP_GT_OQ) &
       _mm512_cmp_ps_mask(most, vf_set1(1e30f), _CMP_LT_OQ)) != 0xFFFF)
    return false;
  vf inverse = vf_div(vf_set1(32512.0f), most);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < D / 4; i++) {
    __m512i a = _mm512_cvtps_epi32(vf_mul(vf_load(s->x + 2 * i * VF_LANES), inverse));
    __m512i b = _mm512_cvtps_epi32(vf_mul(vf_load(s->x + (2 * i + 1) * VF_LANES), inverse));
    /* the upper digit is that of Q + 128, the lower one what is left: -128 to 127 */
    __m512i words = _mm512_add_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(128));
    s->q[i] = integers_digits(_mm512_xor_si512(words, _mm512_set1_epi16(128)));
    sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8((char)-128), s->q[i]);
  }
  *start = _mm512_sub_epi32(_mm512_setzero_si512(), sum);
  *quantum = vf_mul(most, vf_set1(1.0f / 32512.0f));
  return true;
}

INLINE void integers_keys(const ie_attend_args *args, int64_t s0, uint8_t *out, int64_t D) {
  for (int64_t s = s0; s < s0 + TILE; s++, out += D) {
    const char *key = row_address(args, args->k, s);
    for (int64_t d = 0; d < D; d += 64)
      _mm512_storeu_si512(out + d,
                          _mm512_xor_si512(_mm512_loadu_si512(key + d), _mm512_set1_epi8((char)-128)));
  }
}

INLINE __m512i four_bytes(const void *from) {
  int32_t four;
  memcpy(&four, from, sizeof four);
  return _mm512_set1_epi32(four);
}

/* The sums of two digits. */
INLINE vf integers_float(__m512i low, __m512i high) {
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
}

/* Logits of the tile to p, (SETS, EIGHT, KEYS). */
INLINE void integers_logits(const integers_scratch *s, __m512i start, vf factor, const char *next, float *p,
                            int64_t D) {
  const uint8_t *keys = s->k;
  for (int64_t at = 0; at < TILE; at += INTEGERS_KEYS, keys += INTEGERS_KEYS * D) {
    __m512i sum[INTEGERS_KEYS];
    UNROLL for (int c = 0; c < INTEGERS_KEYS; c++) sum[c] = start;
    for (int64_t i = 0; i < D / 4; i++, next += 64) {
      _mm_prefetch(next, _MM_HINT_T1);
      __m512i q = s->q[i];
      UNROLL for (int c = 0; c < INTEGERS_KEYS; c++) sum[c] =
          _mm512_dpbusd_epi32(sum[c], four_bytes(keys + c * D + 4 * i), q);
    }
    UNROLL for (int c = 0; c < INTEGERS_KEYS; c += 2) {
      __m512i low = _mm512_unpacklo_epi32(sum[c], sum[c + 1]);
      __m512i high = _mm512_unpackhi_epi32(sum[c], sum[c + 1]);
      vf_store(p + (at + c) * EIGHT, vf_mul(integers_float(low, high), factor));
    }
  }
}

/* Digits of the weights times the values' scales; the quantum of each row, in both of its lanes. */
INLINE vf integers_weights(const eight_scratch *eight, integers_scratch *s) {
  __m512i bits = _mm512_setzero_si512();
  for (int64_t i = 0; i < SETS; i++) {
    vf x = vf_mul(vf_load(eight->p + i * VF_LANES), vf_load_eighth(eight->v_scale + 2 * i));
    vf_store(s->x + i * VF_LANES, x);
    bits = _mm512_max_epu32(bits, _mm512_castps_si512(x));
  }
  vf most = integers_most(bits);
  vf inverse =
      _mm512_maskz_div_ps(_mm512_cmp_ps_mask(most, vf_set1(1e-30f), _CMP_GT_OQ), vf_set1(65280.0f), most);
  for (int64_t i = 0; i < FOURS; i++) {
    __m512i a = _mm512_cvtps_epi32(vf_mul(vf_load(s->x + 2 * i * VF_LANES), inverse));
    __m512i b = _mm512_cvtps_epi32(vf_mul(vf_load(s->x + (2 * i + 1) * VF_LANES), inverse));
    s->p[i] = integers_digits(_mm512_packus_epi32(a, b));
  }
  return vf_mul(most, vf_set1(1.0f / 65280.0f));
}

INLINE void integers_values_load(const ie_attend_args *args, int64_t s0, __m512i *out, int64_t D) {
  for (int64_t i = 0; i < FOURS; i++) {
    const char *row = row_address(args, args->v, s0 + 4 * i);
    for (int64_t d = 0; d < D; d += 64, out += 4) {
      __m512i r[4];
      UNROLL for (int j = 0; j < 4; j++) r[j] = _mm512_loadu_si512(row + j * args->kv_stride + d);
      __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
      __m512i c = _mm512_unpacklo_epi8(r[2], r[3]), e = _mm512_unpackhi_epi8(r[2], r[3]);
      out[0] = _mm512_unpacklo_epi16(a, c);
      out[1] = _mm512_unpackhi_epi16(a, c);
      out[2] = _mm512_unpacklo_epi16(b, e);
      out[3] = _mm512_unpackhi_epi16(b, e);
    }
  }
}

/* acc = keep acc + quantum sum for the 8 numbers at `acc`. */
INLINE void integers_add(float *acc, __m256 sum, float keep, float quantum) {
  __m256 old = _mm256_mul_ps(_mm256_loadu_ps(acc), _mm256_set1_ps(keep));
  _mm256_storeu_ps(acc, _mm256_fmadd_ps(sum, _mm256_set1_ps(quantum), old));
}

typedef struct integers_place {
  int64_t n, d, half; /* rows n to n + 3; numbers d to d + 63, of which vectors 2 half and 2 half + 1 */
} integers_place;

INLINE void integers_values(const ie_attend_args *args, const integers_scratch *s, const char *next,
                            const float *keep, const float *quantum, integers_place at, int64_t D) {
  static const int32_t orders[2][16] = {{0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23},
                                        {8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31}};
  __m512i sum[4][2][2];
  UNROLL for (int r = 0; r < 4; r++) UNROLL for (int digit = 0; digit < 2; digit++)
      UNROLL for (int c = 0; c < 2; c++) sum[r][digit][c] = _mm512_setzero_si512();
  const __m512i *v = s->v + at.d / 16 + 2 * at.half;
  const char *p = (const char *)s->p + 8 * at.n; /* 16 bytes for two rows */
  for (int64_t i = 0; i < FOURS; i++, v += D / 16, p += sizeof s->p[0], next += 64) {
    _mm_prefetch(next, _MM_HINT_T1);
    __m512i v0 = v[0], v1 = v[1];
    UNROLL for (int r = 0; r < 4; r++) {
      UNROLL for (int digit = 0; digit < 2; digit++) {
        __m512i weights = four_bytes(p + 16 * (r / 2) + 8 * digit + 4 * (r % 2));
        sum[r][digit][0] = _mm512_dpbusd_epi32(sum[r][digit][0], weights, v0);
        sum[r][digit][1] = _mm512_dpbusd_epi32(sum[r][digit][1], weights, v1);
      }
    }
  }
  UNROLL for (int r = 0; r < 4; r++) {
    vf a = integers_float(sum[r][0][0], sum[r][1][0]), b = integers_float(sum[r][0][1], sum[r][1][1]);
    int64_t n = at.n + r;
    UNROLL for (int o = 0; o < 2; o++) {
      vf two = _mm512_permutex2var_ps(a, _mm512_loadu_si512(orders[o]), b);
      float *acc = args->acc + n * D + at.d + 32 * o + 8 * at.half;
      integers_add(acc, _mm512_castps512_ps256(two), keep[n], quantum[n]);
      integers_add(acc + 16, _mm512_extractf32x8_ps(two, 1), keep[n], quantum[n]);
    }
  }
}

INLINE bool integers_tile_as(const ie_attend_args *args, int64_t s0, int64_t then, eight_scratch *eight,
                             integers_scratch *s, int64_t D) {
  vf quantum;
  __m512i start;
  float keep[EIGHT], quanta[EIGHT];
  eight_scales(args, s0, eight, D);
  for (int64_t i = 0; i < TILE; i += VF_LANES)
    if (_mm512_cmp_ps_mask(vf_load(eight->v_scale + i), vf_set1(1e30f), _CMP_LT_OQ) != 0xFFFF) return false;
  if (!integers_queries(eight, s, &quantum, &start, D)) return false;
  integers_keys(args, s0, s->k, D);
  integers_logits(s, start, vf_mul(quantum, vf_set1(args->scale)), row_address(args, args->k, then), eight->p,
                  D);
  eight_softmax(args, eight->p, keep);
  vf_store_rows(quanta, integers_weights(eight, s));
  integers_values_load(args, s0, s->v, D);
  const char *next = row_address(args, args->v, then);
  for (int64_t n = 0; n < EIGHT; n += 4)
    for (int64_t d = 0; d < D; d += 64)
      for (int64_t half = 0; half < 2; half++, next += 64 * FOURS)
        integers_values(args, s, next, keep, quanta, (integers_place){n, d, half}, D);
  return true;
}

/* False, and nothing done, where this way cannot take the tile. */
static bool integers_tile(const ie_attend_args *args, int64_t s0, int64_t then, eight_scratch *eight) {
  integers_scratch s;
  if (args->D == 64) return integers_tile_as(args, s0, then, eight, &s, /*D=*/64);
  return integers_tile_as(args, s0, then, eight, &s, /*D=*/128);
}

#endif
