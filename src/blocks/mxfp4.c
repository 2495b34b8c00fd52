#include "blocks/mxfp4.h"

#include "base/float.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

static_assert(sizeof(float) == 4, "tables hold IEEE binary32");
static_assert(IE_MXFP4_COLS == 2 * IE_MXFP4_BYTES, "two columns a byte");

/* Under a larger scale byte the values from 4 on are infinite. */
enum { MAX_FINITE_BYTE = 252 };

const float ie_mxfp4_values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/* clang-format off */
const float ie_mxfp4_scales[256] = {
    0x1p-127f, 0x1p-126f, 0x1p-125f, 0x1p-124f, 0x1p-123f, 0x1p-122f, 0x1p-121f, 0x1p-120f,
    0x1p-119f, 0x1p-118f, 0x1p-117f, 0x1p-116f, 0x1p-115f, 0x1p-114f, 0x1p-113f, 0x1p-112f,
    0x1p-111f, 0x1p-110f, 0x1p-109f, 0x1p-108f, 0x1p-107f, 0x1p-106f, 0x1p-105f, 0x1p-104f,
    0x1p-103f, 0x1p-102f, 0x1p-101f, 0x1p-100f, 0x1p-99f, 0x1p-98f, 0x1p-97f, 0x1p-96f,
    0x1p-95f, 0x1p-94f, 0x1p-93f, 0x1p-92f, 0x1p-91f, 0x1p-90f, 0x1p-89f, 0x1p-88f,
    0x1p-87f, 0x1p-86f, 0x1p-85f, 0x1p-84f, 0x1p-83f, 0x1p-82f, 0x1p-81f, 0x1p-80f,
    0x1p-79f, 0x1p-78f, 0x1p-77f, 0x1p-76f, 0x1p-75f, 0x1p-74f, 0x1p-73f, 0x1p-72f,
    0x1p-71f, 0x1p-70f, 0x1p-69f, 0x1p-68f, 0x1p-67f, 0x1p-66f, 0x1p-65f, 0x1p-64f,
    0x1p-63f, 0x1p-62f, 0x1p-61f, 0x1p-60f, 0x1p-59f, 0x1p-58f, 0x1p-57f, 0x1p-56f,
    0x1p-55f, 0x1p-54f, 0x1p-53f, 0x1p-52f, 0x1p-51f, 0x1p-50f, 0x1p-49f, 0x1p-48f,
    0x1p-47f, 0x1p-46f, 0x1p-45f, 0x1p-44f, 0x1p-43f, 0x1p-42f, 0x1p-41f, 0x1p-40f,
    0x1p-39f, 0x1p-38f, 0x1p-37f, 0x1p-36f, 0x1p-35f, 0x1p-34f, 0x1p-33f, 0x1p-32f,
    0x1p-31f, 0x1p-30f, 0x1p-29f, 0x1p-28f, 0x1p-27f, 0x1p-26f, 0x1p-25f, 0x1p-24f,
    0x1p-23f, 0x1p-22f, 0x1p-21f, 0x1p-20f, 0x1p-19f, 0x1p-18f, 0x1p-17f, 0x1p-16f,
    0x1p-15f, 0x1p-14f, 0x1p-13f, 0x1p-12f, 0x1p-11f, 0x1p-10f, 0x1p-9f, 0x1p-8f,
    0x1p-7f, 0x1p-6f, 0x1p-5f, 0x1p-4f, 0x1p-3f, 0x1p-2f, 0x1p-1f, 0x1p0f,
    0x1p1f, 0x1p2f, 0x1p3f, 0x1p4f, 0x1p5f, 0x1p6f, 0x1p7f, 0x1p8f,
    0x1p9f, 0x1p10f, 0x1p11f, 0x1p12f, 0x1p13f, 0x1p14f, 0x1p15f, 0x1p16f,
    0x1p17f, 0x1p18f, 0x1p19f, 0x1p20f, 0x1p21f, 0x1p22f, 0x1p23f, 0x1p24f,
    0x1p25f, 0x1p26f, 0x1p27f, 0x1p28f, 0x1p29f, 0x1p30f, 0x1p31f, 0x1p32f,
    0x1p33f, 0x1p34f, 0x1p35f, 0x1p36f, 0x1p37f, 0x1p38f, 0x1p39f, 0x1p40f,
    0x1p41f, 0x1p42f, 0x1p43f, 0x1p44f, 0x1p45f, 0x1p46f, 0x1p47f, 0x1p48f,
    0x1p49f, 0x1p50f, 0x1p51f, 0x1p52f, 0x1p53f, 0x1p54f, 0x1p55f, 0x1p56f,
    0x1p57f, 0x1p58f, 0x1p59f, 0x1p60f, 0x1p61f, 0x1p62f, 0x1p63f, 0x1p64f,
    0x1p65f, 0x1p66f, 0x1p67f, 0x1p68f, 0x1p69f, 0x1p70f, 0x1p71f, 0x1p72f,
    0x1p73f, 0x1p74f, 0x1p75f, 0x1p76f, 0x1p77f, 0x1p78f, 0x1p79f, 0x1p80f,
    0x1p81f, 0x1p82f, 0x1p83f, 0x1p84f, 0x1p85f, 0x1p86f, 0x1p87f, 0x1p88f,
    0x1p89f, 0x1p90f, 0x1p91f, 0x1p92f, 0x1p93f, 0x1p94f, 0x1p95f, 0x1p96f,
    0x1p97f, 0x1p98f, 0x1p99f, 0x1p100f, 0x1p101f, 0x1p102f, 0x1p103f, 0x1p104f,
    0x1p105f, 0x1p106f, 0x1p107f, 0x1p108f, 0x1p109f, 0x1p110f, 0x1p111f, 0x1p112f,
    0x1p113f, 0x1p114f, 0x1p115f, 0x1p116f, 0x1p117f, 0x1p118f, 0x1p119f, 0x1p120f,
    0x1p121f, 0x1p122f, 0x1p123f, 0x1p124f, 0x1p125f, 0x1p126f, 0x1p127f, NAN,
};
/* clang-format on */

