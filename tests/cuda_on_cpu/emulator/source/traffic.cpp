// What a kernel's accesses would cost a GPU's memory, in 32-byte sectors.
#include <algorithm>
#include <unordered_set>

#include "watch.h"

namespace emulator {
namespace {

constexpr std::uintptr_t kSector = 32;

// One sector touched by one lane. Lanes of a warp that execute the same instruction the same
// number of times are taken to execute it together.
struct Touch {
  unsigned warp;
  std::uintptr_t instruction;
  std::uint32_t execution;
  std::uintptr_t sector;

  bool same_request(const Touch& other) const {
    return warp == other.warp && instruction == other.instruction && execution == other.execution;
  }
  bool operator<(const Touch& other) const {
    if (warp != other.warp) return warp < other.warp;
    if (instruction != other.instruction) return instruction < other.instruction;
    if (execution != other.execution) return execution < other.execution;
    return sector < other.sector;
  }
  bool operator==(const Touch& other) const {
    return same_request(other) && sector == other.sector;
  }
};

struct Direction {
  Traffic total;
  std::vector<Touch> touches;  // of the block that runs
  std::unordered_set<std::uintptr_t> sectors;

  void close_block() {
    std::sort(touches.begin(), touches.end());
    touches.erase(std::unique(touches.begin(), touches.end()), touches.end());
    total.request_sectors += touches.size();
    std::unordered_set<std::uintptr_t> of_block;
    for (std::size_t i = 0; i < touches.size(); ++i) {
      total.requests += i == 0 || !touches[i].same_request(touches[i - 1]);
      of_block.insert(touches[i].sector);
    }
    total.block_sectors += of_block.size();
    sectors.insert(of_block.begin(), of_block.end());
    total.sectors = sectors.size();
    touches.clear();
  }
} reads, writes;

}  // namespace

void count_traffic(const Access& access, Region& region) {
  Thread& me = *running;
  const std::uint32_t execution = me.executions[access.instruction]++;
  Direction& direction = access.write ? writes : reads;
  const unsigned char bit = access.write ? 2 : 1;
  for (std::uintptr_t sector = access.address / kSector;
       sector <= (access.address + access.bytes - 1) / kSector; ++sector)
    direction.touches.push_back({me.number / 32, access.instruction, execution, sector});
  direction.total.accessed += access.bytes;
  const std::size_t first = access.address - region.start;
  for (std::size_t i = first; i < first + access.bytes; ++i) {
    direction.total.bytes += !(region.touched[i] & bit);
    region.touched[i] |= bit;
  }
}

void close_block_traffic() {
  reads.close_block();
  writes.close_block();
}

void reset_traffic() {
  reads = {};
  writes = {};
}

Traffic traffic(bool write) {
  return write ? writes.total : reads.total;
}

}  // namespace emulator
