// How fast this machine multiplies and adds: independent chains of fused multiply-adds in registers, no memory.
// Usage: fma THREADS SECONDS; prints multiply-adds a second, all threads together.

#include <omp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

typedef float vector __attribute__((vector_size(32)));
constexpr int chains = 12, rounds = 1 << 16;  // more chains than latency times issue width, fewer than registers

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// `from` makes every call depend on the one before; else the compiler makes one call of all.
float work(float from) {
    vector sum[chains], factor, addend;
    for (int lane = 0; lane < 8; lane++) factor[lane] = 0.999f, addend[lane] = 0.001f * lane + from;
    for (vector& s : sum) s = addend;
    for (int i = 0; i < rounds; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < chains; j++) sum[j] = sum[j] * factor + addend;
    }
    float total = 0;
    for (vector& s : sum) total += s[0];
    return total;
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) return std::fputs("usage: fma THREADS SECONDS\n", stderr), 2;
    const int threads = std::atoi(words[1]);
    const double seconds = std::atof(words[2]);
    double done = 0, took = 0;
    float sink = 0;
#pragma omp parallel num_threads(threads) reduction(+ : done, sink) reduction(max : took)
    {
        sink = work(sink);  // wakes the thread up
#pragma omp barrier
        const double began = now();
        do {
            sink = 1e-3f * work(sink);
            done += 8.0 * chains * rounds;
            took = now() - began;
        } while (took < seconds);
    }
    std::printf("%.6e\n", done / took);
    return sink == 12345.678f;  // so that the work is not optimised away
}
