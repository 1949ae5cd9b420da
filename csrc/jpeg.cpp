#include "jpeg.h"

#include "jpeg_header.h"

namespace mixpipe {
namespace {

// Pixels for one entry point: whole MCUs, side by side. Fewer make cutting faster and points take
// more room; see docs/design.md.
constexpr i32 kPixelsAPoint = 1024;
constexpr int kLookahead = 10;  // bits
constexpr int kBlock = 64;      // coefficients
constexpr i32 kLeastDc = -1024, kMostDc = 1023;

// Codes of a table by what comes next in the data.
class Decoder {
 public:
  void make(const HuffmanTable& table) {
    table_ = table;
    u32 end[kLongestCode];
    table.codes_end(end);
    memset(short_, 0, sizeof short_);
    int first = 0;
    for (int length = 1; length <= kLongestCode; ++length) {
      const int count = table.counts[length - 1];
      const u32 code = end[length - 1] - (u32)count;
      // An end of 16 bits; lengths without codes have none of their own, and the one before's
      // is not larger than any code that comes.
      end_[length] = end[length - 1] << (kLongestCode - length);
      offset_[length] = first - (int)code;
      for (int i = 0; i < count && length <= kLookahead; ++i) {
        const u32 from = (code + (u32)i) << (kLookahead - length);
        for (u32 j = 0; j < 1u << (kLookahead - length); ++j)
          short_[from + j] = {(u8)length, table.symbols[first + i]};
      }
      first += count;
    }
  }
  bool is_of(const HuffmanTable& table) const {
    return table_.size == table.size &&
           memcmp(table_.counts, table.counts, sizeof table.counts) == 0 &&
           memcmp(table_.symbols, table.symbols, (size_t)table.size) == 0;
  }

  // The next symbol; -1 where there is no such code.
  int symbol(BitReader& reader) const {
    const Short entry = short_[reader.look(kLookahead)];
    if (entry.length != 0) {
      reader.drop(entry.length);
      return entry.symbol;
    }
    const u32 next = reader.look(kLongestCode);
    for (int length = 1; length <= kLongestCode; ++length)
      if (next < end_[length]) {
        reader.drop(length);
        return table_.symbols[offset_[length] + (int)(next >> (kLongestCode - length))];
      }
    return -1;
  }

 protected:
  struct Short {
    u8 length, symbol;  // length 0: a longer code, or none
  };
  HuffmanTable table_;
  Short short_[1 << kLookahead];
  u32 end_[kLongestCode + 1];
  int offset_[kLongestCode + 1];
};

// Decodes differences of DC coefficients.
class DcDecoder : public Decoder {
 public:
  // The next difference; false where there is none.
  bool next(BitReader& reader, i32& difference) const {
    reader.need_32();
    const int category = symbol(reader);
    if (category < 0 || category >= kCategories) return false;
    difference = 0;
    if (category == 0) return true;
    const i32 bits = (i32)reader.look(category);
    reader.drop(category);
    difference = bits >> (category - 1) != 0 ? bits : bits - (1 << category) + 1;
    return true;
  }
};

// Goes past AC coefficients, as many at a time as their codes are known from the lookahead.
class AcDecoder : public Decoder {
 public:
  void make(const HuffmanTable& table) {
    Decoder::make(table);
    for (u32 i = 0; i < 1u << kLookahead; ++i) {
      Leap leap{0, 0, 0};
      while (leap.bits < kLookahead && leap.step < kBlock) {
        const Short entry = short_[(i << leap.bits) & ((1u << kLookahead) - 1)];
        const int bits = entry.symbol & 15, run = entry.symbol >> 4;
        if (entry.length == 0 || leap.bits + entry.length > kLookahead) break;
        if (bits == 0 && run != 0 && run != 15) break;
        leap.bits = (u8)(leap.bits + entry.length + bits);
        leap.room = (u8)(leap.step + run + 1);
        if (entry.symbol == kEnd) {
          leap.step = kBlock;
          break;
        }
        leap.step = leap.room;
      }
      leaps_[i] = leap;
    }
  }

  // Goes to the next block; false where the block is damaged.
  bool skip(BitReader& reader) const {
    for (int k = 1; k < kBlock;) {
      reader.need_32();
      const Leap leap = leaps_[reader.look(kLookahead)];
      if (leap.bits != 0 && k + leap.room <= kBlock) {
        reader.drop(leap.bits);
        k += leap.step;
        continue;
      }
      const int next = symbol(reader);
      if (next == kEnd) return true;
      if (next < 0 || ((next & 15) == 0 && next != kSixteenZeros)) return false;
      reader.drop(next & 15);
      k += (next >> 4) + 1;
      if (k > kBlock) return false;
    }
    return true;
  }

