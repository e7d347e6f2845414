// Screens by the matrix units, from compute capability 8.0 on; the same as screen.cu's otherwise.
//
// A score is |c'|^2 / 2 + x'.(-c'): sums begin with half_norms, and c_values are negated. Four warps take 128 rows and
// go through all centroids, 128 at a time; a warp has 64 rows by 64 centroids, a thread 8 of these by 16 centroids.
// A thread keeps what it knows of its own centroids in registers until all are seen, and only then threads compare.
//
// Where there are many tiles, `find_tiles` finds the one of each row's least score by minima alone; rows come tile by tile
// then, and `label_within` looks for their centroids there. There, and where `label` goes through all tiles at once, the
// lowest bits of a score are replaced by the place among the thread's 16, so that a minimum carries it along.
//
// Centroids come in whole tiles: what fills the last one up are zeros that lie nowhere. Features go through shared memory
// 32 at a time, loaded two pieces ahead; what is loaded for rows stays there where `resident` says that all of it has
// room. A piece is 128 vectors of 64 bytes, their four parts of 16 bytes exchanged such that the eight that are read at
// once lie in different banks.
#include "screen.cuh"

constexpr int kThreads = 128, kTile = 128, kDeep = 32, kStages = 3;
constexpr int kPiece = kTile * kDeep;                           // halves
constexpr int kCopied = kPiece / 8 / kThreads;                  // vectors of which a thread copies a part
constexpr int kMine = 16, kPlaceBits = 4, kPlaces = kMine - 1;  // a thread's centroids of a tile, for each of its rows
constexpr int kRows = 8;                                        // a thread's rows

// Taken for a score where there is no centroid, and for half a norm at most: a bound below is still one. An upper bound
// from kBeyond on may be of such a score, and counts as none.
constexpr float kFar = 0x1p126f, kBeyond = 0x1p125f;

// Shared memory: half norms of two tiles, pieces of centroids, pieces of rows.
struct Shared {
  float (*half)[kTile];
  unsigned short *centroids, *rows;
};

__device__ inline Shared shared_parts() {
  GPUKM_SHARED(unsigned char, bytes);
  Shared s;
  s.half = reinterpret_cast<float(*)[kTile]>(bytes);
  s.centroids = reinterpret_cast<unsigned short*>(bytes + 2 * kTile * sizeof(float));
  s.rows = s.centroids + kStages * kPiece;
  return s;
}

// Where part `part` (eight halves) of vector `vector` lies in a piece.
__device__ inline int swizzled(int vector, int part) { return vector * kDeep + ((part ^ (vector >> 1 & 3)) << 3); }

// Of the thread's place in the block: where its rows and centroids lie in a tile.
struct Place {
  int row, column;  // of the warp's 64 by 64, the first that the thread holds
  __device__ Place() {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    row = (warp >> 1) * 64 + (lane >> 2);
    column = (warp & 1) * 64 + (lane & 3) * 2;
  }
  __device__ int row_of(int i) const { return row + i * 8; }
  __device__ int column_of(int j) const { return column + (j >> 1) * 8 + (j & 1); }
};

// Vectors are of float16, but where rows are of bfloat16.
template <class T>
__device__ inline void multiply(T, float d[4], const unsigned a[4], const unsigned b[2]) {
  gpukm_mma_f16(d, a, b);
}
__device__ inline void multiply(gpukm_brain, float d[4], const unsigned a[4], const unsigned b[2]) {
  gpukm_mma_bf16(d, a, b);
}

// Scores of one tile: of row i and centroid j, [i / 2][j / 2][i % 2 * 2 + j % 2].
typedef float Scores[kRows / 2][kMine / 2][4];

