// Rows of few features in a tree of boxes: where one centroid is the nearest to all of a box, no row in it is looked at
// (Pelleg and Moore, KDD 1999; Kanungo et al., TPAMI 2002). Labels are those of D: a centroid is left out only where it
// is farther than another from every point of the box by more than all roundings, and what is left is compared by D.

constexpr int64_t kTreeFeatures = 8;
constexpr int64_t kLeafRows = 64;        // at most, but for lopsided data
constexpr int64_t kTreeRows = 1 << 14;   // fewer rows are labelled sooner than they are sorted
constexpr int64_t kTaskRows = 1 << 14;
constexpr int kMostTop = 8;              // levels that are cut by one sample, at most; the buckets they make
constexpr int64_t kBucketRows = 1 << 13;  // hold so many rows at least,
constexpr int64_t kKeysABucket = 64;     // and the sample so many for each
constexpr int64_t kMostKeys = 255;       // of a sample that decides where to cut one node
constexpr int64_t kProbeRows = 8;        // rows for each one of the sample that tells whether a tree would pay
// Calls after which a tree should have paid.
constexpr double kTreeRepaid = 16;
// Four times the roundings of a test and of D, in units of the squares compared.
constexpr double kBoxSlack = 0x1p-45;
// Roundings of two paths to float32 and of their difference, in units of the longer one, and among denormals.
constexpr float kPathSlack = 0x1p-21f, kPathLeast = 1e-44f;

// What a leaf's rows were last compared with, and by how much at least they are nearer to their centroid than to the others
// there; once centroids may have moved so far together, the leaf is scored again.
struct Memo {
  static constexpr int kMost = 7;
  int32_t count;  // 0 for nothing known
  float slack;
  int32_t centroid[kMost];
  float path[kMost];
};

// The leaves are as deep as each other. Node i has the children 2i and 2i + 1, and the root is 1.
template <class X>
struct RowTree {
  int64_t n, d;
  int levels;
  Buffer<int64_t> first;   // [nodes] row that a node begins with
  Buffer<X> low, high;     // [nodes][d] box
  Buffer<int32_t> whole;   // [nodes] label of all rows below, or -1
  Buffer<X> rows;          // [n][d] leaf by leaf, and in a leaf feature by feature; then room for a vector
  Buffer<int32_t> at;      // [n] where a row stands in the data
  Buffer<int32_t> label;   // [n]
  Buffer<Memo> memo;       // [leaves]
  Buffer<double> path;     // [k] how far centroids have gone since

  RowTree(int64_t n_, int64_t d_, int64_t k, int64_t leaf_rows)
      : n(n_), d(d_), levels(depth(n_, leaf_rows)), first(2 * leaves()), low(2 * leaves() * d_), high(2 * leaves() * d_),
        whole(2 * leaves()), rows(n_ * d_ + kLanes<double>), at(n_), label(n_), memo(leaves()), path(k) {
    memo.zero();
    path.zero();
    for (int64_t i = 0; i < 2 * leaves(); ++i) whole[i] = -1;
    for (int64_t i = n * d; i < n * d + kLanes<double>; ++i) rows[i] = 0;
  }
  int64_t leaves() const { return int64_t(1) << levels; }
  static int depth(int64_t n, int64_t leaf_rows) {
    int levels = 0;
    while ((n >> levels) > leaf_rows) ++levels;
    return levels;
  }
};

// A row on its way to its leaf.
template <class X, int D>
struct Item {
  X v[D];
  int32_t at;
};

// Where a node is cut.
template <class X>
struct Cut {
  int feature;
  X t;
};

template <class X, int D>
struct TreeBuilder {
  using I = Item<X, D>;
  RowTree<X>& tree;
  I *items, *spare;

  // Along the feature that a sample spreads most in, near its median.
  static Cut<X> choose(const I* p, int64_t n) {
    const int64_t m = n < 256 ? (n < 31 ? n : 31) : n < (1 << 16) ? 63 : kMostKeys;
    int f = 0;
    X spread = -1;
    for (int g = 0; g < D; ++g) {
      X least = p[0].v[g], most = least;
      for (int64_t s = 1; s < m; ++s) {
        const X v = p[s * n / m].v[g];
        least = v < least ? v : least;
        most = v > most ? v : most;
      }
      if (most - least > spread) spread = most - least, f = g;
    }
    X keys[kMostKeys];
    for (int64_t s = 0; s < m; ++s) {
      const X v = p[s * n / m].v[f];
      int64_t i = s;
      for (; i > 0 && keys[i - 1] > v; --i) keys[i] = keys[i - 1];
      keys[i] = v;
    }
    return {f, keys[(m - 1) / 2]};
  }

