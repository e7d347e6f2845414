// CUDA on the host, for tests: this file is included in front of an unmodified .cu, which then compiles as C++, and
// whole grids run. Compiled with GPUKM_EMULATE; tests/emulator.py does so and writes what calls the kernels.
//
// The threads of a block are fibers. Each runs on until it meets a barrier, a warp's collective or its end, so that a
// block without any of these is a plain loop. In which order threads run between such points, and blocks after one
// another, is chosen by a seed: what only works in one order is found by another. What would be undefined on a device
// ends the launch with a message. One launch at a time per library, all of it on the calling thread.
#pragma once

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <link.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#include <memory>
#include <utility>
#include <vector>

// -------------------------------------------------------------------------------------------------------- the language

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
// The standard library spells an attribute this way, so its headers cannot come after this one.
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// The memory of a thread is in one piece, which can be found and filled before each block; a section of another name
// would hold no variables of templates.
#define __shared__ static thread_local
// Kernels take dynamic shared memory by this macro alone; device.cuh has CUDA's version of it.
#define GPUKM_SHARED(T, name) T* const name = reinterpret_cast<T*>(gpukm_emulator::dynamic_shared())

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define GPUKM_VECTOR2(T, name, bytes)              \
  struct __attribute__((aligned(bytes))) name {    \
    T x, y;                                        \
  };                                               \
  inline name make_##name(T x, T y) { return {x, y}; }
#define GPUKM_VECTOR4(T, name, bytes)              \
  struct __attribute__((aligned(bytes))) name {    \
    T x, y, z, w;                                  \
  };                                               \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
GPUKM_VECTOR2(int, int2, 8)
GPUKM_VECTOR2(unsigned, uint2, 8)
GPUKM_VECTOR2(float, float2, 8)
GPUKM_VECTOR2(double, double2, 16)
GPUKM_VECTOR2(long long, longlong2, 16)
GPUKM_VECTOR2(unsigned long long, ulonglong2, 16)
GPUKM_VECTOR2(short, short2, 4)
GPUKM_VECTOR2(unsigned short, ushort2, 4)
GPUKM_VECTOR4(int, int4, 16)
GPUKM_VECTOR4(unsigned, uint4, 16)
GPUKM_VECTOR4(float, float4, 16)
GPUKM_VECTOR4(short, short4, 8)
GPUKM_VECTOR4(unsigned short, ushort4, 8)
GPUKM_VECTOR4(signed char, char4, 4)
GPUKM_VECTOR4(unsigned char, uchar4, 4)
#undef GPUKM_VECTOR2
#undef GPUKM_VECTOR4

// With external linkage, so that no compiler may think it knows their values across a switch of fibers; and hidden, so
// that libraries loaded together do not share them.
#pragma GCC visibility push(hidden)
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// -------------------------------------------------------------------------------------------------------------- fibers

// Saves the registers that calls preserve and the stack pointer, and takes those of another stack.
extern "C" __attribute__((visibility("hidden"))) void gpukm_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.hidden gpukm_switch
.globl gpukm_switch
.type gpukm_switch, @function
gpukm_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gpukm_switch, .-gpukm_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.hidden gpukm_switch
.globl gpukm_switch
.type gpukm_switch, %function
gpukm_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size gpukm_switch, .-gpukm_switch
)");
#else
#error "the emulator switches stacks on x86-64 and 64-bit Arm"
#endif

namespace gpukm_emulator {

// For what takes its time and is no kernel's.
#define GPUKM_UNCHECKED __attribute__((no_sanitize("undefined")))

constexpr unsigned kLanes = 32, kMaxThreads = 1024;
constexpr size_t kStack = 64 << 10;
// The stride between stacks is no power of two, so that their tops do not share sets of a cache.
constexpr size_t kStackStride = kStack + 832;
constexpr uint64_t kCanary = 0x5CA1AB1E0DDBA11Bull;
// What memory holds that nobody wrote: not a number as float, double, or the upper of two float16 or bfloat16, and far
// from any index as an integer. Guards hold it as well, so that what is read beyond an end shows.
constexpr uint32_t kPoison = 0xFFFDA5A5u;
constexpr size_t kGuard = 4096;

GPUKM_UNCHECKED inline void poison(void* to, size_t bytes) {
  char* p = static_cast<char*>(to);
  for (; bytes >= 4; bytes -= 4, p += 4) memcpy(p, &kPoison, 4);
  memcpy(p, &kPoison, bytes);
}

// Where in the source something waits.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || !strcmp(file, other.file));
  }
};
inline const char* base_name(const char* file) {
  const char* slash = strrchr(file, '/');
  return slash ? slash + 1 : file;
}

enum class Kind : int {
  sync,
  sync_or,
  sync_and,
  sync_count,
  warp,
  index,
  up,
  down,
  exclusive,
  ballot,
  any,
  all,
  match,
  add,
  least,
  most,
  bit_and,
  bit_or,
  bit_xor,
  half,
  brain,
  tensor,
  load,
  load_trans,
};
inline const char* name_of(Kind kind) {
  static const char* const names[] = {
      "__syncthreads",     "__syncthreads_or",  "__syncthreads_and", "__syncthreads_count", "__syncwarp",
      "__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",  "__shfl_xor_sync",     "__ballot_sync",
      "__any_sync",        "__all_sync",        "__match_any_sync",  "__reduce_add_sync",   "__reduce_min_sync",
      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync",   "gpukm_mma_f16",
      "gpukm_mma_bf16",    "gpukm_mma_tf32",    "gpukm_ldmatrix_x4", "gpukm_ldmatrix_x4_trans"};
  return names[int(kind)];
}

// What a lane brings to a collective of its warp, and takes from it; it lives on the lane's own stack.
struct Meeting {
  Kind kind;
  unsigned mask;
  Site at;
  uint64_t in = 0, out = 0;
  unsigned argument = 0, width = kLanes;
  float* d = nullptr;
  const unsigned *a = nullptr, *b = nullptr;
  unsigned* r = nullptr;
  const void* p = nullptr;
};

struct Fiber {
  void* stack_pointer;
  uint64_t* canary;
};

// Sixteen bytes under way to shared memory.
struct Copy {
  void* to;
  const void* from;
  unsigned group;
};

struct Thread {
  Fiber* fiber;  // null until it has begun
  unsigned committed;
  std::vector<Copy> copies;
};

struct Warp {
  unsigned alive, ready, meeting, at_barrier;  // bits of lanes
  Meeting* brought[kLanes];
};

struct Emulator {
  // The launch.
  const char* kernel;
  void (*body)(void**);
  void** args;
  uint64_t seed, random;
  char *shared, *fixed;  // dynamic shared memory, static shared memory
  size_t shared_bytes, fixed_bytes;
  char message[2048], place[2][128];
  bool running, inside, failed;  // inside: of a fiber
  volatile bool late;
  pthread_t caller;
  // The block.
  unsigned threads, warps, live, ready;
  unsigned current;
  unsigned char order[kLanes];  // of warps; `turn` is at one of them, and `left` are its lanes that may yet run
  unsigned turn, left;
  bool greedy, copied;
  Thread thread[kMaxThreads];
  Warp warp[kMaxThreads / kLanes];
  Kind barrier_kind;
  Site barrier_at;
  unsigned arrived, some, every, counted, barrier_result;
  // Fibers.
  char* stacks;
  Fiber fiber[kMaxThreads];
  Fiber* idle[kMaxThreads];
  unsigned n_fibers, n_idle;
  Fiber* own;
  void* home;
} e;

