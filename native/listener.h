// A listening socket on a libuv loop. Callers request connections, and the listener completes the requests in first-in,
// first-out order.
//
// The listener accepts nothing while no request is outstanding. It reports results only from the event loop, never from
// inside a call to one of its methods. The class does not depend on JavaScript.
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

  // The result of one request, in the layout that JavaScript reads (src/core/binding.ts contains the offsets).
  struct Completion {
    double ref;
    int32_t result;           // the accepted fd, or a negative errno; -ETIMEDOUT when the request timed out
    uint32_t address_length;  // the length of `address`; set only if `result` is an fd
    sockaddrs::Storage address;
  };

  static_assert(sizeof(Completion) == 128, "must be equal to STRIDE in src/core/binding.ts");

  // The maximum number of completions in one call into JavaScript, and the upper bound of Options::max_batch.
  static constexpr size_t kMaxBatch = 256;

  // Reports that accept4(2) failed for lack of fds or memory, or kMaxBatch times in a row. The failure itself completes
  // no request.
  struct Capacity {
    int error = 0;       // a negative errno, or 0 if there is nothing to report
    uint32_t delay = 0;  // the pause in ms, or 0 if the listener resets connections instead of pausing
  };

  struct Options {
    size_t max_batch;
    // At the fd limit, use a spare fd to accept and reset connections, so that clients fail at once instead of waiting.
    bool reset_at_limit;
    // The origin of the listening socket. Accepted sockets inherit SO_LINGER from it.
    Origin origin = Origin::kOwn;
  };

  struct Stats {
    uint64_t accepted, retried, capacity_pauses, reset, timed_out, cancelled, rejected;
  };

  // The owner of the listeners on a loop.
  class Host {
   public:
    // Returns room for kMaxBatch completions. Returns null if nothing can be delivered, for example because the
    // environment is ending.
    virtual Completion* completions() = 0;
    // Takes ownership of an accepted fd, unless it returns false.
    virtual bool own(int fd, Origin origin) = 0;
    // Closes the listening fd or an accepted fd, and waits a short time for the close. Returns false if the fd is still
    // open after that.
    virtual bool close(int fd, bool reset) = 0;
    // Called when the event loop has an event for a listener. Adds the requests that are not yet added, if any.
    virtual void collect() = 0;
    // Delivers the first `count` completions. May close the listener.
    virtual void deliver(Listener* listener, size_t count, Capacity capacity) = 0;
    // Called when the listener starts or stops being in use. A listener is in use while a request is outstanding, or
    // while hold() keeps it in use.
    virtual void hold(Listener* listener, bool in_use) = 0;
    // The last call for a listener. The listener deletes itself when this call returns.
    virtual void closed(Listener* listener) = 0;

   protected:
    ~Host() = default;
  };

  // Takes ownership of `fd`, a listening socket, and returns 0. On failure, returns a negative errno, and the caller
  // still owns the fd.
  static int create(uv_loop_t* loop, int fd, Options options, Host* host, Listener** result);

  // Adds a request and returns its ref. `timeout` is in ms from now; a negative timeout means no deadline. A request
  // with a timeout of 0 gets only a connection that is already in the accept queue.
  Ref ask(int64_t timeout);

  // Returns the number of requests without a timeout that add() can add, 0 if memory runs out. It stays valid until
  // the next call of ask(), add() or reserve().
  size_t reserve();

  // Adds `count` requests without a timeout, with consecutive refs. `count` is at most what reserve() has returned.
  void add(size_t count);

  // Returns true if the request was outstanding. A cancelled request gets no completion.
  bool cancel(Ref ref);

  // Stops polling, then closes the fd with Host::close(). Outstanding requests get no completion. The listener deletes
  // itself when libuv has closed its handles.
  void close();

  // Like close(), but transfers the fd to the caller instead of closing it. Returns -1 if the listener is already
  // closed.
  int detach();

  // Sets whether the listener keeps the loop alive while it is in use. By default, it does.
  void keep_alive(bool on);

  // Sets whether the listener is held. A held listener is in use even without a request. It resembles a server that
  // listens but does not accept.
  void hold(bool on);

  int fd() const { return fd_; }
  const RequestQueue& requests() const { return requests_; }
  const Stats& stats() const { return stats_; }

  void* data = nullptr;
  int64_t id = 0;  // unique within the host and never reused

 private:
  struct Batch {
    size_t count = 0;
    int error = 0;         // a fatal error: no later request can succeed
    bool more = false;     // max_batch was reached, so the accept queue may not be empty
    bool starved = false;  // the requests were used up, so the accept queue may not be empty
    Capacity capacity;
  };

  Listener(int fd, Options options, Host* host) : fd_(fd), options_(options), host_(host) {}
  ~Listener() = default;

  void on_readable();
  void on_timer();
  void complete_requests();
  Batch accept_batch(Completion* slots, size_t room);
  void check_nonblocking();
  bool deliver(Batch batch, Completion* slots);
  Capacity at_capacity(int error);
  bool reset_queued();
  void update();
  void arm();
  void check_fd();
  void check_fd_before_poll();
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
  uint64_t resume_at_ = 0;    // the end of the capacity pause, or 0 if there is none
  uint32_t delay_ = 0;        // the length of the last capacity pause, or 0 if an accept has succeeded since
  int spare_ = -1;            // the spare fd of reset_at_limit, or a negative number if there is none
  bool at_limit_ = false;     // the fd limit was reported, and no accept has succeeded since
  int poll_error_ = 0;        // the error that prevents polling, as a negative errno, or 0
  uint64_t checked_at_ = 0;   // when O_NONBLOCK of the fd was last checked, on the clock of uv_hrtime()
  uint64_t woken_at_ = 0;     // when the listener was last readable, on the clock of uv_hrtime(), or 0
  uint64_t polled_at_ = 0;    // when the loop last polled after a new request
  bool expect_more_ = false;  // connections are likely to be queued when the requests of a turn are used up
  bool armed_ = false;
  bool in_timer_ = false;
  bool held_ = false;
  bool in_use_ = false;
  bool keep_alive_ = true;
  bool closing_ = false;
};
