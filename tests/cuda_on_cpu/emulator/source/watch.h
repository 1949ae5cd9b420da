// The checked build's view of every load and store of a kernel.
//
// g++ -fsanitize=thread calls a function before each access. Linked without libtsan, those calls
// land in watch.cpp, which knows what memory the kernel may touch. From there they go on to
// races.cpp (is the access ordered with the others?) and traffic.cpp (what would it cost?).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "grid.h"

namespace emulator {

enum class Space { kGlobal, kShared };

// Who accessed one byte. Each is a number of a Moment (races.cpp); 0: nobody.
struct Accesses {
  std::uint32_t write = 0;
  std::uint32_t read = 0;              // the latest, and the latest before it of
  std::uint32_t read_other_lane = 0;   //   another lane of its warp,
  std::uint32_t read_other_warp = 0;   //   another warp of its block,
  std::uint32_t read_other_block = 0;  //   another block
};

struct Region {
  std::uintptr_t start, end;
  Space space;
  std::string name;
  std::vector<Accesses> accesses;      // a byte
  std::vector<unsigned char> touched;  // a byte: bit 0 read, bit 1 written
};

struct Access {
  std::uintptr_t address;
  std::size_t bytes;
  bool write, atomic;
  std::uintptr_t instruction;
};

extern bool watching;            // a kernel's own code is running
extern bool tracing;             // count traffic
extern std::string traced_name;  // of this memory only; empty: of all global memory

void watch_global(const void* start, std::size_t bytes, const char* name);
void watch_shared(const void* start, std::size_t bytes);
void unwatch(const void* start);
void unwatch_everything();
std::vector<Region>& regions();

// From the scheduler.
void begin_watch();
void end_watch();
void end_of_block(Block& block);
void barrier_passed(Block& block);

// races.cpp
void check_order(const Access& access, Region& region);
void synchronise(std::uintptr_t address);  // at an atomic
void forget_moments();

// traffic.cpp
struct Traffic {
  std::uint64_t accessed;         // bytes of all accesses
  std::uint64_t bytes;            // distinct bytes touched
  std::uint64_t sectors;          // distinct 32-byte sectors, in the launch
  std::uint64_t block_sectors;    // distinct in each block, summed: no reuse between blocks
  std::uint64_t request_sectors;  // distinct in each warp-wide instruction, summed: no reuse at all
  std::uint64_t requests;         // warp-wide instructions
};
void count_traffic(const Access& access, Region& region);
void close_block_traffic();
void reset_traffic();
Traffic traffic(bool write);

}  // namespace emulator
