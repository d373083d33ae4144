#include "listener.h"

#include <errno.h>
#include <poll.h>

#include <algorithm>
#include <new>

#include "sys.h"

namespace {

// When an accept fails because fds or memory ran out, the listener stops polling for a while: a capacity pause. The
// first pause lasts kMinPauseMs. Each further pause is twice as long, up to kMaxPauseMs, until an accept succeeds. The
// minimum keeps a process at its limit from spinning. The maximum bounds the time between the end of the shortage and
// the next accept.
constexpr uint32_t kMinPauseMs = 10;
constexpr uint32_t kMaxPauseMs = 1000;

// These functions use the clock of uv_now(), but not its cached time. With the cached time, a request that follows a
// long computation would time out early. Deadlines are rounded up and the current time is rounded down, so no request
// times out early.
constexpr uint64_t kNsPerMs = 1000000;
uint64_t now_ms() { return uv_hrtime() / kNsPerMs; }
uint64_t deadline_in(int64_t timeout) {
  return (uv_hrtime() + kNsPerMs - 1) / kNsPerMs + static_cast<uint64_t>(timeout);
}

// How long a check of O_NONBLOCK stays valid within a turn of the loop, in ns.
constexpr uint64_t kNonblockingNs = 100000;

enum class ErrorClass { kQueueEmpty, kRetry, kCapacity, kFatal };

// Classifies the errors of accept(2). The class decides what happens to the outstanding requests.
ErrorClass class_of(int error) {
  switch (-error) {
    case EAGAIN:
      return ErrorClass::kQueueEmpty;
    case EINTR:
    // The errors below concern one connection only: it was reset in the accept queue, a firewall rejected it, or Linux
    // reports a network error that was pending on the new socket. The next connection may succeed.
    case ECONNABORTED:
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
    case ETIMEDOUT:
    case ESOCKTNOSUPPORT:
    case EPROTONOSUPPORT:
      return ErrorClass::kRetry;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSR:
      return ErrorClass::kCapacity;
    default:
      return ErrorClass::kFatal;
  }
}

// Returns the origin of an accepted socket. A unix socket is untrusted, because any process with permission to connect
// can send fds of any kind.
Origin origin_of(const Listener::Completion& slot, Origin listening) {
  if (slot.address.family == AF_UNIX) return Origin::kUntrusted;
  return listening == Origin::kOwn ? Origin::kOwn : Origin::kInherited;
}

Listener* listener_of(const void* handle) {
  return static_cast<Listener*>(static_cast<const uv_handle_t*>(handle)->data);
}

}  // namespace

int Listener::create(uv_loop_t* loop, int fd, Options options, Host* host, Listener** result) {
  auto* listener = new (std::nothrow) Listener(fd, options, host);
  if (listener == nullptr) return -ENOMEM;
  int error = uv_poll_init(loop, &listener->poll_, fd);  // also makes the fd non-blocking
  if (error != 0) {
    delete listener;
    return error;
  }
  uv_timer_init(loop, &listener->timer_);
  uv_prepare_init(loop, &listener->prepare_);
  uv_unref(reinterpret_cast<uv_handle_t*>(&listener->prepare_));
  listener->open_handles_ = 3;
  listener->poll_.data = listener->timer_.data = listener->prepare_.data = listener;
  listener->apply_keep_alive();
  if (options.reset_at_limit) listener->spare_ = sys::open_null();
  *result = listener;
  return 0;
}

Listener::Ref Listener::ask(int64_t timeout) {
  Ref ref = requests_.push(timeout < 0 ? RequestQueue::kNoDeadline : deadline_in(timeout));
  update();
  check_fd_before_poll();
  return ref;
}