 private:
  static constexpr int kEnd = 0x00, kSixteenZeros = 0xF0;
  struct Leap {
    u8 bits;  // 0: the first code is longer than the lookahead, or none
    u8 room;  // coefficients that have to be left for the leap to be right
    u8 step;  // coefficients
  };
  Leap leaps_[1 << kLookahead];
};

u64 pack(i64 position, const i32 (&dc)[3]) {
  u64 point = (u64)position;
  for (const i32 value : dc) point = point << 11 | (u64)(value - kLeastDc);
  return point;
}

i64 unpack(u64 point, i32 (&dc)[3]) {
  for (int c = 2; c >= 0; --c, point >>= 11) dc[c] = (i32)(point & 2047) + kLeastDc;
  return (i64)point;
}

// Codes of a table by symbol.
struct Encoder {
  u16 code[256];
  u8 length[256] = {};

  explicit Encoder(const HuffmanTable& table) {
    u32 end[kLongestCode];
    table.codes_end(end);
    for (int i = 0, bits = 1; bits <= kLongestCode; ++bits)
      for (int count = table.counts[bits - 1]; count > 0; --count, ++i) {
        code[table.symbols[i]] = (u16)(end[bits - 1] - (u32)count);
        length[table.symbols[i]] = (u8)bits;
      }
  }

  bool put(i32 difference, BitWriter& writer) const {
    const u32 size = (u32)(difference < 0 ? -difference : difference);
    const int category = size == 0 ? 0 : 32 - __builtin_clz(size);
    if (category >= kCategories || length[category] == 0) return false;
    writer.put(code[category], length[category]);
    writer.put((u32)(difference < 0 ? difference - 1 : difference), category);
    return true;
  }
};

}  // namespace

i64 most_points(i32 height, i32 width) {
  i64 most = 0;
  for (i32 side = 8; side <= 32; side *= 2) {
    const i64 points = (i64)ceil_div(height, side) * ceil_div(width, kPixelsAPoint / side);
    if (points > most) most = points;
  }
  return most;
}

// What it takes to go through the data of one image, block by block.
struct JpegCutter::Decoding {
  struct Block {
    int component;
    bool first;  // of its component in an MCU
    const DcDecoder* dc;
    const AcDecoder* ac;
  };

  JpegHeader header;
  i32 mcu_height, mcu_width, rows, columns;  // pixels; MCUs
  i32 step, points_a_row;                    // MCUs from point to point
  Block blocks[10];
  int block_count;
  DcDecoder dc_decoders[4];
  AcDecoder ac_decoders[4];

  bool start(Bytes jpeg) {
    if (jpeg.size >> 28 != 0 || !header.parse(jpeg)) return false;
    const bool alone = header.components == 1;
    mcu_height = 8 * (alone ? 1 : header.vertical);
    mcu_width = 8 * (alone ? 1 : header.horizontal);
    rows = ceil_div(header.height, mcu_height);
    columns = ceil_div(header.width, mcu_width);
    step = kPixelsAPoint / (mcu_height * mcu_width);
    points_a_row = ceil_div(columns, step);
    block_count = 0;
    for (int c = 0; c < header.components; ++c) {
      const Component& component = header.component[c];
      DcDecoder& dc = dc_decoders[component.dc_table];
      AcDecoder& ac = ac_decoders[component.ac_table];
      if (!dc.is_of(header.dc[component.dc_table])) dc.make(header.dc[component.dc_table]);
      if (!ac.is_of(header.ac[component.ac_table])) ac.make(header.ac[component.ac_table]);
      for (int i = 0; i < component.horizontal * component.vertical; ++i)
        blocks[block_count++] = {c, i == 0, &dc, &ac};
    }
    return true;
  }

  bool next_dc(const Block& block, BitReader& reader, i32 (&dc)[3]) const {
    i32 difference;
    if (!block.dc->next(reader, difference)) return false;
    i32& value = dc[block.component];
    value += difference;
    return value >= kLeastDc && value <= kMostDc;
  }

  bool skip_mcus(i64 count, BitReader& reader, i32 (&dc)[3]) const {
    for (; count > 0; --count)
      for (int i = 0; i < block_count; ++i)
        if (!next_dc(blocks[i], reader, dc) || !blocks[i].ac->skip(reader)) return false;
    return true;
  }

