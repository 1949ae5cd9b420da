// The excerpts of a batch: files read, entry points found and kept, excerpts cut, on several
// threads.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "jpeg.h"

namespace mixpipe {

// What is to be read of one image.
struct ExcerptTask {
  std::string path;  // where `bytes` are null
  Bytes bytes;
  i32 height, width;  // of the image, in pixels
  Region reads;
  i64 slot;  // the byte of the points' file where its slot begins
};

// Bytes that the slot of an image of this size takes: a check word, then its entry points.
i64 slot_bytes(i32 height, i32 width);

class ExcerptMaker {
 public:
  // Entry points are kept in an open file. It is a cache: a slot that cannot be read, or that was
  // written for other bytes than the image's, is made anew, and one that cannot be written is not.
  // Any number of processes may use the same file.
  explicit ExcerptMaker(int points_file) : points_file_(points_file) {}

  // The excerpt of each task. It is the whole image where that is not a JPEG that excerpts can be
  // cut from, or where nearly all of it is read; no bytes where its file cannot be read.
  std::vector<Excerpt> make(const std::vector<ExcerptTask>& tasks, int threads);

 private:
  struct Worker;
  void make(const ExcerptTask& task, Worker& worker, Excerpt& excerpt) const;
  bool cut(Bytes jpeg, const ExcerptTask& task, Worker& worker) const;

  const int points_file_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Worker>> idle_;
};

}  // namespace mixpipe