// Goes through the tiles begin .. end; done(tile, scores) after each. `rows` are the vectors that this thread copies a
// part of, threadIdx.x / 4 + 32 i of the block's, from that part on. All threads must have left shared memory.
template <class Done>
__device__ __forceinline__ void sweep(const unsigned short* const (&rows)[kCopied], const unsigned short* c_values,
                                      const float* half_norms, int pitch, bool resident, int begin, int end,
                                      Done done) {
  const Shared shared = shared_parts();
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int pieces = (pitch + kDeep - 1) / kDeep;
  const int vector = threadIdx.x >> 2, part = threadIdx.x & 3, to = swizzled(vector, part);

  // What is loaded next, and the stage it goes to.
  int next_tile = begin, next_piece = 0, next_stage = 0;
  const auto load = [&] {
    if (next_tile < end) {
      const int f = next_piece * kDeep;
      if (f + part * 8 < pitch) {
        unsigned short* const b = shared.centroids + next_stage * kPiece + to;
#pragma unroll
        for (int i = 0; i < kCopied; ++i) {
          const long long j = next_tile * static_cast<long long>(kTile) + vector + i * (kTile / kCopied);
          gpukm_copy_async16(b + i * (kPiece / kCopied), c_values + j * pitch + f + part * 8);
        }
        if (!resident || next_tile == begin) {
          unsigned short* const a = shared.rows + (resident ? next_piece : next_stage) * kPiece + to;
#pragma unroll
          for (int i = 0; i < kCopied; ++i) gpukm_copy_async16(a + i * (kPiece / kCopied), rows[i] + f);
        }
      }
      if (++next_piece == pieces) next_piece = 0, ++next_tile;
      if (++next_stage == kStages) next_stage = 0;
    }
    gpukm_copy_commit();
  };
  const auto half_of = [&](int tile) {
    return tile < end ? fminf(half_norms[tile * static_cast<long long>(kTile) + threadIdx.x], kFar) : kFar;
  };

  // Where the lane's matrices begin: of 16 rows by 16 features the four quarters, down and then to the right; of 16
  // centroids by 16 features, to the right and then down.
  const int a_at = swizzled((warp >> 1) * 64 + (lane & 15), lane >> 4);
  const int b_at = swizzled((warp & 1) * 64 + (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
  const int column = Place().column;

#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) load();
  shared.half[begin & 1][threadIdx.x] = half_of(begin);
  int stage = 0;
  for (int tile = begin; tile < end; ++tile) {
    Scores scores;
    const float half = half_of(tile + 1);
    for (int piece = 0; piece < pieces; ++piece) {
      gpukm_copy_wait<kStages - 2>();
      // What was loaded is there for all, and the stage to be loaded is left by all.
      __syncthreads();
      load();
      if (piece == 0) {
#pragma unroll
        for (int j = 0; j < kMine / 2; ++j) {
          const float2 h = *reinterpret_cast<const float2*>(&shared.half[tile & 1][column + j * 8]);
#pragma unroll
          for (int i = 0; i < kRows / 2; ++i) {
            scores[i][j][0] = scores[i][j][2] = h.x;
            scores[i][j][1] = scores[i][j][3] = h.y;
          }
        }
      }
      const unsigned short* const a = shared.rows + (resident ? piece : stage) * kPiece;
      const unsigned short* const b = shared.centroids + stage * kPiece;
#pragma unroll
      for (int step = 0; step < kDeep / 16; ++step) {
        if (step && piece * kDeep + step * 16 >= pitch) break;
        const int beside = step * 16;  // a part's number has this bit inverted, whatever it was exchanged with
        unsigned x[kRows / 2][4];
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) gpukm_ldmatrix_x4(x[i], a + (a_at ^ beside) + i * 16 * kDeep);
#pragma unroll
        for (int j = 0; j < kMine / 2; j += 2) {
          unsigned c[4];
          gpukm_ldmatrix_x4(c, b + (b_at ^ beside) + j * 8 * kDeep);
#pragma unroll
          for (int i = 0; i < kRows / 2; ++i) {
            multiply(row_t(), scores[i][j], x[i], c);
            multiply(row_t(), scores[i][j + 1], x[i], c + 2);
          }
        }
      }
      if (++stage == kStages) stage = 0;
    }
    shared.half[(tile + 1) & 1][threadIdx.x] = half;
    done(tile, scores);
  }
}

// Errors of a tile, arranged to take three operations a row. No number counts as infinite.
struct TileErrors {
  float always, by_residual, by_reach, by_square;

  __device__ TileErrors(const Errors& e, float C, float t) {
    const float c_reach = C + t, tiny = e.tiny * (1 + c_reach);
    always = 1.0625f * (e.norm * C * C + tiny);
    by_residual = (1 + 0x1p-20f) * C;
    by_reach = 1.0625f * (e.product * c_reach + tiny) + (1 + 0x1p-20f) * t;
    by_square = 1.0625f * e.row;
  }
  __device__ float operator()(float reach, float residual) const {
    const float error = fmaf(fmaf(by_square, reach, by_reach), reach, fmaf(by_residual, residual, always));
    return error < infinite() ? error : infinite();
  }
};

// What is known of a row: the centroid of the lowest upper bound, that bound, and a bound of all others: the lowest of
// their lower bounds, or with `two` of their upper ones. `own` is what the best would bring to it.
struct Best {
  float upper = infinite(), own = infinite(), rest = infinite();
  int at = 0;

  __device__ void join(float o_upper, float o_own, float o_rest, int o_at) {
    const bool closer = o_upper < upper;
    rest = fminf(fminf(rest, o_rest), closer ? own : o_own);
    if (closer) upper = o_upper, own = o_own, at = o_at;
  }
  // With what the lane `step` apart knows, both ways.
  __device__ void exchange(int step) {
    const float o_upper = __shfl_xor_sync(kAll, upper, step), o_own = __shfl_xor_sync(kAll, own, step);
    const float o_rest = __shfl_xor_sync(kAll, rest, step);
    join(o_upper, o_own, o_rest, __shfl_xor_sync(kAll, at, step));
  }
};

// Of what the threads know of their rows, all that is known of row threadIdx.x of the block.
__device__ inline Best together(Best (&best)[kRows], const Place& place) {
  // All have read the last piece, and what was loaded has been waited for.
  __syncthreads();
  float4(*const found)[kTile] = reinterpret_cast<float4(*)[kTile]>(shared_parts().centroids);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    best[i].exchange(1);
    best[i].exchange(2);
    if ((threadIdx.x & 3) == 0) {
      found[threadIdx.x >> 5 & 1][place.row_of(i)] =
          make_float4(best[i].upper, best[i].own, best[i].rest, __int_as_float(best[i].at));
    }
  }
  __syncthreads();
  const float4 one = found[0][threadIdx.x], other = found[1][threadIdx.x];
  Best all;
  all.upper = one.x, all.own = one.y, all.rest = one.z, all.at = __float_as_int(one.w);
  all.join(other.x, other.y, other.z, __float_as_int(other.w));
  return all;
}

