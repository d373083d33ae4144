// A listening socket on a libuv loop: requests go in, connections come out, first asked first served.
//
// Nothing is accepted while no request is outstanding. Everything it has to say is said from the event loop, never
// from inside a call made to it. It knows nothing of JavaScript.
#pragma once

#include <uv.h>

#include <cstddef>
#include <cstdint>

#include "fd_origin.h"
#include "request_queue.h"
#include "sockaddr.h"

class Listener {
 public:
  using Ref = RequestQueue::Ref;

  // The end of one request, in the form in which JavaScript reads it (src/binding.ts knows the offsets).
  struct Completion {
    double ref;
    int32_t result;           // the accepted fd, or a negative errno; -ETIMEDOUT when the request ran out
    uint32_t address_length;  // of the peer's address
    sockaddrs::Storage address;
  };

  static_assert(sizeof(Completion) == 128, "as src/binding.ts has it");

  // The most completions that one entry into JavaScript carries, and so the bound of Options::max_batch.
  static constexpr size_t kMaxBatch = 256;

  // An accept failed for want of fds or memory. No request is lost by it.
  struct Capacity {
    int error = 0;       // a negative errno; 0: there is nothing to report
    uint32_t delay = 0;  // ms until polling goes on; 0 when it never stopped, because clients are reset instead
  };

  struct Options {
    size_t max_batch;
    // At the fd limit, accept with a spare fd and reset, so that clients fail at once, instead of letting them wait.
    bool reset_at_limit;
    // Of the listening socket. Accepted sockets inherit SO_LINGER from it.
    Origin origin = Origin::kOwn;
  };

  struct Stats {
    uint64_t accepted, retried, capacity_pauses, reset, timed_out, cancelled, rejected;
  };

  // Whoever runs listeners on this loop.
  class Host {
   public:
    // Room for kMaxBatch completions; null when nothing can be delivered, because the environment is ending.
    virtual Completion* completions() = 0;
    // Takes an accepted fd, unless it returns false.
    virtual bool own(int fd, Origin origin) = 0;
    // Closes an fd of the listener. It waits for that only for a moment; false: the fd is not closed yet.
    virtual bool close(int fd, bool reset) = 0;
    // The first `count` completions are filled. May close the listener.
    virtual void deliver(Listener* listener, size_t count, Capacity capacity) = 0;
    // Whether the listener is in use, at each change: a request is outstanding, or it is held.
    virtual void hold(Listener* listener, bool in_use) = 0;
    // The last word: the listener is deleted when this returns.
    virtual void closed(Listener* listener) = 0;

   protected:
    ~Host() = default;
  };

  // Takes `fd`, a listening socket, when it returns 0. A negative errno leaves the fd with the caller.
  static int create(uv_loop_t* loop, int fd, Options options, Host* host, Listener** result);

  // `timeout` is in ms from now: negative for none, 0 for only a client that waits already.
  Ref ask(int64_t timeout);

  // True when the request was outstanding: no completion will come for it.
  bool cancel(Ref ref);

  // Stops, and closes the fd before it returns. What is outstanding gets no completion. Deletes itself later.
  void close();

  // Like close, but gives the fd instead of closing it.
  int detach();

  // Whether a listener in use keeps the loop alive; it does unless told otherwise.
  void keep_alive(bool on);

  // A held listener is in use without a request, as a listening server is while it accepts nothing.
  void hold(bool on);

  int fd() const { return fd_; }
  const RequestQueue& requests() const { return requests_; }
  const Stats& stats() const { return stats_; }

  void* data = nullptr;

 private:
  struct Batch {
    size_t count = 0;
    int error = 0;      // fatal: no request can succeed any more
    bool more = false;  // a client may wait that this turn did not get to
    Capacity capacity;
  };

  Listener(int fd, Options options, Host* host) : fd_(fd), options_(options), host_(host) {}
  ~Listener() = default;

  void on_readable();
  void on_timer();
  void turn();
  Batch accept_batch(Completion* slots);
  Capacity at_capacity(int error);
  bool reset_waiting();
  void update();
  void arm();
  void verify();
  void verify_soon();
  void disarm();
  void schedule();
  void apply_keep_alive();
  void stop();

  int fd_;
  Options options_;
  Host* host_;
  uv_poll_t poll_;
  uv_timer_t timer_;
  uv_prepare_t prepare_;
  int open_handles_ = 0;
  RequestQueue requests_;
  Stats stats_ = {};
  uint64_t timer_at_ = RequestQueue::kNoDeadline;
  uint64_t resume_at_ = 0;  // the end of the capacity pause; 0 when there is none
  uint32_t delay_ = 0;      // the length of the last capacity pause; 0 once an accept succeeded
  int spare_ = -1;          // for reset_at_limit
  bool at_limit_ = false;   // the limit was reported and no accept has succeeded since
  int defect_ = 0;          // why the fd cannot be polled, a negative errno
  bool armed_ = false;
  bool in_timer_ = false;
  bool held_ = false;
  bool in_use_ = false;
  bool keep_alive_ = true;
  bool closing_ = false;
};
