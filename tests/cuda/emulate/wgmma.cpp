/* What the tensor cores of compute capability 9.0 do by themselves. A product takes place at its call or when it is waited
 * for (by the order that ie_emulate_order set: 0 late, 1 early, others in turns), and its sums are NaN until then; so
 * operands that are written too early, sums that are read too early, and memory that has not arrived give wrong numbers.
 * Operand B is read through its descriptor from what has been published: shared memory as its writers saw it at their last
 * shared_publish, NaN elsewhere. */
#include "cuda/wgmma.cuh"
#include "fibers.h"

#include <utility>
#include <vector>

enum { WARPGROUP = 128, WINDOW = 0x410 }; /* where shared memory begins: no more aligned than it must be */

struct product {
  float *d;
  int count;
  const uint32_t *a;
  uint64_t b;
  bool done;
};
struct sums {
  float *d;
  std::vector<float> value;
  int pending;
};
struct thread_state {
  std::vector<std::vector<product>> groups;
  std::vector<product> open;
  std::vector<sums> held;
  std::vector<size_t> written; /* offsets of 16 bytes in shared memory that were not published */
  bool fenced;
  size_t issued;
};
struct cores {
  std::vector<unsigned char> seen; /* shared memory as the tensor cores see it */
  std::vector<thread_state> threads;
  std::vector<std::vector<std::pair<uint64_t, int>>>
      issued; /* of each warpgroup: descriptor, numbers of sums */
};
static thread_local cores c;

static thread_state &me() {
  return c.threads[emu_here.thread.x];
}

void emu_wgmma_begin(unsigned int threads, size_t shared) {
  c.seen.assign(shared, 0xFF);
  c.threads.resize(threads);
  for (thread_state &t : c.threads) {
    t.groups.clear(), t.open.clear(), t.held.clear(), t.written.clear();
    t.fenced = false;
    t.issued = 0;
  }
  c.issued.assign((threads + WARPGROUP - 1) / WARPGROUP, {});
}
void emu_wgmma_thread_end() {
  if (!me().groups.empty() || !me().open.empty()) emu_die("a thread ends before its wgmma");
}
void emu_wgmma_end() {
  for (size_t i = 0; i < c.threads.size(); i++)
    if (c.threads[i].issued != c.issued[i / WARPGROUP].size())
      emu_die("a warp of a warpgroup has fewer wgmma");
}

/* --- Shared memory ------------------------------------------------------------------------------------------------- */

void emu_wgmma_overwritten(const void *to) {
  size_t at = (size_t)((const unsigned char *)to - emu_shared());
  if (at + 16 <= c.seen.size()) memset(c.seen.data() + at, 0xFF, 16);
}
void emu_wgmma_arrived(const void *to) {
  size_t at = (size_t)((const unsigned char *)to - emu_shared());
  if (at + 16 <= c.seen.size()) me().written.push_back(at);
}

uint32_t emu_shared_address(const void *shared) {
  size_t at = (size_t)((const unsigned char *)shared - emu_shared());
  if (at > c.seen.size()) emu_die("an address of something that is not in dynamic shared memory");
  return (uint32_t)(WINDOW + at);
}
void emu_shared_store(void *to, const uint4 &value) {
  if ((uintptr_t)to % 16) emu_die("a store to shared memory that is not aligned");
  memcpy(to, &value, 16);
  emu_wgmma_overwritten(to);
  emu_wgmma_arrived(to);
}
void emu_shared_publish() {
  for (size_t at : me().written) memcpy(c.seen.data() + at, emu_shared() + at, 16);
  me().written.clear();
}

/* Numbers 8 unit to 8 unit + 7 of row n of B, K-major: PTX ISA, "Matrix Descriptor Format", "Canonical Layouts". */
static const unsigned char *unit_of(uint64_t b, unsigned int n, unsigned int unit) {
  static const unsigned int row_bytes[] = {16, 128, 64, 32}, swizzle_bits[] = {0, 3, 2, 1};
  unsigned int mode = (unsigned int)(b >> 62), start = (unsigned int)(b & 0x3FFF) << 4,
               leading = (unsigned int)(b >> 16 & 0x3FFF) << 4,
               stride = (unsigned int)(b >> 32 & 0x3FFF) << 4, mask = (1u << swizzle_bits[mode]) - 1;
  if (b >> 49 & 7) emu_die("a descriptor with a base offset");
  if (start >> 7 & mask) emu_die("a tile that begins in the middle of its swizzle");
  unsigned int at = start + n / 8 * stride + n % 8 * row_bytes[mode] + unit * (mode == 0 ? leading : 16);
  at ^= (at >> 7 & mask) << 4;
  if (at < WINDOW || at - WINDOW + 16 > c.seen.size()) emu_die("a descriptor beyond shared memory");
  return c.seen.data() + (at - WINDOW);
}