  // Rows at or below the cut first; returns how many.
  static int64_t partition(I* p, I* above, int64_t n, Cut<X> cut) {
    int64_t l = 0, r = 0;
    for (int64_t i = 0; i < n; ++i) {
      const I item = p[i];
      const bool up = item.v[cut.feature] > cut.t;
      p[l] = item;
      above[r] = item;
      l += !up;
      r += up;
    }
    __builtin_memcpy(p + l, above, size_t(r) * sizeof(I));
    return l;
  }

  // Cuts of the levels above `top`, from a sample in `items`; false where many equal values leave one side next to nothing.
  bool cut_top(int64_t node, int64_t a, int64_t b, Cut<X>* cuts, int64_t buckets) {
    if (node >= buckets) return true;
    const int64_t n = b - a;
    if (n < 4) return false;
    cuts[node] = choose(items + a, n);
    const int64_t split = partition(items + a, spare, n, cuts[node]);
    if (split < n / 4 || n - split < n / 4) return false;
    return cut_top(2 * node, a, a + split, cuts, buckets) && cut_top(2 * node + 1, a + split, b, cuts, buckets);
  }

  void leaf(int64_t node, int64_t a, int64_t b) {
    const int64_t m = b - a;
    X *low = tree.low.data() + node * D, *high = tree.high.data() + node * D, *out = tree.rows.data() + a * D;
    for (int f = 0; f < D; ++f) {
      // Data with many equal values may leave leaves empty: their boxes hold nothing.
      low[f] = X(Limits<X>::most), high[f] = -low[f];
      for (int64_t i = 0; i < m; ++i) {
        const X v = items[a + i].v[f];
        low[f] = v < low[f] ? v : low[f];
        high[f] = v > high[f] ? v : high[f];
        out[f * m + i] = v;
      }
    }
    for (int64_t i = 0; i < m; ++i) tree.at[a + i] = items[a + i].at;
  }

  void join(int64_t node) {
    const X *l = tree.low.data() + 2 * node * D, *h = tree.high.data() + 2 * node * D;
    for (int f = 0; f < D; ++f) {
      tree.low[node * D + f] = l[f] < l[D + f] ? l[f] : l[D + f];
      tree.high[node * D + f] = h[f] > h[D + f] ? h[f] : h[D + f];
    }
  }

  void build(int64_t node, int level, int64_t a, int64_t b) {
    tree.first[node] = a;
    if (level == tree.levels) return leaf(node, a, b);
    const int64_t n = b - a, least = (n + 3) / 4;
    int64_t split = n < 2 ? 0 : partition(items + a, spare + a, n, choose(items + a, n));
    // Many equal values would leave one side next to nothing; any cut is a right one, if not a good one.
    if (n > 1) split = split < least ? least : split > n - least ? n - least : split;
#pragma omp task if (split > kTaskRows)
    build(2 * node, level + 1, a, a + split);
    build(2 * node + 1, level + 1, a + split, b);
#pragma omp taskwait
    join(node);
  }
};

// The buckets of rows [begin, end): which way each goes at the cuts above. Several rows at a time, since each waits for its cuts.
template <class X, int D>
inline void find_buckets(const X* x, int64_t stride, const Cut<X>* cuts, int top, int64_t begin, int64_t end, uint8_t* out) {
  constexpr int kRows = 8;
  for (int64_t i = begin; i < end; i += kRows) {
    const int m = end - i < kRows ? int(end - i) : kRows;
    uint32_t node[kRows];
    for (int r = 0; r < kRows; ++r) node[r] = 1;
    for (int level = 0; level < top; ++level)
      for (int r = 0; r < m; ++r) {
        const Cut<X> cut = cuts[node[r]];
        node[r] = 2 * node[r] + (x[(i + r) * stride * D + cut.feature] > cut.t);
      }
    for (int r = 0; r < m; ++r) out[i + r] = uint8_t(node[r] - (uint32_t(1) << top));
  }
}

