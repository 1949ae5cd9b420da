// A kernel as something that can be launched by name with an array of argument addresses (as
// cuLaunchKernel does), and what its signature is, told by the compiler itself.
#pragma once

#include "emulator/host_api.h"
#include "emulator/runtime.h"

namespace emulator {

struct Parameter {
  size_t bytes;
  size_t alignment;
  char kind;         // 'p' pointer, 'f' floating, 'i' signed, 'u' unsigned, 's' struct
  const char* type;  // the compiler's own spelling, inside "... [with T = ...]"
};

struct Kernel {
  const char* name;
  Call call;
  int parameter_count;
  const Parameter* parameters;
  int most_threads;  // __launch_bounds__; 0: none given
};

template <class T>
constexpr char kind_of() {
  if (__is_class(T) || __is_union(T)) return 's';
  if constexpr (!__is_class(T) && !__is_union(T)) {
    if (__is_enum(T)) return 'i';
    if constexpr (T(1) / T(2) != T(0)) return 'f';
    return T(-1) < T(1) ? 'i' : 'u';
  }
  return '?';
}

template <class T>
struct Describe {
  static const char* spelling() { return __PRETTY_FUNCTION__; }
  static Parameter parameter() { return {sizeof(T), alignof(T), kind_of<T>(), spelling()}; }
};
template <class T>
struct Describe<T*> {
  static const char* spelling() { return __PRETTY_FUNCTION__; }
  static Parameter parameter() { return {sizeof(T*), alignof(T*), 'p', spelling()}; }
};

template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  using type = Indices<I...>;
};

// The function pointer is a template argument, so that `call` is a plain function.
template <auto kernel, class... P>
struct Callable {
  template <int... I>
  EMULATOR_UNWATCHED static void call_with(void** arguments, Indices<I...>) {
    (void)arguments;
    kernel(*static_cast<P*>(arguments[I])...);
  }
  EMULATOR_UNWATCHED static void call(void** arguments) {
    call_with(arguments, typename MakeIndices<sizeof...(P)>::type());
  }
};

template <auto kernel, class... P>
Kernel describe(const char* name, void (*)(P...), int most_threads) {
  static const Parameter parameters[sizeof...(P) + 1] = {Describe<P>::parameter()..., {}};
  return {name, &Callable<kernel, P...>::call, sizeof...(P), parameters, most_threads};
}

// kernel<<<grid, block, shared, stream>>>(arguments...) is rewritten to
// emulator::Launch<kernel...>: here the kernel is a value, known only when it runs.
template <class... P>
struct Launch {
  void (*kernel)(P...);
  Geometry geometry;

  template <int... I>
  EMULATOR_UNWATCHED static void call_with(void** arguments, Indices<I...>) {
    auto kernel = *static_cast<void (**)(P...)>(arguments[sizeof...(P)]);
    kernel(*static_cast<P*>(arguments[I])...);
  }
  EMULATOR_UNWATCHED static void call(void** arguments) {
    call_with(arguments, typename MakeIndices<sizeof...(P)>::type());
  }
  void operator()(P... values) {
    void* arguments[] = {const_cast<void*>(static_cast<const void*>(&values))..., &kernel};
    note_launch_error(run(geometry, &call, arguments));
  }
};

template <class... P>
Launch<P...> launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes = 0,
                    cudaStream_t = nullptr) {
  return {kernel, {grid, block, shared_bytes}};
}

}  // namespace emulator
