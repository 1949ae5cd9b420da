// The state of a running grid: blocks in flight, their warps and threads.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "emulator/runtime.h"
#include "fiber.h"

namespace emulator {

struct Block;
struct Warp;

// How far a thread has come, for deciding which accesses are ordered (races.cpp).
struct Progress {
  std::uint32_t barriers = 0;       // block barriers passed
  std::uint32_t warp_meetings = 0;  // meetings with lanes of its warp since the launch
  std::uint32_t fences = 0;
};

// "All that this block did before its barrier number n, and all that this thread did before its
// fence number m": what becomes visible to a thread of another block.
struct Release {
  unsigned block, thread;
  Progress progress;
};

struct Thread {
  Coordinates where;  // copied to `current` while the thread runs
  unsigned number;    // in its block
  Block* block;
  Warp* warp;
  Fiber fiber;
  const char* waits_for;  // nullptr: ready to run
  bool done;
  Votes votes;                  // what the last barrier counted
  const std::uint64_t* values;  // what the last warp meeting exchanged
  Progress progress;
  std::uint32_t moment;          // races.cpp
  Release fenced;                // what this thread's next atomic hands on
  std::vector<Release> offered;  // what its atomics were handed, to be seen after a fence
  std::vector<Release> seen;     // what it has seen of other blocks
  // Executions of each memory instruction, to tell which lanes' accesses go together (traffic.cpp).
  std::map<std::uintptr_t, std::uint32_t> executions;
};

// Lanes that meet. A meeting is open until all lanes have arrived; its values live until all
// lanes have taken them, as a fast lane may already be in the next meeting.
struct Meeting {
  unsigned mask = 0, arrived = 0, untaken = 0;
  const char* operation = nullptr;
  std::uint64_t values[32];
};

struct Warp {
  std::vector<std::unique_ptr<Meeting>> meetings;
  std::vector<Thread*> threads;
};

struct SharedVariable {
  std::unique_ptr<void, void (*)(void*)> memory{nullptr, std::free};
  std::size_t bytes = 0;
};

struct Block {
  unsigned number;  // in the grid
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  unsigned alive, arrived;
  int predicates;
  std::uint32_t barriers;
  std::map<const void*, SharedVariable> shared;
  SharedVariable dynamic;
  std::vector<Release> seen;  // as Thread::seen, for all threads, since the last barrier
};

// The thread that runs; nullptr outside a launch and while the scheduler itself runs.
extern Thread* running;

// 0: threads in order, one block at a time. 1: reversed. More: shuffled, several blocks in flight.
void set_seed(unsigned seed);

}  // namespace emulator
