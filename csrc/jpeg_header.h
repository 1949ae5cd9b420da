// What stands before a JPEG's entropy-coded data, as far as an excerpt needs it.
#pragma once
#include <vector>

#include "common.h"
#include "jpeg_bits.h"

namespace mixpipe {

// The longest Huffman code, and the DC differences' categories of 8-bit images.
constexpr int kLongestCode = 16, kCategories = 12;

// A Huffman table as a file defines it. Codes are canonical: symbols in order, by growing length.
struct HuffmanTable {
  u8 counts[kLongestCode] = {};  // codes of each length
  u8 symbols[256] = {};
  int size = 0;  // symbols; 0: not defined

  // The code behind the last one of each length, counted at that length. False: codes collide.
  bool codes_end(u32 (&end)[kLongestCode]) const;
};

struct Component {
  u8 id, horizontal, vertical, dc_table, ac_table;
};

// A span of the file.
struct Span {
  i64 start, size;
};

struct JpegHeader {
  i32 height = 0, width = 0;
  int components = 0;
  Component component[3];
  int horizontal = 1, vertical = 1;  // the largest sampling factors
  HuffmanTable dc[4], ac[4];
  std::vector<Span> kept;  // segments of an excerpt: quantisation tables, JFIF, Adobe
  Span frame{}, scan{};    // the segments SOF and SOS
  i64 data = 0;            // where the entropy-coded data starts

  // Reads a header; false where it is damaged, or not that of a JPEG that excerpts can be cut from:
  // sequential, Huffman, 8 bits, one scan of one or three components, no restart intervals.
  bool parse(Bytes jpeg);
};

// Adds the categories of DC differences that a table lacks, with codes longer than those that it
// has, so that these stay what they are. False where there is no room.
bool add_categories(HuffmanTable& table);

// Writes the header of an excerpt of these sizes in pixels; the tables dc stand for the header's.
void write_header(Bytes jpeg, const JpegHeader& header, const HuffmanTable (&dc)[4], i32 height,
                  i32 width, std::vector<u8>& out);

}  // namespace mixpipe
