// compose on the GPU. A thread makes a piece of a row: as many pixels as a vector of 16 bytes has
// elements, three vectors. It goes through the runs of its piece, of which nearly all have one: a
// run's bytes are loaded as words, turned around where it is mirrored, and put behind those of the
// runs before. A warp's pieces are a tile of 32 pixels by some rows. NCHW: neighbouring threads
// store neighbouring vectors of each plane. NHWC: they are put together in shared memory first.
#include "compose.h"
#include "device.h"

namespace mixpipe {

// Turns four pixels around, or eight: words of interleaved channels.
template <i32 kPixels>
__device__ inline void mirror(u32* words) {
  constexpr i32 kGroups = kPixels / 4;  // of four pixels, three words
  u32 turned[3 * kGroups];
#pragma unroll
  for (i32 i = 0; i < kGroups; ++i) {
    const u32 *from = words + 3 * i, a = from[0], b = from[1], c = from[2];
    u32* to = turned + 3 * (kGroups - 1 - i);
    to[0] = __byte_perm(b, c, 0x2765);
    to[1] = __byte_perm(__byte_perm(a, c, 0x0340), b, 0x4217);
    to[2] = __byte_perm(a, b, 0x2105);
  }
#pragma unroll
  for (i32 i = 0; i < 3 * kGroups; ++i) words[i] = turned[i];
}

// The pixels [x, x + kPixels) of a row as a part shows them, interleaved. Those outside of its
// region are whatever lies there.
template <i32 kPixels>
__device__ inline void load_pixels(const ComposePart& part, i32 y, i32 x, u32* words) {
  const bool flip = part.column_stride < 0;
  const Region& r = part.region;
  const i32 row_bytes = 3 * (r.x1 - r.x0);
  const u8* memory = flip ? part.pixels - (row_bytes - 3) : part.pixels;
  const i32 column = flip ? r.x1 - x - kPixels : x - r.x0;
  const i32 size = (r.y1 - 1 - r.y0) * part.row_stride + row_bytes;
  load_bytes<3 * kPixels / 4>(memory, (y - r.y0) * part.row_stride + 3 * column, size, words);
  if (flip) mirror<kPixels>(words);
}

// run_at without a branch, for neighbouring threads in different runs.
__device__ inline Run find_run(const ComposeParams& p, const ComposePart* parts, i32 y, i32 x) {
  Run run = {x, p.width, -1};
#pragma unroll 1
  for (i32 k = 0; k < p.constituents; ++k) {
    const Region r = parts[k].region;
    const bool in_row = y >= r.y0 && y < r.y1, here = in_row && x >= r.x0 && x < r.x1;
    run.part = here ? k : run.part;
    run.x1 = here ? r.x1 : in_row && r.x0 > x ? min_i32(run.x1, r.x0) : run.x1;
  }
  return run;
}

// The run at x, up to x1, where an index map names constituents: a byte each, from pixel x0 on.
__device__ inline Run named_run(const ComposeParams& p, const ComposePart* parts, u64 names, i32 y,
                                i32 x0, i32 x, i32 x1) {
  names >>= 8 * (x - x0);
  const i32 k = (i32)(names & 0xffu);
  const u64 differ = names ^ ((u64)k * 0x0101010101010101ull >> 8 * (x - x0));
  Run run = {x, x1, -1};
  if (differ != 0)
    for (run.x1 = x + 1; run.x1 < x1 && (differ >> 8 * (run.x1 - x) & 0xffu) == 0;) ++run.x1;
  if (k >= p.constituents) return run;
  const Region r = parts[k].region;
  if (y < r.y0 || y >= r.y1 || x >= r.x1) return run;
  if (x >= r.x0) return {x, min_i32(run.x1, r.x1), k};
  return {x, min_i32(run.x1, r.x0), -1};
}

// Makes the values of the pixels [x0, x0 + count) of a row, interleaved.
template <i32 kPixels>
__device__ inline void make_values(const ComposeParams& p, u32 b, i32 y, i32 x0, i32 count,
                                   float* values) {
  constexpr i32 kWords = 3 * kPixels / 4;
  const ComposePart* parts = p.parts + b * (u32)p.constituents;
  const i32 x1 = x0 + count;
  u32 words[kWords];
  u32 covered = 0;  // one bit a pixel
  if (p.mode == kBlend) {
#pragma unroll
    for (i32 i = 0; i < 3 * kPixels; ++i) values[i] = 0.0f;
#pragma unroll 1
    for (i32 k = 0; k < p.constituents; ++k) {
      const ComposePart part = parts[k];
      if (is_empty(part.region)) continue;
      covered = ~0u;
      load_pixels<kPixels>(part, y, x0, words);
#pragma unroll
      for (i32 i = 0; i < 3 * kPixels; ++i)
        values[i] = fused_multiply_add(part.weight, byte_value(words, i), values[i]);
    }
  } else {
    u64 names = 0;
    if (p.mode == kIndexMap) {
      u32 bytes[2] = {0, 0};
      load_bytes<kPixels / 4>(p.index_map, ((i32)b * p.height + y) * p.width + x0,
                              p.batch * p.height * p.width, bytes);
      names = ((u64)bytes[kPixels / 4 - 1] << 32) | bytes[0];
    }
#pragma unroll
    for (i32 i = 0; i < kWords; ++i) words[i] = 0;
#pragma unroll 1
    for (i32 x = x0; x < x1;) {
      const Run run =
          p.mode == kIndexMap ? named_run(p, parts, names, y, x0, x, x1) : find_run(p, parts, y, x);
      const i32 end = min_i32(run.x1, x1), before = x - x0;
      x = end;
      if (run.part < 0) continue;
      covered |= (1u << (end - x0)) - (1u << before);
      u32 shown[kWords];
      load_pixels<kPixels>(parts[(u32)run.part], y, x0, shown);
      if (before == 0) {  // what comes after this run is overwritten by the next
#pragma unroll
        for (i32 i = 0; i < kWords; ++i) words[i] = shown[i];
        continue;
      }
#pragma unroll
      for (i32 i = 0; i < kWords; ++i) {
        const i32 kept = 24 * before - 32 * i;  // bits of this word
        const u32 mask = kept <= 0 ? ~0u : kept >= 32 ? 0u : ~0u << kept;
        words[i] = (words[i] & ~mask) | (shown[i] & mask);
      }
    }
#pragma unroll
    for (i32 i = 0; i < 3 * kPixels; ++i) values[i] = byte_value(words, i);
  }
#pragma unroll
  for (i32 i = 0; i < 3 * kPixels; ++i)
    values[i] = fused_multiply_add(values[i], p.scale[i % 3], p.bias[i % 3]);
  const u32 all = (1u << count) - 1;
  if ((covered & all) != all) {
#pragma unroll
    for (i32 i = 0; i < 3 * kPixels; ++i)
      if ((covered >> (i / 3) & 1u) == 0) values[i] = 0.0f;
  }
}

// Puts a warp's tile, rows of interleaved pixels in shared memory, into the result: its first row
// at (y, x).
template <class T, bool kWide>
__device__ inline void store_tile(const ComposeParams& p, const T* tile, T* out, i32 y, i32 x) {
  constexpr i32 kSize = kWide ? Vector<T>::kSize : 1;
  constexpr u32 kPerRow = 3 * kComposeColumns / kSize;
  const i32 left = 3 * (p.width - x);
#pragma unroll(kWide ? 3 : 1)
  for (i32 step = 0; step < Vector<T>::kSize * (i32)kPerRow / 32; ++step) {
    const i32 i = 32 * step + (i32)(threadIdx.x % 32u);
    const i32 row = (i32)((u32)i / kPerRow), element = (i - row * (i32)kPerRow) * kSize;
    if (y + row >= p.height || element >= left) continue;
    const T* from = tile + i * kSize;
    T* to = out + (u32)(3 * ((y + row) * p.width + x) + element);
    if constexpr (kWide)
      __stcs(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(from));
    else
      *to = *from;
  }
}

template <class T, bool kInterleaved, bool kWide>
__device__ inline void compose_thread(const ComposeParams& p) {
  constexpr i32 kSize = Vector<T>::kSize, kWarps = kComposeThreads / 32;
  constexpr u32 kPerRow = kComposeColumns / kSize;  // threads
  const u32 block = blockIdx.x, b = divide(block, p.by_blocks_per_composite);
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const u32 tile = (block - b * (u32)p.blocks_per_composite) * kWarps + warp;
  const u32 tile_row = divide(tile, p.by_pieces_per_row);
  const i32 tile_y = (i32)tile_row * kSize;
  const i32 tile_x = (i32)(tile - tile_row * (u32)p.pieces_per_row) * kComposeColumns;
  const i32 y = tile_y + (i32)(lane / kPerRow), x = tile_x + (i32)(lane % kPerRow) * kSize;
  const bool inside = y < p.height && x < p.width;
  const i32 count = kWide ? kSize : min_i32(kSize, p.width - x);
  const i32 plane_size = p.height * p.width;
  T* out = (T*)p.out + (i64)b * 3 * plane_size;

  float values[3 * kSize];
  if (inside) make_values<kSize>(p, b, y, x, count, values);

  if constexpr (kInterleaved) {
    __shared__ __align__(16) T tiles[3 * kSize * kComposeThreads];
    T* own = tiles + 3 * kSize * 32 * warp;
    if (inside) {
#pragma unroll
      for (i32 i = 0; i < 3; ++i)
        reinterpret_cast<uint4*>(own + 3 * kSize * lane)[i] =
            pack(T{}, values + i * kSize).as_uint4();
    }
    __syncwarp();
    store_tile<T, kWide>(p, own, out, tile_y, tile_x);
  } else if (inside) {
#pragma unroll
    for (i32 c = 0; c < 3; ++c) {
      float plane[kSize];
#pragma unroll
      for (i32 i = 0; i < kSize; ++i) plane[i] = values[3 * i + c];
      T* to = out + (u32)(c * plane_size + y * p.width + x);
      if constexpr (kWide) {
        pack(T{}, plane).store(to);
      } else {
#pragma unroll
        for (i32 i = 0; i < kSize; ++i)
          if (i < count) store_element(to + i, plane[i]);
      }
    }
  }
}

}  // namespace mixpipe

// 4 blocks of 256 threads leave each thread 64 registers: at least half of any device's occupancy.
#define MIXPIPE_COMPOSE(name, T, interleaved, wide)                         \
  extern "C" __global__ void __launch_bounds__(mixpipe::kComposeThreads, 4) \
      compose_##name(const mixpipe::ComposeParams params) {                 \
    mixpipe::compose_thread<T, interleaved, wide>(params);                  \
  }
#define MIXPIPE_COMPOSE_FORMS(dtype, T)                 \
  MIXPIPE_COMPOSE(dtype##_nchw_wide, T, false, true)    \
  MIXPIPE_COMPOSE(dtype##_nchw_narrow, T, false, false) \
  MIXPIPE_COMPOSE(dtype##_nhwc_wide, T, true, true)     \
  MIXPIPE_COMPOSE(dtype##_nhwc_narrow, T, true, false)

MIXPIPE_COMPOSE_FORMS(f32, float)
MIXPIPE_COMPOSE_FORMS(f16, mixpipe::Half)
MIXPIPE_COMPOSE_FORMS(bf16, mixpipe::BFloat16)
