// Excerpts: smaller JPEGs cut out of JPEGs without decoding them.
//
// Decoding a rectangle of a JPEG means going through all that lies before it in the file, since a
// code's place is known only from the one before. Once an image was gone through (scan), its entry
// points are known: places in its data, on a grid, at which one can start. From them a rectangle is
// cut out as a JPEG of its own, which costs what it shows.
//
// Bytes are not trusted: whatever they are, nothing is read or written out of bounds.
#pragma once
#include <memory>
#include <vector>

#include "common.h"
#include "jpeg_bits.h"

namespace mixpipe {

// Words that the entry points of an image of this size in pixels take at most; an image that needs
// more is none that excerpts are cut from. An entry point is 31 bits of position and three times 11
// bits of DC predictor.
i64 most_points(i32 height, i32 width);

struct Excerpt {
  std::vector<u8> jpeg;
  i32 y, x;  // where it begins, in pixels of the image
};

// Keeps its decoding tables from image to image, since they are mostly the same ones. For one
// thread at a time.
class JpegCutter {
 public:
  JpegCutter();
  ~JpegCutter();

  // Finds the entry points of a JPEG: most_points(height, width) words, zeros behind the last.
  // False where it is not of this size, damaged, or of a kind that excerpts are not cut from.
  bool scan(Bytes jpeg, i32 height, i32 width, u64* points);

  // Cuts out a rectangle of pixels, in whole MCUs and with what the upsampling of colours looks at:
  // the rectangle's pixels, decoded, are bit for bit those of the whole image. `points` are of
  // scan, for the same bytes; from others comes false, or an excerpt that shows something else.
  bool cut(Bytes jpeg, const u64* points, const Region& reads, Excerpt& excerpt);

 private:
  struct Decoding;
  std::unique_ptr<Decoding> decoding_;
};

}  // namespace mixpipe