// Ends the launch, from wherever a fiber stands.
[[noreturn]] inline void leave() {
  e.failed = true;
  void* nowhere;
  gpukm_switch(&nowhere, e.home);
  __builtin_unreachable();
}

__attribute__((format(printf, 1, 2))) inline void append(const char* format, ...) {
  const size_t at = strlen(e.message);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(e.message + at, sizeof e.message - at, format, arguments);
  va_end(arguments);
}

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  snprintf(e.message, sizeof e.message, "%s, block %u, thread %u: ", e.kernel, blockIdx.x, e.current);
  const size_t at = strlen(e.message);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(e.message + at, sizeof e.message - at, format, arguments);
  va_end(arguments);
  leave();
}

// " (file:line)", or nothing where that is not known; good until the call after the next.
inline const char* place_of(const Site& at) {
  static unsigned calls = 0;
  char* place = e.place[++calls % 2];
  place[0] = 0;
  if (at.line) snprintf(place, sizeof e.place[0], " (%s:%d)", base_name(at.file), at.line);
  return place;
}

// Nobody can go on: says what everybody waits for.
[[noreturn]] inline void deadlock() {
  snprintf(e.message, sizeof e.message, "%s, block %u: deadlock", e.kernel, blockIdx.x);
  const char* before = ": ";
  for (unsigned w = 0; w < e.warps; ++w) {
    const Warp& warp = e.warp[w];
    if (warp.at_barrier) {
      append("%slanes 0x%08x of warp %u wait at %s%s", before, warp.at_barrier, w, name_of(e.barrier_kind),
             place_of(e.barrier_at));
      before = "; ";
    }
    for (unsigned rest = warp.meeting; rest;) {
      const Meeting& one = *warp.brought[__builtin_ctz(rest)];
      unsigned same = 0;
      for (unsigned lanes = rest; lanes; lanes &= lanes - 1) {
        const Meeting& other = *warp.brought[__builtin_ctz(lanes)];
        if (other.kind == one.kind && other.mask == one.mask && other.at == one.at) same |= lanes & -lanes;
      }
      rest &= ~same;
      append("%slanes 0x%08x of warp %u wait at %s%s with mask 0x%08x", before, same, w, name_of(one.kind),
             place_of(one.at), one.mask);
      before = "; ";
    }
  }
  leave();
}

inline uint64_t draw() {  // xorshift64
  e.random ^= e.random << 13;
  e.random ^= e.random >> 7;
  return e.random ^= e.random << 17;
}

inline void start_random(uint64_t number) {  // splitmix64 of the seed and a number
  uint64_t z = e.seed + (number + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  e.random = (z ^ z >> 31) | 1;
}

inline void choose_order() {
  for (unsigned w = 0; w < e.warps; ++w) e.order[w] = static_cast<unsigned char>(e.seed == 1 ? e.warps - 1 - w : w);
  if (e.seed > 1) {
    for (unsigned w = e.warps; w > 1; --w) std::swap(e.order[w - 1], e.order[draw() % w]);
  }
  e.turn = 0;
  e.left = ~0u;
}

// The thread to run next, or -1 where none can. A warp goes on while any of its lanes can or, where the seed says so,
// takes turns with the others.
inline int pick() {
  if (!e.ready) return -1;
  for (;;) {
    Warp& warp = e.warp[e.order[e.turn]];
    if (const unsigned can = warp.ready & e.left) {
      unsigned lane;
      if (e.seed == 0) {
        lane = unsigned(__builtin_ctz(can));
      } else if (e.seed == 1) {
        lane = 31 - unsigned(__builtin_clz(can));
      } else {
        const unsigned by = unsigned(draw() >> 32) & 31;
        lane = (unsigned(__builtin_ctz(can >> by | can << ((32 - by) & 31))) + by) & 31;
      }
      if (!e.greedy) e.left &= ~(1u << lane);
      warp.ready &= ~(1u << lane);
      --e.ready;
      return int(e.order[e.turn] * kLanes + lane);
    }
    if (++e.turn == e.warps) e.turn = 0;
    e.left = ~0u;
  }
}

inline void make_ready(Warp& warp, unsigned lanes) {
  warp.ready |= lanes;
  e.ready += unsigned(__builtin_popcount(lanes));
}

inline void check_stack() {
  if (*e.own->canary != kCanary) fail("its stack of %zu bytes overflowed", kStack);
}

inline void make_current(int t) {
  e.current = unsigned(t);
  threadIdx.x = unsigned(t);
}

inline void release_barrier() {
  for (unsigned w = 0; w < e.warps; ++w) {
    make_ready(e.warp[w], e.warp[w].at_barrier);
    e.warp[w].at_barrier = 0;
  }
  e.barrier_result = e.barrier_kind == Kind::sync_or ? e.some : e.barrier_kind == Kind::sync_and ? e.every : e.counted;
  e.arrived = e.some = e.counted = 0;
  e.every = 1;
  choose_order();
}

inline void perform(Warp& warp, unsigned group);

// Lets a meeting happen if all lanes that it names and that are still alive have come.
inline void try_meeting(Warp& warp, const Meeting& one) {
  const unsigned group = one.mask & warp.alive;
  if (group & ~warp.meeting) return;
  for (unsigned rest = group; rest; rest &= rest - 1) {
    const Meeting& other = *warp.brought[__builtin_ctz(rest)];
    if (other.mask != one.mask || other.kind != one.kind) return;
  }
  perform(warp, group);
  warp.meeting &= ~group;
  make_ready(warp, group);
}

inline void fiber_main();

inline Fiber* take_fiber() {
  if (e.n_idle) return e.idle[--e.n_idle];
  Fiber& fiber = e.fiber[e.n_fibers];
  char* bottom = e.stacks + e.n_fibers++ * kStackStride;
  fiber.canary = reinterpret_cast<uint64_t*>(bottom);
  *fiber.canary = kCanary;
  uint64_t* top = reinterpret_cast<uint64_t*>(bottom + kStack);
#if defined(__x86_64__)
  constexpr int frame = 8, entry = 6;  // what is returned to; above it a caller that is not there
#else
  constexpr int frame = 20, entry = 11;
#endif
  for (int i = 0; i < frame; ++i) top[i - frame] = 0;
  top[entry - frame] = reinterpret_cast<uint64_t>(&fiber_main);
  fiber.stack_pointer = top - frame;
  return &fiber;
}

inline void go_to(Thread& thread) {
  if (!thread.fiber) thread.fiber = take_fiber();
  Fiber* from = e.own;
  e.own = thread.fiber;
  gpukm_switch(&from->stack_pointer, e.own->stack_pointer);
}

// The current thread waits; this returns once it may go on.
inline void wait() {
  check_stack();
  const int t = pick();
  if (t < 0) deadlock();
  if (unsigned(t) == e.current) return;
  make_current(t);
  go_to(e.thread[t]);
}

// A thread that has ended does not count at barriers and meetings.
inline void end_thread() {
  Warp& warp = e.warp[e.current / kLanes];
  warp.alive &= ~(1u << e.current % kLanes);
  if (--e.live && e.arrived == e.live) release_barrier();
  for (unsigned rest = warp.meeting; rest; rest &= warp.meeting & (rest - 1)) {
    try_meeting(warp, *warp.brought[__builtin_ctz(rest)]);
  }
}

// Runs threads from their beginning, one after another, for as long as none waits.
inline void fiber_main() {
  for (;;) {
    e.body(e.args);
    check_stack();
    end_thread();
    const int t = pick();
    if (t < 0) {
      if (e.live) deadlock();
      e.idle[e.n_idle++] = e.own;
      gpukm_switch(&e.own->stack_pointer, e.home);
      continue;
    }
    make_current(t);
    if (!e.thread[t].fiber) {
      e.thread[t].fiber = e.own;
    } else {
      e.idle[e.n_idle++] = e.own;
      go_to(e.thread[t]);
    }
  }
}

inline unsigned barrier(Kind kind, int predicate, Site at) {
  if (!e.arrived) {
    e.barrier_kind = kind, e.barrier_at = at;
  } else if (kind != e.barrier_kind || !(at == e.barrier_at)) {
    fail("divergent barriers: it is at %s%s where others wait at %s%s", name_of(kind), place_of(at),
         name_of(e.barrier_kind), place_of(e.barrier_at));
  }
  ++e.arrived;
  e.some |= predicate != 0;
  e.every &= predicate != 0;
  e.counted += predicate != 0;
  e.warp[e.current / kLanes].at_barrier |= 1u << e.current % kLanes;
  if (e.arrived == e.live) release_barrier();
  wait();
  return e.barrier_result;
}

inline void meet(Meeting& one) {
  Warp& warp = e.warp[e.current / kLanes];
  const unsigned lane = e.current % kLanes;
  if (!(one.mask >> lane & 1)) {
    fail("%s%s with mask 0x%08x, which does not name the calling lane %u", name_of(one.kind), place_of(one.at),
         one.mask, lane);
  }
  warp.brought[lane] = &one;
  warp.meeting |= 1u << lane;
  try_meeting(warp, one);
  wait();
}

inline void* dynamic_shared() { return e.shared; }

inline bool is_shared(const void* p, size_t bytes) {
  const char* at = static_cast<const char*>(p);
  return (at >= e.shared && at + bytes <= e.shared + e.shared_bytes) ||
         (at >= e.fixed && at + bytes <= e.fixed + e.fixed_bytes);
}

// Of this library's variables of a thread; there is at least this one, and using it makes the loader provide them.
static thread_local volatile char a_variable;

inline int find_fixed(dl_phdr_info* library, size_t, void*) {
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const auto& part = library->dlpi_phdr[i];
    char* at = static_cast<char*>(library->dlpi_tls_data);
    const char* known = const_cast<const char*>(&a_variable);
    if (part.p_type != PT_TLS || !at || known < at || known >= at + part.p_memsz) continue;
    e.fixed = at, e.fixed_bytes = part.p_memsz;
    return 1;
  }
  return 0;
}

