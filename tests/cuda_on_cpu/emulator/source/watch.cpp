#include "watch.h"

#include <link.h>

#include <algorithm>

namespace emulator {

bool watching = false;
bool tracing = false;
std::string traced_name;

namespace {

std::vector<Region> all_regions;  // by start
Region* latest = nullptr;
struct {
  std::uintptr_t start, end;
} program = {0, 0};  // this library's own data: constants and tables

// Finds the loaded object that holds `watching`.
int find_program(dl_phdr_info* object, std::size_t, void*) {
  std::uintptr_t start = UINTPTR_MAX, end = 0;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const auto& segment = object->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    start = std::min<std::uintptr_t>(start, object->dlpi_addr + segment.p_vaddr);
    end = std::max<std::uintptr_t>(end, object->dlpi_addr + segment.p_vaddr + segment.p_memsz);
  }
  const auto here = reinterpret_cast<std::uintptr_t>(&watching);
  if (here < start || here >= end) return 0;
  program = {start, end};
  return 1;
}

Region* region_of(std::uintptr_t address) {
  if (latest && address >= latest->start && address < latest->end) return latest;
  auto after = std::upper_bound(all_regions.begin(), all_regions.end(), address,
                                [](std::uintptr_t a, const Region& r) { return a < r.start; });
  if (after == all_regions.begin()) return nullptr;
  Region& region = *(after - 1);
  if (address >= region.end) return nullptr;
  return latest = &region;
}

const char* name_of(Space space) {
  return space == Space::kShared ? "shared" : "global";
}

[[noreturn]] void report_outside(const Access& access) {
  const Region* nearest = nullptr;
  std::uintptr_t distance = UINTPTR_MAX;
  for (const Region& region : all_regions) {
    const std::uintptr_t gap =
        access.address < region.start ? region.start - access.address : access.address - region.end;
    if (gap < distance) nearest = &region, distance = gap;
  }
  const char* kind = access.write ? "write" : "read";
  if (!nearest) fail("out of bounds: %s of %zu bytes, no memory is known", kind, access.bytes);
  const bool before = access.address < nearest->start;
  fail("out of bounds: %s of %zu bytes, %zu bytes %s of %s memory %s (%zu bytes)", kind,
       access.bytes, static_cast<std::size_t>(distance),
       before ? "before the start" : "past the end", name_of(nearest->space), nearest->name.c_str(),
       static_cast<std::size_t>(nearest->end - nearest->start));
}

void check(const Access& access) {
  if (running->fiber.owns(reinterpret_cast<const void*>(access.address))) return;
  if (access.address >= program.start && access.address < program.end) return;
  Region* region = region_of(access.address);
  if (!region) report_outside(access);
  const std::size_t offset = access.address - region->start;
  if (access.address + access.bytes > region->end)
    fail("out of bounds: %s of %zu bytes at +%zu of %s memory %s (%zu bytes)",
         access.write ? "write" : "read", access.bytes, offset, name_of(region->space),
         region->name.c_str(), static_cast<std::size_t>(region->end - region->start));
  if (region->space == Space::kShared && !access.write)
    for (std::size_t i = 0; i < access.bytes; ++i)
      if (!region->accesses[offset + i].write)
        fail("uninitialised: read of shared memory %s at +%zu, never written by this block",
             region->name.c_str(), offset + i);
  check_order(access, *region);
  if (!tracing || region->space != Space::kGlobal) return;
  if (traced_name.empty() || traced_name == region->name) count_traffic(access, *region);
}

void on_access(const void* address, std::size_t bytes, bool write, const void* instruction) {
  if (!watching) return;
  watching = false;
  check({reinterpret_cast<std::uintptr_t>(address), bytes, write, false,
         reinterpret_cast<std::uintptr_t>(instruction)});
  watching = true;
}

void add_region(const void* start, std::size_t bytes, Space space, std::string name) {
  const auto first = reinterpret_cast<std::uintptr_t>(start);
  // Memory that was freed and given out again: the newest owner counts.
  all_regions.erase(std::remove_if(all_regions.begin(), all_regions.end(),
                                   [&](const Region& region) {
                                     return region.start < first + bytes && first < region.end;
                                   }),
                    all_regions.end());
  const auto at = std::upper_bound(all_regions.begin(), all_regions.end(), first,
                                   [](std::uintptr_t a, const Region& r) { return a < r.start; });
  Region region{first, first + bytes, space, std::move(name), {}, {}};
  if (space == Space::kShared) region.accesses.resize(bytes);
  all_regions.insert(at, std::move(region));
  latest = nullptr;
}

}  // namespace