// Sorts every `stride`th row into a tree: first into buckets that a cache holds, by cuts that a sample tells.
template <class X, int D>
RowTree<X>* grow_tree(const X* x, int64_t n, int64_t k, int64_t stride, int64_t leaf_rows, int threads) {
  const int64_t taken = (n + stride - 1) / stride, parts = (taken + kTaskRows - 1) / kTaskRows;
  RowTree<X>* tree = new RowTree<X>(taken, D, k, leaf_rows);
  Buffer<Item<X, D>> items(taken), spare(taken);
  TreeBuilder<X, D> builder{*tree, items.data(), spare.data()};
  const auto item = [&](int64_t i) {
    Item<X, D> made;
    __builtin_memcpy(made.v, x + i * stride * D, sizeof made.v);
    made.at = int32_t(i * stride);
    return made;
  };
  int top = 0;
  while (top < kMostTop && (taken >> (top + 1)) >= kBucketRows) ++top;
  Cut<X> cuts[1 << kMostTop];
  if (top) {
    const int64_t m = kKeysABucket << top;
    for (int64_t s = 0; s < m; ++s) items[s] = item(s * taken / m);
    if (!builder.cut_top(1, 0, m, cuts, int64_t(1) << top)) top = 0;
  }
  const int64_t buckets = int64_t(1) << top;
  Buffer<uint8_t> bucket(taken);
  Buffer<int64_t> place(parts * buckets), begin(buckets + 1);
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
#pragma omp for schedule(static)
    for (int64_t c = 0; c < parts; ++c) {
      const int64_t a = c * kTaskRows, b = a + kTaskRows < taken ? a + kTaskRows : taken;
      find_buckets<X, D>(x, stride, cuts, top, a, b, bucket.data());
      int64_t count[1 << kMostTop] = {};
      for (int64_t i = a; i < b; ++i) ++count[bucket[i]];
      for (int64_t t = 0; t < buckets; ++t) place[t * parts + c] = count[t];
    }
#pragma omp single
    {
      int64_t sum = 0;
      for (int64_t t = 0; t < buckets; ++t) {
        begin[t] = sum;
        for (int64_t c = 0; c < parts; ++c) {
          const int64_t count = place[t * parts + c];
          place[t * parts + c] = sum;
          sum += count;
        }
      }
      begin[buckets] = sum;
    }
#pragma omp for schedule(static)
    for (int64_t c = 0; c < parts; ++c) {
      const int64_t a = c * kTaskRows, b = a + kTaskRows < taken ? a + kTaskRows : taken;
      int64_t to[1 << kMostTop];
      for (int64_t t = 0; t < buckets; ++t) to[t] = place[t * parts + c];
      for (int64_t i = a; i < b; ++i) items[to[bucket[i]]++] = item(i);
    }
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < buckets; ++t) builder.build(buckets + t, top, begin[t], begin[t + 1]);
  }
  for (int64_t node = buckets - 1; node > 0; --node) {
    tree->first[node] = tree->first[2 * node];
    builder.join(node);
  }
  return tree;
}

// What one look at a tree took.
struct TreeWork {
  int64_t tests = 0;   // of a centroid against a box
  int64_t scored = 0;  // D of a row and a centroid
};

// Centroids in question, in ascending order, and their coordinates feature by feature, `stride` apart; whole vectors, of
// which the last repeats the first centroid.
struct InQuestion {
  int64_t count, stride;
  int32_t* id;
  double* c;
};

// One thread's walk over a tree. `Dry` only counts.
template <class X, int D, bool Dry>
struct TreeWalk {
  static constexpr int L = kLanes<double>;
  RowTree<X>& tree;
  const float* path;  // [k] how far a centroid has gone
  int32_t* labels;    // in the order of the data
  double inflation;   // boxes are taken so many times wider
  int64_t stride;     // k in whole vectors
  Buffer<int32_t> ids;      // [levels + 2][stride]
  Buffer<double> centroids; // [levels + 2][D][stride]
  Buffer<double> square, beyond;  // [stride]
  TreeWork work;