inline void run_block() {
  e.live = e.threads;
  e.ready = 0;
  e.arrived = e.some = e.counted = 0;
  e.every = 1;
  for (unsigned w = 0; w < e.warps; ++w) {
    Warp& warp = e.warp[w];
    const unsigned lanes = e.threads - w * kLanes;
    warp.alive = lanes >= kLanes ? ~0u : (1u << lanes) - 1;
    warp.ready = warp.meeting = warp.at_barrier = 0;
    make_ready(warp, warp.alive);
  }
  for (unsigned t = 0; t < e.threads; ++t) e.thread[t].fiber = nullptr;
  if (e.copied) {
    for (Thread& thread : e.thread) thread.committed = 0, thread.copies.clear();
    e.copied = false;
  }
  start_random(blockIdx.x);
  e.greedy = e.seed <= 1 || draw() >> 63;
  choose_order();
  poison(e.fixed, e.fixed_bytes);
  poison(e.shared, e.shared_bytes);
  const int t = pick();
  make_current(t);
  e.own = e.thread[t].fiber = take_fiber();
  e.inside = true;
  gpukm_switch(&e.home, e.own->stack_pointer);
  e.inside = false;
}

// Whether the guards of dynamic shared memory are as they were filled.
inline bool guarded() {
  static const std::vector<char> filled = [] {
    std::vector<char> made(kGuard + 4);
    poison(made.data(), made.size());
    return made;
  }();
  const size_t n = e.shared_bytes;
  return !memcmp(e.shared - kGuard, filled.data(), kGuard) && !memcmp(e.shared + n, filled.data() + n % 4, kGuard);
}

#ifndef GPUKM_SECONDS
#define GPUKM_SECONDS 60
#endif

// Faults in a kernel end its launch, and so does one that takes too much of the processor's time, counted by a timer
// that tests do not use otherwise. Faults elsewhere are left to whoever took care of them before.
struct Signals {
  static constexpr int taken[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGVTALRM};
  static constexpr int n = sizeof taken / sizeof taken[0];
  static struct sigaction before[n];
  alignas(16) static char stack[64 << 10];
  stack_t stack_before;

  static void caught(int signal, siginfo_t* info, void*) {
    const bool here = pthread_equal(pthread_self(), e.caller);
    if (signal == SIGVTALRM) {
      e.late = true;
      if (!here) pthread_kill(e.caller, signal);
      if (here && e.inside) fail("the launch took %d seconds and has not ended", GPUKM_SECONDS);
      return;
    }
    if (here && e.inside) {
      const char* at = static_cast<const char*>(info->si_addr);
      if (at >= e.stacks - kStackStride && at < e.stacks) fail("its stack of %zu bytes overflowed", kStack);
      if (signal == SIGSEGV || signal == SIGBUS) fail("bad address %p", info->si_addr);
      fail("signal %d", signal);
    }
    for (int i = 0; i < n; ++i) {
      if (taken[i] == signal) sigaction(signal, &before[i], nullptr);
    }
  }
  static void set_timer(int seconds) {
    itimerval timer = {};
    timer.it_value.tv_sec = seconds;
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
  }

