/* The emulator's machine: one kernel at a time, block after block. */
#ifndef CLOCHER_TESTS_CUDA_EMULATE_FIBERS_H
#define CLOCHER_TESTS_CUDA_EMULATE_FIBERS_H

#include <cuda_runtime.h>

#include <functional>

/* Runs body as every thread of every block. */
cudaError_t emu_run(const dim3 &blocks, const dim3 &threads, size_t shared,
                    const std::function<void()> &body);
void emu_order_set(unsigned int order);
void emu_copy_async(void *to, const void *from, bool valid);
void emu_copy_commit();
void emu_copy_wait(int groups);

#endif
