// What Python calls, through ctypes (../../build.py holds the other half).
#include "emulator/host_api.h"
#include "emulator/kernel.h"
#include "watch.h"

#pragma GCC visibility push(default)
extern "C" {

const char* emulator_run(const emulator::Kernel* kernel, const unsigned* grid,
                         const unsigned* block, std::size_t dynamic_shared_bytes,
                         void** arguments) {
  const emulator::Geometry geometry{
      {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, dynamic_shared_bytes};
  return emulator::run(geometry, kernel->call, arguments);
}

void emulator_seed(unsigned seed) {
  emulator::set_seed(seed);
}

void emulator_watch(const void* start, std::size_t bytes, const char* name) {
  emulator::watch_global(start, bytes, name);
}

void emulator_unwatch_everything() {
  emulator::unwatch_everything();
}

void emulator_trace(int on, const char* name) {
  emulator::tracing = on != 0;
  emulator::traced_name = name;
}

emulator::Traffic emulator_traffic(int write) {
  return emulator::traffic(write != 0);
}
}
#pragma GCC visibility pop
