#include "excerpts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <exception>

#include "parallel.h"

namespace mixpipe {
namespace {

constexpr u64 kVersion = 1;        // of what slots hold; others are made anew
constexpr i64 kWholePercent = 90;  // of the pixels: nothing is gained by cutting off the rest

u64 mix(u64 hash, u64 word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
  return hash ^ hash >> 32;
}

// Four at a time, since one multiplication waits for the other.
u64 hash_bytes(Bytes bytes, u64 seed) {
  u64 lanes[4] = {seed, seed + 1, seed + 2, seed + 3};
  const u8* next = bytes.data;
  i64 left = bytes.size;
  for (; left >= 32; left -= 32, next += 32)
    for (int i = 0; i < 4; ++i) {
      u64 word;
      memcpy(&word, next + 8 * i, 8);
      lanes[i] = mix(lanes[i], word);
    }
  u64 hash = mix(seed, (u64)bytes.size);
  for (const u64 lane : lanes) hash = mix(hash, lane);
  for (; left > 0; --left, ++next) hash = mix(hash, *next);
  return hash;
}

bool read_at(int file, void* to, i64 size, i64 offset) {
  return pread(file, to, (size_t)size, offset) == size;
}

// Reads a whole file; the buffer only grows. No bytes where it cannot be read.
Bytes read_file(const std::string& path, std::vector<u8>& buffer) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {nullptr, 0};
  struct stat status;
  i64 size = 0;
  if (fstat(file, &status) == 0 && status.st_size > 0) {
    if ((i64)buffer.size() < status.st_size) buffer.resize((size_t)status.st_size);
    while (size < status.st_size) {
      const i64 count = read(file, buffer.data() + size, (size_t)(status.st_size - size));
      if (count <= 0) break;
      size += count;
    }
  }
  close(file);
  return {buffer.data(), size};
}

}  // namespace

struct ExcerptMaker::Worker {
  JpegCutter cutter;
  std::vector<u8> file;
  std::vector<u64> slot;
  Excerpt excerpt;
};

i64 slot_bytes(i32 height, i32 width) {
  return 8 * (1 + most_points(height, width));
}

std::vector<Excerpt> ExcerptMaker::make(const std::vector<ExcerptTask>& tasks, int threads) {
  std::vector<Excerpt> excerpts(tasks.size());
  std::exception_ptr failure;
  parallel_for((i64)tasks.size(), 1, threads, [&](i64 begin, i64 end) {
    try {
      std::shared_ptr<Worker> worker;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!idle_.empty()) {
          worker = std::move(idle_.back());
          idle_.pop_back();
        }
      }
      if (!worker) worker = std::make_shared<Worker>();
      for (i64 i = begin; i < end; ++i) make(tasks[(size_t)i], *worker, excerpts[(size_t)i]);
      std::lock_guard<std::mutex> lock(mutex_);
      idle_.push_back(std::move(worker));
    } catch (...) {  // no memory
      std::lock_guard<std::mutex> lock(mutex_);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  return excerpts;
}

void ExcerptMaker::make(const ExcerptTask& task, Worker& worker, Excerpt& excerpt) const {
  const Bytes jpeg = task.bytes.data ? task.bytes : read_file(task.path, worker.file);
  if (jpeg.size > 0 && cut(jpeg, task, worker)) {
    const std::vector<u8>& made = worker.excerpt.jpeg;
    excerpt = {std::vector<u8>(made.begin(), made.end()), worker.excerpt.y, worker.excerpt.x};
  } else {
    excerpt = {std::vector<u8>(jpeg.data, jpeg.data + jpeg.size), 0, 0};
  }
}

bool ExcerptMaker::cut(Bytes jpeg, const ExcerptTask& task, Worker& worker) const {
  const Region& reads = task.reads;
  const i64 seen = (i64)(reads.y1 - reads.y0) * (reads.x1 - reads.x0);
  if (100 * seen >= kWholePercent * task.height * task.width) return false;
  if (jpeg.size < 2 || jpeg.data[0] != 0xFF || jpeg.data[1] != 0xD8) return false;  // no JPEG

  const i64 bytes = slot_bytes(task.height, task.width);
  std::vector<u64>& slot = worker.slot;
  slot.resize((size_t)bytes / 8);
  u64* const points = slot.data() + 1;
  // The check word is right for this very image alone, and for all of the points.
  const u64 key = hash_bytes(jpeg, mix(mix(kVersion, (u64)task.height), (u64)task.width));
  const auto check = [&] { return hash_bytes({(const u8*)points, bytes - 8}, key); };
  if (!read_at(points_file_, slot.data(), bytes, task.slot) || slot[0] != check()) {
    if (!worker.cutter.scan(jpeg, task.height, task.width, points))
      memset(points, 0, (size_t)bytes - 8);  // known to be none to cut from
    slot[0] = check();
    // A full disk costs time, not the run: the image is gone through again the next time.
    [[maybe_unused]] const i64 written =
        pwrite(points_file_, slot.data(), (size_t)bytes, task.slot);
  }
  return points[0] != 0 && worker.cutter.cut(jpeg, points, reads, worker.excerpt);
}

}  // namespace mixpipe