// tile_of, rest_of (n,): the tile of the row's lowest upper bound, and a bound that scores in other tiles do not fall
// below. Nothing is done where *stop (may be null) is set. Rows are `resident` where shared memory holds
// ceil(pitch / 32) pieces of them besides three of centroids; else it holds three.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    find_tiles(const unsigned short* values, const float* norms, const float* residuals, const unsigned short* c_values,
               const float* half_norms, const float* largest, const float* c_residual, float by_product, float by_norm,
               float by_row, float tiny, int* tile_of, float* rest_of, const int* stop, long long n, int k, int pitch,
               int resident) {
  if (stop && *stop) return;
  const Errors errors{by_product, by_norm, by_row, tiny};
  const Place place;
  for GPUKM_SHARE (block, (n + kTile - 1) / kTile) {
    const long long first = block * kTile;
    const unsigned short* rows[kCopied];
#pragma unroll
    for (int i = 0; i < kCopied; ++i) {
      const long long row = first + (threadIdx.x >> 2) + i * (kTile / kCopied);
      rows[i] = values + (row < n ? row : n - 1) * pitch + (threadIdx.x & 3) * 8;
    }
    float reach[kRows], residual[kRows];
    Best best[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const long long row = first + place.row_of(i) < n ? first + place.row_of(i) : n - 1;
      residual[i] = residuals[row], reach[i] = norms[row] + residual[i];
    }
    sweep(rows, c_values, half_norms, pitch, resident, 0, (k + kTile - 1) / kTile, [&](int tile, Scores& scores) {
      const TileErrors error_of(errors, largest[tile], c_residual[tile]);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float least = infinite();
#pragma unroll
        for (int j = 0; j < kMine; ++j) least = fminf(least, scores[i >> 1][j >> 1][(i & 1) * 2 + (j & 1)]);
        const float error = error_of(reach[i], residual[i]);
        best[i].join(least + error, least - error, infinite(), tile);
      }
    });
    const Best all = together(best, place);
    const long long row = first + threadIdx.x;
    if (row < n) tile_of[row] = all.at, rest_of[row] = all.rest;
    // The next block's pieces take the place of what was read here.
    __syncthreads();
  }
}

// What labelling is given besides vectors and errors. `order` tells which centroid stands where; labels, threshold (n,):
// what the row's nearest, or with `two` its second nearest, does not exceed. All rows are listed with `two`.
struct Labelling {
  const int* order;
  int* labels;
  float* threshold;
  long long* listed;
  unsigned long long* n_listed;
  int two;
};