  Signals() {
    stack_t own = {};
    own.ss_sp = stack, own.ss_size = sizeof stack;
    sigaltstack(&own, &stack_before);
    struct sigaction action = {};
    action.sa_sigaction = caught;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < n; ++i) sigaction(taken[i], &action, &before[i]);
    set_timer(GPUKM_SECONDS);
  }
  ~Signals() {
    set_timer(0);
    for (int i = 0; i < n; ++i) sigaction(taken[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
  }
};
struct sigaction Signals::before[Signals::n];
alignas(16) char Signals::stack[64 << 10];

// Runs a grid; null, or what went wrong.
inline const char* launch(const char* name, void (*body)(void**), unsigned grid, unsigned block, size_t shared,
                          unsigned long long seed, void** args) {
  if (e.running) return "a launch is under way";
  if (!block || block > kMaxThreads || !grid) return "no such grid";
  e.kernel = name, e.body = body, e.args = args, e.seed = seed;
  e.message[0] = 0, e.failed = false;
  e.threads = block, e.warps = (block + kLanes - 1) / kLanes;
  blockDim = dim3(block), gridDim = dim3(grid);
  if (!e.stacks) {
    // The first is not to be touched: the second has no other to overflow into.
    void* made = mmap(nullptr, (kMaxThreads + 1) * kStackStride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED || mprotect(made, kStack, PROT_NONE)) return "no memory for stacks";
    e.stacks = static_cast<char*>(made) + kStackStride;
  }
  // Aligned to 16 bytes and no more, which is what a kernel may count on.
  const size_t room = (kGuard + shared + kGuard + 256 + 3) / 4;
  const std::unique_ptr<uint32_t[]> memory(new uint32_t[room]);
  for (size_t i = 0; i < room; ++i) memory[i] = kPoison;
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory.get()) + kGuard;
  e.shared = reinterpret_cast<char*>((first + 127) / 128 * 128 + 16);
  e.shared_bytes = shared;
  std::vector<unsigned> order(seed > 1 ? grid : 0);
  if (seed > 1) {
    start_random(~0ull);
    for (unsigned i = 0; i < grid; ++i) order[i] = i;
    for (unsigned i = grid; i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
  }
  a_variable = 0;
  if (!dl_iterate_phdr(find_fixed, nullptr)) return "static shared memory was not found";
  e.caller = pthread_self();
  e.late = false;
  const Signals signals;
  e.running = true;
  for (unsigned i = 0; i < grid && !e.failed; ++i) {
    blockIdx.x = seed == 0 ? i : seed == 1 ? grid - 1 - i : order[i];
    run_block();
    if (!e.failed && e.late) {
      snprintf(e.message, sizeof e.message, "%s: the launch took %d seconds and has not ended", name, GPUKM_SECONDS);
      e.failed = true;
    }
    if (!e.failed && !guarded()) {
      snprintf(e.message, sizeof e.message, "%s, block %u: wrote outside of its %zu bytes of dynamic shared memory",
               e.kernel, blockIdx.x, shared);
      e.failed = true;
    }
  }
  e.running = false;
  if (e.failed) e.n_fibers = e.n_idle = 0;  // fibers stand where they were left, so their stacks are begun anew
  return e.failed ? e.message : nullptr;
}

// Calls a kernel with arguments of which addresses are given.
template <auto Kernel>
struct Caller;
template <class... A, void (*Kernel)(A...)>
struct Caller<Kernel> {
  static constexpr size_t count = sizeof...(A);
  template <size_t... I>
  static void call(void** args, std::index_sequence<I...>) {
    Kernel(*static_cast<A*>(args[I])...);
  }
  static void run(void** args) { call(args, std::index_sequence_for<A...>()); }
};

// --------------------------------------------------------------------------------------------------------- collectives

// The lane that a shuffle reads from, as PTX defines it.
inline unsigned source_lane(const Meeting& m, unsigned lane) {
  const unsigned segment = kLanes - m.width, by = m.argument & 31;
  const unsigned first = lane & segment, last = first | (31 & ~segment);
  if (m.kind == Kind::index) return first | (by & ~segment);
  const int from = m.kind == Kind::up     ? int(lane) - int(by)
                   : m.kind == Kind::down ? int(lane + by)
                                          : int(lane ^ by);
  const bool within = m.kind == Kind::up ? from >= int(first) : from <= int(last);
  return within ? unsigned(from) : lane;
}

inline float toward_zero(double v) {
  const float f = float(v);
  return fabs(double(f)) > fabs(v) && fabs(v) < 0x1p128 ? nextafterf(f, 0.0f) : f;
}

inline float from_bits(unsigned bits) {
  float v;
  memcpy(&v, &bits, 4);
  return v;
}
GPUKM_UNCHECKED inline float half_value(unsigned short h) {
  const unsigned sign = unsigned(h >> 15) << 31, size = h & 0x7FFFu;
  // The exponent is moved to where float has it, and scaling makes up for its other bias, subnormal numbers included.
  if (size < 0x7C00u) return from_bits(sign | size << 13) * 0x1p112f;
  return from_bits(sign | 0x7F800000u | (size & 1023u) << 13);
}
inline float brain_value(unsigned short b) { return from_bits(unsigned(b) << 16); }

// d (16 x 8) += a (16 x K) b (K x 8). With g = lane / 4 and t = lane % 4 a lane holds, of 16-bit operands (K = 16) two
// to a register from the lower bits up, a[g or g + 8][2 t, 2 t + 1, and 8 more], b[2 t, 2 t + 1, and 8 more][g]; of
// tf32 (K = 8) a[g or g + 8][t, t + 4], b[t, t + 4][g]; and d[g or g + 8][2 t, 2 t + 1].
GPUKM_UNCHECKED inline void multiply(Warp& warp, Kind kind) {
  static double a[16][16], b[16][8], d[16][8];
  const int depth = kind == Kind::tensor ? 8 : 16;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Meeting& m = *warp.brought[lane];
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * t + i % 2] = m.d[i];
    if (kind == Kind::tensor) {
      constexpr unsigned kept = 0xFFFFE000u;  // ten bits of the mantissa
      for (unsigned i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = from_bits(m.a[i] & kept);
      for (unsigned i = 0; i < 2; ++i) b[t + 4 * i][g] = from_bits(m.b[i] & kept);
      continue;
    }
    const auto value = kind == Kind::half ? half_value : brain_value;
    for (unsigned h = 0; h < 2; ++h) {
      for (unsigned i = 0; i < 4; ++i) {
        a[g + 8 * (i % 2)][2 * t + h + 8 * (i / 2)] = value(static_cast<unsigned short>(m.a[i] >> 16 * h));
      }
      for (unsigned i = 0; i < 2; ++i) b[2 * t + h + 8 * i][g] = value(static_cast<unsigned short>(m.b[i] >> 16 * h));
    }
  }
  for (int row = 0; row < 16; ++row) {
    double sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int k = 0; k < depth; ++k) {
      for (int column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
    }
#ifdef GPUKM_ALIGN_BITS
    // As units do that bring all addends to the largest exponent and cut off what is below these bits of it.
    for (int column = 0; column < 8; ++column) {
      double largest = fabs(d[row][column]);
      for (int k = 0; k < depth; ++k) largest = fmax(largest, fabs(a[row][k] * b[k][column]));
      if (!isfinite(sum[column] + d[row][column])) continue;
      int exponent;
      frexp(largest, &exponent);
      const double unit = ldexp(1.0, exponent - GPUKM_ALIGN_BITS);
      const auto cut = [unit](double v) { return trunc(v / unit) * unit; };
      sum[column] = 0.0;
      for (int k = 0; k < depth; ++k) sum[column] += cut(a[row][k] * b[k][column]);
      d[row][column] = cut(d[row][column]);
    }
#endif
    for (int column = 0; column < 8; ++column) d[row][column] += sum[column];
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; ++i) warp.brought[lane]->d[i] = toward_zero(d[g + 8 * (i / 2)][2 * t + i % 2]);
  }
}