  TreeWalk(RowTree<X>& tree_, const X* centroids_, const float* path_, int64_t k, int32_t* labels_, double inflation_)
      : tree(tree_), path(path_), labels(labels_), inflation(inflation_), stride((k + L - 1) / L * L),
        ids((tree_.levels + 2) * stride), centroids((tree_.levels + 2) * stride * D), square(stride), beyond(stride) {
    for (int64_t j = 0; j < k; ++j) ids[j] = int32_t(j);
    for (int f = 0; f < D; ++f)
      for (int64_t j = 0; j < stride; ++j) centroids[f * stride + j] = double(centroids_[(j < k ? j : 0) * D + f]);
    all = {k, stride, ids.data(), centroids.data()};
  }
  InQuestion all;

  // Those that may be the nearest to some point of the box, laid behind the others.
  InQuestion filter(int64_t node, const InQuestion& in) {
    Vec<double> middle[D], half[D];
    double corner = 0;
    for (int f = 0; f < D; ++f) {
      const double l = double(tree.low[node * D + f]), h = double(tree.high[node * D + f]), m = 0.5 * l + 0.5 * h;
      const double up = h - m, down = m - l, wide = (up > down ? up : down) * inflation;
      middle[f] = splat(m), half[f] = splat(wide);
      corner += wide * wide;
    }
    Vec<double> least = splat(__builtin_inf());
    for (int64_t q = 0; q < in.count; q += L) {
      Vec<double> sum = Vec<double>{};
      for (int f = 0; f < D; ++f) {
        const Vec<double> diff = middle[f] - load(in.c + f * in.stride + q);
        sum += diff * diff;
      }
      store(square.data() + q, sum);
      least = vmin(least, sum);
    }
    double nearest = least[0];
    for (int r = 1; r < L; ++r) nearest = least[r] < nearest ? least[r] : nearest;
    int64_t best = 0;
    while (square[best] != nearest) ++best;
    // |x - c|^2 - |x - z|^2 = |m - c|^2 - |m - z|^2 + 2 (x - m)(z - c) for the middle m, and the nearest centroid z to it
    Vec<double> z[D];
    for (int f = 0; f < D; ++f) z[f] = splat(in.c[f * in.stride + best]);
    const Vec<double> slack = splat(nearest + kBoxSlack * (3 * nearest + 2 * corner) + 1e-290);
    for (int64_t q = 0; q < in.count; q += L) {
      Vec<double> reach = Vec<double>{};
      for (int f = 0; f < D; ++f) reach += half[f] * absolute(z[f] - load(in.c + f * in.stride + q));
      const Vec<double> s = load(square.data() + q), twice = reach + reach;
      store(beyond.data() + q, (s - twice) - (slack + splat(kBoxSlack) * (s + twice)));
    }
    InQuestion out = {0, 0, in.id + in.stride, in.c + in.stride * D};
    for (int64_t q = 0; q < in.count; ++q) {
      out.id[out.count] = int32_t(q);
      out.count += !(beyond[q] > 0) || q == best;
    }
    out.stride = (out.count + L - 1) / L * L;
    for (int f = 0; f < D; ++f)
      for (int64_t q = 0; q < out.stride; ++q)
        out.c[f * out.stride + q] = in.c[f * in.stride + out.id[q < out.count ? q : 0]];
    for (int64_t q = 0; q < out.count; ++q) out.id[q] = in.id[out.id[q]];
    work.tests += in.count;
    return out;
  }

  void put(int64_t i, int32_t c) {
    if (tree.label[i] == c) return;
    tree.label[i] = c;
    labels[tree.at[i]] = c;
  }

  // D of a vector of rows, with the lanes of exact_distance left out that hold +0.
  static Vec<double> squared_distance(const Vec<double>* x, const double* c, int64_t stride) {
    Vec<double> s[4] = {};
    for (int f = 0; f < D; ++f) {
      const Vec<double> diff = x[f] - splat(c[f * stride]);
      s[f % 4] = f < 4 ? diff * diff : s[f % 4] + diff * diff;
    }
    if (D == 1) return s[0];
    if (D == 2) return s[0] + s[1];
    if (D == 3) return (s[0] + s[2]) + s[1];
    return (s[0] + s[2]) + (s[1] + s[3]);
  }

  // Whether no label of a leaf can have changed since it was scored.
  bool settled(const Memo& memo, const InQuestion& in) const {
    float most = 0, next = 0, longest = 0;
    int64_t known = 0;
    // Both are in ascending order. A centroid that is not in question any more may be the one that rows belonged to.
    for (int i = 0; i < memo.count; ++i) {
      const float now = path[memo.centroid[i]], moved = now - memo.path[i];
      longest = now > longest ? now : longest;
      next = moved > most ? most : moved > next ? moved : next;
      most = moved > most ? moved : most;
      known += known < in.count && in.id[known] == memo.centroid[i];
    }
    if (known < in.count || memo.count == 0) return false;
    // One centroid comes nearer, another goes away.
    return memo.slack > most + next + kPathSlack * longest + kPathLeast;
  }

