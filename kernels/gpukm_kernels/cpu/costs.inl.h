// What ways to label rows cost, and the sample of rows by which they are compared.

// Calls that what is made once should have paid after.
constexpr double kRepaid = 8;

// Rows of a sample of n.
inline int64_t sample_size(int64_t n) {
  constexpr int64_t most = 256, least = 32, each = 1024;
  const int64_t rows = n / each > most ? most : n / each < least ? least : n / each;
  return rows < n ? rows : n;
}

// Nanoseconds, roughly, of one core of a Zen 4; only their ratios matter.
struct Costs {
  double score;    // a row against a centroid
  double look;     // at the lowest bound of a row
  double filter;   // a row that it does not settle: D to its centroid, its groups
  double open;     // a row that these do not settle: its conversion, what is known of it
  double pair;     // to take a row into a group's panel
  double take;     // to take a group's result into a row
  double leave;    // the same where all rows are given bounds
  Costs(int64_t d, int64_t groups, bool integers)
      : score(0.14 + double(d) * (integers ? 0.01 : 0.025)), look(3), filter(15 + double(groups) + 0.2 * double(d)),
        open(40 + 2 * double(groups) + 0.3 * double(d)), pair(8 + 0.06 * double(d)), take(8), leave(8) {}
};
