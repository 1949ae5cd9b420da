#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mixpipe {
namespace {

constexpr std::chrono::microseconds kPatience{100};

// Leaves the core to whoever shares it, or to another thread.
inline void rest() {
#if defined(__x86_64__)
  for (int i = 0; i < 16; ++i) __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Looks for a moment whether something has come about. To sleep and be woken takes 15 to 40 us on a
// virtual machine, as long as many a loop. (Yielding instead of pausing slowed the caller's core by
// 5 %, where two cores are one core's threads.)
template <class Condition>
void look_for(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition() && std::chrono::steady_clock::now() < end) rest();
}

// One loop: whoever comes takes the next piece, so a late worker holds nobody up. The caller goes
// from the front and helpers from the back: a core tends to meet the memory that it has in its
// cache from the last loop.
struct Loop {
  const std::function<void(i64, i64)>* body;
  i64 count, piece, pieces;
  std::atomic<i64> taken{0}, at_front{0}, at_back{0}, done{0};
  std::mutex mutex;
  std::condition_variable finished;

  void work(bool helps) {
    while (taken.fetch_add(1, std::memory_order_relaxed) < pieces) {
      const i64 i = helps ? pieces - 1 - at_back.fetch_add(1, std::memory_order_relaxed)
                          : at_front.fetch_add(1, std::memory_order_relaxed);
      const i64 end = (i + 1) * piece;
      (*body)(i* piece, end < count ? end : count);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_all();
      }
    }
  }
  void wait() {
    look_for([&] { return is_done(); });
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [&] { return is_done(); });
  }
  bool is_done() const { return done.load(std::memory_order_acquire) == pieces; }
};

// Threads that live as long as the process and sleep between loops that are far apart.
class Pool {
 public:
  void invite(const std::shared_ptr<Loop>& loop, int helpers) {
    std::unique_lock<std::mutex> lock(mutex_);
    while ((int)workers_.size() < helpers) {
      workers_.emplace_back([this] { run(); });
      workers_.back().detach();
    }
    for (int i = 0; i < helpers; ++i) waiting_.push_back(loop);
    offers_.store((int)waiting_.size(), std::memory_order_release);
    lock.unlock();
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
  }

 private:
  void run() {
    for (;;) {
      std::shared_ptr<Loop> loop;
      look_for([&] { return offers_.load(std::memory_order_acquire) > 0; });
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return !waiting_.empty(); });
        loop = std::move(waiting_.front());
        waiting_.pop_front();
        offers_.store((int)waiting_.size(), std::memory_order_release);
      }
      loop->work(true);
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Loop>> waiting_;
  std::atomic<int> offers_{0};  // waiting_.size(), for those that look
  std::vector<std::thread> workers_;
};

// A forked child has none of its parent's threads, so it gets a pool of its own. Pools are never
// destroyed: their threads may outlive static destructors.
// A fork waits until nobody holds the mutex, which the child could never get.
std::mutex pool_mutex;

Pool& pool() {
  static const int registered = pthread_atfork(
      [] { pool_mutex.lock(); }, [] { pool_mutex.unlock(); }, [] { pool_mutex.unlock(); });
  static Pool* current = nullptr;
  static pid_t owner = 0;
  (void)registered;
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (current == nullptr || owner != getpid()) {
    current = new Pool;
    owner = getpid();
  }
  return *current;
}

// The process in which the extension was loaded; its id is that of its main thread.
const pid_t process = getpid();

bool on_main_thread() {
  return (pid_t)syscall(SYS_gettid) == process;  // gettid() is younger than some systems
}

// Calls a function in each of several threads, the calling one among them.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);

// The threads of the main thread's own torch operators, by the OpenMP runtime that torch has
// loaded; else null. After an operator they spin for some milliseconds, and a pool's threads would
// wait for a core beside them. Other threads have no use for it: OpenMP would start a team of its
// own for each. Nor has a process that was forked after the extension was loaded; its team did not
// come along.
Team torch_team() {
  if (!on_main_thread()) return nullptr;
  static const Team found = (Team)dlsym(RTLD_DEFAULT, "GOMP_parallel");
  return found;
}

}  // namespace

void parallel_for(i64 count, i64 grain, int threads, const std::function<void(i64, i64)>& body) {
  if (count <= 0) return;
  const i64 most_pieces = grain > 1 ? (count + grain - 1) / grain : count;
  if (threads <= 1 || most_pieces <= 1) {
    body(0, count);
    return;
  }
  auto loop = std::make_shared<Loop>();
  // Several pieces a thread even out unequal work and late starts.
  const i64 pieces = most_pieces < (i64)threads * 8 ? most_pieces : (i64)threads * 8;
  loop->body = &body;
  loop->count = count;
  loop->piece = (count + pieces - 1) / pieces;
  loop->pieces = (count + loop->piece - 1) / loop->piece;
  if (const Team team = torch_team()) {
    // As many threads as torch's operators have: for another number OpenMP would make a new team.
    team([](void* work) { ((Loop*)work)->work(!on_main_thread()); }, loop.get(), (unsigned)threads,
         0);
    return;
  }
  const i64 workers = loop->pieces < threads ? loop->pieces : threads;
  pool().invite(loop, (int)workers - 1);
  loop->work(false);
  loop->wait();
}

}  // namespace mixpipe