std::vector<Region>& regions() {
  return all_regions;
}

void watch_global(const void* start, std::size_t bytes, const char* name) {
  if (bytes) add_region(start, bytes, Space::kGlobal, name);
}

void watch_shared(const void* start, std::size_t bytes) {
#if defined(EMULATOR_CHECKED)
  add_region(start, bytes, Space::kShared, "of " + std::to_string(bytes) + " bytes");
#else
  (void)start, (void)bytes;
#endif
}

void unwatch(const void* start) {
  const auto first = reinterpret_cast<std::uintptr_t>(start);
  for (std::size_t i = 0; i < all_regions.size(); ++i)
    if (all_regions[i].start == first) {
      all_regions.erase(all_regions.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    }
  latest = nullptr;
}

void unwatch_everything() {
  all_regions.clear();
  latest = nullptr;
}

void begin_watch() {
#if defined(EMULATOR_CHECKED)
  if (!program.end) dl_iterate_phdr(&find_program, nullptr);
  for (Region& region : all_regions) {
    region.accesses.assign(region.end - region.start, Accesses());
    if (tracing) region.touched.assign(region.end - region.start, 0);
  }
  forget_moments();
  if (tracing) reset_traffic();
#endif
}

void end_watch() {
  watching = false;
  running = nullptr;
}

void end_of_block(Block&) {
  if (tracing) close_block_traffic();
}

void atomic_access(const void* address, std::size_t bytes) {
#if defined(EMULATOR_CHECKED)
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const auto instruction = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0));
  watching = false;
  synchronise(at);
  check({at, bytes, false, true, instruction});
  check({at, bytes, true, true, instruction});
  watching = true;
#else
  (void)address, (void)bytes;
#endif
}

}  // namespace emulator

// The names that g++ -fsanitize=thread calls. What it calls unaligned may be; what is misaligned
// for its type is told by the call below.
#define EMULATOR_ACCESS(name, bytes, write)                                  \
  extern "C" void __tsan_##name(void* address) {                             \
    emulator::on_access(address, bytes, write, __builtin_return_address(0)); \
  }
#define EMULATOR_ACCESSES(bytes)                       \
  EMULATOR_ACCESS(read##bytes, bytes, false)           \
  EMULATOR_ACCESS(write##bytes, bytes, true)           \
  EMULATOR_ACCESS(unaligned_read##bytes, bytes, false) \
  EMULATOR_ACCESS(unaligned_write##bytes, bytes, true) \
  EMULATOR_ACCESS(volatile_read##bytes, bytes, false)  \
  EMULATOR_ACCESS(volatile_write##bytes, bytes, true)
EMULATOR_ACCESSES(1)
EMULATOR_ACCESSES(2)
EMULATOR_ACCESSES(4)
EMULATOR_ACCESSES(8)
EMULATOR_ACCESSES(16)

// What g++ -fsanitize=alignment calls for a pointer that is misaligned for its type or null.
struct TypeMismatch {
  const char* file;
  std::uint32_t line, column;
  const struct {
    std::uint16_t kind, info;
    char name[1];
  }* type;
  unsigned char log_alignment, access_kind;
};

extern "C" {
void __tsan_read_range(void* address, std::size_t bytes) {
  emulator::on_access(address, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
  emulator::on_access(address, bytes, true, __builtin_return_address(0));
}
// Host code of a program: guards of static variables, reference counts of shared pointers.
unsigned char __tsan_atomic8_load(const volatile unsigned char* address, int) {
  return *address;
}
int __tsan_atomic32_load(const volatile int* address, int) {
  return *address;
}
long __tsan_atomic64_load(const volatile long* address, int) {
  return *address;
}
int __tsan_atomic32_fetch_add(volatile int* address, int value, int) {
  const int old = *address;
  *address = old + value;
  return old;
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

void __ubsan_handle_type_mismatch_v1(TypeMismatch* found, void* address) {
  if (!emulator::watching) return;
  emulator::watching = false;
  emulator::fail("misaligned: an access as %s, which needs %u bytes of alignment, at %p in line %u",
                 found->type->name, 1u << found->log_alignment, address, found->line);
}
}