  // Labels a leaf's rows by D among a few centroids, ties to the first.
  void score(Memo& memo, int64_t a, int64_t m, const InQuestion& in) {
    typedef typename VecOf<int32_t, L>::type Labels;
    const X* rows = tree.rows.data() + a * D;
    Vec<double> gap = splat(__builtin_inf()), farthest = Vec<double>{};
    for (int64_t i = 0; i < m; i += L) {
      // A vector that would reach past the end begins with rows that were scored before.
      const int64_t at = i + L <= m || m < L ? i : m - L;
      Vec<double> x[D], best = splat(__builtin_inf()), second = best, place = Vec<double>{};
      for (int f = 0; f < D; ++f) x[f] = widen(rows + f * m + at);
      for (int64_t q = 0; q < in.count; ++q) {
        const Vec<double> v = squared_distance(x, in.c + q, in.stride);
        place = less_select(v, best, splat(double(in.id[q])), place);
        second = vmin(second, vmax(v, best));
        best = vmin(v, best);
      }
      if (m < L) {
        // Lanes past the end hold other rows' values, or nothing.
        for (int64_t r = 0; r < m; ++r) put(a + r, int32_t(place[r]));
        memo.count = 0;
        return;
      }
      gap = vmin(gap, second - best);
      farthest = vmax(farthest, second);
      const Labels now = __builtin_convertvector(place, Labels);
      Labels before;
      __builtin_memcpy(&before, tree.label.data() + a + at, sizeof before);
      const Labels differ = now ^ before;
      int32_t any = 0;
      for (int r = 0; r < L; ++r) any |= differ[r];
      if (any)
        for (int r = 0; r < L; ++r) put(a + at + r, now[r]);
    }
    memo.count = 0;
    if (in.count > Memo::kMost) return;
    memo.count = int32_t(in.count);
    for (int32_t q = 0; q < memo.count; ++q) memo.centroid[q] = in.id[q], memo.path[q] = path[in.id[q]];
    double least = gap[0], most = farthest[0];
    for (int r = 1; r < L; ++r) {
      least = gap[r] < least ? gap[r] : least;
      most = farthest[r] > most ? farthest[r] : most;
    }
    // sqrt(b) - sqrt(a) >= (b - a) / (2 sqrt(b)), less what D's roundings make of it.
    const double root = __builtin_sqrt(most);
    memo.slack = root > 0 ? float((least / (2 * root)) * (1 - 0x1p-20) - 0x1p-40 * root) : 0;
  }

  // A node of the rows from `begin` to `end`.
  void visit(int64_t node, int level, const InQuestion& in, int64_t begin, int64_t end) {
    if (begin == end) return;
    const InQuestion left = filter(node, in);
    int32_t& whole = tree.whole[node];
    if (left.count == 1) {
      if (Dry || whole == left.id[0]) return;
      for (int64_t i = begin; i < end; ++i) put(i, left.id[0]);
      whole = left.id[0];
      // Leaves below may remember other labels.
      const int below = tree.levels - level;
      for (int64_t leaf = node << below; leaf < (node + 1) << below; ++leaf) tree.memo[leaf - tree.leaves()].count = 0;
      return;
    }
    if (level == tree.levels) {
      whole = -1;
      Memo& memo = tree.memo[node - tree.leaves()];
      if (!Dry && settled(memo, left)) return;
      work.scored += left.count * (end - begin);
      if (!Dry) score(memo, begin, end - begin, left);
      return;
    }
    if (whole >= 0) {
      tree.whole[2 * node] = tree.whole[2 * node + 1] = whole;
      whole = -1;
    }
    const int64_t middle = tree.first[2 * node + 1];
    visit(2 * node, level + 1, left, begin, middle);
    visit(2 * node + 1, level + 1, left, middle, end);
  }
};

