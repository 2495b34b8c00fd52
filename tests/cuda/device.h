/* Device memory with guards, for tests of kernels; the same tests run on a GPU and in the emulator. */
#ifndef CLOCHER_TESTS_CUDA_DEVICE_H
#define CLOCHER_TESTS_CUDA_DEVICE_H

#include "cuda/kernels.h"

/* The queue of device 0; the test fails when there is none. */
const ie_cuda_queue *device_queue(void);
/* Which products take wgmma from now on. False: there is none here, and it stays off. */
bool device_wgmma(ie_cuda_wgmma wanted);
/* `bytes` of device memory, 256-byte aligned, between guards: a copy of `from`, or NaNs for NULL. */
void *device_new(const void *from, size_t bytes);
/* Waits for the queue and copies back. */
void device_read(void *to, const void *from, size_t bytes);
/* A copy on the host, malloc'd. */
float *device_floats(const void *from, int64_t n);
/* Checks all guards and frees everything that device_new gave. */
void device_free_all(void);
/* Fails the test unless a launch returned cudaSuccess. */
void device_ok(cudaError_t status, const char *what);
/* Runs a group of tests for several orders of threads in the emulator, once on a GPU. */
typedef int device_group_fn(void);
int device_run(device_group_fn *group);

/* (n) numbers from -scale to scale, malloc'd; a function of the seed. */
float *floats_random(uint64_t seed, int64_t n, float scale);
int32_t *ints_new(int64_t n, int32_t first, int32_t step);
/* Fails unless |found - expected| <= tolerance * (the largest |expected|, at least `least`), and all is finite. */
void floats_close(const float *found, const float *expected, int64_t n, double tolerance, const char *what);
/* No fault yet. */
ie_cuda_check check_new(int where);
ie_cuda_fault check_read(ie_cuda_check check);

#endif
