/* The emulator's machine: one kernel at a time, block after block. */
#ifndef CLOCHER_TESTS_CUDA_EMULATE_FIBERS_H
#define CLOCHER_TESTS_CUDA_EMULATE_FIBERS_H

#include <cuda_runtime.h>

#include <functional>

/* Runs body as every thread of every block. */
cudaError_t emu_run(const dim3 &blocks, const dim3 &threads, size_t shared,
                    const std::function<void()> &body);
void emu_order_set(unsigned int order);
unsigned int emu_order();
[[noreturn]] void emu_die(const char *what);
void emu_copy_async(void *to, const void *from, bool valid);
void emu_copy_commit();
void emu_copy_wait(int groups);

/* wgmma.cpp is told when a block begins and ends (with its dynamic shared memory) and when a thread does, and of 16 bytes of
 * shared memory: a copy to them was begun; it has arrived. */
void emu_wgmma_begin(unsigned int threads, size_t shared);
void emu_wgmma_thread_end();
void emu_wgmma_end();
void emu_wgmma_overwritten(const void *to);
void emu_wgmma_arrived(const void *to);

#endif
