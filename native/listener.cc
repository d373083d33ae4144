#include "listener.h"

#include <errno.h>
#include <poll.h>

#include <algorithm>
#include <new>

#include "sys.h"

namespace {

// A capacity pause doubles from the first to the last of these until an accept succeeds. The first is long enough
// that a process at its limit does not spin, the last short enough that a client who waited through an outage gets
// its turn within a second of its end.
constexpr uint32_t kFirstPauseMs = 10;
constexpr uint32_t kLastPauseMs = 1000;

// The clock of uv_now(), but not cached: a request made after long work must not lose that time. Deadlines round up
// and the present rounds down, so that nothing runs out early.
constexpr uint64_t kNsPerMs = 1000000;
uint64_t now_ms() { return uv_hrtime() / kNsPerMs; }
uint64_t deadline_in(int64_t timeout) {
  return (uv_hrtime() + kNsPerMs - 1) / kNsPerMs + static_cast<uint64_t>(timeout);
}

enum class Kind { kNobodyWaits, kRetry, kCapacity, kFatal };

// The errors of accept(2), in the sets that decide what becomes of the requests.
Kind kind_of(int error) {
  switch (-error) {
    case EAGAIN:
      return Kind::kNobodyWaits;
    case EINTR:
    // The client, or what lay between, is at fault: a reset in the backlog, a firewall, a network error that Linux
    // passes on from the new socket. The next client may be well.
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
      return Kind::kRetry;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSR:
      return Kind::kCapacity;
    default:
      return Kind::kFatal;
  }
}

// Of an accepted socket. Any process that may connect to a unix socket can send fds of any kind to it.
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
  int error = uv_poll_init(loop, &listener->poll_, fd);  // makes it non-blocking, too
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
  verify_soon();
  return ref;
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

// libuv's order: close the handles, which stops the poll, and only then may the fd be closed or used elsewhere.
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
  if (requests_.empty()) {
    disarm();
  } else {
    turn();
  }
}

void Listener::on_timer() {
  in_timer_ = true;
  timer_at_ = RequestQueue::kNoDeadline;
  uint64_t now = now_ms();
  if (resume_at_ <= now) resume_at_ = 0;
  if (defect_ != 0 || requests_.next_deadline() <= now) {
    turn();
  } else {
    update();  // ends a pause by polling: without a client there is no need to find out whether the limit still holds
  }
  in_timer_ = false;
}

// Accepts what waits, then lets run out what has run out, so that no request times out while a client is there.
void Listener::turn() {
  Completion* slots = host_->completions();
  if (slots == nullptr) return disarm();
  Batch batch = accept_batch(slots);
  const Ref newest = requests_.last_ref();  // what handlers ask for meanwhile is not of this turn
  const uint64_t now = now_ms();
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
    if (batch.count == 0 && batch.capacity.error == 0) break;
    bool full = batch.count == kMaxBatch;
    host_->deliver(this, batch.count, batch.capacity);
    if (closing_) return;
    batch.count = 0;
    batch.capacity = {};
    if (!full) break;
    slots = host_->completions();
    if (slots == nullptr) return disarm();
  }
  update();
}

Listener::Batch Listener::accept_batch(Completion* slots) {
  Batch batch;
  batch.error = defect_;
  defect_ = 0;
  if (batch.error != 0) return batch;
  // A pause does not know whether there are fds again. Who runs out in it has no later attempt.
  if (resume_at_ != 0 && requests_.next_deadline() > now_ms()) return batch;
  // Linux takes an fd before it looks for a client: without one, a process at its limit would be told of the limit.
  if (in_timer_ && sys::poll(fd_, POLLIN) == 0) return batch;
  // Whoever shares the socket can have made it block: libuv does so to what becomes a child's fd 0 to 2, systemd to all
  // that it passes on. The accept that finds nobody would then be the last thing this thread does.
  if (!requests_.empty()) sys::set_nonblock(fd_);
  size_t retries = 0;
  while (!requests_.empty()) {
    if (batch.count == options_.max_batch) {
      batch.more = true;
      break;
    }
    Completion& slot = slots[batch.count];
    slot.address_length = sizeof slot.address;
    int fd = sys::accept4(fd_, &slot.address.any, &slot.address_length);
    if (fd >= 0 && !host_->own(fd, origin_of(slot, options_.origin))) {
      host_->close(fd, true);  // or its client would take the end for an answer
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
      if (options_.reset_at_limit && spare_ < 0) spare_ = sys::open_null();
      continue;
    }
    Kind kind = kind_of(fd);
    if (kind == Kind::kRetry) {
      stats_.retried++;
      // Each such error uses up a client. One that comes without end does not (a seccomp filter says EPERM, say):
      // pause, rather than spin.
      if (++retries < kMaxBatch) continue;
      kind = Kind::kCapacity;
    }
    // Nothing new in a pause: it goes on as it was.
    if (kind == Kind::kCapacity && resume_at_ == 0) batch.capacity = at_capacity(fd);
    if (kind == Kind::kFatal) {
      batch.error = fd;
      disarm();
    }
    break;
  }
  return batch;
}

