// Runs a grid: fibers, barriers, warp meetings, shared memory, schedules.
#include "grid.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "watch.h"

namespace emulator {

Coordinates current;
Thread* running = nullptr;

namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kBlocksInFlight = 3;  // with a shuffling seed
constexpr unsigned char kGarbage = 0xCD;

unsigned chosen_seed = 0;
Call kernel_call = nullptr;
void** kernel_arguments = nullptr;
char error_message[1024];
bool failed = false;

struct Random {
  std::uint64_t state;
  explicit Random(unsigned seed) : state(seed * 2654435761u + 1) {}
  std::size_t below(std::size_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state >> 33) % bound;
  }
};

template <class T>
void arrange(std::vector<T>& items, Random& random) {
  if (chosen_seed == 1) std::reverse(items.begin(), items.end());
  if (chosen_seed < 2) return;
  for (std::size_t left = items.size(); left > 1; --left)
    std::swap(items[left - 1], items[random.below(left)]);
}

// Exactly as long as declared, so that AddressSanitizer sees the first byte too many.
SharedVariable make_shared(std::size_t bytes, std::size_t alignment) {
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), bytes)) std::abort();
  std::memset(memory, kGarbage, bytes);
  watch_shared(memory, bytes);
  SharedVariable variable;
  variable.memory.reset(memory);
  variable.bytes = bytes;
  return variable;
}

void release_shared(Block& block) {
  for (auto& entry : block.shared) unwatch(entry.second.memory.get());
  block.shared.clear();
  if (block.dynamic.memory) unwatch(block.dynamic.memory.get());
  block.dynamic.memory.reset();
}

void wait(const char* what) {
  running->waits_for = what;
  running->fiber.suspend();
}

void thread_body() {
  Fiber::arrived();
  for (;;) {
    kernel_call(kernel_arguments);
    running->done = true;
    running->fiber.suspend();
  }
}

void prepare(Block& block, unsigned number, const Geometry& geometry) {
  const dim3 size = geometry.block, grid = geometry.grid;
  const unsigned count = size.x * size.y * size.z;
  block.number = number;
  block.alive = count;
  block.arrived = 0;
  block.predicates = 0;
  block.barriers = 0;
  block.seen.clear();
  while (block.threads.size() < count) {
    block.threads.emplace_back(new Thread);
    block.threads.back()->fiber.start(&thread_body);
  }
  block.warps.clear();
  block.warps.resize((count + kWarp - 1) / kWarp);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = *block.threads[i];
    const unsigned lanes = std::min(kWarp, count - i / kWarp * kWarp);
    thread.where.thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread.where.block = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
    thread.where.block_size = size;
    thread.where.grid_size = grid;
    thread.where.lane = i % kWarp;
    thread.where.warp_lanes = lanes == kWarp ? ~0u : (1u << lanes) - 1;
    thread.number = i;
    thread.block = &block;
    thread.warp = &block.warps[i / kWarp];
    thread.warp->threads.push_back(&thread);
    thread.waits_for = nullptr;
    thread.done = false;
    thread.values = nullptr;
    thread.progress = {};
    thread.moment = 0;
    thread.offered.clear();
    thread.seen.clear();
    thread.executions.clear();
  }
  release_shared(block);
  if (geometry.dynamic_shared_bytes) block.dynamic = make_shared(geometry.dynamic_shared_bytes, 16);
}

// Runs each ready thread of the warp once. Whether any was ready.
bool step(Warp& warp, Random& random) {
  std::vector<Thread*> order = warp.threads;
  arrange(order, random);
  bool any = false;
  for (Thread* thread : order) {
    if (thread->done || thread->waits_for || failed) continue;
    any = true;
    running = thread;
    current = thread->where;
    watching = true;
    thread->fiber.resume();
    watching = false;
    running = nullptr;
    if (thread->done) --thread->block->alive;
  }
  return any;
}

// A warp is run as far as it goes before the next one starts, so that a missing barrier shows.
bool step(Block& block, Random& random) {
  std::vector<Warp*> order;
  for (Warp& warp : block.warps) order.push_back(&warp);
  arrange(order, random);
  bool any = false;
  for (Warp* warp : order)
    while (step(*warp, random) && !failed) any = true;
  return any;
}

void report_deadlock(const Block& block) {
  for (const auto& thread : block.threads) {
    if (thread->done || !thread->waits_for) continue;
    const uint3 at = thread->where.block;
    std::snprintf(error_message, sizeof error_message,
                  "deadlock: thread %u of block (%u, %u, %u) waits in %s for threads that have "
                  "returned or wait elsewhere",
                  thread->number, at.x, at.y, at.z, thread->waits_for);
    failed = true;
    return;
  }
}

}  // namespace

void set_seed(unsigned seed) {
  chosen_seed = seed;
}

void fail(const char* format, ...) {
  char text[768];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const Coordinates& at = running->where;
  std::snprintf(error_message, sizeof error_message,
                "%s (thread (%u, %u, %u) of block (%u, %u, %u))", text, at.thread.x, at.thread.y,
                at.thread.z, at.block.x, at.block.y, at.block.z);
  failed = true;
  running->fiber.suspend();
  __builtin_unreachable();
}

