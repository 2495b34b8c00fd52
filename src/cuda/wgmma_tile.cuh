/* Operand B of wgmma in shared memory: tokens of 64 numbers of bf16 each, a token a row of 128 bytes, in the layout that
 * the PTX manual calls K-major with 128-byte swizzle. Groups of 8 tokens follow each other, 1024 bytes each, and the 16
 * bytes numbered i of a token stand in the place i ^ (token % 8), so that a column of 16-byte pieces meets all banks.
 *
 * Sources of the bits: the PTX manual, "Shared Memory Matrix Layout" and "Matrix Descriptor Format"; the same in CuTe's
 * mma_sm90_desc.hpp. */
#ifndef CLOCHER_CUDA_WGMMA_TILE_CUH
#define CLOCHER_CUDA_WGMMA_TILE_CUH

#include "cuda/wgmma.cuh"

/* Tiles must begin at multiples of TILE_ALIGN: the swizzle takes bits 7 to 9 of the address for the token. */
enum {
  TILE_COLS = 64,
  TILE_TOKEN_BYTES = 2 * TILE_COLS,
  TILE_ALIGN = 8 * TILE_TOKEN_BYTES,
  TILE_STEPS = TILE_COLS / 16, /* of one wgmma each */
  TILE_STEP_BYTES = 32
};

/* Where 16 bytes of a token stand in its row: numbers 8 piece to 8 piece + 7. */
static __device__ __forceinline__ int tile_piece(int token, int piece) {
  return (piece ^ (token & 7)) * 16;
}

/* Bits 0 to 13: the address; 16 to 29: unused by this layout, 1 as CuTe has it; 32 to 45: from one 8 tokens to the next;
 * 62: the swizzle of 128 bytes. Addresses and offsets are in units of 16 bytes. */
static __device__ __forceinline__ uint64_t tile_descriptor(uint32_t address) {
  return (uint64_t)(address >> 4 & 0x3FFF) | 1ull << 16 | (uint64_t)(TILE_ALIGN >> 4) << 32 | 1ull << 62;
}
/* The same so many bytes further on: another tile, or columns 16 i to 16 i + 15 of this one, 32 i bytes on: the swizzle is of
 * the address that a number has, so the start may move within the row. */
static __device__ __forceinline__ uint64_t tile_further(uint64_t descriptor, int bytes) {
  return descriptor + (uint32_t)(bytes >> 4);
}

/* The first place in dynamic shared memory where a tile may stand: at most TILE_ALIGN - 16 bytes further on. */
static __device__ __forceinline__ unsigned char *tile_first(unsigned char *shared) {
  return shared + (TILE_ALIGN - shared_address(shared) % TILE_ALIGN) % TILE_ALIGN;
}

#endif
