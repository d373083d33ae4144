#include "closer.h"

#include <sys/socket.h>
#include <uv.h>

#include <new>
#include <vector>

#include "sys.h"

namespace {

constexpr uint64_t kNsPerMs = 1000000;

// Creating a thread costs about ten times as much as waking one. A thread that is idle for this long ends.
constexpr uint64_t kIdleNs = 1000 * kNsPerMs;

// The threads do little more than make system calls, which need little stack.
constexpr size_t kStackSize = size_t{256} * 1024;

struct Job {
  int fd;
  Closer::How how;
  uint64_t id;
};

void close_now(const Job& job) {
  if (job.how == Closer::How::kReset) {
    sys::reset(job.fd);
    return;
  }
  // Without this, one sender's SO_LINGER could delay the close of all other fds.
  Closer::clear_linger(job.fd);
  sys::close(job.fd);
}

}  // namespace

void Closer::clear_linger(int fd) noexcept {
  linger option = {};
  socklen_t length = sizeof option;
  if (sys::getsockopt(fd, SOL_SOCKET, SO_LINGER, &option, &length) != 0) return;
  if (option.l_onoff == 0 || option.l_linger == 0) return;
  option = {};
  sys::setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, sizeof option);
}

// Shared by the Closer and its threads. The last of them to end deletes it.
struct Closer::State {
  uv_mutex_t mutex;
  uv_cond_t work;      // a job was added, or `ending` was set
  uv_cond_t progress;  // a job is done, or a thread has ended
  std::vector<Job> jobs;
  uint64_t last_id = 0;
  uint64_t awaited = 0;  // the job for which close_and_wait() waits, or 0
  size_t threads = 0;
  size_t idle = 0;
  uv_thread_t ended_thread;  // not joined yet
  bool has_ended_thread = false;
  bool ending = false;
  bool abandoned = false;  // the Closer itself is destroyed

  static State* create() noexcept;
  bool provide_thread();
  bool push(int fd, How how, uint64_t* id) noexcept;
  void run();
  void destroy();
};

Closer::State* Closer::State::create() noexcept {
  auto* state = new (std::nothrow) State();
  if (state == nullptr) return nullptr;
  uv_mutex_init(&state->mutex);
  uv_cond_init(&state->work);
  uv_cond_init(&state->progress);
  return state;
}

void Closer::State::destroy() {
  if (has_ended_thread) uv_thread_join(&ended_thread);
  uv_cond_destroy(&progress);
  uv_cond_destroy(&work);
  uv_mutex_destroy(&mutex);
  delete this;
}

// Wakes an idle thread for the next job, or creates a thread if there are fewer than kMaxThreads. Returns false if no
// thread exists. The caller holds the mutex.
bool Closer::State::provide_thread() {
  if (idle > 0) {
    uv_cond_signal(&work);
    return true;
  }
  if (threads == kMaxThreads) return true;
  uv_thread_options_t options = {};
  options.flags = UV_THREAD_HAS_STACK_SIZE;
  options.stack_size = kStackSize;
  uv_thread_t thread;
  auto run = [](void* state) { static_cast<State*>(state)->run(); };
  if (uv_thread_create_ex(&thread, &options, run, this) == 0) threads++;
  return threads > 0;
}

// The caller holds the mutex.
bool Closer::State::push(int fd, How how, uint64_t* id) noexcept {
  try {
    jobs.push_back({fd, how, ++last_id});
  } catch (const std::bad_alloc&) {
    return false;
  }
  *id = last_id;
  if (provide_thread()) return true;
  jobs.pop_back();
  return false;
}

void Closer::State::run() {
  uv_mutex_lock(&mutex);
  for (;;) {
    bool timed_out = false;
    while (jobs.empty() && !ending && !timed_out) {
      idle++;
      timed_out = uv_cond_timedwait(&work, &mutex, kIdleNs) != 0;
      idle--;
    }
    if (jobs.empty()) break;
    const Job job = jobs.back();
    jobs.pop_back();
    // This close may block, so another thread must take the next job.
    if (!jobs.empty()) provide_thread();
    uv_mutex_unlock(&mutex);
    close_now(job);
    uv_mutex_lock(&mutex);
    if (awaited == job.id) awaited = 0;
    uv_cond_broadcast(&progress);
  }
  // A thread that ends joins the thread that ended before it. So at most one ended thread remains to be joined.
  uv_thread_t before = ended_thread;
  const bool has_before = has_ended_thread;
  ended_thread = uv_thread_self();
  has_ended_thread = true;
  const bool last = --threads == 0 && abandoned;
  if (last) has_ended_thread = false;  // a thread cannot join itself
  uv_cond_broadcast(&progress);
  uv_mutex_unlock(&mutex);
  if (has_before) uv_thread_join(&before);
  if (last) destroy();
}

void Closer::close(int fd, How how) noexcept {
  if (state_ == nullptr) state_ = State::create();
  bool pushed = false;
  if (state_ != nullptr) {
    uint64_t id;
    uv_mutex_lock(&state_->mutex);
    pushed = state_->push(fd, how, &id);
    uv_mutex_unlock(&state_->mutex);
  }
  if (!pushed) close_now({fd, how, 0});
}

bool Closer::close_and_wait(int fd, How how) noexcept {
  if (state_ == nullptr) state_ = State::create();
  if (state_ == nullptr) {
    close_now({fd, how, 0});
    return true;
  }
  uv_mutex_lock(&state_->mutex);
  const bool pushed = state_->push(fd, how, &state_->awaited);
  const uint64_t until = uv_hrtime() + kMaxWaitMs * kNsPerMs;
  for (uint64_t now = uv_hrtime(); pushed && state_->awaited != 0 && now < until; now = uv_hrtime()) {
    uv_cond_timedwait(&state_->progress, &state_->mutex, until - now);
  }
  const bool done = state_->awaited == 0;
  if (!done) may_wait_from_ = uv_hrtime() + kNoWaitMs * kNsPerMs;
  state_->awaited = 0;
  uv_mutex_unlock(&state_->mutex);
  if (pushed) return done;
  close_now({fd, how, 0});
  return true;
}

bool Closer::may_wait() const noexcept { return uv_hrtime() >= may_wait_from_; }

void Closer::end() noexcept {
  State* state = state_;
  if (state == nullptr) return;
  state_ = nullptr;
  uv_mutex_lock(&state->mutex);
  state->ending = true;
  uv_cond_broadcast(&state->work);
  const uint64_t until = uv_hrtime() + kMaxWaitMs * kNsPerMs;
  for (uint64_t now = uv_hrtime(); state->threads > 0 && now < until; now = uv_hrtime()) {
    uv_cond_timedwait(&state->progress, &state->mutex, until - now);
  }
  state->abandoned = true;
  const bool last = state->threads == 0;
  uv_mutex_unlock(&state->mutex);
  if (last) state->destroy();
}
