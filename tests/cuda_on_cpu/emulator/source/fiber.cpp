#include "fiber.h"

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

// The scheduler's own stack, as AddressSanitizer must be told about it.
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_bytes = 0;

#if defined(__x86_64__)

void* scheduler_top = nullptr;

// Pushes what a callee must preserve, leaves the stack in *save and goes on in `to`.
__attribute__((naked, noinline)) void switch_stack(void** /*save*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
      "movq %rsp, (%rdi); movq %rsi, %rsp;"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

#else

ucontext_t scheduler_context;

#endif

void announce_switch(void** save_shadow, const void* stack, std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(save_shadow, stack, bytes);
#else
  (void)save_shadow, (void)stack, (void)bytes;
#endif
}

}  // namespace

void Fiber::start(void (*entry)()) {
  if (!stack_) stack_.reset(new char[kStackBytes]);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_.get(), kStackBytes);  // a launch may have been cut short
#endif
  sanitizer_stack_ = nullptr;
#if defined(__x86_64__)
  // What switch_stack pops: six registers, then the address it returns to, with the stack aligned
  // as after a call.
  const auto end = reinterpret_cast<std::uintptr_t>(stack_.get() + kStackBytes);
  void** top = reinterpret_cast<void**>(end & ~std::uintptr_t{15});
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  top_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_.get();
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::resume() {
  void* shadow = nullptr;
  announce_switch(&shadow, stack_.get(), kStackBytes);
#if defined(__x86_64__)
  switch_stack(&scheduler_top, top_);
#else
  swapcontext(&scheduler_context, &context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(shadow, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
  announce_switch(&sanitizer_stack_, scheduler_stack, scheduler_stack_bytes);
#if defined(__x86_64__)
  switch_stack(&top_, scheduler_top);
#else
  swapcontext(&context_, &scheduler_context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(sanitizer_stack_, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void Fiber::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

}  // namespace emulator