void ie_mxfp4_decode_block(float out[IE_MXFP4_COLS], const uint8_t block[IE_MXFP4_BYTES], uint8_t scale) {
  float s = ie_mxfp4_scales[scale];
  for (size_t i = 0; i < IE_MXFP4_BYTES; i++) {
    out[2 * i] = ie_mxfp4_values[block[i] & 15] * s;
    out[2 * i + 1] = ie_mxfp4_values[block[i] >> 4] * s;
  }
}

/* The magnitude code nearest to a >= 0: midpoints go to the neighbour whose mantissa bit is 0 (0, 1, 2, 4). */
static inline unsigned encode_magnitude(float a) {
  return (unsigned)(a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) +
         (a > 5.0f);
}

/* 2^-(byte - 127) for byte <= 252: a normal float. */
static inline float scale_inverse(int byte) {
  return ie_f32_from_bits((uint32_t)(254 - byte) << 23);
}

/* The product is exact, or so small that it is rounded to 0 under any scale: |in| * inverse < 16. */
static void encode_under(uint8_t codes[IE_MXFP4_COLS], const float in[IE_MXFP4_COLS], int byte) {
  float inverse = scale_inverse(byte);
  for (size_t c = 0; c < IE_MXFP4_COLS; c++)
    codes[c] = (uint8_t)(encode_magnitude(fabsf(in[c]) * inverse) | ie_f32_bits(in[c]) >> 31 << 3);
}

/* Sum of squared errors in units of the scale's square. */
static double error_under(const uint8_t codes[IE_MXFP4_COLS], const float in[IE_MXFP4_COLS], int byte) {
  double sum = 0, inverse = (double)scale_inverse(byte);
  for (size_t c = 0; c < IE_MXFP4_COLS; c++) {
    double d = (double)in[c] * inverse - (double)ie_mxfp4_values[codes[c]];
    sum += d * d;
  }
  return sum;
}

/* Puts a neighbour of `byte` in its place when it is nearer. */
static void encode_search(uint8_t codes[IE_MXFP4_COLS], int *byte, const float in[IE_MXFP4_COLS]) {
  int ocp = *byte;
  double least = error_under(codes, in, ocp);
  for (int step = -1; step <= 1; step += 2) {
    int other = ocp + step;
    if (other < 0 || other > MAX_FINITE_BYTE) continue;
    uint8_t tried[IE_MXFP4_COLS];
    encode_under(tried, in, other);
    double error = error_under(tried, in, other) * (step < 0 ? 0.25 : 4.0); /* in units of OCP's scale */
    if (error >= least) continue;
    least = error;
    *byte = other;
    memcpy(codes, tried, sizeof tried);
  }
}

bool ie_mxfp4_encode_block(uint8_t block[IE_MXFP4_BYTES], uint8_t *scale, const float in[IE_MXFP4_COLS],
                           ie_mxfp4_rule rule) {
  uint32_t largest = 0; /* bits of magnitudes are ordered as the magnitudes are */
  for (size_t c = 0; c < IE_MXFP4_COLS; c++) {
    uint32_t bits = ie_f32_bits(in[c]) & 0x7FFFFFFFu;
    largest = bits > largest ? bits : largest;
  }
  if (largest >= 0x7F800000u) return false;
  /* The exponent field is floor(log2) + 127; of a denormal number it is 0, and byte 0 is what is left. */
  int byte = largest == 0 ? 127 : (int)(largest >> 23) - 2;
  if (byte < 0) byte = 0;
  uint8_t codes[IE_MXFP4_COLS];
  encode_under(codes, in, byte);
  if (rule == IE_MXFP4_SEARCH) encode_search(codes, &byte, in);
  *scale = (uint8_t)byte;
  for (size_t i = 0; i < IE_MXFP4_BYTES; i++) block[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
  return true;
}

int64_t ie_mxfp4_encode(uint8_t *blocks, uint8_t *scales, const float *in, int64_t count,
                        ie_mxfp4_rule rule) {
  for (int64_t b = 0; b < count / IE_MXFP4_COLS; b++)
    if (!ie_mxfp4_encode_block(blocks + b * IE_MXFP4_BYTES, &scales[b], in + b * IE_MXFP4_COLS, rule))
      return b;
  return -1;
}