  // Copies MCUs [from, to), counted through the image, to an excerpt whose predictors are `dc`.
  bool copy(Bytes jpeg, const u64* points, i64 from, i64 to, const Encoder* const (&encoders)[3],
            BitWriter& writer, i32 (&predictors)[3]) const {
    i32 dc[3];
    i64 at = 0;
    BitReader reader(jpeg, 0);
    // Forward to an MCU, from here or from the last point before it.
    const auto go_to = [&](i64 mcu, bool from_here) {
      i64 row = mcu / columns, column = mcu % columns;
      if (row == rows) {
        --row;
        column = columns - 1;
      }
      const i64 place = column / step, there = row * columns + place * step;
      if (!from_here || there > at) {
        reader.seek(unpack(points[row * points_a_row + place], dc));
        at = there;
      }
      const i64 count = mcu - at;
      at = mcu;
      return skip_mcus(count, reader, dc);
    };
    const auto copy_bits = [&](i64 first, i64 last) {
      if (first < 0 || last < first) return false;
      writer.reserve(last - first);
      writer.copy(jpeg, first, last);
      return true;
    };
    if (!go_to(from, false)) return false;
    // The first MCU: the DC differences of its first blocks are to other predictors here.
    i64 start = -1;
    for (int i = 0; i < block_count; ++i) {
      const Block& block = blocks[i];
      if (block.first && start >= 0 && !copy_bits(start, reader.position())) return false;
      if (!next_dc(block, reader, dc)) return false;
      if (block.first) {
        writer.reserve(64);
        const int c = block.component;
        if (!encoders[c]->put(dc[c] - predictors[c], writer)) return false;
        start = reader.position();
      }
      if (!block.ac->skip(reader)) return false;
    }
    ++at;
    if (!go_to(to, true) || !copy_bits(start, reader.position())) return false;
    memcpy(predictors, dc, sizeof dc);
    return true;
  }
};

JpegCutter::JpegCutter() : decoding_(new Decoding()) {}
JpegCutter::~JpegCutter() = default;

bool JpegCutter::scan(Bytes jpeg, i32 height, i32 width, u64* points) {
  Decoding& d = *decoding_;
  const i64 most = most_points(height, width);
  memset(points, 0, (size_t)most * sizeof *points);
  if (!d.start(jpeg) || d.header.height != height || d.header.width != width) return false;
  if ((i64)d.rows * d.points_a_row > most) return false;
  BitReader reader(jpeg, 8 * d.header.data);
  i32 dc[3] = {};
  for (i32 row = 0; row < d.rows; ++row)
    for (i32 column = 0; column < d.columns; column += d.step) {
      const i64 position = reader.position();
      if (position < 0) return false;
      *points++ = pack(position, dc);
      if (!d.skip_mcus(min_i32(d.step, d.columns - column), reader, dc)) return false;
    }
  // Nothing but the end may follow: more could be a second scan, or damage.
  const i64 position = reader.position();
  if (position < 0) return false;
  i64 end = (position + 7) / 8;
  if (position % 8 != 0 && jpeg.data[end - 1] == 0xFF) ++end;  // a stuffed byte
  return jpeg.size - end >= 2 && jpeg.data[end] == 0xFF && jpeg.data[end + 1] == 0xD9;
}

bool JpegCutter::cut(Bytes jpeg, const u64* points, const Region& reads, Excerpt& excerpt) {
  Decoding& d = *decoding_;
  if (!d.start(jpeg)) return false;
  const JpegHeader& header = d.header;
  if (reads.y0 < 0 || reads.x0 < 0 || reads.y1 > header.height || reads.x1 > header.width ||
      is_empty(reads))
    return false;
  // The MCUs [first, last) that hold pixels [from, to) in one direction. The upsampling of a colour
  // looks at its next sample, which may lie in the next MCU; and libjpeg changes its ways where no
  // more than two samples are left.
  const auto around = [](i32 from, i32 to, i32 mcu, i32 count, i32 size, bool subsampled,
                         i32& first, i32& last) {
    first = from / mcu;
    last = ceil_div(to, mcu);
    if (!subsampled) return;
    if (from % mcu == 0 && first > 0) --first;
    if (to % mcu == 0 && last < count) ++last;
    if (min_i32(size, last * mcu) - first * mcu < mcu && first > 0) --first;
  };
  Region mcus;
  around(reads.y0, reads.y1, d.mcu_height, d.rows, header.height, header.vertical > 1, mcus.y0,
         mcus.y1);
  around(reads.x0, reads.x1, d.mcu_width, d.columns, header.width, header.horizontal > 1, mcus.x0,
         mcus.x1);
  excerpt.y = mcus.y0 * d.mcu_height;
  excerpt.x = mcus.x0 * d.mcu_width;

  HuffmanTable dc[4];
  std::unique_ptr<Encoder> made[4];
  const Encoder* encoders[3] = {};
  for (int c = 0; c < header.components; ++c) {
    const int place = header.component[c].dc_table;
    if (!made[place]) {
      dc[place] = header.dc[place];
      if (!add_categories(dc[place])) return false;
      made[place].reset(new Encoder(dc[place]));
    }
    encoders[c] = made[place].get();
  }
  write_header(jpeg, header, dc, min_i32(header.height, mcus.y1 * d.mcu_height) - excerpt.y,
               min_i32(header.width, mcus.x1 * d.mcu_width) - excerpt.x, excerpt.jpeg);
  BitWriter writer(excerpt.jpeg);
  i32 predictors[3] = {};
  const i64 columns = d.columns;
  if (mcus.x0 == 0 && mcus.x1 == columns) {  // rows that follow each other as they did
    if (!d.copy(jpeg, points, mcus.y0 * columns, mcus.y1 * columns, encoders, writer, predictors))
      return false;
  } else {
    for (i64 row = mcus.y0; row < mcus.y1; ++row)
      if (!d.copy(jpeg, points, row * columns + mcus.x0, row * columns + mcus.x1, encoders, writer,
                  predictors))
        return false;
  }
  writer.finish();
  excerpt.jpeg.insert(excerpt.jpeg.end(), {0xFF, 0xD9});
  return true;
}

}  // namespace mixpipe