// Labels rows, and lists those that are not settled; with kWithin rows come in the order of in_turn, tile by tile, and
// look for centroids in tile_of[row] alone, others being known by rest_of[row].
template <bool kWithin>
__device__ __forceinline__ void label_rows(const unsigned short* values, const float* norms, const float* residuals,
                                           const unsigned short* c_values, const float* half_norms,
                                           const float* largest, const float* c_residual, const Errors& errors,
                                           const Labelling& to, const int* in_turn, const int* tile_of,
                                           const float* rest_of, long long n, int k, int pitch, int resident) {
  const Place place;
  for GPUKM_SHARE (block, (n + kTile - 1) / kTile) {
    const long long first = block * kTile;
    const auto row_at = [&](int place_in_block) -> long long {
      const long long at = first + place_in_block < n ? first + place_in_block : n - 1;
      return kWithin ? in_turn[at] : at;
    };
    const unsigned short* rows[kCopied];
#pragma unroll
    for (int i = 0; i < kCopied; ++i)
      rows[i] = values + row_at((threadIdx.x >> 2) + i * (kTile / kCopied)) * pitch + (threadIdx.x & 3) * 8;
    float reach[kRows], residual[kRows];
    int tile_in[kRows];
    Best best[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const long long row = row_at(place.row_of(i));
      residual[i] = residuals[row], reach[i] = norms[row] + residual[i];
      tile_in[i] = kWithin ? tile_of[row] : 0;
    }
    const int begin = kWithin ? tile_of[row_at(0)] : 0;
    const int end = kWithin ? tile_of[row_at(kTile - 1)] + 1 : (k + kTile - 1) / kTile;
    sweep(rows, c_values, half_norms, pitch, resident, begin, end, [&](int tile, Scores& scores) {
      const TileErrors error_of(errors, largest[tile], c_residual[tile]);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float least = infinite(), next = infinite();
#pragma unroll
        for (int j = 0; j < kMine; ++j) {
          const int bits = __float_as_int(scores[i >> 1][j >> 1][(i & 1) * 2 + (j & 1)]);
          const float s = __int_as_float((bits & ~kPlaces) | j);
          if (j > 0) next = fminf(next, fmaxf(least, s));
          least = fminf(least, s);
        }
        const float error = error_of(reach[i], residual[i]), other = to.two ? error : -error;
        if (!kWithin || tile == tile_in[i])
          best[i].join(least + error, least + other, next + other,
                       (tile << kPlaceBits) | (__float_as_int(least) & kPlaces));
      }
    });
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      best[i].at = (best[i].at >> kPlaceBits) * kTile + place.column_of(best[i].at & kPlaces);
    Best all = together(best, place);
    const bool there = first + threadIdx.x < n;
    const long long row = row_at(threadIdx.x);
    if (kWithin) all.rest = fminf(all.rest, rest_of[row]);
    const float limit = to.two ? all.rest : all.upper;
    const bool known = limit < kBeyond;
    if (there) {
      to.labels[row] = to.order[all.at < k ? all.at : 0];
      to.threshold[row] = known ? limit : infinite();
    }
    // Their order in the list is of no matter: each is decided by itself.
    const bool open = there && (to.two || !known || !(all.upper < all.rest));
    const unsigned lanes = __ballot_sync(kAll, open);
    if (lanes) {
      const int lane = threadIdx.x & 31;
      unsigned long long at = 0;
      if (lane == 0) at = atomicAdd(to.n_listed, static_cast<unsigned long long>(__popc(lanes)));
      at = __shfl_sync(kAll, at, 0);
      if (open) to.listed[at + __popc(lanes & ((1u << lane) - 1))] = row;
    }
    // The next block's pieces take the place of what was read here.
    __syncthreads();
  }
}

// All rows against all centroids; nothing is done where *stop (may be null) is set.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    label(const unsigned short* values, const float* norms, const float* residuals, const unsigned short* c_values,
          const float* half_norms, const float* largest, const float* c_residual, float by_product, float by_norm,
          float by_row, float tiny, const int* order, int* labels, float* threshold, long long* listed,
          unsigned long long* n_listed, int two, const int* stop, long long n, int k, int pitch, int resident) {
  if (stop && *stop) return;
  label_rows<false>(values, norms, residuals, c_values, half_norms, largest, c_residual,
                    Errors{by_product, by_norm, by_row, tiny},
                    Labelling{order, labels, threshold, listed, n_listed, two}, nullptr, nullptr, nullptr, n, k, pitch,
                    resident);
}

