// The bits of a JPEG's entropy-coded data: read, written and copied, eight bytes at a time where no
// byte is 0xFF. In the file such a byte has a zero behind it ("stuffing"), or is a marker.
//
// A position is a bit's place in the file, 8 * byte + bit, the most significant bit first. The
// position behind a stuffed byte is that of the next byte of data.
#pragma once
#include <string.h>

#include <vector>

#include "common.h"

namespace mixpipe {

// Borrowed bytes.
struct Bytes {
  const u8* data;
  i64 size;
};

inline u64 load_big_endian(const u8* from) {
  u64 word;
  memcpy(&word, from, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

inline void store_big_endian(u8* to, u64 word) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  memcpy(to, &word, 8);
}

// Whether one of the word's bytes is 0xFF.
inline bool has_ff(u64 word) {
  constexpr u64 ones = 0x0101010101010101ull;
  const u64 inverse = ~word;
  return ((inverse - ones) & word & (ones << 7)) != 0;
}

// Reads from a position to the first marker or the data's end; zeros from there on.
class BitReader {
 public:
  BitReader(Bytes data, i64 position) : begin_(data.data), end_(data.data + data.size) {
    seek(position);
  }

  void seek(i64 position) {
    const i64 byte = position / 8;
    next_ = byte < end_ - begin_ ? begin_ + byte : end_;
    bits_ = 0;
    count_ = missing_ = 0;
    fill();
    drop((int)(position % 8));
  }

  // Makes sure that at least 32 bits can be looked at.
  void need_32() {
    if (count_ < 32) fill();
  }
  // The next n bits, 1 <= n <= 32.
  u32 look(int n) const { return (u32)(bits_ >> (64 - n)); }
  void drop(int n) {
    bits_ <<= n;
    count_ -= n;
  }

  // Where the next bit is; -1 where bits were dropped that the data does not have.
  i64 position() const {
    const int count = count_ - missing_;
    if (count < 0) return -1;
    const u8* at = next_;
    for (int bytes = (count + 7) / 8; bytes > 0; --bytes)
      at -= at - begin_ >= 2 && at[-1] == 0 && at[-2] == 0xFF ? 2 : 1;
    return 8 * (at - begin_) + (8 - count % 8) % 8;
  }

 private:
  void fill() {
    if (end_ - next_ >= 8) {
      const u64 word = load_big_endian(next_);
      if (!has_ff(word)) {
        // Bits behind the last whole byte are right as well, and come once more next time.
        bits_ |= word >> count_;
        next_ += (63 - count_) / 8;
        count_ |= 56;
        return;
      }
    }
    fill_bytewise();
  }
  void fill_bytewise() {
    for (; count_ <= 56; count_ += 8) {
      if (next_ == end_ || (*next_ == 0xFF && (end_ - next_ < 2 || next_[1] != 0))) {
        missing_ += 8;
        continue;
      }
      bits_ |= (u64)*next_ << (56 - count_);
      next_ += *next_ == 0xFF ? 2 : 1;
    }
  }

  const u8 *begin_, *end_, *next_;
  u64 bits_ = 0;  // the next ones, from the top
  int count_ = 0, missing_ = 0;
};

// Appends bits, with stuffing, to a vector of bytes.
class BitWriter {
 public:
  explicit BitWriter(std::vector<u8>& out) : out_(out), size_(out.size()) {}

  // Makes room for this many bits; each other function needs it.
  void reserve(i64 bits) {
    const size_t most = size_ + (size_t)(bits / 8 + 16) * 2;  // every byte may need stuffing
    if (out_.size() < most) out_.resize(most > 2 * out_.size() ? most : 2 * out_.size());
  }

  // The lowest n bits, 0 <= n <= 32.
  void put(u32 bits, int n) {
    held_ |= n == 0 ? 0 : ((u64)bits << (64 - n)) >> count_;
    for (count_ += n; count_ >= 8; count_ -= 8) {
      put_byte((u8)(held_ >> 56));
      held_ <<= 8;
    }
  }

  // Copies the bits from position `from` to position `to`, to <= 8 * data.size.
  void copy(Bytes data, i64 from, i64 to) {
    const u8 *next = data.data + from / 8, *last = data.data + to / 8;
    const int skipped = (int)(from % 8), rest = (int)(to % 8);
    if (skipped != 0 && next < last) {
      put(*next & (0xFFu >> skipped), 8 - skipped);
      next += *next == 0xFF ? 2 : 1;
    } else if (skipped != 0) {
      put((*next & (0xFFu >> skipped)) >> (8 - rest), rest - skipped);
      return;
    }
    // Locals, since for all the compiler knows a byte written may be one of the members. `count_`
    // stays as it is: whole bytes come and go.
    u8* out = out_.data() + size_;
    u64 held = held_;
    const int count = count_;
    while (next < last) {
      if (last - next >= 8) {
        const u64 word = load_big_endian(next);
        const u64 whole = held | word >> count;
        if (!has_ff(word) && !has_ff(whole)) {
          store_big_endian(out, whole);
          out += 8;
          next += 8;
          held = word << 1 << (63 - count);
          continue;
        }
      }
      for (int i = 0; i < 8 && next < last; ++i) {
        held |= (u64)*next << (56 - count);
        next += *next == 0xFF ? 2 : 1;
        *out++ = (u8)(held >> 56);
        if (held >> 56 == 0xFF) *out++ = 0;
        held <<= 8;
      }
    }
    size_ = (size_t)(out - out_.data());
    held_ = held;
    if (rest != 0) put(*last >> (8 - rest), rest);
  }

  // Fills the last byte with ones and cuts the vector to what was written.
  void finish() {
    if (count_ > 0) put(0xFF, 8 - count_);
    out_.resize(size_);
  }

 private:
  void put_byte(u8 byte) {
    out_[size_++] = byte;
    if (byte == 0xFF) out_[size_++] = 0;
  }

  std::vector<u8>& out_;
  size_t size_;
  u64 held_ = 0;  // the last bits, fewer than a byte, from the top
  int count_ = 0;
};

}  // namespace mixpipe
