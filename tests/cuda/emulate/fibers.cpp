/* Runs the blocks of a kernel one after the other on the calling thread; the threads of a block are fibers. */
#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <utility>
#include <vector>

enum { LANES = 32, THREADS = 1024, STACK = 256 << 10, SLOT = 64, SHARED = 256 << 10 };
enum lane_state { RUNNABLE, AT_WARP, AT_BARRIER, DONE };

struct copy_one {
  void *to;
  const void *from;
  bool valid;
};

struct fiber {
  void *sp;
  unsigned char *stack;
  lane_state state;
  unsigned int phase; /* of warp operations */
  int op;
  emu_place place;
  std::vector<std::vector<copy_one>> copies; /* committed groups */
  std::vector<copy_one> open_copies;
};

struct warp {
  int waiting;
  alignas(16) unsigned char slot[2][LANES * SLOT];
};

struct machine {
  std::vector<fiber> fibers;
  std::vector<warp> warps;
  std::vector<unsigned char> shared;
  void *main_sp;
  int current, threads;
  const std::function<void()> *body;
  const char *failed;
};

thread_local emu_place emu_here;
static thread_local machine *m;
static unsigned int order_now;

void emu_order_set(unsigned int order) {
  order_now = order;
}

unsigned int emu_order() {
  return order_now;
}

void emu_die(const char *what) {
  fprintf(stderr, "emulator: %s (block %u %u %u, thread %u)\n", what, emu_here.block.x, emu_here.block.y,
          emu_here.block.z, emu_here.thread.x);
  abort();
}

/* --- Switching stacks ---------------------------------------------------------------------------------------- */

#ifdef __x86_64__
/* Saves what the System V ABI says a callee keeps, and goes on where `to` was saved. */
extern "C" void emu_switch(void **from, void *to);
asm(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size emu_switch,.-emu_switch\n");

static void fiber_main();
static void fiber_prepare(fiber *f) {
  void **top = (void **)(f->stack + STACK);
  *--top = nullptr; /* no return address: fiber_main never returns; keeps the stack aligned as after a call */
  *--top = (void *)fiber_main;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  f->sp = top;
}
#else
#include <ucontext.h>
static void fiber_main();
static void emu_switch(void **from, void *to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, (ucontext_t *)to);
}
static void fiber_prepare(fiber *f) {
  ucontext_t *context = (ucontext_t *)f->stack;
  getcontext(context);
  context->uc_stack.ss_sp = f->stack + sizeof *context;
  context->uc_stack.ss_size = STACK - sizeof *context;
  makecontext(context, fiber_main, 0);
  f->sp = context;
}
#endif

static void fiber_yield() {
  fiber *f = &m->fibers[(size_t)m->current];
  f->place = emu_here;
  emu_switch(&f->sp, m->main_sp);
}

static void fiber_main() {
  (*m->body)();
  emu_copy_commit();
  emu_copy_wait(0);
  emu_wgmma_thread_end();
  m->fibers[(size_t)m->current].state = DONE;
  fiber_yield();
  emu_die("a thread went on after its end");
}

/* --- What kernels call ----------------------------------------------------------------------------------------- */

void emu_barrier() {
  m->fibers[(size_t)m->current].state = AT_BARRIER;
  fiber_yield();
}

const unsigned char *emu_exchange(int op, const void *mine, size_t bytes) {
  fiber *f = &m->fibers[(size_t)m->current];
  warp *w = &m->warps[(size_t)m->current / LANES];
  unsigned int buffer = f->phase++ & 1;
  memcpy(w->slot[buffer] + m->current % LANES * SLOT, mine, bytes);
  f->op = op;
  f->state = AT_WARP;
  w->waiting++;
  fiber_yield();
  return w->slot[buffer];
}

void emu_mask_check(unsigned int mask) {
  if (mask != 0xFFFFFFFFu) emu_die("a warp operation of some lanes");
}

unsigned char *emu_shared() {
  return m->shared.data();
}

void emu_copy_async(void *to, const void *from, bool valid) {
  if ((uintptr_t)to % 16 || (valid && (uintptr_t)from % 16))
    emu_die("an asynchronous copy that is not aligned");
  memset(to, 0xFF, 16);
  emu_wgmma_overwritten(to);
  m->fibers[(size_t)m->current].open_copies.push_back({to, from, valid});
}

void emu_copy_commit() {
  fiber *f = &m->fibers[(size_t)m->current];
  f->copies.push_back(std::move(f->open_copies));
  f->open_copies.clear();
}