// Walks over a tree, subtree by subtree.
template <bool Dry, int D, class X>
TreeWork walk_tree(RowTree<X>& tree, const X* centroids, const float* path, int64_t k, int32_t* labels, double inflation,
                   int threads) {
  int level = 0;
  while (level < tree.levels && (int64_t(1) << level) < 16 * threads) ++level;
  const int64_t subtrees = int64_t(1) << level;
  // The number of threads may be another one than before, and so may be where walks begin.
  for (int64_t i = 1; i < subtrees && !Dry; ++i) {
    if (tree.whole[i] < 0) continue;
    tree.whole[2 * i] = tree.whole[2 * i + 1] = tree.whole[i];
    tree.whole[i] = -1;
  }
  TreeWork total;
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    TreeWalk<X, D, Dry> walk(tree, centroids, path, k, labels, inflation);
#pragma omp for schedule(dynamic)
    for (int64_t s = 0; s < subtrees; ++s) {
      const int64_t node = subtrees + s;
      walk.visit(node, level, walk.all, tree.first[node], s + 1 < subtrees ? tree.first[node + 1] : tree.n);
    }
#pragma omp critical(gpukm_tree)
    {
      total.tests += walk.work.tests;
      total.scored += walk.work.scored;
    }
  }
  return total;
}

template <int N>
struct Int {
  static constexpr int value = N;
};

template <class F>
inline void with_features(int64_t d, F f) {
  switch (d) {
    case 1: return f(Int<1>{});
    case 2: return f(Int<2>{});
    case 3: return f(Int<3>{});
    case 4: return f(Int<4>{});
    case 5: return f(Int<5>{});
    case 6: return f(Int<6>{});
    case 7: return f(Int<7>{});
    case 8: return f(Int<8>{});
  }
}

// Nanoseconds, roughly, of one core of a Zen 4; only their ratios matter.
struct TreeCosts {
  double test, score, build;
  TreeCosts(int64_t d, int levels)
      : test(6 + double(d)), score(0.5 + 0.2 * double(d)), build(double(levels) * (2 + 0.5 * double(d))) {}
};

// Whether a tree would soon have paid, against labelling all rows at `plain` nanoseconds a row: a sample in a tree of as many
// leaves tells how many centroids are in question in each. Boxes of few rows are smaller than those of many.
template <class X>
bool tree_pays(const X* x, int64_t n, int64_t d, const X* centroids, int64_t k, double plain, int threads) {
  constexpr int64_t few = kLeafRows / kProbeRows;
  // Where sorting alone would take too long nothing needs to be asked.
  const TreeCosts costs(d, RowTree<X>::depth(n, kLeafRows));
  if (costs.build / kTreeRepaid >= 0.8 * plain) return false;
  TreeWork work;
  int64_t taken = 0;
  with_features(d, [&](auto features) {
    constexpr int D = decltype(features)::value;
    RowTree<X>* tree = grow_tree<X, D>(x, n, k, kProbeRows, few, threads);
    work = walk_tree<true, D>(*tree, centroids, static_cast<const float*>(nullptr), k, static_cast<int32_t*>(nullptr),
                              double(few + 1) / double(few - 1), threads);
    taken = tree->n;
    delete tree;
  });
  const double once = double(work.tests) / double(n) * costs.test + double(work.scored) / double(taken) * costs.score;
  return once + costs.build / kTreeRepaid < 0.8 * plain;
}

template <class X>
RowTree<X>* make_tree(const X* x, int64_t n, int64_t d, int64_t k, const int32_t* labels, int threads) {
  RowTree<X>* tree = nullptr;
  with_features(d, [&](auto features) { tree = grow_tree<X, decltype(features)::value>(x, n, k, 1, kLeafRows, threads); });
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; ++i) tree->label[i] = labels[tree->at[i]];
  return tree;
}

// Labels rows by a tree whose centroids were `previous` in the call before.
template <class X>
TreeWork follow_tree(RowTree<X>& tree, const X* centroids, const X* previous, int64_t k, int32_t* labels, int threads) {
  TreeWork work;
  Buffer<float> path(k);
  for (int64_t j = 0; j < k; ++j) {
    tree.path[j] += __builtin_sqrt(exact_distance(centroids + j * tree.d, previous + j * tree.d, tree.d)) * (1 + 0x1p-40);
    path[j] = float(tree.path[j]);
  }
  with_features(tree.d, [&](auto features) {
    work = walk_tree<false, decltype(features)::value>(tree, centroids, path.data(), k, labels, 1, threads);
  });
  return work;
}