size_t Listener::reserve() {
  try {
    return requests_.reserve();
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

void Listener::add(size_t count) {
  for (size_t i = 0; i < count; i++) requests_.push_reserved();
  update();
  check_fd_before_poll();
}

bool Listener::cancel(Ref ref) {
  if (!requests_.remove(ref)) return false;
  stats_.cancelled++;
  update();
  return true;
}

void Listener::close() {
  int fd = detach();
  if (fd >= 0) host_->close(fd, false);
}

int Listener::detach() {
  int fd = fd_;
  stop();
  return fd;
}

void Listener::keep_alive(bool on) {
  keep_alive_ = on;
  apply_keep_alive();
}

void Listener::hold(bool on) {
  held_ = on;
  update();
}

void Listener::apply_keep_alive() {
  auto apply = keep_alive_ && in_use_ ? uv_ref : uv_unref;
  apply(reinterpret_cast<uv_handle_t*>(&poll_));
  apply(reinterpret_cast<uv_handle_t*>(&timer_));
}

// Closes the libuv handles, which stops the poll. The caller may close or transfer the fd only after that, as libuv
// requires. The last close callback deletes the listener.
void Listener::stop() {
  if (closing_) return;
  closing_ = true;
  fd_ = -1;
  stats_.rejected += requests_.size();
  armed_ = false;
  for (auto* handle : {reinterpret_cast<uv_handle_t*>(&poll_), reinterpret_cast<uv_handle_t*>(&timer_),
                       reinterpret_cast<uv_handle_t*>(&prepare_)}) {
    uv_close(handle, [](uv_handle_t* closed) {
      Listener* listener = listener_of(closed);
      if (--listener->open_handles_ > 0) return;
      listener->host_->closed(listener);
      delete listener;
    });
  }
  if (spare_ >= 0) sys::close(spare_);
  if (in_use_) host_->hold(this, false);
}

void Listener::on_readable() {
  host_->collect();
  // If the loop has waited for less time than it had worked before, connections come faster than one per turn.
  const uint64_t now = uv_hrtime();
  if (woken_at_ != 0 && now - polled_at_ < polled_at_ - woken_at_) expect_more_ = true;
  woken_at_ = now;
  if (requests_.empty()) {
    disarm();
  } else {
    complete_requests();
  }
}

void Listener::on_timer() {
  host_->collect();
  in_timer_ = true;
  timer_at_ = RequestQueue::kNoDeadline;
  uint64_t now = now_ms();
  if (resume_at_ <= now) resume_at_ = 0;
  if (poll_error_ != 0 || requests_.next_deadline() <= now) {
    complete_requests();
  } else {
    // If a capacity pause has ended, update() starts the poll again. accept4(2) is not called here, because the
    // shortage matters only when a connection is queued.
    update();
  }
  in_timer_ = false;
}

// Accepts connections and delivers them. If the handlers have made further requests, and further connections are likely
// to be in the accept queue, goes on in this turn of the loop: a turn costs more than an accept.
void Listener::complete_requests() {
  size_t room = options_.max_batch;
  size_t accepted_again = 0;
  checked_at_ = 0;
  for (bool first = true;; first = false) {
    Completion* slots = host_->completions();
    if (slots == nullptr) return disarm();
    Batch batch = accept_batch(slots, room);
    room -= batch.count;
    if (!first) accepted_again += batch.count;
    const bool more_wanted = batch.starved;
    if (!deliver(batch, slots)) return;
    if (!more_wanted || !expect_more_ || room == 0 || requests_.empty()) {
      if (!first) expect_more_ = accepted_again > 0;
      break;
    }
  }
  update();
}

// Delivers a batch, and rejects the requests whose deadline has passed. In this order, no request times out while a
// connection can be accepted for it. Returns false if the listener was closed, or nothing can be delivered any more.
bool Listener::deliver(Batch batch, Completion* slots) {
  // A fatal error rejects the requests that exist now. Requests that are added during deliver() wait for a later event.
  const Ref newest = requests_.last_ref();
  const uint64_t now = requests_.next_deadline() == RequestQueue::kNoDeadline ? 0 : now_ms();
  for (;;) {
    auto fail = [&](Ref ref, int error) {
      slots[batch.count].ref = static_cast<double>(ref);
      slots[batch.count++].result = error;
    };
    while (batch.error != 0 && batch.count < kMaxBatch && !requests_.empty() && requests_.front() <= newest) {
      fail(requests_.pop(), batch.error);
      stats_.rejected++;
    }
    while (batch.error == 0 && !batch.more && batch.count < kMaxBatch) {
      Ref ref = requests_.pop_expired(now);
      if (ref == 0) break;
      fail(ref, -ETIMEDOUT);
      stats_.timed_out++;
    }
    if (batch.count == 0 && batch.capacity.error == 0) return true;
    bool full = batch.count == kMaxBatch;
    host_->deliver(this, batch.count, batch.capacity);
    if (closing_) return false;
    if (!full) return true;
    batch.count = 0;
    batch.capacity = {};
    slots = host_->completions();
    if (slots == nullptr) {
      disarm();
      return false;
    }
  }
}

Listener::Batch Listener::accept_batch(Completion* slots, size_t room) {
  Batch batch;
  batch.error = poll_error_;
  poll_error_ = 0;
  if (batch.error != 0) return batch;
  // During a capacity pause, accept only if a request has reached its deadline. Fds may be available again, and this is
  // the last attempt for that request.
  if (resume_at_ != 0 && requests_.next_deadline() > now_ms()) return batch;
  // In a timer callback, the accept queue may be empty. accept4(2) on Linux allocates an fd before it checks the queue,
  // so a process at its fd limit would get EMFILE even for an empty queue.
  if (in_timer_ && sys::poll(fd_, POLLIN) == 0) return batch;
  if (!requests_.empty()) check_nonblocking();
  size_t retries = 0;
  while (!requests_.empty()) {
    if (batch.count == room) {
      batch.more = true;
      break;
    }
    Completion& slot = slots[batch.count];
    slot.address_length = sizeof slot.address;
    int fd = sys::accept4(fd_, &slot.address.any, &slot.address_length);
    if (fd >= 0 && !host_->own(fd, origin_of(slot, options_.origin))) {
      // Reset the connection, because a client may take an orderly close for a complete response.
      host_->close(fd, true);
      fd = -ENOMEM;
    }
    if (fd >= 0) {
      slot.ref = static_cast<double>(requests_.pop());
      slot.result = fd;
      batch.count++;
      stats_.accepted++;
      delay_ = 0;
      resume_at_ = 0;
      at_limit_ = false;
      retries = 0;
      batch.starved = requests_.empty();
      if (options_.reset_at_limit && spare_ < 0) spare_ = sys::open_null();
      continue;
    }
    ErrorClass error_class = class_of(fd);
    if (error_class == ErrorClass::kRetry) {
      stats_.retried++;
      // Such an error usually removes one connection from the accept queue. An error that removes none can repeat
      // forever, for example EPERM from a seccomp filter. After kMaxBatch errors in a row, pause instead of spinning.
      if (++retries < kMaxBatch) continue;
      error_class = ErrorClass::kCapacity;
    }
    // A pause that is already in progress continues unchanged and is not reported again.
    if (error_class == ErrorClass::kCapacity && resume_at_ == 0) batch.capacity = at_capacity(fd);
    if (error_class == ErrorClass::kFatal) {
      batch.error = fd;
      disarm();
    }
    break;
  }
  return batch;
}

// Another process that shares the socket may have made it blocking. libuv does this to a socket that becomes fd 0, 1 or
// 2 of a child process. systemd does it to every socket that it passes. accept4(2) on an empty queue would then block
// the thread. A turn of the loop begins with a check. Later batches of the turn repeat it only after some time, because
// handlers that start a process take longer than that.
void Listener::check_nonblocking() {
  const uint64_t now = uv_hrtime();
  if (now - checked_at_ < kNonblockingNs) return;
  checked_at_ = now;
  sys::set_nonblock(fd_);
}

Listener::Capacity Listener::at_capacity(int error) {
  if (options_.reset_at_limit && (error == -EMFILE || error == -ENFILE) && reset_queued()) {
    if (at_limit_) return {};
    at_limit_ = true;
    stats_.capacity_pauses++;
    return {error, 0};
  }
  disarm();
  delay_ = std::clamp(delay_ * 2, kMinPauseMs, kMaxPauseMs);
  resume_at_ = now_ms() + delay_;
  stats_.capacity_pauses++;
  return {error, delay_};
}

// Accepts and resets queued connections at the fd limit. Closing the spare fd frees the fd number that accept4(2)
// needs. Returns false if the listener must pause instead, for example because another thread has taken the freed
// number.
bool Listener::reset_queued() {
  for (size_t i = 0; i < options_.max_batch && spare_ >= 0; i++) {
    sys::close(spare_);
    int fd = sys::accept4(fd_, nullptr, nullptr);
    bool closed = fd >= 0 && host_->close(fd, true);
    if (fd >= 0) stats_.reset++;
    spare_ = sys::open_null();
    if (fd >= 0 && !closed) return false;
    if (fd < 0) return spare_ >= 0 && class_of(fd) == ErrorClass::kQueueEmpty;
  }
  return spare_ >= 0;
}

// Brings the poll and timer handles in line with the outstanding requests.
void Listener::update() {
  const bool in_use = held_ || !requests_.empty();
  if (in_use != in_use_) {
    in_use_ = in_use;
    apply_keep_alive();
    host_->hold(this, in_use_);
  }
  // While no request is outstanding, the poll stays armed until its next event. The next request often follows soon,
  // and disarming and arming again costs two system calls.
  if (!requests_.empty()) arm();
  if (in_use_) schedule();
}

void Listener::arm() {
  if (armed_ || resume_at_ != 0 || poll_error_ != 0) return;
  poll_error_ = uv_poll_start(&poll_, UV_READABLE, [](uv_poll_t* handle, int status, int) {
    Listener* listener = listener_of(handle);
    // libuv has already stopped the poll. The next accept4(2) returns the cause.
    if (status < 0) listener->armed_ = false;
    listener->on_readable();
  });
  armed_ = poll_error_ == 0;
  check_fd_before_poll();
}

// Detects that other code in the process has closed the fd. libuv aborts the process if epoll_ctl(2) rejects the fd. If
// the fd is closed later, epoll reports nothing.
//
// The check runs in a prepare handle, immediately before the loop polls. An earlier check is not enough, because the fd
// may be closed after it in the same turn of the loop. One check covers all requests of a turn.
void Listener::check_fd() {
  if (!armed_) return;
  int listening = 0;
  socklen_t length = sizeof listening;
  int error = sys::getsockopt(fd_, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
  if (error == 0 && listening) return;
  // Any other error says nothing about the fd: a seccomp filter may deny the call.
  if (error != 0 && error != -EBADF && error != -ENOTSOCK) return;
  disarm();
  poll_error_ = error == 0 ? -EINVAL : error;
  schedule();
}

void Listener::check_fd_before_poll() {
  if (closing_ || uv_is_active(reinterpret_cast<uv_handle_t*>(&prepare_))) return;
  uv_prepare_start(&prepare_, [](uv_prepare_t* handle) {
    uv_prepare_stop(handle);
    Listener* listener = listener_of(handle);
    listener->check_fd();
    listener->polled_at_ = uv_hrtime();
  });
}

void Listener::disarm() {
  if (armed_) uv_poll_stop(&poll_);
  armed_ = false;
}

void Listener::schedule() {
  uint64_t at = requests_.next_deadline();
  if (resume_at_ != 0) at = std::min(at, resume_at_);
  if (poll_error_ != 0) at = 0;
  // Only an active handle keeps the loop alive. A held listener may have no active poll and no deadline. Its timer is
  // then started with a timeout that never expires.
  const bool start_idle_timer = held_ && !uv_is_active(reinterpret_cast<uv_handle_t*>(&timer_));
  // An earlier timer stays as it is: one wake-up too early costs less than restarting the timer for each request.
  if (at >= timer_at_ && !start_idle_timer) return;
  timer_at_ = at;
  uint64_t now = uv_now(timer_.loop);
  // A timer callback must not start its timer with a timeout of 0. libuv can run such a timer again before it polls, so
  // the loop might never poll.
  uint64_t soonest = in_timer_ ? 1 : 0;
  uint64_t timeout = at > now ? std::max(at - now, soonest) : soonest;
  uv_timer_start(
      &timer_, [](uv_timer_t* handle) { listener_of(handle)->on_timer(); }, timeout, 0);
}