void emu_copy_wait(int groups) {
  fiber *f = &m->fibers[(size_t)m->current];
  size_t done = f->copies.size() > (size_t)groups ? f->copies.size() - (size_t)groups : 0;
  for (size_t i = 0; i < done; i++)
    for (const copy_one &c : f->copies[i]) {
      if (c.valid)
        memcpy(c.to, c.from, 16);
      else
        memset(c.to, 0, 16);
      emu_wgmma_arrived(c.to);
    }
  f->copies.erase(f->copies.begin(), f->copies.begin() + (ptrdiff_t)done);
}

/* --- Blocks ----------------------------------------------------------------------------------------------------- */

/* The i-th of n in the order that was asked for. */
static unsigned int ordered(unsigned int i, unsigned int n) {
  if (order_now == 0) return i;
  if (order_now == 1) return n - 1 - i;
  unsigned int step = order_now | 1;
  while (n > 1 && [](unsigned int a, unsigned int b) {
    while (b) {
      unsigned int c = a % b;
      a = b;
      b = c;
    }
    return a;
  }(step, n) != 1)
    step += 2;
  return (unsigned int)(((uint64_t)i * step + order_now) % n);
}

static bool warp_turn(int at) {
  bool moved = false;
  warp *w = &m->warps[(size_t)at];
  for (unsigned int i = 0; i < LANES; i++) {
    int t = at * LANES + (int)ordered(i, LANES);
    if (t >= m->threads || m->fibers[(size_t)t].state != RUNNABLE) continue;
    m->current = t;
    emu_here = m->fibers[(size_t)t].place;
    emu_switch(&m->main_sp, m->fibers[(size_t)t].sp);
    moved = true;
  }
  if (w->waiting < LANES) return moved;
  fiber *f = &m->fibers[(size_t)at * LANES];
  for (int i = 0; i < LANES; i++) {
    if (f[i].op != f->op) emu_die("lanes of a warp meet in different operations");
    f[i].state = RUNNABLE;
  }
  w->waiting = 0;
  return true;
}

static void block_run() {
  int warps = m->threads / LANES;
  for (;;) {
    bool moved = false;
    for (int i = 0; i < warps; i++) {
      int at = (int)ordered((unsigned int)i, (unsigned int)warps);
      bool went = warp_turn(at);
      moved |= went;
      /* in other orders than the first a warp goes as far as it can before the next one does */
      while (went && order_now != 0) went = warp_turn(at);
    }
    int waiting = 0, done = 0;
    for (int t = 0; t < m->threads; t++) {
      waiting += m->fibers[(size_t)t].state == AT_BARRIER;
      done += m->fibers[(size_t)t].state == DONE;
    }
    if (done == m->threads) return;
    if (waiting == m->threads) {
      for (int t = 0; t < m->threads; t++) m->fibers[(size_t)t].state = RUNNABLE;
    } else if (!moved) {
      emu_die("some threads wait at a barrier or warp operation that others do not reach");
    }
  }
}

static machine *machine_get() {
  static thread_local machine own;
  while (own.fibers.size() < THREADS) {
    fiber f = {};
    void *stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) emu_die("no memory for fibers");
    f.stack = (unsigned char *)stack;
    own.fibers.push_back(f);
  }
  own.warps.resize(THREADS / LANES);
  own.shared.resize(SHARED);
  return &own;
}

cudaError_t emu_run(const dim3 &blocks, const dim3 &threads, size_t shared,
                    const std::function<void()> &body) {
  unsigned int n = threads.x * threads.y * threads.z;
  if (n == 0 || n > THREADS || n % LANES || threads.y * threads.z != 1 || shared > SHARED ||
      blocks.y > 65535 || blocks.z > 65535 || blocks.x == 0 || blocks.y == 0 || blocks.z == 0)
    return cudaErrorInvalidValue;
  m = machine_get();
  m->threads = (int)n;
  m->body = &body;
  uint64_t count = (uint64_t)blocks.x * blocks.y * blocks.z;
  if (count > UINT32_MAX) emu_die("too many blocks");
  for (uint64_t b = 0; b < count; b++) {
    unsigned int at = ordered((unsigned int)b, (unsigned int)count);
    memset(m->shared.data(), 0xFF, shared);
    emu_wgmma_begin(n, shared);
    for (unsigned int t = 0; t < n; t++) {
      fiber *f = &m->fibers[t];
      f->state = RUNNABLE;
      f->phase = 0;
      f->place = {
          {t, 0, 0}, {at % blocks.x, at / blocks.x % blocks.y, at / blocks.x / blocks.y}, threads, blocks};
      fiber_prepare(f);
    }
    for (warp &w : m->warps) w.waiting = 0;
    block_run();
    emu_wgmma_end();
  }
  return cudaSuccess;
}