// Lane l names row l % 8 of matrix l / 8, eight numbers of 16 bits; a lane gets of each matrix the numbers 2 t, 2 t + 1
// of row g, or of column g.
inline void load_matrices(Warp& warp, bool trans) {
  unsigned short rows[4][8][8];
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const void* p = warp.brought[lane]->p;
    if (reinterpret_cast<uintptr_t>(p) % 16) fail("gpukm_ldmatrix_x4: the address of lane %u is not aligned", lane);
    if (!is_shared(p, 16)) fail("gpukm_ldmatrix_x4: the address of lane %u is not in shared memory", lane);
    memcpy(rows[lane / 8][lane % 8], p, 16);
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned low = trans ? rows[i][2 * t][g] : rows[i][g][2 * t];
      const unsigned high = trans ? rows[i][2 * t + 1][g] : rows[i][g][2 * t + 1];
      warp.brought[lane]->r[i] = low | high << 16;
    }
  }
}

// What happens once all have come.
inline void perform(Warp& warp, unsigned group) {
  const Kind kind = warp.brought[__builtin_ctz(group)]->kind;
  switch (kind) {
    case Kind::index:
    case Kind::up:
    case Kind::down:
    case Kind::exclusive:
      for (unsigned rest = group; rest; rest &= rest - 1) {
        const unsigned lane = unsigned(__builtin_ctz(rest));
        Meeting& m = *warp.brought[lane];
        const unsigned from = source_lane(m, lane);
        if (!(group >> from & 1)) {
          fail("%s%s: lane %u reads from lane %u, which %s", name_of(kind), place_of(m.at), lane, from,
               m.mask >> from & 1 ? "has ended or never was" : "the mask does not name");
        }
        m.out = warp.brought[from]->in;
      }
      return;
    case Kind::half:
    case Kind::brain:
    case Kind::tensor:
    case Kind::load:
    case Kind::load_trans:
      if (group != ~0u) fail("%s needs all lanes of the warp, and has 0x%08x", name_of(kind), group);
      if (kind == Kind::load || kind == Kind::load_trans) {
        load_matrices(warp, kind == Kind::load_trans);
      } else {
        multiply(warp, kind);
      }
      return;
    case Kind::match:
      for (unsigned rest = group; rest; rest &= rest - 1) {
        Meeting& m = *warp.brought[__builtin_ctz(rest)];
        for (unsigned others = group; others; others &= others - 1) {
          if (warp.brought[__builtin_ctz(others)]->in == m.in) m.out |= others & -others;
        }
      }
      return;
    default:
      break;
  }
  // One result for all. Integers of 32 bits came widened, by sign where they have one.
  uint64_t out = warp.brought[__builtin_ctz(group)]->in;
  unsigned votes = 0;
  for (unsigned rest = group; rest; rest &= rest - 1) {
    const uint64_t in = warp.brought[__builtin_ctz(rest)]->in;
    if (in) votes |= rest & -rest;
    if (rest == group) continue;
    switch (kind) {
      case Kind::add: out += in; break;
      case Kind::least: out = int64_t(in) < int64_t(out) ? in : out; break;
      case Kind::most: out = int64_t(in) > int64_t(out) ? in : out; break;
      case Kind::bit_and: out &= in; break;
      case Kind::bit_or: out |= in; break;
      case Kind::bit_xor: out ^= in; break;
      default: break;
    }
  }
  if (kind == Kind::ballot) out = votes;
  if (kind == Kind::any) out = votes != 0;
  if (kind == Kind::all) out = votes == group;
  for (unsigned rest = group; rest; rest &= rest - 1) warp.brought[__builtin_ctz(rest)]->out = out;
}

template <class T>
inline T shuffle(Kind kind, unsigned mask, T v, unsigned argument, int width, Site at) {
  if (width < 1 || width > 32 || (width & (width - 1))) {
    fail("%s%s: no width: %d", name_of(kind), place_of(at), width);
  }
  Meeting m{kind, mask, at};
  memcpy(&m.in, &v, sizeof v);
  m.argument = argument, m.width = unsigned(width);
  meet(m);
  memcpy(&v, &m.out, sizeof v);
  return v;
}
inline uint64_t agree(Kind kind, unsigned mask, uint64_t in, Site at) {
  Meeting m{kind, mask, at, in};
  meet(m);
  return m.out;
}
inline void multiply(Kind kind, float* d, const unsigned* a, const unsigned* b) {
  Meeting m{kind, ~0u, Site{"", 0}};
  m.d = d, m.a = a, m.b = b;
  meet(m);
}
inline void load(Kind kind, unsigned* r, const void* p) {
  Meeting m{kind, ~0u, Site{"", 0}};
  m.r = r, m.p = p;
  meet(m);
}

// ---------------------------------------------------------------------------------------------------------- arithmetic

// a + b = sum + error.
template <class T>
inline T two_sum(T a, T b, T* error) {
  const T sum = a + b, back = sum - a;
  *error = (a - (sum - back)) + (b - back);
  return sum;
}
// v + error, with |error| below an ulp of v, rounded to the side of `up`.
template <class T>
inline T to_side(double v, double error, bool up) {
  const T r = T(v);
  const double off = double(r) - v;
  if (!isfinite(v) || (off == 0 && error == 0)) return r;
  const bool below = off < 0 || (off == 0 && error > 0);
  return below == up ? nextafter(r, T(up ? INFINITY : -INFINITY)) : r;
}
inline float add_side(float a, float b, bool up) {
  double error;
  const double sum = two_sum<double>(a, b, &error);
  return to_side<float>(sum, error, up);
}
inline float multiply_side(float a, float b, bool up) { return to_side<float>(double(a) * double(b), 0.0, up); }
inline float fma_side(float a, float b, float c, bool up) {
  double error;
  const double sum = two_sum<double>(double(a) * double(b), c, &error);
  return to_side<float>(sum, error, up);
}
inline double add_side(double a, double b, bool up) {
  double error;
  const double sum = two_sum<double>(a, b, &error);
  return to_side<double>(sum, error, up);
}
inline double multiply_side(double a, double b, bool up) {
  const double v = a * b;
  return to_side<double>(v, fma(a, b, -v), up);
}
inline float root_side(float v, bool up) {
  const float r = sqrtf(v);
  const double off = double(r) * double(r) - double(v);
  if (!(fabs(off) > 0) || !isfinite(r)) return r;
  return (off < 0) == up ? nextafterf(r, up ? INFINITY : 0.0f) : r;
}

