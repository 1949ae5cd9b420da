#include "jpeg_header.h"

namespace mixpipe {
namespace {

enum Marker : u8 {
  kSof0 = 0xC0,
  kSof1 = 0xC1,
  kDht = 0xC4,
  kSoi = 0xD8,
  kSos = 0xDA,
  kDqt = 0xDB,
  kDri = 0xDD,
  kApp0 = 0xE0,
  kApp14 = 0xEE,
  kApp15 = 0xEF,
  kCom = 0xFE,
};

i32 read_16(const u8* at) {
  return at[0] << 8 | at[1];
}

bool starts_with(Bytes body, const char* text, i64 size) {
  return body.size >= size && memcmp(body.data, text, (size_t)size) == 0;
}

bool is_factor(int factor) {
  return factor == 1 || factor == 2 || factor == 4;
}

bool parse_tables(Bytes body, HuffmanTable (&dc)[4], HuffmanTable (&ac)[4]) {
  while (body.size > 0) {
    if (body.size < 1 + kLongestCode) return false;
    const int place = body.data[0];
    if ((place >> 4) > 1 || (place & 15) > 3) return false;
    HuffmanTable table;
    memcpy(table.counts, body.data + 1, kLongestCode);
    for (const u8 count : table.counts) table.size += count;
    body = {body.data + 1 + kLongestCode, body.size - 1 - kLongestCode};
    u32 end[kLongestCode];
    if (table.size == 0 || table.size > 256 || table.size > body.size || !table.codes_end(end))
      return false;
    memcpy(table.symbols, body.data, (size_t)table.size);
    body = {body.data + table.size, body.size - table.size};
    ((place >> 4) == 0 ? dc : ac)[place & 15] = table;
  }
  return true;
}

bool parse_frame(Bytes body, JpegHeader& header) {
  if (body.size < 6 || body.data[0] != 8) return false;
  header.height = read_16(body.data + 1);
  header.width = read_16(body.data + 3);
  header.components = body.data[5];
  if (header.height == 0 || header.width == 0) return false;
  if (header.components != 1 && header.components != 3) return false;
  if (body.size != 6 + 3 * header.components) return false;
  int blocks = 0;
  for (int c = 0; c < header.components; ++c) {
    const u8* at = body.data + 6 + 3 * c;
    Component& component = header.component[c];
    component = {at[0], (u8)(at[1] >> 4), (u8)(at[1] & 15), 0, 0};
    if (!is_factor(component.horizontal) || !is_factor(component.vertical)) return false;
    for (int other = 0; other < c; ++other)
      if (header.component[other].id == component.id) return false;
    // A component alone has blocks for MCUs, whatever its factors.
    if (header.components == 1) component.horizontal = component.vertical = 1;
    if (component.horizontal > header.horizontal) header.horizontal = component.horizontal;
    if (component.vertical > header.vertical) header.vertical = component.vertical;
    blocks += component.horizontal * component.vertical;
  }
  return blocks <= 10;  // what the standard allows, and libjpeg
}

bool parse_scan(Bytes body, JpegHeader& header) {
  const int count = header.components;
  if (count == 0 || body.size != 4 + 2 * count || body.data[0] != count) return false;
  for (int c = 0; c < count; ++c) {
    Component& component = header.component[c];
    if (body.data[1 + 2 * c] != component.id) return false;
    const int tables = body.data[2 + 2 * c];
    component.dc_table = (u8)(tables >> 4);
    component.ac_table = (u8)(tables & 15);
    if (component.dc_table > 3 || component.ac_table > 3) return false;
    if (header.dc[component.dc_table].size == 0 || header.ac[component.ac_table].size == 0)
      return false;
  }
  const u8* spectrum = body.data + 1 + 2 * count;
  return spectrum[0] == 0 && spectrum[1] == 63 && spectrum[2] == 0;
}

}  // namespace

bool HuffmanTable::codes_end(u32 (&end)[kLongestCode]) const {
  u32 code = 0;
  for (int length = 1; length <= kLongestCode; ++length) {
    code = 2 * code + counts[length - 1];
    // All ones is no code.
    if (counts[length - 1] != 0 && code >= 1u << length) return false;
    end[length - 1] = code;
  }
  return true;
}

bool JpegHeader::parse(Bytes jpeg) {
  *this = JpegHeader();
  const u8* const bytes = jpeg.data;
  if (jpeg.size < 4 || bytes[0] != 0xFF || bytes[1] != kSoi) return false;
  for (i64 at = 2; jpeg.size - at >= 4;) {
    if (bytes[at] != 0xFF) return false;
    if (bytes[at + 1] == 0xFF) {  // a marker may have more of them
      ++at;
      continue;
    }
    const u8 marker = bytes[at + 1];
    const i64 size = read_16(bytes + at + 2);
    if (size < 2 || size > jpeg.size - at - 2) return false;
    const Bytes body{bytes + at + 4, size - 2};
    const Span segment{at, size + 2};
    at += size + 2;
    if (marker == kDht) {
      if (!parse_tables(body, dc, ac)) return false;
    } else if (marker == kSof0 || marker == kSof1) {
      if (components != 0 || !parse_frame(body, *this)) return false;
      frame = segment;
    } else if (marker == kSos) {
      scan = segment;
      data = at;
      return parse_scan(body, *this);
    } else if (marker == kDri) {
      if (body.size != 2 || read_16(body.data) != 0) return false;
    } else if (marker == kDqt || (marker == kApp0 && starts_with(body, "JFIF", 5)) ||
               (marker == kApp14 && starts_with(body, "Adobe", 5))) {
      kept.push_back(segment);
    } else if ((marker < kApp0 || marker > kApp15) && marker != kCom) {
      return false;
    }
  }
  return false;
}

bool add_categories(HuffmanTable& table) {
  bool present[256] = {};
  for (int i = 0; i < table.size; ++i) present[table.symbols[i]] = true;
  int missing = 0;
  for (int category = 0; category < kCategories; ++category) missing += !present[category];
  if (missing == 0) return true;
  u32 end[kLongestCode];
  if (!table.codes_end(end)) return false;
  int length = kLongestCode;
  while (table.counts[length - 1] == 0) --length;
  u32 room = (1u << length) - end[length - 1];
  for (; (i64)room - 1 < missing; room *= 2)  // all ones is no code
    if (++length > kLongestCode) return false;
  if (table.size + missing > 256) return false;
  table.counts[length - 1] = (u8)(table.counts[length - 1] + missing);
  for (int category = 0; category < kCategories; ++category)
    if (!present[category]) table.symbols[table.size++] = (u8)category;
  return true;
}

void write_header(Bytes jpeg, const JpegHeader& header, const HuffmanTable (&dc)[4], i32 height,
                  i32 width, std::vector<u8>& out) {
  const auto copy = [&](Span span) {
    out.insert(out.end(), jpeg.data + span.start, jpeg.data + span.start + span.size);
  };
  const auto put_16 = [&](i64 value) {
    out.push_back((u8)(value >> 8));
    out.push_back((u8)value);
  };
  const auto put_table = [&](int place, const HuffmanTable& table) {
    out.insert(out.end(), {0xFF, kDht});
    put_16(2 + 1 + kLongestCode + table.size);
    out.push_back((u8)place);
    out.insert(out.end(), table.counts, table.counts + kLongestCode);
    out.insert(out.end(), table.symbols, table.symbols + table.size);
  };
  out.assign({0xFF, kSoi});
  for (const Span& span : header.kept) copy(span);
  const size_t frame = out.size();
  copy(header.frame);
  const u8 size[] = {(u8)(height >> 8), (u8)height, (u8)(width >> 8), (u8)width};
  memcpy(out.data() + frame + 5, size, sizeof size);
  for (int place = 0; place < 4; ++place) {
    bool dc_used = false, ac_used = false;
    for (int c = 0; c < header.components; ++c) {
      dc_used |= header.component[c].dc_table == place;
      ac_used |= header.component[c].ac_table == place;
    }
    if (dc_used) put_table(place, dc[place]);
    if (ac_used) put_table(0x10 | place, header.ac[place]);
  }
  copy(header.scan);
}

}  // namespace mixpipe