Listener::Capacity Listener::at_capacity(int error) {
  if (options_.reset_at_limit && (error == -EMFILE || error == -ENFILE) && reset_waiting()) {
    if (at_limit_) return {};
    at_limit_ = true;
    stats_.capacity_pauses++;
    return {error, 0};
  }
  disarm();
  delay_ = std::clamp(delay_ * 2, kFirstPauseMs, kLastPauseMs);
  resume_at_ = now_ms() + delay_;
  stats_.capacity_pauses++;
  return {error, delay_};
}

// False when the spare fd is gone, to another thread for instance: then waiting is all that is left.
bool Listener::reset_waiting() {
  for (size_t i = 0; i < options_.max_batch && spare_ >= 0; i++) {
    sys::close(spare_);
    int fd = sys::accept4(fd_, nullptr, nullptr);
    bool closed = fd >= 0 && host_->close(fd, true);
    if (fd >= 0) stats_.reset++;
    spare_ = sys::open_null();
    if (fd >= 0 && !closed) return false;
    if (fd < 0) return spare_ >= 0 && kind_of(fd) == Kind::kNobodyWaits;
  }
  return spare_ >= 0;
}

// Brings the handles in line with the requests.
void Listener::update() {
  const bool in_use = held_ || !requests_.empty();
  if (in_use != in_use_) {
    in_use_ = in_use;
    apply_keep_alive();
    host_->hold(this, in_use_);
  }
  // Without a request the poll stays armed: the next request is often near, and disarming costs two system calls.
  if (!requests_.empty()) arm();
  if (in_use_) schedule();
}

void Listener::arm() {
  if (armed_ || resume_at_ != 0 || defect_ != 0) return;
  defect_ = uv_poll_start(&poll_, UV_READABLE, [](uv_poll_t* handle, int status, int) {
    Listener* listener = listener_of(handle);
    // libuv has stopped the poll already; accept4 says what is wrong.
    if (status < 0) listener->armed_ = false;
    listener->on_readable();
  });
  armed_ = defect_ == 0;
  verify_soon();
}

// libuv aborts the process when epoll refuses an fd, and epoll says nothing of one that is closed later. So one that
// somebody closed behind our back is found here: in the last moment before the loop polls, once for all requests of
// the turn, because it may be closed in the same turn as it is asked.
void Listener::verify() {
  if (!armed_) return;
  int listening = 0;
  socklen_t length = sizeof listening;
  int error = sys::getsockopt(fd_, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
  if (error == 0 && listening) return;
  // A seccomp filter that refuses the call says nothing of the fd.
  if (error != 0 && error != -EBADF && error != -ENOTSOCK) return;
  disarm();
  defect_ = error == 0 ? -EINVAL : error;
  schedule();
}

void Listener::verify_soon() {
  if (closing_ || uv_is_active(reinterpret_cast<uv_handle_t*>(&prepare_))) return;
  uv_prepare_start(&prepare_, [](uv_prepare_t* handle) {
    uv_prepare_stop(handle);
    listener_of(handle)->verify();
  });
}

void Listener::disarm() {
  if (armed_) uv_poll_stop(&poll_);
  armed_ = false;
}

void Listener::schedule() {
  uint64_t at = requests_.next_deadline();
  if (resume_at_ != 0) at = std::min(at, resume_at_);
  if (defect_ != 0) at = 0;
  // Only an active handle keeps the loop alive, so a held listener without a deadline waits for a time that never
  // comes.
  const bool idle = held_ && !uv_is_active(reinterpret_cast<uv_handle_t*>(&timer_));
  // A timer that fires before its time costs less than one that is set again for each request.
  if (at >= timer_at_ && !idle) return;
  timer_at_ = at;
  uint64_t now = uv_now(timer_.loop);
  // A timer set to 0 by a timer can fire before the loop polls again, and so keep it from polling at all.
  uint64_t soonest = in_timer_ ? 1 : 0;
  uint64_t timeout = at > now ? std::max(at - now, soonest) : soonest;
  uv_timer_start(
      &timer_, [](uv_timer_t* handle) { listener_of(handle)->on_timer(); }, timeout, 0);
}