// Each row in its tile.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    label_within(const unsigned short* values, const float* norms, const float* residuals,
                 const unsigned short* c_values, const float* half_norms, const float* largest, const float* c_residual,
                 float by_product, float by_norm, float by_row, float tiny, const int* order, int* labels,
                 float* threshold, long long* listed, unsigned long long* n_listed, const int* in_turn,
                 const int* tile_of, const float* rest_of, const int* stop, long long n, int k, int pitch,
                 int resident) {
  if (stop && *stop) return;
  label_rows<true>(values, norms, residuals, c_values, half_norms, largest, c_residual,
                   Errors{by_product, by_norm, by_row, tiny}, Labelling{order, labels, threshold, listed, n_listed, 0},
                   in_turn, tile_of, rest_of, n, k, pitch, resident);
}

// Pairs of a listed row and each centroid whose lower bound its threshold does not exclude, by place in the list.
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    pairs(const unsigned short* values, const float* norms, const float* residuals, const unsigned short* c_values,
          const float* half_norms, const float* largest, const float* c_residual, float by_product, float by_norm,
          float by_row, float tiny, const int* order, const float* threshold, const long long* listed,
          const unsigned long long* n_listed, int* pair_places, int* pair_centroids, unsigned long long* n_pairs,
          long long room, unsigned char* crowded, int k, int pitch, int resident) {
  const Errors errors{by_product, by_norm, by_row, tiny};
  const Place place;
  const int lane = threadIdx.x & 31;
  const long long n = static_cast<long long>(*n_listed);
  for GPUKM_SHARE (block, (n + kTile - 1) / kTile) {
    const long long first = block * kTile;
    const unsigned short* rows[kCopied];
#pragma unroll
    for (int i = 0; i < kCopied; ++i) {
      const long long at = first + (threadIdx.x >> 2) + i * (kTile / kCopied);
      rows[i] = values + listed[at < n ? at : n - 1] * pitch + (threadIdx.x & 3) * 8;
    }
    float reach[kRows], residual[kRows], limit[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const long long row = listed[first + place.row_of(i) < n ? first + place.row_of(i) : n - 1];
      residual[i] = residuals[row], reach[i] = norms[row] + residual[i], limit[i] = threshold[row];
    }
    sweep(rows, c_values, half_norms, pitch, resident, 0, (k + kTile - 1) / kTile, [&](int tile, Scores& scores) {
      const TileErrors error_of(errors, largest[tile], c_residual[tile]);
      unsigned there = (1u << kMine) - 1;
      if (tile * static_cast<long long>(kTile) + kTile > k) {
#pragma unroll
        for (int j = 0; j < kMine; ++j) {
          if (tile * kTile + place.column_of(j) >= k) there &= ~(1u << j);
        }
      }
      unsigned left[kRows];
      int mine = 0;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float beyond = limit[i] + error_of(reach[i], residual[i]);
        left[i] = 0;
#pragma unroll
        for (int j = 0; j < kMine; ++j) {
          // Not the other way round: a bound that is no number excludes nothing.
          if (!(scores[i >> 1][j >> 1][(i & 1) * 2 + (j & 1)] > beyond)) left[i] |= 1u << j;
        }
        left[i] &= first + place.row_of(i) < n ? there : 0u;
        mine += __popc(left[i]);
      }
      if (!__any_sync(kAll, mine)) return;
      int before = mine;
#pragma unroll
      for (int step = 1; step < 32; step <<= 1) {
        const int more = __shfl_up_sync(kAll, before, step);
        if (lane >= step) before += more;
      }
      unsigned long long begin = 0;
      if (lane == 31) begin = atomicAdd(n_pairs, static_cast<unsigned long long>(before));
      long long at = static_cast<long long>(__shfl_sync(kAll, begin, 31)) + before - mine;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int where = int(first) + place.row_of(i);
        for (; left[i]; left[i] &= left[i] - 1, ++at) {
          if (at < room) {
            pair_places[at] = where;
            pair_centroids[at] = order[tile * kTile + place.column_of(__ffs(int(left[i])) - 1)];
          } else {
            crowded[where] = 1;
          }
        }
      }
    });
    // The next block's pieces take the place of what was read here.
    __syncthreads();
  }
}
