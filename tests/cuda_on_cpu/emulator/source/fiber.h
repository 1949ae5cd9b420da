// A thread of the emulated device: a stack of its own, run until it waits.
#pragma once

#include <cstddef>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

class Fiber {
 public:
  static constexpr std::size_t kStackBytes = 64 << 10;

  // Makes `entry` what runs when the fiber is next resumed. It must never return.
  void start(void (*entry)());
  // From the scheduler: runs the fiber until it suspends.
  void resume();
  // From the fiber: back to the scheduler.
  void suspend();
  // First thing in `entry`: tells AddressSanitizer that the switch is done.
  static void arrived();
  // Whether the address is on this fiber's stack.
  bool owns(const void* address) const {
    const char* byte = static_cast<const char*>(address);
    return byte >= stack_.get() && byte < stack_.get() + kStackBytes;
  }

 private:
  std::unique_ptr<char[]> stack_;
  void* sanitizer_stack_ = nullptr;  // AddressSanitizer's shadow of the suspended stack
#if defined(__x86_64__)
  void* top_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace emulator