// As PTX converts: what is out of range becomes the end of the range, and what is no number zero, or 2^(bits - 1) where
// either side has 64 bits.
template <class I, class F>
inline I convert(F v) {
  constexpr int bits = int(sizeof(I)) * 8;
  constexpr bool is_signed = I(-1) < I(0);
  if (v != v) return sizeof(I) == 8 || sizeof(F) == 8 ? I(1ull << (bits - 1)) : I(0);
  const F above = F(ldexp(1.0, is_signed ? bits - 1 : bits));
  if (v >= above) return is_signed ? I((1ull << (bits - 1)) - 1) : I(~0ull);
  if (v < (is_signed ? -above : F(0))) return is_signed ? I(1ull << (bits - 1)) : I(0);
  return I(v);
}

}  // namespace gpukm_emulator

// --------------------------------------------------------------------------------------------------- what kernels call

inline void __syncthreads(gpukm_emulator::Site at = gpukm_emulator::Site::here()) {
  gpukm_emulator::barrier(gpukm_emulator::Kind::sync, 0, at);
}
inline int __syncthreads_or(int v, gpukm_emulator::Site at = gpukm_emulator::Site::here()) {
  return int(gpukm_emulator::barrier(gpukm_emulator::Kind::sync_or, v, at));
}
inline int __syncthreads_and(int v, gpukm_emulator::Site at = gpukm_emulator::Site::here()) {
  return int(gpukm_emulator::barrier(gpukm_emulator::Kind::sync_and, v, at));
}
inline int __syncthreads_count(int v, gpukm_emulator::Site at = gpukm_emulator::Site::here()) {
  return int(gpukm_emulator::barrier(gpukm_emulator::Kind::sync_count, v, at));
}
inline void __syncwarp(unsigned mask = ~0u, gpukm_emulator::Site at = gpukm_emulator::Site::here()) {
  gpukm_emulator::agree(gpukm_emulator::Kind::warp, mask, 0, at);
}

#define GPUKM_SHUFFLES(T)                                                                            \
  inline T __shfl_sync(unsigned mask, T v, int from, int width = 32,                                 \
                       gpukm_emulator::Site at = gpukm_emulator::Site::here()) {                     \
    return gpukm_emulator::shuffle(gpukm_emulator::Kind::index, mask, v, unsigned(from), width, at); \
  }                                                                                                  \
  inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32,                           \
                          gpukm_emulator::Site at = gpukm_emulator::Site::here()) {                  \
    return gpukm_emulator::shuffle(gpukm_emulator::Kind::up, mask, v, by, width, at);                \
  }                                                                                                  \
  inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32,                         \
                            gpukm_emulator::Site at = gpukm_emulator::Site::here()) {                \
    return gpukm_emulator::shuffle(gpukm_emulator::Kind::down, mask, v, by, width, at);              \
  }                                                                                                  \
  inline T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32,                               \
                           gpukm_emulator::Site at = gpukm_emulator::Site::here()) {                 \
    return gpukm_emulator::shuffle(gpukm_emulator::Kind::exclusive, mask, v, unsigned(by), width, at); \
  }
GPUKM_SHUFFLES(int)
GPUKM_SHUFFLES(unsigned)
GPUKM_SHUFFLES(long)
GPUKM_SHUFFLES(unsigned long)
GPUKM_SHUFFLES(long long)
GPUKM_SHUFFLES(unsigned long long)
GPUKM_SHUFFLES(float)
GPUKM_SHUFFLES(double)
#undef GPUKM_SHUFFLES

#define GPUKM_AGREE(R, name, T, kind, in)                                                                        \
  inline R name(unsigned mask, T v, gpukm_emulator::Site at = gpukm_emulator::Site::here()) {                    \
    return static_cast<R>(gpukm_emulator::agree(gpukm_emulator::Kind::kind, mask, static_cast<uint64_t>(in), at)); \
  }
GPUKM_AGREE(unsigned, __ballot_sync, int, ballot, v != 0)
GPUKM_AGREE(int, __any_sync, int, any, v != 0)
GPUKM_AGREE(int, __all_sync, int, all, v != 0)
GPUKM_AGREE(unsigned, __match_any_sync, int, match, unsigned(v))
GPUKM_AGREE(unsigned, __match_any_sync, unsigned, match, v)
GPUKM_AGREE(unsigned, __match_any_sync, long, match, v)
GPUKM_AGREE(unsigned, __match_any_sync, unsigned long, match, v)
GPUKM_AGREE(unsigned, __match_any_sync, long long, match, v)
GPUKM_AGREE(unsigned, __match_any_sync, unsigned long long, match, v)
GPUKM_AGREE(int, __reduce_add_sync, int, add, int64_t(v))
GPUKM_AGREE(unsigned, __reduce_add_sync, unsigned, add, v)
GPUKM_AGREE(int, __reduce_min_sync, int, least, int64_t(v))
GPUKM_AGREE(unsigned, __reduce_min_sync, unsigned, least, v)
GPUKM_AGREE(int, __reduce_max_sync, int, most, int64_t(v))
GPUKM_AGREE(unsigned, __reduce_max_sync, unsigned, most, v)
GPUKM_AGREE(unsigned, __reduce_and_sync, unsigned, bit_and, v)
GPUKM_AGREE(unsigned, __reduce_or_sync, unsigned, bit_or, v)
GPUKM_AGREE(unsigned, __reduce_xor_sync, unsigned, bit_xor, v)
#undef GPUKM_AGREE

// Of the lanes that a device would name, the one that is sure: the caller.
inline unsigned __activemask() { return 1u << gpukm_emulator::e.current % gpukm_emulator::kLanes; }

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() { gpukm_emulator::fail("__trap"); }
#undef assert
#define assert(x) ((x) ? void() : gpukm_emulator::fail("line %d: assertion %s", __LINE__, #x))
#ifndef __clang__
#define __builtin_assume(x) void()
#endif

#define GPUKM_ATOMIC(name, T, changed) \
  inline T name(T* p, T v) {           \
    const T old = *p;                  \
    *p = static_cast<T>(changed);      \
    return old;                        \
  }
#define GPUKM_ATOMICS(T)                       \
  GPUKM_ATOMIC(atomicMin, T, v < old ? v : old) \
  GPUKM_ATOMIC(atomicMax, T, v > old ? v : old) \
  GPUKM_ATOMIC(atomicAnd, T, old & v)          \
  GPUKM_ATOMIC(atomicOr, T, old | v)           \
  GPUKM_ATOMIC(atomicXor, T, old ^ v)