/* --- Products ------------------------------------------------------------------------------------------------------- */

static float half_at(const unsigned char *at) {
  uint16_t h;
  memcpy(&h, at, 2);
  return ie_bf16_to_f32(h);
}

static sums &sums_of(float *d) {
  for (sums &s : me().held)
    if (s.d == d) return s;
  emu_die("sums that nobody adds to");
}

/* Fragments: PTX ISA, "Matrix Fragments for wgmma.mma_async.m64nNk16". The four warps have 16 rows each of A and D. */
static void perform(product &p) {
  const unsigned char *all = emu_exchange(EMU_WGMMA, p.a, 16);
  int lane = emu_lane(), g = lane / 4, t = lane % 4;
  float a[2][16];
  for (int h = 0; h < 2; h++)
    for (int k = 0; k < 16; k++)
      a[h][k] = half_at(all + 64 * (4 * g + k % 8 / 2) + 4 * (h + k / 8 * 2) + 2 * (k % 2));
  std::vector<float> &value = sums_of(p.d).value;
  for (int i = 0; i < p.count; i += 4)
    for (int e = 0; e < 2; e++) {
      const unsigned int n = (unsigned int)(2 * i + 2 * t + e);
      const unsigned char *unit[2] = {unit_of(p.b, n, 0), unit_of(p.b, n, 1)};
      double sum[2] = {};
      for (int k = 0; k < 16; k++) {
        float b = half_at(unit[k / 8] + 2 * (k % 8));
        for (int h = 0; h < 2; h++) sum[h] += (double)a[h][k] * (double)b;
      }
      for (int h = 0; h < 2; h++) {
        float &d = value[(size_t)(i + 2 * h + e)];
        d = (float)((double)d + sum[h]);
      }
    }
  p.done = true;
}

static bool is_early(size_t n) {
  unsigned int order = emu_order();
  return order < 2 ? order == 1 : (n + order) % 3 == 0;
}

void emu_wgmma(float *d, int count, const uint32_t *a, uint64_t b) {
  if (emu_here.threads.x % WARPGROUP) emu_die("wgmma without four warps");
  if (!me().fenced) emu_die("wgmma without a fence since the last wait");
  auto &log = c.issued[emu_here.thread.x / WARPGROUP];
  size_t n = me().issued++;
  if (n == log.size()) log.push_back({b, count});
  if (log[n] != std::make_pair(b, count)) emu_die("warps of a warpgroup have different wgmma");
  bool known = false;
  for (sums &s : me().held)
    if (s.d == d) s.pending++, known = true;
  if (!known) me().held.push_back({d, std::vector<float>(d, d + count), 1});
  for (int i = 0; i < count; i++) d[i] = NAN;
  product p = {d, count, a, b, false};
  if (is_early(n)) perform(p);
  me().open.push_back(p);
}

void emu_wgmma_fence() {
  emu_exchange(EMU_WARPGROUP, "", 1);
  me().fenced = true;
}
void emu_wgmma_commit() {
  me().groups.push_back(std::move(me().open));
  me().open.clear();
}
void emu_wgmma_wait(int groups) {
  emu_exchange(EMU_WARPGROUP, "", 1);
  size_t done = me().groups.size() > (size_t)groups ? me().groups.size() - (size_t)groups : 0;
  for (size_t i = 0; i < done; i++)
    for (product &p : me().groups[i]) {
      if (!p.done) perform(p);
      sums &s = sums_of(p.d);
      if (--s.pending > 0) continue;
      memcpy(s.d, s.value.data(), s.value.size() * sizeof(float));
      me().held.erase(me().held.begin() + (&s - me().held.data()));
    }
  me().groups.erase(me().groups.begin(), me().groups.begin() + (ptrdiff_t)done);
  me().fenced = false;
}
