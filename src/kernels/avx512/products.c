#include "kernels/avx512/products.h"

#define DEFINE_RUN(name)                                                                                     \
  static void run_##name(const ie_product_args *args, int64_t r0, int64_t r1, void *scratch) {               \
    (void)scratch;                                                                                           \
    ie_few_run(&ie_few_##name##__avx512, args, r0, r1);                                                      \
  }
DEFINE_RUN(f32)
DEFINE_RUN(f16)
DEFINE_RUN(bf16)
DEFINE_RUN(mxfp4)
DEFINE_RUN(int8)
DEFINE_RUN(int4)
DEFINE_RUN(int8_mxfp4)
DEFINE_RUN(int8_int8)
DEFINE_RUN(int8_int4)
DEFINE_RUN(fixed_mxfp4)
DEFINE_RUN(fixed_int4)

/* Where few and many meet, docs/speed-notes/products.md. */
static int64_t many_min_tok(int class, int format) {
  if (class == IE_CLASS_INT8 && format == IE_W_INT8) return 9;
  return format == IE_W_MXFP4 || format == IE_W_INT8 || format == IE_W_INT4 ? 14 : 24;
}

void ie_kernels_fill_products__avx512(ie_kernels *out) {
  static void (*const run[IE_W_COUNT])(const ie_product_args *, int64_t, int64_t, void *) = {
      [IE_W_F32] = run_f32,     [IE_W_F16] = run_f16,   [IE_W_BF16] = run_bf16,
      [IE_W_MXFP4] = run_mxfp4, [IE_W_INT8] = run_int8, [IE_W_INT4] = run_int4};
  for (int class = 0; class < IE_CLASS_COUNT; class ++)
    for (int format = 0; format < IE_W_COUNT; format++) {
      const float_packs *packs = &ie_few_packs__avx512[format];
      out->few[class][format] = (ie_product){packs->bytes, packs->of_class[class], NULL, run[format], 1, 1};
      out->many[class][format] = ie_many_products__avx512[class][format];
      out->many_min_tok[class][format] = many_min_tok(class, format);
    }
  ie_product(*few)[IE_W_COUNT] = out->few;
  few[IE_CLASS_BF16][IE_W_MXFP4] = (ie_product){
      ie_few_fixed_pack_bytes__avx512, ie_pack_few_fixed_bf16_mxfp4__avx512, NULL, run_fixed_mxfp4, 1, 1};
  few[IE_CLASS_F16][IE_W_MXFP4] = (ie_product){
      ie_few_fixed_pack_bytes__avx512, ie_pack_few_fixed_f16_mxfp4__avx512, NULL, run_fixed_mxfp4, 1, 1};
  few[IE_CLASS_BF16][IE_W_INT4] = (ie_product){
      ie_few_fixed_pack_bytes__avx512, ie_pack_few_fixed_bf16_int4__avx512, NULL, run_fixed_int4, 1, 1};
  few[IE_CLASS_F16][IE_W_INT4] = (ie_product){
      ie_few_fixed_pack_bytes__avx512, ie_pack_few_fixed_f16_int4__avx512, NULL, run_fixed_int4, 1, 1};
  few[IE_CLASS_INT8][IE_W_MXFP4] = (ie_product){
      ie_few_int8_pack_bytes__avx512, ie_pack_few_int8_mxfp4__avx512, NULL, run_int8_mxfp4, 1, 1};
  few[IE_CLASS_INT8][IE_W_INT4] =
      (ie_product){ie_few_int8_pack_bytes__avx512, ie_pack_few_int8_int4__avx512, NULL, run_int8_int4, 1, 1};
  few[IE_CLASS_INT8][IE_W_INT8] = (ie_product){
      ie_few_int8_int8_pack_bytes__avx512, ie_pack_few_int8_int8__avx512, NULL, run_int8_int8, 1, 1};
  out->many[IE_CLASS_INT8][IE_W_MXFP4] = ie_many_int8_mxfp4__avx512;
  out->many[IE_CLASS_INT8][IE_W_INT8] = ie_many_int8_int8__avx512;
  out->many[IE_CLASS_INT8][IE_W_INT4] = ie_many_int8_int4__avx512;
  out->many_as_few[IE_CLASS_INT8][IE_W_MXFP4] = true;
  out->many_as_few[IE_CLASS_INT8][IE_W_INT4] = true;
}