GPUKM_ATOMICS(int)
GPUKM_ATOMICS(unsigned)
GPUKM_ATOMICS(unsigned long long)
GPUKM_ATOMICS(long long)
GPUKM_ATOMIC(atomicAdd, int, unsigned(old) + unsigned(v))
GPUKM_ATOMIC(atomicAdd, unsigned, old + v)
GPUKM_ATOMIC(atomicAdd, unsigned long long, old + v)
GPUKM_ATOMIC(atomicAdd, float, old + v)
GPUKM_ATOMIC(atomicAdd, double, old + v)
GPUKM_ATOMIC(atomicSub, int, unsigned(old) - unsigned(v))
GPUKM_ATOMIC(atomicSub, unsigned, old - v)
GPUKM_ATOMIC(atomicExch, int, v)
GPUKM_ATOMIC(atomicExch, unsigned, v)
GPUKM_ATOMIC(atomicExch, unsigned long long, v)
GPUKM_ATOMIC(atomicExch, float, v)
GPUKM_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
#undef GPUKM_ATOMICS
#undef GPUKM_ATOMIC
#define GPUKM_ATOMIC_CAS(T)                       \
  inline T atomicCAS(T* p, T expected, T v) {     \
    const T old = *p;                             \
    if (old == expected) *p = v;                  \
    return old;                                   \
  }
GPUKM_ATOMIC_CAS(int)
GPUKM_ATOMIC_CAS(unsigned)
GPUKM_ATOMIC_CAS(unsigned long long)
GPUKM_ATOMIC_CAS(unsigned short)
#undef GPUKM_ATOMIC_CAS

#define GPUKM_ACCESS(load, store)                                \
  template <class T>                                             \
  inline T load(const T* p) {                                    \
    return *p;                                                   \
  }                                                              \
  template <class T>                                             \
  inline void store(T* p, typename std::common_type<T>::type v) { \
    *p = v;                                                      \
  }
