// Data races: two accesses of one byte by different threads, at least one a plain write, with
// nothing that orders them. What orders accesses:
//   - a block barrier, for threads of the block;
//   - a meeting of lanes (shuffle, vote, __syncwarp), for threads of the warp;
//   - fence, atomic, then another thread's atomic on the same address and its fence: what the
//     first thread had seen before its fence is visible to the second.
// Blocks are otherwise never ordered, whichever of them happened to run first.
#include "watch.h"

#include <unordered_map>

namespace emulator {
namespace {

// A stretch of one thread's life in which its order relative to others does not change.
struct Moment {
  unsigned block, thread;
  Progress progress;
};
std::vector<Moment> moments(1);  // number 0: nobody

constexpr std::uint32_t kAtomic = 0x80000000u;

// What an atomic hands to the threads that later use the same address.
std::unordered_map<std::uintptr_t, std::vector<Release>> releases;

std::uint32_t moment_now() {
  Thread& me = *running;
  const Progress& now = me.progress;
  if (me.moment) {
    const Progress& then = moments[me.moment].progress;
    if (then.barriers == now.barriers && then.warp_meetings == now.warp_meetings &&
        then.fences == now.fences)
      return me.moment;
  }
  moments.push_back({me.block->number, me.number, now});
  return me.moment = static_cast<std::uint32_t>(moments.size() - 1);
}

bool covers(const std::vector<Release>& seen, const Moment& earlier, bool atomic) {
  for (const Release& release : seen) {
    if (release.block != earlier.block) continue;
    if (earlier.progress.barriers < release.progress.barriers) return true;
    if (earlier.thread == release.thread &&
        earlier.progress.fences < release.progress.fences + (atomic ? 1 : 0))
      return true;
  }
  return false;
}

// Whether the earlier access happens before what the running thread does now.
bool ordered(std::uint32_t access) {
  const Moment& earlier = moments[access & ~kAtomic];
  const Thread& me = *running;
  if (earlier.block == me.block->number) {
    if (earlier.thread == me.number) return true;
    if (earlier.progress.barriers < me.progress.barriers) return true;
    return earlier.thread / 32 == me.number / 32 &&
           earlier.progress.warp_meetings < me.progress.warp_meetings;
  }
  return covers(me.seen, earlier, access & kAtomic) ||
         covers(me.block->seen, earlier, access & kAtomic);
}

[[noreturn]] void report(const char* what, std::uint32_t other, const Region& region,
                         std::size_t offset) {
  const Moment& earlier = moments[other & ~kAtomic];
  fail("race: %s of %s memory %s at +%zu, not ordered with thread %u of block %u", what,
       region.space == Space::kShared ? "shared" : "global", region.name.c_str(), offset,
       earlier.thread, earlier.block);
}

void note_read(Accesses& byte, std::uint32_t now) {
  if (byte.read && byte.read != now) {
    const Moment &last = moments[byte.read & ~kAtomic], &mine = moments[now & ~kAtomic];
    if (last.block != mine.block)
      byte.read_other_block = byte.read;
    else if (last.thread / 32 != mine.thread / 32)
      byte.read_other_warp = byte.read;
    else if (last.thread != mine.thread)
      byte.read_other_lane = byte.read;
  }
  byte.read = now;
}

void add(std::vector<Release>& to, const Release& release) {
  for (Release& known : to)
    if (known.block == release.block && known.thread == release.thread) {
      known = release;
      return;
    }
  to.push_back(release);
}

}  // namespace

void check_order(const Access& access, Region& region) {
  const std::uint32_t now = moment_now() | (access.atomic ? kAtomic : 0);
  const std::size_t first = access.address - region.start;
  for (std::size_t i = first; i < first + access.bytes; ++i) {
    Accesses& byte = region.accesses[i];
    const bool both_atomic = access.atomic && (byte.write & kAtomic);
    if (byte.write && !both_atomic && !ordered(byte.write))
      report(access.write ? "write after write" : "read after write", byte.write, region, i);
    if (!access.write) {
      note_read(byte, now);
      continue;
    }
    for (std::uint32_t reader :
         {byte.read, byte.read_other_lane, byte.read_other_warp, byte.read_other_block})
      if (reader && !(access.atomic && (reader & kAtomic)) && !ordered(reader))
        report("write after read", reader, region, i);
    // A plain write stays one, for the others, when its own thread's atomic follows at once.
    const std::uint32_t write = byte.write == (now & ~kAtomic) ? byte.write : now;
    byte = Accesses();
    byte.write = write;
  }
}

void device_fence() {
  Thread& me = *running;
  for (const Release& release : me.offered) add(me.seen, release);
  me.offered.clear();
  ++me.progress.fences;
  me.fenced = {me.block->number, me.number, me.progress};
}

void synchronise(std::uintptr_t address) {
  Thread& me = *running;
  std::vector<Release>& here = releases[address];
  for (const Release& release : here) add(me.offered, release);
  if (!me.progress.fences) return;
  add(here, me.fenced);
  for (const Release& release : me.seen) add(here, release);
  for (const Release& release : me.block->seen) add(here, release);
}

void barrier_passed(Block& block) {
  for (const auto& thread : block.threads)
    for (const Release& release : thread->seen) add(block.seen, release);
}

void forget_moments() {
  moments.resize(1);
  releases.clear();
}

}  // namespace emulator
