// The product of product.h on the matrix units of AMX: 16 x 16 sums and 32 pairs of bfloat16 an
// instruction.
//
// Included by instruction_set.h inside its namespace, where ULMFIT_FAST_HAS_TILES is defined.
//
// Layout    panels and rows as for Pair; K a multiple of kTileDepth, filled up with zeros. Rows are
//           read, and out is written, up to the next multiple of kTileRows.
// Mapping   2 x 2 tiles of sums, 2 tiles of rows and 2 of the panel: all 8 there are. Of the 4 loads
//           to 4 products the products take twice as long, as long as what they read is near.
// Numbers   sums in float32, k ascending.
// Source    Intel Architecture Instruction Set Extensions Programming Reference, chapter 3.

struct Tiles {};
template <>
struct OperandTraits<Tiles> {
  using Compute = float;
  using Element = c10::BFloat16;
};

inline constexpr int64_t kTileDepth = 32, kTileRows = 32;

// Palette 1: every tile has 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t n_rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A thread's right to the tiles, for its life. Whoever else uses them configures them anew.
struct TileScope {
  TileScope() {
    static constexpr TileConfig config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileScope() { asm volatile("tilerelease" ::: "memory"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// The compiler's intrinsics do not say that memory is read: it could move a store past them.
#define ULMFIT_FAST_TILE_LOAD(tile, base, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(base), "r"(stride) : "memory")
#define ULMFIT_FAST_TILE_STORE(tile, base, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(base), "r"(stride) : "memory")
#define ULMFIT_FAST_TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile::)
#define ULMFIT_FAST_TILE_PRODUCT(sums, rows, columns) \
  asm volatile("tdpbf16ps %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sums::)

template <>
struct Product<Tiles> {
  using Scope = TileScope;
  static constexpr int64_t kDepth = kTileDepth, kReadRows = kTileRows;
  static constexpr bool kIsSlow = false;

  static void multiply(int64_t n_rows, int64_t K, const c10::BFloat16* a, int64_t stride,
                       const c10::BFloat16* panel, float* out) {
    run<false>(n_rows, K, a, stride, panel, out);
  }

  // out += the product.
  static void add(int64_t n_rows, int64_t K, const c10::BFloat16* a, int64_t stride,
                  const c10::BFloat16* panel, float* out) {
    run<true>(n_rows, K, a, stride, panel, out);
  }

 private:
  template <bool kAdd>
  static void run(int64_t n_rows, int64_t K, const c10::BFloat16* a, int64_t stride,
                  const c10::BFloat16* panel, float* out) {
    constexpr int64_t kWidth = kColumns<float>, kBytes = kWidth * 4;
    static_assert(kWidth == 64, "a panel is two pairs of tiles wide");
    const int64_t bytes = stride * 2;
    for (int64_t r = 0; r < n_rows; r += kTileRows) {
      const c10::BFloat16* first = a + r * stride;
      for (int64_t half = 0; half < 2; ++half) {
        const c10::BFloat16* columns = panel + half * kWidth;
        float* target = out + r * kWidth + half * 32;
        if constexpr (kAdd) {
          ULMFIT_FAST_TILE_LOAD(0, target, kBytes);
          ULMFIT_FAST_TILE_LOAD(1, target + 16, kBytes);
          ULMFIT_FAST_TILE_LOAD(2, target + 16 * kWidth, kBytes);
          ULMFIT_FAST_TILE_LOAD(3, target + 16 * kWidth + 16, kBytes);
        } else {
          ULMFIT_FAST_TILE_ZERO(0);
          ULMFIT_FAST_TILE_ZERO(1);
          ULMFIT_FAST_TILE_ZERO(2);
          ULMFIT_FAST_TILE_ZERO(3);
        }
        for (int64_t k = 0; k < K; k += kTileDepth) {
          ULMFIT_FAST_TILE_LOAD(4, first + k, bytes);
          ULMFIT_FAST_TILE_LOAD(6, columns + k * kWidth, kBytes);
          ULMFIT_FAST_TILE_PRODUCT(0, 4, 6);
          ULMFIT_FAST_TILE_LOAD(7, columns + k * kWidth + 32, kBytes);
          ULMFIT_FAST_TILE_PRODUCT(1, 4, 7);
          ULMFIT_FAST_TILE_LOAD(5, first + 16 * stride + k, bytes);
          ULMFIT_FAST_TILE_PRODUCT(2, 5, 6);
          ULMFIT_FAST_TILE_PRODUCT(3, 5, 7);
        }
        ULMFIT_FAST_TILE_STORE(0, target, kBytes);
        ULMFIT_FAST_TILE_STORE(1, target + 16, kBytes);
        ULMFIT_FAST_TILE_STORE(2, target + 16 * kWidth, kBytes);
        ULMFIT_FAST_TILE_STORE(3, target + 16 * kWidth + 16, kBytes);
      }
    }
  }
};