GPUKM_ACCESS(__ldcs, __stcs)
GPUKM_ACCESS(__ldcg, __stcg)
GPUKM_ACCESS(__ldcv, __stwt)
GPUKM_ACCESS(__ldca, __stwb)
#undef GPUKM_ACCESS
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
inline T __ldlu(const T* p) {
  return *p;
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r = r << 1 | (v >> i & 1);
  return r;
}
inline unsigned long long __brevll(unsigned long long v) {
  return (unsigned long long)__brev(unsigned(v)) << 32 | __brev(unsigned(v >> 32));
}
inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
  return unsigned(((unsigned long long)high << 32 | low) << (by & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return unsigned(((unsigned long long)high << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long from = (unsigned long long)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned s = selector >> 4 * i, byte = unsigned(from >> 8 * (s & 7)) & 255;
    r |= (s & 8 ? (byte >> 7) * 255 : byte) << 8 * i;
  }
  return r;
}
inline int __dp4a(int a, int b, int c) {
  unsigned sum = unsigned(c);
  for (int i = 0; i < 4; ++i) {
    const int x = static_cast<signed char>(unsigned(a) >> 8 * i), y = static_cast<signed char>(unsigned(b) >> 8 * i);
    sum += unsigned(x * y);
  }
  return int(sum);
}

#define GPUKM_BITS(name, To, From)                           \
  inline To name(From v) {                                   \
    static_assert(sizeof(To) == sizeof(From), "other size"); \
    To r;                                                    \
    memcpy(&r, &v, sizeof r);                                \
    return r;                                                \
  }
GPUKM_BITS(__float_as_int, int, float)
GPUKM_BITS(__int_as_float, float, int)
GPUKM_BITS(__float_as_uint, unsigned, float)
GPUKM_BITS(__uint_as_float, float, unsigned)
GPUKM_BITS(__double_as_longlong, long long, double)
GPUKM_BITS(__longlong_as_double, double, long long)
#undef GPUKM_BITS
inline int __double2hiint(double v) { return int(__double_as_longlong(v) >> 32); }
inline int __double2loint(double v) { return int(unsigned((unsigned long long)__double_as_longlong(v))); }
inline double __hiloint2double(int high, int low) {
  return __longlong_as_double((long long)((unsigned long long)unsigned(high) << 32 | unsigned(low)));
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float v) { return sqrtf(v); }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fadd_ru(float a, float b) { return gpukm_emulator::add_side(a, b, true); }
inline float __fadd_rd(float a, float b) { return gpukm_emulator::add_side(a, b, false); }
inline float __fsub_ru(float a, float b) { return gpukm_emulator::add_side(a, -b, true); }
inline float __fsub_rd(float a, float b) { return gpukm_emulator::add_side(a, -b, false); }
inline float __fmul_ru(float a, float b) { return gpukm_emulator::multiply_side(a, b, true); }
inline float __fmul_rd(float a, float b) { return gpukm_emulator::multiply_side(a, b, false); }
inline float __fmaf_ru(float a, float b, float c) { return gpukm_emulator::fma_side(a, b, c, true); }
inline float __fmaf_rd(float a, float b, float c) { return gpukm_emulator::fma_side(a, b, c, false); }
inline float __fsqrt_ru(float v) { return gpukm_emulator::root_side(v, true); }
inline float __fsqrt_rd(float v) { return gpukm_emulator::root_side(v, false); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double v) { return sqrt(v); }
inline double __dadd_ru(double a, double b) { return gpukm_emulator::add_side(a, b, true); }
inline double __dadd_rd(double a, double b) { return gpukm_emulator::add_side(a, b, false); }
inline double __dsub_ru(double a, double b) { return gpukm_emulator::add_side(a, -b, true); }
inline double __dsub_rd(double a, double b) { return gpukm_emulator::add_side(a, -b, false); }
inline double __dmul_ru(double a, double b) { return gpukm_emulator::multiply_side(a, b, true); }
inline double __dmul_rd(double a, double b) { return gpukm_emulator::multiply_side(a, b, false); }

inline float __double2float_rn(double v) { return float(v); }
inline float __double2float_ru(double v) { return gpukm_emulator::to_side<float>(v, 0.0, true); }
inline float __double2float_rd(double v) { return gpukm_emulator::to_side<float>(v, 0.0, false); }
inline float __double2float_rz(double v) { return gpukm_emulator::to_side<float>(v, 0.0, v < 0); }
#define GPUKM_TO_INTEGER(name, I, F)                                                             \
  inline I name##_rn(F v) { return gpukm_emulator::convert<I>(rint(v)); }                        \
  inline I name##_rz(F v) { return gpukm_emulator::convert<I>(trunc(v)); }                       \
  inline I name##_ru(F v) { return gpukm_emulator::convert<I>(ceil(v)); }                        \
  inline I name##_rd(F v) { return gpukm_emulator::convert<I>(floor(v)); }
GPUKM_TO_INTEGER(__float2int, int, float)
GPUKM_TO_INTEGER(__float2uint, unsigned, float)
GPUKM_TO_INTEGER(__float2ll, long long, float)
GPUKM_TO_INTEGER(__float2ull, unsigned long long, float)
GPUKM_TO_INTEGER(__double2int, int, double)
GPUKM_TO_INTEGER(__double2uint, unsigned, double)
GPUKM_TO_INTEGER(__double2ll, long long, double)
GPUKM_TO_INTEGER(__double2ull, unsigned long long, double)
#undef GPUKM_TO_INTEGER
inline float __int2float_rn(int v) { return float(v); }
inline float __uint2float_rn(unsigned v) { return float(v); }
inline float __ll2float_rn(long long v) { return float(v); }
inline float __ull2float_rn(unsigned long long v) { return float(v); }
inline double __int2double_rn(int v) { return double(v); }
inline double __uint2double_rn(unsigned v) { return double(v); }
inline double __ll2double_rn(long long v) { return double(v); }
inline double __ull2double_rn(unsigned long long v) { return double(v); }
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline double rsqrt(double v) { return 1.0 / sqrt(v); }

// The overloads that CUDA has at global scope, and no others: what is ambiguous there is here.
template <class T>
inline T gpukm_least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T gpukm_most(T a, T b) {
  return b > a ? b : a;
}
#define GPUKM_MIN_MAX(R, A, B)                              \
  inline R min(A a, B b) { return gpukm_least<R>(a, b); } \
  inline R max(A a, B b) { return gpukm_most<R>(a, b); }
GPUKM_MIN_MAX(int, int, int)
GPUKM_MIN_MAX(unsigned, unsigned, unsigned)
GPUKM_MIN_MAX(unsigned, int, unsigned)
GPUKM_MIN_MAX(unsigned, unsigned, int)
GPUKM_MIN_MAX(long, long, long)
GPUKM_MIN_MAX(unsigned long, unsigned long, unsigned long)
GPUKM_MIN_MAX(unsigned long, long, unsigned long)
GPUKM_MIN_MAX(unsigned long, unsigned long, long)
GPUKM_MIN_MAX(long long, long long, long long)
GPUKM_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
GPUKM_MIN_MAX(unsigned long long, long long, unsigned long long)
GPUKM_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef GPUKM_MIN_MAX
#define GPUKM_MIN_MAX(R, A, B)                  \
  inline R min(A a, B b) { return fmin(a, b); } \
  inline R max(A a, B b) { return fmax(a, b); }
GPUKM_MIN_MAX(float, float, float)
GPUKM_MIN_MAX(double, double, double)
GPUKM_MIN_MAX(double, float, double)
GPUKM_MIN_MAX(double, double, float)
#undef GPUKM_MIN_MAX

// To the nearest, half to even.
inline unsigned short gpukm_half_bits(float v) {
  const unsigned bits = __float_as_uint(v), sign = bits >> 16 & 0x8000u;
  const float size = fabsf(v);
  if (size != size) return 0x7FFF;
  if (size >= 65520.0f) return static_cast<unsigned short>(sign | 0x7C00u);
  if (size < 0x1p-14f) return static_cast<unsigned short>(sign | unsigned(rintf(size * 0x1p24f)));
  const unsigned rest = (bits & 0x7FFFFFFFu) - (112u << 23);
  return static_cast<unsigned short>(sign | (rest + 0xFFFu + (rest >> 13 & 1)) >> 13);
}
inline float gpukm_half_value(unsigned short h) { return gpukm_emulator::half_value(h); }
inline unsigned short gpukm_bf16_bits(float v) {
  if (v != v) return 0x7FFF;
  const unsigned bits = __float_as_uint(v);
  return static_cast<unsigned short>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}
inline float gpukm_bf16_value(unsigned short b) { return gpukm_emulator::brain_value(b); }

inline void gpukm_mma_f16(float d[4], const unsigned a[4], const unsigned b[2]) {
  gpukm_emulator::multiply(gpukm_emulator::Kind::half, d, a, b);
}
inline void gpukm_mma_bf16(float d[4], const unsigned a[4], const unsigned b[2]) {
  gpukm_emulator::multiply(gpukm_emulator::Kind::brain, d, a, b);
}
inline void gpukm_mma_tf32(float d[4], const unsigned a[4], const unsigned b[2]) {
  gpukm_emulator::multiply(gpukm_emulator::Kind::tensor, d, a, b);
}
inline void gpukm_ldmatrix_x4(unsigned r[4], const void* p) {
  gpukm_emulator::load(gpukm_emulator::Kind::load, r, p);
}
inline void gpukm_ldmatrix_x4_trans(unsigned r[4], const void* p) {
  gpukm_emulator::load(gpukm_emulator::Kind::load_trans, r, p);
}

// What is under way holds neither the old nor the new until it has been waited for.
inline void gpukm_copy_async16(void* to, const void* from) {
  namespace emulator = gpukm_emulator;
  if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16) {
    emulator::fail("gpukm_copy_async16: from %p to %p, and one is not aligned to 16 bytes", from, to);
  }
  if (!emulator::is_shared(to, 16)) emulator::fail("gpukm_copy_async16: it copies to what is not shared memory");
  emulator::poison(to, 16);
  emulator::Thread& thread = emulator::e.thread[emulator::e.current];
  thread.copies.push_back({to, from, thread.committed});
  emulator::e.copied = true;
}
inline void gpukm_copy_commit() {
  ++gpukm_emulator::e.thread[gpukm_emulator::e.current].committed;
  gpukm_emulator::e.copied = true;
}
template <int N>
inline void gpukm_copy_wait() {
  gpukm_emulator::Thread& thread = gpukm_emulator::e.thread[gpukm_emulator::e.current];
  size_t done = 0;
  for (; done < thread.copies.size(); ++done) {
    const gpukm_emulator::Copy& copy = thread.copies[done];
    if (copy.group + N >= thread.committed) break;
    memcpy(copy.to, copy.from, 16);
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + ptrdiff_t(done));
}

// ---------------------------------------------------------------------------------------------------------- sanitizers
//
// What the compiler was asked to check calls one of these, with data that begins with where it happened.

namespace gpukm_emulator {

struct Place {
  const char* file;
  unsigned line, column;
};
struct Mismatch {
  Place place;
  const void* type;
  unsigned char log_alignment, kind;
};

[[noreturn]] inline void found(const void* data, const char* what) {
  const Place& place = *static_cast<const Place*>(data);
  fail("%s (%s:%u)", what, base_name(place.file), place.line);
}

}  // namespace gpukm_emulator

extern "C" {
#define GPUKM_FOUND(name, what, ...) \
  void __ubsan_handle_##name(void* data, ##__VA_ARGS__) { gpukm_emulator::found(data, what); }
GPUKM_FOUND(out_of_bounds, "an index is beyond the end of its array", void*)
GPUKM_FOUND(shift_out_of_bounds, "a shift by more bits than there are", void*, void*)
GPUKM_FOUND(divrem_overflow, "a division by zero", void*, void*)
GPUKM_FOUND(add_overflow, "a sum overflows", void*, void*)
GPUKM_FOUND(sub_overflow, "a difference overflows", void*, void*)
GPUKM_FOUND(mul_overflow, "a product overflows", void*, void*)
GPUKM_FOUND(negate_overflow, "a negation overflows", void*)
GPUKM_FOUND(float_cast_overflow, "a number is beyond the range of the integer type", void*)
#undef GPUKM_FOUND
void __ubsan_handle_type_mismatch_v1(void* data, void* p) {
  const auto& mismatch = *static_cast<const gpukm_emulator::Mismatch*>(data);
  char what[96];
  snprintf(what, sizeof what, p ? "address %p is not aligned to %u bytes" : "a null pointer is used: %p", p,
           1u << mismatch.log_alignment);
  gpukm_emulator::found(data, what);
}
}

#pragma GCC visibility pop