Votes meet_block(int predicate) {
  Thread& me = *running;
  Block& block = *me.block;
  block.predicates += predicate != 0;
  const unsigned everyone =
      static_cast<unsigned>(me.where.block_size.x) * me.where.block_size.y * me.where.block_size.z;
  if (++block.arrived < everyone) {
    wait("__syncthreads");
  } else {
    const Votes votes{block.predicates, block.predicates == static_cast<int>(everyone)};
    block.arrived = 0;
    block.predicates = 0;
    ++block.barriers;
    barrier_passed(block);
    for (unsigned i = 0; i < everyone; ++i) {
      Thread& thread = *block.threads[i];
      thread.votes = votes;
      thread.waits_for = nullptr;
      thread.progress.barriers = block.barriers;
    }
  }
  return me.votes;
}

void meet_warp(unsigned mask, const char* operation, std::uint64_t value,
               std::uint64_t values[32]) {
  Thread& me = *running;
  const unsigned bit = 1u << me.where.lane;
  if (!(mask & bit))
    fail("%s: lane %u is not in its own mask 0x%08x", operation, me.where.lane, mask);
  mask &= me.where.warp_lanes;

  Meeting* meeting = nullptr;
  Meeting* unused = nullptr;
  for (auto& candidate : me.warp->meetings) {
    const bool open = candidate->arrived != 0;
    if (!open && !candidate->untaken) unused = candidate.get();
    if (!open || !(candidate->mask & mask)) continue;
    if (candidate->mask != mask)
      fail("%s: lane %u names the mask 0x%08x, others wait in %s with 0x%08x", operation,
           me.where.lane, mask, candidate->operation, candidate->mask);
    if (std::strcmp(candidate->operation, operation))
      fail("%s: others of its mask wait in %s", operation, candidate->operation);
    meeting = candidate.get();
  }
  if (!meeting) {
    if (!unused) {
      me.warp->meetings.emplace_back(new Meeting);
      unused = me.warp->meetings.back().get();
    }
    meeting = unused;
    meeting->mask = mask;
    meeting->operation = operation;
  }
  meeting->values[me.where.lane] = value;
  meeting->arrived |= bit;
  if (meeting->arrived != mask) {
    wait(operation);
  } else {
    meeting->arrived = 0;
    meeting->untaken = mask;
    for (Thread* lane : me.warp->threads) {
      if (!(mask >> lane->where.lane & 1)) continue;
      lane->waits_for = nullptr;
      ++lane->progress.warp_meetings;
      lane->values = meeting->values;
    }
  }
  std::memcpy(values, me.values, sizeof meeting->values);
  meeting->untaken &= ~bit;
}

void* shared_variable(const void* key, std::size_t bytes, std::size_t alignment) {
  auto& variables = running->block->shared;
  auto found = variables.find(key);
  if (found == variables.end()) found = variables.emplace(key, make_shared(bytes, alignment)).first;
  return found->second.memory.get();
}

void* dynamic_shared() {
  return running->block->dynamic.memory.get();
}

const char* run(const Geometry& geometry, Call call, void** arguments) {
  // Kept between launches: stacks are what costs.
  static std::vector<std::unique_ptr<Block>> slots;

  const dim3 grid = geometry.grid, size = geometry.block;
  const std::uint64_t threads = std::uint64_t{size.x} * size.y * size.z;
  if (!threads || threads > 1024 || size.z > 64 || !grid.x || !grid.y || !grid.z ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    std::snprintf(error_message, sizeof error_message,
                  "invalid launch: grid (%u, %u, %u), block (%u, %u, %u)", grid.x, grid.y, grid.z,
                  size.x, size.y, size.z);
    return error_message;
  }
  kernel_call = call;
  kernel_arguments = arguments;
  failed = false;
  Random random(chosen_seed);
  std::vector<unsigned> waiting(std::size_t{grid.x} * grid.y * grid.z);
  std::iota(waiting.begin(), waiting.end(), 0u);
  arrange(waiting, random);
  std::reverse(waiting.begin(), waiting.end());  // taken from the back

  begin_watch();
  const std::size_t width = chosen_seed < 2 ? 1 : kBlocksInFlight;
  while (slots.size() < width) slots.emplace_back(new Block{});
  std::vector<Block*> in_flight;
  for (std::size_t i = 0; i < width && !waiting.empty(); ++i) {
    prepare(*slots[i], waiting.back(), geometry);
    waiting.pop_back();
    in_flight.push_back(slots[i].get());
  }
  while (!in_flight.empty() && !failed) {
    bool any = false;
    for (std::size_t i = 0; i < in_flight.size() && !failed;) {
      Block& block = *in_flight[i];
      any |= step(block, random);
      if (block.alive || failed) {
        ++i;
        continue;
      }
      end_of_block(block);
      if (!waiting.empty()) {
        prepare(block, waiting.back(), geometry);
        waiting.pop_back();
        ++i;
      } else {
        in_flight.erase(in_flight.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    if (!any && !failed && !in_flight.empty()) report_deadlock(*in_flight.front());
  }
  for (auto& slot : slots) release_shared(*slot);
  if (failed) slots.clear();  // suspended fibers are not worth keeping
  end_watch();
  return failed ? error_message : nullptr;
}

}  // namespace emulator
